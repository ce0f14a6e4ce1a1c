"""Runs of versions before 0.2 had a setting `collect_ahead`: off, they are what they were; on, they act."""

import shutil
from dataclasses import replace

import pytest

import envs.toy
from agents import load_checkpoint
from agents.saving.checkpoint import SUMS, sums
from agents.saving.state_file import read_state, write_state
from scripts import compare, evaluate, train
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.files import write_json
from scripts.setup.presets import find
from tests.runs import TINY, assert_same_training

LONGER = ["--steps-per-task", "60", "--no-progress"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    assert train.main([*TINY, "--steps-per-task", "40", "--run-dir", str(path), "--no-progress"]) == 0
    return path


@pytest.fixture
def earlier(finished, tmp_path):
    """Copies of the run as they were when there was the setting."""

    def copied(lag):
        path = shutil.copytree(finished, tmp_path / f"lag-{lag}")
        write_json(path / "config.json", {**Run(finished).config.to_json(), "collect_ahead": lag})
        protocol = replace(Run(finished).protocol, collect_ahead=lag)
        write_json(path / "protocol.json", {"id": protocol.id, **protocol.to_json()})
        for folder in (path / "checkpoints").glob("step_*"):
            change(folder / "agent.zip", "agent", "settings", {"collect_ahead": lag})
            change(folder / "loop.zip", "loop", "ahead", {"lag": lag} if lag else {})
            (folder / SUMS).write_bytes(sums(sorted(folder.glob("*.zip"))))
        return path

    return copied


def change(path, kind, name, values):
    state = read_state(path, kind)
    if values:
        state[name] = {**state.get(name, {}), **values}
    write_state(path, kind, state)


def test_off_it_is_the_run_that_it_was(earlier, finished, tmp_path):
    path, now = earlier(0), shutil.copytree(finished, tmp_path / "now")
    assert (path / "protocol.json").read_bytes() == (finished / "protocol.json").read_bytes()
    assert (Run(path).verified().config, Run(path).protocol) == (Run(now).config, Run(now).protocol)
    assert find(str(path / "config.json")) == replace(find(str(now / "config.json")), summary=f"as the run in {path}")
    assert evaluate.main([str(path), "--episodes", "1"]) == 0
    for run in (path, now):
        assert train.main(["--resume", str(run), *LONGER]) == 0
    assert_same_training(path, now)


def test_on_it_is_evaluated_and_told_from_others(earlier, finished, capsys):
    path = earlier(4)
    with pytest.warns(
        RuntimeWarning, match=r"agent\.zip was trained with collect_ahead=4: .* is gone since version 0\.2"
    ):
        assert evaluate.main([str(path), "--episodes", "1"]) == 0
    assert Run(path).protocol.id in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"differ in collect_ahead \(4 and 0\)"):
        compare.main([str(path), str(finished)])


def test_on_it_does_not_go_on(earlier):
    path = earlier(4)
    before = {file: file.read_bytes() for file in path.rglob("*.*") if file.is_file()}
    with pytest.raises(UsageError, match=r"was trained with collect_ahead=4 and cannot go on: .*train anew"):
        train.main(["--resume", str(path), *LONGER])
    with pytest.raises(ValueError, match=r"was trained with collect_ahead and cannot go on: .*agent\.zip opens"):
        load_checkpoint(Run(path).newest_checkpoint(), envs.toy.make(num_tasks=2, seed=0), "cpu")
    with pytest.raises(UsageError, match=r"config\.json: collect_ahead is gone since version 0\.2.*Take it out"):
        find(str(path / "config.json"))
    assert before == {file: file.read_bytes() for file in path.rglob("*.*") if file.is_file()}


def test_a_preset_may_say_that_it_is_off(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "toy"\ncollect_ahead = 0')
    assert find(str(path)).config == replace(find("toy").config, preset="mine")
    path.write_text('base = "toy"\ncollect_ahead = 2')
    with pytest.raises(UsageError, match=r"mine\.toml: collect_ahead is gone since version 0\.2"):
        find(str(path))
