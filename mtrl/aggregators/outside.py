"""Aggregators from outside: a class in a file of the user's own, and those of TorchJD."""

import copyreg
import difflib
import importlib.util
import inspect
import sys
from functools import cache
from pathlib import Path
from typing import Any

from mtrl.aggregators.base import Aggregator

_NAMES: dict[type[Aggregator], str] = {}


def foreign_name(kind: type[Aggregator]) -> str | None:
    """Return the name that a class from outside was found under."""
    return _NAMES.get(kind)


def remember(kind: type[Aggregator], name: str) -> type[Aggregator]:
    """Let `foreign_name` know the class by this name, and return it; its objects are pickled with it.

    The class is in no module, where pickle, and so `torch.save` and other processes, would look for it.
    """
    _NAMES[kind] = name
    copyreg.pickle(kind, _by_name)
    return kind


def _by_name(aggregator: Aggregator) -> tuple[Any, ...]:
    return _empty, (foreign_name(type(aggregator)),), aggregator.__getstate__()


def _empty(name: str) -> Aggregator:
    from mtrl.aggregators import aggregator_class  # here, as it imports this module

    kind = aggregator_class(name)
    return kind.__new__(kind)


@cache
def class_in_file(name: str) -> type[Aggregator]:
    """Return the class that `path/to/file.py:NAME` means. The file is run: only name files that you trust.

    :raises ValueError: if there is no such file, no such class in it, or it is no `mtrl.Aggregator`.
    """
    path, _, kind_name = name.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(
            f"aggregator {name!r}: expected a Python file at {path!r}, found none from folder {Path.cwd()}. "
            "Correct the path, or write it in full."
        )
    if (folder := str(Path(path).resolve().parent)) not in sys.path:
        sys.path.append(folder)  # the file may import those beside it; last, so that it hides nothing
    module_name = "mtrl_user_" + "".join(c if c.isalnum() else "_" for c in str(Path(path).resolve()))
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # before it runs: dataclasses and copies look their module up
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, SystemExit) as error:  # code that was written as a command may want to end it
        raise ValueError(f"aggregator {name!r}: {path} could not be read: {type(error).__name__}: {error}") from error
    own = [key for key, value in vars(module).items() if _is_aggregator(value) and value.__module__ == module_name]
    kind = getattr(module, kind_name, None)
    if kind is None:
        raise ValueError(
            f"aggregator {name!r}: expected a class {kind_name!r} in {path}; found the aggregators "
            f"{', '.join(own) or '(none)'}. Name one of them, or add the class."
        )
    if not _is_aggregator(kind):
        raise ValueError(
            f"aggregator {name!r}: expected a subclass of mtrl.GramianAggregator, mtrl.LossAggregator or "
            f"mtrl.Aggregator; found {kind!r}. Derive {kind_name} from one of them."
        )
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise ValueError(f"aggregator {name!r}: expected a class with all its methods; {kind_name} lacks {missing}.")
    return remember(kind, name)


@cache
def class_of_torchjd(name: str) -> type[Aggregator]:
    """Make an adapter for the aggregator of the installed TorchJD that `torchjd:NAME` means.

    :raises ImportError: if TorchJD is not installed.
    :raises ValueError: if it has no such aggregator; the message lists those that it has.
    """
    try:
        from mtrl.aggregators import torchjd_adapter
    except ImportError as error:
        raise ImportError(
            f"aggregator {name!r} needs TorchJD, which is not installed ({error}). "
            "Install it: pip install -c constraints.txt -e '.[torchjd]', or pip install 'torchjd[full]'"
        ) from error
    known, wanted = torchjd_adapter.available(), name.partition(":")[2]
    if wanted not in known:
        close = difflib.get_close_matches(wanted, known, n=2)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(f"TorchJD has no aggregator {wanted!r}: {hint}expected one of {', '.join(known)}")
    return remember(torchjd_adapter.adapt(wanted), name)


def _is_aggregator(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Aggregator)
