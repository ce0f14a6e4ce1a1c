"""A sweep on a real Ray cluster of several nodes on this machine: one of them dies."""

import os
import signal
from threading import Thread

import pytest

from scripts import sweep, train
from scripts.runs import Run
from tests.runs import TINY, wait_until

ray = pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[cluster]'")
from ray.cluster_utils import Cluster  # noqa: E402

STEPS = "--steps-per-task 1000 --eval-every 250 --checkpoint-every 50 --log-every 50".split()
FLAGS = TINY[1:-2]  # without the preset and --threads


@pytest.fixture
def cluster(monkeypatch):
    """A head on which nothing runs."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    small = {"num_cpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False, "include_log_monitor": False}
    try:
        cluster = Cluster(initialize_head=True, head_node_args=small)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        pytest.skip("this machine is too busy: Ray gives up if its node has not started within 30 s")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def add_node(cluster):
    return cluster.add_node(num_cpus=1, object_store_memory=80_000_000, include_log_monitor=False, wait=False)


def when(there, act):
    """Do something once `there()` holds, beside this thread, which trains."""

    def watch():
        wait_until(there)
        act()

    Thread(target=watch, daemon=True).start()


def test_ctrl_c_saves_and_a_run_whose_node_dies_goes_on_elsewhere_as_if_nothing_was(cluster, tmp_path, capsys):
    path = tmp_path / "runs" / "toy-mean-seed0"
    words = ["toy", "--arms", "mean", "--out", str(tmp_path / "runs"), "--flags", " ".join([*FLAGS, *STEPS])]
    words += ["--launcher", "ray", "--options", f"address={cluster.address}"]
    first = add_node(cluster)

    def saved(more_than=0):
        folder = path / "checkpoints"
        steps = [int(item.name.split("_")[1]) for item in folder.glob("step_*[0-9]")] if folder.is_dir() else []
        return max(steps, default=0) > more_than

    when(saved, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert sweep.main(words) == 130
    assert Run(path).status == "unfinished"
    stopped_at = max(int(item.name.split("_")[1]) for item in (path / "checkpoints").glob("step_*[0-9]"))

    def lose_a_node():
        cluster.remove_node(first, allow_graceful=False)
        add_node(cluster)

    when(lambda: saved(stopped_at), lose_a_node)
    assert sweep.main(words) == 0
    printed = capsys.readouterr().out
    assert "1 runs: 1 finished" in printed
    assert (path.parent / "logs" / "toy-mean-seed0.log").read_text().count("run folder:") == 3
    alone = [*TINY, *STEPS, "--aggregator", "mean", "--run-dir", str(tmp_path / "alone"), "--no-progress"]
    assert train.main(alone) == 0
    assert (path / "evaluations.csv").read_bytes() == (tmp_path / "alone" / "evaluations.csv").read_bytes()
