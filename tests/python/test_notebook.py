"""The notebooks of examples/: outputs are stored, nothing of a machine is in them, links lead on.

`make examples` runs them; that its judgement can be relied on is tested here.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    path = ROOT / "tools" / "execute_notebook.py"
    spec = importlib.util.spec_from_file_location("execute_notebook", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def notebook(*cells: dict[str, Any]) -> dict[str, Any]:
    """A notebook of code cells, each given as its outputs."""
    made = [
        {
            "cell_type": "code",
            "id": f"cell-{i}",
            "execution_count": i + 1,
            "metadata": cell.get("metadata", {}),
            "outputs": cell["outputs"],
            "source": "1",
        }
        for i, cell in enumerate(cells)
    ]
    return {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def stream(text: str) -> dict[str, Any]:
    return {"outputs": [{"output_type": "stream", "name": "stdout", "text": text}]}


def result(**data: str) -> dict[str, Any]:
    mime = {"text": "text/plain", "html": "text/html", "picture": "image/svg+xml"}
    return {
        "outputs": [
            {
                "output_type": "execute_result",
                "execution_count": 1,
                "metadata": {},
                "data": {mime[name]: text for name, text in data.items()},
            }
        ]
    }


def test_there_are_six() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs(path: Path, tool: ModuleType) -> None:
    text = path.read_text("utf-8")
    assert tool.problems(text) == []
    stored = json.loads(text)
    assert any(cell["outputs"] for cell in tool.code_cells(stored))
    assert [cell["id"] for cell in stored["cells"]] == [
        f"cell-{i}" for i in range(len(stored["cells"]))
    ]
    shown = json.dumps([cell["outputs"] for cell in tool.code_cells(stored)])
    assert "does not know" not in shown.lower()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    prose = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = [link for link in LINK.findall(prose) if not link.startswith("https://")]
    assert links
    for link in links:
        assert (path.parent / link.split("#")[0]).is_file(), link


def test_every_notebook_is_listed() -> None:
    listed = LINK.findall((ROOT / "examples" / "README.md").read_text("utf-8"))
    assert [name for name in listed if name.endswith(".ipynb")] == [p.name for p in NOTEBOOKS]


def test_rounding_is_no_difference(tool: ModuleType) -> None:
    assert tool.same("recall 0.5 [0.4123, 1.0e-05], n = 12", "recall 0.5 [0.4125, 1.0e-05], n = 12")
    assert tool.same("−0.5 nats of 8e3355b7f3e7", "−0.5 nats of 8e3355b7f3e7")
    for then, now in (
        ("n = 12", "n = 13"),
        ("0.5 nats", "−0.5 nats"),
        ("0.5 nats", "0.51 nats"),
        ("0.5 nats", "0.5 bits"),
        ("0.5", "nan"),
    ):
        assert not tool.same(then, now), (then, now)


def test_other_output_is_found(tool: ModuleType) -> None:
    stored = notebook(stream("a  1.0\nb  2.0\n"), result(text="x", html="<b>x</b>"))
    assert list(tool.differences(stored, copy.deepcopy(stored))) == []
    padded = notebook(stream("a   1.0\nb   2.0\n"), result(text="x", html="<b>y</b>"))
    assert list(tool.differences(stored, padded)) == []

    number = notebook(stream("a  1.0\nb  2.5\n"), result(text="x", html="<b>x</b>"))
    (line,) = tool.differences(stored, number)
    assert "cell [1], line 2" in line and "b 2.5" in line and "b 2.0" in line
    assert list(tool.differences(stored, number, texts=False)) == []

    shorter = notebook(stream("a  1.0\n"), result(text="x", html="<b>x</b>"))
    assert len(list(tool.differences(stored, shorter))) == 1

    plain = notebook(stream("a  1.0\nb  2.0\n"), result(text="x"))
    (line,) = tool.differences(stored, plain, texts=False)
    assert "cell [2] shows" in line

    fewer = notebook(stream("a  1.0\nb  2.0\n"))
    assert list(tool.differences(stored, fewer)) == ["it has other cells"]


def test_pictures_are_compared_by_kind(tool: ModuleType) -> None:
    stored = notebook(result(text="<Picture of 3>", picture="<svg>3</svg>"))
    other = notebook(result(text="<Picture of 4>", picture="<svg>4</svg>"))
    assert list(tool.differences(stored, other)) == []
    assert len(list(tool.differences(stored, notebook(result(text="<Picture of 3>"))))) == 1


def test_streams_in_parts_are_one(tool: ModuleType) -> None:
    whole, parts = stream("one\ntwo\n"), stream("one\n")
    parts["outputs"] += stream("two\n")["outputs"]
    assert list(tool.differences(notebook(whole), notebook(parts))) == []


def test_cells_that_vary_are_compared_by_kind(tool: ModuleType) -> None:
    tag = {"metadata": {"tags": ["varies"]}}
    stored, other = notebook(stream("one\n") | tag), notebook(stream("two\n") | tag)
    assert list(tool.differences(stored, other)) == []
    assert len(list(tool.differences(stored, notebook(result(text="one") | tag)))) == 1


def test_what_must_not_be_stored(tool: ModuleType) -> None:
    def found(*cells: dict[str, Any]) -> list[str]:
        problems: list[str] = tool.problems(json.dumps(notebook(*cells)))
        return problems

    assert found(stream("fine\n")) == []
    assert found(stream("written to /var/ada/x.db\n")) == ["it holds a path of a machine"]
    assert found(stream("begun 2031-02-03T04:05:06Z\n")) == ["it holds a time"]
    assert found(stream("<object at 0x7f31aa01b2c0>\n")) == ["it holds an address in memory"]
    assert "the most is" in found(stream("x" * (tool.MAX_BYTES + 1)))[0]
    error = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
    assert found({"outputs": [error]}) == ["a cell raised"]
    unrun = notebook(stream("x"))
    unrun["cells"][0]["execution_count"] = None
    assert tool.problems(json.dumps(unrun)) == ["its cells were not run one after another"]


def test_times_and_paths_are_taken_out(tool: ModuleType) -> None:
    value = {"text": ["2031-02-03: at 2031-02-03T04:05:06.123Z in /var/ada/x.db", 3]}
    places = {"/var/ada": "~", "2031-02-03": "(date)"}
    assert tool.scrub(value, places) == {"text": ["(date): at (time) in ~/x.db", 3]}


def test_runs_are_stored_alike(tool: ModuleType) -> None:
    nbformat = pytest.importorskip("nbformat")
    parts = stream("one\n")
    parts["outputs"] += stream("two\n")["outputs"]
    picture = '<svg aria-labelledby="{0}t {0}d"><title id="{0}t">of {1}</title></svg>'
    runs = []
    for cell, id, date in (
        (stream("one\ntwo\n"), "km0123456789abcdef", "2031-02-03"),
        (parts, "kmfedcba9876543210", "2031-02-04"),
    ):
        made = notebook(cell, result(picture=picture.format(id, date)))
        read = nbformat.from_dict(made)
        runs.append(tool.normalised(read, {date: "(date)"}))
    assert runs[0] == runs[1]
    drawn = runs[0]["cells"][1]["outputs"][0]["data"]["image/svg+xml"]
    assert drawn == picture.format("picture-1-", "(date)")


def test_a_cell_that_raises_is_told(tool: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    made = notebook({"outputs": []}, {"outputs": []})
    made["cells"][1]["source"] = "raise RuntimeError('no luck')"
    path = tmp_path / "raises.ipynb"
    path.write_text(json.dumps(made), encoding="utf-8")
    before = path.read_bytes()
    (problem,) = tool.run(path, 1, check=False)
    assert "a cell raised" in problem and "no luck" in problem
    assert path.read_bytes() == before
