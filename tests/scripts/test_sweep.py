"""A sweep runs what is left, counts what failed, and stops cleanly; a launcher of the test's own says how runs end."""

import contextlib
import os
import signal
import sys
from dataclasses import replace
from threading import Thread
from types import SimpleNamespace

import pytest

from agents import NonFiniteError
from envs.children import python, python_path
from envs.signals import STOP_SIGNALS
from mtrl import AGGREGATORS, WEIGHTINGS
from scripts import sweep, train
from scripts.common import command
from scripts.common.screen import Screen
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.claim import claimed
from scripts.runs.files import write_json
from scripts.sweeps import execution
from scripts.sweeps.board import Board, progress
from scripts.sweeps.child import Command
from scripts.sweeps.execution import Stop, execute
from scripts.sweeps.launchers import LAUNCHERS
from scripts.sweeps.local import LocalLauncher
from scripts.sweeps.plan import make_jobs, plan
from scripts.sweeps.request import ARMS, GROUPS, SweepConfig, parse
from tests.helpers import exit_code
from tests.run_folders import make_run
from tests.runs import wait_until

SHORT = (
    "--steps-per-task 60 --warmup-steps 20 --eval-every 20 --checkpoint-every 20 --log-every 10 --horizon 10 "
    "--final-goals 2 --eval-goals 1 --actor-width 8 --critic-width 8 --batch-size 4"
)


def request(out, **settings):
    return SweepConfig(presets=("toy",), out=out, flags=SHORT, **settings)


def jobs(out, **settings):
    return make_jobs(request(out, **settings))


class Fake:
    """A launcher whose runs end with given codes, one after the other, after so many looks; a stopped one with 143."""

    remote = False

    def __init__(self, codes, looks=2):
        self.codes, self.looks, self.started, self.stops, self.most = codes, looks, [], [], 0
        self.running = set()

    def code(self, name):
        codes = self.codes.get(name, [0])
        return codes.pop(0) if len(codes) > 1 else codes[0]

    def start(self, job):
        name = job.name
        self.started.append(name)
        self.running.add(name)
        self.most = max(self.most, len(self.running))
        return FakeRun(self, name)


class FakeRun:
    def __init__(self, fake, name):
        self.fake, self.name, self.left, self.stopped = fake, name, fake.looks, False

    def poll(self):
        self.left -= 1
        if self.stopped or self.left <= 0:
            self.fake.running.discard(self.name)
            return 143 if self.stopped else self.fake.code(self.name)
        return None

    def stop(self, at_once=False):
        self.fake.stops.append((self.name, at_once))
        self.stopped = True


def run_fake(fake, names, at_once=2, tell=lambda *_: None, stop=None, retries=0):
    jobs = [SimpleNamespace(name=name) for name in names]
    fake.at_once = at_once
    return execute(jobs, fake, stop or Stop(print), tell, retries, every=0.001)


# ----------------------------------------------------------------------------------------------------- the launcher
def test_no_more_than_so_many_at_once_and_a_failure_stops_nobody():
    fake = Fake({"b": [3], "d": [-9]})
    assert run_fake(fake, "abcde") == {"a": 0, "b": 3, "c": 0, "d": -9, "e": 0}
    assert fake.started == list("abcde")
    assert fake.most == 2
    assert not fake.stops


def test_an_accident_is_tried_again_so_often_and_no_other_ending_is(monkeypatch, capsys):
    monkeypatch.setattr(execution, "AGAIN", dict.fromkeys(execution.AGAIN, 0.0))
    codes = {"a": [4, 0], "b": [5, 6, 4], "c": [-9, -9, 0], "d": [3], "e": [2], "f": [143], "g": [1]}
    fake = Fake({name: [*found] for name, found in codes.items()})
    assert run_fake(fake, codes, retries=2) == {"a": 0, "b": 4, "c": 0, "d": 3, "e": 2, "f": 143, "g": 1}
    assert {name: fake.started.count(name) for name in codes} == dict(
        zip("abcdefg", (2, 3, 3, 1, 1, 1, 1), strict=True)
    )
    assert "a: exit code 4; it goes on (try 2 of 3)" in capsys.readouterr().out


