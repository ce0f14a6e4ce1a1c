"""Multi-task TD3: twin delayed deterministic policy gradients with a loss per task and surgery on their gradients."""

from __future__ import annotations

from typing import Any, ClassVar

from agents.learning.td3 import TD3Update
from agents.learning.update import Update
from agents.mtsac import MTSAC
from agents.networks.policies import DeterministicPolicy


class MTTD3(MTSAC):
    """One TD3 for T tasks: `MTSAC` with a deterministic policy, another update, and no entropy.

    Everything else is held and done alike: collection, replay buffer, surgery, return scales, critics, files. With one
    task, `Mean`, scalar critics and `policy_delay=2` it is Stable-Baselines3's TD3 to rounding. (Fujimoto et al. 2018,
    arXiv 1802.09477; with `critic_head="c51"`, `n_steps`, `return_scale="brc"`, large batches: FastTD3's form, Seo et
    al. 2025, arXiv 2505.22642.)

    Its arguments are those of `MTSAC`. Settings of the entropy (`ent_coef`, `target_entropy` ...) have one value here,
    and are refused with another. `target_noise`, `target_noise_clip` are its own, as is `exploration_noise` among
    `policy_kwargs`; `noise_hold` holds that noise.

    :param policy: "MlpPolicy"; `policy_kwargs` are those of `MultiTaskPolicy`.
    """

    algorithm: ClassVar[str] = "td3"
    update_class: ClassVar[type[Update]] = TD3Update
    policy_aliases: ClassVar[dict[str, Any]] = {
        "DeterministicPolicy": DeterministicPolicy,
        "MlpPolicy": DeterministicPolicy,
    }
