"""The taxonomy as its user changes it: adding, moving, files, and km's newer versions."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_kb import run_command

import km
from km.bibtex import work_to_bibtex
from km.bibtex_reader import entry_to_work, read_entries, unescape_latex
from km.kb import ConflictWarning, taxonomy_text

HOSTILE = [
    "'); DROP TABLE nodes; --",
    '"><img src=x onerror=alert(1)>',
    r"\input{/etc/passwd} \write18{ls} %$#&_{}~^",
    "} @misc{evil, title={",
    "知识编辑 \u202e gnirts \U0001f600 \u00e9 e\u0301",
    "a; b and c -- d ``e'' {f}",
    "{{{{",
    "line\nfeed\tand tab",
]


@pytest.fixture
def kb() -> Iterator[km.KnowledgeBase]:
    with km.KnowledgeBase(":memory:") as base:
        yield base


def shipped(version: int = 1000) -> dict[str, Any]:
    """A newer taxonomy of km's."""
    content: dict[str, Any] = json.loads(taxonomy_text())
    return content | {"version": version}


def fill(kb: km.KnowledgeBase) -> None:
    """A node of one's own with a work, and a node of km's moved below it."""
    tree = kb.taxonomy
    assert tree.add("mine", parent="hyp-reuse", name="Mine", kind="mechanism", summary="A try")
    assert tree.add_work("me2026", title="Mine", authors="Doe, J.", year=2026, venue="CoRR")
    assert tree.link("me2026", "mine", "proposes", evidence="known")
    assert tree.link("geva2021kv", "mine", "supports", note="by analogy")
    assert tree.move("grokking", "mine")
    kb.add_measure("user.try", ["mine"])


# ---- what km ships ----


def test_every_seed_has_place_claims_and_measures() -> None:
    content = json.loads(taxonomy_text())
    below: dict[str, set[str]] = {node["id"]: {node["id"]} for node in content["nodes"]}
    for node in reversed(content["nodes"]):  # children before their parents
        if node["parent"] is not None:
            below[node["parent"]] |= below[node["id"]]
    measured = {node for measure in content["measurements"] for node in measure["nodes"]}
    assert len(content["seed_places"]) == 17
    for work, places in content["seed_places"].items():
        claims = [edge for edge in content["edges"] if edge["work"] == work]
        sure = {edge["node"] for edge in claims if edge["evidence"] in ("paper", "seed")}
        assert places, work
        assert sure, work
        assert any(below[place] & sure for place in places), f"{work}: no claim at its place"
        tested = set().union(*(below[node] for node in (*sure, *places)))
        assert tested & measured, f"{work}: no measure tests what it claims"


# ---- adding and moving ----


def test_adding_linking_and_moving(kb: km.KnowledgeBase) -> None:
    fill(kb)
    tree = kb.taxonomy
    node = tree["mine"]
    assert (node["parent"], node["depth"], node["children"]) == ("hyp-reuse", 4, ["grokking"])
    assert {work["key"] for work in node["works"]} == {"me2026", "geva2021kv"}
    assert [row["ref"] for row in kb.search("Mine", kind="node").rows()] == ["mine"]
    path = [row["node"] for row in kb.ask("path-to-node", node="grokking").rows()]
    assert "mine" in path
    assert len(kb.check(full=True)) == 0
    # The same again changes nothing.
    assert not tree.add("mine", parent="hyp-reuse", name="Mine", kind="mechanism", summary="A try")
    assert not tree.link("me2026", "mine", "proposes", evidence="known")
    assert not tree.move("grokking", "mine")
    assert len(tree.conflicts()) == 0


