"""The table of promises: what each method claims, checked on every family of matrices."""

import pytest
import torch

from mtrl import AGGREGATORS, make_aggregator
from mtrl.testing import CHECKS, Promises

torch.set_num_threads(1)

PROMISES = {
    "mean": Promises(),
    "pcgrad": Promises(non_conflicting="two tasks", permutation=False),
    "pcgrad-direction": Promises(non_conflicting="two tasks", permutation=False),
    "pcgrad-magnitude": Promises(permutation=False),
    "pcgrad-fixed": Promises(non_conflicting="two tasks", permutation=False),
    "gradvac": Promises(permutation=False),
    "mocograd": Promises(),  # renumbering the tasks matters from the second step on
    "cagrad": Promises(),
    "mgda": Promises(non_conflicting="always"),
    "imtl_g": Promises(),
    "nash_mtl": Promises(non_conflicting="always"),
    "aligned_mtl": Promises(),
    "gradnorm": Promises(),
    "famo": Promises(),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", PROMISES)
def test_promise(name, check) -> None:
    CHECKS[check](lambda: make_aggregator(name), PROMISES[name])


def test_no_method_is_left_out() -> None:
    assert PROMISES.keys() == AGGREGATORS.keys()
