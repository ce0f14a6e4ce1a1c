"""What each method claims beyond what all owe."""

from mtrl.testing import Promises

PROMISES = {
    "mean": Promises(),
    "pcgrad": Promises(non_conflicting="two tasks", permutation=False),
    "pcgrad-direction": Promises(non_conflicting="two tasks", permutation=False),
    "pcgrad-magnitude": Promises(permutation=False),
    "pcgrad-fixed": Promises(non_conflicting="two tasks", permutation=False),
    "gradvac": Promises(permutation=False),
    "mocograd": Promises(permutation=False),
    "graddrop": Promises(),
    "cagrad": Promises(),
    "conicgrad": Promises(),
    "mgda": Promises(non_conflicting="always"),
    "sdmgrad": Promises(),
    "modo": Promises(),
    "imtl_g": Promises(),
    "config": Promises(),
    "nash_mtl": Promises(non_conflicting="always"),
    "fairgrad": Promises(non_conflicting="always"),
    "upgrad": Promises(non_conflicting="always"),
    "aligned_mtl": Promises(),
    "gradnorm": Promises(),
    "famo": Promises(),
    "db_mtl": Promises(),
    "smoothed:pcgrad": Promises(permutation=False),
    "scheduled:smoothed:gradvac": Promises(permutation=False),
}