def test_what_is_refused_changes_nothing(kb: km.KnowledgeBase) -> None:
    fill(kb)
    tree = kb.taxonomy
    before = tree.to_json()
    with pytest.raises(km.ArgumentError, match="other content"):
        tree.add("mine", parent="root", name="Else", kind="aspect")
    with pytest.raises(km.ArgumentError, match="no node 'nowhere'"):
        tree.add("a", parent="nowhere", name="A", kind="aspect")
    with pytest.raises(km.ArgumentError, match="'kind' must be one of"):
        tree.add("a", parent="root", name="A", kind="idea")  # type: ignore[arg-type]
    with pytest.raises(km.ArgumentError, match="below itself"):
        tree.move("hyp-reuse", "grokking")
    with pytest.raises(km.ArgumentError, match="cannot be moved"):
        tree.move("root", "mine")
    with pytest.raises(km.NotFoundError, match="nowhere"):
        tree.move("mine", "nowhere")
    with pytest.raises(km.ArgumentError, match="no work 'nobody'"):
        tree.link("nobody", "mine", "supports")
    with pytest.raises(km.ArgumentError, match="2407"):
        tree.add_work("w", title="T", authors="A", arxiv="12")
    with pytest.raises(km.ArgumentError, match="together"):
        tree.from_bibtex(io.StringIO(""), node="mine")
    rows = [*json.loads(before)["edges"][:1], {"work": "me2026", "node": "nowhere"}]
    with pytest.raises(km.ArgumentError, match=r"edges\[1\]"):
        tree.from_json({"nodes": [tree_node("good")], "edges": rows})
    kb._kb.begin()
    tree.add("gone", parent="root", name="Gone", kind="aspect")
    kb._kb.rollback()
    assert kb.taxonomy.to_json() == before
    assert len(tree.conflicts()) == 0


