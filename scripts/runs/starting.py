"""How a training begins: a new run, or one that goes on from its newest checkpoint."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from agents.algorithms import ALGORITHMS
from agents.fields import settings_of, taken_by
from agents.saving.agent_file import settings_state
from agents.saving.checkpoint import load_checkpoint
from agents.settings import AHEAD_REMOVED, AgentSettings
from scripts.common.screen import Screen, strong
from scripts.common.text import plain
from scripts.common.usage import UsageError, usage_errors
from scripts.runs.claim import claimed
from scripts.runs.files import require_new
from scripts.runs.folder import Run
from scripts.runs.forecast import forecast
from scripts.runs.loggers import check_loggers
from scripts.runs.messages import whereabouts
from scripts.runs.protocol import describe_env
from scripts.runs.results import latest_evaluation
from scripts.runs.resuming import concluded, never_saved, rewind
from scripts.runs.session import Session
from scripts.setup.build import (
    RESUMABLE,
    check_memory,
    make_agent,
    make_env,
    make_evaluation_env,
    require_settings,
    resolve,
    run_path,
)
from scripts.setup.config import TrainConfig
from scripts.setup.parse import Resume
from scripts.setup.resources import measure
from scripts.setup.trust import code_of, require_trust

LONG = 100_000  # environment steps of all tasks: before a shorter run it is not worth finding out how long it takes


def start(config: TrainConfig, stack: contextlib.ExitStack) -> Session:
    """Start a new run; its folder is claimed at once, and stays empty until environments and agent work."""
    stack.enter_context(claimed(run_path(config)))
    return new_session(config, stack)


def new_session(config: TrainConfig, stack: contextlib.ExitStack) -> Session:
    """Start a new run in a folder that is claimed."""
    path = run_path(config)
    check_loggers(config.loggers)
    require_new(path)
    config = resolve(config)
    env = stack.enter_context(contextlib.closing(make_env(config, config.goals)))
    check_memory(config, env)
    evaluation_env = stack.enter_context(contextlib.closing(make_evaluation_env(config, env.goals)))
    config = replace(config, workers=env.num_workers, run_dir=str(path))
    agent = make_agent(config, env)
    run = Run.new(path, config, describe_env(config, env), env.goals)
    room = measure(config, agent, [*env.worker_pids, *evaluation_env.worker_pids], run.checkpoints)
    room.check()
    return Session(run.save(), agent, env, evaluation_env, Screen(), room)


def resume(request: Resume, stack: contextlib.ExitStack) -> Session:
    """Resume a run as it was at its newest checkpoint; what was logged after that is forgotten."""
    run = Run(request.resume).verified()
    stack.enter_context(claimed(run.path))
    return saved_session(request, run, stack)


def saved_session(request: Resume, run: Run, stack: contextlib.ExitStack) -> Session:
    """Resume a run whose folder is claimed."""
    require_trust(code_of(run.config), request.run_code, "going on with")
    if lag := run.protocol.collect_ahead:
        raise UsageError(
            f"{run.path} was trained with collect_ahead={lag} and cannot go on: {AHEAD_REMOVED}. Evaluations and films "
            "work; to learn on, use the version that trained it, or train anew."
        )
    checkpoint = None if never_saved(run) else run.newest_checkpoint()
    config = resolve(request.apply(run.config))
    check_loggers(config.loggers)
    env = stack.enter_context(contextlib.closing(make_env(config, run.goals)))
    evaluation_env = stack.enter_context(contextlib.closing(make_evaluation_env(config, run.goals)))
    run.require_tasks(env.task_names, run.path / "config.json")
    changes = {name: getattr(config, name) for name in RESUMABLE & settings_of(AgentSettings).keys()}
    if checkpoint is None:  # stopped before the first one: the same seed gives the same beginning
        agent = make_agent(config, env)
    else:
        with usage_errors():
            kind = ALGORITHMS[config.algorithm].kind
            changes |= taken_by(kind, {"capture": config.capture, "compile": config.compile})
            agent = load_checkpoint(checkpoint, env, config.device, kind, run_code=request.run_code, **changes)
            require_settings(run.config, settings_state(agent), checkpoint)
    protocol = describe_env(config, env)
    if config.steps_per_task < run.config.steps_per_task and agent.steps_per_task >= protocol.env_steps_per_task:
        raise UsageError(
            f"--steps-per-task: expected more than the {agent.steps_per_task:,} per task that {run.path} has done; "
            f"found {config.steps_per_task:,}. Extend it with more."
        )
    room = measure(config, agent, [*env.worker_pids, *evaluation_env.worker_pids], run.checkpoints)
    room.check()
    console, software, _ = Screen(), run.other_software(), latest_evaluation(run)  # damage is told before the rewind
    rewind(run, agent.steps_per_task)
    before = run.config.to_json()
    changed = [f"{name} {before[name]} -> {value}" for name, value in config.to_json().items() if value != before[name]]
    run = Run.new(run.path, config, protocol, run.goals)
    session = Session(run, agent, env, evaluation_env, console, room, latest_evaluation(run))
    if session.steps_left <= 0 and not session.owed and concluded(run, agent.steps_per_task):
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


def introduce(session: Session) -> None:
    """Say what is about to happen: protocol, settings that matter, memory."""
    config, env, console = session.run.config, session.env, session.console
    console.print(session.run.protocol.table())
    made = [what for what, on in (("compiled", config.compile), ("captured as graphs", config.capture)) if on]
    updates = f", updates {' and '.join(made)}" if made else ""
    console.print(
        f"{plain(config.method)} on {config.device}{updates}; "
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
