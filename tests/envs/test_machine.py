"""What a process may use is what its affinity and its control groups allow, however deep these lie."""

import errno
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import scripts
from envs import machine
from envs.workers import pool
from envs.workers.pool import count_workers
from scripts.common import command

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = "/dev/shm"
V1, V2 = "4:memory:/a/b\n1:cpu,cpuacct:/a/b\n0::/\n", "0::/a/b\n"
GIB = 2**30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes a tree of control groups: what /proc/self/cgroup says, and files by path."""

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "tree" / name).write_text(text)

    monkeypatch.setattr(machine, "ROOT", tmp_path / "tree")
    monkeypatch.setattr(machine, "OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return write


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("", {}, 8),
        (V2, {"a/b/cpu.max": "300000 100000\n", "cpu.max": "max 100000\n"}, 3),
        (V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "250000 100000\n"}, 2),
        (V2, {"a/b/cpu.max": "50000 100000\n"}, 1),
        (V2, {"cpu.max": "400000 100000\n"}, 4),  # the tree of a container begins at its own group
        (V1, {"cpu,cpuacct/a/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 8),
        ("0::/../../other\n", {"cpu.max": "100000 100000\n"}, 1),
        (V2, {"a/b/cpu.max": "nonsense"}, 8),
    ],
)
def test_auto_counts_the_cores_that_this_process_may_use(own, files, expected, groups):
    groups(own, files)
    assert machine.cores() == expected
    assert count_workers("auto", 50) == max(1, expected // 2)


@pytest.mark.parametrize(
    ("own", "files", "limit", "available"),
    [
        (V2, {"a/memory.max": f"{GIB // 2}", "a/memory.current": "100", "a/b/memory.max": "max"}, GIB // 2, -100),
        (
            V2,
            {
                "a/b/memory.max": f"{GIB // 4}",
                "a/b/memory.current": "100",
                "a/b/memory.stat": "anon 1\ninactive_file 60\n",
            },
            GIB // 4,
            -40,
        ),
        (
            V1,
            {
                "memory/a/b/memory.limit_in_bytes": f"{2**63 - 4096}",
                "memory/a/memory.limit_in_bytes": f"{GIB // 2}",
                "memory/a/memory.usage_in_bytes": "100",
                "memory/a/memory.stat": "total_inactive_file 30\ninactive_file 1\n",
            },
            GIB // 2,
            -70,
        ),
    ],
)
def test_the_tightest_limit_of_memory_on_the_way_to_the_root_holds(own, files, limit, available, groups):
    groups(own, files)
    assert machine.memory() == limit
    assert machine.available_memory() == limit + available


def test_without_limits_it_is_the_machine(groups):
    groups(V2, {"a/b/memory.max": "max"})
    assert machine.memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < machine.available_memory() <= machine.memory()


def test_no_room_for_shared_memory_is_a_full_disk_in_one_line(monkeypatch, capsys, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with (tmp_path / "board").open("wb") as file, pytest.raises(SystemExit) as end:
        command.run(lambda _: pool._reserve(file, 100))
    assert end.value.code == command.EXIT_DISK
    assert "TMPDIR" in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    "variables",
    [
        {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "glx"},
        {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "egl"},
        {"MUJOCO_GL": "wgl"},
    ],
)
def test_settings_of_a_renderer_do_not_stop_what_renders_nothing(variables):
    code = "from envs.meta_world.suites import task_names; print(len(task_names('MT10')))"
    code += "; import os; print(os.environ['MUJOCO_GL'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.stdout.split() == ["10", variables["MUJOCO_GL"]], done.stderr


@pytest.mark.skipif(not os.access(SHARED_MEMORY, os.W_OK), reason="needs shared memory as a folder")
def test_without_a_folder_for_temporary_files_commands_use_shared_memory(monkeypatch):
    """As in a container that is read-only: matplotlib is not imported without one."""
    monkeypatch.setenv("TMPDIR", "/no/such/folder")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [os.environ["TMPDIR"]])
    importlib.reload(scripts)
    assert tempfile.gettempdir() == SHARED_MEMORY


@pytest.mark.parametrize(
    ("variable", "home", "expected"),
    [
        ("/x", "/h", "/x"),
        ("", "/h", "/h/.cache"),
        ("relative", "/h", "/h/.cache"),
        ("", None, tempfile.gettempdir()),  # a container's user without an entry in passwd
        ("x", "relative", tempfile.gettempdir()),
    ],
)
def test_the_cache_is_never_in_the_working_folder(variable, home, expected, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path if home is None else path.replace("~", home))
    assert machine.cache_folder() == Path(expected) / "mtrl-surgery"
