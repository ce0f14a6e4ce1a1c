"""The agent is one storey on Stable-Baselines3's SAC and holds its parts: nothing inherited, nothing set elsewhere."""

import ast
import inspect
from pathlib import Path

from agents import MTSAC

ROOT = Path(__file__).resolve().parent.parent.parent


def class_in(path, name):
    tree = ast.parse(path.read_text())
    return next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)


def attributes(node, of, context):
    """Names of the attributes of `of` (self, agent) that are read (ast.Load) or assigned (ast.Store) in a tree."""
    found = (n for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name))
    return {n.attr for n in found if n.value.id == of and isinstance(n.ctx, context)}


def declared(kind):
    """Names that a class body binds: methods, properties, annotated attributes."""
    named = {n.name for n in kind.body if isinstance(n, ast.FunctionDef)}
    return named | {n.target.id for n in kind.body if isinstance(n, ast.AnnAssign) and n.value is not None}


def test_the_agent_inherits_from_nothing_of_ours():
    own = [kind for kind in MTSAC.__mro__ if kind.__module__.split(".")[0] in ("agents", "mtrl", "envs", "scripts")]
    assert own == [MTSAC]


def test_whatever_the_agent_reads_of_itself_it_assigns_itself():
    """Or Stable-Baselines3 does."""
    kind = class_in(ROOT / "agents" / "mtsac.py", "MTSAC")
    theirs = set()
    for base in MTSAC.__mro__[1:-1]:
        source = Path(inspect.getsourcefile(base))
        if source.is_file() and base.__module__.startswith("stable_baselines3"):
            tree = class_in(source, base.__name__)
            theirs |= attributes(tree, "self", ast.Store) | set(vars(base))
    assigned = attributes(kind, "self", ast.Store)
    assert attributes(kind, "self", ast.Load) <= assigned | declared(kind) | theirs
    parts = {"update", "rounds", "collection", "task_metrics", "guard", "captured"}
    assert parts <= assigned


def test_nobody_else_assigns_the_agents_attributes():
    for room in ("agents", "scripts"):
        for path in (ROOT / room).rglob("*.py"):
            tree = ast.parse(path.read_text())
            for name in ("agent", "model", "self.agent"):
                assert not attributes(tree, name, ast.Store), path
            setters = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "setattr"]
            assert not any(isinstance(n.args[0], ast.Name) and n.args[0].id == "agent" for n in setters), path
