"""CARE with fixed vectors of the tasks from a file: what it computes, what is saved, and which files are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import envs.toy
from agents import MTSAC, load_actor, load_checkpoint, save_actor, save_checkpoint
from agents.fields import SettingError
from agents.networks.task_vectors import as_task_vectors, read_task_vectors
from agents.saving.agent_file import settings_state, training_state
from mtrl.gradients import per_task_gradients
from scripts.setup.build import agent_settings, require_settings
from scripts.setup.config import TrainConfig
from scripts.setup.presets import PRESETS
from tests.helpers import SMALL, assert_same_tensors, toy_agent
from tests.small_policies import T, actor_losses, batch, critic_losses, jacobian_of, make_policy, recorded

VECTORS = np.random.default_rng(0).normal(size=(T, 5)).astype(np.float32)
NAMES = envs.toy.names(2)


@pytest.fixture
def file(tmp_path):
    """Of the toy tasks, in another order, and of one more."""
    path = tmp_path / "vectors.json"
    named = zip((*reversed(NAMES), "another-task"), VECTORS.tolist(), strict=True)
    path.write_text(json.dumps(dict(named)))
    return path


def agent_with(file, env=None, **settings):
    form = {**SMALL, "conditioning": "care", "experts": 2, "embedding_size": 3, "task_embeddings": str(file)}
    return toy_agent(env, policy_kwargs=form, **settings)


@pytest.mark.parametrize(("name", "losses_of"), [("actor", actor_losses), ("critic", critic_losses)])
def test_one_backward_pass_gives_what_one_per_task_gives(name, losses_of):
    policy = make_policy(conditioning="care", task_vectors=VECTORS, experts=2, embedding_size=3)
    tape, losses = recorded(policy, name, losses_of)
    expected = per_task_gradients(losses, tape.parameters)
    assert ((jacobian_of(tape, losses) - expected).norm(dim=1) <= 1e-12 * expected.norm(dim=1)).all()
    network = getattr(policy, name)
    assert not network.task_parameters()
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in tape.parameters)


def test_it_is_a_learned_one_whose_vectors_are_made_of_the_fixed():
    """The layers before the learned one's, written plainly, one critic at a time."""
    fixed, learned = (
        make_policy(conditioning="care", embedding_size=3, **form).critic for form in ({"task_vectors": VECTORS}, {})
    )
    layers = fixed.embedding.context
    assert [m.weight.shape[1:] for m in layers if not isinstance(m, nn.ReLU)] == [(5, 6), (6, 3), (3, 50), (50, 50)]
    first, second = layers[1], layers[3]
    made = []
    for member in range(2):
        x = torch.as_tensor(VECTORS).double().relu() @ first.weight[member] + first.bias[member]
        made.append(x.relu() @ second.weight[member] + second.bias[member])
    state = {
        name.replace("context.5", "context.1").replace("context.7", "context.3"): value
        for name, value in fixed.state_dict().items()
        if "context.1" not in name and "context.3" not in name
    }
    learned.load_state_dict({**state, "embedding.table": torch.stack(made)})
    torch.testing.assert_close(fixed(*batch()), learned(*batch()))


def test_the_vectors_stay_and_are_those_of_the_tasks(file):
    agent = agent_with(file)
    agent.learn(2 * 25)
    for network in (agent.actor, agent.critic, agent.critic_target):
        table = network.embedding.table
        assert not table.requires_grad
        assert "embedding.table" not in network.state_dict()
        assert torch.equal(table, torch.as_tensor(VECTORS[[1, 0]]).expand_as(table))


def test_a_resumed_agent_needs_no_file_and_goes_on_bit_for_bit(file, tmp_path):
    whole = agent_with(file)
    whole.learn(2 * 30)
    env = envs.toy.make(num_tasks=2, seed=0)
    agent = agent_with(file, env)
    agent.learn(2 * 25)
    path = save_checkpoint(tmp_path, agent, env)
    save_actor(agent, tmp_path / "actor.safetensors")
    rows = np.concatenate([np.ones((2, 2)), np.eye(2)], 1).astype(np.float32)
    acted = agent.predict(rows, deterministic=True)[0]
    file.unlink()
    assert np.array_equal(load_actor(tmp_path / "actor.safetensors").predict(rows, deterministic=True)[0], acted)
    env = envs.toy.make(num_tasks=2, seed=0)
    resumed = load_checkpoint(path, env, device="cpu")
    resumed.learn(2 * 5, reset_num_timesteps=False)
    assert_same_tensors(training_state(whole), training_state(resumed))


def test_vectors_may_be_exchanged_when_an_agent_is_loaded(file, tmp_path):
    agent_with(file).save(tmp_path / "agent")
    file.write_text(json.dumps({name: [0.5] * 5 for name in NAMES}))
    other = {"task_embeddings": str(file)}
    loaded = MTSAC.load(tmp_path / "agent", device="cpu", policy_kwargs=other)
    assert (loaded.actor.embedding.table == 0.5).all()
    file.write_text(json.dumps({name: [0.5] * 6 for name in NAMES}))
    with pytest.raises(ValueError, match="size mismatch"):
        MTSAC.load(tmp_path / "agent", device="cpu", policy_kwargs=other)


