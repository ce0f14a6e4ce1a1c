"""What an evaluation counts, also where environments say little, and that unknown success stays unknown."""

import contextlib
import json
import math
from unittest import mock

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import envs
import envs.toy
from agents import EvaluationCallback, evaluate
from envs import from_gymnasium
from scripts.runs.messages import success_table
from scripts.runs.results import summarize
from scripts.runs.tables import CsvTable, evaluation_rows
from tests.helpers import SMALL, logged, toy_agent
from tests.odd_tasks import Says


def tasks(*said):
    return from_gymnasium([lambda info=info: Says(**info) for info in said], [f"task{i}" for i in range(len(said))])


class OneHot(Says):
    """With the one-hot of two tasks, for vector environments that add none."""

    observation_space = gymnasium.spaces.Box(-9, 9, (3,), np.float32)

    def __init__(self, task, **info):
        super().__init__(**info)
        self.task = task

    def _observation(self):
        return np.array([*super()._observation(), *np.eye(2)[self.task]], np.float32)


def test_success_that_nobody_reports_is_unknown_everywhere(recwarn):
    env = tasks({}, {})
    agent = toy_agent(env, log_every=5)
    callback = EvaluationCallback(tasks({}, {}), 10, 2)
    rows = logged(agent, 30, callback=callback)
    result = callback.last
    assert np.isnan(result.success).all()
    assert np.isnan(result.success_last).all()
    assert math.isnan(result.mean_success)
    assert np.isfinite(result.returns).all()
    assert not [key for row in rows for key in row if "success" in key]
    assert any("rollout/return/task1" in row for row in rows)
    text = json.dumps(summarize(result), allow_nan=False)
    assert json.loads(text)["mean"] == {
        "success": None, "success_last": None, "return": 3.0, "steps_to_success": None,
        "success_interval": None, "episodes": 4,
    }  # fmt: skip
    assert [list(column.cells) for column in success_table(summarize(result), "x").columns[1:4]] == [["-"] * 3] * 3
    assert not [w for w in recwarn if "mean of empty" in str(w.message).lower()]


def test_the_mean_is_over_the_tasks_that_report():
    said = ({"success": 1.0}, {}, {"success": 0.0})
    agent = toy_agent(tasks(*said), log_every=5)
    callback = EvaluationCallback(tasks(*said), 10, 2)
    rows = logged(agent, 30, callback=callback)
    assert callback.last.success.mean(1).tolist()[::2] == [1.0, 0.0]
    assert callback.last.mean_success == 0.5
    for group in ("eval", "rollout"):
        assert {row.get(f"{group}/success", 0.5) for row in rows} == {0.5}
        assert {key for row in rows for key in row if key.startswith(f"{group}/success/")} == {
            f"{group}/success/task0", f"{group}/success/task2"
        }  # fmt: skip
    summary = summarize(callback.last)
    assert (summary["mean"]["success"], summary["mean"]["episodes"]) == (0.5, 4)
    assert summary["tasks"]["task1"]["success"] is None
    json.dumps(summary, allow_nan=False)


def test_observations_that_are_not_finite_are_no_evaluation():
    env = tasks({}, {"observation": np.full(1, np.nan, np.float32)})
    with pytest.raises(ValueError, match="Expected finite observations; task task1 gave others"):
        evaluate(toy_agent(env), env, 1)


def test_stable_baselines3s_evaluation_leaves_unknown_success_out():
    agent = toy_agent(tasks({}, {}))
    callback = EvalCallback(tasks({"success": 1.0}, {}), n_eval_episodes=4, eval_freq=10, verbose=0, warn=False)
    agent.learn(2 * 10, callback=callback)
    assert callback._is_success_buffer == [True, True]
    assert len(agent.ep_success_buffer) == 0


def test_the_distance_to_the_goal_is_that_at_the_end_of_each_episode_where_a_task_tells_it(tmp_path):
    """Countdown's number is 0 at the end; here the distance is it and ten times the episode."""

    class Far(Says):
        episode = 0

        def reset(self, **options):
            self.episode += 1
            return super().reset(**options)

        def step(self, action):
            *rest, info = super().step(action)
            return *rest, {**info, "goal_distance": np.float32(self._left + 10 * self.episode)}

    env = from_gymnasium([Far, lambda: Says(success=1.0)], ["far", "silent"])
    result = evaluate(toy_agent(env), env, 2)
    assert np.array_equal(result.goal_distance, [[10, 20], [math.nan, math.nan]], equal_nan=True)
    first, second = evaluation_rows(5, result)
    assert (first["goal_distance"], math.isnan(second["goal_distance"])) == (15, True)
    table = CsvTable(tmp_path / "evaluations.csv")
    table.append([first, second])
    assert table["goal_distance"].tolist()[0] == 15
    summary = summarize(result)
    found = [summary["tasks"][name]["goal_distance"] for name in ("far", "silent")]
    assert (*found, summary["mean"]["goal_distance"]) == (15, None, 15)
    column = success_table(summary, "x").columns[2]
    assert (column.header, list(column.cells)) == ("goal distance", ["15.000", "-", "15.000"])


