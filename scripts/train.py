"""Train one agent on many tasks.

python -m scripts.train toy                        seconds: does everything work?
python -m scripts.train mt10-quick                 MT10 sized for two CPU cores
python -m scripts.train mt10 --aggregator mean     the settings of the literature, the plain mean as a baseline
python -m scripts.train --resume runs/mt10-mean-seed0
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.text import Text

from agents import MTSAC, NonFiniteError
from agents.callbacks import CheckpointCallback, EveryStepsPerTask
from agents.evaluation import evaluate
from agents.saving.checkpoint import checkpoints, load_checkpoint, prune, save_checkpoint
from agents.saving.state_file import read_state
from envs.vec_env import TaskVecEnv
from scripts.common import command
from scripts.common.screen import Screen, strong
from scripts.common.signals import follow_sweep
from scripts.common.text import plain
from scripts.common.usage import UsageError, usage_errors
from scripts.runs import independent
from scripts.runs.claim import claimed
from scripts.runs.folder import Run, require_new
from scripts.runs.forecast import forecast
from scripts.runs.postmortem import cause, next_steps, resume_command, way_back, whereabouts, write_postmortem
from scripts.runs.progress import ProgressBar, StopRequested, StopSwitch
from scripts.runs.protocol import describe
from scripts.runs.report import (
    best_evaluation,
    latest_evaluation,
    success_table,
    summarize,
    training_table,
    unstable_episodes,
    write_result,
)
from scripts.setup import parse
from scripts.setup.build import (
    check_memory,
    make_agent,
    make_env,
    make_evaluation_env,
    require_settings,
    resolve,
    run_path,
)
from scripts.setup.config import TrainConfig
from scripts.setup.resources import Room, measure

LONG = 100_000  # environment steps of all tasks: before a shorter run it is not worth finding out how long it takes


@dataclass
class Session:
    """A run in memory: its files, its agent, and two sets of environments: evaluation does not disturb training."""

    run: Run
    agent: MTSAC
    env: TaskVecEnv
    evaluation_env: TaskVecEnv
    console: Screen
    room: Room
    latest: dict[str, Any] | None = None  # summary of the newest evaluation

    def evaluate(self, episodes: int, switch: StopSwitch) -> None:
        """Evaluates the agent as it is, on the same episodes each time; keeps the result and says so in one line.

        Raises NonFiniteError if the agent has broken down: its success would look like a valid number. Raises
        StopRequested if it is asked to stop before the result is there; what is written is written whole.
        """
        self.agent.guard.check()
        self.run.require_there()
        self.evaluation_env.seed(self.run.config.seed)
        with switch.interruptible():
            evaluation = evaluate(self.agent, self.evaluation_env, episodes)
        step = self.agent.steps_per_task
        best = best_evaluation(self.run)
        if best is None or evaluation.mean_success > best["success"]:
            self.agent.save(self.run.best)  # before the rows: given up in between, the evaluation is repeated
        self.run.add_evaluation(step, evaluation)
        self.latest = {"env_steps_per_task": step, **summarize(evaluation)}
        mean = self.latest["mean"]
        self.console.print(
            Text.assemble(
                f"{step:>11,} steps per task: success ",
                (f"{mean['success']:.2f}", "bold"),
                f" over {len(evaluation.task_names)} tasks, {mean['episodes']} episodes",
            )
        )

    @property
    def steps_left(self) -> int:
        """Environment steps per task until the end of the run."""
        return self.run.config.steps_per_task - self.agent.steps_per_task

    @property
    def owed(self) -> int:
        """Episodes per task of an evaluation that is due at this very step and was given up; 0 if there is none."""
        config, step = self.run.config, self.agent.steps_per_task
        if self.latest and self.latest["env_steps_per_task"] == step:
            return 0
        if self.steps_left <= 0:
            return config.final_goals
        return config.eval_goals if self.agent.due(config.eval_every) else 0

    def catch_up(self, switch: StopSwitch) -> None:
        """Evaluates if that is owed; gives up at Ctrl-C."""
        if episodes := self.owed:
            with contextlib.suppress(StopRequested):
                self.evaluate(episodes, switch)


def main(argv: Sequence[str]) -> int:
    """Trains as `argv` says; returns the exit code."""
    follow_sweep()
    request = parse.parse_train(argv)
    if request is None:
        return 0
    config = request if isinstance(request, TrainConfig) else Run.open(Path(request.resume)).config
    if config.independent:
        return independent.train(request, argv)
    with contextlib.ExitStack() as stack:
        session = start(request, stack) if isinstance(request, TrainConfig) else resume(request, stack)
        introduce(session)
        switch = StopSwitch(session.console)
        stack.enter_context(switch.listening())  # to the very end: schedulers signal twice
        stopped_by = train(session, switch)
        conclude(session, "interrupted" if stopped_by else "finished", argv)
    return 128 + stopped_by if stopped_by else 0  # as shells report a signal


def start(config: TrainConfig, stack: contextlib.ExitStack) -> Session:
    """A new run. Its folder is claimed at once and stays empty until environments and agent are known to work."""
    path = run_path(config)
    stack.enter_context(claimed(path))
    require_new(path)
    config = resolve(config)
    env = stack.enter_context(contextlib.closing(make_env(config, config.goals)))
    check_memory(config, env)
    evaluation_env = stack.enter_context(contextlib.closing(make_evaluation_env(config, env.goals)))
    config = replace(config, workers=env.num_workers, run_dir=str(path))
    agent = make_agent(config, env)
    run = Run(path, config, describe(config, env.task_names, env.goals), env.goals)
    room = measure(config, agent, [*env.worker_pids, *evaluation_env.worker_pids], run.checkpoints)
    room.check()
    return Session(run.save(), agent, env, evaluation_env, Screen(), room)


def resume(request: parse.Resume, stack: contextlib.ExitStack) -> Session:
    """A run as it was at its newest checkpoint; what was logged after that is forgotten."""
    run = Run.open(Path(request.resume))
    stack.enter_context(claimed(run.path))
    require_trust(run, request.run_code)
    checkpoint = None if run.never_saved() else run.newest_checkpoint()
    config = resolve(request.apply(run.config))
    env = stack.enter_context(contextlib.closing(make_env(config, run.goals)))
    evaluation_env = stack.enter_context(contextlib.closing(make_evaluation_env(config, run.goals)))
    run.require_tasks(env.task_names, run.path / "config.json")
    changes: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "max_grad_norm": config.max_grad_norm or None,
        "capture": config.capture,
    }
    if checkpoint is None:  # stopped before the first one: the same seed gives the same beginning
        agent = make_agent(config, env)
    else:
        with usage_errors():
            agent = load_checkpoint(checkpoint, env, device=config.device, run_code=request.run_code, **changes)
            require_settings(run.config, read_state(checkpoint / "agent.zip", "agent")["settings"], checkpoint)
    room = measure(config, agent, [*env.worker_pids, *evaluation_env.worker_pids], run.checkpoints)
    room.check()
    run.rewind(agent.steps_per_task)
    console, software = Screen(), run.other_software()
    before = run.config.to_json()
    changed = [f"{name} {before[name]} -> {value}" for name, value in config.to_json().items() if value != before[name]]
    run = replace(run, config=config, protocol=describe(config, env.task_names, env.goals))
    session = Session(run, agent, env, evaluation_env, console, room, latest_evaluation(run))
    if session.steps_left <= 0 and not session.owed and run.concluded(agent.steps_per_task):
        raise UsageError(
            f"expected a run with steps left; {run.path} has done {agent.steps_per_task:,} of "
            f"{config.steps_per_task:,} per task. Extend it with --steps-per-task."
        )
    if checkpoint is None:
        console.print(strong("No checkpoint yet", ": this run begins anew."))
    if changed:
        console.print(f"Changed from {agent.steps_per_task:,} steps on: {plain(', '.join(changed))}")
    if software:
        told = f" than this run began with, so its numbers may differ: {plain(software)}"
        console.print(strong("Other software", told), soft_wrap=True)
    run.save()
    return session


def require_trust(run: Run, run_code: bool) -> None:
    """Raises UsageError if going on would run a Python file, and nobody said that it may."""
    if files := [name for name in run.config.aggregators() if ".py:" in name and not run_code]:
        raise UsageError(
            f"expected --run-code, as going on with this run runs the file of its aggregator {files[0]}. "
            "Add it if you trust that file."
        )


def introduce(session: Session) -> None:
    """Says what is about to happen: protocol, settings that matter, memory."""
    config, env, console = session.run.config, session.env, session.console
    console.print(session.run.protocol.table())
    captured = ", updates captured as graphs" if config.capture else ""
    console.print(
        f"{plain(config.aggregator)} on {config.device}{captured}; "
        f"torch threads: {config.threads}, workers: {env.num_workers}"
    )
    if config.steps_per_task <= config.warmup_steps:
        enough = f"--warmup-steps {config.warmup_steps:,}"
        told = f": {config.steps_per_task:,} steps per task are not more than {enough}"
        console.print(strong("No update will be made", told))
    console.print(*session.room.lines(), sep="\n")
    if session.steps_left * env.num_tasks >= LONG:
        console.print(str(forecast(config, session.evaluation_env, session.agent.steps_per_task)).capitalize() + ".")
    console.print(whereabouts(session.run), soft_wrap=True)


def train(session: Session, switch: StopSwitch) -> int:
    """Trains to the end, or until a signal asks to stop; returns 0 or its number. Ends with a checkpoint.

    An evaluation that was given up before the run was resumed comes first. Whatever goes wrong is raised after
    postmortem.json was written; the last good checkpoint stays.
    """
    config, agent, run = session.run.config, session.agent, session.run
    agent.set_logger(run.logger())
    bar = ProgressBar(session.console, run.protocol.env_steps_per_task, config.progress)
    callbacks = [*schedule(session, switch), switch, bar]
    with contextlib.closing(bar):
        try:
            session.catch_up(switch)
            if session.steps_left > 0 and not switch.pressed:
                missing = session.steps_left * agent.num_tasks
                agent.learn(missing, callback=callbacks, reset_num_timesteps=False)
                run.sync()
                save_checkpoint(run.checkpoints, agent, session.env)
                prune(run.checkpoints, config.keep_checkpoints)
            if not switch.pressed:
                with agent.timed("evaluate"):
                    session.catch_up(switch)
        except Exception as found:
            error = cause(agent, found)
            with contextlib.suppress(OSError, RuntimeError):  # a full disk or a broken device: the first error counts
                write_postmortem(run, agent, error)
            run.require_there()
            session.console.print(way_back(run, lower_rate=isinstance(error, NonFiniteError)), soft_wrap=True)
            raise error from (None if error is found else found)
    return switch.pressed


def schedule(session: Session, switch: StopSwitch) -> Iterator[EveryStepsPerTask]:
    """The callbacks for evaluations and checkpoints, as often as the config says; the end of a run has its own."""
    yield Evaluations(switch, session)
    yield Checkpoints(session)


class Checkpoints(CheckpointCallback):
    """Writes checkpoints during training, each after the rows that led to it; the end of a run has its own."""

    def __init__(self, session: Session) -> None:
        config = session.run.config
        super().__init__(session.run.checkpoints, config.checkpoint_every, config.keep_checkpoints)
        self.session = session
        self.seconds, self.newest = 60 * config.checkpoint_minutes, time.monotonic()

    def due(self) -> bool:
        """By steps, or by the clock."""
        return super().due() or (self.seconds > 0 and time.monotonic() - self.newest >= self.seconds)

    def act(self) -> None:
        """Rows first: what a checkpoint remembers must not be lost with the power.

        None at the last step, whose update is still to come: a run that is killed then would end without it.
        """
        if self.session.steps_left > 0:
            self.session.run.sync()
            super().act()
            self.newest = time.monotonic()


class Evaluations(EveryStepsPerTask):
    """Evaluates during training; leaves the last step to the final evaluation."""

    def __init__(self, switch: StopSwitch, session: Session) -> None:
        super().__init__(session.run.config.eval_every)
        self.switch, self.session = switch, session

    def act(self) -> None:
        """Evaluates unless this is the last step."""
        if self.session.steps_left > 0:
            self.session.catch_up(self.switch)


def conclude(session: Session, status: str, argv: Sequence[str]) -> None:
    """Writes result.json, then shows the table per task, where everything lies and what to try next."""
    run, agent, console = session.run, session.agent, session.console
    unstable = unstable_episodes(session.env)
    write_result(run, status, argv, agent.steps_per_task, session.latest, agent.seconds, unstable)
    title = f"{status} at {agent.steps_per_task:,} steps per task"
    if session.latest:
        console.print(success_table(session.latest, f"{title}; success after {session.latest['env_steps_per_task']:,}"))
    elif table := training_table(agent.metrics(), agent.task_names, title):
        console.print(table)
    else:
        console.print(f"{title}, before the first episode ended")
    if found := ", ".join(f"{task} {count}" for task, count in unstable.items() if count):
        console.print(strong("MuJoCo became unstable", f" and began anew, in so many training episodes: {found}"))
    complete = session.steps_left <= 0 and not session.owed
    go_on = resume_command(run) + (f" --steps-per-task {2 * agent.steps_per_task}" if complete else "")
    lines = next_steps(run, bool(checkpoints(run.checkpoints)), go_on)
    console.print(*lines, sep="\n", soft_wrap=True)


if __name__ == "__main__":
    command.run(main, files=True)
