"""Text from files, read strictly, and made harmless where it is shown: on a terminal, in Markdown, in a spreadsheet."""

from __future__ import annotations

import json
import re
from typing import Any


def plain(text: object, keep: str = "") -> str:
    """Without control characters, which move cursors and fake lines; they appear as escapes like \\x1b.

    :param keep: characters that stay, such as a line's end.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in str(text))


def counted(number: int, noun: str) -> str:
    """`1 episode`, `1,000 episodes`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_markdown(text: object) -> str:
    """Plain, and without what starts a tag, a link or another cell of a table in Markdown."""
    return re.sub(r"[|\[\]`\\]", r"\\\g<0>", plain(text).replace("&", "&amp;").replace("<", "&lt;"))


def in_csv(text: object) -> str:
    """Plain, and never a formula: spreadsheets compute what begins with =, +, - or @."""
    found = plain(text)
    return f"'{found}" if found.startswith(("=", "+", "-", "@")) else found


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    :raises ValueError: also for a key that stands twice in an object: Python would take the last one, and not say so.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"expected each key once; found {max(names, key=names.count)!r} more than once")
    return found
