"""Checkpoints under attack: killed at any write, damaged, on a full disk, pruned in the middle."""

import errno
import os
import shutil
import stat
import subprocess
import warnings
from pathlib import Path

import pytest

import envs.toy
from agents import StateFileError, latest_checkpoint, load_checkpoint, save_checkpoint
from agents.saving import atomic, checkpoint
from agents.saving.checkpoint import SUMS, checkpoint_bytes, checkpoints, prune
from tests.helpers import toy_agent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An agent after 30 steps per task, and a folder with its checkpoints of steps 29 and 30."""
    folder = tmp_path_factory.mktemp("checkpoints")
    agent = toy_agent(envs.toy.make(num_tasks=2, seed=0))
    for steps in (29, 1):
        agent.learn(2 * steps, reset_num_timesteps=False)
        save_checkpoint(folder, agent, agent.env)
    return agent, folder


@pytest.fixture
def agent(trained):
    return trained[0]


@pytest.fixture
def two(trained, tmp_path):
    return shutil.copytree(trained[1], tmp_path / "two")


class Killed(BaseException):
    """The process ends here; nothing after it is done."""


def killed_at(monkeypatch, countdown):
    """Let the given number of calls that change the disk pass, then be killed at each."""
    left = [countdown]

    def dying(call):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return call(*args, **kwargs)

        return wrapped

    for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    monkeypatch.setattr(Path, "open", dying(Path.open))
    return left


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step again"])
def test_killed_at_any_moment_of_a_save_the_newest_checkpoint_is_whole(again, agent, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # takes its time
    calls = 0
    while True:
        folder = tmp_path / str(calls)
        agent.num_timesteps = 2 * (30 if again else 29)
        save_checkpoint(folder, agent, agent.env)
        agent.num_timesteps = 2 * 30
        with monkeypatch.context() as patch:
            left = killed_at(patch, calls)
            try:
                save_checkpoint(folder, agent, agent.env)
                prune(folder, 1)
            except Killed:
                pass
        assert len(list(latest_checkpoint(folder).iterdir())) == 4
        save_checkpoint(folder, agent, agent.env)  # what a killed process left is in nobody's way
        prune(folder, 1)
        assert [path.name for path in folder.iterdir()] == ["step_000000030"]
        if left[0] >= 0:
            break
        calls += 1
    assert calls > 25


def test_a_full_disk_keeps_what_was_there(agent, two, monkeypatch):
    before = {path: path.read_bytes() for path in two.rglob("*") if path.is_file()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(two, agent, agent.env)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in two.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["agent.zip", "buffer.zip", "loop.zip", SUMS])
@pytest.mark.parametrize("how", ["flipped", "short", "missing", "swapped", "empty"])
def test_damage_of_the_newest_leads_to_the_one_before(two, name, how):
    file = two / "step_000000030" / name
    body = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "swapped":  # a whole file, but of another step
        file.write_bytes((two / "step_000000029" / name).read_bytes())
    else:
        body[len(body) // 2] ^= 1
        file.write_bytes({"flipped": body, "short": body[:-1], "empty": b""}[how])
    if (name, how) == (SUMS, "missing"):  # written before there were any
        assert latest_checkpoint(two).name == "step_000000030"
        return
    with pytest.warns(match=r"step_000000030 is damaged.*Going back to step_000000029"):
        assert latest_checkpoint(two).name == "step_000000029"
    with pytest.raises(StateFileError, match="damaged"):
        load_checkpoint(two / "step_000000030", envs.toy.make(2, seed=0))


def test_whole_checkpoints_give_no_warning(two):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert latest_checkpoint(two).name == "step_000000030"


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs coreutils")
def test_the_sums_are_those_of_sha256sum(two):
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=two / "step_000000030", check=True, timeout=600
    )


def test_none_whole_is_an_error_and_none_at_all_another(two, tmp_path):
    for path in checkpoints(two):
        (path / "loop.zip").write_bytes(b"")
    with pytest.raises(StateFileError, match=r"step_000000030 is damaged: loop\.zip"):
        latest_checkpoint(two)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        latest_checkpoint(tmp_path / "nowhere")


def test_the_size_is_foretold(agent, two):
    found = sum(file.stat().st_size for file in (two / "step_000000030").iterdir())
    assert found == pytest.approx(checkpoint_bytes(agent, 30), abs=60_000)
    other = toy_agent(buffer_size=200_000)
    assert checkpoint_bytes(other, 10**9) - checkpoint_bytes(other, 0) == other.replay_buffer.rows.nbytes


def test_a_link_in_the_way_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not touch")
    for name in ("a", "a.partial"):
        (tmp_path / name).symlink_to(tmp_path / "thesis.txt")
    with atomic.whole_file(tmp_path / "a") as file:
        file.write(b"new")
    assert (tmp_path / "thesis.txt").read_text() == "do not touch"
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "a").is_symlink()


def test_a_checkpoint_that_a_training_takes_away_meanwhile_is_not_damaged(two, monkeypatch):
    newest, check = checkpoints(two)[-1], checkpoint.check_sums

    def vanishing(path):
        if path == newest and path.exists():
            shutil.rmtree(path)
        check(path)

    monkeypatch.setattr(checkpoint, "check_sums", vanishing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert latest_checkpoint(two) == checkpoints(two)[0]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_wait_for_folders_is_written_to(number, tmp_path, monkeypatch):
    sync, waited = os.fsync, []

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        waited.append(sync(descriptor))

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    with atomic.whole_file(tmp_path / "a") as file:
        file.write(b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert len(waited) == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_to_keep_a_folder_is_told(number, tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    with pytest.raises(OSError, match=os.strerror(number)):
        atomic.sync(tmp_path)
