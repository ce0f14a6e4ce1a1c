"""Spare the page faults of an update's large tensors."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next tensors; call it once, before training on a CPU.

    By default glibc hands large blocks back to the system at once, so that every large tensor of every update is
    paid for with page faults: thousands per update, up to a third of its time. The peak stays the same, the process
    just stays there. Does nothing where the C library is not glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
