"""The doctor finds what is wrong, and nothing where nothing is."""

import pytest

from scripts import doctor
from scripts.common.usage import UsageError
from scripts.runs import checkup

BACK_END = "egl"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(checkup, "back_end", lambda: BACK_END)


def run(tmp_path, capsys):
    code = doctor.main(["toy", "--steps", "60", "--run-dir", str(tmp_path)])
    return code, " ".join(capsys.readouterr().out.split())


def test_nothing_is_wrong_here(tmp_path, capsys):
    code, printed = run(tmp_path, capsys)
    assert (code, "0 wrong" in printed) == (0, True), printed
    for what in (
        "Python",
        "packages",
        "egl",
        "cores",
        "checkpoints: up to",
        "log_ent_coef[3]",
        "gradient of the actor",
    ):
        assert what in printed
    assert not list(tmp_path.iterdir())


def test_other_software_and_no_back_end_are_told(tmp_path, capsys, monkeypatch):
    def no_back_end():
        raise UsageError("expected a way to render. Install libegl1.")

    monkeypatch.setattr(checkup, "back_end", no_back_end)
    monkeypatch.setattr(checkup, "version", lambda name: "0.1")
    code, printed = run(tmp_path, capsys)
    assert code == 1
    assert "wrong mujoco: 0.1; tested with" in printed
    assert "pip install mujoco==" in printed
    assert "warning rendering: expected a way to render. Install libegl1. Only scripts.record needs it." in printed


def test_too_little_disk_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scripts.setup.resources.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    code, printed = run(tmp_path, capsys)
    assert code == 1
    assert "wrong room: expected room on the disk for 3 checkpoints" in printed


def test_a_task_without_a_gradient_or_a_living_temperature_is_named(tmp_path, capsys, monkeypatch):
    make_agent = checkup.make_agent

    def lame(config, env):
        agent = make_agent(config, env)
        read, learn, begin = agent.task_metrics.read, agent.learn, float(agent.log_ent_coef[2].detach())
        agent.task_metrics.read = lambda: read() | {"train/actor_norms/point-1": 0.0}
        agent.learn = lambda *args, **kwargs: (learn(*args, **kwargs), agent.log_ent_coef.data[2].fill_(begin))
        return agent

    monkeypatch.setattr(checkup, "make_agent", lame)
    code, printed = run(tmp_path, capsys)
    assert code == 1
    assert "wrong gradient of the actor: expected above zero for every task; not so for point-1" in printed
    assert "wrong temperature: expected one that moves for every task; not so for point-2" in printed
