"""Files of ours: exact round trips, and nothing in a file is ever run."""

import pickle
import zipfile

import numpy as np
import pytest
import torch

from agents import MTSAC, StateFileError
from agents.saving import state_file
from agents.saving.state_file import read_state, write_state
from tests.helpers import Bomb, toy_agent


def test_nested_state_comes_back_exactly(tmp_path):
    state = {
        "numbers": [1, 2.5, None, True, 2**100, float("inf")],
        "pair": (1, "a"),
        "by_int": {0: torch.arange(3), 7: {"x": np.float64(2.0)}},
        "array": np.eye(2),
        "empty": {"tensor": torch.zeros(0, 3), "list": []},
        "view": torch.arange(6).view(2, 3).T,
        "bfloat16": torch.tensor([1.5, -3.0], dtype=torch.bfloat16),
    }
    write_state(tmp_path / "a.zip", "test", state)
    back = read_state(tmp_path / "a.zip", "test")
    assert back["numbers"] == state["numbers"]
    assert back["pair"] == (1, "a")
    assert torch.equal(back["by_int"][0], torch.arange(3))
    assert back["by_int"][7] == {"x": 2.0}
    assert isinstance(back["array"], np.ndarray)
    assert torch.equal(back["view"], state["view"])
    assert back["empty"]["tensor"].shape == (0, 3)
    assert back["bfloat16"].dtype == torch.bfloat16
    assert back["bfloat16"].tolist() == [1.5, -3.0]


def test_a_file_holds_no_objects(tmp_path):
    with pytest.raises(TypeError, match="function cannot be saved"):
        write_state(tmp_path / "a.zip", "test", {"schedule": lambda _: 1.0})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_is_refused_and_not_run(tmp_path, wrapped):
    mark, path = tmp_path / "mark", tmp_path / "agent.zip"
    path.write_bytes(pickle.dumps(Bomb(mark)))
    if wrapped:  # as the members that Stable-Baselines3 would unpickle
        body = path.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data", body)
            archive.writestr("pytorch_variables.pth", body)
    with pytest.raises(StateFileError, match="trust=True" if wrapped else "not one of our files"):
        MTSAC.load(path)
    with pytest.raises(StateFileError):
        toy_agent().load_replay_buffer(path)
    assert not mark.exists()
    with pickle.loads(pickle.dumps(Bomb(mark))):
        assert mark.exists()  # the bomb works


def test_damage_is_told(tmp_path):
    path = tmp_path / "agent.zip"
    toy_agent().save(path)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 0xFF
    path.write_bytes(body)
    with pytest.raises(StateFileError, match=r"damaged|not one of our files"):
        MTSAC.load(path)
    path.write_bytes(body[: len(body) // 2])
    with pytest.raises(StateFileError):
        MTSAC.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        MTSAC.load(tmp_path / "nowhere")


def test_a_buffer_is_not_an_agent(tmp_path):
    agent = toy_agent()
    agent.learn(4)
    agent.save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(StateFileError, match=r"kind 'agent'; found .*kind 'buffer'"):
        MTSAC.load(tmp_path / "buffer")


def test_an_agent_without_environment_acts_the_same(tmp_path):
    agent = toy_agent(policy_kwargs={"actor_width": 8, "critic_width": 8, "multi_head": True})
    agent.learn(120)
    agent.save(tmp_path / "agent")
    loaded = MTSAC.load(tmp_path / "agent", device="cpu")
    assert loaded.task_names == agent.task_names
    observations = agent.env.reset()
    assert np.array_equal(loaded.eval_action(observations), agent.eval_action(observations))
    changed = MTSAC.load(tmp_path / "agent", device="cpu", learning_rate=1e-5)
    assert changed.lr_schedule(1) == 1e-5


def test_sb3s_format_only_on_request(tmp_path):
    agent = toy_agent(aggregator="mean")
    agent.learn(120)
    agent.export_sb3(tmp_path / "sb3.zip")
    with pytest.raises(StateFileError, match="trust=True"):
        MTSAC.load(tmp_path / "sb3.zip")
    loaded = MTSAC.load(tmp_path / "sb3.zip", trust=True, device="cpu")
    assert type(loaded.aggregator).__name__ == "Mean"
    observations = agent.env.reset()
    assert np.array_equal(loaded.eval_action(observations), agent.eval_action(observations))


@pytest.mark.parametrize("shape", [(1,), (0,), (3,), ()])
def test_expanded_tensors_are_written_as_any_other(tmp_path, shape):
    """One task's numbers may have no stride at all; their bytes are there all the same."""
    tensor = torch.tensor(2.5, dtype=torch.float64).expand(shape)
    write_state(tmp_path / "x.zip", "test", {"a": tensor, "b": torch.arange(6).view(2, 3).T})
    found = read_state(tmp_path / "x.zip", "test")
    assert torch.equal(found["a"], tensor)
    assert torch.equal(found["b"], torch.arange(6).view(2, 3).T)


@pytest.mark.parametrize("start", ["auto", "auto_0.5"])
def test_a_fixed_temperature_does_not_become_a_learned_one(start, tmp_path):
    toy_agent(ent_coef=0.1).save(tmp_path / "agent")
    with pytest.raises(
        ValueError, match=r"expected a number for ent_coef.*fixed temperature \(0\.1\).*found 'auto"
    ) as told:
        MTSAC.load(tmp_path / "agent", device="cpu", ent_coef=start)
    assert "damaged" not in str(told.value)
    assert MTSAC.load(tmp_path / "agent", device="cpu", ent_coef=0.2).ent_coef_tensor.tolist() == pytest.approx(
        [0.2, 0.2]
    )


def test_a_learned_temperature_may_be_fixed(tmp_path):
    toy_agent().save(tmp_path / "agent")
    assert MTSAC.load(tmp_path / "agent", device="cpu", ent_coef=0.2).ent_coef_tensor.tolist() == pytest.approx(
        [0.2, 0.2]
    )


def test_text_that_claims_more_than_any_of_ours_is_refused_before_it_is_read(tmp_path, monkeypatch):
    write_state(tmp_path / "a.zip", "test", {"text": "x" * 100})
    monkeypatch.setattr(state_file, "_LONGEST_JSON", 100)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("read"))
    with pytest.raises(StateFileError, match="expected at most 100"):
        read_state(tmp_path / "a.zip", "test")
