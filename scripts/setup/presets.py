"""Settings that belong together, by name: what `python -m scripts.train NAME` trains with."""

from __future__ import annotations

from dataclasses import replace

from scripts.setup.config import TrainConfig

_PLUS = TrainConfig()  # Meta-World+ (McLean et al. 2025), multi-task SAC on a plain network
_PAPER = replace(  # PCGrad (Yu et al. 2020); what the paper leaves open is chosen here: v1 rewards, horizon 150
    _PLUS, reward_version="v1", horizon=150, train_freq=600, gradient_steps=600, max_grad_norm=0.0, adam_eps=1e-8
)
_TOY = replace(
    _PLUS, suite="toy", steps_per_task=2_000, workers=0, threads=1, horizon=25, eval_every=500, eval_goals=10,
    final_goals=20, checkpoint_every=1_000, log_every=100, batch_size=32, buffer_size=2_000, warmup_steps=200,
    learning_rate=1e-3, gamma=0.9, tau=0.02, actor_width=64, actor_depth=2, critic_width=64, critic_depth=2,
)  # fmt: skip
# What docs/recipe.md found for one CPU core: four environments per task, one update for their 40 steps (MT10), small
# batches with a quarter of high rewards, one distributional critic, three-step returns
_QUICK = replace(
    _PLUS, steps_per_task=200_000, envs_per_task=4, train_freq=4, workers=0, threads=1, train_horizon=200,
    staggered_starts=True, eval_every=20_000, eval_goals=10, checkpoint_every=0, checkpoint_minutes=10,
    warmup_steps=2_000, buffer_size=200_000, batch_size=32, high_reward_fraction=0.25, n_steps=3, gamma=0.97, tau=0.01,
    learning_rate=1e-3, ent_coef="auto_0.1", target_entropy=0.0, noise_hold=8, return_scale="brc", n_critics=1,
    critic_reduction="mean", critic_head="hl-gauss", critic_torso="bronet", critic_depth=1, critic_width=256,
    actor_width=256, actor_layer_norm=True, precision="auto",
)  # fmt: skip
_MT1 = replace(_QUICK, suite="MT1", batch_size=128)
# Fifty tasks: three updates for a vector step of 200, as many updates per environment step as MT10 has, nearly
_MT50 = replace(_QUICK, suite="MT50", gradient_steps=3, steps_per_task=36_000, eval_every=12_000)
# The same for a GPU, which idles while the environments step: a wider critic, more updates
_BEST = replace(
    _QUICK, critic_width=512, gradient_steps=2, steps_per_task=400_000, workers="auto", threads="auto",
    precision="float32",
)  # fmt: skip

PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "toy": ("four point-reaching tasks with a known optimum, seconds on a CPU", _TOY),
    "mt1": ("one Meta-World task, given by --tasks; settings as mt10-quick, batch size 128", _MT1),
    "mt10": ("MT10 with the settings of Meta-World+: 3 x 400, 128 rows, 2M steps per task", _PLUS),
    "mt25": ("MT25, settings as mt10", replace(_PLUS, suite="MT25")),
    "mt50": ("MT50, settings as mt10", replace(_PLUS, suite="MT50")),
    "mt10-quick": (
        "MT10 sized for one CPU core: a distributional critic of width 256, high rewards drawn more often, one update "
        "for 40 environment steps, 200k steps per task",
        _QUICK,
    ),
    "mt50-quick": ("MT50, settings as mt10-quick, three updates for 200 environment steps, 36k steps per task", _MT50),
    "mt10-best": ("MT10 on a GPU: as mt10-quick with a critic of width 512, two updates for 40 steps", _BEST),
    "mt50-best": (
        "MT50 on a GPU: as mt10-best, four updates for 200 steps",
        replace(_BEST, suite="MT50", gradient_steps=4),
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
