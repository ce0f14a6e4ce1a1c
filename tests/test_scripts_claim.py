"""One process per run folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.claim import claimed
from scripts.cli import UsageError
from scripts.run_folder import require_new

ROOT = Path(__file__).parents[1]


def test_a_folder_is_claimed_by_one_process_and_free_again_after_its_death(tmp_path):
    code = "import sys; from pathlib import Path; from scripts.claim import claimed\n"
    code += "with claimed(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    path = tmp_path / "a" / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(UsageError, match=f"process {other.pid} trains there"), claimed(path):
        pass
    other.kill()
    other.communicate()
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