def test_a_full_disk_is_given_a_minute_and_keeps_nobody_waiting(monkeypatch):
    now, seen = [0.0], []

    def tell(running, codes):
        now[0] += 1
        seen.append((now[0], sorted(running)))

    monkeypatch.setattr(execution.time, "monotonic", lambda: now[0])
    assert run_fake(Fake({"a": [5, 0]}), "ab", at_once=1, tell=tell, retries=1) == {"a": 0, "b": 0}
    first_of_b = next(time for time, names in seen if names == ["b"])
    second_of_a = next(time for time, names in seen if names == ["a"] and time > first_of_b)
    assert first_of_b < 10
    assert second_of_a > 60


def test_a_run_whose_node_was_taken_away_goes_on_uncounted():
    fake = Fake({"a": [140, 143, 143, 0]})
    fake.remote = True
    assert run_fake(fake, "a") == {"a": 0}


def test_a_run_that_was_asked_to_stop_does_not_go_on_elsewhere():
    fake = Fake({}, looks=50)
    fake.remote = True
    assert run_fake(fake, "a", tell=lambda running, codes: [run.stop() for run in running.values()]) == {"a": 143}
    assert fake.started == ["a"]


def test_ctrl_c_asks_every_run_once_and_begins_no_other(capsys):
    fake, stop = Fake({}, looks=50), Stop(print)
    presses = iter([True])
    with stop.listening():
        tell = lambda running, codes: next(presses, None) and os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
        codes = run_fake(fake, "abcd", tell=tell, stop=stop)
    assert codes == {"a": 143, "b": 143}
    assert fake.stops == [("a", False), ("b", False)]
    assert stop.signal == signal.SIGINT
    assert "Ctrl-C again" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


ONCE, AT_ONCE = [("a", False), ("b", False)], [("a", True), ("b", True)]


@pytest.mark.parametrize("first", STOP_SIGNALS)
@pytest.mark.parametrize("second", STOP_SIGNALS)
def test_only_ctrl_c_makes_a_second_signal_an_order_to_quit(first, second, capsys):
    fake, stop = Fake({}, looks=50), Stop(print)
    presses = iter([first, second])

    class Stubborn(FakeRun):
        def poll(self):
            return super().poll() if len(fake.stops) == 4 or self.fake.looks < 45 else None

    def tell(running, codes):
        if number := next(presses, None):
            os.kill(os.getpid(), number)
        fake.looks -= 1

    fake.start = lambda job: Stubborn(fake, job.name)
    with stop.listening():
        codes = run_fake(fake, "ab", tell=tell, stop=stop)
    assert codes == {"a": 143, "b": 143}
    assert fake.stops == ONCE + (AT_ONCE if second == signal.SIGINT else [])
    assert stop.signal == first


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_training_that_a_signal_ended_was_stopped(number, tmp_path, capsys):
    """With a checkpoint, as 128 + n, or before it listened."""
    plans = [plan(job) for job in jobs(tmp_path, arms=("mean",), seeds=(0, 1, 2))]
    board, names = Board(plans, Screen()), [p.job.name for p in plans]
    board.update({}, dict(zip(names, (128 + number, -number, -signal.SIGKILL), strict=True)))
    assert [board.lines[name].state for name in names] == ["stopped", "stopped", "failed (signal 9)"]


def test_a_run_is_finished_if_it_says_so_not_by_an_exit_code_alone(tmp_path):
    plans = [plan(job) for job in jobs(tmp_path, arms=("mean",), seeds=(0, 1, 2))]
    board, names = Board(plans, Screen()), [p.job.name for p in plans]
    make_run(tmp_path / names[0])
    make_run(tmp_path / names[1], status="interrupted")
    board.update({}, dict.fromkeys(names, 0))
    unfinished = "failed (exit code 0, unfinished)"
    assert [board.lines[name].state for name in names] == ["finished", unfinished, unfinished]
    assert not board.conclude()


def test_a_success_that_a_task_does_not_report_is_left_out_of_the_mean(tmp_path):
    run = make_run(tmp_path / "a", {200: (0.2, 0.4)})
    rows = run.evaluations.read()
    for unknown, told in ((0, "0.30"), (1, "0.20"), (2, "-")):
        run.evaluations.replace([{**row, "success": "nan"} if i >= 2 - unknown else row for i, row in enumerate(rows)])
        assert progress(run.path) == (200, told)


