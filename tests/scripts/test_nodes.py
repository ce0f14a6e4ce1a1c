"""What a sweep gives to another machine, and what it makes of the answers; the cluster itself is made up here."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Thread, Timer
from types import SimpleNamespace

import pytest

from scripts import sweep
from scripts.common.usage import UsageError
from scripts.sweeps import child, ray_tasks
from scripts.sweeps.child import Command, NodeJob, cores_of
from scripts.sweeps.plan import make_jobs
from scripts.sweeps.ray_tasks import RayLauncher, RayTask
from scripts.sweeps.request import SweepConfig
from tests.helpers import exit_code

REQUEST = SweepConfig(presets=("toy",), arms=("mean",), launcher="ray")


def test_a_node_that_does_not_see_the_folder_says_so_and_writes_nothing(tmp_path):
    command = Command(("toy",), Path("logs", "run.log"), 1)
    for folder, missing in ((tmp_path / "else", tmp_path / "else"), (tmp_path, tmp_path / "logs" / "run.log")):
        told = NodeJob(command, str(folder), {}).run(())
        assert told.startswith("expected a file system that all nodes share; ")
        assert f"does not see {missing}." in told
    assert not list(tmp_path.iterdir())


def test_a_node_is_told_where_the_sweep_runs_and_that_it_is_a_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEPS", "20")
    job = NodeJob.of(Command(("toy",), Path("run.log"), 2))
    assert (job.folder, job.variables) == (str(tmp_path), {"STEPS": "20", "CUDA_VISIBLE_DEVICES": ""})
    job = NodeJob.of(Command(("toy",), Path("run.log"), 2), gpus=0.5)  # which Ray chooses
    assert (job.folder, job.variables) == (str(tmp_path), {"STEPS": "20"})
    assert (tmp_path / "run.log").exists()
    begun = []
    ended = SimpleNamespace(poll=lambda: 5)
    monkeypatch.setattr(Command, "begin", lambda self, variables: begun.append((self.words, variables)) or ended)
    assert job.run(()) == 5
    assert begun == [(("toy", "--threads", "2"), {"STEPS": "20"})]


def test_a_request_to_stop_is_passed_on_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(child, "LOOK_EVERY", 0.01)
    waits = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print('x'); signal.pause()"

    def begin(self, variables):
        process = subprocess.Popen([sys.executable, "-uSc", waits], stdout=subprocess.PIPE)
        with process.stdout as said:
            said.readline()  # from here on it listens
        Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        return process

    monkeypatch.setattr(Command, "begin", begin)
    assert NodeJob.of(Command((), Path("run.log"), 1)).run((signal.SIGUSR1,)) == 143


@pytest.mark.parametrize(
    ("settings", "workers", "shares"),
    [({}, 1, (1, 2)), ({}, 0, (1, 1)), ({"threads": 4}, 1, (4, 5)), ({"cpus": 8}, 3, (5, 8)), ({"cpus": 1}, 3, (1, 1))],
)
def test_cores_are_for_threads_and_workers(settings, workers, shares):
    (job,) = make_jobs(replace(REQUEST, flags=f"--workers {workers}"))
    assert cores_of(job, replace(REQUEST, **settings)) == shares


class Errors:
    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        pass

    class TaskCancelledError(RayError):
        pass


def answered(outcome):
    """A task of Ray that ended so."""

    def get(task):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return RayTask(SimpleNamespace(wait=lambda *_, **__: ([1], []), get=get, exceptions=Errors), None)


def test_what_ray_answers_is_an_exit_code():
    assert answered(3).poll() == 3
    assert answered(Errors.TaskCancelledError()).poll() == 143
    assert answered(Errors.RayError()).poll() == -9
    with pytest.raises(Errors.RayTaskError):
        answered(Errors.RayTaskError()).poll()
    with pytest.raises(UsageError, match="a node cannot import it"):
        answered(Errors.RayTaskError("ModuleNotFoundError: No module named 'scripts'")).poll()
    with pytest.raises(UsageError, match="expected a file system"):
        answered("expected a file system").poll()


class NoCluster:
    """Ray where there is no cluster of the right version."""

    @staticmethod
    def init(*_, **__):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.50.0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--options here", "--options: expected KEY=VALUE, separated by commas; found 'here'"),
        ("--options adress=x", "unknown option of --launcher ray 'adress': did you mean address"),
        (
            "--options address=127.0.0.1:1",
            "expected a Ray cluster at 127.0.0.1:1; found: [Errno 111] Connection refused",
        ),
        ("--options address=[::1]:99999", "expected a Ray cluster at [::1]:99999; found: "),
        ("--options address=head", "expected a Ray cluster at head; found: no HOST:PORT. Start one"),
        ("--gpus 1.5", "--gpus: expected whole GPUs, or a share of one with four decimals at most; found 1.5."),
        ("--gpus 0.00001", "--gpus: expected whole GPUs, or a share of one with four decimals at most; found 1e-05."),
        (
            "",
            "a Ray cluster that this machine belongs to; found: Version mismatch: The cluster was started with: Ray: 2",
        ),
    ],
)
def test_a_cluster_that_is_not_there_is_told_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.setattr(ray_tasks, "imported", lambda *_: NoCluster)
    assert exit_code(monkeypatch, sweep.main, ["toy", "--launcher", "ray", *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("answer", "found"), [(b"", "timed out"), (b"HTTP/1.1 400 Bad Request\r\n", "a program that is not Ray answers")]
)
def test_what_listens_and_is_not_ray_is_told_at_once(answer, found, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_tasks, "imported", lambda *_: SimpleNamespace(init=lambda *_, **__: pytest.fail("asked")))
    monkeypatch.setattr(ray_tasks, "PATIENCE", 0.2)
    held = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=lambda: held.append(server.accept()[0]) or held[0].sendall(answer), daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        words = ["toy", "--launcher", "ray", "--options", f"address={address}"]
        assert exit_code(monkeypatch, sweep.main, words) == 2
        held[0].close()
    (line,) = capsys.readouterr().err.splitlines()
    assert f"expected a Ray cluster at {address}; found: {found}. Start one" in line


@pytest.mark.parametrize(("node", "fits"), [({"CPU": 1, "GPU": 1}, True), ({"CPU": 1}, False), ({"GPU": 1}, False)])
def test_a_run_that_no_node_has_room_for_is_told(node, fits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nodes = [{"Alive": True, "Resources": node}, {"Alive": False, "Resources": {"CPU": 9, "GPU": 9}}]
    given = SimpleNamespace(remote=lambda job: job)
    engine = SimpleNamespace(init=lambda *_, **__: None, nodes=lambda: nodes, remote=lambda **_: lambda train: given)
    monkeypatch.setattr(ray_tasks, "imported", lambda *_: engine)
    request = replace(REQUEST, gpus=0.5, out=tmp_path)
    (job,) = make_jobs(request)
    job.log.parent.mkdir()
    told = pytest.warns(UserWarning, match=r"no node of the Ray cluster has 1 cores and 0\.5 GPUs now")
    with nullcontext() if fits else told:
        task = RayLauncher(request, 1).start(job)
    assert task.task.command.words[-2:] == ("--threads", "1")


def test_a_missing_extra_is_told_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"expected the package ray; .* pip install .* '\.\[cluster\]'"):
        RayLauncher(REQUEST, 1)
