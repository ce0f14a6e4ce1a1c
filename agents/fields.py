"""What a field of settings says beside name, type and default: its bounds and its role. One validator reads them.

    my_setting: Annotated[Count, Role(plain_sac=1)] = 1

Whoever needs "all settings that ..." asks here; no list of names is kept by hand.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import math
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

Kind = Literal["method", "protocol", "machine", "monitoring"]
# a field of `Role`: what an algorithm cannot follow
Lack = Literal["plain_sac", "no_entropy", "no_added_noise", "targets_with_actor"]
KEEP: Any = object()  # it takes the setting as it is
DEFAULT: Any = object()  # the setting means nothing to it, and stays as it is by default


class SettingError(ValueError):
    """A setting with a value that it cannot have: its name, what was expected and what was found."""

    def __init__(self, name: str, expected: str, found: Any) -> None:
        super().__init__(f"{name}: expected {expected}; found {found!r}")
        self.name, self.expected, self.found = name, expected, found


@dataclass(frozen=True)
class Bound:
    """What a value of the right type must fulfil.

    :param expected: in words that follow "expected".
    """

    expected: str
    holds: Callable[[Any], bool]


class Registered(Bound):
    """A name in a registry, to which users may add; it is imported when it is asked for, as it may need torch.

    :param registry: "module:NAME".
    """

    registry: str
    __eq__, __hash__ = object.__eq__, object.__hash__  # by the fields would import it

    def __init__(self, registry: str):
        vars(self)["registry"] = registry

    @property
    def names(self) -> Collection[str]:
        """Those that are known now."""
        module, _, name = self.registry.partition(":")
        return getattr(importlib.import_module(module), name)

    @property
    def expected(self) -> str:
        """All of them."""
        return f"one of {', '.join(self.names)}"

    def holds(self, value: Any) -> bool:
        """Whether it is one of them."""
        return value in self.names


@dataclass(frozen=True)
class Role:
    """What a setting is for.

    :param kind: "method": runs that differ in it are different methods; "protocol": it says what is trained on, for
        how long, or how success is measured; "machine": where and with what means; "monitoring": how often a run looks
        at itself. None: as its class says.
    :param resume: help of its flag beside `--resume`; empty: a run cannot go on with another value.
    :param plain_sac: the only value that plain SAC can have, such as what switches the setting off.
    :param no_entropy: the only value of an algorithm that gives no bonus for entropy, such as TD3.
    :param no_added_noise: the only value of one whose policy is random by itself, such as SAC.
    :param targets_with_actor: the only value of one whose target networks move when its actor does, such as TD3.
    :param learned: what learns with it, so that no other value can be given when that is loaded; empty: nothing.
    :param added: newer than the first run folders: where one lacks it, it had its default, which is off.
    :param in_presets: whether a preset may set it.
    """

    kind: Kind | None = None
    resume: str = ""
    plain_sac: Any = KEEP
    no_entropy: Any = KEEP
    no_added_noise: Any = KEEP
    targets_with_actor: Any = KEEP
    learned: str = ""
    added: bool = False
    in_presets: bool = True


@dataclass(frozen=True)
class Setting:
    """One field, read."""

    name: str
    type: Any
    default: Any
    bounds: tuple[Bound, ...]
    role: Role


Count = Annotated[int, Bound("at least 1", lambda value: value >= 1)]
Whole = Annotated[int, Bound("0 or more", lambda value: value >= 0)]
_FINITE = Bound("a finite number", math.isfinite)
Positive = Annotated[float, Bound("more than 0", lambda value: value > 0), _FINITE]
NotNegative = Annotated[float, Bound("0 or more", lambda value: value >= 0), _FINITE]
Share = Annotated[float, Bound("between 0 and 1", lambda value: 0 <= value <= 1)]


def settings_of(kind: type) -> Mapping[str, Setting]:
    """Return the fields of a dataclass of settings, by name."""
    return _settings_of(kind)


@functools.cache
def _settings_of(kind: type) -> Mapping[str, Setting]:
    found = {}
    for base in reversed(kind.__mro__):  # a field has the role of the class that declares it
        hints = get_type_hints(base, include_extras=True) if base is not object else {}
        for name in inspect.get_annotations(base).keys() & hints.keys():
            extras = getattr(hints[name], "__metadata__", ())
            role = next((extra for extra in extras if isinstance(extra, Role)), Role())
            role = replace(role, kind=role.kind or vars(base).get("role", "method"))
            found[name] = hints[name], tuple(extra for extra in extras if isinstance(extra, Bound)), role
    plain = get_type_hints(kind)
    return {
        f.name: Setting(
            f.name,
            plain[f.name],
            f.default_factory() if f.default_factory is not MISSING else f.default,
            *found[f.name][1:],
        )
        for f in fields(kind)
    }


def names_of(kind: type, *roles: Kind) -> set[str]:
    """Return the names of all fields with one of the roles."""
    return {setting.name for setting in settings_of(kind).values() if setting.role.kind in roles}


def fixed_by(kind: type, lack: Lack) -> dict[str, Any]:
    """Return the fields that an algorithm with this lack can have at one value only, with that value."""
    roles = {name: getattr(setting.role, lack) for name, setting in settings_of(kind).items()}
    return {
        name: settings_of(kind)[name].default if value is DEFAULT else value
        for name, value in roles.items()
        if value is not KEEP
    }


def equal(found: Any, expected: Any) -> bool:
    """Whether a setting has this value; a number may be written as text."""
    return bool(found == expected) or (isinstance(expected, float) and found in (str(expected), f"{expected:g}"))


@functools.cache
def help_of(kind: type) -> dict[str, str]:
    """Return the string under each field, by name: one line of help."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for field, text in pairwise(cast(ast.ClassDef, declared).body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    found[name] = " ".join(words.split())
    return found


