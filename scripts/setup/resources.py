"""What a run needs of memory and disk, and what is there: said before training, and refused if it cannot fit."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich import filesize

from agents import MTSAC
from agents.saving.checkpoint import checkpoint_bytes
from envs import machine
from scripts.common.usage import UsageError
from scripts.setup.config import TrainConfig


@dataclass(frozen=True)
class Room:
    """Bytes that a run takes, and bytes that there are."""

    resident: int  # of all its processes, before training; 0 where the system does not tell
    processes: int
    growth: int  # of memory, as the replay buffer fills; on a GPU that is the GPU's
    memory: int  # that this process may have at all
    available: int  # of it, now
    checkpoint: int  # one, at the end of the run
    kept: int  # how many lie on the disk at once: those that are kept, and the one that is being written
    disk: int  # free, with what this run's checkpoints take already

    def lines(self) -> list[str]:
        """Return what to say before training."""
        needed, free = filesize.decimal(self.checkpoint * self.kept), filesize.decimal(self.disk)
        found = [f"checkpoints: up to {self.kept} of {filesize.decimal(self.checkpoint)}, {needed}; {free} free"]
        if self.resident:
            now, growth = filesize.decimal(self.resident), filesize.decimal(self.growth)
            processes = f"{self.processes} process{'es' if self.processes > 1 else ''}"
            free = filesize.decimal(self.available)
            found.append(f"memory: {now} in {processes}, and {growth} as the replay buffer fills; {free} free")
        if self.growth > self.available:
            found.append("Memory is short: other programs hold what this run will need.")
        return found

    def check(self) -> None:
        """Raise UsageError if the run cannot fit."""
        if self.resident + self.growth > self.memory:
            raise UsageError(
                f"--buffer-size: expected a run that fits in memory; its processes hold "
                f"{filesize.decimal(self.resident)}, its replay buffer comes to {filesize.decimal(self.growth)}, and "
                f"there are {filesize.decimal(self.memory)}. Keep fewer transitions."
            )
        if (needed := self.checkpoint * self.kept) > self.disk:
            raise UsageError(
                f"expected room on the disk for {self.kept} checkpoints of {filesize.decimal(self.checkpoint)}, "
                f"{filesize.decimal(needed)} in all; {filesize.decimal(self.disk)} are free. Make room, or keep less: "
                "--buffer-size, --keep-checkpoints, or another --run-dir."
            )


def measure(config: TrainConfig, agent: MTSAC, workers: Iterable[int], folder: Path) -> Room:
    """Return the room of a run that is built and has not begun. `folder`: where its checkpoints go, or will."""
    pids = {os.getpid(), *workers}
    filled = min(config.steps_per_task, config.buffer_size)
    checkpoint = checkpoint_bytes(agent, filled)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    own = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Room(
        resident=sum(map(resident, pids)),
        processes=len(pids),
        growth=agent.replay_buffer.nbytes(filled) if agent.replay_buffer.device.type == "cpu" else 0,
        memory=machine.memory(),
        available=machine.available_memory(),
        checkpoint=checkpoint,
        kept=config.keep_checkpoints + 1,
        disk=shutil.disk_usage(there).free + own,
    )


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if the system does not tell."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