def test_without_a_distance_nothing_speaks_of_it():
    result = evaluate(toy_agent(tasks({}, {})), tasks({}, {}), 1)
    assert not result.tells_distance
    assert not [key for row in (*evaluation_rows(0, result), summarize(result)["mean"]) for key in row if "dist" in key]
    assert "goal distance" not in [column.header for column in success_table(summarize(result), "x").columns]


def test_a_distance_that_is_no_number_is_told():
    env = tasks({"success": 0.0, "goal_distance": "far"})
    with pytest.raises(ValueError, match="expected one number as goal_distance, found 'far'"):
        evaluate(toy_agent(env), env, 1)


@pytest.mark.parametrize("wrapper", [Monitor, lambda env: env], ids=["monitor", "no monitor"])
def test_any_vector_environment_is_evaluated(wrapper):
    said = ({"success": 1.0}, {"goal_distance": None})
    env = DummyVecEnv([lambda i=i, info=info: wrapper(OneHot(i, reward=2.0, **info)) for i, info in enumerate(said)])
    result = evaluate(toy_agent(env), env, 3)
    assert np.array_equal(result.returns, np.full((2, 3), 6.0))
    assert np.array_equal(result.lengths, np.full((2, 3), 3.0))
    assert np.array_equal(result.success, [[1.0] * 3, [math.nan] * 3], equal_nan=True)


def test_success_at_any_step_counts_where_infos_tell_only_of_one():
    """Countdown succeeds at the second of its three steps."""

    class Counts(OneHot):
        def step(self, action):
            return *super().step(action)[:4], {"success": self._left == 1}

    env = DummyVecEnv([lambda i=i: Counts(i) for i in range(2)])
    result = evaluate(toy_agent(env), env, 2)
    assert (result.success.mean(), result.success_last.mean()) == (1.0, 0.0)
    assert (result.steps_to_success == 2).all()


def test_steps_to_success_are_those_of_the_episodes_that_succeed():
    """The first two of four episodes succeed at step 1 and, where only the end says so, at step 3."""

    class Sometimes(OneHot):
        episode = 0

        def reset(self, **options):
            self.episode += 1
            return super().reset(**options)

        def step(self, action):
            *rest, _ = super().step(action)
            at_once, at_end = self.episode % 4 == 1, self.episode % 4 == 2 and self._left == 0
            return *rest, {"success": at_once} if at_once or not at_end else {"is_success": True}

    env = DummyVecEnv([lambda i=i: Sometimes(i) for i in range(2)])
    result = evaluate(toy_agent(env), env, 4)
    assert np.array_equal(result.steps_to_success, [[1, 3, math.nan, math.nan]] * 2, equal_nan=True)
    assert np.array_equal(result.success, [[1, 1, 0, 0]] * 2)
    assert summarize(result)["mean"]["steps_to_success"] == 2.0


@pytest.mark.parametrize(
    ("env", "episodes", "message"),
    [
        (lambda: envs.toy.PointReach(0, 2), 1, "vector environment of Stable-Baselines3"),
        (lambda: gymnasium.make_vec("Pendulum-v1", num_envs=2), 1, "found SyncVectorEnv"),
        (lambda: envs.toy.make(num_tasks=2, seed=0), 0, "at least 1 episode per task, found 0"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(env, episodes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(toy_agent(), env(), episodes)


@pytest.mark.parametrize("workers", [0, 2])
def test_several_environments_per_task_play_the_same_episodes_in_a_share_of_the_steps(workers):
    """And each task all its goals, in order: the hands of a policy that only looks tell the goals apart."""
    names, found, steps = ["reach-v3", "push-v3"], {}, {}
    for copies in (1, 3) if workers else (1, 2, 3):
        env = envs.make(
            "custom", 0, workers, tasks=names, goals=4, horizon=5, goal_order="sequential", envs_per_task=copies
        )
        with contextlib.closing(env):
            agent = toy_agent(env, policy_kwargs=SMALL | {"actor_width": 300})
            with mock.patch.object(env, "step", wraps=env.step) as step:
                found[copies] = [evaluate(agent, env, 4) for _ in range(2)]
            steps[copies] = step.call_count // 2
    expected = found[1][0]
    assert len(set(expected.returns.ravel().tolist())) == 8
    for again in (evaluation for both in found.values() for evaluation in both):
        assert again.task_names == expected.task_names
        for one, other in zip(again[1:], expected[1:], strict=True):
            assert np.array_equal(one, other, equal_nan=True)
    assert steps == {copies: 5 * math.ceil(4 / copies) for copies in steps}


def test_tasks_without_goals_to_share_out_are_evaluated_one_by_one():
    env = envs.toy.make(2, seed=0, envs_per_task=2)
    with pytest.raises(ValueError, match="tasks with goals to share out, and whole episodes; found envs_per_task=2"):
        evaluate(toy_agent(env), env, 1)
