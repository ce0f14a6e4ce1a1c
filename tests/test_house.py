"""The packages have names that others on the package index have too: these tests must run against this checkout."""

import importlib
from pathlib import Path

import jaxtyping
import pytest
import torch

from agents.networks.values import ScalarValue
from mtrl import diagnostics
from tests.structure import (
    EXAMPLES,
    commands,
    files_of,
    imports_between_tests,
    library_modules_among_the_commands,
    lines,
    unbounded_waits,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["mtrl", "agents", "envs", "scripts"])
def test_a_package_resolves_inside_this_checkout(name):
    found = Path(importlib.import_module(name).__file__).resolve()
    assert ROOT in found.parents, (
        f"`import {name}` found {found}, not {ROOT / name}: another distribution with that name is installed. "
        f"Uninstall it (pip uninstall {name}) or use the project's own environment (make test)."
    )


def test_no_module_is_called_like_a_dependency():
    dependencies = {"torch", "gymnasium", "metaworld", "mujoco", "numpy", "stable_baselines3", "tyro", "rich", "tqdm"}
    modules = {path.stem for room in ("mtrl", "agents", "envs", "scripts") for path in (ROOT / room).rglob("*.py")}
    assert not modules & dependencies


@pytest.mark.parametrize("call", [diagnostics.gradient_norms, lambda row: ScalarValue().reduce(row, "min")])
def test_shapes_in_signatures_are_checked_while_testing(call):
    call(torch.ones(1, 1))
    with pytest.raises(jaxtyping.TypeCheckError):
        call(torch.ones(3))


@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_others_may_add_is_one_file_and_one_row(kind):
    assert 1 <= len(files_of(kind)) <= 2


def test_commands_are_thin_and_the_library_is_elsewhere():
    assert not library_modules_among_the_commands()
    assert max(map(lines, commands())) <= 120


def test_no_test_waits_for_ever():
    assert unbounded_waits() == []


def test_no_test_file_imports_another():
    assert imports_between_tests() == []
