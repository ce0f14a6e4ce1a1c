"""Many runs become methods, and methods a table: what counts, what is refused, what stands apart."""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from agents.algorithms import ALGORITHMS
from scripts import compare
from scripts.analysis.methods import find_runs, group
from scripts.analysis.published import published
from scripts.analysis.style import color_of, looks
from scripts.common import command
from scripts.common.usage import UsageError
from scripts.runs.files import write_json
from scripts.runs.protocol import describe
from scripts.setup.config import TrainConfig
from scripts.setup.presets import PRESETS
from tests.run_folders import CONFIG, GOALS, TASKS, make_run


def tables(printed):
    """The Markdown tables as lists of lines of cells."""
    blocks = [block for block in printed.split("\n\n") if block.startswith("| ")]
    return [[[c.strip() for c in line.strip("|").split("|")] for line in b.splitlines()] for b in blocks]


@pytest.fixture
def runs(tmp_path):
    """PCGrad with two seeds, the mean with two, made in the other order."""
    for name, rates in {"pcgrad": ((0.6, 0.8), (0.4, 0.8)), "mean": ((0.5, 0.7), (0.3, 0.5))}.items():
        for seed in (1, 0):
            curve = {100: (0.9, 0.9), 200: rates[seed]}
            make_run(tmp_path / f"{name}-{seed}", curve, aggregator=name, seed=seed)
    return tmp_path


# ----------------------------------------------------------------------------------------------------- good input
def test_the_table_has_final_and_best_pairs_and_the_mean_first(runs, capsys):
    assert compare.main([str(runs)]) == 0
    main, per_task, literature = tables(capsys.readouterr().out)
    assert main[0][3:7] == ["final success", "IQM", "worst 1", "best (optimistic)"]
    assert main[0][7:9] == ["minus mean, paired", "P(beats mean)"]
    mean, pcgrad = main[2:]
    assert mean[:3] == ["mean", "2", "0"]
    assert mean[3].startswith("**0.500** [")
    assert mean[5:9] == ["0.400", "0.900", "", ""]
    assert pcgrad[0] == "pcgrad"
    assert pcgrad[3].startswith("**0.650** [")
    assert pcgrad[7].startswith("+0.150 [")
    assert pcgrad[7].endswith("], 2 pairs")
    assert pcgrad[8].startswith("0.88 [")  # 3.5 of 4 pairs of seeds on either task
    assert mean[9] == "1.50"
    assert per_task[2] == ["reach-v3", "0.40", "0.50"]
    assert per_task[4:] == [["**easy** (1 task)", "0.40", "0.50"], ["**hard** (1 task)", "0.60", "0.80"]]
    assert literature[0][-1] == "differs from ours in"


def test_tci_per_task_where_an_arm_trained_each_task_alone(runs, capsys):
    for seed, rates in enumerate(((0.7, 0.5), (0.5, 0.5))):
        curve = {100: (0.9, 0.9), 200: rates}
        fixed = ALGORITHMS["independent"].fixed(TrainConfig)
        make_run(runs / f"alone-{seed}", curve, algorithm="independent", seed=seed, **fixed)
    assert compare.main([str(runs), "--no-published"]) == 0
    printed = capsys.readouterr().out
    tci = tables(printed)[-1]
    assert tci[0] == ["task", "mean", "pcgrad"]
    assert [line[:2] for line in tci[2:]] == [["reach-v3", "-0.20 ±0.00"], [TASKS[1], "+0.10 ±1.27"]]
    assert tci[2][2] == "-0.10 ±0.00"
    assert "Negative: joint training hurts the task" in printed


def test_published_numbers_stand_apart_with_what_differs(runs, capsys):
    compare.main([str(runs)])
    main, _, literature = tables(capsys.readouterr().out)
    assert not any("2505.11289" in cell for line in main for cell in line)
    row = next(line for line in literature if "MOORE" in line[0])
    assert row[1:3] == ["2,000,000", "0.832"]
    assert row[-1] == "episodes 50; steps per task 2,000,000"
    v1 = next(line for line in literature if "CARE" in line[0])
    assert v1[-1].startswith("reward v1; horizon not stated")
    compare.main([str(runs), "--no-published"])
    assert len(tables(capsys.readouterr().out)) == 2


