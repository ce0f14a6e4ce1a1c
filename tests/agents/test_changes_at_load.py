"""What of an agent changes when it is loaded with other arguments, and what cannot."""

import pytest
import torch

import envs.toy
from agents import MTSAC, IndependentSAC
from tests.helpers import SMALL, toy_agent


def groups_of(agent):
    options = ("weight_decay", "betas", "eps", "decoupled_weight_decay")
    return [[optimizer.param_groups[0].get(name) for name in options] for optimizer in agent.update.all_optimizers()]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"weight_decay": 0.1}),
        ({"weight_decay": 0.1}, {"weight_decay": 0.0}),
        ({"weight_decay": 0.1}, {"weight_decay": 0.2}),
        ({}, {"actor_l2": 0.1, "optimizer_kwargs": {"eps": 1e-3, "betas": (0.5, 0.9)}}),
    ],
    ids=str,
)
def test_a_loaded_agent_optimizes_as_one_that_was_made_so(before, after, tmp_path):
    agent = toy_agent(policy_kwargs={**SMALL, **before})
    agent.learn(2 * 25)
    agent.save(tmp_path / "agent")
    loaded = MTSAC.load(tmp_path / "agent", device="cpu", policy_kwargs=after)
    assert groups_of(loaded) == groups_of(toy_agent(policy_kwargs={**SMALL, **after}))
    moments = [each.critic.optimizer.state_dict()["state"] for each in (loaded, agent)]
    pairs = zip(*map(dict.values, moments), strict=True)
    assert all(torch.equal(ours[name], theirs[name]) for ours, theirs in pairs for name in theirs)
    loaded.set_parameters(tmp_path / "agent")
    assert groups_of(loaded) == groups_of(toy_agent(policy_kwargs={**SMALL, **after}))


def test_a_plain_sac_is_loaded_with_other_options_of_its_optimizers(tmp_path):
    env, sizes = envs.toy.make(num_tasks=2, seed=0), {**SMALL, "optimizer_kwargs": {"eps": 1e-5}}
    IndependentSAC("MlpPolicy", env, policy_kwargs=sizes, seed=0, device="cpu").save(tmp_path / "agent")
    changed = IndependentSAC.load(tmp_path / "agent", policy_kwargs={"optimizer_kwargs": {"eps": 1e-3}}, device="cpu")
    sac = changed.learners[0].sac
    assert [each.param_groups[0]["eps"] for each in (sac.actor.optimizer, sac.critic.optimizer)] == [1e-3, 1e-3]


def test_temperatures_have_no_weight_decay():
    agent = toy_agent(policy_kwargs={**SMALL, "optimizer_kwargs": {"weight_decay": 0.5, "eps": 1e-5}})
    options = [each.param_groups[0] for each in agent.update.all_optimizers()]
    assert [each["weight_decay"] for each in options] == [0.5, 0.5, 0.0]
    assert {each["eps"] for each in options} == {1e-5}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"return_scale": "brc"}, {"policy_kwargs": {"v_max": 5.0}}, "critics learned with v_max=10.0; found 5.0"),
        (
            {"return_scale": "brc", "policy_kwargs": {**SMALL, "critic_head": "c51", "v_max": 7.0}},
            {"policy_kwargs": {"v_max": 5.0}},
            "critics learned with v_max=7.0; found 5.0",
        ),
        ({"ent_coef": "auto_0.1"}, {"ent_coef": "auto_0.5"}, "temperatures learned with ent_coef='auto_0.1'; found"),
        ({"ent_coef": 0.1}, {"ent_coef": "auto"}, "expected a number for ent_coef"),
        ({}, {"shared_temperature": True}, "learned with shared_temperature=False; found True"),
        ({}, {"goal_temperature": True, "episode_batches": True}, "learned with goal_temperature=False; found True"),
        ({"return_scale": "brc"}, {"return_scale": "none"}, "learned with return_scale='brc'; found 'none'"),
    ],
    ids=str,
)
def test_what_an_agent_learned_with_stays(before, after, message, tmp_path):
    toy_agent(**before).save(tmp_path / "agent")
    with pytest.raises(ValueError, match=message):
        MTSAC.load(tmp_path / "agent", **after)
    same = {name: before[name] for name in after.keys() & before.keys()}
    MTSAC.load(tmp_path / "agent", device="cpu", **same)


@pytest.mark.parametrize("before", [{}, {"shared_temperature": True}], ids=str)
def test_a_number_fixes_temperatures_whatever_they_learned_with(before, tmp_path):
    toy_agent(**before).save(tmp_path / "agent")
    loaded = MTSAC.load(tmp_path / "agent", device="cpu", ent_coef=0.1, shared_temperature=False)
    assert not loaded.settings.shared_temperature


@pytest.mark.parametrize(("given", "anew"), [((5,), []), ((5, 30), []), ((5, 33, 60), [33])], ids=str)
def test_networks_do_not_begin_anew_for_steps_that_were_past_when_they_were_named(given, anew, tmp_path):
    agent = toy_agent()
    agent.learn(2 * 30)
    agent.save(tmp_path / "agent")
    loaded = MTSAC.load(tmp_path / "agent", envs.toy.make(num_tasks=2, seed=0), device="cpu", reset_at=given)
    found = []
    loaded._restart_networks = lambda: found.append(loaded.steps_per_task)
    loaded.learn(2 * 10, reset_num_timesteps=False)
    assert found == anew


def test_first_temperatures_are_within_their_limits(tmp_path):
    """At the start, after a reset, and where a limit comes with `load`."""
    for limit, expected in (({"ent_coef_max": 0.2}, 0.2), ({"ent_coef_min": 3.0}, 3.0), ({"ent_coef_max": 2.0}, 1.0)):
        agent = toy_agent(**limit)
        temperatures = agent.update.temperatures
        assert temperatures.values().tolist() == pytest.approx([expected] * 2)
        agent.learn(2 * 30)
        temperatures.restart()
        assert temperatures.values().tolist() == pytest.approx([expected] * 2)
    agent.save(tmp_path / "agent")
    loaded = MTSAC.load(tmp_path / "agent", device="cpu", ent_coef_max=0.2)
    assert loaded.update.temperatures.values().tolist() == pytest.approx([0.2] * 2)