def check_types(kind: type, values: Mapping[str, Any]) -> None:
    """Check the types of those settings of `kind` that are among `values`.

    :raises SettingError: for the first that does not fit.
    """
    for name, setting in settings_of(kind).items():
        if name in values and not fits(values[name], setting.type):
            raise SettingError(name, _words(setting), values[name])


def check_fields(kind: type, values: Mapping[str, Any]) -> None:
    """Check types and bounds of those settings of `kind` that are among `values`.

    :raises SettingError: for the first that does not fit.
    """
    check_types(kind, values)
    for name, setting in settings_of(kind).items():
        for bound in setting.bounds if name in values else ():
            if not bound.holds(values[name]):
                raise SettingError(name, bound.expected, values[name])


def fits(value: Any, hint: Any) -> bool:
    """Whether a value may stand in a field of this type; a list is a tuple, and every number a float."""
    kind, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind is Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    if kind in (Union, UnionType):
        return any(fits(value, option) for option in arguments)
    if kind is tuple:
        return isinstance(value, list | tuple) and all(fits(item, arguments[0]) for item in value)
    if kind is dict:
        return isinstance(value, dict) and all(fits(item, arguments[1]) for item in value.values())
    if isinstance(value, bool):  # Python takes True for the number 1
        return hint is bool
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real)
    return isinstance(value, kind or hint)


def _words(setting: Setting) -> str:
    """Return what is expected where the type is wrong; of several types their bound speaks best."""
    several = get_origin(setting.type) in (Union, UnionType)
    return setting.bounds[0].expected if several and setting.bounds else spell(setting.type)


def spell(hint: Any) -> str:
    """Return a type in words."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Literal:
        return "one of " * (len(arguments) > 1) + ", ".join(map(str, arguments))
    if kind in (Union, UnionType):
        return " or ".join(map(spell, arguments))
    if kind is tuple:
        return f"a list of {_PLURALS.get(arguments[0], spell(arguments[0]))}"
    return _TYPES.get(kind or hint, getattr(kind or hint, "__name__", str(hint)))


_TYPES = {
    type(None): "None",
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "a table",
    Path: "a path",
}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def build(kind: type, values: Mapping[str, Any]) -> Any:
    """Make an instance of `kind` with these values, of the right types; bounds are not checked.

    Lists become tuples, and whole numbers floats where the field is one.

    :raises SettingError: for a value of another type.
    :raises TypeError: for a name that is no field.
    """
    known = settings_of(kind)
    for name in (name for name in values if name not in known):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
        raise TypeError(f"{kind.__name__} has no setting {name!r}; {hint}")
    check_types(kind, values)
    return kind(**{name: _converted(value, known[name].type) for name, value in values.items()})


def _converted(value: Any, hint: Any) -> Any:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if isinstance(value, list | tuple):
        return tuple(_converted(item, get_args(hint)[0]) for item in value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    # numpy's numbers become Python's: not every generator takes them as a seed
    if isinstance(value, Integral) and (int in kinds or float not in kinds):
        return int(value)
    return float(value)


def taken_by(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are parameters of `function`: what is called alike need not be passed by hand."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in values.items() if name in known}