def tree_node(id: str) -> dict[str, Any]:
    return {
        "id": id,
        "parent": "root",
        "name": "Name",
        "kind": "aspect",
        "summary": "",
        "evidence": "guess",
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(kb: km.KnowledgeBase, text: str) -> None:
    tree = kb.taxonomy
    tree.add("n", parent="root", name=text, kind="aspect", summary=text)
    tree.add_work("w", title=text, authors=text, venue=text, note=text, year=2026)
    tree.link("w", "n", "supports", note=text)
    assert kb.taxonomy["n"]["name"] == text
    with km.KnowledgeBase(":memory:") as other:
        other.taxonomy.from_json(json.loads(tree.to_json(own=True)))
        assert other.taxonomy.to_json() == tree.to_json()
    assert len(tree.from_bibtex(io.StringIO(tree.to_bibtex(own=True)))) == 0
    for bad in (text + " x", "-x", "", "x" * 201):
        with pytest.raises(km.ArgumentError, match="'id' must be"):
            tree.add(bad, parent="root", name="x", kind="aspect")


@pytest.mark.parametrize("text", ["\x1b[2J", "a\x00b", "", "  ", "x" * 20_001])
def test_names_that_are_refused(kb: km.KnowledgeBase, text: str) -> None:
    with pytest.raises((km.ArgumentError, km.FormatError)):
        kb.taxonomy.add("n", parent="root", name=text, kind="aspect")
    assert "n" not in [node["id"] for node in kb.taxonomy]


# ---- files ----


def test_json_comes_back(kb: km.KnowledgeBase, tmp_path: Path) -> None:
    fill(kb)
    tree = kb.taxonomy
    tree.to_json(tmp_path / "all.json")
    tree.to_json(tmp_path / "own.json", own=True)
    own = json.loads((tmp_path / "own.json").read_text())
    assert {len(own["nodes"]), len(own["works"]), len(own["edges"])} == {2, 1}
    for name in ("all.json", "own.json"):
        assert len(tree.from_json(tmp_path / name)) == 0
        with km.KnowledgeBase(":memory:") as other:
            happened = list(other.taxonomy.from_json(tmp_path / name).rows())
            assert {row["outcome"] for row in happened} == {"added", "moved"}
            assert other.taxonomy.to_json() == tree.to_json()
            assert len(other.taxonomy.from_json(tmp_path / name)) == 0
    with km.KnowledgeBase(":memory:") as plain:
        content = json.loads(plain.taxonomy.to_json())
        mine = json.loads(taxonomy_text())
        assert content["nodes"] == mine["nodes"]
        assert content["seed_places"] == mine["seed_places"]
        for name in ("works", "edges", "measurements"):
            assert len(content[name]) == len(mine[name])
        assert len(plain.load_taxonomy(content)) == 0


@pytest.mark.parametrize("text", ["{", "[]", "7", "[" * 100_000, '{"nodes": 7}', '{"node": []}'])
def test_files_that_are_no_taxonomy(kb: km.KnowledgeBase, text: str) -> None:
    before = kb.taxonomy.to_json()
    with pytest.raises((km.FormatError, km.ArgumentError)):
        kb.taxonomy.from_json(io.StringIO(text))
    assert kb.taxonomy.to_json() == before


def test_files_that_are_not_there(kb: km.KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(km.NotFoundError, match="no such file"):
        kb.taxonomy.from_json(tmp_path / "none.json")
    (tmp_path / "latin.bib").write_bytes(b"@misc{a, title={\xff}}")
    with pytest.raises(km.FormatError, match="UTF-8"):
        kb.taxonomy.from_bibtex(tmp_path / "latin.bib")


def test_bibtex_comes_back(kb: km.KnowledgeBase, tmp_path: Path) -> None:
    fill(kb)
    tree = kb.taxonomy
    tree.to_bibtex(tmp_path / "all.bib")
    assert len(tree.from_bibtex(tmp_path / "all.bib")) == 0
    with km.KnowledgeBase(":memory:") as other:
        happened = other.taxonomy.from_bibtex(tmp_path / "all.bib")
        assert [(row["what"], row["n"]) for row in happened.rows()] == [("works", 1)]
        assert other.taxonomy.to_bibtex() == tree.to_bibtex()
    assert "me2026" in tree.to_bibtex(node="hyp-reuse")
    assert "me2026" not in tree.to_bibtex(node="fragility")
    assert tree.to_bibtex(own=True).count("@misc{") == 1


def test_bibtex_of_others(kb: km.KnowledgeBase) -> None:
    text = r"""
    Written by hand, mail me@example.org
    @string{acl = "ACL"}
    @comment{ @misc{no, title={x}} }
    @InProceedings{a1, title = {The {LLM} of {\'E}tude \"uber 50\,\%}, author = "Knuth, Donald E.
        and {The Group and Friends} and Ludwig van Beethoven and others", booktitle = acl # " 2020",
        year = 2020, doi = {10.1/x_y}, }
    @article(a2, title = {Paper}, author = {{\"O}zg{\"u}r, Ay{\c s}e}, journal = {J. of X},
        volume = 3, number = 4, date = {2021-05})
    @article{a3, title = {Pre}, author = {A, B}, journal = {arXiv preprint arXiv:2407.15017v2}}
    @misc{geva2021kv, title = {Otherwise}}
    """
    happened = kb.taxonomy.from_bibtex(io.StringIO(text), node="mlp-memory", relation="proposes")
    outcomes = [(row["what"], row["outcome"], row["n"]) for row in happened.rows()]
    assert sorted(outcomes)[:2] == [("edges", "added", 3), ("edges", "differs", 1)]
    assert ("works", "added", 3) in outcomes
    assert ("works", "differs", 1) in outcomes
    rows = {r["key"]: r for r in kb.sql("SELECT * FROM works WHERE origin = 'user'").rows()}
    assert rows["a1"]["title"] == "The LLM of Étude über 50 %"
    assert rows["a1"]["authors"] == (
        "Knuth, Donald E.; The Group and Friends; van Beethoven, Ludwig; and others"
    )
    assert (rows["a1"]["venue"], rows["a1"]["note"]) == ("ACL 2020", "doi 10.1/x_y")
    assert (rows["a2"]["authors"], rows["a2"]["venue"]) == ("Özgür, Ayşe", "J. of X 3(4)")
    assert (rows["a2"]["year"], rows["a3"]["venue"]) == (2021, "arXiv")
    assert rows["a3"]["arxiv"] == "2407.15017"
    (work,) = [r for r in kb.taxonomy.conflicts().rows() if r["what"] == "works"]
    assert (work["key"], work["source"]) == ("geva2021kv", "import")
    assert "Otherwise" in work["theirs"]
    assert "Otherwise" not in work["ours"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("@misc{a, title={x}", "line 1: ',' or '}'"),
        ("\n@misc{a, title={x", "line 2: '{' is not closed"),
        ('@misc{a, title="x', "quoted value is not closed"),
        ("@misc{a, title}", "'=' after 'title'"),
        ("@misc{a, title={x}}\n@book{a, title={y}}", "line 2: the key 'a' was there on line 1"),
        ("@misc{a, author={x}}", "no title"),
        ("@misc{, title={x}}", "key of the entry is missing"),
        ("@misc{a, title={x} year=1}", "','"),
    ],
)
def test_bibtex_that_is_malformed(kb: km.KnowledgeBase, text: str, why: str) -> None:
    with pytest.raises(km.FormatError) as caught:
        kb.taxonomy.from_bibtex(io.StringIO("@misc{good, title={x}}" + text))
    assert why in str(caught.value)
    assert len(kb.sql("SELECT 1 FROM works WHERE key = 'good'")) == 0


@pytest.mark.parametrize(
    "text",
    [
        "@misc{a, title={" * 20_000,
        '@misc{a, title="' * 20_000,
        "@misc{a, title={" + "{" * 50_000 + "x" + "}" * 50_000 + "}}",
        "@misc{a, title={x}, note={" + "\\" * 200_000 + "}}",
        "@misc{a, title={" + "$" * 100_001 + "}}",
        "@" * 100_000,
    ],
)
@pytest.mark.timeout(10)
def test_long_files_take_time_in_proportion(text: str) -> None:
    try:
        entries = [entry_to_work(entry) for entry in read_entries(text)]
    except km.FormatError:
        return
    assert len(entries) <= 1


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30))
def test_what_is_escaped_is_read_as_it_was(text: str) -> None:
    plain = " ".join(text.split())
    entry = work_to_bibtex({"key": "k", "title": "T" + plain, "authors": "", "note": plain})
    (found,) = read_entries(entry)
    assert unescape_latex(found.fields.get("note", "")) == plain
    assert entry_to_work(found)["title"] == " ".join(("T" + plain).split())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.sampled_from('@misc{}=",#\\ \nab$%'), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        works = [entry_to_work(entry) for entry in read_entries(text)]
    except km.FormatError:
        return
    assert all(work["key"] and work["title"] for work in works)