def test_a_board_of_several_machines_names_the_node_of_each_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    (job,) = jobs(tmp_path, arms=("mean",))
    board = Board([plan(job)], Screen(), nodes=True)
    line = board.lines[job.name]
    board.update({job.name: None}, {})
    assert board.plainly(line).startswith(f"{job.name}: queued, 0/60 steps")
    with claimed(job.path):
        line.look()
    assert board.plainly(line).startswith(f"{job.name}: running on n7, 0/60 steps")
    assert len(board.table().columns) == 6


def test_a_training_knows_its_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda words, **options: (words, options["env"]))
    words, variables = Command((), tmp_path / "log", 1).begin()
    assert variables["MTRL_SWEEP"] == str(os.getpid())
    assert (words[:4], variables["PYTHONPATH"]) == (python("scripts.train"), python_path()["PYTHONPATH"])


def test_an_error_of_ours_leaves_no_training_behind():
    fake = Fake({}, looks=50)
    with pytest.raises(ZeroDivisionError):
        run_fake(fake, "abc", tell=lambda *_: 1 / 0)
    assert fake.stops == [("a", False), ("b", False)]


# --------------------------------------------------------------------------------------------------------- the plan
def test_every_baseline_of_the_paper_is_an_arm():
    assert set(GROUPS["paper"]) <= set(ARMS)
    assert {*AGGREGATORS, *WEIGHTINGS} <= set(ARMS)
    configs = {job.name: job.config for job in make_jobs(SweepConfig(presets=("mt10-quick",), arms=("paper",)))}
    assert len(configs) == 9
    assert configs["mt10-quick-multi-head-pcgrad-seed0"].multi_head
    assert configs["mt10-quick-independent-seed0"].algorithm == "independent"
    pair = make_jobs(SweepConfig(presets=("toy",), arms=("pcgrad-actor-only", "pcgrad-critic-only"), seeds=(0, 1)))
    assert [job.config.seed for job in pair] == [0, 0, 1, 1]  # whole pairs first
    actor_only, critic_only = pair[:2]
    assert (actor_only.config.aggregator, actor_only.config.critic_aggregator) == ("pcgrad", "mean")
    assert (critic_only.config.aggregator, critic_only.config.critic_aggregator) == ("mean", "pcgrad")


def test_what_is_finished_is_skipped_and_what_was_stopped_goes_on(tmp_path):
    all_jobs = new, finished, failed, stopped, empty = jobs(tmp_path, arms=("mean",), seeds=(0, 1, 2, 3, 4))
    for job in (finished, failed, stopped, empty):
        folder(job)
    write_json(finished.path / "result.json", {"status": "finished", "env_steps_per_task": 60})
    write_json(failed.path / "postmortem.json", {})
    (stopped.path / "checkpoints" / "step_000000020").mkdir(parents=True)
    assert [plan(job).action for job in all_jobs] == ["begin", "finished", "failed", "resume", "resume"]
    assert new.argv[-3:] == ("--run-dir", str(new.path), "--go-on")
    (longer,) = make_jobs(replace(request(tmp_path, arms=("mean",), seeds=(1,)), flags=SHORT.replace("60", "90", 1)))
    with pytest.raises(UsageError, match="has no checkpoint to go on from"):
        plan(longer)
    (finished.path / "checkpoints" / "step_000000060").mkdir(parents=True)
    assert plan(longer).action == "resume"


def test_a_sweep_with_an_aggregator_in_a_file_goes_on(tmp_path):
    (tmp_path / "mine.py").write_text("from mtrl import Mean\n\n\nclass Mine(Mean):\n    pass\n")
    own = f"{tmp_path}/mine.py:Mine"
    define = {"one": f"--aggregator {own}", "two": f"--critic-aggregator {own}", "none": "--aggregator mean"}
    for job in jobs(tmp_path / "runs", arms=tuple(define), define=define):
        (folder(job).checkpoints / "step_000000020").mkdir(parents=True)
        assert plan(job).action == "resume"


def test_trials_of_a_sweep_are_in_nobodys_way(tmp_path, monkeypatch):
    """They lie beside the real runs, and make room for the next ones."""
    for steps in ("20", "30"):
        monkeypatch.setenv("STEPS", steps)
        (job,) = make_jobs(SweepConfig(presets=("toy",), arms=("mean",), out=tmp_path))
        assert (job.name, job.config.steps_per_task) == ("trial-toy-mean-seed0", int(steps))
        assert plan(job).action == "begin"
        folder(job)
    monkeypatch.delenv("STEPS")
    (job,) = make_jobs(SweepConfig(presets=("toy",), arms=("mean",), out=tmp_path))
    assert (job.name, job.config.trial, plan(job).action) == ("toy-mean-seed0", False, "begin")


