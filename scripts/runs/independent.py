"""Independent SAC, the baseline that shares nothing: one plain Stable-Baselines3 `SAC` per task.

python -m scripts.train mt10-quick --independent

Tasks, goals, horizon, protocol and evaluation are those of the joint agent; network sizes and LayerNorm, rows, buffer,
learning rate, discount, warm-up, reward scale and temperature are the preset's, for each task by itself. SAC is
Stable-Baselines3's own, and not MTSAC with one task, though a test shows the two equal: so the baseline stands on code
that is not ours. What that SAC lacks is off, and stands in config.json as off: clipping of gradients, and overlap of
learning and stepping. T tasks have T networks, so T times the weights of one agent.

The tasks are trained one after the other. A run that was stopped goes on with the task that it was at, from that task's
beginning; what is done is kept in `tasks/`: NAME.csv (evaluations, seconds), NAME.safetensors (the actor).
"""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load_file, save
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from agents import NonFiniteError, evaluate
from agents.saving.atomic import whole_file
from envs.vec_env import TaskVecEnv
from scripts.common.screen import Screen
from scripts.common.usage import UsageError
from scripts.runs.claim import claimed
from scripts.runs.files import as_usage_error, require_new, write_json
from scripts.runs.folder import Run
from scripts.runs.messages import next_steps, resume_command, success_table, whereabouts
from scripts.runs.plain_sac import RewardScale, Team, make_actor, make_sac
from scripts.runs.progress import StopRequested, StopSwitch
from scripts.runs.protocol import describe_env
from scripts.runs.results import summarize, write_result
from scripts.runs.resuming import concluded
from scripts.runs.tables import STEP, CsvTable, evaluation_rows
from scripts.setup import parse
from scripts.setup.build import check_memory, make_env, make_evaluation_env, resolve, run_path
from scripts.setup.config import TrainConfig
from scripts.setup.trust import code_of, require_trust

CHECK_EVERY = 20  # steps between two looks whether the losses are finite
LOSSES = ("critic_loss", "actor_loss", "ent_coef_loss", "ent_coef")


@dataclass
class Work:
    """A run in memory: its files, and who is told of progress."""

    run: Run
    console: Screen
    switch: StopSwitch
    bar: Progress

    @property
    def folder(self) -> Path:
        """Where the single tasks are kept."""
        return self.run.path / "tasks"

    def table(self, task: str) -> CsvTable:
        """Evaluations of one task, with the seconds of training before each."""
        return CsvTable(self.folder / f"{task}.csv")


def train(request: TrainConfig | parse.Resume, argv: Sequence[str]) -> int:
    """Trains task after task, then evaluates all together; returns the exit code."""
    console = Screen()
    switch = StopSwitch(console)
    with contextlib.ExitStack() as stack:
        run = _start(request, stack) if isinstance(request, TrainConfig) else _resume(request, stack)
        console.print(run.protocol.table())
        console.print(
            f"one Stable-Baselines3 SAC per task, on {run.config.device}; torch threads: {run.config.threads}"
        )
        console.print(whereabouts(run), soft_wrap=True)
        work = Work(run, console, switch, stack.enter_context(_bar(console, run)))
        work.folder.mkdir(exist_ok=True)
        stack.enter_context(switch.listening())
        for task in missing_tasks(run):
            if not switch.pressed:
                _train_task(work, task)
        work.bar.stop()
        if not switch.pressed:
            with contextlib.suppress(StopRequested), switch.interruptible():
                _conclude(work, argv)
                return 0
        return _give_up(work, argv)


def missing_tasks(run: Run) -> list[str]:
    """The tasks that are not done; a task's actor is written last."""
    return [task for task in run.protocol.tasks if not _actor_file(run, task).exists()]


def steps_done(run: Run) -> int:
    """Environment steps per task so far, mean over the tasks, as far as the evaluations on the way tell."""
    tables = (CsvTable(run.path / "tasks" / f"{task}.csv").read() for task in run.protocol.tasks)
    return sum(int(rows[-1][STEP]) for rows in tables if rows) // len(run.protocol.tasks)


