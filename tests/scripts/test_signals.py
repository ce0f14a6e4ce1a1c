"""Signals that ask a run to stop: to all its processes, twice, ignored, in a thread; and a sweep that is dead."""

import json
import os
import signal
import threading
import time

import pytest

from agents.saving.checkpoint import checkpoints
from envs.signals import STOP_SIGNALS
from scripts import train
from scripts.common.signals import SWEEP, follow_sweep, listening
from tests.runs import PATIENCE, TINY, all_gone, children, end, start, wait_until


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_to_the_whole_group_ends_it_with_a_checkpoint(number, tmp_path):
    path = tmp_path / "run"
    words = [*TINY, "--workers", "1", "--steps-per-task", "100000", "--no-progress", "--run-dir", path]
    printed = tmp_path / "printed"
    process = start(words, printed, group=True)
    wait_until((path / "metrics.csv").exists, process, printed)
    workers = children(process.pid)
    assert len(workers) == 2  # of training and of evaluation
    os.killpg(process.pid, number)
    if number != signal.SIGINT:
        os.killpg(process.pid, number)  # schedulers send it twice
    assert "Traceback" not in end(process, printed, 128 + number)
    result = json.loads((path / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert checkpoints(path / "checkpoints")[-1].name == f"step_{result['env_steps_per_task']:09d}"
    assert all_gone(workers)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_that_was_ignored_stays_ignored(number, monkeypatch):
    """nohup, or a job in the background of a script."""
    heard, before = [], signal.signal(number, signal.SIG_IGN)
    try:
        with listening(lambda *what: heard.append(what[0])):
            for each in STOP_SIGNALS:
                os.kill(os.getpid(), each)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert sorted(heard) == sorted(set(STOP_SIGNALS) - {number})


def test_a_training_in_a_thread(tmp_path):
    """Of a server, say: signals are its program's own."""
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    words = [*TINY, "--steps-per-task", "40", "--no-progress", "--run-dir", str(tmp_path / "run")]
    codes = []
    thread = threading.Thread(target=lambda: codes.append(train.main(words)))
    thread.start()
    thread.join(PATIENCE)
    assert codes == [0]
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.parametrize(("parent", "expected"), [("", []), ("the sweep", []), ("another", [signal.SIGTERM])])
def test_a_training_stops_when_its_sweep_is_dead(parent, expected, monkeypatch):
    parents = {"": "", "the sweep": str(os.getppid()), "another": str(os.getpid())}
    monkeypatch.setenv(SWEEP, parents[parent])
    heard = []
    with listening(lambda *what: heard.append(what[0])):
        follow_sweep()
        time.sleep(0.2)
    assert heard == expected