def folder(job):
    """What a training makes first."""
    from scripts.runs.protocol import describe

    names = tuple(f"point-{i}" for i in range(4))
    goals = {name: [[0.0, 0.0]] for name in names}
    return Run.new(job.path, job.config, describe(job.config, names, goals), goals).save()


def test_cores_are_shared(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for asked, shared in (
        (("auto", "auto", 20), (8, 1)),
        (("auto", "auto", 3), (3, 2)),
        ((2, "auto", 20), (2, 4)),
        ((2, 1, 20), (2, 1)),
    ):
        at_once, threads, runs = asked
        local = LocalLauncher(SweepConfig(presets=("toy",), jobs=at_once, threads=threads), runs)
        assert (local.at_once, local.threads) == shared
        command = local.command(SimpleNamespace(argv=("toy",), log=None))
        assert command.words == ("toy", "--threads", str(shared[1]))


def test_one_worker_unless_the_user_says_how_many():
    def workers(**settings):
        return {job.config.workers for job in make_jobs(SweepConfig(presets=("mt10",), arms=("mean",), **settings))}

    assert workers() == {1}
    assert workers(flags="--workers 5") == {5}
    assert workers(flags="--workers=auto") == {"auto"}
    assert workers(define={"mean": "--aggregator mean --workers 0"}) == {0}


TOML = """
presets = ["toy"]
arms = ["mean", "slow"]
seeds = [0, 3]
flags = "--steps-per-task 50 --learning-rate 1e-3"
define.slow = "--aggregator pcgrad --learning-rate 1e-5"
"""


def test_a_sweep_in_toml_with_flags_over_it(tmp_path, capsys):
    path = tmp_path / "sweep.toml"
    path.write_text(TOML)
    assert sweep.main([str(path), "--out", str(tmp_path / "runs"), "--seeds", "7", "--dry-run"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("python -m scripts.train toy --steps-per-task 50 --learning-rate 1e-3 --aggregator mean ")
    assert "--seed 7" in first
    assert "--aggregator pcgrad --learning-rate 1e-5" in second
    assert "toy-slow-seed7" in second
    assert not (tmp_path / "runs").exists()
    all_runs, slow = (job.config.learning_rate for job in make_jobs(parse([str(path), "--seeds", "7"], "")))
    assert (all_runs, slow) == (1e-3, 1e-5)  # an arm's own flags win over those of all runs


@pytest.mark.parametrize("text", ['summary = "mine"\nbase = "toy"', "suite = 'toy'\ngamma = 0.5\nthreads = 1"])
def test_a_preset_in_a_file_is_swept_like_one_of_ours(text, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert parse([str(path), "--seeds", "1,2"], "").presets == (str(path),)
    names = [job.name for job in make_jobs(parse([f"toy,{path}", "--arms", "mean", "--out", str(tmp_path)], ""))]
    assert names == ["toy-mean-seed0", "mine-mean-seed0"]


BAD_TOML = {
    "presets = [": "expected a sweep in TOML",
    'preset = ["toy"]': "did you mean presets",
    "arms = ['mean']": "expected the presets to train",
    'presets = "toy"': "presets: expected a list of texts",
    'presets = ["toy"]\nseeds = ["a"]': "seeds: expected a list of whole numbers",
    'presets = ["toy"]\njobs = "many"': "jobs: expected auto or a whole number",
    'presets = ["toy"]\ndefine = ["x"]': "define: expected a table",
    'presets = ["toy"]\narms = ["a"]\ndefine.a = "--x \'open"': "define.a: expected flags of scripts.train",
    'presets = ["toy"]\narms = ["a"]\ndefine.a = "--run-dir x"': "define.a: expected flags that the sweep leaves free",
    'presets = ["toy"]\nflags = "--diff mt10"': "--flags: expected flags that the sweep leaves free; found --diff",
    'presets = ["toy"]\nseeds = [100000000000000000000]': "--seed: expected a seed of 0 to",
    'presets = ["toy"]\nout = 3': "out: expected a path; found 3",
    'presets = ["toy"]\nseeds = [1, 1]': "--seeds: expected each once",
    'presets = ["toy"]\narms = ["pcgrat"]': "unknown arm 'pcgrat': did you mean",
    'presets = ["toy"]\nlauncher = "rey"': "unknown launcher 'rey': did you mean ray",
    'presets = ["toy"]\nflags = "--return-scale popart"': "return_scale='popart' .* needs multi_head",
    "x = " + 10_000 * "[": "expected a sweep in TOML",
}


@pytest.mark.parametrize(("text", "message"), BAD_TOML.items())
def test_bad_toml_is_told(text, message, tmp_path):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        sweep.main([str(tmp_path / "s.toml")])
    assert "s.toml" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


BAD = {
    "": "expected presets",
    "no.toml": "expected a sweep in TOML",
    "toi": "unknown preset 'toi'",
    "toy --arms pcgrat": "unknown arm 'pcgrat': did you mean",
    "toy --arms mean,paper": "every arm once; found mean",
    "toy --seeds 1,1": "--seeds: expected each once",
    "toy --seeds -1": "--seed: expected 0 or more",
    "mt10 --flags --horizon=501": "--horizon: expected at most 500",
    "toy --flags=--seed=3": "expected flags that the sweep leaves free; found --seed=3. Instead: --seeds of the sweep",
    "toy --flags=--threads=2": "found --threads=2. Instead: --threads of the sweep",
    "toy --flags=--run_dir=x": "found --run_dir=x. Instead: --out of the sweep",
    "toy --flags=--resume=x": "found --resume=x. Instead: the same command again",
    "toy --jobs 0": "--jobs: expected auto or at least 1",
    "toy --launcher rey": "unknown launcher 'rey': did you mean ray",
    "toy --gpus 0.5": "--gpus: expected --launcher ray or slurm, which share a cluster out; found --launcher local",
    "toy --gpus nan --launcher ray": "--gpus: expected 0 or more; found nan",
    "toy --cpus 0 --launcher ray": "--cpus: expected auto or at least 1; found 0",
    "toy --retries -1": "--retries: expected 0 or more; found -1",
    "toy --flags=--go-on": "found --go-on. Instead: the same command again",
    "toy --arms independent --flags --multi-head": "--multi-head: expected False with --algorithm independent",
}


RUNS_A_FILE = {
    "an arm": 'arms = ["FILE.py:Mine"]',
    "a definition": 'arms = ["x"]\ndefine.x = "--critic-aggregator FILE.py:Mine"',
    "a definition in pieces": 'arms = ["x"]\ndefine.x = "--aggregator=FILE.p\'y:Mine\'"',
    "flags": 'arms = ["x"]\nflags = "--aggregator FILE.py:Mine"\ndefine.x = "--gamma 0.9"',
}


@pytest.mark.parametrize("text", RUNS_A_FILE.values(), ids=RUNS_A_FILE)
def test_a_file_of_a_sweep_runs_no_code_unasked(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("open('mark', 'w')\nfrom mtrl import Mean\nclass Mine(Mean): pass\n")
    (tmp_path / "s.toml").write_text(f'presets = ["toy"]\n{text}'.replace("FILE", f"{tmp_path}/mine"))
    with pytest.raises(UsageError, match="expected --run-code"):
        sweep.main(["s.toml", "--dry-run"])
    assert not (tmp_path / "mark").exists()
    assert sweep.main(["s.toml", "--dry-run", "--run-code"]) == 0
    assert (tmp_path / "mark").exists()
    assert sweep.main(["s.toml", "--dry-run", "--arms", "mean", "--flags", "--gamma 0.5"]) == 0  # nothing of it is used


@pytest.mark.parametrize("place", ["toy-mean-seed0", "logs", "logs/toy-mean-seed0.log"])
def test_a_link_in_the_folder_of_a_sweep_is_refused(place, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (job,) = jobs(tmp_path / "runs", arms=("mean",))
    (tmp_path / "runs" / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "runs" / place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="found the link"):
        plan(job)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_a_run_prints_is_never_written_through_a_link(tmp_path):
    (tmp_path / "log").symlink_to(tmp_path / "bashrc")
    with pytest.raises(OSError, match="symbolic links"):
        Command((), tmp_path / "log", 1).begin()
    assert not (tmp_path / "bashrc").exists()


def test_a_file_that_begins_with_a_mark_is_read(tmp_path):
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbf" + TOML.encode())
    assert parse([str(tmp_path / "s.toml")], "").seeds == (0, 3)


@pytest.mark.parametrize("out", ["/proc/none", "file", "file/x", "/dev/null"])
def test_a_folder_that_cannot_be_made_is_told(out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert exit_code(monkeypatch, sweep.main, ["toy", "--out", out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --out: expected a folder that can be made; found: ")


def test_two_classes_of_one_name_need_two_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text("from mtrl import Mean\n\n\nclass Mine(Mean):\n    pass\n")
    arms = tuple(f"{tmp_path}/{name}/mine.py:Mine" for name in ("a", "b"))
    with pytest.raises(UsageError, match="toy-mine-py-Mine-seed0 is that of several"):
        jobs(tmp_path / "runs", arms=arms)


def test_a_run_that_another_process_trains_is_named(tmp_path):
    (job,) = jobs(tmp_path, arms=("mean",))
    folder(job)
    with claimed(job.path), pytest.raises(UsageError, match=f"process {os.getpid()} trains there"):
        plan(job)


@pytest.mark.parametrize(("words", "message"), BAD.items())
def test_bad_flags_get_one_clear_line_before_anything_runs(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LocalLauncher, "start", lambda *_: pytest.fail("started"))
    monkeypatch.setattr(sys, "argv", ["sweep", *words.split()])
    with pytest.raises(SystemExit) as end:
        command.run(sweep.main)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_run_at_its_place_is_named(tmp_path):
    (job,) = jobs(tmp_path, arms=("mean",))
    folder(job)
    for flags, found in (("--gamma 0.5", "gamma"), ("--steps-per-task 50", r"steps_per_task \(50 asked, 60 there\)")):
        (other,) = make_jobs(replace(request(tmp_path, arms=("mean",)), flags=f"{SHORT} {flags}"))
        with pytest.raises(UsageError, match=found):
            plan(other)


# -------------------------------------------------------------------------------------------------- real trainings
class Here:
    """Trains in this process, which is faster than to begin another."""

    at_once, remote = 1, False

    def __init__(self, request, runs):
        pass

    def start(self, job):
        with job.log.open("w") as file, contextlib.redirect_stdout(file):
            try:
                code = train.main([*job.argv, "--threads", "1"])
            except NonFiniteError as error:
                file.write(f"error: {error}\n")
                code = command.EXIT_NON_FINITE
        return FakeRun(Fake({"": [code]}, looks=0), "")


def test_a_failed_run_is_named_and_the_rest_is_finished_and_skipped_next_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(LAUNCHERS, "local", Here)
    (tmp_path / "s.toml").write_text(
        'presets = ["toy"]\narms = ["mean", "bad"]\ndefine.bad = "--aggregator mean --reward-scale 1,1,1e30,1"'
    )
    words = [str(tmp_path / "s.toml"), "--out", str(tmp_path / "r"), "--threads", "1", "--flags", SHORT]
    assert sweep.main(words) == sweep.EXIT_INCOMPLETE
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 runs: 1 finished, 1 failed" in printed
    assert "toy-bad-seed0 failed (exit code 3): error: " in printed
    assert "point-2" in printed
    assert Run(tmp_path / "r" / "toy-mean-seed0").verified().status == "finished"
    assert sweep.main(words) == sweep.EXIT_INCOMPLETE  # nothing is run again
    assert "1 already finished, 1 failed before" in capsys.readouterr().out


def test_ctrl_c_saves_what_runs_and_the_same_command_goes_on(tmp_path, capsys):
    words = ["toy", "--arms", "mean", "--seeds", "0,1", "--out", str(tmp_path), "--jobs", "1"]
    words += ["--flags", SHORT.replace("60", "100000", 1)]

    def press():
        try:
            wait_until((tmp_path / "toy-mean-seed0" / "metrics.csv").exists)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    Thread(target=press, daemon=True).start()
    assert sweep.main(words) == 130
    run = Run(tmp_path / "toy-mean-seed0").verified()
    assert run.status == "unfinished"
    assert run.newest_checkpoint().is_dir()
    assert not (tmp_path / "toy-mean-seed1").exists()
    assert "2 runs: 1 stopped, 1 waiting" in capsys.readouterr().out
    assert sweep.main([*words, "--dry-run"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("python -m scripts.train toy --steps-per-task 100000")
    assert f"--run-dir {run.path} --go-on --threads" in first
    assert "--seed 1" in second
