"""One process per run folder."""

import errno
import fcntl
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.common.usage import UsageError
from scripts.runs import claim
from scripts.runs.claim import claimed
from scripts.runs.files import require_new

ROOT = Path(__file__).parents[2]


def test_a_folder_is_claimed_by_one_process_and_free_again_after_its_death(tmp_path):
    code = "import sys; from pathlib import Path; from scripts.runs.claim import claimed\n"
    code += "with claimed(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    path = tmp_path / "a" / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(UsageError, match=f"process {other.pid} trains there"), claimed(path):
        pass
    other.kill()
    other.communicate(timeout=60)
    assert (path / ".lock").exists()  # killed: its file stays, its lock does not
    require_new(path)
    with claimed(path):
        pass
    assert not (path / ".lock").exists()


def test_a_claim_takes_away_only_what_it_made_and_what_is_empty(tmp_path):
    with claimed(tmp_path / "a" / "b"):
        pass
    assert not list(tmp_path.iterdir())
    with claimed(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "x").touch()
    assert (tmp_path / "a" / "b" / "x").exists()
    (tmp_path / "mine").mkdir()
    with claimed(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_lock_is_never_written_through_a_link(there, tmp_path):
    target, folder = tmp_path / "important.txt", tmp_path / "run"
    folder.mkdir()
    if there:
        target.write_text("do not touch")
    (folder / ".lock").symlink_to(target)
    with pytest.raises(UsageError, match=r"found the link .*\.lock"), claimed(folder):
        pass
    assert target.exists() == there
    assert not there or target.read_text() == "do not touch"


def test_a_lock_of_somebody_else_stays(tmp_path):
    (tmp_path / ".lock").write_text("of a program of my own")
    with pytest.raises(UsageError, match="found another file"), claimed(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == "of a program of my own"


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL])
def test_a_file_system_without_locks_is_told_and_trained_on(number, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with pytest.warns(UserWarning, match="file system without locks"), claimed(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text() == f"{os.getpid()} {claim.node()}"


def test_a_full_disk_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pwrite", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"), claimed(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_without_posix_locks_runs_can_be_read_and_training_says_where_it_works(tmp_path, monkeypatch):
    with monkeypatch.context() as windows:
        windows.setitem(sys.modules, "fcntl", None)
        importlib.reload(claim)
    try:
        with pytest.raises(UsageError, match="expected Linux or macOS"), claim.claimed(tmp_path / "run"):
            pass
    finally:
        importlib.reload(claim)
    assert not list(tmp_path.iterdir())
