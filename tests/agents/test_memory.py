"""Freed memory stays with the process: large tensors come without page faults."""

import subprocess
import sys
import textwrap

import pytest

from agents.device.memory import platform

PROGRAM = """
    import resource, sys, torch
    from agents import keep_freed_memory
    if sys.argv[1] == "keep":
        keep_freed_memory()
    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            torch.empty(2**23).fill_(1.0)  # 32 MiB: as large as malloc ever keeps by itself
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    faults()
    print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_large_tensors_cost_no_page_faults_once_told():
    def faults(mode):
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), mode]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert 10 * faults("keep") < faults("plain")
