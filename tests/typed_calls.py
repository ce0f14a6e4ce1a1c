"""Calls of agents that a type checker must accept, and calls that it must refuse: mypy reads this file, nobody runs it.

mypy reports a `type: ignore` that hides no error, so each wrong call below proves that its keyword is checked.
"""

from agents import MTSAC, IndependentSAC
from agents.settings import AgentSettings
from envs.vec_env import TaskVecEnv


def right(env: TaskVecEnv) -> MTSAC:
    """Arguments by position and by name, and settings."""
    MTSAC("MultiTaskMlpPolicy", env, "cagrad", {"c": 0.4}, batch_size=32, ent_coef="auto_0.1", reward_scale=(0.1,))
    IndependentSAC("MlpPolicy", env, batch_size=32, policy_kwargs={"actor_width": 8}, device="cpu")
    return MTSAC(policy="MlpPolicy", env=None, settings=AgentSettings(gamma=0.9), device="cpu", seed=None)


def wrong(env: TaskVecEnv) -> None:
    """A misspelt setting, a value of another type, a word that is none of several, and no environment."""
    MTSAC("MultiTaskMlpPolicy", env, gama=0.9)  # type: ignore[call-arg]
    MTSAC("MultiTaskMlpPolicy", env, batch_size="32")  # type: ignore[arg-type]
    MTSAC("MultiTaskMlpPolicy", env, return_scale="ars")  # type: ignore[arg-type]
    MTSAC("MultiTaskMlpPolicy")  # type: ignore[call-arg]
    IndependentSAC("MlpPolicy", env, gama=0.9)  # type: ignore[call-arg]
    IndependentSAC("MlpPolicy", env, aggregator="mean")  # type: ignore[call-arg]
