"""Training runs for tests: started in processes of their own, killed, and compared."""

import contextlib
import csv
import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from pathlib import Path

import torch

from agents.saving.checkpoint import STEP, checkpoints
from agents.saving.state_file import read_state
from scripts import train
from scripts.common import command
from scripts.runs import Run

PATIENCE = 600.0  # seconds: far more than anything here takes, however busy the machine

# A child of this server has everything imported already: a training begins after a few milliseconds.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["scripts.train", "envs.meta_world.task", "torch._dynamo", "torch.utils.tensorboard", "tests.frozen"]
)
# a toy training of tiny networks, which logs, evaluates and saves often
TINY = "toy --warmup-steps 20 --eval-every 20 --checkpoint-every 20 --log-every 5 --horizon 10 --final-goals 2".split()
TINY += "--eval-goals 1 --actor-width 8 --critic-width 8 --batch-size 4 --threads 1".split()


def rows(path, without="time/seconds"):
    with path.open() as file:
        return [{k: v for k, v in row.items() if not k.startswith(without)} for row in csv.DictReader(file)]


def assert_same_training(one, other):
    """Same networks, optimizers, generators and buffer, and the same history in both files."""
    for name, kind in (("agent.zip", "agent"), ("buffer.zip", "buffer"), ("loop.zip", "loop")):
        a, b = (read_state(sorted((run / "checkpoints").iterdir())[-1] / name, kind) for run in (one, other))
        assert without_clocks(a) == without_clocks(b)
    assert rows(one / "metrics.csv") == rows(other / "metrics.csv")
    assert rows(one / "conflicts.csv") == rows(other / "conflicts.csv")
    assert rows(one / "evaluations.csv") == rows(other / "evaluations.csv")


def without_clocks(value):
    """Nested state with arrays and tensors as bytes; wall-clock seconds differ between any two runs."""
    if isinstance(value, dict):
        return {key: without_clocks(item) for key, item in value.items() if key != "seconds"}
    if isinstance(value, list | tuple):
        return [without_clocks(item) for item in value]
    return (
        value.numpy(force=True).tobytes()
        if hasattr(value, "numpy")
        else value.tobytes()
        if hasattr(value, "tobytes")
        else value
    )


def start(argv, printed=os.devnull, cpu_seconds=0.0, group=False):
    """`python -m scripts.train ARGV` in a process of its own; what it prints goes to a file.

    :param cpu_seconds: after so much of its own time the kernel ends it, as kill -9 does: it may be in the middle of
        anything, none of its code runs any more, and how busy the machine is does not matter. 0: never.
    :param group: whether it leads a process group of its own, with its workers.
    """
    process = _SERVER.Process(target=_train, args=([str(word) for word in argv], str(printed), cpu_seconds, group))
    process.start()
    return process


def start_or_resume(path, argv, printed=os.devnull, cpu_seconds=0.0):
    """What a job of a cluster does each time it begins: go on with the run, or start it."""
    again = ["--resume", path, "--no-progress"]
    return start(again if (path / "config.json").exists() else [*argv, "--run-dir", path], printed, cpu_seconds)


def end(process, printed=os.devnull, code=0):
    """Wait for a process to end with the exit code; return what it printed. One that hangs is killed."""
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    text = Path(printed).read_text()
    assert process.exitcode == code, f"exit code {process.exitcode}; printed:\n{text}"
    return text


def wait_until(there, process=None, printed=os.devnull):
    """Wait until `there()` holds; fail with what the process printed if it ends before, or takes for ever."""
    deadline = time.monotonic() + PATIENCE
    while not there():
        running = process is None or process.is_alive()
        assert running or there(), f"ended early with {process.exitcode}; printed:\n{Path(printed).read_text()}"
        assert time.monotonic() < deadline, f"nothing for {PATIENCE} s; printed:\n{Path(printed).read_text()}"
        time.sleep(0.01)


def python(words, folder, environment, printed):
    """`python WORDS`, which are -m MODULE ... or -c TEXT, in `folder`; returns the exit code. Prints go to a file."""
    process = _SERVER.Process(target=_python, args=(words, str(folder), environment, str(printed)))
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def _python(words, folder, environment, printed):
    _print_to(printed)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)  # torch was imported before this environment
    kind, what, *rest = words
    sys.argv = [what, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(what, vars(sys.modules["__main__"]))


def _print_to(path):
    with open(path, "a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _train(argv, printed, cpu_seconds, group):
    if group:
        os.setpgid(0, 0)
    _print_to(printed)
    sys.argv = ["train", *argv]
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    begin = time.process_time()
    try:
        command.run(train.main)
    finally:
        print(f"CPU seconds: {time.process_time() - begin}", flush=True)


def kill_at_random(path, argv, kills, cpu_seconds, seed, printed):
    """Kill a run `kills` times, each within `cpu_seconds` of its own time, begin it again after each, and let it end.

    :return: the run's folder, and how many of the steps per task in metrics.csv a kill lost at most.
    """
    generator, lost, done = random.Random(seed), [0], 0
    while done < kills:
        process = start_or_resume(path, argv, printed, generator.uniform(0.01, cpu_seconds))
        workers = set()
        deadline = time.monotonic() + PATIENCE
        while process.is_alive() and time.monotonic() < deadline:
            workers.update(children(process.pid))
            process.join(0.05)
        assert process.exitcode in (0, -signal.SIGPROF), printed.read_text()
        assert all_gone(workers)
        if process.exitcode == 0:  # it was at its end before: begin anew
            path, cpu_seconds, done = path.with_name(path.name + "+"), 0.8 * cpu_seconds, 0
            continue
        done += 1
        lost.append(_logged(path) - saved(path))
    end(start_or_resume(path, argv, printed), printed)
    return path, max(lost)


def _logged(path):
    """The newest step per task in metrics.csv."""
    if not (path / "config.json").exists():
        return 0
    run = Run(path).verified()
    return max((run.step_of(row) for row in run.metrics.read()), default=0)


def saved(path):
    """The step per task of the newest checkpoint."""
    found = checkpoints(path / "checkpoints")
    return int(STEP.search(found[-1].name)[1]) if found else 0


def children(pid):
    """The process ids of a process's children."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def alive(pid):
    """Say whether a process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def libraries(pid):
    """The shared libraries that a process has loaded, as the kernel tells it; only on Linux."""
    return Path(f"/proc/{pid}/maps").read_text()


def all_gone(pids, within=10.0):
    deadline = time.monotonic() + within
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))
