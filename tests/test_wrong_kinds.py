"""Values of the wrong kind are refused by name at the door, not by what they break later; numpy's numbers are taken."""

import numpy as np
import pytest
import torch

import envs
import mtrl
from agents import MTSAC, IndependentSAC, evaluate
from mtrl.aggregators.registry import AGGREGATORS
from tests.helpers import toy_agent

NOT_WHOLE = [True, 2.5, float("nan"), "3", None, -1]


@pytest.mark.parametrize("name", ["seed", "horizon", "envs_per_task", "goals"])
def test_whole_numbers_of_environments(name):
    for wrong in NOT_WHOLE:
        with pytest.raises(ValueError, match=rf"expected {name} to be a whole number .*, found {wrong!r}"):
            envs.make("toy", **{"seed": 0, name: wrong})


def test_numpys_whole_numbers_make_the_same_environments():
    given = {"seed": 3, "horizon": 5, "envs_per_task": 2, "workers": 0}
    env, other = envs.make("toy", **given), envs.make("toy", **{name: np.int64(n) for name, n in given.items()})
    assert np.array_equal(env.reset(), other.reset())
    assert type(other.envs_per_task) is int


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"suite": None}, "expected the name of a suite"),
        ({"suite": "custom", "tasks": "reach-v3"}, r"expected a list of tasks, found 'reach-v3'; give \['reach-v3'\]"),
        ({"suite": "custom", "tasks": [3]}, "expected one of 50 tasks .*, found 3"),
        ({"suite": "toy", "only": "point-9"}, "found 'point-9'; did you mean point-"),
        ({"suite": "toy", "workers": True}, "expected workers 'auto' or 0"),
        (
            {"suite": "custom", "tasks": ["reach-v3"], "goals": {"reach-v3": np.zeros((2, 2))}, "workers": 0},
            r"reach-v3: expected goals of 6 numbers each, found shape \(2, 2\)",
        ),
    ],
)
def test_environments_of_other_kinds(given, message):
    with pytest.raises(ValueError, match=message):
        envs.make(**{"seed": 0, **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"env": None}, "Expected an environment, found None"),
        ({"device": "gpu"}, "device: expected auto, cpu, cuda or another one of torch's; found 'gpu'"),
        ({"device": 2.5}, "device: expected"),
        *(({f"{group}_kwargs": [1]}, f"{group}_kwargs: expected a dict") for group in ("aggregator", "replay_buffer")),
        ({"policy_kwargs": 5}, "policy_kwargs: expected a dict"),
    ],
)
def test_agents_of_other_kinds(given, message):
    with pytest.raises(ValueError, match=message):
        MTSAC("MultiTaskMlpPolicy", **{"env": two_tasks(), **given})


def test_independent_agents_need_an_environment():
    with pytest.raises(ValueError, match="Expected an environment, found None"):
        IndependentSAC("MlpPolicy", None)


def two_tasks():
    return envs.toy.make(num_tasks=2, seed=0)


@pytest.mark.parametrize("wrong", [0, 1.5, "2", None])
def test_episodes_of_an_evaluation(wrong):
    with pytest.raises(ValueError, match="Expected a whole number of at least 1 episode per task, found"):
        evaluate(toy_agent(), two_tasks(), wrong)


def test_an_evaluation_of_no_agent_or_of_other_tasks():
    with pytest.raises(ValueError, match="Expected an agent, with a method predict; found NoneType"):
        evaluate(None, two_tasks(), 1)
    with pytest.raises(ValueError, match=r"This agent was built for the tasks .*point-1.*, the environment has"):
        evaluate(toy_agent(), envs.make("toy", 0, workers=0, tasks=["point-0"]), 1)


def test_a_save_without_a_name():
    with pytest.raises(ValueError, match="has an empty name"):
        toy_agent().save("")


WHOLE = [  # (method, option)
    ("nash_mtl", "every"),
    ("sdmgrad", "steps"),
    ("dwa", "window"),
    ("scheduled:pcgrad", "period"),
    ("pcgrad", "seed"),
]


@pytest.mark.parametrize(("method", "option"), WHOLE)
def test_whole_numbers_of_aggregators(method, option):
    for wrong in [*NOT_WHOLE, torch.tensor(3)]:
        with pytest.raises(ValueError, match=f"{option} must"):
            mtrl.make_aggregator(method, **{option: wrong})


def test_numpys_numbers_are_options():
    assert mtrl.CAGrad(c=np.float32(0.5)).hyperparameters() == mtrl.CAGrad(c=0.5).hyperparameters()
    assert mtrl.PCGrad(seed=np.int64(3)).hyperparameters() == mtrl.PCGrad(seed=3).hyperparameters()


@pytest.mark.parametrize(
    "jacobian", [np.ones((2, 3)), [[1.0]], torch.ones(2, 3).int(), torch.ones(2, 3).cfloat(), None], ids=type
)
def test_a_jacobian_is_a_tensor_of_floats(jacobian):
    for name in AGGREGATORS:
        with pytest.raises(TypeError, match="expected Jacobian and losses as tensors of floating-point numbers"):
            mtrl.make_aggregator(name)(jacobian, torch.ones(2))


def test_a_jacobian_has_tasks():
    with pytest.raises(ValueError, match=r"found a Jacobian \(0, 3\)"):
        mtrl.PCGrad()(torch.ones(0, 3), torch.ones(0))


def test_gradients_of_nothing():
    with pytest.raises(ValueError, match="expected at least one shared parameter"):
        mtrl.per_task_gradients(torch.ones(2, requires_grad=True), [])


@pytest.mark.parametrize(
    ("name", "message"), [(None, "expected the name of an aggregator"), ("PCGrad", "did you mean pcgrad")]
)
def test_names_of_aggregators(name, message):
    with pytest.raises((TypeError, ValueError), match=message):
        mtrl.make_aggregator(name)
