"""What `load` takes, what it refuses, and that a file is called damaged only if it is."""

import io
import math

import numpy as np
import pytest
import torch

import envs.toy
from agents import MTSAC, MultiTaskPolicy, StateFileError, load_checkpoint, save_checkpoint
from agents.networks.base import Stack
from agents.saving.state_file import read_state, write_state
from tests.helpers import SMALL, toy_agent

OBSERVATIONS = envs.toy.make(num_tasks=2, seed=3).reset()


class WithTanh(MultiTaskPolicy):
    """The same parameters, another function."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        layers = (torch.nn.Tanh() if isinstance(m, torch.nn.ReLU) else m for m in self.actor.torso)
        self.actor.torso = Stack(*layers)


class OtherTorso(MultiTaskPolicy):
    """A network of its own in place of a part."""

    renew, parts = True, ("actor",)

    def __init__(self, observation_space, action_space, lr_schedule, **kwargs):
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        for part in self.parts:
            getattr(self, part).torso = Stack(torch.nn.Linear(4, 16), torch.nn.Tanh())
        if self.renew:
            self.make_optimizers(lr_schedule)


class Untrained(OtherTorso):
    renew = False


class OtherCritic(OtherTorso):
    parts = ("critic",)


def acts(agent):
    return agent.predict(OBSERVATIONS, deterministic=True)[0]


def agent_with(policy):
    env = envs.toy.make(num_tasks=2, seed=0)
    settings = {"batch_size": 8, "learning_starts": 40, "buffer_size": 120, "seed": 0, "device": "cpu"}
    return MTSAC(policy, env, policy_kwargs=SMALL, log_every=1_000_000, **settings)


@pytest.fixture(scope="module")
def agent():
    agent = toy_agent()
    agent.learn(2 * 30)
    return agent


@pytest.fixture
def path(agent, tmp_path):
    agent.save(tmp_path / "agent")
    return tmp_path / "agent"


# Policies


@pytest.mark.parametrize("policy", ["MultiTaskMlpPolicy", "MlpPolicy", MultiTaskPolicy])
def test_a_policy_given_at_load_has_the_weights_of_the_file(policy, agent, path):
    assert np.array_equal(acts(MTSAC.load(path, policy=policy, device="cpu")), acts(agent))


@pytest.mark.parametrize("policy", [WithTanh, OtherTorso])
def test_an_own_policy_is_trained_saved_and_asked_for_by_name(policy, tmp_path):
    agent = agent_with(policy)
    start = [p.clone() for p in agent.actor.parameters()]
    agent.learn(2 * 40)
    assert all((p != before).any() for p, before in zip(agent.actor.parameters(), start, strict=True))
    agent.save(tmp_path / "agent")
    with pytest.raises(StateFileError, match=rf"policy {policy.__name__} of {__name__},.*policy={policy.__name__}"):
        MTSAC.load(tmp_path / "agent")
    loaded = MTSAC.load(tmp_path / "agent", policy=policy, env=envs.toy.make(num_tasks=2, seed=0), device="cpu")
    assert np.array_equal(acts(loaded), acts(agent))
    loaded.learn(2 * 5, reset_num_timesteps=False)


def test_a_policy_whose_parts_are_not_trained_is_refused():
    with pytest.raises(ValueError, match=r"Found none, .*actor\.torso\.0\.weight.*make_optimizers"):
        agent_with(Untrained)
    with pytest.raises(ValueError, match=r"critic and critic_target.*torso"):
        agent_with(OtherCritic)


def test_a_policy_alone_is_neither_saved_nor_loaded(agent, tmp_path):
    with pytest.raises(ValueError, match=r"agent\.save"):
        agent.policy.save(str(tmp_path / "policy"))
    with pytest.raises(ValueError, match=r"MTSAC\.load"):
        MultiTaskPolicy.load(str(tmp_path / "policy"))
    assert list(tmp_path.iterdir()) == []


# The caller's mistakes


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"learning_rte": 1e-4}, TypeError, "learning_rte is none; did you mean learning_rate"),
        ({"env_": None}, TypeError, "env_"),
        ({"_init_setup_model": True}, TypeError, "_init_setup_model"),
        ({"custom_objects": {"learning_rate": 1e-4}}, ValueError, "custom_objects"),
        ({"policy_kwargs": {"actor_width": 32}}, ValueError, "policy_kwargs"),
        ({"policy_kwargs": {"net_arch": [8]}}, ValueError, "net_arch"),
        ({"gamma": "much"}, ValueError, "gamma"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"capture": True}, ValueError, "CUDA"),
        ({"aggregator": "pcgrat"}, ValueError, "pcgrat"),
        ({"device": "gpu"}, RuntimeError, "gpu"),
        ({"trust": True, "aggregator": "mean"}, ValueError, "aggregator"),
    ],
    ids=str,
)
def test_a_wrong_change_is_no_damage(changes, kind, message, path):
    with pytest.raises(kind, match=message) as told:
        MTSAC.load(path, **changes)
    assert not isinstance(told.value, StateFileError)
    assert "damaged" not in str(told.value)
    assert "earlier checkpoint" not in str(told.value)


@pytest.mark.parametrize(
    "contents", [b"", b"\x80\x04pickle", b"version https://git-lfs.github.com/spec/v1\n"], ids=repr
)
def test_a_foreign_file_is_no_damage(contents, agent, tmp_path):
    (tmp_path / "other.pkl").write_bytes(contents)
    for reader in (MTSAC.load, agent.load_replay_buffer, agent.set_parameters):
        with pytest.raises(StateFileError, match="not one of our files") as told:
            reader(tmp_path / "other.pkl")
        assert "damaged" not in str(told.value)


def test_a_folder_is_named_with_what_lies_in_it(agent, tmp_path):
    checkpoint = save_checkpoint(tmp_path, agent, agent.env)
    with pytest.raises(FileNotFoundError, match=r"is a folder, with agent\.zip, buffer\.zip, loop\.zip in it"):
        MTSAC.load(checkpoint)


def test_a_buffer_of_other_tasks_is_no_damage(path, tmp_path):
    toy_agent(envs.toy.make(num_tasks=3, seed=0)).save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(StateFileError, match="agent with the same tasks") as told:
        MTSAC.load(path, device="cpu").load_replay_buffer(tmp_path / "buffer")
    assert "damaged" not in str(told.value)


def named(*names):
    env = envs.toy.make(num_tasks=len(names), seed=0)
    env.task_names = names
    return env


def test_a_buffer_and_parameters_of_tasks_in_another_order_are_refused(tmp_path):
    agent = toy_agent(named("a", "b"))
    agent.learn(2 * 25)
    agent.save_replay_buffer(tmp_path / "buffer")
    agent.save(tmp_path / "agent")
    for names in (("b", "a"), ("a", "c")):
        other = toy_agent(named(*names))
        before = [p.clone() for p in other.policy.parameters()]
        for read, name in ((other.load_replay_buffer, "buffer"), (other.set_parameters, "agent")):
            with pytest.raises(StateFileError, match=f"in their order: {', '.join(names)}; found a, b.* same tasks"):
                read(tmp_path / name)
        assert other.replay_buffer.size() == 0
        assert all(map(torch.equal, other.policy.parameters(), before))
    state = read_state(tmp_path / "buffer.zip", "buffer")
    del state["task_names"]  # as in the first versions
    write_state(tmp_path / "old.zip", "buffer", state)
    other.load_replay_buffer(tmp_path / "old")
    assert other.replay_buffer.size() == 25


def test_a_checkpoint_needs_an_environment_with_a_state(agent, tmp_path):
    checkpoint = save_checkpoint(tmp_path, agent, agent.env)
    for call in (lambda: save_checkpoint(tmp_path, agent, object()), lambda: load_checkpoint(checkpoint, object())):
        with pytest.raises(TypeError, match="get_state"):
            call()


def test_a_file_that_may_not_be_read_is_no_damage(path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(PermissionError):
        MTSAC.load(path)


# Stable-Baselines3's ways


def test_open_files_are_written_and_read(agent, tmp_path):
    memory = io.BytesIO()
    agent.save(memory)
    assert np.array_equal(acts(MTSAC.load(memory, device="cpu")), acts(agent))
    with (tmp_path / "buffer").open("w+b") as file:
        agent.save_replay_buffer(file)
        loaded = MTSAC.load(memory, device="cpu")
        loaded.load_replay_buffer(file)
    assert torch.equal(loaded.replay_buffer.rows[:29], agent.replay_buffer.rows[:29])  # the newest row is cut off
    with (tmp_path / "buffer").open() as text, pytest.raises(TypeError):
        MTSAC.load(text)


def test_a_file_is_read_by_the_name_that_it_has(agent, tmp_path):
    agent.save(tmp_path / "agent")
    (tmp_path / "agent.zip").rename(tmp_path / "agent.mtsac")
    assert MTSAC.load(tmp_path / "agent.mtsac", device="cpu").steps_per_task == 30


def test_arguments_of_stable_baselines3(path, capsys):
    MTSAC.load(path, None, "cpu", {}, True)  # in its order: custom_objects, print_system_info
    assert "PyTorch" in capsys.readouterr().out


def test_parameters_are_set_from_a_file(agent, path):
    other = toy_agent(seed=5)
    assert not np.array_equal(acts(other), acts(agent))
    other.set_parameters(path)
    assert np.array_equal(acts(other), acts(agent))
    moments = [o.actor.optimizer.state_dict()["state"][0]["exp_avg"] for o in (other, agent)]
    assert torch.equal(*moments)


@pytest.mark.parametrize("truncate", [True, False])
def test_no_sum_of_rewards_leads_from_a_loaded_buffer_into_the_next_episode(truncate, tmp_path):
    agent = toy_agent(n_steps=3)
    agent.learn(2 * 30)
    agent.save_replay_buffer(tmp_path / "buffer")
    agent.learn(2 * 5, reset_num_timesteps=False)
    agent.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=truncate)
    agent.learn(2 * 5, reset_num_timesteps=False)
    *_, discounts = agent.replay_buffer._get_samples(np.array([29]))
    assert torch.allclose(discounts, torch.tensor(agent.gamma ** (1 if truncate else 3), dtype=discounts.dtype))


def test_numbers_that_json_lacks_come_back(tmp_path):
    write_state(tmp_path / "a.zip", "test", {"numbers": [math.nan, -math.inf, 1.5], "numpy": np.float64("nan")})
    back = read_state(tmp_path / "a.zip", "test")
    assert math.isnan(back["numbers"][0])
    assert back["numbers"][1:] == [-math.inf, 1.5]
    assert math.isnan(back["numpy"])
    assert b"NaN" not in (tmp_path / "a.zip").read_bytes()


@pytest.mark.parametrize("kind", ["none", "brc", "reward-std", "popart"])
def test_parameters_come_with_the_units_that_they_learned_in(kind, tmp_path):
    form = {**SMALL, "multi_head": True}
    agent = toy_agent(return_scale=kind, policy_kwargs=form)
    agent.learn(2 * 45)
    agent.save(tmp_path / "agent")
    other, foreign = (toy_agent(return_scale=scale, policy_kwargs=form, seed=5) for scale in (kind, "none"))
    for each in (other, foreign):
        each.set_parameters(tmp_path / "agent")
    ours, theirs = (each.return_scale.divisor(torch.ones(2)) for each in (agent, other))
    assert torch.equal(ours, theirs)
    assert (kind == "none") == torch.equal(ours, foreign.return_scale.scale)