# ---- a newer taxonomy of km's ----


def test_additions_survive_an_upgrade(kb: km.KnowledgeBase) -> None:
    fill(kb)
    before = json.loads(kb.taxonomy.to_json(own=True))
    newer = shipped()
    newer["nodes"].append(tree_node("brand-new"))
    (moved,) = kb.load_taxonomy(newer).rows()
    assert (moved["key"], moved["problem"]) == ("grokking", "moved")
    assert json.loads(kb.taxonomy.to_json(own=True)) == before
    assert kb.taxonomy["brand-new"]["parent"] == "root"
    assert kb.taxonomy["grokking"]["parent"] == "mine"
    assert len(kb.sql("SELECT 1 FROM measure_nodes WHERE measure = 'user.try'")) == 1
    assert len(kb.check(full=True)) == 0


def test_conflicts_are_listed_and_nothing_is_overwritten(kb: km.KnowledgeBase) -> None:
    fill(kb)
    newer = shipped()
    newer["nodes"].append(tree_node("mine"))
    newer["works"].append(
        {"key": "me2026", "title": "Theirs", "authors": "X", "verified_by": "known"}
    )
    newer["edges"].append(
        {"work": "geva2021kv", "node": "mine", "relation": "supports", "evidence": "paper"}
    )
    newer["measurements"].append(
        {"id": "user.try", "module": "try", "nodes": ["memorization"], "status": "available"}
    )
    found = {(row["what"], row["key"]): row for row in kb.load_taxonomy(newer).rows()}
    assert set(found) == {
        ("nodes", "mine"),
        ("nodes", "grokking"),
        ("works", "me2026"),
        ("edges", "geva2021kv supports mine"),
        ("measures", "user.try"),
    }
    assert json.loads(found["nodes", "mine"]["ours"])[1] == "Mine"
    assert json.loads(found["nodes", "mine"]["theirs"])[1] == "Name"
    assert kb.taxonomy["mine"]["name"] == "Mine"
    assert {w["title"] for w in kb.taxonomy["mine"]["works"] if w["key"] == "me2026"} == {"Mine"}
    assert kb.taxonomy.conflicts()["source"] == ["km"] * 5
    # Once km drops them again nothing is in conflict but the move.
    assert len(kb.load_taxonomy(shipped(1001))) == 1
    assert kb.taxonomy["mine"]["name"] == "Mine"


