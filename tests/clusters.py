"""What a sweep on a cluster must do, whatever the cluster; and a look at processes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from scripts.runs import Run
from scripts.runs.claim import holder
from tests.runs import PATIENCE, TINY, end, saved, start, wait_until

STEPS = "--steps-per-task 600 --eval-every 150 --checkpoint-every 50 --log-every 50".split()
FLAGS = TINY[1:-2]  # without the preset and --threads


@contextlib.contextmanager
def sweeping(words, printed):
    """A sweep in a process of its own, as Ctrl-C reaches it; waits for its end."""
    with printed.open("ab") as file:
        process = subprocess.Popen([sys.executable, "-m", "scripts.sweep", *words], stdout=file, stderr=file)
    try:
        yield process
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()


def of_status(pid, name):
    """What the kernel says of a process."""
    return re.search(rf"^{name}:\s*(\S+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]


def parent(pid):
    return int(of_status(pid, "PPid"))


def kill(pids):
    """End processes at once, as a power cut does."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def sweep_is_stopped_loses_a_node_and_ends_as_if_nothing_was(launcher, lose, folder):
    """A sweep of one run saves on Ctrl-C, goes on, and loses the node that it runs on.

    :param launcher: flags of scripts.sweep.
    :param lose: (process id of the training, its node): kills the node.
    """
    alone = [*TINY, *STEPS, "--aggregator", "mean", "--run-dir", folder / "alone", "--no-progress"]
    undisturbed = start(alone, folder / "said")
    path, printed = folder / "runs" / "toy-mean-seed0", folder / "printed"
    words = ["toy", "--arms", "mean", "--out", str(path.parent), "--flags", " ".join([*FLAGS, *STEPS]), *launcher]

    with sweeping(words, printed) as sweep:
        wait_until(lambda: saved(path) or sweep.poll() is not None)
        assert sweep.poll() is None, printed.read_text()
        training = int(holder(path)[0])
        os.kill(training, signal.SIGSTOP)  # lest it reaches its end before it is asked to stop
        sweep.send_signal(signal.SIGINT)
        wait_until(lambda: int(of_status(training, "ShdPnd"), 16) >> (signal.SIGTERM - 1) & 1)
        os.kill(training, signal.SIGCONT)
    assert sweep.returncode == 130, printed.read_text()
    assert Run(path).status == "unfinished"

    stopped_at = saved(path)
    with sweeping(words, printed) as sweep:
        wait_until(lambda: saved(path) > stopped_at or sweep.poll() is not None)
        assert sweep.poll() is None, printed.read_text()
        training, node = holder(path)
        lose(int(training), node)
    assert sweep.returncode == 0, printed.read_text()
    assert "1 runs: 1 finished" in printed.read_text()
    assert (path.parent / "logs" / "toy-mean-seed0.log").read_text().count("run folder:") >= 3  # each time it began
    end(undisturbed, folder / "said")
    assert (path / "evaluations.csv").read_bytes() == (folder / "alone" / "evaluations.csv").read_bytes()
    return printed.read_text()
