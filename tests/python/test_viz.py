"""Pictures: text is data whatever it holds, figures stand where they belong, bytes do not vary."""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
import subprocess
import threading
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import km
from km._kmviz import Graph, text_width
from km.table import Column

TAXONOMY = Path(__file__).parents[2] / "kb" / "taxonomy" / "taxonomy.json"
SVG = "{http://www.w3.org/2000/svg}"
ALLOWED = {
    "svg": {
        "class", "role", "aria-labelledby", "font-family", "width", "height", "viewBox",
        "{http://www.w3.org/XML/1998/namespace}space",
    },
    "title": {"id"},
    "desc": {"id"},
    "style": set(),
    "g": {"class", "transform"},
    "path": {"class", "d", "fill", "stroke", "stroke-width", "stroke-dasharray"},
    "polygon": {"class", "points", "fill", "stroke", "stroke-width", "stroke-dasharray"},
    "polyline": {"class", "points", "fill", "stroke", "stroke-width", "stroke-dasharray"},
    "ellipse": {
        "class", "cx", "cy", "rx", "ry", "fill", "stroke", "stroke-width", "stroke-dasharray",
    },
    "text": {"class", "x", "y", "text-anchor", "font-size", "font-weight", "fill"},
}  # fmt: skip

HOSTILE = [
    '<b>"\\N"</b>',
    '"]; x [label="',
    "trailing backslash\\",
    "\\\\",
    "&lt;script&gt;&#0;&nosuch;",
    "]]><script>alert(1)</script>",
    "javascript:alert(1)",
    '" onload="alert(1)',
    "</text></svg><foreignObject>",
    "<!--",
    "<?xml?><!DOCTYPE a [<!ENTITY b 'c'>]>",
    "\\n\\l\\r\\G\\E\\T\\H\\L",
    "two\nlines\n",
    "\n\nlate",
    "  many   blanks  ",
    "x" * 2000,
    "שלום עולם سلام",
    "👩‍🔬 Ⅷ ½ 日本語 é",
    "a:b:c {d|e} <p>",
    "\u2028\u2029\u0085\u00a0",
    "%s%n",
    "",
]


def parse(svg: str | bytes) -> ET.Element:
    """The document, after a look at every element and attribute."""
    root = ET.fromstring(svg)
    for element in root.iter():
        name = element.tag.removeprefix(SVG)
        assert name in ALLOWED, name
        assert set(element.attrib) <= ALLOWED[name], (name, element.attrib)
        for value in element.attrib.values():
            assert "url(" not in value
            assert "javascript" not in value
    styles = list(root.iter(f"{SVG}style"))
    assert len(styles) == 1
    assert root[2] is styles[0]
    return root


def groups(root: ET.Element, kind: str) -> list[ET.Element]:
    return [g for g in root.iter(f"{SVG}g") if g.get("class") == kind]


def lines(group: ET.Element) -> list[str]:
    return [t.text or "" for t in group.findall(f"{SVG}text")]


def chain(labels: list[str], layout: str = "fixed", **text: str) -> Graph:
    graph = Graph(layout, **text)
    for i, label in enumerate(labels):
        graph.add_node(label, y=40.0 * i)
    for i in range(1, len(labels)):
        graph.add_edge(i - 1, i, title=labels[i])
    return graph


@pytest.mark.parametrize("layout", ["fixed", "down", "right", "spring", "radial"])
def test_hostile_labels_stay_labels(layout: str) -> None:
    graph = chain(HOSTILE, layout, title=HOSTILE[0], description=HOSTILE[5], footnote=HOSTILE[8])
    root = parse(graph.render("svg"))
    nodes = groups(root, "node")
    assert len(nodes) == len(HOSTILE)
    assert len(groups(root, "edge")) == len(HOSTILE) - 1
    for node, label in zip(nodes, HOSTILE, strict=True):
        assert lines(node) == [line for line in label.split("\n") if line]
        title = node.find(f"{SVG}title")
        assert (title.text if title is not None else "") == label
    assert root[0].text == HOSTILE[0]
    assert root[1].text == HOSTILE[5]


