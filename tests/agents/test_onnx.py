"""An exported policy acts as the agent does, without torch."""

import builtins
import json

import numpy as np
import pytest
from gymnasium.spaces import Box

from tests.helpers import toy_agent

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")  # of torch's exporter about itself
@pytest.mark.parametrize(
    "form", [{"actor_layer_norm": True}, {"conditioning": "film"}, {"actor_torso": "paco"}], ids=str
)
def test_a_policy_acts_the_same_in_onnxruntime(form, tmp_path):
    agent = toy_agent(policy_kwargs={"actor_width": 8, "critic_width": 8, "multi_head": True, "experts": 2, **form})
    agent.learn(2 * 30)
    agent.policy.action_space = Box(np.float32([-2, 0]), np.float32([3, 1]))  # the scale of the actions goes with it
    path = agent.export_onnx(tmp_path / "policy")
    assert [file.name for file in tmp_path.iterdir()] == ["policy.onnx"]
    session = onnxruntime.InferenceSession(path)
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    observations[:, 2:] = np.eye(2)[np.arange(50) % 2]  # rows in any order, of any task
    for rows in (observations, observations[:1]):
        (actions,) = session.run(None, {"observations": rows})
        assert np.allclose(actions, agent.eval_action(rows), atol=1e-5)
    assert np.ptp(actions) > 0
    assert json.loads(session.get_modelmeta().custom_metadata_map["task_names"]) == ["point-0", "point-1"]


def test_without_the_packages_it_says_which(tmp_path, monkeypatch):
    whole = builtins.__import__

    def without_onnx(name, *args, **kwargs):
        if name == "onnx":
            raise ImportError("No module named 'onnx'")
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(ImportError, match=r"pip install -c constraints.txt -e '\.\[onnx\]'"):
        toy_agent().export_onnx(tmp_path / "policy")
    assert not list(tmp_path.iterdir())
