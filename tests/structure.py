"""The structure in numbers: `python -m tests.structure` prints what CONTRIBUTING.md's table compares."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mtrl", "agents", "envs", "scripts")
EXAMPLES = {  # of what others may add: the name by which its row in a registry knows it
    "aggregator": "MGDA",
    "architecture": "SoftModularization",
    "conditioning": "Care",
    "benchmark": r"envs\.toy",
    "logger": "TensorBoardLogger",
    "launcher": "LocalLauncher",
    "algorithm": r"class IndependentSAC|agents\.independent:IndependentSAC",
}


# Modules that serve only what version 0.1 had not, or had otherwise (the digits); of aggregators, those not in METHODS.
SINCE = """
    agents/device/compiled.py agents/saving/actor_file.py agents/mttd3.py agents/learning/td3.py
    agents/networks/deterministic.py agents/networks/soft_modularization.py agents/networks/care.py
    agents/networks/film.py agents/networks/paco.py agents/networks/ple.py agents/networks/experts.py
    agents/networks/simba*.py envs/gym_list.py envs/benchmarks.py envs/spaces.py envs/meta_world/difficulty.py
    envs/meta_world/fast/proof.py mtrl/rules.py scripts/bench/against.py scripts/share.py scripts/runs/sharing.py
    scripts/report.py scripts/analysis/page/*.py scripts/runs/trackers.py scripts/supervised.py
    scripts/studies/supervised/*.py scripts/studies/supervised/datasets/*.py scripts/sweeps/ray_tasks.py
    scripts/sweeps/slurm_jobs.py scripts/sweeps/space.py scripts/sweeps/study.py
    scripts/sweeps/trials.py scripts/tune.py scripts/runs/hub.py scripts/analysis/literature.py
    scripts/analysis/published.py agents/networks/task_vectors.py agents/learning/explosions.py mtrl/features.py
    agents/collecting/episodes.py agents/networks/goal.py envs/meta_world/push_goals.py
""".split()
METHODS = """
    aligned_mtl cagrad famo gradnorm gradvac imtl_g mean mgda mocograd nash_mtl outside pcgrad pcgrad_direction
    pcgrad_fixed pcgrad_magnitude projection torchjd_adapter base shared registry __init__
""".split()


def sources():
    """Every source file of the packages."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def lines(path):
    return len(path.read_text().splitlines())


def code_lines(path):
    """Lines that are neither blank nor comment nor a string that explains: a docstring, or one under a field."""
    text = path.read_text()
    strings = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    explained = {line for node in strings for line in range(node.lineno, node.end_lineno + 1)}
    rest = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in explained]
    return sum(bool(line) and not line.startswith("#") for line in rest)


def serves_what_came_later(path):
    """Whether it is a module of features that version 0.1 had not."""
    own = path.relative_to(ROOT)
    return any(own.match(pattern) for pattern in SINCE) or (
        own.parent.name == "aggregators" and own.stem not in METHODS
    )


def depth():
    """How many classes of ours MTSAC is made of, itself included."""
    from agents import MTSAC

    return sum(kind.__module__.split(".")[0] in PACKAGES for kind in MTSAC.__mro__)


def files_that_name(setting):
    """The files that a change of this setting concerns, besides presets."""
    return [
        str(path.relative_to(ROOT))
        for path in sources()
        if re.search(rf"\b{setting}\b", path.read_text()) and "presets" not in path.name
    ]


def files_of(kind):
    """The files in which the example of a kind is written: its own, and that of its row."""
    return files_that_name(EXAMPLES[kind])


def commands():
    """The modules beside the rooms of `scripts`."""
    return [path for path in sorted((ROOT / "scripts").glob("*.py")) if path.name != "__init__.py"]


def library_modules_among_the_commands():
    """Those that one cannot run."""
    return [path.name for path in commands() if '__name__ == "__main__"' not in path.read_text()]


def imports_between_tests():
    """Test files that import from another one: what they share belongs in a module beside them."""
    found = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [f"{getattr(node, 'module', '')}.{alias.name}" for alias in node.names]
                found |= {str(path.relative_to(ROOT)) for name in names if re.search(r"\btests\b.*\.test_", name)}
    return sorted(found)


def unbounded_waits():
    """Waits in tests for something that may never come: each needs a limit in seconds, as an argument.

    But for processes that were killed just before, in the line above.
    """
    found = set()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text().splitlines()
        for node in ast.walk(ast.parse("\n".join(text))):
            match node:
                case ast.Call(func=ast.Attribute(attr="run", value=ast.Name(id="subprocess")), keywords=given):
                    bounded = any(word.arg in ("timeout", None) for word in given)
                case ast.Call(func=ast.Attribute(attr="wait" | "join" | "communicate"), args=[], keywords=[]):
                    bounded = ".kill()" in text[node.lineno - 2]
                case _:
                    continue
            found |= set() if bounded else {f"{path.relative_to(ROOT)}:{node.lineno}"}
    return sorted(found)


def long_functions(limit=60):
    """Functions of more lines than `limit`, docstrings included."""
    return {
        f"{path.relative_to(ROOT)}:{node.name}": node.end_lineno - node.lineno + 1
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > limit
    }


def long_files(limit=300):
    """Files of more lines than `limit`."""
    return {str(path.relative_to(ROOT)): lines(path) for path in sources() if lines(path) > limit}


if __name__ == "__main__":
    print("classes of ours in MTSAC            ", depth())
    print("files that name policy_delay        ", len(files_that_name("policy_delay")), files_that_name("policy_delay"))
    for kind in EXAMPLES:
        print(f"files of {kind:27}", len(files_of(kind)), files_of(kind))
    print("library modules among the commands  ", len(library_modules_among_the_commands()))
    print("longest command, lines              ", max(map(lines, commands())))
    print("files over 300 lines                ", long_files())
    print("functions over 60 lines             ", long_functions())
    rooms = {name: [path for path in sources() if path.is_relative_to(ROOT / name)] for name in PACKAGES}
    rooms |= {"all": sources(), "what 0.1 had": [path for path in sources() if not serves_what_came_later(path)]}
    for name, paths in rooms.items():
        print(
            f"files, lines, lines of code: {name:13}", len(paths), sum(map(lines, paths)), sum(map(code_lines, paths))
        )
