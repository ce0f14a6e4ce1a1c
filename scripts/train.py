"""Train one agent on many tasks.

python -m scripts.train toy                        seconds: does everything work?
python -m scripts.train mt10-quick                 MT10 sized for two CPU cores
python -m scripts.train mt10 --aggregator mean     the settings of the literature, the plain mean as a baseline
python -m scripts.train --resume runs/mt10-mean-seed0
"""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import filesize
from rich.console import Console

from agents import MTSAC, NonFiniteError
from agents.callbacks import CheckpointCallback, EveryStepsPerTask
from agents.checkpoint import load_checkpoint, prune, save_checkpoint
from agents.evaluation import evaluate
from envs.vec_env import TaskVecEnv
from scripts import cli
from scripts.build import buffer_bytes, make_agent, make_env, resolve, run_path
from scripts.config import TrainConfig
from scripts.progress import ProgressBar, StopRequested, StopSwitch
from scripts.protocol import describe
from scripts.report import best_evaluation, success_table, summarize
from scripts.run_folder import RunFolder, require_new, write_json


@dataclass
class Session:
    """A run in memory: its files, its agent, and two sets of environments: evaluation does not disturb training."""

    run: RunFolder
    agent: MTSAC
    env: TaskVecEnv
    evaluation_env: TaskVecEnv
    console: Console
    latest: dict[str, Any] | None = None  # summary of the newest evaluation

    def evaluate(self, episodes: int) -> None:
        """Evaluates the agent as it is, on the same episodes each time; keeps the result and says so in one line."""
        self.evaluation_env.seed(self.run.config.seed)
        evaluation, step = evaluate(self.agent, self.evaluation_env, episodes), self.agent.vector_steps
        self.run.add_evaluation(step, evaluation)
        self.latest = {"env_steps_per_task": step, **summarize(evaluation)}
        mean = self.latest["mean"]
        self.console.print(
            f"{step:>11,} steps per task: success [bold]{mean['success']:.2f}[/] over "
            f"{len(evaluation.task_names)} tasks, {mean['episodes']} episodes"
        )


def main(argv: Sequence[str]) -> int:
    """Trains as `argv` says; returns the exit code."""
    request = cli.parse_train(argv)
    if request is None:
        return 0
    with contextlib.ExitStack() as stack:
        session = start(request, stack) if isinstance(request, TrainConfig) else resume(request, stack)
        introduce(session)
        stopped_by = train(session)
        conclude(session, "interrupted" if stopped_by else "finished", argv)
    return 128 + stopped_by if stopped_by else 0  # as shells report a signal


def start(config: TrainConfig, stack: contextlib.ExitStack) -> Session:
    """A new run. Its folder appears once environments and agent are known to work."""
    path = run_path(config)
    require_new(path)
    config = resolve(config)
    env = stack.enter_context(contextlib.closing(make_env(config, config.goals)))
    evaluation_env = stack.enter_context(contextlib.closing(make_env(config, env.goals, "sequential")))
    config = replace(config, workers=env.num_workers, run_dir=str(path))
    agent = make_agent(config, env)
    run = RunFolder(path, config, describe(config, env.task_names, env.goals), env.goals).save()
    return Session(run, agent, env, evaluation_env, Console(highlight=False))


def resume(request: cli.Resume, stack: contextlib.ExitStack) -> Session:
    """A run as it was at its newest checkpoint; what was logged after that is forgotten."""
    run = RunFolder.open(Path(request.resume))
    checkpoint = run.newest_checkpoint()
    config = resolve(request.apply(run.config))
    env = stack.enter_context(contextlib.closing(make_env(config, run.goals)))
    evaluation_env = stack.enter_context(contextlib.closing(make_env(config, run.goals, "sequential")))
    with cli.usage_errors():
        agent = load_checkpoint(checkpoint, env, device=config.device)
    if agent.vector_steps >= config.steps_per_task:
        raise cli.UsageError(
            f"expected a run with steps left; {run.path} has done {agent.vector_steps:,} of {config.steps_per_task:,} "
            "per task. Extend it with --steps-per-task."
        )
    run = replace(run, config=config, protocol=describe(config, env.task_names, env.goals)).save()
    run.rewind(agent.vector_steps)
    return Session(run, agent, env, evaluation_env, Console(highlight=False))


