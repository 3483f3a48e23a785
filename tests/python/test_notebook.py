"""The example notebook: stored with its outputs and without this machine's paths, and it runs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import km

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_steps.ipynb"
MACHINE_PATH = re.compile(r"(?<![\w.])/(tmp|home|root|work|usr|opt|var)/")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def errors(notebook: Any) -> list[Any]:
    return [
        output
        for cell in code_cells(notebook)
        for output in cell["outputs"]
        if output["output_type"] == "error"
    ]


def test_stored_outputs() -> None:
    text = NOTEBOOK.read_text("utf-8")
    assert len(text) < 1_500_000
    assert MACHINE_PATH.search(text) is None
    notebook = json.loads(text)
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert errors(notebook) == []
    pictures = [
        output
        for cell in cells
        for output in cell["outputs"]
        if "image/svg+xml" in output.get("data", {})
    ]
    assert len(pictures) == 4
    assert "does not know" not in text.lower()


def test_runs(model: km.Model, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env=os.environ | {"KM_PROGRESS": "0"})
    assert errors(notebook) == []
    stored = json.loads(NOTEBOOK.read_text("utf-8"))
    for now, then in zip(code_cells(notebook), code_cells(stored), strict=True):
        kinds = [[o["output_type"] for o in cell["outputs"]] for cell in (now, then)]
        assert kinds[0] == kinds[1]
    with km.KnowledgeBase(tmp_path / "study.db", read_only=True) as kb:
        assert sorted(set(kb.query("SELECT measure FROM runs")["measure"])) == [
            "memorization.lens",
            "memorization.recall",
        ]
