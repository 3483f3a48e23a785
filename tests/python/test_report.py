"""The report: one self-contained page that says what was found beside its baselines."""

from __future__ import annotations

import json
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import km
from km import cli, datasets
from km.report import BASELINES, baseline_table, render_report, share, write_report
from km.report.page import policy

HOSTILE = ['<b>"\\N"</b>', '"]; x [label="', "<script>alert(1)</script>", "{{ 7 * 7 }}"]
VOID = {"meta", "br", "hr", "img", "link", "input"}
# What a page of ours is made of; the lower half is the pictures.
TAGS = {
    "html", "head", "meta", "title", "style", "script", "noscript", "body", "header", "main", "nav",
    "section", "article", "aside", "p", "h1", "h2", "h3", "div", "span", "b", "em", "a", "form",
    "label", "input", "button", "details", "summary", "table", "caption", "thead", "tbody", "tfoot",
    "tr", "th", "td", "figure", "figcaption", "ul", "ol", "li", "dl", "dt", "dd", "code",
    "svg", "g", "path", "polygon", "polyline", "ellipse", "text", "desc", "circle", "line", "rect",
}  # fmt: skip


class Page(HTMLParser):
    """What a browser would find in the page; every element must be closed where it belongs."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.styles: list[str] = []
        self.scripts: list[str] = []
        self.data: list[Any] = []
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.codes: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "code":
            self.codes.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] in (["style"], ["script"]):
            self._keep(data)
            return
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data
        if "code" in self.open:
            self.codes[-1] += data

    def _keep(self, data: str) -> None:
        if self.open[-1] == "style":
            self.styles.append(data)
        elif self.attributes and ("script", "type", "application/json") in self.attributes[-2:]:
            self.data.append(json.loads(data))
        else:
            self.scripts.append(data)

    def table(self, *heads: str) -> dict[str, dict[str, str]]:
        """The table with these heads: rows by their first cell, cells by head."""
        found = [table for table in self.tables if set(heads) <= set(table[0])]
        assert len(found) == 1, [table[0] for table in self.tables]
        top, *rows = found[0]
        return {row[0].removesuffix(" *"): dict(zip(top[1:], row[1:], strict=True)) for row in rows}


def parsed(text: str) -> Page:
    """The page, after a look at everything that could load or run something."""
    page = Page(text)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("src", "srcset", "data", "action", "xlink:href", "style"), (tag, name)
        assert name != "href" or (tag == "a" and value.startswith("#")), value
        assert tag != "script" or (name, value) in (
            ("type", "application/json"), ("id", "atlas-data")
        )  # fmt: skip
        assert "javascript" not in value.lower()
    for style in page.styles:
        assert "url(" not in style and "@import" not in style and "expression" not in style
    rule = next(value for _, name, value in page.attributes if value.startswith("default-src"))
    assert rule == policy(page.styles, page.scripts) and "unsafe" not in rule
    assert (len(page.styles), len(page.scripts)) == (1, 2)
    assert ("meta", "name", "viewport") in page.attributes
    assert ("meta", "charset", "utf-8") in page.attributes
    words = " ".join("".join(page.text).lower().split())
    assert "does not know" not in words and "doesn't know" not in words
    targets = {value for _, name, value in page.attributes if name == "id"}
    atlas = next(data for data in page.data if "nodes" in data)
    targets |= {f"node-{node['id']}" for node in atlas["nodes"]}
    assert all(v[1:] in targets for _, name, v in page.attributes if name == "href")
    return page


def check_relations(page: Page, recall: km.Recall) -> None:
    """Every relation and both totals stand there with n, recall and the four baselines."""
    table = page.table("recall", *(label for _, label in BASELINES))
    rows = [*recall.overall.rows(), *recall.relations.rows()]
    assert list(table) == [row["relation"] for row in rows]
    for row in rows:
        cells = table[row["relation"]]
        assert cells["n"] == str(row["n"])
        assert cells["recall"] == share(row["recall"])
        for name, label in BASELINES:
            assert cells[label] == share(row[name])


def hostile_facts(folder: Path) -> datasets.FactSet:
    relations = [
        {
            "name": name,
            "templates": [f"{name} of {{}} is", "{} has the " + name],
            "facts": [
                {"subject": f"{name} {i}", "answers": [f"{HOSTILE[i]} {name}"]} for i in range(3)
            ],
        }
        for name in HOSTILE
    ]
    path = folder / "hostile.json"
    path.write_text(json.dumps(relations))
    return datasets.read_facts(path)


@pytest.fixture(scope="module")
def hostile(
    tmp_path_factory: pytest.TempPathFactory, model: km.Model
) -> tuple[km.Recall, str, Page]:
    """A report about hostile names, with two templates, all baselines and a lens."""
    folder = tmp_path_factory.mktemp("hostile")
    facts = hostile_facts(folder)
    with km.KnowledgeBase(folder / '"><script>.db') as kb:
        recall = km.memorization(model, facts, kb=kb)
        kb.record(model.lens(HOSTILE[2] + " " + HOSTILE[0], " " + HOSTILE[2]))
        text = render_report(kb)
    return recall, text, parsed(text)


def test_hostile_names_are_text(hostile: tuple[km.Recall, str, Page]) -> None:
    recall, text, page = hostile
    shown = "".join(page.text)
    for name in HOSTILE:
        assert name in shown
    assert "<script>alert" not in text and "<b>&#34;" not in text and '<b>"' not in text
    check_relations(page, recall)


def test_states_need_several_templates(hostile: tuple[km.Recall, str, Page]) -> None:
    recall, _, page = hostile
    table = page.table("robust", "prompt dependent", "not shown")
    for row in recall.relations.rows():
        cells = table[row["relation"]]
        counts = [int(cells[name]) for name in ("robust", "prompt dependent", "not shown")]
        assert counts == [row["robust"], row["prompt_dependent"], row["not_shown"]]
        assert sum(counts) == row["n"] == 3


def test_secondary_figures(hostile: tuple[km.Recall, str, Page]) -> None:
    recall, _, page = hostile
    judged, first = page.table("per byte", "by PMI"), page.table("lone blank", "among ten")
    flagged = page.table("recall", "first token")
    for row in recall.relations.rows():
        name = row["relation"]
        assert judged[name]["by sum"] == share(row["recall"])
        assert judged[name]["per byte"] == share(row["recall_per_byte"])
        assert judged[name]["by PMI"] == share(row["recall_pmi"])
        assert judged[name]["exact greedy"] == share(row["exact"])
        assert first[name]["most likely"] == share(row["top1"])
        assert first[name]["shared with a wrong candidate"] == share(row["collision"])
        misleads = row["collision"] > 0 or row["lone_blank"] > 0
        assert flagged[name]["first token"] == share(row["top1"]) + (" †" if misleads else "")
    assert any(row["collision"] for row in recall.relations.rows())


def test_provenance(hostile: tuple[km.Recall, str, Page]) -> None:
    recall, _, page = hostile
    about = recall.provenance
    for value in (
        about["model"]["fingerprint"], about["model"]["tokenizer_hash"], about["km_version"],
        "memorization.recall version 1", Path(about["model"]["path"]).name,
    ):  # fmt: skip
        assert value in page.codes
    assert str(Path(about["model"]["path"]).parent) not in "".join(page.text)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, model: km.Model) -> tuple[km.Recall, Path]:
    """A base without a random control and without a lens run; one template."""
    path = tmp_path_factory.mktemp("plain") / "study.db"
    facts = datasets.facts(["country_capital_city", "country_language"]).select(per_relation=4)
    with km.KnowledgeBase(path) as kb:
        recall = km.memorization(model, facts, templates=0, baselines=False, lens=False, kb=kb)
    return recall, path


def test_without_control_and_lens(plain: tuple[km.Recall, Path]) -> None:
    recall, path = plain
    with km.KnowledgeBase(path, read_only=True) as kb:
        page = parsed(render_report(kb))
    check_relations(page, recall)
    table = page.table("recall", "random initialisation")
    assert {cells["random initialisation"] for cells in table.values()} == {"–"}
    shown = "".join(page.text)
    assert "The random-initialisation baseline was not measured." in shown
    assert "no fact can be called robust" in shown


def test_survival_picture(hostile: tuple[km.Recall, str, Page]) -> None:
    recall = hostile[0]
    svg = km.draw.survival(recall).svg
    n, n_random = recall.survival["n"][0], recall.survival["n_random_init"][0]
    assert f"n = {n}; random weights n = {n_random}." in svg
    last = list(recall.survival.rows())[-1]
    assert f"after output: {share(last['not_leading'])} not yet leading" in svg
    assert km.draw.survival([{"layer": "<b>\x00", "not_leading": 0.5}]).svg.count("<b>") == 0
    for rows in ([], [{"layer": 0, "not_leading": 1.5}], [{"not_leading": 0.5}]):
        with pytest.raises(ValueError):
            km.draw.survival(rows)


def test_nothing_ranked(model: km.Model, tmp_path: Path) -> None:
    """All facts have one answer: there is no wrong candidate, and no recall."""
    facts = datasets.Relation(
        "same", "", ("{} is in",), "it",
        tuple(datasets.Fact(name, name, ("Italy",)) for name in ("Rome", "Milan")),
    )  # fmt: skip
    with km.KnowledgeBase(tmp_path / "study.db") as kb:
        recall = km.memorization(model, facts, kb=kb)
        page = parsed(render_report(kb))
    check_relations(page, recall)
    assert "so there is no recall" in "".join(page.text)


def test_write_replaces_whole_file(plain: tuple[km.Recall, Path], tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    with km.KnowledgeBase(plain[1], read_only=True) as kb:
        with pytest.raises(km.NotFoundError):
            write_report(kb, out, runs=[99])
        assert out.read_text() == "old"
        write_report(kb, out)
    assert out.read_text("utf-8").endswith("</html>\n") and list(tmp_path.iterdir()) == [out]


def test_the_command_repeats_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["measure", "memorization", "--facts", "adj_antonym", "--per-relation", "3"]
    line += ["--templates", "1", "--kb", "my study.db"]
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/km", *line])
    assert cli.main(line) == 0
    with km.KnowledgeBase("my study.db", read_only=True) as kb:
        page = parsed(render_report(kb))
    repeat, verify = (shlex.split(code) for code in page.codes[-2:])
    assert repeat == ["km", *line] and verify[:3] == ["km", "verify", "1"]
    capsys.readouterr()
    assert cli.main(repeat[1:]) == 0
    assert "recorded as run 1 in" in capsys.readouterr().out
    assert cli.main(verify[1:]) == 0
    assert "run 1 agrees" in capsys.readouterr().out


def test_baseline_table(plain: tuple[km.Recall, Path]) -> None:
    rows: list[dict[str, Any]] = list(plain[0].relations.rows())
    above = {**rows[0], "recall": 0.9, "low": 0.5, "commonest": 0.2, "subject_removed": 0.1}
    above |= {"shuffled": 0.0, "random_init": 0.1}
    level = {**above, "relation": "level", "commonest": 0.5}
    head, first, second, note = baseline_table([above, level]).splitlines()
    assert head.split()[:3] == ["relation", "n", "recall"]
    assert first.split()[:4] == ["country_capital_city", "*", "4", "0.90"]
    assert second.split()[:3] == ["level", "4", "0.90"]
    assert note.startswith("* the lower end")


def test_without_jinja2_the_demo_stops_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from km.demo import run_demo

    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match="pip install jinja2"):
        run_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
