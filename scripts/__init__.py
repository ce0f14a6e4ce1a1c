"""The commands: `python -m scripts.NAME`. Thin: they parse, compose and call."""

import os
import tempfile

import scripts.common  # looks whether other packages are in the way  # noqa: F401

try:
    tempfile.gettempdir()
except FileNotFoundError:  # nowhere to write, as in a container that is read-only: its shared memory may be left
    if os.access("/dev/shm", os.W_OK):
        os.environ["TMPDIR"] = "/dev/shm"  # for matplotlib, which is not imported without one, and for workers
