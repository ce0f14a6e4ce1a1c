import pickle

import metaworld
import numpy as np
import pytest

import envs
from envs.benchmarks import find_benchmark
from envs.meta_world import suites


def metaworld_goals(benchmark):
    """Decode the goals that a benchmark object of metaworld holds: name -> (50, D)."""
    goals = {}
    for task in benchmark.train_tasks:
        goals.setdefault(task.env_name, []).append(pickle.loads(task.data)["rand_vec"])
    return {name: np.array(vectors) for name, vectors in goals.items()}


def assert_same_goals(ours, theirs):
    assert list(ours) == list(theirs)
    for name, vectors in theirs.items():
        assert ours[name].dtype == np.float64
        assert ours[name].tobytes() == vectors.tobytes(), name


def test_suites_have_metaworlds_tasks_in_its_order():
    assert suites.task_names("mt10") == (
        "reach-v3",
        "push-v3",
        "pick-place-v3",
        "door-open-v3",
        "drawer-open-v3",
        "drawer-close-v3",
        "button-press-topdown-v3",
        "peg-insert-side-v3",
        "window-open-v3",
        "window-close-v3",
    )
    assert [len(suites.task_names(name)) for name in ("MT25", "MT50")] == [25, 50]
    assert suites.task_names("custom", ["push-v3", "basketball-v3"]) == ("push-v3", "basketball-v3")


def test_goals_of_mt10_are_metaworlds(monkeypatch):
    """All from one stream; that there are fifty of each, the tasks by themselves show."""
    monkeypatch.setattr(suites, "NUM_GOALS", 8)
    monkeypatch.setattr(metaworld, "_N_GOALS", 8)
    assert_same_goals(
        suites.goal_vectors(suites.task_names("MT10"), "MT10", 7), metaworld_goals(metaworld.MT10(seed=7))
    )


# Together they reject draws (peg), override the hand's reset (faucet, window) and read positions after it (basketball).
@pytest.mark.parametrize("name", ["peg-insert-side-v3", "faucet-open-v3", "window-close-v3", "basketball-v3"])
def test_goals_of_one_task_are_metaworlds(name):
    assert_same_goals(suites.goal_vectors([name], "MT1", 3), metaworld_goals(metaworld.MT1(name, seed=3)))


def test_goals_of_own_lists_count_the_seed_up():
    ours = suites.goal_vectors(["push-v3", "reach-v3"], "custom", 5)
    assert_same_goals({"push-v3": ours["push-v3"]}, metaworld_goals(metaworld.MT1("push-v3", seed=5)))
    assert_same_goals({"reach-v3": ours["reach-v3"]}, metaworld_goals(metaworld.MT1("reach-v3", seed=6)))


def test_drawing_goals_leaves_the_global_generator_alone():
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    suites.goal_vectors(["reach-v3"], "MT1", 0)
    assert np.random.random() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suite": "MT11"}, "found 'MT11'; did you mean MT1"),
        ({"suite": "MT1"}, "expects task names, found none"),
        ({"suite": "MT1", "tasks": ["reach-v3", "push-v3"]}, "expects one task, found 2"),
        ({"suite": "custom", "tasks": []}, "expects task names, found none"),
        ({"suite": "custom", "tasks": ["reech-v3"]}, "found 'reech-v3'; did you mean reach-v3"),
        ({"suite": "custom", "tasks": ["reach-v3", "push-v3", "reach-v3"]}, "found reach-v3 more than once"),
        ({"suite": "MT10", "workers": -1}, "expected workers 'auto' or 0 .* to 10.* found -1"),
        ({"suite": "MT10", "workers": 11}, "found 11"),
        ({"suite": "MT10", "workers": "many"}, "found 'many'"),
        ({"suite": "MT10", "goals": 0}, "1 to 50 goals per task, found 0"),
        ({"suite": "MT10", "goals": 51}, "1 to 50 goals per task, found 51"),
        ({"suite": "MT1", "tasks": ["reach-v3"], "goals": {}}, "found none for reach-v3"),
        ({"suite": "MT1", "tasks": ["reach-v3"], "goals": {"reach-v3": np.zeros(6)}}, r"found shape \(6,\)"),
        ({"suite": "MT10", "horizon": 0}, "horizon of 1 to 500 steps, found 0"),
        ({"suite": "MT10", "horizon": 501}, "horizon of 1 to 500 steps, found 501"),
        ({"suite": "MT10", "reward_version": "v3"}, "reward version v1 or v2, found 'v3'"),
        ({"suite": "MT10", "goal_order": "up"}, "random or sequential, found 'up'"),
        ({"suite": "MT10", "seed": -1}, "expected seed to be a whole number from 0 to .* found -1"),
        ({"suite": "toy", "tasks": ["point-1"]}, "point-0, point-1, ... in order, found point-1"),
        ({"suite": "toy", "horizon": 0}, "horizon=0"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.make(**({"seed": 0} | arguments))
    assert "\n" not in str(error.value)


def test_every_task_is_in_one_group_of_difficulty():
    """28 easy, 11 medium, 6 hard, 5 very hard, as the field counts them."""
    tasks = suites.task_names("MT50")
    groups = find_benchmark("MT50").grouped(tasks)
    assert {name: len(own) for name, own in groups.items()} == {"easy": 28, "medium": 11, "hard": 6, "very hard": 5}
    assert sorted(index for own in groups.values() for index in own) == list(range(50))
    assert find_benchmark("MT1").grouped(["reach-v3"]) == {} == find_benchmark("toy").grouped(["point-0"])
