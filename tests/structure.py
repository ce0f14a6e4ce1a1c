"""The structure in numbers: `python -m tests.structure` prints what CONTRIBUTING.md's table compares."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mtrl", "agents", "envs", "scripts")
EXAMPLES = {  # of what others may add: the name by which its row in a registry knows it
    "aggregator": "MGDA",
    "architecture": "SoftModularization",
    "conditioning": "TaskEmbedding",
    "benchmark": r"envs\.toy",
    "logger": "TensorBoardLogger",
    "launcher": "LocalLauncher",
    "algorithm": r"class IndependentSAC|agents\.independent:IndependentSAC",
}


def sources():
    """Every source file of the packages."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def lines(path):
    return len(path.read_text().splitlines())


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
    for package in PACKAGES:
        paths = [path for path in sources() if path.is_relative_to(ROOT / package)]
        print(f"files, lines of {package:20}", len(paths), sum(map(lines, paths)))
    print("files, lines                        ", len(sources()), sum(map(lines, sources())))
