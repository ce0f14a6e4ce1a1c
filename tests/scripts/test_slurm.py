"""Sweeps as jobs of Slurm: with stand-ins for its programs, and on a real cluster of two nodes on this machine."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import sweep
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.sweeps import slurm_jobs
from scripts.sweeps.child import Command, NodeJob
from scripts.sweeps.request import SweepConfig
from scripts.sweeps.slurm_jobs import Queue, SlurmJob, SlurmLauncher, SlurmTask
from tests.clusters import kill, of_status, parent, sweep_is_stopped_loses_a_node_and_ends_as_if_nothing_was
from tests.helpers import exit_code
from tests.runs import TINY, wait_until

NEEDS = "needs submitit: pip install -c constraints.txt -e '.[slurm]'"
PROGRAMS = {  # stand-ins: one job, in the background
    "sbatch": 'cp "$1" script; SLURM_JOB_ID=7 SLURMD_NODENAME=n1 bash script >/dev/null 2>&1 & echo $! > job\n'
    "echo Submitted batch job 7",
    "srun": 'while [[ $1 == -* ]]; do [[ $1 == --unbuffered ]] || shift; shift; done; exec "$@" > $PWD/out',
    "squeue": "kill -0 $(cat job) 2>/dev/null && echo 7; true",
    "scancel": 'echo "$@" >> cancelled',
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder of the stand-ins, in which the sweep runs."""
    for name, text in PROGRAMS.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm_jobs, "LOOK_EVERY", 0.0)
    return tmp_path


def test_a_sweep_submits_what_it_is_asked_for_and_reads_the_answer(slurm, capsys):
    pytest.importorskip("submitit", reason=NEEDS)
    flags = " ".join([*TINY[1:-2], "--steps-per-task", "30"])
    words = ["toy", "--arms", "mean", "--flags", flags, "--launcher", "slurm", "--cpus", "3", "--gpus", "1"]
    assert sweep.main([*words, "--options", "partition=gpu,time=30,exclude=n3"]) == 0, (slurm / "out").read_text()
    assert "toy-mean-seed0: finished" in capsys.readouterr().out
    assert Run(slurm / "runs" / "toy-mean-seed0").status == "finished"
    script = (slurm / "script").read_text()
    for line in "cpus-per-task=3 gpus-per-node=1 partition=gpu time=30 exclude=n3 requeue signal=USR2@120".split():
        assert f"#SBATCH --{line}\n" in script
    assert not (slurm / "cancelled").exists()


def test_what_slurm_refuses_is_told_in_one_line(slurm, monkeypatch, capsys):
    pytest.importorskip("submitit", reason=NEEDS)
    (slurm / "bin" / "sbatch").write_text("#!/bin/sh\necho sbatch: error: invalid partition: gpu >&2; exit 1\n")
    assert exit_code(monkeypatch, sweep.main, ["toy", "--launcher", "slurm", "--options", "partition=gpu"]) == 2
    assert capsys.readouterr().err == (
        "error: --launcher slurm: expected a job that Slurm takes; it answers: sbatch: error: invalid partition: gpu. "
        "Change --cpus, --gpus or --options; if it takes no more than some jobs at once, --jobs.\n"
    )
    assert not list((slurm / "runs" / "logs" / "slurm").iterdir())


