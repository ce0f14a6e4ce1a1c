"""The training of a run: its evaluations, its checkpoints, and how it ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich.text import Text

from agents import MTSAC, NonFiniteError
from agents.callbacks import CheckpointCallback, EveryStepsPerTask
from agents.evaluation import evaluate
from agents.saving.checkpoint import checkpoints, prune, save_checkpoint
from envs.vec_env import TaskVecEnv
from scripts.common.screen import Screen, strong
from scripts.common.text import counted
from scripts.runs.folder import Run
from scripts.runs.loggers import Loggers, PerTask
from scripts.runs.messages import next_steps, resume_command, success_table, training_table, way_back
from scripts.runs.postmortem import cause, write_postmortem
from scripts.runs.progress import ProgressBar, StopRequested, StopSwitch
from scripts.runs.results import best_evaluation, group_means, summarize, unstable_episodes, write_result
from scripts.setup.resources import Room


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

    @cached_property
    def loggers(self) -> Loggers:
        """Where its numbers go; opened when training begins."""
        return Loggers(self.run, self.console.print)

    def evaluate(self, episodes: int, switch: StopSwitch) -> None:
        """Evaluate the agent as it is, on the same episodes each time; keep the result and say so in one line.

        :raises NonFiniteError: if the agent has broken down: its success would look like a valid number.
        :raises StopRequested: if it is asked to stop before the result is there; what is written is written whole.
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
        self.loggers.evaluation(step, evaluation)
        self.latest = {"env_steps_per_task": step, **summarize(evaluation)}
        mean = self.latest["mean"]
        success = "unknown" if mean["success"] is None else f"{mean['success']:.2f}"
        distance = f", goal distance {mean['goal_distance']:.3f}" if "goal_distance" in mean else ""
        self.console.print(
            Text.assemble(
                f"{step:>11,} steps per task: success ",
                (success, "bold"),
                f" over {counted(len(evaluation.task_names), 'task')}, {counted(mean['episodes'], 'episode')}",
                distance,
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
        """Evaluate if that is owed; give up at Ctrl-C."""
        if episodes := self.owed:
            with contextlib.suppress(StopRequested):
                self.evaluate(episodes, switch)


def train(session: Session, switch: StopSwitch) -> int:
    """Train to the end, or until a signal asks to stop; return 0 or its number. Ends with a checkpoint.

    An evaluation that was given up before the run was resumed comes first. Whatever goes wrong is raised after
    postmortem.json was written; the last good checkpoint stays.
    """
    config, agent, run = session.run.config, session.agent, session.run
    agent.set_logger(PerTask(session.loggers, agent.num_tasks))
    bar = ProgressBar(session.console, run.protocol.env_steps_per_task, config.progress)
    callbacks = [Evaluations(switch, session), Checkpoints(session), switch, bar]
    with contextlib.closing(session.loggers), contextlib.closing(bar):
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
            at_fault = isinstance(error, NonFiniteError) and not error.source  # the settings
            session.console.print(way_back(run, lower_rate=at_fault), soft_wrap=True)
            raise error from (None if error is found else found)
    return switch.pressed


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
        """Evaluate unless this is the last step."""
        if self.session.steps_left > 0:
            self.session.catch_up(self.switch)


def conclude(session: Session, status: str, argv: Sequence[str]) -> None:
    """Write result.json, then show the table per task, where everything lies and what to try next."""
    run, agent, console = session.run, session.agent, session.console
    unstable = unstable_episodes(session.env)
    write_result(run, status, argv, agent.steps_per_task, session.latest, agent.seconds, unstable)
    title = f"{status} at {agent.steps_per_task:,} steps per task"
    if session.latest:
        title = f"{title}; success after {session.latest['env_steps_per_task']:,}"
        console.print(success_table(session.latest, title, group_means(session.latest, run.protocol.benchmark)))
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
