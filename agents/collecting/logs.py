"""The rows of logs that training writes."""

from __future__ import annotations

from typing import Any


def write_row(agent: Any) -> None:
    """Write one row of an agent's metrics and times to its logger."""
    logger = agent.logger
    agent.task_metrics.record(logger)
    if agent._n_updates:  # `train` records it, too, but that record is lost when a run stops in between
        logger.record("train/learning_rate", float(agent.actor.optimizer.param_groups[0]["lr"]))
    for network, aggregator in agent.update.aggregators.items():
        if hasattr(aggregator, "fallbacks"):  # of an iterative solver, so far
            logger.record(f"train/{network}_fallbacks", int(aggregator.fallbacks))
    logger.record("time/env_steps_per_task", agent.steps_per_task)
    logger.record("time/updates", agent._n_updates)
    for part, seconds in agent.seconds.items():
        logger.record(f"time/seconds_{part}", round(seconds, 3))
    logger.dump(step=agent.num_timesteps)
