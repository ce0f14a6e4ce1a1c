"""What happens in an update, operation by operation: a trace for chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from scripts.bench.updates import Size

UPDATES = 5
ROWS = 12  # of the summary


def trace(size: Size, aggregator: str, precision: str, path: Path) -> str:
    """Write a trace of a few updates to `path`; return which operations took longest, all updates together."""
    agent = size.make_agent(aggregator, precision)
    agent.train(2, agent.batch_size)  # the first replay comes with the capture
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if size.device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for number in range(UPDATES):
            with record_function(f"update {number}"):
                agent.train(1, agent.batch_size)
        if size.device == "cuda":
            torch.cuda.synchronize()
    profiler.export_chrome_trace(str(path))
    order = f"self_{size.device}_time_total"
    summary = profiler.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=40)
    return f"{summary}\n{UPDATES} updates, {size}, {aggregator}, {precision}: {path}"
