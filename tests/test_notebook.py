"""The notebook runs from beginning to end, on fewer steps than it has for readers, and is kept without its outputs."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient: make test installs it")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient: make test installs it")
pytest.importorskip("ipykernel", reason="needs ipykernel: make test installs it")

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "first_steps.ipynb"


def read():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_kept_without_outputs():
    assert all(cell.outputs == [] and cell.execution_count is None for cell in read()[1])


def test_it_runs(tmp_path, monkeypatch):
    notebook, cells = read()
    assert "steps = 2_000" in cells[0].source
    cells[0].source = cells[0].source.replace("steps = 2_000", "steps = 260")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    kinds = [{kind for output in cell.outputs for kind in output.get("data", ())} for cell in cells]
    assert ["image/png" in kind for kind in kinds] == [False, False, False, True, True]
    assert all((tmp_path / "runs/first-steps" / name / "result.json").exists() for name in ("mean", "pcgrad"))
    printed = "".join(output.get("text", "") for output in cells[2].outputs)  # in pieces, on a busy machine
    assert "point-0: 0%" in printed
