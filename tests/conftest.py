"""One thread, so that sums have one order, and the same examples in every run; shapes in the signatures of mtrl and
agents are checked while testing."""

import os
import signal
import warnings

import hypothesis
import jaxtyping
from jaxtyping import install_import_hook

_check, _SHAPES = jaxtyping.jaxtyped, ("Float[", "Float64[", "Int[", "Bool[")


def _check_shapes(typechecker):
    """Checks functions whose signatures name shapes, and no others: with all, a training takes twice as long."""

    def wrap(function):
        hints = map(str, getattr(function, "__annotations__", {}).values())
        named = isinstance(function, type) or any(kind in hint for hint in hints for kind in _SHAPES)
        return _check(function, typechecker=typechecker) if named else function

    return wrap


jaxtyping.jaxtyped = _check_shapes  # what the hook decorates with
install_import_hook(["mtrl", "agents"], "beartype.beartype")

import torch  # noqa: E402  (the hook must be there before the packages are imported)

from envs.signals import STOP_SIGNALS  # noqa: E402

torch.set_num_threads(1)
os.environ.pop("STEPS", None)  # in the caller's shell it would make a trial of every run that a test trains
for number in STOP_SIGNALS:  # a job in the background ignores Ctrl-C, one under nohup that its terminal is gone
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
warnings.filterwarnings("ignore", message=".*beartype.*")
# `pytest --hypothesis-profile default` looks for new ones
hypothesis.settings.register_profile("same", derandomize=True, database=None)
hypothesis.settings.load_profile("same")
