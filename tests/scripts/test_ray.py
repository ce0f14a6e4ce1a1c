"""A sweep on a real Ray cluster of several nodes on this machine: it is stopped, goes on, and a node of it dies."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.runs import Run
from scripts.runs.claim import holder
from tests.runs import PATIENCE, TINY, children, end, saved, start, wait_until

ray = pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[cluster]'")
from ray._private import services  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

STEPS = "--steps-per-task 600 --eval-every 150 --checkpoint-every 50 --log-every 50".split()
FLAGS = TINY[1:-2]  # without the preset and --threads
SMALL = {"object_store_memory": 80_000_000, "include_log_monitor": False}


@pytest.fixture
def cluster(monkeypatch):
    """A head on which nothing runs, and which soon notices that a node is lost.

    Ray gives up on a node that has not begun after 30 s, as on a busy machine; here it waits.
    """
    get_node = services.get_node

    def patiently(*words):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError):  # it is not known yet
                return get_node(*words)
            time.sleep(0.1)
        return get_node(*words)

    monkeypatch.setattr(services, "get_node", patiently)
    monkeypatch.setenv("RAY_gcs_server_port_wait_time_s", f"{PATIENCE:.0f}")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": {"health_check_period_ms": 500}, **SMALL}
    try:
        cluster = Cluster(initialize_head=True, head_node_args=head)
    except Exception as error:  # no port, no shared memory, ...: of this machine, not of the launcher
        pytest.skip(f"no Ray cluster can be started here: {error}")
    yield cluster
    cluster.shutdown()


def add_node(cluster):
    return cluster.add_node(num_cpus=1, wait=False, **SMALL)


@contextlib.contextmanager
def sweeping(words, printed):
    """A sweep in a process of its own, as Ctrl-C reaches it."""
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
    return re.search(rf"^{name}:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]


def lose(cluster, node, training):
    """Kill all processes of a node, as a power cut does: its raylet, what that began, and the run."""
    worker = int(of_status(training, "PPid"))
    raylet = int(of_status(worker, "PPid"))
    assert worker in children(raylet)
    for pid in (raylet, *children(raylet), training):
        os.kill(pid, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def test_ctrl_c_saves_and_a_run_whose_node_dies_goes_on_elsewhere_as_if_nothing_was(cluster, tmp_path):
    alone = [*TINY, *STEPS, "--aggregator", "mean", "--run-dir", tmp_path / "alone", "--no-progress"]
    undisturbed = start(alone, tmp_path / "said")
    path, printed = tmp_path / "runs" / "toy-mean-seed0", tmp_path / "printed"
    words = ["toy", "--arms", "mean", "--out", str(path.parent), "--flags", " ".join([*FLAGS, *STEPS])]
    words += ["--launcher", "ray", "--options", f"address={cluster.address}"]
    node = add_node(cluster)

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
        lose(cluster, node, int(holder(path)[0]))
        add_node(cluster)
    assert sweep.returncode == 0, printed.read_text()
    assert "1 runs: 1 finished" in printed.read_text()
    assert (path.parent / "logs" / "toy-mean-seed0.log").read_text().count("run folder:") >= 3  # each time it began

    end(undisturbed, tmp_path / "said")
    assert (path / "evaluations.csv").read_bytes() == (tmp_path / "alone" / "evaluations.csv").read_bytes()
