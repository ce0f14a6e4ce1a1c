"""Freed memory stays with the process: large tensors come without page faults."""

import os

import pytest

from agents.device.memory import platform
from tests.runs import python

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
def test_large_tensors_cost_no_page_faults_once_told(tmp_path):
    def faults(mode):
        assert python(["-c", PROGRAM, mode], tmp_path, dict(os.environ), tmp_path / mode) == 0
        return int((tmp_path / mode).read_text())

    assert 10 * faults("keep") < faults("plain")