@pytest.mark.parametrize("bad", ["\x00", "a\x07", "tab\t", "\x1b[31m", "\x7f", "\ufffe", "\uffff"])
def test_characters_that_xml_cannot_hold_are_refused(bad: str) -> None:
    graph = Graph()
    with pytest.raises(km.ArgumentError, match=r"NUL|U\+"):
        graph.add_node(bad)
    with pytest.raises(km.ArgumentError):
        Graph(title=bad)
    assert graph.n_nodes == 0


def test_lone_surrogates_and_long_texts_are_refused() -> None:
    graph = Graph()
    with pytest.raises(UnicodeEncodeError, match="surrogates"):
        graph.add_node("\ud800")
    with pytest.raises(km.ArgumentError, match="8192"):
        graph.add_node("x" * 8193)
    with pytest.raises(km.ArgumentError, match="pink"):
        graph.add_node("x", fill="pink")
    with pytest.raises(km.ArgumentError, match="there are 0"):
        graph.add_edge(0, 1)


def test_the_number_of_nodes_is_capped() -> None:
    graph = Graph("down")
    for _ in range(5000):
        graph.add_node()
    with pytest.raises(km.UnsupportedError, match="5000 nodes"):
        graph.add_node()


drawable = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff")
    | st.sampled_from('\n\\"&<>;[]{}|lrnNGETHL'),
    max_size=40,
)


def is_noncharacter(text: str) -> bool:
    return any(ord(c) & 0xFFFE == 0xFFFE for c in text)


@settings(max_examples=150, deadline=None)
@given(st.lists(drawable.filter(lambda t: not is_noncharacter(t)), min_size=1, max_size=6))
def test_random_labels_come_back(labels: list[str]) -> None:
    root = parse(chain(labels).render("svg"))
    nodes = groups(root, "node")
    assert len(nodes) == len(labels)
    assert len(groups(root, "edge")) == len(labels) - 1
    for node, label in zip(nodes, labels, strict=True):
        assert lines(node) == [line for line in label.split("\n") if line]


FRAGMENTS = [
    *(text for text in HOSTILE if len(text) < 100), *'"\\&<>;[]{}|\n', "\\N", "\\G", "&#x0;",
    "&amp;lt;", "<svg onload=x>", "<!ENTITY e 'x'>", "%s", "url(", "{{7*7}}", "é", "\u202e",
    "\u200b", "𝔘", "日", "\u0301", "'", "`", "$(x)", "=", " ", "a", "node",
]  # fmt: skip


def test_a_hundred_thousand_hostile_labels_come_back() -> None:
    """Labels and what is shown on hovering, of nodes and of edges, in seven pictures of 15,000."""
    draw, seen = random.Random(7), 0
    for part in range(7):
        texts = [
            "".join(draw.choices(FRAGMENTS, k=draw.randint(1, 5))) for _ in range(5000 * 3)
        ]  # fmt: skip
        labels, titles, edges = texts[:5000], texts[5000:10_000], texts[10_000:]
        graph = Graph("fixed", title=texts[part], description=texts[-1])
        for i, (label, title) in enumerate(zip(labels, titles, strict=True)):
            graph.add_node(label, title=title, x=200.0 * (i // 400), y=40.0 * (i % 400))
        for i, title in enumerate(edges):
            graph.add_edge(i, (i * 7 + 1) % 5000, title=title)
        root = parse(graph.render("svg"))
        assert (root[0].text or "", root[1].text or "") == (texts[part], texts[-1])
        for node, label, title in zip(groups(root, "node"), labels, titles, strict=True):
            assert lines(node) == [line for line in label.split("\n") if line]
            assert node.findtext(f"{SVG}title", "") == title
        for edge, title in zip(groups(root, "edge"), edges, strict=True):
            assert edge.findtext(f"{SVG}title", "") == title
        seen += len(texts)
    assert seen == 105_000


def unescape(label: str) -> str:
    """A label of a DOT file as Graphviz reads it: escapes, then entities."""
    text = re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), label)
    return text.replace("&amp;", "&")