def introduce(session: Session) -> None:
    """Says what is about to happen: protocol, settings that matter, memory."""
    config, env, console = session.run.config, session.env, session.console
    console.print(session.run.protocol.table())
    console.print(
        f"{config.aggregator} on {config.device}; torch threads: {config.threads}, workers: {env.num_workers}"
    )
    console.print(f"replay buffer: {filesize.decimal(buffer_bytes(session.agent))} when full")
    console.print(f"run folder: {session.run.path}\n", soft_wrap=True)


def train(session: Session) -> int:
    """Trains to the end, or to Ctrl-C or SIGTERM; returns 0 or the signal's number. Ends with a checkpoint.

    Raises NonFiniteError after writing postmortem.json; the last good checkpoint stays.
    """
    config, agent, run = session.run.config, session.agent, session.run
    agent.set_logger(run.logger())
    switch = StopSwitch(session.console)
    bar = ProgressBar(session.console, config.steps_per_task, config.progress)
    callbacks = [*schedule(session, switch), switch, bar]
    with switch.listening(), contextlib.closing(bar):
        try:
            missing = (config.steps_per_task - agent.vector_steps) * agent.num_tasks
            agent.learn(missing, callback=callbacks, reset_num_timesteps=False)
            save_checkpoint(run.checkpoints, agent, session.env)
            prune(run.checkpoints, config.keep_checkpoints)
        except NonFiniteError as error:
            write_postmortem(session, error)
            raise
        if not switch.pressed:
            with contextlib.suppress(StopRequested), switch.interruptible():
                session.evaluate(config.final_goals)
    return switch.pressed


def schedule(session: Session, switch: StopSwitch) -> Iterator[EveryStepsPerTask]:
    """The callbacks for evaluations and checkpoints, as often as the config says; the end of a run has its own."""
    config = session.run.config
    yield Evaluations(switch, session)
    yield CheckpointCallback(session.run.checkpoints, config.checkpoint_every, keep=config.keep_checkpoints)


class Evaluations(EveryStepsPerTask):
    """Evaluates during training; gives up at Ctrl-C; leaves the last step to the final evaluation."""

    def __init__(self, switch: StopSwitch, session: Session) -> None:
        super().__init__(session.run.config.eval_every)
        self.switch, self.session = switch, session

    def act(self) -> None:
        """Evaluates unless this is the last step."""
        config = self.session.run.config
        if self.model.vector_steps < config.steps_per_task:
            with contextlib.suppress(StopRequested), self.switch.interruptible():
                self.session.evaluate(config.eval_goals)


def write_postmortem(session: Session, error: NonFiniteError) -> None:
    """What is known about a run that diverged, beside its last good checkpoint."""
    write_json(
        session.run.path / "postmortem.json",
        {
            "task": error.task,
            "quantity": error.quantity,
            "update": error.update,
            "env_steps_per_task": session.agent.vector_steps,
            "metrics": {
                name: value if math.isfinite(value) else str(value) for name, value in session.agent.metrics().items()
            },
        },
    )


def conclude(session: Session, status: str, argv: Sequence[str]) -> None:
    """Writes result.json, then shows the table per task, where everything lies and what to try next."""
    run, agent, console = session.run, session.agent, session.console
    result = {
        "status": status,
        "command": shlex.join(["python", "-m", "scripts.train", *argv]),
        "protocol": {"id": run.protocol.id, **run.protocol.to_json()},
        "env_steps_per_task": agent.vector_steps,
        "evaluation": session.latest,
        "best": best_evaluation(run),
        "seconds": agent.seconds,
    }
    write_json(run.path / "result.json", result)
    if session.latest:
        title = (
            f"{status} at {agent.vector_steps:,} steps per task; success after {session.latest['env_steps_per_task']:,}"
        )
        console.print(success_table(session.latest, title))
    else:
        console.print(f"{status} at {agent.vector_steps:,} steps per task, before the first evaluation")
    path = shlex.quote(str(run.path))
    longer = "" if status == "interrupted" else f" --steps-per-task {2 * agent.vector_steps}"
    lines = (
        f"Everything is in {path}: result.json, evaluations.csv, metrics.csv, tensorboard/, checkpoints/",
        "Next:",
        f"  python -m scripts.evaluate {path}",
        f"  python -m scripts.plot {path}",
        f"  python -m scripts.train --resume {path}{longer}",
    )
    console.print(*lines, sep="\n", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)
