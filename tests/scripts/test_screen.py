"""What is printed cannot hurt the work: readers that go away, full disks, narrow screens, other encodings, markup."""

import io
import json
import os
import shlex
import signal
import sys
from string import ascii_letters

import pytest
from rich.table import Table

from agents.saving.checkpoint import checkpoints
from envs.meta_world.suites import task_names
from scripts import train
from scripts.common import command
from scripts.common.screen import FittedTable, Guarded, Screen
from scripts.common.usage import UsageError, check_folder
from scripts.runs.messages import success_table, training_table
from tests.helpers import exit_code
from tests.runs import PATIENCE, TINY, start, wait_until


# ----------------------------------------------------------------------------------------------------------- readers
def pipe(folder):
    """A pipe by name, and its reader."""
    os.mkfifo(folder / "pipe")
    return folder / "pipe", [os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)]


def terminal(folder):
    """A terminal, on which there is a progress bar, and the end that shows it."""
    shown, behind = os.openpty()
    return os.ttyname(behind), [shown, behind]


@pytest.mark.parametrize("steps", [60, 100_000])
@pytest.mark.parametrize("reader", [pipe, terminal])
def test_a_reader_that_goes_away_costs_nothing(reader, steps, tmp_path):
    path, (name, ends) = tmp_path / "run", reader(tmp_path)
    process = start([*TINY, "--steps-per-task", steps, "--run-dir", path], name)
    wait_until((path / "config.json").exists, process)
    for end in ends:
        os.close(end)
    if steps > 60:
        wait_until((path / "metrics.csv").exists, process)
        os.kill(process.pid, signal.SIGINT)
    process.join(PATIENCE)
    assert process.exitcode == (0 if steps == 60 else 130)
    result = json.loads((path / "result.json").read_text())
    assert result["status"] == ("finished" if steps == 60 else "interrupted")
    assert checkpoints(path / "checkpoints")[-1].name == f"step_{result['env_steps_per_task']:09d}"


def printing(argv):
    print("first")
    Screen().print("second", "x" * 100_000)
    print("third", file=sys.stderr)


@pytest.mark.parametrize(
    ("error", "files", "expected"),
    [
        (BrokenPipeError(32, "Broken pipe"), False, 0),
        (OSError(28, "No space left on device"), False, 5),
        (OSError(28, "No space left on device"), True, 0),
        (RuntimeError("reentrant call"), True, 0),
        (ValueError("I/O operation on closed file"), True, 0),
    ],
    ids=repr,
)
def test_a_command_comes_to_its_end_whatever_its_output_says(error, files, expected, monkeypatch, capsys):
    class Failing(io.StringIO):
        def write(self, text):
            raise error

    monkeypatch.setattr(sys, "stdout", Failing())
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as end:
        command.run(printing, files=files)
    assert end.value.code == expected
    told = capsys.readouterr().err
    assert told.startswith("third\n")
    assert (str(error) in told) == (not isinstance(error, BrokenPipeError))


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_is_not_there_is_no_error(stream, monkeypatch):
    monkeypatch.setattr(sys, stream, None)
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as end:
        command.run(printing)
    assert end.value.code == 0


# ------------------------------------------------------------------------------------------------ narrow, not UTF-8
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
def test_what_cannot_be_encoded_is_shown_as_far_as_possible(encoding):
    there = io.BytesIO()
    stream = Guarded(io.TextIOWrapper(there, encoding))
    stream.write("a … b ─ 汉\n")
    assert stream.finish() is None
    assert there.getvalue().decode(encoding)[:2] == "a "


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_run_on_a_narrow_screen_without_utf_8(encoding, monkeypatch, tmp_path):
    there = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(there, encoding))
    for name, value in {"COLUMNS": "40", "FORCE_COLOR": "1", "STEPS": "30"}.items():
        monkeypatch.setenv(name, value)
    assert train.main([*TINY, "--run-dir", str(tmp_path / "run")]) == 0
    sys.stdout.flush()
    printed = there.getvalue().decode(encoding)
    assert (tmp_path / "run" / "result.json").exists()
    assert all(f" point-{i} |    0." in printed for i in range(4))


