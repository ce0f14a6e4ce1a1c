"""One training of a sweep as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from agents.saving.atomic import not_through_links
from scripts.common.signals import SWEEP

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Command:
    """`python -m scripts.train ARGV` with so many threads; what it prints goes to the end of `log`."""

    argv: tuple[str, ...]
    log: Path
    threads: int

    @property
    def words(self) -> tuple[str, ...]:
        """All arguments of scripts.train."""
        return (*self.argv, "--threads", str(self.threads))

    def begin(self) -> subprocess.Popen[bytes]:
        """Start it in a session of its own: Ctrl-C in the terminal reaches the sweep alone, which tells it once.

        It saves and ends when this process dies: nobody would know of it.
        """
        libraries = dict.fromkeys(_THREAD_VARIABLES, str(self.threads))  # torch's own number is the flag
        with open(self.log, "ab", opener=not_through_links) as file:
            return subprocess.Popen(
                [sys.executable, "-m", "scripts.train", *self.words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **libraries, SWEEP: str(os.getpid())},
                start_new_session=True,
            )
