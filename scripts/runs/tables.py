"""A growing CSV file: rows are appended at once, new columns may come later, a resumed run goes on in the same file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

from agents.saving.atomic import not_through_links, whole_file

Row = Mapping[str, Any]
STEP = "env_steps_per_task"  # the first column of every table of a run


# A file with holes claims any size and takes no disk: what is read has a limit, as a whole and by line.
_MOST_BYTES, _LONGEST_LINE = 2**30, 2**20


class CsvTable:
    """One CSV file with a header; missing values are empty cells.

    Raises ValueError where a file is larger, or a line longer, than any table of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        if path.exists() and path.stat().st_size:
            with path.open(newline="") as file:
                self.columns = next(csv.reader(self._lines(file)))

    def append(self, rows: Iterable[Row]) -> None:
        """Adds rows at the end, all or none; a column that is new is added to the header, empty in the rows before.

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
        """All rows as text by column; no file, no rows. A last line that was cut off, by a kill say, is no row."""
        if not self.columns:
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(line for line in self._lines(file) if line.endswith("\n")))

    def keep(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        """Drops all rows that are not wanted, and what was cut off when the process was killed."""
        self.replace(row for row in self.read() if None not in row.values() and wanted(row))

    def replace(self, rows: Iterable[Row], columns: Sequence[str] | None = None) -> None:
        """Writes the table anew, whole or not at all, with other columns if they are given."""
        columns = list(self.columns if columns is None else columns)
        if not columns:
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        with whole_file(self.path) as file:
            file.write(text.getvalue().encode())
        self.columns = columns

    def _lines(self, file: TextIO) -> Iterator[str]:
        if (size := self.path.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, expected at most {_MOST_BYTES:,}")
        while line := file.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise ValueError(f"it has a line of more than {_LONGEST_LINE:,} characters")
            yield line


class CsvOutputFormat(KVWriter):
    """Stable-Baselines3's CSV format, but it appends: theirs opens with "w+", so that a resumed run wipes the file."""

    def __init__(self, table: CsvTable) -> None:
        self.table = table

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Appends one row: the step and the logged values."""
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        self.table.append([{STEP: step, **dict(sorted(values.items()))}])

    def close(self) -> None:
        """Nothing to close: each row opens the file."""


class CosinesOutputFormat(KVWriter):
    """The cosines between the tasks' gradients over time: a row per network and measurement, a column per pair.

    :param tasks: names, in the order of the matrices that are logged under `cosines/NETWORK`.
    """

    def __init__(self, table: CsvTable, tasks: Sequence[str]) -> None:
        self.table = table
        self._pairs = {f"{a}|{b}": (i, j) for i, a in enumerate(tasks) for j, b in enumerate(tasks) if i < j}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Appends what was measured since the last row, if anything."""
        matrices = {key.removeprefix("cosines/"): v for key, v in key_values.items() if key.startswith("cosines/")}
        self.table.append(
            {STEP: step, "network": network, **{pair: f"{m[ij]:.4f}" for pair, ij in self._pairs.items()}}
            for network, m in matrices.items()
        )

    def close(self) -> None:
        """Nothing to close."""
