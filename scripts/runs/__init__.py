"""One run: its folder, files, protocol and reports.

from scripts.runs import Run

run = Run("runs/mt10-quick-pcgrad-seed0")
run.status, run.success, run.evaluations["success"]
agent, env = run.agent(), run.env()
"""

from scripts.runs.folder import Run

__all__ = ["Run"]
