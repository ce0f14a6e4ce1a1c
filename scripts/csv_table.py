"""A growing CSV file: rows are appended at once, new columns may come later, a resumed run goes on in the same file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

from agents.atomic import whole_file

Row = Mapping[str, Any]


class CsvTable:
    """One CSV file with a header; missing values are empty cells."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        if path.exists() and path.stat().st_size:
            with path.open(newline="") as file:
                self.columns = next(csv.reader(file))

    def append(self, rows: Iterable[Row]) -> None:
        """Adds rows at the end; a column that is new is added to the header, empty in the rows before."""
        rows = list(rows)
        new = list(dict.fromkeys(name for row in rows for name in row if name not in self.columns))
        if new:
            before = self.read()
            self.columns += new
            self._rewrite(before)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerows(rows)

    def read(self) -> list[dict[str, str]]:
        """All rows as text by column; no file, no rows. A last line that was cut off, by a kill say, is no row."""
        if not self.columns:
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(line for line in file if line.endswith("\n")))

    def keep(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        """Drops all rows that are not wanted, and what was cut off when the process was killed."""
        if self.columns:
            self._rewrite([row for row in self.read() if None not in row.values() and wanted(row)])

    def _rewrite(self, rows: Iterable[Row]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        with whole_file(self.path) as file:
            file.write(text.getvalue().encode())


class CsvOutputFormat(KVWriter):
    """Stable-Baselines3's CSV format, but it appends: theirs opens with "w+", so that a resumed run wipes the file."""

    def __init__(self, table: CsvTable) -> None:
        self.table = table

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Appends one row: `env_steps` (over all tasks) and the logged values."""
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        self.table.append([{"env_steps": step, **dict(sorted(values.items()))}])

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
            {"env_steps": step, "network": network, **{pair: f"{m[ij]:.4f}" for pair, ij in self._pairs.items()}}
            for network, m in matrices.items()
        )

    def close(self) -> None:
        """Nothing to close."""