def test_published_numbers_are_rates_with_a_source():
    found = [*published("MT10"), *published("MT50")]
    assert len(found) > 50
    assert all(0 < p.success < 1 and p.url.startswith("https://arxiv.org/abs/") for p in found)
    assert all({p.reward_version} <= {"v1", "v2"} and p.selection in ("final", "best") for p in found)
    assert len({(p.source, p.benchmark, p.method, p.steps) for p in found}) == len(found)
    curve = {p.steps: p.success for p in published("MT10") if p.method == "multi-head SAC, width 256"}
    assert (curve[100_000], curve[200_000]) == (0.305, 0.478)
    assert published("toy") == []


def test_a_protocol_that_fits_says_so():
    config = CONFIG.__class__(steps_per_task=2_000_000)
    fitting = next(p for p in published("MT10") if p.method == "MOORE")
    assert fitting.differences(describe(config, TASKS, GOALS), 2_000_000) == []
    shorter = replace(config, train_horizon=200)
    assert fitting.differences(describe(shorter, TASKS, GOALS), 2_000_000) == ["horizon in training 500"]


def test_markdown_and_csv_are_written(runs, tmp_path, capsys):
    out = tmp_path / "table.md"
    assert compare.main([f"{runs}/*-[01]", "--out", str(out)]) == 0
    assert out.read_text().strip() in capsys.readouterr().out
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2
    assert rows[0] == {
        "method": "mean", "seed": "0", "failed": "0", "task": "reach-v3", "success": "0.5", "best_mean_success": "0.9"
    }  # fmt: skip


def test_a_run_that_broke_down_counts_with_zero(tmp_path, capsys):
    make_run(tmp_path / "a", {100: (1, 1), 200: (1, 1)}, seed=0)
    make_run(tmp_path / "b", {100: (1, 1)}, seed=1, status="failed")
    make_run(tmp_path / "c", {}, seed=2, status="failed")
    assert compare.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    line = tables(printed)[0][2]
    assert line[:3] == ["mean", "3", "2"]
    assert line[3].startswith("**0.333** [")
    assert line[6] == "0.667"  # the best it had before counts as its best
    assert "broke down with seed 1, 2; counted with success 0" in printed


def test_a_method_that_always_broke_down_has_success_zero(tmp_path, capsys):
    make_run(tmp_path / "a", {100: (1, 1)}, status="failed")
    assert compare.main([str(tmp_path)]) == 0
    line = tables(capsys.readouterr().out)[0][2]
    assert (line[3], line[6]) == ("**0.000**", "1.000")


def test_only_common_seeds_are_paired(tmp_path, capsys):
    make_run(tmp_path / "a", {200: (0.5, 0.5)}, seed=0)
    make_run(tmp_path / "b", {200: (0.1, 0.1)}, seed=1)
    make_run(tmp_path / "c", {200: (0.2, 0.2)}, seed=1, aggregator="pcgrad")
    make_run(tmp_path / "d", {200: (0.9, 0.9)}, seed=7, aggregator="pcgrad")
    make_run(tmp_path / "e", {200: (0.9, 0.9)}, seed=9, aggregator="cagrad")
    compare.main([str(tmp_path)])
    rows = {line[0]: line for line in tables(capsys.readouterr().out)[0]}
    assert rows["pcgrad"][7] == "+0.100, 1 pair"
    assert rows["cagrad"][7] == "no seed in common"


