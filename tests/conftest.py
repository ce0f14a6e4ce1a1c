"""One thread, so that sums have one order; shapes in the signatures of mtrl and agents are checked while testing."""

import warnings

from jaxtyping import install_import_hook

install_import_hook(["mtrl", "agents"], "beartype.beartype")

import torch  # noqa: E402  (the hook must be there before the packages are imported)

torch.set_num_threads(1)
warnings.filterwarnings("ignore", message=".*beartype.*")
