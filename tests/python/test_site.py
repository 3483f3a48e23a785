"""The documentation site: every measure, name, function and table has its place, and it builds."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import km

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
HEADINGS = [
    "Definition",
    "Equation",
    "Source",
    "Inputs",
    "Units",
    "Cost",
    "Pitfalls",
    "Reference figures",
]


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- measures ----


def cards() -> list[Path]:
    return sorted(set((DOCS / "cards").glob("*.md")) - {DOCS / "cards" / "index.md"})


def test_every_available_measure_has_a_page() -> None:
    taxonomy = json.loads((ROOT / "kb" / "taxonomy" / "taxonomy.json").read_text("utf-8"))
    available = {m["id"] for m in taxonomy["measurements"] if m["status"] == "available"}
    titles = [path.read_text("utf-8").split("\n", 1)[0] for path in cards()]
    named = [name for title in titles for name in re.findall(r"`([\w.]+)`", title)]
    assert Counter(named) == Counter(available)
    index = (DOCS / "cards" / "index.md").read_text("utf-8")
    assert set(re.findall(r"\]\(([\w.]+\.md)\)", index)) == {path.name for path in cards()}


@pytest.mark.parametrize("page", cards(), ids=lambda path: path.stem)
def test_a_measures_page_has_all_headings(page: Path) -> None:
    text = page.read_text("utf-8")
    assert f"`{page.stem}`" in text.split("\n", 1)[0]
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    assert parts[1::2] == HEADINGS
    assert all(part.strip() for part in parts[2::2])
    assert re.search(r"`km[ .]\w+|`evaluate`", parts[0]), "the first lines name the call"


# ---- interfaces ----


def test_every_public_name_is_on_one_page_of_the_python_api() -> None:
    shown: Counter[str] = Counter()
    for page in (DOCS / "python").glob("*.md"):
        shown.update(re.findall(r"^::: km\.(\w+)$", page.read_text("utf-8"), re.MULTILINE))
    assert shown == Counter(set(km.__all__) - {"__version__"})


def test_every_exported_function_has_an_entry_in_the_c_api() -> None:
    pages = tool("c_api").pages()
    for header in ROOT.glob("*/include/km/*.h"):
        functions = re.findall(
            r"^KM_API\b[^;(]*?\b(km_\w+)\(", header.read_text("utf-8"), re.MULTILINE
        )
        page = pages[header.stem + ".md"]
        assert re.findall(r"^### (km_\w+)$", page, re.MULTILINE) or not functions
        for function in functions:
            assert f"\n### {function}\n" in page, f"{header.name}: {function}"


def test_a_comment_becomes_the_text_of_its_entry() -> None:
    c_api = tool("c_api")
    found = c_api.items(
        "/* km/x.h: a title.\n *\n *   f = a_b * c\n */\n#ifndef KM_X_H\n#define KM_X_H\n\n"
        "/* ---- part: of it ---- */\n\n/* Frees <x> as km_y says. */\n"
        "KM_API void km_x_free(km_x *x,\n                      int *n);\n#endif\n"
    )
    assert [(item.name, item.code.count("\n")) for item in found] == [
        ("", 0),
        ("", 0),
        ("km_x_free", 1),
    ]
    assert c_api.prose(found[2].comment, {"km_y": "y.md"}, "x.md") == (
        "Frees &lt;x&gt; as [`km_y`](y.md#km_y) says."
    )
    assert "    f = a_b * c" in c_api.prose(found[0].comment, {}, "x.md")


# ---- the schema's picture ----


def test_the_picture_of_the_schema_is_that_of_a_fresh_file(tmp_path: Path) -> None:
    diagram = tool("schema_diagram")
    tables = diagram.schema(diagram.fresh())
    km.KnowledgeBase(tmp_path / "fresh.db").close()
    with km.KnowledgeBase(tmp_path / "fresh.db", read_only=True) as kb:
        columns = kb.sql(
            "SELECT t.name AS name, c.name AS col FROM sqlite_schema t, pragma_table_info(t.name) c"
            " WHERE t.type = 'table' AND t.name NOT LIKE 'search_index%'"
            " AND t.name NOT LIKE 'sqlite_%'"
        )
    assert {(row["name"], row["col"]) for row in columns.rows()} == {
        (table.name, column) for table in tables for column, _ in table.columns
    }
    picture = ET.parse(DOCS / "pictures" / "schema.svg")
    space = "{http://www.w3.org/2000/svg}"
    titles = {element.text for element in picture.iter(f"{space}title")}
    lines = Counter("".join(element.itertext()) for element in picture.iter(f"{space}text"))
    hint = "run python tools/schema_diagram.py"
    for source, target, names in diagram.arrows(tables):
        assert f"{source}.{names} refers to {target}" in titles, hint
    arrows = [title for title in titles if title and " refers to " in title]
    assert len(arrows) == len(diagram.arrows(tables)), hint
    wanted = Counter(line for table in tables for line in diagram.caption(table).split("\n"))
    assert wanted <= lines, hint
    assert f"{len(tables)} tables; an arrow leads to the table a column refers to" in lines, hint


# ---- the site ----


def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    """`mkdocs build --strict`: a missing page, file or anchor fails. No page needs the network."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # ruff
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path / "s")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "s").rglob("*.html"))
    names = {path.relative_to(tmp_path / "s").as_posix() for path in pages}
    assert {"index.html", "c/select.html", "python/models.html", "schema.html"} <= names
    assert {"source/bench/RESULTS.html", "source/kb/schema/index.html"} <= names  # outside docs/
    assert {f"cards/{path.stem}.html" for path in cards()} <= names
    fetched = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?https?://""")
    assert not [path.name for path in pages if fetched.search(path.read_text("utf-8"))]
    models = (tmp_path / "s" / "python" / "models.html").read_text("utf-8")
    assert 'id="km.load"' in models and 'id="km.Model.trace"' in models