def load_team(run: Run, env: TaskVecEnv, device: str = "cpu") -> Team:
    """The trained actors. Raises UsageError if a task is not done or its file is damaged."""
    if missing := missing_tasks(run):
        raise UsageError(
            f"expected a run with all tasks trained; {run.path} lacks {', '.join(missing)}. Go on with it: "
            f"python -m scripts.train --resume {shlex.quote(str(run.path))}"
        )
    size = env.observation_space.shape[0] - env.num_envs + 1  # type: ignore[index]
    actors = []
    for task in run.protocol.tasks:
        actor, path = make_actor(run.config, size, env.action_space).to(device), _actor_file(run, task)
        with as_usage_error(path):
            actor.load_state_dict(load_file(path, device=device))
        actors.append(actor)
    return Team(run.protocol.tasks, actors, run.config.steps_per_task)


def _start(config: TrainConfig, stack: contextlib.ExitStack) -> Run:
    path = run_path(config)
    stack.enter_context(claimed(path))
    require_new(path)
    config = replace(resolve(config), workers=0, run_dir=str(path))
    with contextlib.closing(make_env(config, config.goals)) as env:
        check_memory(config, env)
        _factors(config, env.num_envs)
        return Run.new(path, config, describe_env(config, env), env.goals).save()


def _resume(request: parse.Resume, stack: contextlib.ExitStack) -> Run:
    run = Run(request.resume).verified()
    stack.enter_context(claimed(run.path))
    require_trust(code_of(run.config), request.run_code, "going on with")
    config, before = request.apply(run.config), run.config.to_json()
    changed = {name for name, value in config.to_json().items() if value != before[name]} - {"device", "progress"}
    if changed:
        raise UsageError(
            f"expected to go on with {run.path} as it is; found another {', '.join(sorted(changed))}. Tasks that are "
            "done do not change: train anew, in another --run-dir."
        )
    with contextlib.closing(make_env(config, run.goals)) as env:
        run.require_tasks(env.task_names, run.path / "config.json")
    if concluded(run, config.steps_per_task) and not missing_tasks(run):
        raise UsageError(f"expected a run with tasks left; {run.path} has done all of them.")
    return Run.new(run.path, resolve(config), run.protocol, run.goals).save()


def _train_task(work: Work, task: str) -> None:
    """One SAC from its beginning to its end. Raises NonFiniteError if it diverges."""
    config, index = work.run.config, work.run.protocol.tasks.index(task)
    (work.folder / f"{task}.csv").unlink(missing_ok=True)  # of a part that was stopped
    factor = _factors(config, len(work.run.protocol.tasks))[index]
    with (
        contextlib.closing(_one_task(work.run, task, sequential=False)) as env,
        contextlib.closing(_one_task(work.run, task, sequential=True)) as test_env,
    ):
        sac, watch = make_sac(config, RewardScale(env, factor), _seed_of(config, index)), _Watch(work, task, test_env)
        try:
            sac.learn(config.steps_per_task, callback=[work.switch, watch])
        except ValueError:  # torch's distributions refuse NaN
            _require_finite(work.run, task, sac)
            raise
        _require_finite(work.run, task, sac)
        if work.switch.pressed:
            return
        watch.note({"env_steps_per_task": config.steps_per_task, "task": task})
        with whole_file(_actor_file(work.run, task)) as file:
            file.write(save({name: tensor.contiguous() for name, tensor in sac.actor.state_dict().items()}))


def _require_finite(run: Run, task: str, sac: SAC) -> None:
    """Raises NonFiniteError, after writing postmortem.json, unless losses and parameters are finite."""
    logged = {name: float(sac.logger.name_to_value.get(f"train/{name}", 0.0)) for name in LOSSES}
    broken = [name for name, value in logged.items() if not math.isfinite(value)]
    if not all(bool(parameter.isfinite().all()) for parameter in sac.policy.parameters()):
        broken.append("parameters")
    if broken:
        found = {"task": task, "quantity": broken[0], "update": sac._n_updates}
        values = {name: value if math.isfinite(value) else str(value) for name, value in logged.items()}
        write_json(run.path / "postmortem.json", {**found, "env_steps_of_task": sac.num_timesteps, "metrics": values})
        raise NonFiniteError(task, broken[0], sac._n_updates)


