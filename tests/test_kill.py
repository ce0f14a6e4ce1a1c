"""Killed at any moment, a run goes on, has lost at most one interval, and ends as if nothing had happened."""

import contextlib
import os
import signal
import subprocess

import pytest

from agents import latest_checkpoint
from agents.saving.checkpoint import checkpoints
from scripts.common import command
from scripts.runs import Run
from scripts.runs.resuming import concluded
from tests.runs import assert_same_training, children, end, kill_at_random, start, start_or_resume, wait_until

EVERY = 20
SHORT = f"--steps-per-task 100 --warmup-steps 20 --eval-every {EVERY} --checkpoint-every {EVERY} --log-every 5".split()
SHORT += "--final-goals 2 --eval-goals 1 --log-conflicts 7 --actor-width 8 --critic-width 8 --batch-size 4".split()
TOY = ["toy", *SHORT, "--horizon", "10", "--no-progress", "--threads", "1"]
MT10 = ["mt10-quick", *SHORT, "--horizon", "15", "--goals", "2", "--no-progress", "--threads", "1", "--workers", "2"]


def undisturbed(argv, folder):
    """The run that nobody kills, and the seconds that it computed."""
    printed = end(start([*argv, "--run-dir", folder / "run"], folder / "printed"), folder / "printed")
    return folder / "run", float(printed.split()[-1])


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return undisturbed(TOY, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def mt10(tmp_path_factory):
    return undisturbed(MT10, tmp_path_factory.mktemp("whole"))


def check_kills(whole, argv, kills, seed, tmp_path):
    path, lost = kill_at_random(tmp_path / "run", argv, kills, whole[1], seed, tmp_path / "printed")
    assert lost <= EVERY
    assert_same_training(whole[0], path)
    assert concluded(Run(path), 100)


def test_killed_at_random(toy, tmp_path):
    check_kills(toy, TOY, 3, 1, tmp_path)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(50))
def test_killed_at_random_100_times(seed, toy, tmp_path):
    check_kills(toy, TOY, 1 + seed % 3 if seed < 48 else 2, 100 + seed, tmp_path)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_random_mt10(seed, mt10, tmp_path):
    check_kills(mt10, MT10, 1, 200 + seed, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_scheduler_that_stops_a_run_gets_a_checkpoint_and_a_code_to_requeue_on(number, toy, tmp_path):
    path, printed = tmp_path / "run", tmp_path / "printed"
    process = start([*TOY, "--run-dir", path], printed)
    wait_until((path / "metrics.csv").exists, process, printed)
    os.kill(process.pid, number)
    os.kill(process.pid, signal.SIGTERM)  # some send it twice, to the job and to its step
    end(process, printed, 128 + number)
    assert Run(path).verified().newest_checkpoint().is_dir()
    assert not children(process.pid)
    end(start_or_resume(path, TOY, printed), printed)
    assert_same_training(toy[0], path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB in memory."""
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True, timeout=600
    ).returncode:
        pytest.skip("needs the right to mount a file system")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True, timeout=600)


def test_a_full_disk_stops_a_run_cleanly_and_it_goes_on_when_there_is_room(small_disk, tmp_path_factory):
    printed, path, filler = tmp_path_factory.mktemp("out") / "printed", small_disk / "run", small_disk / "filler"
    longer = ["--steps-per-task", "200"]
    process = start([*TOY, *longer, "--run-dir", path], printed)
    wait_until(lambda: checkpoints(path / "checkpoints"), process, printed)
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    told = end(process, printed, command.EXIT_DISK)
    assert "error: the disk took no more" in told
    assert "Traceback" not in told
    assert latest_checkpoint(path / "checkpoints") == checkpoints(path / "checkpoints")[-1]
    assert not list(path.rglob("*.partial"))
    filler.unlink()
    end(start_or_resume(path, TOY, printed), printed)
    whole, _ = undisturbed([*TOY, *longer], tmp_path_factory.mktemp("whole"))
    assert_same_training(whole, path)


def test_a_run_that_cannot_fit_says_so_first(small_disk, tmp_path_factory):
    printed = tmp_path_factory.mktemp("out") / "printed"
    process = start([*TOY, "--run-dir", small_disk / "run", "--critic-width", "300"], printed)
    assert "expected room on the disk for 3 checkpoints" in end(process, printed, command.EXIT_USAGE)
    assert not list(small_disk.iterdir())
