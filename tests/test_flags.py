"""What the flags for CUDA mean, and what they get on a machine without it."""

import json
from dataclasses import replace

import pytest

import envs.toy
from scripts import evaluate, train
from scripts.common.usage import UsageError
from scripts.setup.build import LONG, make_agent, resolve, resolve_capture, resolve_compile
from scripts.setup.config import TrainConfig
from scripts.setup.parse import Resume, parse_train
from scripts.setup.presets import PRESETS
from tests.helpers import cuda, exit_code

TOY = PRESETS["toy"].config


@pytest.mark.parametrize(("words", "meaning"), [("", "auto"), ("auto", "auto"), ("true", True), ("False", False)])
def test_capture(words, meaning):
    config = parse_train(["toy", *(["--capture", words] if words else [])])
    assert config.capture == meaning
    assert type(config.capture) is type(meaning)  # 1 is not True
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("words", ["0", "4", "-3", "maybe", "1.5", ""])
def test_a_capture_that_means_nothing(words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert exit_code(monkeypatch, train.main, ["toy", f"--capture={words}"]) == 2
    assert not list(tmp_path.iterdir())


def test_auto_is_yes_on_cuda_alone():
    assert (resolve_capture("auto", "cuda"), resolve_capture("auto", "cpu")) == (True, False)
    assert [resolve_capture(False, device) for device in ("cuda", "cpu")] == [False, False]


@pytest.mark.parametrize("device", LONG)
def test_long_runs_are_compiled_where_the_compilers_are(monkeypatch, device):
    there = {"g++", "triton"}
    monkeypatch.setattr("scripts.setup.build.find_compiler", lambda: "g++" if "g++" in there else None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in there or None)
    config = replace(TOY, compile="auto", train_freq=1, gradient_steps=1, steps_per_task=LONG[device])
    assert resolve_compile(config, device)
    assert not resolve_compile(replace(config, steps_per_task=LONG[device] - 1), device)
    there -= {"triton"}
    assert resolve_compile(config, device) == (device == "cpu")
    there ^= {"triton", "g++"}
    with pytest.warns(RuntimeWarning, match="not compiled, so slower: expected a C\\+\\+ compiler"):
        assert not resolve_compile(config, device)


def test_configs_of_version_0_1_are_read_or_refused_by_name():
    """It could capture several updates in one graph, and it had the return scale ars."""
    values = json.loads(json.dumps(TOY.to_json()))
    assert TrainConfig.from_json({**values, "capture": 4}).capture is True
    with pytest.raises(ValueError, match=r"'ars' is gone since version 0\.2.*Train again with"):
        TrainConfig.from_json({**values, "return_scale": "ars"})


def test_capture_on_a_cpu_is_refused_before_anything_is_written(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert exit_code(monkeypatch, train.main, ["toy", "--device", "cpu", "--capture", "true"]) == 2
    assert (
        "--capture true: expected a CUDA device, as graphs are CUDA's; found cpu. Use auto." in capsys.readouterr().err
    )
    assert not list((tmp_path / "runs").glob("*/*"))


@pytest.mark.parametrize(
    ("saved", "asked", "expected"),
    [
        ({"device": "cuda", "capture": 4}, {}, True),
        ({"device": "cuda", "capture": True}, {"device": "cuda"}, True),
        ({"device": "cuda", "capture": True}, {"device": "cpu"}, "auto"),
        ({"device": "cuda", "capture": True}, {"capture": False}, False),
        ({"device": "cpu", "capture": False}, {"device": "cuda"}, "auto"),
        ({"device": "cpu", "capture": False}, {"device": "cuda", "capture": True}, True),
    ],
)
def test_resume_captures_as_before_unless_the_device_is_another(saved, asked, expected):
    config = TrainConfig.from_json({**TOY.to_json(), **saved})
    found = Resume("run", asked).apply(config).capture
    assert (found, type(found)) == (expected, type(expected))


def test_a_run_that_was_captured_is_evaluated_on_a_cpu(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("STEPS", "10")
    assert train.main(["toy", "--run-dir", str(tmp_path / "run"), "--no-progress", "--device", "cpu"]) == 0
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "device": "cuda", "capture": True}))
    assert evaluate.main([str(tmp_path / "run"), "--episodes", "1"]) == 0


def test_tf32_on_a_cpu_is_refused():
    config = TrainConfig.from_json({**TOY.to_json(), "precision": "tf32", "device": "cpu"})
    with pytest.raises(UsageError, match="expected a CUDA device for precision tf32; found cpu"):
        make_agent(resolve(config), envs.toy.make(num_tasks=2, seed=0))


@cuda
def test_a_run_on_cuda_goes_on_captured(monkeypatch, tmp_path):
    run = str(tmp_path / "run")
    monkeypatch.setenv("STEPS", "300")
    assert train.main(["toy", "--run-dir", run, "--no-progress"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["capture"] is True
    monkeypatch.setenv("STEPS", "20")
    assert train.main(["--resume", run, "--steps-per-task", "320"]) == 0
