"""One thread, so that sums have one order, and the same examples in every run; shapes in the signatures of mtrl and
agents are checked while testing."""

import functools
import gc
import os
import signal
import warnings
import weakref

import hypothesis
import jaxtyping
import numpy as np
from jaxtyping import install_import_hook

_check, _SHAPES = jaxtyping.jaxtyped, ("Float[", "Float64[", "Int[", "Bool[")


def _check_shapes(typechecker):
    """Checks functions and dataclasses that name shapes, and no others: with all, a training takes twice as long."""

    def wrap(function):
        hints = map(str, getattr(function, "__annotations__", {}).values())
        if not any(kind in hint for hint in hints for kind in _SHAPES):
            return function
        checked = _check(function, typechecker=typechecker)
        return checked if isinstance(function, type) else _checked_once(function, checked)

    return wrap


def _checked_once(function, checked):
    """Checks the first call with these shapes, of each object anew: a check takes longer than what is checked."""
    known, is_method = weakref.WeakKeyDictionary(), function.__code__.co_varnames[:1] == ("self",)

    @functools.wraps(function)
    def call(*args, **kwargs):
        if torch.compiler.is_compiling():  # shapes are symbols then
            return function(*args, **kwargs)
        owner = args[0] if is_method else function
        form = (*map(_form, args), *kwargs, *map(_form, kwargs.values()))
        try:
            right = known.setdefault(owner, set())
        except TypeError:  # it has no hash, or there is no weak reference to it
            right = known.setdefault(type(owner), set())
        if form in right:
            return function(*args, **kwargs)
        answer = checked(*args, **kwargs)
        right.add(form)
        return answer

    return call


def _form(value):
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.shape, value.dtype
    return value if isinstance(value, str) else type(value)


jaxtyping.jaxtyped = _check_shapes  # what the hook decorates with
install_import_hook(["mtrl", "agents"], "beartype.beartype")

import torch  # noqa: E402  (the hook must be there before the packages are imported)

from envs.signals import STOP_SIGNALS  # noqa: E402

torch.set_num_threads(1)
os.environ.pop("STEPS", None)  # in the caller's shell it would make a trial of every run that a test trains
for number in STOP_SIGNALS:  # a job in the background ignores Ctrl-C, one under nohup that its terminal is gone
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
warnings.filterwarnings("ignore", message=".*beartype.*")
_bounds = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.function_scoped_fixture]}
hypothesis.settings.register_profile("same", derandomize=True, database=None, max_examples=25, **_bounds)
hypothesis.settings.register_profile("search", **_bounds)  # `pytest --hypothesis-profile search` looks for new examples
hypothesis.settings.load_profile("same")


LONGEST = ("test_every_block_runs", "test_ctrl_c_saves_and_a_run_whose_node_dies_goes_on_elsewhere_as_if_nothing_was")


def pytest_collection_modifyitems(items):
    """The longest tests begin first: at the end no worker of xdist waits a minute for another."""
    items.sort(key=lambda item: item.name not in LONGEST)


def pytest_collection_finish():
    """What is imported and collected stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