def test_a_single_seed_has_no_interval_and_says_so(tmp_path, capsys):
    make_run(tmp_path / "a")
    assert compare.main([str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().out
    assert tables(printed)[0][2][3] == "**0.600**"
    assert "A single seed, so no interval and no verdict: mean." in printed


def test_few_seeds_are_told(runs, capsys):
    compare.main([str(runs)])
    assert "Only 2 seeds" in capsys.readouterr().out


def test_at_a_step_unfinished_runs_and_other_lengths_compare(tmp_path, capsys):
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", {100: (0.8, 0.8)}, seed=1, status="interrupted", steps_per_task=400)
    assert compare.main([str(tmp_path), "--at", "100"]) == 0
    line = tables(capsys.readouterr().out)[0]
    assert line[0][3] == "success at 100"
    assert line[2][3].startswith("**0.550** [")
    with pytest.raises(UsageError, match=r"--at: expected a step .* one of 100; found 150"):
        compare.main([str(tmp_path), "--at", "150"])


def test_a_run_that_broke_down_is_not_0_before_it_did(tmp_path):
    """Where it was evaluated more rarely than the others."""
    make_run(tmp_path / "a", dict.fromkeys((50, 100, 150, 200), (0.5, 0.5)), seed=0)
    make_run(tmp_path / "b", {100: (0.5, 0.5)}, seed=1, status="failed")
    (method,) = group(find_runs([tmp_path]))
    assert method.curves[0].tolist() == [100, 150, 200]
    assert method.curves[1].mean(1).tolist() == [[0.5, 0.5, 0.5], [0.5, 0, 0]]


def test_the_episodes_are_those_that_were_played(tmp_path, capsys):
    """Where a run was extended, what is on the way now was the end, with its episodes."""
    make_run(tmp_path / "a", seed=0, eval_goals=5)
    compare.main([str(tmp_path), "--at", "100"])
    assert "deterministic policy, 10 episodes per task" in capsys.readouterr().out
    other = make_run(tmp_path / "b", seed=1, eval_goals=5)
    other.evaluations.replace([{**row, "episodes": 5} for row in other.evaluations.read()])
    compare.main([str(tmp_path), "--at", "100"])
    assert "deterministic policy, 5 to 10 episodes per task" in capsys.readouterr().out


def test_hours_at_a_step_are_the_hours_until_it(tmp_path, capsys):
    run = make_run(tmp_path / "a", logs=True)  # 36 s a step
    compare.main([str(tmp_path)])
    assert tables(capsys.readouterr().out)[0][2][-1] == "1.50"
    run.metrics.path.write_text(run.metrics.path.read_text().replace("1000000000.0", "900"))
    compare.main([str(tmp_path), "--at", "100"])
    assert tables(capsys.readouterr().out)[0][2][-1] == "1.25"
    run.metrics.path.unlink()
    compare.main([str(tmp_path), "--at", "100"])
    assert tables(capsys.readouterr().out)[0][2][-1] == "?"


def test_the_plain_mean_is_one_of_every_algorithm_and_of_both_networks(tmp_path, capsys):
    """Else TD3 had no baseline, nor colours of its methods, and a mean of the critic alone passed for it."""
    td3 = {"algorithm": "td3", **ALGORITHMS["td3"].fixed(TrainConfig), "ent_coef": "0.0"}
    for name, of_actor in (("mean", ""), ("pcgrad", ""), ("mean", "pcgrad")):
        make_run(tmp_path / (name + of_actor), aggregator=name, actor_aggregator=of_actor, **td3)
    compare.main([str(tmp_path)])
    found = {row[0]: row[7] for row in tables(capsys.readouterr().out)[0][2:]}
    assert found == {"td3-mean": "", "td3-mean, actor pcgrad": "+0.000, 1 pair", "td3-pcgrad": "+0.000, 1 pair"}
    colors = {method.label: color_of(method.aggregator) for method in group(find_runs([tmp_path]))}
    assert colors["td3-pcgrad"] == color_of("pcgrad") != colors["td3-mean"] == color_of("mean")


def test_without_exactly_one_plain_mean_there_are_no_differences(tmp_path, capsys):
    make_run(tmp_path / "a", multi_head=True)
    make_run(tmp_path / "b", aggregator="pcgrad")
    compare.main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert "minus mean" not in printed
    assert "Not exactly one plain mean" in printed
    make_run(tmp_path / "c", batch_size=64)
    compare.main([str(tmp_path)])
    assert "minus mean" in capsys.readouterr().out
    make_run(tmp_path / "d", batch_size=32)
    compare.main([str(tmp_path)])
    assert "minus mean" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------ bad input
BAD = {
    "no runs": (lambda p: [], "expected at least one run folder"),
    "nothing there": (lambda p: [p / "none"], "found nothing"),
    "a pattern without a match": (lambda p: [p / "none*"], "found nothing"),
    "a folder without runs": (lambda p: [p], "a folder without config.json"),
    "an unfinished run": (lambda p: [make_run(p / "a", status="interrupted").path], "1 of 1 are not: .*--at STEPS"),
    "other rewards": (
        lambda p: [make_run(p / "a").path, make_run(p / "b", seed=1, reward_version="v1").path],
        r"differ in reward_version \(v2 and v1\)",
    ),
    "other lengths": (
        lambda p: [make_run(p / "a").path, make_run(p / "b", seed=1, steps_per_task=100).path],
        r"differ in env_steps_per_task \(200 and 100\)",
    ),
    "a seed twice": (lambda p: [make_run(p / "a").path, make_run(p / "b").path], "both have seed 0"),
    "no step in common": (
        lambda p: [make_run(p / "a", {200: (1, 1)}).path, make_run(p / "b", {100: (1, 1)}, seed=1).path],
        "some step in common",
    ),
    "nowhere to write": (lambda p: [make_run(p / "a").path, "--out", p / "no" / "x.md"], "--out: expected a file"),
    "a .csv for Markdown": (lambda p: [make_run(p / "a").path, "--out", p / "x.csv"], "expected the Markdown's name"),
    "a .CSV for Markdown": (lambda p: [make_run(p / "a").path, "--out", p / "x.CSV"], "expected the Markdown's name"),
    "never evaluated": (lambda p: [make_run(p / "a", {}).path], "no evaluation yet"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_clear_line_and_exit_code_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, words(tmp_path))])
    with pytest.raises(SystemExit) as end:
        command.run(compare.main)
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(UsageError, match=message):
        compare.main(sys.argv[1:])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("evaluations.csv", "env_steps_per_task,task,success\n200,reach-v3,half\n200,push-v3,0\n"),
        ("evaluations.csv", "a,b\n1,2\n"),
        ("evaluations.csv", "env_steps_per_task,task,success\n200,reach-v3,0.5\n"),
        ("result.json", "{"),
        ("result.json", '{"status": "finished"}'),
        ("result.json", '{"status": "finished", "env_steps_per_task": 200}'),
        ("config.json", "[]"),
    ],
)
def test_damaged_files_are_named(name, text, tmp_path):
    run = make_run(tmp_path / "a")
    (run.path / name).write_text(text)
    with pytest.raises(UsageError, match=rf"{name}.* is damaged"):
        compare.main([str(run.path)])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1.5", "is damaged: expected success rates of 0 to 1, found 1.5"),
        ("-inf", "is damaged"),
        ("nan", "expected the success of every task; reach-v3 did not report it"),
    ],
)
def test_success_that_is_no_rate_is_damage_and_an_unknown_one_is_not_compared(value, message, tmp_path):
    run = make_run(tmp_path / "a")
    run.evaluations.path.write_text(run.evaluations.path.read_text().replace(",0.5,", f",{value},"))
    with pytest.raises(UsageError, match=message):
        compare.main([str(run.path)])