@pytest.mark.skipif(shutil.which("dot") is None, reason="the dot program is not installed")
def test_dot_output_can_be_read_again() -> None:
    written = chain(HOSTILE, "down").render("dot")
    again = subprocess.run(
        ["dot", "-Tjson"], input=written, capture_output=True, check=True, timeout=60
    )
    graph = json.loads(again.stdout, strict=False)
    assert len(graph["objects"]) == len(HOSTILE)
    assert len(graph["edges"]) == len(HOSTILE) - 1
    assert [unescape(node["label"]) for node in graph["objects"]] == HOSTILE


def test_formats_and_files(tmp_path: Path) -> None:
    picture = km.draw.recall(RECALL)
    starts = {"svg": b"<svg ", "png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "dot": b"digraph"}
    for format, start in starts.items():
        written = picture.save(tmp_path / f"x.{format.upper()}")
        assert written.read_bytes().startswith(start)
    assert picture.svg == picture._repr_svg_() == (tmp_path / "x.SVG").read_text("utf-8")
    assert picture.png == (tmp_path / "x.PNG").read_bytes()
    assert picture.pdf.startswith(starts["pdf"])
    assert picture.dot == (tmp_path / "x.DOT").read_text("utf-8")
    once, twice = (
        struct.unpack(">II", png[16:24]) for png in (picture.render("png", scale=1.0), picture.png)
    )
    assert twice == tuple(pytest.approx(2 * n, abs=2) for n in once)
    with pytest.raises(ValueError, match=r"\.svg, \.png, \.pdf, \.dot"):
        picture.save(tmp_path / "x.gif")
    assert "Recall by relation" in repr(picture)


def test_the_same_data_give_the_same_bytes() -> None:
    for format in ("svg", "png", "dot"):
        first = km.draw.lens(LENS, prompt="p", answer=" a").render(format)
        assert first == km.draw.lens(LENS, prompt="p", answer=" a").render(format)


def test_threads_draw_at_once() -> None:
    expected = chain(HOSTILE, "down").render("svg")
    seen: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: seen.append(chain(HOSTILE, "down").render("svg")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected] * 8


def test_dark_mode_follows_the_reader_or_is_fixed() -> None:
    graph = chain(["a", "b"])
    assert b"prefers-color-scheme:dark" in graph.render("svg")
    assert b"prefers-color-scheme" not in graph.render("svg", theme="light")
    dark = graph.render("svg", theme="dark")
    assert b"prefers-color-scheme" not in dark
    assert b'fill="#ffffff"' not in dark
    assert graph.render("png", theme="dark") != graph.render("png", theme="light")


def test_text_width_bounds_what_is_drawn() -> None:
    assert text_width("") == 0.0
    assert text_width("il", 10.0) < text_width("WM", 10.0) < text_width("WM", 10.0, True)
    assert text_width("日本", 10.0) >= 20.0


# ---- the pictures ----

NODES = [
    {"id": "root", "parent": None, "name": "Root", "kind": "aspect"},
    {"id": "a", "parent": "root", "name": 'Memory <b>"\\N"</b>', "kind": "mechanism"},
    {"id": "a1", "parent": "a", "name": "Deep", "kind": "hypothesis", "summary": "Sum & <i>"},
    {"id": "b", "parent": "root", "name": "Other", "kind": "phenomenon"},
    {"id": "b1", "parent": "b", "name": "Hidden one", "kind": "open_question"},
    {"id": "b2", "parent": "b1", "name": "Hidden two", "kind": "analysis_method"},
]
EVIDENCE = [
    {"node": "a1", "measure": "m.x", "statistic": "recall", "value": 0.31, "low": 0.24,
     "high": 0.39, "n": 1312, "unit": "share", "baseline": 0.1, "note": "top-1"},
]  # fmt: skip
RECALL = [
    {"relation": "capital city", "n": 40, "recall": 0.5, "low": 0.4, "high": 0.6,
     "commonest": 0.2, "subject_removed": 0.1, "shuffled": 0.05, "random_init": 0.0},
    {"relation": '"]; x [label="\t', "n": 30, "recall": 0.1, "low": 0.0, "high": 0.2,
     "commonest": 0.3, "subject_removed": 0.1, "shuffled": 0.05, "random_init": None},
]  # fmt: skip
LENS: list[dict[str, Any]] = [
    {"layer": "embed", "top": [("\n", 0.5), (" the", 0.2)], "target_rank": 900,
     "target_prob": 1e-5},
    {"layer": 1, "top": [(" the", 0.4), (b"\xff", 0.1)], "target_rank": 7, "target_prob": 0.004},
    {"layer": 2, "top": [(" Paris", 0.6), (" the", 0.2)], "target_rank": 1, "target_prob": 0.6},
    {"layer": 3, "top": [(" Paris", 0.8), (" the", 0.1)], "target_rank": 1, "target_prob": 0.8},
]  # fmt: skip


def words(picture: km.Picture) -> list[str]:
    texts = parse(picture.svg).iter(f"{SVG}text")
    return [(t.text or "").replace("\u00a0", " ") for t in texts]


def test_taxonomy_shows_evidence_and_folds_the_rest() -> None:
    picture = km.draw.taxonomy({"nodes": NODES}, EVIDENCE, provenance="model Q4_1")
    shown = words(picture)
    assert "recall 0.31 [0.24, 0.39], baseline 0.10, n = 1,312" in shown
    assert 'Memory <b>"\\N"</b>' in shown
    assert "Other +2" in shown
    assert "Hidden one" not in shown
    assert "model Q4_1" in shown
    assert any(line.startswith("1 of 6 nodes have evidence") for line in shown)
    assert len(groups(parse(picture.svg), "edge")) == 3
    full = km.draw.taxonomy(NODES, EVIDENCE, full=True)
    assert {"Hidden one", "Hidden two"} <= set(words(full))
    assert len(groups(parse(full.svg), "edge")) == 5


def test_taxonomy_names_the_models_of_its_figures() -> None:
    one = [{**EVIDENCE[0], "model": "S", "precision": "Q4_1"}]
    assert any("have evidence from S Q4_1;" in t for t in words(km.draw.taxonomy(NODES, one)))
    two = [*one, {**EVIDENCE[0], "model": "G", "precision": "F32", "value": 0.5}]
    shown = " ".join(words(km.draw.taxonomy(NODES, two)))
    assert "n = 1,312 (S Q4_1)" in shown
    assert "recall 0.50 [0.24, 0.39], baseline 0.10, n = 1,312 (G F32)" in shown


def test_taxonomy_takes_the_evidence_of_a_knowledge_base(tmp_path: Path) -> None:
    """From nothing to a picture: the package's own taxonomy, a run, its evidence."""
    with km.KnowledgeBase(tmp_path / "study.db") as kb:
        empty = " ".join(words(kb.taxonomy.draw()))
        assert "0 of 128 nodes have evidence;" in empty
        model = {"fingerprint": "0" * 64, "name": "S", "precision": "Q4_1"}
        origin = {"measure": "memorization.recall", "version": 1, "parameters": {}, "model": model}
        result = km.Result(km.Table.from_rows([Column("x", "int64")], [{"x": 1}]), origin)
        row = {**EVIDENCE[0], "node": "memorization", "measure": "memorization.recall"}
        result.evidence = [{**row, "statistic": "gain"}, row]
        kb.record(result)
        shown = words(km.draw.taxonomy(kb))
    assert [text[:4] for text in shown if "1,312" in text] == ["reca", "gain"]
    assert any("1 of 128 nodes have evidence from S Q4_1;" in text for text in shown)


def test_taxonomy_refuses_what_is_no_tree() -> None:
    with pytest.raises(ValueError, match="unknown node 'nowhere'"):
        km.draw.taxonomy(NODES, [{**EVIDENCE[0], "node": "nowhere"}])
    with pytest.raises(ValueError, match="unknown parent"):
        km.draw.taxonomy([*NODES, {"id": "c", "parent": "zz", "name": "C"}])
    with pytest.raises(ValueError, match="one root"):
        km.draw.taxonomy([*NODES, {"id": "c", "parent": None, "name": "C"}])
    loop = [{"id": "c", "parent": "d", "name": "C"}, {"id": "d", "parent": "c", "name": "D"}]
    with pytest.raises(ValueError, match="cycle"):
        km.draw.taxonomy([*NODES, *loop])


@pytest.mark.parametrize("every", [1, 7, 200])
def test_nothing_of_the_whole_taxonomy_overlaps(every: int) -> None:
    nodes = json.loads(TAXONOMY.read_text("utf-8"))["nodes"]
    assert len(nodes) == 128
    evidence = [{**EVIDENCE[0], "node": node["id"]} for node in nodes[::every] for _ in range(5)]
    root = parse(km.draw.taxonomy(nodes, evidence, full=True).svg)
    boxes = []
    for group in groups(root, "node"):
        for text in group.findall(f"{SVG}text"):
            size, x = float(text.attrib["font-size"]), float(text.attrib["x"])
            y = float(text.attrib["y"])
            boxes.append((x, y - 0.8 * size, x + text_width(text.text or "", size), y + 0.2 * size))
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, (a, b)


def text_boxes(root: ET.Element) -> list[tuple[float, float, float, float]]:
    """Of every line in the nodes: left, top, right, bottom."""
    boxes = []
    shares = {"start": 0.0, "middle": 0.5, "end": 1.0}
    for group in groups(root, "node"):
        for text in group.findall(f"{SVG}text"):
            size, x = float(text.attrib["font-size"]), float(text.attrib["x"])
            y = float(text.attrib["y"])
            width = text_width(text.text or "", size, text.get("font-weight") == "bold")
            x -= shares[text.get("text-anchor", "start")] * width
            boxes.append((x, y - 0.8 * size, x + width, y + 0.2 * size))
    return boxes


def some_tree(n: int, seed: int = 3) -> list[dict[str, Any]]:
    """A root and n - 1 nodes below it, whose parents are among the first 400."""
    draw = random.Random(seed)
    kinds = [node["kind"] for node in NODES]
    root = {"id": "n0", "parent": None, "name": "Root", "kind": kinds[0]}
    below = [
        {
            "id": f"n{i}", "parent": f"n{draw.randrange(min(i, 400))}",
            "name": f"Node number {i} of some", "kind": draw.choice(kinds),
        }
        for i in range(1, n)
    ]  # fmt: skip
    return [root, *below]


@pytest.mark.parametrize("n", [1, 2, 7, 200])
@pytest.mark.parametrize("layout", ["tree", "radial"])
def test_two_hundred_nodes_stay_readable(layout: str, n: int) -> None:
    """Each is drawn with its name, in at least 9 points, and no name lies on another."""
    evidence = [{**EVIDENCE[0], "node": f"n{i}"} for i in range(0, n, 9)]
    root = parse(km.draw.taxonomy(some_tree(n), evidence, layout=layout, full=True).svg)
    boxes = text_boxes(root)
    assert len(groups(root, "edge")) == n - 1
    named = [t.text for g in groups(root, "node") for t in g.findall(f"{SVG}text")]
    assert sum(text.startswith(("Root", "Node")) for text in named if text) == n
    sizes = {
        float(t.attrib["font-size"]) for g in groups(root, "node") for t in g.iter(f"{SVG}text")
    }
    assert min(sizes) >= 9.0
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


@pytest.mark.parametrize("layout", ["tree", "radial"])
@pytest.mark.parametrize("flat", [False, True])
def test_two_thousand_nodes_are_summarised_and_the_picture_says_so(layout: str, flat: bool) -> None:
    """Every node is drawn or counted in a cluster, and so is all evidence."""
    nodes = some_tree(2000)
    if flat:
        nodes = [{**node, "parent": "n0" if node["id"] != "n0" else None} for node in nodes]
    evidence = [{**EVIDENCE[0], "node": f"n{i}"} for i in range(1, 2000, 20)]
    picture = km.draw.taxonomy(nodes, evidence, layout=layout, full=True)
    root = parse(picture.svg)
    text = " ".join(words(picture))
    assert "100 of 2,000 nodes have evidence" in text
    assert "2,000 nodes are too many to read: this is a summary in" in text
    shown = len(groups(root, "edge")) + 1
    assert 200 <= shown <= 240
    drawn = " ".join(
        (t.text or "").replace("\u00a0", " ")
        for g in groups(root, "node") for t in g.findall(f"{SVG}text")
    )  # fmt: skip
    folded = [int(count.replace(",", "")) for count in re.findall(r" \+(\d[\d,]*\d|\d)", drawn)]
    assert shown + sum(folded) - flat == 2000  # the cluster of a flat tree is no node of its own
    clusters = int(re.search(r"in (\d+) clusters? is", text)[1])
    assert clusters == len(folded)
    inside = sum(int(n.replace(",", "")) for n in re.findall(r", (\d+) with evidence", drawn))
    own = drawn.count("(1)") if layout == "radial" else drawn.count("n = 1,312")
    assert own + inside == 100


def test_a_branch_is_drawn_alone() -> None:
    picture = km.draw.taxonomy(NODES, EVIDENCE, branch="a", provenance="x")
    shown = words(picture)
    title = parse(picture.svg)[0].text
    assert title == 'Memory <b>"\\N"</b>: what was measured, n = 1 of 2 nodes'
    assert "Deep" in shown and "Other +2" not in shown and "Root" not in shown
    rings = km.draw.taxonomy(NODES, EVIDENCE, branch="b", layout="radial", full=True)
    assert {"Other", "Hidden one", "Hidden two"} <= set(words(rings))
    with pytest.raises(ValueError, match="no node 'zz'"):
        km.draw.taxonomy(NODES, EVIDENCE, branch="zz")
    with pytest.raises(ValueError, match="tree, radial"):
        km.draw.taxonomy(NODES, EVIDENCE, layout="sun")


def test_radial_marks_are_filled_where_there_is_evidence() -> None:
    """Evidence as colour and small counts; the figures show on hovering."""
    root = parse(km.draw.taxonomy(NODES, EVIDENCE * 3, layout="radial", theme="light").svg)
    filled = []
    for group in groups(root, "node"):
        title = group.find(f"{SVG}title")
        marks = [*group.findall(f"{SVG}polygon"), *group.findall(f"{SVG}ellipse")]
        if not group.findall(f"{SVG}text") and marks[0].get("fill") != "#ffffff":
            filled.append(title.text.split("\n")[0])
            assert "recall 0.31 [0.24, 0.39]" in title.text.replace("\u00a0", " ")
    assert filled == ["Deep"]
    assert "Deep (3)" in [t.text.replace("\u00a0", " ") for t in root.iter(f"{SVG}text") if t.text]


def test_recall_states_n_intervals_and_baselines() -> None:
    overall = {"relation": "all", "n": 70, "recall": 0.3, "low": 0.2, "high": 0.4}
    picture = km.draw.recall(RECALL, overall)
    shown = words(picture)
    assert {"capital city", "0.50 [0.40, 0.60]", "40", "all", "0.30 [0.20, 0.40]"} <= set(shown)
    assert '"]; x [label="\\t' in shown
    text = " ".join(shown)
    assert "70 facts in 2 relations; bars are 95 % intervals" in text
    assert "Recall is above every baseline in 1 of 2." in text
    for name in ("commonest answer", "subject removed", "subjects shuffled", "random weights"):
        assert name in shown
    assert Counter(shown)["0.0"] == Counter(shown)["1.0"] == 2  # the scale, above and below


def test_recall_marks_stand_at_their_values() -> None:
    root = parse(km.draw.recall(RECALL).svg)
    scale = {
        t.text: float(t.attrib["x"]) for t in root.iter(f"{SVG}text") if t.text in ("0.0", "1.0")
    }
    left, right = scale["0.0"], scale["1.0"]
    points = [
        float(e.attrib["cx"])
        for group in groups(root, "node")
        for e in group.findall(f"{SVG}ellipse")
    ]
    shares = [(x - left) / (right - left) for x in points]
    assert shares == pytest.approx([0.5, 0.1], abs=2e-3)


def test_the_footnote_comes_from_the_result() -> None:
    origin = {
        "measure": "memorization.recall", "version": 1, "km_version": "0.1.0",
        "time": "2026-11-23T12:00:00+00:00", "model": {"name": "S", "precision": "Q4_1"},
    }  # fmt: skip
    found = SimpleNamespace(relations=RECALL, overall=None, provenance=origin)
    line = "S Q4_1 · memorization.recall v1 · km 0.1.0 · 2026-11-23"
    assert line in words(km.draw.recall(found))
    assert line not in words(km.draw.recall(found, provenance="mine"))


def test_recall_refuses_bad_rows() -> None:
    with pytest.raises(ValueError, match="recall is missing"):
        km.draw.recall([{"relation": "x", "n": 1}])
    with pytest.raises(ValueError, match="between 0 and 1"):
        km.draw.recall([{**RECALL[0], "commonest": 1.2}])
    with pytest.raises(ValueError, match="no relation"):
        km.draw.recall([])


def test_lens_follows_the_answer() -> None:
    picture = km.draw.lens(LENS, prompt="The capital is\n", answer=" Paris", model="M")
    root = parse(picture.svg)
    shown = words(picture)
    assert root[0].text == "The capital is\\n → Paris, M, n = 1 fact"
    assert "␣Paris  0.80" in shown
    assert "rank 900  1e-5" in shown
    assert "\\n  0.50" in shown
    assert "\\xff  0.10" in shown
    assert "The answer leads from layer 2 on." in " ".join(shown)
    answer = [g for g in groups(root, "edge") if g.find(f"{SVG}title").text == "the answer"]
    assert len(answer) == len(LENS) - 1
    stays = [g for g in groups(root, "edge") if g.find(f"{SVG}title").text == "␣the stays"]
    assert len(stays) == 3


def test_tokens_without_a_mark_are_escaped() -> None:
    tops = ["\u00a0", "\u200b", "\ue000", "  ", " a b "]
    layer = {"layer": 0, "top": [(text, 0.1) for text in tops]}
    shown = words(km.draw.lens([layer], prompt="p", answer="a"))
    for label in ("\\u00a0", "\\u200b", "\\ue000", "␣␣", "␣a b␣"):
        assert f"{label}  0.10" in shown


def test_lens_says_what_it_leaves_out() -> None:
    many = [{**LENS[1], "layer": i} for i in range(90)]
    text = " ".join(words(km.draw.lens(many, prompt="p", answer="a")))
    assert "40 of 90 layers are drawn." in text
    assert "The answer does not lead after the last layer." in text
    with pytest.raises(ValueError, match="no layer"):
        km.draw.lens([])
