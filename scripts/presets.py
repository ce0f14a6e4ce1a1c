"""Settings that belong together, by name: what `python -m scripts.train NAME` trains with."""

from __future__ import annotations

from dataclasses import replace

from scripts.config import TrainConfig

_PLUS = TrainConfig()  # Meta-World+ (McLean et al. 2025), multi-task SAC on a plain network
_PAPER = replace(  # PCGrad (Yu et al. 2020); what the paper leaves open is chosen here: v1 rewards, horizon 150
    _PLUS, reward_version="v1", horizon=150, train_freq=600, gradient_steps=600, max_grad_norm=0.0, adam_eps=1e-8
)
_TOY = replace(
    _PLUS, suite="toy", steps_per_task=2_000, workers=0, threads=1, horizon=25, eval_every=500, eval_goals=10,
    final_goals=20, checkpoint_every=1_000, log_every=100, batch_size=32, buffer_size=2_000, warmup_steps=200,
    learning_rate=1e-3, gamma=0.9, tau=0.02, actor_width=64, actor_depth=2, critic_width=64, critic_depth=2,
)  # fmt: skip
# two CPU cores: LayerNorm, rewards in [0, 1], temperatures that start where they do not drown the reward
_QUICK = replace(
    _PLUS, steps_per_task=100_000, eval_every=5_000, eval_goals=10, checkpoint_every=5_000, batch_size=64,
    warmup_steps=1_000, actor_width=256, critic_width=256, actor_layer_norm=True,
    critic_layer_norm=True, reward_scale=(0.1,), ent_coef="auto_0.01",
)  # fmt: skip
_MT1 = replace(_QUICK, suite="MT1", batch_size=128, checkpoint_every=10_000)

PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "toy": ("four point-reaching tasks with a known optimum, seconds on a CPU", _TOY),
    "mt1": ("one Meta-World task, given by --tasks; settings as mt10-quick, 128 rows", _MT1),
    "mt10": ("MT10 with the settings of Meta-World+: 3 x 400, 128 rows, 2M steps per task", _PLUS),
    "mt25": ("MT25, settings as mt10", replace(_PLUS, suite="MT25")),
    "mt50": ("MT50, settings as mt10", replace(_PLUS, suite="MT50")),
    "mt10-quick": (
        "MT10 sized for two CPU cores: 3 x 256, LayerNorm, 64 rows, rewards x 0.1, temperatures from 0.01, 100k steps "
        "per task",
        _QUICK,
    ),
    "mt10-paper2020": (
        "MT10 as in the PCGrad paper: 6 x 160, v1 rewards, 500k steps per task; horizon 150 is our reading",
        replace(_PAPER, steps_per_task=500_000, actor_width=160, critic_width=160, actor_depth=6, critic_depth=6),
    ),
    "mt50-paper2020": (
        "MT50 as in the PCGrad paper: 6 x 300, v1 rewards, 400k steps per task; horizon 150 is our reading",
        replace(
            _PAPER,
            suite="MT50",
            steps_per_task=400_000,
            actor_width=300,
            critic_width=300,
            actor_depth=6,
            critic_depth=6,
        ),
    ),
}  # name -> (one line, settings)
