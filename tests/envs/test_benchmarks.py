"""What is asked of every benchmark, and lists of Gymnasium environments as one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import envs
from agents import evaluate
from envs.benchmarks import BENCHMARKS, TaskOptions, find_benchmark
from envs.gym_list import GymTask
from scripts.runs.files import read_goals
from scripts.runs.protocol import Protocol, describe
from scripts.setup.config import TrainConfig, check
from scripts.setup.presets import PRESETS
from tests.listed_tasks import Kept
from tests.runs import libraries

RESULTS = Path(__file__).parents[2] / "docs" / "results"
LISTED = "tests.listed_tasks"


@pytest.fixture
def build():
    """Build lists by the name of their function; close them afterwards."""
    built = []

    def build(function, seed=0, workers=0, horizon=9, **options):
        built.append(envs.make(f"{LISTED}:{function}", seed, workers=workers, horizon=horizon, **options))
        return built[-1]

    yield build
    for env in built:
        env.close()


def play(env, steps, seed=1):
    """All that comes back from random actions, in a form that compares bit for bit."""
    generator, trace = np.random.default_rng(seed), []
    for _ in range(steps):
        observations, rewards, dones, infos = env.step(generator.uniform(-2, 2, (env.num_envs, 1)))
        ends = [(info["success"], info["TimeLimit.truncated"], info.get("episode", {}).get("l")) for info in infos]
        trace.append((observations.tobytes(), rewards.tobytes(), dones.tobytes(), ends))
    return trace


# The registry


def test_rows_are_light():
    code = "import sys, envs, envs.benchmarks; print({'torch', 'metaworld', 'mujoco'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "set()"


def test_a_name_may_be_spelled_in_any_case_and_an_unknown_one_is_told():
    assert [find_benchmark(name).name for name in ("mt10", "Toy", "CUSTOM")] == ["MT10", "toy", "custom"]
    with pytest.raises(ValueError, match=r"expected a suite among MT1, .*module:function; found 'MT11'; did you mean"):
        find_benchmark("MT11")


def test_a_function_is_found_without_running_its_code():
    found = find_benchmark("no.such.module:tasks")
    assert (found.name, found.title, found.is_code) == ("no.such.module:tasks",) * 2 + (True,)
    assert find_benchmark("some/tasks.py:make").title == f"{Path.cwd()}/some/tasks.py:make", "from any folder"


def test_limits_are_of_the_benchmark():
    with pytest.raises(ValueError, match="--horizon: expected at most 500, the limit of Meta-World; found 501"):
        check(TrainConfig(horizon=501))
    check(TrainConfig(suite=f"{LISTED}:walks", horizon=501, train_horizon=501))
    with pytest.raises(ValueError, match="--tasks: expected one task name for MT1"):
        check(TrainConfig(suite="MT1"))


@pytest.mark.parametrize(("suite", "tasks"), [("custom", ["reach-v3"]), ("toy", None), (f"{LISTED}:walks", None)])
def test_what_a_benchmark_names_can_be_built_and_says_whether_it_succeeds(suite, tasks):
    goals = {"reach-v3": np.array([[0.0, 0.6, 0.02, 0.1, 0.8, 0.2]])}
    found = find_benchmark(suite).task_set(TaskOptions(suite, tasks, 0, goals, 5))
    assert [spec.name for spec in found.specs] == list(found.goals)
    env = found.specs[0].build()
    env.reset(seed=0)
    assert "success" in env.step(env.action_space.sample())[4]
    env.close()


def test_every_row_can_be_asked_for():
    assert [find_benchmark(name) for name in list(BENCHMARKS)[:-1]] == list(BENCHMARKS.values())[:-1]


# Protocols: the numbers are those of runs made before there was a registry


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("protocol.json")), ids=lambda path: path.parent.name)
def test_protocols_of_published_runs_are_the_same_as_ever(path):
    told = json.loads(path.read_text())
    found, config = Protocol.from_json({k: v for k, v in told.items() if k != "id"}), path.with_name("config.json")
    assert told["id"] in (found.id, found.earlier_id)
    later = {"suite", "tasks", "reward_version", "horizon", "train_horizon", "goals", "seed", "steps_per_task"}
    later |= {"envs_per_task", "staggered_starts", "eval_goals", "final_goals", "overlap"}
    values = {name: value for name, value in json.loads(config.read_text()).items() if name in later}
    values["tasks"] = tuple(values["tasks"])
    goals = read_goals(path.with_name("goals.npz"))
    now = describe(TrainConfig(**values), found.tasks, goals)
    assert replace(now, metaworld=found.metaworld, mujoco=found.mujoco) == found


def test_the_protocol_of_the_toy_tasks_is_the_same_as_ever():
    env = envs.make("toy", 0, workers=0, horizon=25)
    protocol = describe(PRESETS["toy"].config, env.task_names, env.goals)
    assert replace(protocol, metaworld="3.1.1", mujoco="3.3.0").id == "dd64ca2e6115"


def test_a_protocol_of_a_list_says_what_it_was():
    config = TrainConfig(suite=f"{LISTED}:walks", horizon=9)
    spaces = "observations of 2 numbers, actions in Box(-2.0, 2.0, (1,), float32)"
    protocol = describe(config, ("left", "right"), {}, spaces)
    assert (protocol.benchmark, protocol.spaces, protocol.horizon) == (f"{LISTED}:walks", spaces, 9)
    assert (protocol.reward_version, protocol.metaworld) == ("", "")
    assert protocol.gymnasium
    assert "no value is beyond" in protocol.termination
    assert Protocol.from_json(protocol.to_json()) == protocol
    assert protocol.conflicts(replace(protocol, spaces="other")) == ["spaces"]


def test_a_benchmark_names_whatever_library_it_is_made_of(monkeypatch):
    row = replace(BENCHMARKS["toy"], name="points", versions=("mujoco", "scipy", "tqdm"))
    monkeypatch.setitem(BENCHMARKS, "points", row)
    protocol = describe(TrainConfig(suite="points"), ("left", "right"), {})
    libraries = f"scipy {version('scipy')}, tqdm {version('tqdm')}"
    assert (protocol.metaworld, protocol.mujoco, protocol.libraries) == ("", version("mujoco"), libraries)
    assert protocol.versions == f"mujoco {version('mujoco')}, {libraries}"
    assert Protocol.from_json(protocol.to_json()) == protocol
    newer = replace(protocol, libraries="scipy 99")
    assert protocol.conflicts(newer) == ["libraries"]
    assert protocol.changed(newer) == [], "a run may go on with other software"


# Lists of environments


@pytest.mark.parametrize("function", ["walks", "made_later"])
@pytest.mark.parametrize("options", [{}, {"envs_per_task": 2, "staggered": True}], ids=str)
def test_workers_give_the_same_numbers_as_one_process(build, function, options):
    one, two = build(function, **options), build(function, workers=2, **options)
    assert one.reset().tobytes() == two.reset().tobytes()
    assert play(one, 25) == play(two, 25), "terminations and truncations included"
    assert not any(library in libraries(pid) for library in ("libtorch", "libmujoco") for pid in two.worker_pids)


def test_an_environment_ends_an_episode_and_the_horizon_only_cuts_it(build):
    env = build("walks", horizon=4)
    env.reset()
    ends = []
    for _ in range(8):  # full speed to the right: 0.2 a step
        _, _, dones, infos = env.step(np.full((3, 1), 2.0))
        ends.append([(info["TimeLimit.truncated"], info["is_success"]) if dones[i] else None for i, info in
                     enumerate(infos)])  # fmt: skip
    left, right, _ = zip(*ends, strict=True)
    assert left == (None, None, None, (True, False)) * 2, "cut, and values bootstrap"
    assert (False, True) in right, "terminated at its mark, and no value is beyond"
    assert all(end in (None, (False, True)) for end in right)


def test_names_come_from_a_dict_and_some_can_be_chosen(build):
    assert build("walks").task_names == ("left", "right", "far")
    assert build("made_later").task_names == ("task-0", "task-1", "task-2")
    assert build("walks", tasks=["far", "left"]).task_names == ("far", "left")
    with pytest.raises(ValueError, match="found 'fat'; did you mean far"):
        build("walks", tasks=["fat"])


def test_one_task_alone_is_as_it_is_among_the_others(build):
    alone, among = build("walks", only="right", envs_per_task=2), build("walks")
    assert (alone.task_names, alone.num_envs) == (("right",), 2)
    assert alone.reset()[0, 1] == among.reset()[1, 1], "the mark"
    toy = envs.make("toy", 0, workers=0, only="point-2")
    assert np.array_equal(toy.goals["point-2"], envs.make("toy", 0, workers=0).goals["point-2"])


def test_environments_with_a_state_go_on_bit_for_bit_and_others_begin_an_episode(build):
    first, second = build("kept"), build("kept", seed=5, workers=1)
    first.reset()
    play(first, 5)
    second.set_state(first.get_state())
    assert play(first, 20, seed=2) == play(second, 20, seed=2)
    env = build("walks")
    env.reset()
    with pytest.warns(UserWarning, match="left, right, far cannot restore their state and began a new episode"):
        env.set_state(env.get_state())


def test_a_function_may_lie_in_any_file(tmp_path, monkeypatch, build):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from tests.listed_tasks import walks as tasks\n")
    env = envs.make("mine.py:tasks", 0, workers=1, horizon=9)
    assert env.reset().shape == (3, 2 + 3)
    env.close()


WRONG = {
    "twice": "expected a separate environment for each task, .*found one twice, at task-1",
    "raises": "raised KeyError: 'there is no simulator here'",
    "nothing": "expected a list of environments.* found an empty one",
    "number": "expected a list of environments.* found int",
    "bad_name": "expected names of letters, .*found 'a/b'",
    "not_an_environment": "expected an environment, or a function that makes one, at task-0; found int",
    "silent": "expected 'success' or 'is_success' among the infos of task-0, .*found distance",
    "not_known": "infos of task-0, .*found success without a number in an episode",
    "never_said": "infos of task-0, .*found success without a number in an episode",
    "short": r"task-0 raised ValueError: expected observations of shape \(2,\), found shape \(1,\)",
    "single": r"task-0 raised ValueError: expected observations of shape \(2,\), found shape \(\)",
    "keyed": r"task-0 raised ValueError: expected observations of shape \(2,\), found a dict",
    "blind": r"task-0 raised ValueError: expected finite observations, found \[ *0\. nan\]",
    "unpaid": "task-0 raised ValueError: expected one number as reward, found 'much'",
    "priceless": "task-0 raised ValueError: expected finite rewards, found nan",
    "spaceless": "expected an observation_space of each task; found none at task-0",
    "half": "expected an observation_space of each task; found none at task-1",
    "unequal": r"found Box.*\(2,\).* at narrow and Box.*\(3,\).* at wide",
    "buttons": r"expected actions in a one-dimensional Box.*found Discrete\(2\)",
    "broken": "task-0 raised RuntimeError: no such model",
    "wordy": "task-0 raised ValueError: expected one number as success, found 'yes'",
    "ends": "raised SystemExit: 0",
    "not_a_function": "expected a function 'not_a_function' in tests.listed_tasks; found walks, made_later",
    "nosuch": "expected a function 'nosuch'",
}


@pytest.mark.parametrize(("function", "message"), WRONG.items(), ids=WRONG)
def test_what_does_not_fit_is_told_in_one_line(function, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.make(f"{LISTED}:{function}", 0, workers=0)
    assert "\n" not in str(error.value)
    assert f"{LISTED}:{function}" in str(error.value)


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("no_such_module:tasks", "'no_such_module' could not be imported: ModuleNotFoundError"),
        ("nowhere.py:tasks", "expected a Python file there, found none; put it, or a link to it, there"),
    ],
)
def test_a_module_or_file_that_is_not_there_is_told(suite, message):
    with pytest.raises(ValueError, match=message):
        envs.make(suite, 0)


def test_success_that_a_task_does_not_know_is_unknown_and_no_failure(build):
    played = evaluate(Idle(), build("doubtful", workers=2, goal_order="sequential"), 2)
    assert np.array_equal(played.success, [[0, 0], [0, np.nan]], equal_nan=True)
    assert np.array_equal(played.task_success, [0, np.nan], equal_nan=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_success_that_only_an_end_would_tell_is_unknown_where_the_horizon_comes_before(build, workers):
    played = evaluate(Idle(), build("late", workers=workers, goal_order="sequential", horizon=11), 2)
    assert np.array_equal(played.success, [[1, np.nan]], equal_nan=True), "6 steps, and 12"
    with pytest.raises(
        ValueError, match="found none in an episode cut off at the horizon of 5 steps; make that longer"
    ):
        build("late", horizon=5)
    assert build("very_late", horizon=1001).task_names == ("task-0",)


def test_what_was_told_of_an_episode_is_part_of_its_state():
    task, other = (GymTask(Kept(9.0), 9) for _ in range(2))
    task.reset(seed=0)
    task.step(np.zeros(1))
    other.restore(task.snapshot())
    task.env.step = other.env.step = lambda action: (np.zeros(2), 0.0, False, False, {})
    assert task.step(np.zeros(1))[4] == other.step(np.zeros(1))[4] == {"success": 0.0}


class Idle:
    def predict(self, observations, deterministic):
        return np.zeros((len(observations), 1), np.float32), None


def test_no_tasks_at_all_are_refused():
    with pytest.raises(ValueError, match=r"expected at least one of 3 tasks \(left \.\.\. far\), found none"):
        envs.make(f"{LISTED}:walks", 0, tasks=[], workers=0)


def test_an_environment_that_is_returned_again_is_refused():
    with pytest.raises(ValueError, match="new at each call; found one twice, at task-0; make it in the function"):
        envs.make(f"{LISTED}:again", 0, workers=0)


def test_a_module_in_the_working_folder_is_found_by_an_installed_command_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2]), *filter(os.path.isabs, sys.path)])
    (tmp_path / "tasks_right_here.py").write_text("from tests.listed_tasks import kept")
    env = envs.make("tasks_right_here:kept", seed=0, horizon=9, workers=1)
    assert env.reset().shape == (2, 2 + 2)
    env.close()