class _Watch(BaseCallback):
    """Evaluates one task as often as the config says, and moves the bar."""

    def __init__(self, work: Work, task: str, env: TaskVecEnv) -> None:
        super().__init__()
        self.run, self.config, self.table = work.run, work.run.config, work.table(task)
        self.env, self.task, self.bar = env, task, work.bar
        self.bar.update(self.bar.task_ids[0], task=task)
        self.paused, self.began = 0.0, time.perf_counter()

    def note(self, row: dict[str, Any]) -> None:
        """Keeps a row, with the seconds of training until now."""
        self.table.append([{**row, "time/seconds": round(time.perf_counter() - self.began - self.paused, 3)}])

    def _on_step(self) -> bool:
        step, every = self.num_timesteps, self.config.eval_every
        self.bar.advance(self.bar.task_ids[0])
        if step % CHECK_EVERY == 0:
            assert isinstance(self.model, SAC)
            _require_finite(self.run, self.task, self.model)
        if every and step % every == 0 and step < self.config.steps_per_task:
            before = time.perf_counter()
            self.env.seed(self.config.seed)
            (row,) = evaluation_rows(step, evaluate(self.model, self.env, self.config.eval_goals))
            self.paused += time.perf_counter() - before
            self.note(row)
        return True


def _conclude(work: Work, argv: Sequence[str]) -> None:
    """Evaluates the team in the joint environment; writes evaluations.csv, metrics.csv (time only) and result.json."""
    run, config = work.run, work.run.config
    with contextlib.closing(make_evaluation_env(config, run.goals)) as env:
        env.seed(config.seed)
        final = evaluate(load_team(run, env, config.device), env, config.final_goals)
    tasks = [work.table(task).read() for task in run.protocol.tasks]
    for table in (run.evaluations, run.metrics):  # composed anew if an earlier attempt was cut short
        table.path.unlink(missing_ok=True)
        table.columns = []
    seconds = 0.0
    for rows in zip(*tasks, strict=True):
        step, seconds = int(rows[0]["env_steps_per_task"]), round(sum(float(row["time/seconds"]) for row in rows), 3)
        times = {"time/env_steps_per_task": step, "time/seconds_learn": seconds}
        run.metrics.append([{STEP: step, **times}])
        if step < config.steps_per_task:
            run.evaluations.append({n: cell for n, cell in row.items() if n != "time/seconds"} for row in rows)
    run.add_evaluation(config.steps_per_task, final)
    latest = {"env_steps_per_task": config.steps_per_task, **summarize(final)}
    write_result(run, "finished", argv, config.steps_per_task, latest, {"learn": seconds})
    work.console.print(success_table(latest, f"finished at {config.steps_per_task:,} steps per task, each on its own"))
    work.console.print(*next_steps(run, evaluable=True), sep="\n", soft_wrap=True)


def _give_up(work: Work, argv: Sequence[str]) -> int:
    done = len(work.run.protocol.tasks) - len(missing_tasks(work.run))
    write_result(work.run, "interrupted", argv, 0, None, {})
    work.console.print(
        f"{done} tasks are done; the next begins anew with:\n  {resume_command(work.run)}", soft_wrap=True
    )
    return 128 + work.switch.pressed


def _factors(config: TrainConfig, num_tasks: int) -> tuple[float, ...]:
    scales = config.reward_scale * num_tasks if len(config.reward_scale) == 1 else config.reward_scale
    if len(scales) != num_tasks:
        raise UsageError(f"--reward-scale: expected one number or one per task ({num_tasks}); found {len(scales)}.")
    return scales


def _one_task(run: Run, task: str, sequential: bool) -> TaskVecEnv:
    config = replace(run.config, seed=_seed_of(run.config, run.protocol.tasks.index(task)))
    return make_evaluation_env(config, run.goals, task) if sequential else make_env(config, run.goals, only=task)


def _seed_of(config: TrainConfig, index: int) -> int:
    """A task's own seed: the same networks and noise in all tasks would not be independent."""
    return int(np.random.SeedSequence([config.seed, index]).generate_state(1)[0])


def _actor_file(run: Run, task: str) -> Path:
    return run.path / "tasks" / f"{task}.safetensors"


def _bar(console: Screen, run: Run) -> Progress:
    tasks, steps = len(run.protocol.tasks), run.config.steps_per_task
    bar = Progress(
        BarColumn(bar_width=None),
        TextColumn("{task.fields[task]}", markup=False),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        speed_estimate_period=600,
        console=console,
        disable=not run.config.progress,
        expand=True,
    )
    bar.add_task("", total=tasks * steps, completed=(tasks - len(missing_tasks(run))) * steps, task="")
    return bar