def test_a_run_goes_on_with_what_its_agent_holds(file):
    """config.json names the file, the agent holds what was in it."""
    config = replace(PRESETS["toy"].config, conditioning="care", experts=2, task_embeddings=str(file))
    assert agent_settings(config, 2)["policy_kwargs"]["task_embeddings"] == str(file)
    agent = agent_with(file)
    asked = replace(config, **{name: 16 if "width" in name else 2 for name in SMALL}, embedding_size=3)
    saved = settings_state(agent)
    same = dict(saved["policy_kwargs"])
    require_settings(asked, {**agent_settings(asked, 2), "task_names": NAMES, "policy_kwargs": same}, file)
    old = {name: value for name, value in config.to_json().items() if name != "task_embeddings"}
    assert TrainConfig.from_json(old).task_embeddings == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"a file that can be read \(No such file or directory\); found '.*vectors\.json'"),
        ("PK\x03\x04", "JSON, .* in .*; found 'no such text'"),
        ("\udcff", "found 'no such text'"),
        ("[" * 100_000, "found 'no such text'"),
        ("[[1, 2], [3, 4]]", "one table, .*; found 'list'"),
        ("{}", "a vector for each task, so for point-0, point-1, too, .*; found 'no task'"),
        ('{"reach-v3": [1]}', r"so for point-0, point-1, too, .*; found 'reach-v3 \.\.\.'"),
        ('{"point-0": [1], "pont-1": [1]}', r"so for point-1, too, .*; found 'point-0, pont-1 \.\.\.'"),
        ('{"point-0": [1, 2], "point-1": [1]}', "one length, 2 as for point-0, .*; found '1 for point-1'"),
        ('{"point-0": [1], "point-1": [NaN]}', "finite numbers for point-1 .*; found 'NaN, or"),
        ('{"point-0": [1e39], "point-1": [1]}', "finite numbers for point-0 "),
        (f'{{"point-0": [1{"0" * 400}], "point-1": [1]}}', "finite numbers for point-0 "),
        ('{"point-0": [1], "point-1": "abc"}', "a list of numbers for point-1 .*; found 'abc'"),
        ('{"point-0": [1], "point-1": [true]}', r"a list of numbers for point-1 .*; found \[True\]"),
        ('{"point-0": [], "point-1": []}', "a list of numbers for point-0 "),
        ('{"point-0": [1], "point-1": [1], "point-0": [2]}', "each name once in .*; found 'several of point-0'"),
    ],
)
def test_a_file_that_does_not_do_is_refused_in_one_line(text, message, tmp_path):
    path = tmp_path / "vectors.json"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"^task_embeddings: expected .*{message}") as told:
        read_task_vectors(path, ("point-0", "point-1"))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"task_vectors": VECTORS}, "task_embeddings: expected none beside conditioning='one-hot', as care alone"),
        (
            {"task_vectors": VECTORS[:2], "conditioning": "care"},
            "a finite vector for each of 3 tasks; .* shape \\(2, 5",
        ),
        ({"task_vectors": VECTORS * np.inf, "conditioning": "care"}, "task_vectors: expected a finite vector"),
        ({"task_embeddings": "x.json", "conditioning": "care"}, "a file that an agent reads: give .* task_vectors"),
    ],
    ids=["unused", "too few", "infinite", "a policy by itself"],
)
def test_vectors_that_make_no_sense_are_refused(form, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**form)


@pytest.mark.parametrize(
    "vectors",
    [
        np.full((2, 3), 1e300),  # infinite in float32
        np.zeros((2, 0)),
        np.ones((2, 3), complex),
        np.ones((2, 3), bool),
        [["a"], ["b"]],
        [[1.0, None], [2.0, 3.0]],
        [[1.0], [1.0, 2.0]],
        torch.full((2, 3), torch.nan),
        "vectors.json",
    ],
    ids=["huge", "empty", "complex", "bool", "text", "None", "ragged", "NaN", "a path"],
)
def test_vectors_of_other_kinds_are_refused(vectors):
    with pytest.raises(SettingError, match=r"^task_vectors: expected a finite vector for each of 2 tasks; found"):
        as_task_vectors(vectors, 2)


@pytest.mark.parametrize(
    "given",
    [
        np.asfortranarray,
        np.ndarray.tolist,
        lambda vectors: vectors.astype(np.float64),
        lambda vectors: torch.tensor(vectors, requires_grad=True),
        lambda vectors: torch.tensor(vectors, dtype=torch.bfloat16),
    ],
    ids=["by columns", "lists", "float64", "tensor", "bfloat16"],
)
def test_vectors_may_come_in_many_forms_and_are_saved_in_one(given, tmp_path):
    vectors = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    form = {**SMALL, "conditioning": "care", "experts": 2, "embedding_size": 3, "task_vectors": given(vectors)}
    agent = toy_agent(policy_kwargs=form)
    assert torch.equal(agent.actor.embedding.table, torch.as_tensor(vectors))
    agent.save(tmp_path / "agent")
    save_actor(agent, tmp_path / "actor.safetensors")
    rows = np.concatenate([np.ones((2, 2)), np.eye(2)], 1).astype(np.float32)
    acted = agent.predict(rows, deterministic=True)[0]
    for loaded in (MTSAC.load(tmp_path / "agent", device="cpu"), load_actor(tmp_path / "actor.safetensors", "cpu")):
        assert np.array_equal(loaded.predict(rows, deterministic=True)[0], acted)
