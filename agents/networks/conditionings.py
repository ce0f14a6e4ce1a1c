"""The conditionings that are offered: one class (see `agents.networks.conditioning.Conditioning`) and one row each."""

from agents.networks.care import Care
from agents.networks.conditioning import Conditioning, OneHot, OwnColumns, TaskEmbedding
from agents.networks.film import Film, ScalarFilm
from agents.networks.goal import Goal

CONDITIONINGS: dict[str, type[Conditioning]] = {
    "one-hot": OneHot,
    "own-columns": OwnColumns,
    "embedding": TaskEmbedding,
    "film": Film,
    "film-scalar": ScalarFilm,
    "care": Care,
    "goal": Goal,
}
