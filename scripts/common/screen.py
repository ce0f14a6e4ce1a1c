"""The screen: everything that is printed goes through here, and nothing that goes wrong with it reaches the work.

A reader may go away (`| head`, a closed terminal), take no more (a full disk), be narrow, or know less than UTF-8.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

_GONE = (errno.EPIPE, errno.EIO)  # what a pipe answers whose reader has ended, and a terminal that was closed
_ANY = 10_000  # columns: more than any table needs


class LostOutput(Exception):
    """There was no room for all that was printed."""


class Guarded:
    """A text stream that never raises: what cannot be written is lost, what cannot be encoded becomes `?`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.error: Exception | None = None  # why something was lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As of the stream."""
        with self._forgiving():
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                self._stream.write(text.encode(error.encoding, "replace").decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        """As of the stream."""
        with self._forgiving():
            self._stream.flush()

    def finish(self) -> Exception | None:
        """Flush for the last time; return why something was lost, unless the reader just went away.

        What nobody takes is thrown away, or Python would try once more at its end, and complain.
        """
        self.flush()
        if self.error:
            with contextlib.suppress(OSError):  # a stream without a file
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return None if getattr(self.error, "errno", None) in _GONE else self.error

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # closed: ValueError; in a signal's handler: RuntimeError
            self.error = error


def guard(stream: IO[str]) -> IO[str]:
    """Return the stream, or one around it that never raises; None, as Python has it where there is none, stays."""
    return stream if stream is None or isinstance(stream, Guarded) else cast(IO[str], Guarded(stream))


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Inside, printing cannot fail, whoever prints.

    :raises LostOutput: at the end if there was no room for it.
    """
    with contextlib.redirect_stdout(guard(sys.stdout)) as out, contextlib.redirect_stderr(guard(sys.stderr)) as err:
        lost = None
        try:
            yield
        finally:
            lost, _ = (stream.finish() if isinstance(stream, Guarded) else None for stream in (out, err))
    if lost:
        raise LostOutput(lost)


class Screen(Console):
    """A console whose output cannot fail, and for which no text is markup: a path may hold [brackets] or :smileys:."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)

    @property
    def file(self) -> IO[str]:
        """Standard output, as it is now."""
        return guard(super().file)

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As every console does, but a cell without room goes on in the next line: it is not cut."""
        if isinstance(renderable, Table):
            for column in renderable.columns:
                column.overflow = "fold"
        return super().render(renderable, options)


def strong(words: str, rest: str = "") -> Text:
    """Return a line that begins in bold."""
    return Text.assemble((words, "bold"), rest)


class FittedTable(Table):
    """A table in which nothing is cut.

    On a narrow screen columns are left out from the right, down to two, and then the first one's text is wrapped.

    :param first: heading of the first column, names.
    :param others: headings of the others, numbers or short words.
    """

    def __init__(self, first: str, *others: str, title: str = "") -> None:
        super().__init__(box=box.SIMPLE_HEAD, show_edge=False, title=title)
        self.add_column(first, overflow="fold")
        for heading in others:
            self.add_column(heading, justify="right", no_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw as many columns as there is room for."""
        shown = copy.copy(self)
        if self.title:  # a table's own title would be as narrow as the table
            yield strong(str(self.title))
            shown.title = None
        while len(shown.columns) > 2 and self._needs(shown, console, options) > options.max_width:
            shown.columns = shown.columns[:-1]
        yield from Table.__rich_console__(shown, console, options)

    @staticmethod
    def _needs(table: Table, console: Console, options: ConsoleOptions) -> int:
        return table.__rich_measure__(console, options.update(width=_ANY)).maximum
