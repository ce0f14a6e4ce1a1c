"""Types of flags that tyro does not read by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

_LISTS: dict[Any, tuple[str, str]] = {int: ("whole numbers", "0,1,2"), float: ("numbers", "0.1,1,2.5")}


def _comma_separated(item: Callable[[str], Any], metavar: str) -> PrimitiveConstructorSpec[Any]:
    """Read `a,b,c` as one tuple: the natural way to write a list of tasks in a shell."""

    def read(words: list[str]) -> tuple[Any, ...]:
        what, like = _LISTS.get(item, ("names", "a,b"))
        try:
            found = tuple(item(part.strip()) for part in words[0].split(",") if part.strip())
        except ValueError:
            found = ()
        if words[0] and not found:  # an empty list would mean all
            raise ValueError(f"expected {what} separated by commas, as in {like}; found {words[0]!r}")
        return found

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


def comma_separated(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """How a tuple of settings is written, where its type does not say so: a rule for tyro's registry."""
    if info.type_origin is not tuple:
        return None
    item = get_args(info.type)[0]
    return _comma_separated(item, {float: "X,Y,...", int: "K,L,..."}.get(item, "A,B,..."))


Names = Annotated[tuple[str, ...], _comma_separated(str, "A,B,...")]
Counts = Annotated[tuple[int, ...], _comma_separated(int, "K,L,...")]

_WORDS = {"auto": "auto", "true": True, "false": False}


def _read(words: list[str]) -> Any:
    word = words[0].lower()
    if word not in _WORDS:
        raise ValueError(f"expected auto, true or false; found {words[0]!r}")
    return _WORDS[word]


_CAPTURE: PrimitiveConstructorSpec[Any] = PrimitiveConstructorSpec(
    nargs=1,
    metavar="auto|true|false",
    instance_from_str=_read,
    is_instance=lambda value: value == "auto" or isinstance(value, bool),
    str_from_instance=lambda value: [str(value).lower()],
)
_AUTO_OR = Literal["auto"] | bool
# Whether updates are captured as CUDA graphs
Capture = Annotated[_AUTO_OR, _CAPTURE]


def auto_true_false(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """How `auto`, yes or no is written, where the type does not say so: a rule for tyro's registry."""
    return _CAPTURE if info.type == _AUTO_OR else None
