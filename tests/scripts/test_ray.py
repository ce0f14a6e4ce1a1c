"""A sweep on a real Ray cluster of several nodes on this machine: it is stopped, goes on, and a node of it dies."""

import contextlib
import time

import pytest

from tests.clusters import kill, parent, sweep_is_stopped_loses_a_node_and_ends_as_if_nothing_was
from tests.runs import PATIENCE, children

ray = pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[cluster]'")
from ray._private import services  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

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


def test_ctrl_c_saves_and_a_run_whose_node_dies_goes_on_elsewhere_as_if_nothing_was(cluster, tmp_path):
    node = add_node(cluster)

    def lose(training, _):
        worker = parent(training)
        raylet = parent(worker)
        assert worker in children(raylet)
        kill([raylet, *children(raylet), training])
        cluster.remove_node(node, allow_graceful=False)
        add_node(cluster)

    launcher = ["--launcher", "ray", "--options", f"address={cluster.address}"]
    sweep_is_stopped_loses_a_node_and_ends_as_if_nothing_was(launcher, lose, tmp_path)