# -------------------------------------------------------------------------------------------------------- methods
def test_a_run_is_found_once_however_it_is_named(runs, monkeypatch):
    monkeypatch.chdir(runs)
    assert len(find_runs([".", "mean-0", runs / "mean-0", "mean-*"])) == 4


@pytest.mark.parametrize("name", ["config.json", "goals.npz", "evaluations.csv", "result.json"])
def test_a_damaged_run_is_left_out_of_a_folder_and_told_where_it_is_named(name, runs):
    (runs / "mean-0" / name).write_text("a,b\n1,2\n")
    with pytest.warns(UserWarning, match=rf"^left out: .*mean-0.{name} is damaged"):
        assert [run.path.name for run in find_runs([runs])] == ["mean-1", "pcgrad-0", "pcgrad-1"]
    for words in ([runs, runs / "mean-0"], [f"{runs}/mean-0*"]):
        with pytest.raises(UsageError, match=f"{name} is damaged"):
            find_runs(words)


def test_a_run_that_was_not_evaluated_yet_is_left_out_of_a_folder_where_evaluations_are_shown(tmp_path):
    for name, success, status in (("a", None, "finished"), ("b", {}, "interrupted"), ("c", {}, "failed")):
        make_run(tmp_path / name, success, status, seed=ord(name))
    assert len(find_runs([tmp_path])) == 3
    with pytest.warns(UserWarning, match=r"^left out: .*b; not evaluated yet$"):
        found = find_runs([tmp_path], evaluated=True)
    assert [run.path.name for run in found] == ["a", "c"], "what broke down counts, as 0"
    for words in ([tmp_path, tmp_path / "b"], [tmp_path / "b*"]):
        assert "b" in {run.path.name for run in find_runs(words, evaluated=True)}