def test_opening_with_a_newer_km_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    with km.KnowledgeBase(tmp_path / "a.db") as kb:
        fill(kb)
    monkeypatch.setattr("km.kb.taxonomy_text", lambda: json.dumps(shipped()).encode())
    with pytest.warns(ConflictWarning, match="in 1 places"), km.KnowledgeBase(tmp_path / "a.db"):
        pass
    recwarn.clear()
    with km.KnowledgeBase(tmp_path / "a.db") as kb:
        assert kb.taxonomy["grokking"]["parent"] == "mine"
    assert not recwarn


def test_merged_nodes_survive_an_upgrade(tmp_path: Path) -> None:
    with km.KnowledgeBase(tmp_path / "b.db") as kb:
        fill(kb)
        kb.taxonomy.move("grokking", "comprehension")
    with km.KnowledgeBase(":memory:") as kb:
        kb.merge(tmp_path / "b.db")
        assert len(kb.load_taxonomy(shipped())) == 0
        assert {work["key"] for work in kb.taxonomy["mine"]["works"]} == {"me2026", "geva2021kv"}


# ---- from the shell ----


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "a.db")
    with pytest.raises(km.NotFoundError, match="no such file"):
        run_command("taxonomy", "move", "a", "b", "--kb", path)
    km.KnowledgeBase(path).close()

    def command(*words: str) -> int:
        return run_command("taxonomy", *words, "--kb", path)

    node = ("--parent", "root", "--name", "Mine", "--kind", "aspect")
    assert command("add", "mine", *node) == 0
    assert command("add", "mine", *node) == 0
    assert command("work", "w1", "--title", "T", "--authors", "A, B.", "--year", "2026") == 0
    assert command("link", "w1", "supports", "mine", "--note", "n") == 0
    assert command("move", "grokking", "mine") == 0
    assert capsys.readouterr().out.split("\n")[:5] == [
        "added",
        "nothing new",
        "added",
        "linked",
        "moved",
    ]
    for name in ("own.json", "own.bib"):
        assert command("export", "-o", str(tmp_path / name), "--own") == 0
        assert command("import", str(tmp_path / name)) == 0
    assert capsys.readouterr().out == "nothing new\nnothing new\n"
    assert command("export", "--format", "bibtex", "--node", "mine") == 0
    assert "@misc{w1," in capsys.readouterr().out
    (tmp_path / "other.bib").write_text("@misc{w1, title={Else}}")
    assert command("import", str(tmp_path / "other.bib"), "--json") == 1
    assert json.loads(capsys.readouterr().out)["outcome"] == "differs"
    assert command("conflicts") == 0
    assert "works: w1 differs (import)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command("import", str(tmp_path / "file.txt"))
    with pytest.raises(SystemExit):
        command("import", str(tmp_path / "own.json"), "--node", "mine", "--relation", "supports")
