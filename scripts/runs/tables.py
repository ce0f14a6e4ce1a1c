"""A growing CSV file: rows are appended at once, new columns may come later, a resumed run goes on in the same file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from agents.saving.atomic import not_through_links, whole_file
from scripts.runs.files import as_usage_error

if TYPE_CHECKING:  # reading a table needs no torch
    from agents import Evaluation

Row = Mapping[str, Any]
STEP = "env_steps_per_task"  # the first column of every table of a run


# A file with holes claims any size and takes no disk: what is read has a limit, as a whole and by line.
_MOST_BYTES, _LONGEST_LINE = 2**30, 2**20


def write_table(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Write a CSV file with a header, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    with whole_file(path) as file:
        file.write(text.getvalue().encode())


class CsvTable:
    """One CSV file with a header; missing values are empty cells.

    It reads like a data frame: `table.columns`, `len(table)`, and `table["success"]` is an array with a number or a
    text per row. `dict(table)` has all columns, and `pandas.DataFrame(dict(table))` is one where pandas is installed.

    :raises ValueError: where a file is larger, or a line longer, than any table of ours; for a column that is there
        twice.
    :raises UsageError: where a column is asked for and the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        self._rows: tuple[tuple[int, int], list[dict[str, str]]] | None = None  # of a file with this time and size
        if path.exists() and path.stat().st_size:
            with path.open(newline="", encoding="utf-8-sig") as file:
                self.columns = next(csv.reader(self._lines(file)))
            if len(set(self.columns)) < len(self.columns):
                raise ValueError("expected each column once; found one twice")

    def __repr__(self) -> str:
        return f"CsvTable({str(self.path)!r}: {len(self)} rows, {len(self.columns)} columns)"

    def __len__(self) -> int:
        with as_usage_error(self.path):
            return len(self.read())

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def keys(self) -> list[str]:
        """Return the names of the columns."""
        return self.columns

    def __getitem__(self, column: str) -> np.ndarray:
        """(rows,): numbers, NaN where a cell is empty; text where a cell is no number."""
        if column not in self.columns:
            raise KeyError(f"expected one of {', '.join(self.columns)}; found {column!r}")
        with as_usage_error(self.path):
            cells = [row[column] for row in self.read()]
        try:
            return np.array([float(cell or "nan") for cell in cells])
        except ValueError:
            return np.array(cells)

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows at the end, all or none; a column that is new is added to the header, empty in the rows before.

        :raises OSError: if the disk is full; the file is then as it was.
        """
        rows = list(rows)
        if new := list(dict.fromkeys(name for row in rows for name in row if name not in self.columns)):
            self.replace(self.read(), [*self.columns, *new])
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.columns).writerows(rows)
        left = text.getvalue().encode()
        with open(self.path, "ab", buffering=0, opener=not_through_links) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                while left:
                    left = left[file.write(left) :]
            except BaseException:
                file.truncate(end)
                raise

    def read(self) -> list[dict[str, str]]:
        """All rows as text by column; no file, no rows. A last line that was cut off, by a kill say, is no row.

        They are parsed again only if the file changed: `dict(table)` asks column by column.

        :raises ValueError: for a row of other columns.
        """
        if not self.columns:
            return []
        found = self.path.stat()
        version = found.st_mtime_ns, found.st_size
        if self._rows is None or self._rows[0] != version:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(line for line in self._lines(file) if line.endswith("\n")))
            for number, row in enumerate(rows, 1):
                if None in row or None in row.values():  # more cells than columns, or less
                    raise ValueError(f"expected {len(self.columns)} cells in each row; row {number} has others")
            self._rows = version, rows
        return self._rows[1]

    def replace(self, rows: Iterable[Row], columns: Sequence[str] | None = None) -> None:
        """Write the table anew, whole or not at all, with other columns if they are given."""
        columns = list(self.columns if columns is None else columns)
        if not columns:
            return
        write_table(self.path, rows, columns)
        self.columns, self._rows = columns, None

    def _lines(self, file: TextIO) -> Iterator[str]:
        if (size := self.path.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, expected at most {_MOST_BYTES:,}")
        while line := file.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise ValueError(f"it has a line of more than {_LONGEST_LINE:,} characters")
            yield line


def mean_known(values: np.ndarray) -> float:
    """Return the mean of those that are not NaN; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def evaluation_rows(env_steps_per_task: int, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the rows of evaluations.csv: one per task, with `goal_distance` where tasks tell it."""
    return [
        {
            "env_steps_per_task": env_steps_per_task,
            "task": task,
            "success": evaluation.success[i].mean(),
            "success_last": evaluation.success_last[i].mean(),
            "return": evaluation.returns[i].mean(),
            "episodes": evaluation.success.shape[1],
            "steps_to_success": mean_known(evaluation.steps_to_success[i]),
            **({"goal_distance": mean_known(evaluation.goal_distance[i])} if evaluation.tells_distance else {}),
        }
        for i, task in enumerate(evaluation.task_names)
    ]
