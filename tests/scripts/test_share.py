"""A run that is given away acts, evaluates and opens as before, and says what it is; the agents that come with us."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from agents import MTSAC, StateFileError, TrainedActor, load_actor, save_actor
from scripts import evaluate, share, train
from scripts.analysis.methods import find_runs, settings
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.files import read_json
from scripts.runs.folder import TRAINED, trained_agents
from scripts.runs.sharing import card
from scripts.setup.parse import parse_train
from scripts.setup.presets import find
from tests.helpers import toy_agent
from tests.runs import TINY

SUITES = {
    "toy": ["evaluate x"],  # points have no picture
    "MT10": ["evaluate x", "record x"],
    "tests.listed_tasks:points": ["evaluate x --run-code", "record x --run-code"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    assert train.main([*TINY, "--steps-per-task", "40", "--no-progress", "--run-dir", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def shared(run):
    to = run.with_name("shared")
    assert share.main([str(run), "--to", str(to)]) == 0
    return to


def test_a_shared_run_is_evaluated_as_the_run_is(run, shared, tmp_path):
    tables = []
    for path in (run, shared):
        assert evaluate.main([str(path), "--episodes", "2", "--json", str(tmp_path / "table.json")]) == 0
        tables.append(read_json(tmp_path / "table.json"))
    assert tables[0]["tasks"] == tables[1]["tasks"]
    assert tables[0]["protocol"] == tables[1]["protocol"]
    assert tables[1]["checkpoint"] == "actor"


def test_it_is_small_and_says_what_it_is(run, shared, tmp_path):
    assert sum(path.stat().st_size for path in shared.iterdir()) < 60_000
    card = (shared / "README.md").read_text()
    assert f"| {Run(run).protocol.tasks[0]} |" in card
    assert Run(run).protocol.id in card
    assert 'Run("shared")' in card
    again = tmp_path / "again"
    assert share.main([str(shared), "--to", str(again)]) == 0  # what was shared can be shared
    assert (again / "actor.safetensors").read_bytes() == (shared / "actor.safetensors").read_bytes()


def test_what_cannot_be_shared_is_said(run, shared, tmp_path):
    with pytest.raises(UsageError, match="expected a new folder"):
        share.main([str(run), "--to", str(shared)])
    half = shutil.copytree(run, tmp_path / "half")
    (half / "result.json").unlink()
    with pytest.raises(UsageError, match="expected a finished run"):
        share.main([str(half), "--to", str(tmp_path / "to")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("evaluations.csv", None), ("versions.json", None), ("versions.json", "{}"), ("result.json", None)],
)
def test_a_run_with_a_damaged_file_is_not_shared(name, text, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / name).unlink()
    if text is not None:
        (copy / name).write_text(text)
    with pytest.raises(UsageError, match=rf"{name} is (missing|damaged)|expected a finished run|holds no evaluation"):
        share.main([str(copy), "--to", str(tmp_path / "new")])
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_shared_run_cannot_go_on(run, shared, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy", ignore=lambda *_: ["checkpoints"])  # as docs/results has runs
    with pytest.raises(UsageError, match="restore it from a copy"):
        train.main(["--resume", str(copy), "--steps-per-task", "80", "--no-progress"])
    before = sorted(path.name for path in shared.iterdir())
    with pytest.raises(UsageError, match="shared with its actor alone"):
        train.main(["--resume", str(shared), "--steps-per-task", "80", "--no-progress"])
    assert sorted(path.name for path in shared.iterdir()) == before
    with pytest.raises(UsageError, match=r"--best: .* was shared"):
        Run(shared).agent(best=True)


@pytest.mark.parametrize("place", [8, -1])
def test_a_changed_byte_is_damage(place, shared, tmp_path):
    copy = shutil.copytree(shared, tmp_path / "copy")
    content = bytearray((copy / "actor.safetensors").read_bytes())
    content[place] ^= 1
    (copy / "actor.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match=r"actor\.safetensors is not what SHA256SUMS says"):
        Run(copy).agent()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_actor_acts_as_its_agent_does(dtype, tmp_path):
    agent = toy_agent(policy_kwargs={"actor_torso": "bronet", "multi_head": True, "actor_layer_norm": True})
    agent.policy.to(dtype)
    save_actor(agent, tmp_path / "actor.safetensors")
    actor = load_actor(tmp_path / "actor.safetensors", "cpu")
    rows = agent.observation_space.low + np.random.default_rng(0).uniform(size=(6, *agent.observation_space.shape))
    rows[:, -len(agent.task_names) :] = np.eye(len(agent.task_names))[np.arange(6) % len(agent.task_names)]
    np.testing.assert_array_equal(actor.eval_action(rows), agent.predict(rows, deterministic=True)[0])
    assert (actor.task_names, actor.steps_per_task) == (agent.task_names, agent.steps_per_task)
    assert isinstance(actor, TrainedActor)
    assert not actor.training


def test_files_of_others_and_actors_of_others_are_refused(tmp_path):
    path = tmp_path / "actor.safetensors"
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(StateFileError, match="damaged"):
        load_actor(path)
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(StateFileError, match="says nothing of an actor"):
        load_actor(path)
    with pytest.raises(FileNotFoundError):
        load_actor(tmp_path / "none")
    agent = toy_agent()
    agent.policy.actor = type("Own", (nn.Module,), {})()
    with pytest.raises(ValueError, match="found Own, and files hold no code"):
        save_actor(agent, path)


@pytest.mark.parametrize("name", trained_agents())
def test_the_agents_of_this_package_are_whole(name):
    """Small, open, of a finished run, and their cards say what the runs' tables say."""
    run = Run(name).verified()
    assert run.path == TRAINED / name
    assert run.status == "finished"
    assert sum(path.stat().st_size for path in run.path.iterdir()) < 3_000_000
    agent = run.agent()
    assert not isinstance(agent, MTSAC)
    assert agent.steps_per_task == run.config.steps_per_task
    told = (run.path / "README.md").read_text()
    assert f"{np.mean(list(run.success.values())):.3f}" in told
    (words,) = re.findall(r"scripts\.train (.*)", told)
    again = parse_train(words.replace(name, str(run.path)).split())
    assert (settings(again), again.seed) == (settings(run.config), run.config.seed)


