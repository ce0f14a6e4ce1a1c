"""Types of flags that tyro does not read by itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from tyro.constructors import PrimitiveConstructorSpec

_WORDS = {"auto": "auto", "true": True, "false": False}


def _read(words: list[str]) -> Any:
    word = words[0].lower()
    if word not in _WORDS and (not word.isdecimal() or int(word) < 1):
        raise ValueError(f"expected auto, true, false or a number of updates of at least 1; found {words[0]!r}")
    return _WORDS[word] if word in _WORDS else int(word)


# Whether updates are captured as CUDA graphs; a number: so many in one
Capture = Annotated[
    Literal["auto"] | bool | int,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="auto|true|false|N",
        instance_from_str=_read,
        is_instance=lambda value: value == "auto" or isinstance(value, int),
        str_from_instance=lambda value: [str(value).lower()],
    ),
]