@pytest.mark.parametrize(
    ("words", "missing", "message"),
    [
        ("", "sbatch", "expected Slurm's sbatch on the PATH; found none"),
        ("--gpus 0.5", "", "--gpus: expected whole GPUs, as Slurm shares none out; found 0.5"),
        ("--options partition", "", "--options: expected KEY=VALUE, separated by commas; found 'partition'"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(words, missing, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm_jobs, "imported", lambda *_: None)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else name)
    assert exit_code(monkeypatch, sweep.main, ["toy", "--launcher", "slurm", *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_told_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"expected the package submitit; .* pip install .* '\.\[slurm\]'"):
        SlurmLauncher(SweepConfig(presets=("toy",), launcher="slurm"), 1)


def test_a_broken_package_is_told(monkeypatch, tmp_path):
    (tmp_path / "submitit.py").write_text("import a_part_that_is_gone")
    monkeypatch.delitem(sys.modules, "submitit", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="expected a whole package submitit; found: No module named 'a_part_that_is"):
        SlurmLauncher(SweepConfig(presets=("toy",), launcher="slurm"), 1)


def job(folder, monkeypatch, queued):
    """Job 7, with the programs that it calls; `queued` are the answers of squeue."""
    called, now = [], [0.0]

    def run(words, **_):
        called.append(words)
        return SimpleNamespace(returncode=0, stdout=queued.pop(0) if words[0] == "squeue" else "")

    def monotonic():
        now[0] += 20
        return now[0]

    monkeypatch.setattr(slurm_jobs.subprocess, "run", run)
    monkeypatch.setattr(slurm_jobs.time, "monotonic", monotonic)
    paths = SimpleNamespace(**{name: folder / name for name in ("stdout", "stderr", "result_pickle")})
    return SlurmJob(SimpleNamespace(job_id="7", paths=paths), folder / "answer", Queue()), called


def polled(job):
    """The first answer of `poll`."""
    return next(code for _ in range(9) if (code := job.poll()) is not None)


@pytest.mark.parametrize(("found", "calls"), [(0, []), (3, []), (138, [["scancel", "7"]])])
def test_what_a_node_leaves_is_the_exit_code(found, calls, tmp_path, monkeypatch):
    """A job that was preempted is taken out of the queue, in which Slurm may have put it again."""
    monkeypatch.setattr(NodeJob, "run", lambda *_: found)
    this, called = job(tmp_path, monkeypatch, ["7 9\n"])
    assert this.poll() is None
    SlurmTask(NodeJob(Command((), Path("log"), 1), "", {}), this.answer)()
    assert this.poll() == found
    assert called[1:] == calls


def test_a_job_that_is_gone_without_an_answer_is_no_mystery(tmp_path, monkeypatch):
    this, _ = job(tmp_path, monkeypatch, ["7", *[""] * 9])
    with pytest.raises(UsageError, match=f"expected a file system .* wrote nothing to {tmp_path}/stdout"):
        polled(this)
    (tmp_path / "stdout").touch()
    this, _ = job(tmp_path, monkeypatch, [""] * 9)
    assert polled(this) == -9  # killed, for its memory say
    (tmp_path / "result_pickle").touch()
    this, _ = job(tmp_path, monkeypatch, [""] * 9)
    with pytest.raises(UsageError, match="job 7 could not begin: see"):
        polled(this)
    (tmp_path / "answer").write_text(json.dumps("expected a file system"))
    with pytest.raises(UsageError, match="expected a file system"):
        this.poll()


def test_a_queue_that_never_answers_is_told_once_and_asked_rarely(tmp_path, monkeypatch):
    this, called = job(tmp_path, monkeypatch, [])
    refused = SimpleNamespace(returncode=1, stdout="", stderr="slurm_load_jobs error: no controller\n")
    monkeypatch.setattr(slurm_jobs.subprocess, "run", lambda words, **_: called.append(words) or refused)
    with pytest.warns(UserWarning, match="not answered for 5 minutes .*no controller") as told:
        assert {this.poll() for _ in range(99)} == {None}
    assert len(told) == 1
    monkeypatch.setattr(slurm_jobs.time, "monotonic", lambda: 1e6)
    called.clear()
    assert [this.poll() for _ in range(9)] == [None] * 9
    assert len(called) == 1


def test_a_job_is_stopped_whether_it_waits_or_runs(tmp_path, monkeypatch):
    this, called = job(tmp_path, monkeypatch, [""])
    this.stop()
    assert called == [["scancel", "--state=PENDING", "7"], ["scancel", "--signal=TERM", "7"]]
    assert this.poll() == 143
    this.stop(at_once=True)
    assert called[-1] == ["scancel", "7"]


CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=30
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmdTimeout=10
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def real_slurm(tmp_path, monkeypatch):
    """The folder of a Slurm cluster of two nodes."""
    pytest.importorskip("submitit", reason=NEEDS)
    programs = ("munged", "slurmctld", "slurmd", "sbatch")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    if os.geteuid() or not all(map(shutil.which, programs)):
        pytest.skip("needs root and Slurm: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge")
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "state").mkdir()
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "slurm.conf").write_text(CONF.format(host=socket.gethostname(), folder=folder, ports=free_ports(3)))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    munge = {"key-file": "key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    words = [f"--{flag}={folder / name}" for flag, name in {**munge, "seed-file": "seed"}.items()]
    try:
        for command in (
            ["munged", "--force", *words],
            ["slurmctld", "-i"],
            *(["slurmd", "-N", n] for n in ("n1", "n2")),
        ):
            subprocess.run(command, check=True, timeout=600)
        wait_until(
            lambda: subprocess.run(["sinfo", "-ho", "%D%t"], capture_output=True, timeout=600).stdout == b"2idle\n"
        )
        yield folder
    finally:
        subprocess.run(["scancel", "--me"], timeout=600)
        kill(int(path.read_text()) for path in folder.glob("*.pid"))


def free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in sockets]


def of_node(folder, node):
    """The processes of a node's jobs, and those that began them."""
    marks = (f"SLURM_CONF={folder}/".encode(), f"SLURMD_NODENAME={node}\0".encode())
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            found = path.read_bytes()
            if all(mark in found for mark in marks):
                pid = int(path.parent.name)
                yield pid
                if of_status(parent(pid), "Name") == "slurmstepd":
                    yield parent(pid)


@pytest.mark.stress
def test_ctrl_c_saves_and_a_run_whose_node_dies_goes_on_elsewhere_as_if_nothing_was(real_slurm, tmp_path):
    """Slurm notices a lost node after half a minute, and begins its job again after as long."""

    lost = []

    def lose(training, node):
        lost.append(node)
        pids = [int((real_slurm / f"{node}.pid").read_text()), *of_node(real_slurm, node)]
        assert training in pids
        kill(pids)

    printed = sweep_is_stopped_loses_a_node_and_ends_as_if_nothing_was(["--launcher", "slurm"], lose, tmp_path)
    assert f"finished on {'n2' if lost == ['n1'] else 'n1'}" in printed