def summary(names):
    row = {"success_interval": [0.0, 1.0], "success_last": 0.5, "return": -12345.6, "episodes": 50}
    row |= {"steps_to_success": 60.0}
    return {"tasks": {n: row | {"success": i / 100} for i, n in enumerate(names)}, "mean": row | {"success": 0.25}}


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_every_task_and_its_success_are_there_in_full(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    names = task_names("MT50")
    metrics = {f"rollout/success/{n}": i / 100 for i, n in enumerate(names)} | {"rollout/success": 0.25}
    for table in (success_table(summary(names), "finished"), training_table(metrics, names, "stopped")):
        Screen().print(table)
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= columns
        cells = [line.split()[:2] for line in printed.splitlines()]
        assert all([name, f"{i / 100:.2f}"] in cells for i, name in enumerate(names))
        assert ["mean", "0.25"] in cells


@pytest.mark.parametrize("columns", [16, 20, 40])
def test_no_cell_is_cut(columns, monkeypatch, capsys):
    """What has no room goes on in the next line."""
    monkeypatch.setenv("COLUMNS", str(columns))
    plain, fitted = Table("name", "value"), FittedTable("name", "value", "other")
    for table in (plain, fitted):
        table.add_row(
            "abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0.12", *["x"] * (len(table.columns) - 2)
        )
        Screen().print(table)
        printed = capsys.readouterr().out
        assert "…" not in printed
        assert set(ascii_letters) <= set(printed)


# ------------------------------------------------------------------------------------------------------------ markup
ODD = "[lr=1] [red] x[/x] [/] :bug: größe $HOME 'q' ~"


def test_no_text_is_markup(capsys):
    table = Table(ODD, title=ODD)
    table.add_row(ODD)
    Screen().print(ODD, table, soft_wrap=True)
    assert capsys.readouterr().out.count(ODD) == 4


def test_what_is_printed_about_a_run_can_be_pasted(monkeypatch, tmp_path, capsys):
    path = tmp_path / ODD
    monkeypatch.setenv("STEPS", "20")
    words = [*TINY, "--no-progress", "--run-dir", str(path)]
    assert train.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line) for line in lines if "python -m " in line]
    assert [words[words.index("-m") + 1] for words in commands] == [
        f"scripts.{n}" for n in ("evaluate", "plot", "train")
    ]
    assert all(str(path) in words for words in commands)
    assert f"run folder: {shlex.quote(str(path))}" in lines
    monkeypatch.delenv("STEPS")
    (path / "config.json").write_text((path / "config.json").read_text().replace('"trial": true', '"trial": false'))
    with pytest.raises(UsageError) as error:
        train.main(words)
    assert str(path) in shlex.split(str(error.value).replace("Choose another --run-dir or", "").rpartition(";")[2])


@pytest.mark.parametrize("name", ["a\nb", "tab\t", "\x1b[31m", "bytes\udcff"])
def test_a_folder_that_cannot_be_printed_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="--run-dir: expected a name of printable characters"):
        train.main(["toy", "--run-dir", str(tmp_path / name)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["toy", "--run-dir"], ["--resume"]])
def test_a_name_that_is_too_long_is_told(words, monkeypatch, tmp_path, capsys):
    assert exit_code(monkeypatch, train.main, [*words, str(tmp_path / ("x" * 300))]) == command.EXIT_USAGE
    assert "File name too long" in capsys.readouterr().err


def test_a_tilde_is_the_home_folder_also_after_an_equals_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command.home(["--out=~/x", "~/y", "--tasks=a~b", "--no-progress"]) == [
        f"--out={tmp_path}/x", "~/y", "--tasks=a~b", "--no-progress",
    ]  # fmt: skip
    assert check_folder("--run-dir", "~/x") == tmp_path / "x"


def test_letters_that_the_file_system_writes_otherwise_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    with pytest.raises(UsageError, match="expected ASCII letters"):
        check_folder("--run-dir", "größe")
    assert str(check_folder("--run-dir", "size")) == "size"
