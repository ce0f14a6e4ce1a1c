"""N steps, a checkpoint and N more steps give, bit for bit, what 2 N steps give."""

import functools

import pytest

from agents import CheckpointCallback, load_checkpoint, save_checkpoint
from tests.helpers import EVERYTHING, logged, toy_agent
from tests.states import assert_bit_equal, learned, make_env, state_of, surgery_options, undisturbed

STEPS, BUFFER = 33, 55  # per task: stops in mid-episode, and the buffer wraps in the second half


@pytest.mark.parametrize(
    ("aggregator", "kind", "overlap"),  # every two of their values meet
    [
        ("mean", "in-process", True),
        ("mean", "workers", False),
        ("pcgrad", "in-process", False),
        ("pcgrad", "workers", True),
    ],
)
def test_learn_save_load_learn(tmp_path, aggregator, kind, overlap):
    settings = {"aggregator": aggregator, "overlap": overlap, "buffer_size": BUFFER}
    env = make_env(kind)
    agent = toy_agent(env, **settings)
    agent.learn(2 * STEPS)
    path = save_checkpoint(tmp_path, agent, env)
    env.close()

    env = make_env(kind)
    resumed = load_checkpoint(path, env, device="cpu")
    assert resumed.steps_per_task == STEPS
    resumed.learn(2 * STEPS, reset_num_timesteps=False)
    state = state_of(resumed, env)
    env.close()
    assert_bit_equal(state, undisturbed("in-process", 2 * STEPS, **settings))


@pytest.mark.parametrize("settings", [{}, {"overlap": False}, {"train_freq": 5, "gradient_steps": 2}], ids=str)
def test_a_checkpoint_from_inside_training(tmp_path, settings):
    """The step is stored and its update still to come; the disturbed run is stopped a while after the checkpoint."""
    settings = {"aggregator": "pcgrad", "buffer_size": BUFFER, **settings}
    env = make_env("in-process")
    agent = toy_agent(env, **settings)
    agent.learn(2 * (STEPS + 13), callback=CheckpointCallback(tmp_path, every=STEPS))

    env = make_env("in-process")
    resumed = load_checkpoint(tmp_path / f"step_{STEPS:09d}", env, device="cpu")
    resumed.learn(2 * STEPS, reset_num_timesteps=False)
    assert_bit_equal(state_of(resumed, env), undisturbed("in-process", 2 * STEPS, **settings))


@pytest.mark.parametrize("step", [15, 60])  # staggered first episodes end at 7, 13, 19 and 25 vector steps
def test_two_environments_per_task(tmp_path, step):
    kind, settings = "two per task", {"gradient_steps": 2, "buffer_size": BUFFER}
    agent = toy_agent(make_env(kind), **settings)
    agent.learn(2 * (step + 7), callback=CheckpointCallback(tmp_path, every=step))

    env = make_env(kind)
    path = tmp_path / f"step_{step + step % 2:09d}"  # the first vector step at or past it
    resumed = load_checkpoint(path, env, device="cpu")
    resumed.learn(2 * 2 * STEPS - resumed.num_timesteps, reset_num_timesteps=False)
    assert_bit_equal(state_of(resumed, env), undisturbed(kind, 2 * STEPS, **settings))


@pytest.mark.parametrize("options", [surgery_options(), EVERYTHING], ids=["surgery", "value learning"])
def test_every_option_survives(tmp_path, options):
    total = 60
    env = make_env("in-process")
    agent = toy_agent(env, **options)
    agent.learn(2 * total, callback=CheckpointCallback(tmp_path, every=33))
    env2 = make_env("in-process")
    resumed = load_checkpoint(tmp_path / "step_000000033", env2, device="cpu")
    resumed.learn(2 * (total - 33), reset_num_timesteps=False)
    assert_bit_equal(state_of(resumed, env2), state_of(agent, env))


@pytest.mark.parametrize("step", [19, 20, 21, 29, 39])  # the first update follows step 20
def test_logs_are_the_same_too(tmp_path, step):
    """Also those of the row that comes before the first update after a resume."""
    agent = toy_agent(log_every=10)
    before = logged(agent, step)
    path = save_checkpoint(tmp_path, agent, agent.env)
    after = logged(load_checkpoint(path, make_env("in-process"), device="cpu"), 50 - step, reset_num_timesteps=False)
    assert [without_seconds(row) for row in [*before, *after]] == [without_seconds(row) for row in logged_in_one_go()]


@functools.cache
def logged_in_one_go():
    return logged(toy_agent(log_every=10), 50)


def without_seconds(row):
    return {key: repr(value) for key, value in row.items() if "seconds" not in key}


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    agent = toy_agent()
    (tmp_path / "step_000000001.partial").mkdir()
    agent.learn(2 * 40, callback=CheckpointCallback(tmp_path, every=10, keep=2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000000030", "step_000000040"]


def test_two_runs_with_one_seed_are_equal_and_with_another_are_not():
    first, second, other = (learned("in-process", 40, seed=seed) for seed in (0, 0, 1))
    assert_bit_equal(first, second)
    with pytest.raises(AssertionError):
        assert_bit_equal(first, other)
