"""One thread, so that sums have one order, and the same examples in every run; shapes in the signatures of mtrl and
agents are checked while testing."""

import os
import warnings

import hypothesis
from jaxtyping import install_import_hook

install_import_hook(["mtrl", "agents"], "beartype.beartype")

import torch  # noqa: E402  (the hook must be there before the packages are imported)

torch.set_num_threads(1)
os.environ.pop("STEPS", None)  # a limit in the caller's shell would shorten every run that a test trains
warnings.filterwarnings("ignore", message=".*beartype.*")
# `pytest --hypothesis-profile default` looks for new ones
hypothesis.settings.register_profile("same", derandomize=True, database=None)
hypothesis.settings.load_profile("same")