def test_the_card_of_a_run_that_was_resumed_begins_it_anew(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    result = json.loads((again / "result.json").read_text())
    result["command"] = "python -m scripts.train --resume runs/again"  # what was typed begins nothing
    (again / "result.json").write_text(json.dumps(result))
    (line,) = (line for line in card(Run(again), "given").splitlines() if "scripts.train" in line)
    assert line == f"python -m scripts.train given/config.json --seed {Run(again).config.seed}"
    assert find(str(again / "config.json")).config.steps_per_task == 40


def test_the_card_has_the_commands_that_its_tasks_allow(run):
    commands = {}
    for suite in SUITES:
        other = Run.new(run, replace(Run(run).config, suite=suite), Run(run).protocol, {})
        commands[suite] = re.findall(r"scripts\.(evaluate.*|record.*)", card(other, "x"))
    assert commands == SUITES


def test_a_folder_goes_before_a_trained_agent_of_its_name(shared, tmp_path, monkeypatch):
    name = trained_agents()[0]
    monkeypatch.chdir(tmp_path)
    assert Run(name).path == TRAINED / name
    (tmp_path / name).mkdir()
    (tmp_path / name / "video.mp4").touch()  # as scripts.record leaves it
    assert Run(name).path == TRAINED / name
    assert [run.path for run in find_runs([name])] == [TRAINED / name]
    shutil.copytree(shared, tmp_path / name, dirs_exist_ok=True)
    assert Run(name).path.resolve() == tmp_path / name
    with pytest.raises(UsageError, match=f"or a trained agent: .*{name}"):
        Run("nothing")
