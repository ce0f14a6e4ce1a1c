"""What this process may use of the machine: cores and memory, as its affinity and its control groups say, and a cache.

A container, a batch job and a systemd service each live in a control group, often several levels below the root, and
the tightest limit on the way up is the one that holds.
"""

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_UNLIMITED = 2**60  # version 1 writes a number near 2**63 where there is no limit


def cores() -> int:
    """Cores that this process may keep busy, at least 1: its affinity, or fewer where a control group says so."""
    number = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for group in _groups("cpu"):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # not there, or "max": no limit
            quota, period = map(int, (group / "cpu.max").read_text().split())
            number = min(number, quota / period)
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            number = min(number, quota / period) if quota > 0 else number  # -1: no limit
    return max(1, math.floor(number))


def cache_folder() -> Path:
    """Where files lie that can be made again: XDG_CACHE_HOME, ~/.cache, or beside temporary ones where is no home.

    Paths there are absolute, says the XDG Base Directory Specification, and others are to be ignored.
    """
    places = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")
    return Path(next(filter(os.path.isabs, places), "") or tempfile.gettempdir()) / "mtrl-surgery"


def memory() -> int:
    """Bytes of memory that this process may have at all."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in _memory_limits())])


def available_memory() -> int:
    """Bytes of it that are free now; what the system holds only to save reading it again counts as free."""
    free = memory()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = min(free, 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    return max(0, min([free, *(limit - used for limit, used in _memory_limits())]))


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Limit and use of each control group that has a limit."""
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    for group in _groups("memory"):
        for limit, use in names:
            with contextlib.suppress(OSError, ValueError):
                if (most := int((group / limit).read_text())) < _UNLIMITED:
                    yield most, int((group / use).read_text()) - _reclaimable(group)


def _reclaimable(group: Path) -> int:
    with contextlib.suppress(OSError):
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
    return 0


def _groups(controller: str) -> Iterator[Path]:
    """Return the folders of this process's control groups, from its own up to the root, for one controller.

    Version 2 has one tree for all controllers and calls it nothing; version 1 has a tree for each.
    """
    with contextlib.suppress(OSError):
        for line in OWN.read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            tree = ROOT / controllers if controllers else ROOT
            own = Path(place.lstrip("/"))
            yield from (tree / folder for folder in (own, *own.parents) if ".." not in folder.parts)
