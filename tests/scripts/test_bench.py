"""The benchmark measures what it says, tells bad input, and writes JSON beside its table."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scripts.bench import __main__ as bench
from scripts.bench import updates
from scripts.bench.__main__ import BenchConfig, main, sections, size_of
from scripts.bench.environments import single_tasks, worker_counts
from scripts.bench.figures import Figure, compare, take_turns
from scripts.common.usage import UsageError
from tests.helpers import cuda


def test_ways_take_turns_and_are_warmed_up():
    calls = []
    seconds = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_ratios_are_taken_within_a_round():
    # a machine that is ten times slower in the second round does not matter
    seconds = {"one": np.array([1.0, 10.0, 1.0]), "two": np.array([2.0, 20.0, 2.0])}
    assert compare(seconds, "two", "one") == 2.0


def test_each_part_is_shown_when_it_is_done(monkeypatch, capsys):
    shown = []

    def part(name):
        def measured():
            shown.append(capsys.readouterr().out)
            return [Figure(name, 1.0, "s")]

        return [measured]

    monkeypatch.setattr(bench, "sections", lambda config: {name: part(f"a {name}") for name in bench.PARTS})
    assert main(["--parts", "memory,env,train"]) == 0
    assert ["a env" in text for text in shown] == [False, True, False]
    assert ["a train" in text for text in shown] == [False, False, True]
    assert "a memory" in capsys.readouterr().out


def test_updates_as_table_and_json(tmp_path, capsys):
    path = tmp_path / "bench.json"
    flags = "--parts update --width 8 --depth 1 --batch-size 2 --rounds 1 --threads 1 --precisions float32"
    assert main([*flags.split(), "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert [row["what"] for row in found["figures"]["update"]] == [
        f"update, {tasks} tasks, {name}, float32" for tasks in (10, 50) for name in ("mean", "pcgrad")
    ]
    assert all(row["value"] > 0 for row in found["figures"]["update"])
    assert found["settings"]["width"] == 8
    assert found["machine"]["torch"]
    shown = capsys.readouterr().out
    assert "update, 50 tasks, pcgrad" in shown
    assert "mean's time" in shown


def test_compiled_updates_take_turns_with_eager_ones(monkeypatch):
    calls = []

    class Agents:
        device = "cpu"

        def make_agent(self, aggregator, precision, compile=False):
            how = f"{aggregator} {precision} {compile}"
            return SimpleNamespace(batch_size=1, train=lambda *_: calls.append(how))

    found = updates.updates(Agents(), ("mean", "pcgrad"), ("float32",), compile=True, rounds=1)
    assert calls[4:] == calls[:4] == [f"{name} float32 {how}" for how in (False, True) for name in ("mean", "pcgrad")]
    assert [figure.unit for figure in found] == ["ms", "ms", "ms", "times", "ms", "times"]
    assert found[4].what.endswith("pcgrad, float32, compiled")


def test_an_update_of_a_preset(monkeypatch):
    monkeypatch.setattr("scripts.runs.forecast.TIMES", 1)
    agent = updates.PresetSize("mt10-quick").make_agent("pcgrad", "float32")
    assert (agent.num_tasks, agent.batch_size, agent._n_updates) == (10, 32, 1)
    assert agent.captured is None


def test_a_trace_of_updates(tmp_path, capsys):
    path = tmp_path / "trace.json"
    flags = "--width 8 --depth 1 --batch-size 2 --threads 1 --precisions float32 --aggregators mean,pcgrad"
    assert main([*flags.split(), "--trace", str(path)]) == 0
    names = [event.get("name") for event in json.loads(path.read_text())["traceEvents"]]
    assert [name for name in names if str(name).startswith("update ")].count("update 4") == 1
    assert "mtrl_surgery::project" in names  # PCGrad's projections
    assert "5 updates, 10 tasks, pcgrad, float32" in capsys.readouterr().out


def test_workers_are_counted_up_to_cores_and_tasks(monkeypatch):
    for cores, expected in ((1, (0, 1)), (2, (0, 1, 2)), (6, (0, 1, 2, 4, 6)), (64, (0, 1, 2, 4, 8, 10))):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert worker_counts("MT10") == expected


def test_what_is_measured_on_cuda():
    """The parts, without running them: as many rounds as asked for, updates captured, the most workers in training."""
    config = BenchConfig(device="cuda", workers=(0, 4, 8), preset="mt10")
    assert size_of(config, 10).capture is True
    work = sections(config)
    assert [call.args[-1] for call in work["update"]] == [200, 200]
    assert [call.args[-1] for call in sections(BenchConfig(rounds=7))["update"]] == [7, 7]
    assert [(str(call.args[0]), *call.args[1:]) for call in work["preset"]] == [
        ("mt10", ("mean", "pcgrad"), ("float32", "bfloat16"), False, 200)
    ]
    assert work["train"][0].keywords["workers"] == 8
    assert work["train"][0].args == ("mt10", ("float32", "bfloat16"), 2000)
    assert [call.args[1:] for call in work["env"]] == [(15,), (15, (0, 4, 8), 1)]
    assert sections(BenchConfig(workers=(40,), envs_per_task=4))["env"][1].args[2:] == ((40,), 4)


@cuda
def test_seconds_on_cuda_are_the_devices():
    rows = torch.randn(4000, 4000, device="cuda")
    seconds = take_turns({"one": lambda: rows @ rows, "ten": lambda: [rows @ rows for _ in range(10)]}, 5, "cuda")
    assert compare(seconds, "ten", "one") > 5


def test_steps_of_a_suite(monkeypatch):
    monkeypatch.setattr("scripts.bench.environments.task_names", lambda suite: ("reach-v3",))
    figures = single_tasks("custom", rounds=27)  # more steps than an episode has
    assert [figure.what for figure in figures[:3]] == ["step, plain metaworld", "step, ours", "step, MuJoCo alone"]
    assert [figure.what for figure in figures if figure.ratio == 1.0] == [
        f"{w}, plain metaworld" for w in ("step", "reset")
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--parts envs", "unknown part 'envs': did you mean env"),
        ("--aggregators mean,pcgard", "unknown aggregator 'pcgard': did you mean pcgrad"),
        ("--precisions float16", "unknown precision 'float16'"),
        ("--rounds 0", "--rounds: expected at least 1, found 0"),
        ("--workers 0,41", "--workers: expected 0 to 40, one per environment; found 41"),
        ("--parts env --workers 21 --envs-per-task 2", "--workers: expected 0 to 20, one per environment; found 21"),
        ("--compile --device cuda", "expected (the CPU|a CUDA device)"),
        ("--capture true", "--capture true: expected a CUDA device"),
        ("--precisions float32,tf32", "expected a CUDA device for precision tf32; found cpu"),
        ("--trace /no/such/folder/x.json", "there is no folder /no/such/folder"),
        ("--json /no/such/folder/x.json", "there is no folder /no/such/folder"),
    ],
)
def test_bad_input(flags, message):
    with pytest.raises(UsageError, match=message):
        main(flags.split())
