"""Published curves beside one's own: a number at each, and a note with its method, source and differences."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from scripts.analysis.published import Published
from scripts.analysis.style import color_of
from scripts.runs.protocol import Protocol

_SMALL = 7.5  # points; type of the note and of the numbers
_LINE = 0.12  # inches of a line of the note
_LETTERS = 165  # in a line of the note
_APART = 0.035  # numbers of points nearer than this would cover each other, so they share a place


class Literature:
    """The published figures that fit into a picture, by source and method."""

    def __init__(self, numbers: Sequence[Published], protocol: Protocol) -> None:
        self.sources: dict[str, dict[str, list[Published]]] = {}
        for p in sorted(numbers, key=lambda p: p.steps):
            seeds = f"{p.seeds} seeds" if p.seeds else "seeds not stated"
            differs = "; ".join(p.differences(protocol, p.steps)) or "nothing that is stated"
            words = f"{p.source}: {p.statistic}, {seeds}. Differs from ours in: {differs}"
            self.sources.setdefault(words, {}).setdefault(p.method, []).append(p)

    @property
    def curves(self) -> list[list[Published]]:
        """Curves of all methods; the first has number 1."""
        return [curve for methods in self.sources.values() for curve in methods.values()]

    @property
    def note(self) -> str:
        """A paragraph per source, with its methods by their numbers."""
        lines, number = ["From the literature, by number; other code, and other protocols as the note says:"], 0
        for words, methods in self.sources.items():
            named = [f"{number + i}\N{NO-BREAK SPACE}{method}" for i, method in enumerate(methods, 1)]
            number += len(named)
            lines += textwrap.wrap(f"{words}. {'; '.join(named)}.", _LETTERS, subsequent_indent="    ")
        return "\n".join(lines)

    @property
    def height(self) -> float:
        """Inches that the note takes."""
        return _LINE * (2 + self.note.count("\n"))

    def write(self, part: FigureBase) -> None:
        """Write the note."""
        part.text(0.01, 1, self.note, va="top", fontsize=_SMALL)

    def draw(self, axes: Axes) -> None:
        """Draw a thin line per method, in its colour where it is one of ours, and its number at its end."""
        for curve in self.curves:
            xs, ys = [p.steps for p in curve], [p.success for p in curve]
            color = color_of(curve[0].method.lower().replace("-", "_"))
            axes.plot(xs, ys, ":", color=color, marker="x", markersize=4, linewidth=1)
        for x, y, words in self._places():
            axes.annotate(words, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=_SMALL, color="0.3")

    def _places(self) -> list[tuple[int, float, str]]:
        """Return steps, success and numbers at the ends of the curves; of several numbers that of the best is first."""
        places: list[list[tuple[int, float, int]]] = []
        for end in sorted((curve[-1].steps, curve[-1].success, i) for i, curve in enumerate(self.curves, 1)):
            if places and places[-1][0][0] == end[0] and end[1] - places[-1][0][1] < _APART:
                places[-1].append(end)
            else:
                places.append([end])
        return [(p[0][0], p[0][1], ", ".join(str(number) for *_, number in p[::-1])) for p in places]
