"""Shared runs on the Hugging Face Hub: `hub:USER/NAME` in place of a folder (the extra `hub`).

Only the files of a shared run are fetched, and like every run they are opened without unpickling anything.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from envs.machine import cache_folder
from scripts.common.text import plain
from scripts.common.usage import UsageError, require_package

PREFIX = "hub:"
SHARED = ("config.json", "protocol.json", "versions.json", "goals.npz", "evaluations.csv", "result.json")
_FETCHED = [*SHARED, "actor.safetensors", "SHA256SUMS", "README.md"]
_METADATA = """---
library_name: mtrl-surgery
pipeline_tag: reinforcement-learning
tags: [multi-task, meta-world, sac]
---

"""


def repository(place: str | Path) -> str | None:
    """Return the name of a repository that `hub:USER/NAME` means; None for a folder.

    :raises UsageError: for a name that no repository can have, and without huggingface_hub.
    """
    name = str(place)
    if not name.startswith(PREFIX):
        return None
    name = name.removeprefix(PREFIX)
    require_package("huggingface_hub", "hub", f"{PREFIX}{name}: ")
    try:
        importlib.import_module("huggingface_hub.utils").validate_repo_id(name)
    except ValueError as error:
        raise UsageError(f"{PREFIX}{plain(name)}: expected hub:USER/NAME; {plain(error)}") from error
    return name


def require_token(name: str) -> None:
    """Raise UsageError where nothing says who writes."""
    if not importlib.import_module("huggingface_hub").get_token():
        raise UsageError(
            f"--to {PREFIX}{name}: expected a token that may write; found none. Log in with `hf auth login`, or set "
            "HF_TOKEN."
        )


def push(folder: Path, name: str) -> str:
    """Upload a shared run as one commit, with what the Hub wants to know on top of its card; return the address.

    :raises UsageError: with the Hub's words, if it refuses.
    """
    card = folder / "README.md"
    card.write_text(_METADATA + card.read_text())
    api = _api()
    try:
        url = str(api.create_repo(name, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="A run shared by scripts.share")
    except Exception as error:  # of the network, of the Hub, of files: many kinds
        raise UsageError(f"--to {PREFIX}{name}: the Hub did not take it: {_first_line(error)}") from error
    return url


def fetch(name: str) -> Path:
    """Return the folder of a shared run, fetched into the user's cache if it is not there yet or has changed.

    :raises UsageError: with the Hub's words, if there is no such run or no network.
    """
    folder = cache_folder() / "hub" / name.replace("/", "--")
    try:
        _api().snapshot_download(name, local_dir=folder, allow_patterns=_FETCHED)
    except Exception as error:
        raise UsageError(
            f"{PREFIX}{name}: expected a shared run; the Hub did not give it: {_first_line(error)}"
        ) from error
    return folder


def _api() -> Any:
    return importlib.import_module("huggingface_hub").HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return plain(f"{type(error).__name__}: {lines[0] if lines else 'it said nothing more'}")
