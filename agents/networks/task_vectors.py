"""Fixed vectors of the tasks, such as a language model's of their descriptions: a JSON file of lists by task name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from agents.fields import SettingError

LARGEST = float(np.finfo(np.float32).max)


def with_task_vectors(options: Mapping[str, Any], task_names: Sequence[str]) -> dict[str, Any]:
    """Return options of a policy with `task_vectors` in the place of the file that `task_embeddings` names.

    So an agent's file holds the vectors, and loading it needs no other.
    """
    if not options.get("task_embeddings"):
        return dict(options)
    others = {name: value for name, value in options.items() if name != "task_embeddings"}
    return {**others, "task_vectors": read_task_vectors(options["task_embeddings"], task_names)}


def as_task_vectors(vectors: Any, num_tasks: int) -> Float32[np.ndarray, "tasks numbers"]:
    """Return vectors of T tasks, given as an array, a tensor or lists, as they are saved and used.

    :raises SettingError: unless each of the tasks has as many numbers, at least one, that are finite in float32.
    """
    found = type(vectors).__name__
    try:
        array = np.asarray(vectors.detach().cpu().double() if isinstance(vectors, torch.Tensor) else vectors)
        found = f"an array of shape {array.shape}, {array.dtype}"
        numbers = array.dtype.kind in "iuf" and bool((np.abs(array) <= LARGEST).all())
    except (TypeError, ValueError):  # lists that are no table
        numbers = False
    if not numbers or array.ndim != 2 or len(array) != num_tasks or not array.size:
        raise SettingError("task_vectors", f"a finite vector for each of {num_tasks} tasks", found)
    return np.array(array, np.float32, order="C")


def read_task_vectors(path: str | Path, task_names: Sequence[str]) -> Float32[np.ndarray, "tasks numbers"]:
    """Read {"reach-v3": [0.12, -0.3, ...], ...}; a file may have more tasks than are asked for.

    :raises SettingError: for anything else, as `task_embeddings`: what was expected, found, and what to do.
    """

    def refuse(expected: str, found: Any) -> SettingError:
        return SettingError("task_embeddings", f"{expected} in {path}", found)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [name for name, number in Counter(name for name, _ in pairs).items() if number > 1]:
            raise refuse("each name once", f"several of {', '.join(twice[:5])}")
        return dict(pairs)

    try:
        vectors = json.loads(Path(path).read_bytes(), object_pairs_hook=once)
    except OSError as error:
        raise SettingError("task_embeddings", f"a file that can be read ({error.strerror})", str(path)) from error
    except SettingError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no text
        raise refuse('JSON, {"task": [numbers], ...},', "no such text") from error
    if not isinstance(vectors, dict):
        raise refuse('one table, {"task": [numbers], ...},', type(vectors).__name__)
    if missing := [name for name in task_names if name not in vectors]:
        named = f"{', '.join(list(vectors)[:3])} ..." if vectors else "no task"
        raise refuse(f"a vector for each task, so for {', '.join(missing[:5])}, too,", named)
    for name in task_names:
        vector = vectors[name]
        if not isinstance(vector, list) or not vector or not all(type(number) in (int, float) for number in vector):
            raise refuse(f"a list of numbers for {name}", vector if len(str(vector)) < 40 else type(vector).__name__)
        if len(vector) != (length := len(vectors[task_names[0]])):
            raise refuse(f"vectors of one length, {length} as for {task_names[0]},", f"{len(vector)} for {name}")
        if not all(-LARGEST <= number <= LARGEST for number in vector):
            raise refuse(f"finite numbers for {name}", f"NaN, or numbers beyond {LARGEST:.3g}")
    return np.array([vectors[name] for name in task_names], np.float32)