def test_labels_name_what_differs_and_no_more(tmp_path):
    options = {"aggregator": "cagrad", "aggregator_options": {"c": 0.4}}
    settings = [
        {},
        {"multi_head": True},
        {"critic_aggregator": "pcgrad"},
        {"learning_rate": 1e-3},
        options,
        {**options, "aggregator_options": {"c": 0.8}},
        {"aggregator": "pcgrad", "aggregator_options": {"seed": 0}, "workers": 1, "threads": 1},
        {"algorithm": "independent", "overlap": False, "max_grad_norm": 0.0},
    ]
    runs = [make_run(tmp_path / str(i), **more) for i, more in enumerate(settings)]
    runs.append(make_run(tmp_path / "9", aggregator="pcgrad", aggregator_options={"seed": 5}, seed=5, device="cpu"))
    methods = group(runs)
    assert [method.label for method in methods] == [
        "mean, critic pcgrad, learning_rate=0.0003", "mean, learning_rate=0.0003", "mean, learning_rate=0.001",
        "mean, multi-head, learning_rate=0.0003", "pcgrad", "cagrad, c=0.4", "cagrad, c=0.8", "independent",
    ]  # fmt: skip
    assert methods[4].seeds == [0, 5]
    drawn = looks([method.aggregator for method in methods])
    assert len({look[:2] for look in drawn}) == len(methods)
    assert len({look.color for look in drawn}) == 4


def test_presets_are_named_where_they_differ(tmp_path):
    quick = PRESETS["mt10-quick"].config
    other = {"preset": "mt10-quick", "batch_size": quick.batch_size, "actor_layer_norm": True}
    methods = group([make_run(tmp_path / "a"), make_run(tmp_path / "b", **other)])
    assert [method.label for method in methods] == ["mean, mt10", "mean, mt10-quick"]


def test_a_run_that_broke_down_and_was_taken_to_its_end_is_finished(tmp_path):
    run = make_run(tmp_path / "a")
    (run.path / "postmortem.json").write_text("{}")
    assert run.status == "finished"
    result = json.loads((run.path / "result.json").read_text())
    (run.path / "result.json").write_text(json.dumps(result | {"env_steps_per_task": 100}))
    assert run.status == "failed"  # finished once, extended, and broke down then


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"error": "NonFiniteError"}, "failed"),
        ({"task": "push-v3", "quantity": "critic_loss"}, "failed"),  # of an independent run
        ({"error": "WorkerError"}, "unfinished"),
        ({"error": "PermissionError"}, "unfinished"),
        ({"error": "OSError"}, "unfinished"),
    ],
)
def test_only_a_loss_that_is_not_finite_says_something_about_the_method(told, expected, tmp_path):
    run = make_run(tmp_path / "a", status="interrupted")
    write_json(run.path / "postmortem.json", told)
    assert run.status == expected
    run.save()  # as the run goes on
    assert run.status == "unfinished"


def test_curves_hold_the_steps_that_all_seeds_have(tmp_path):
    make_run(tmp_path / "a", {100: (0.1, 0.3), 150: (1, 1), 200: (0.5, 0.7)}, seed=0)
    make_run(tmp_path / "b", {100: (0.2, 0.4), 200: (0.6, 0.8)}, seed=1)
    steps, curves = group(find_runs([tmp_path]))[0].curves
    assert steps.tolist() == [100, 200]
    np.testing.assert_allclose(curves, [[[0.1, 0.5], [0.3, 0.7]], [[0.2, 0.6], [0.4, 0.8]]])
