"""The demonstration: what it writes, that it measures nothing twice, and that its advice works."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import pytest

import km
from km import cli
from km.demo import PER_RELATION, RELATIONS, run_demo

FILES = {"study.db", "taxonomy.svg", "recall.svg", "lens.svg", "report.html"}
FEW = ("country_capital_city", "country_language", "person_occupation", "verb_past_tense")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, model: km.Model) -> tuple[Path, km.Recall]:
    """The demonstration with a fifth of its relations and half of their facts."""
    folder = tmp_path_factory.mktemp("the demo") / "out"
    return folder, run_demo(folder, relations=FEW, per_relation=8)


def counts(folder: Path) -> dict[str, str]:
    with km.KnowledgeBase(folder / "study.db", read_only=True) as kb:
        return {name: kb.info()[name] for name in ("runs", "chunks", "measurements", "evidence")}


def test_size() -> None:
    """At least 300 facts of at least 15 relations are shipped for it, up to 20 candidates each."""
    facts = km.datasets.facts(RELATIONS).select(per_relation=PER_RELATION)
    assert len(facts) >= 300 and len(facts.relations) >= 15


def test_files(demo: tuple[Path, km.Recall]) -> None:
    folder, recall = demo
    assert {path.name for path in folder.iterdir()} == FILES
    assert len(recall.facts) == 32
    for name in ("taxonomy.svg", "recall.svg", "lens.svg"):
        assert b"</svg>" in (folder / name).read_bytes()
    assert "SmolLM2-135M-Instruct" in (folder / "taxonomy.svg").read_text("utf-8")
    page = (folder / "report.html").read_text("utf-8")
    assert all(name in page for name in FEW)


def test_facts_are_followed(demo: tuple[Path, km.Recall]) -> None:
    folder, recall = demo
    asked = set(recall.table["prompt"])
    with km.KnowledgeBase(folder / "study.db", read_only=True) as kb:
        rows = kb.sql("SELECT parameters ->> 'prompt' AS prompt FROM runs WHERE measure = ?"
                        " ORDER BY id", ["memorization.lens"])  # fmt: skip
    assert len(set(rows["prompt"])) == 3 and set(rows["prompt"]) <= asked
    widest = max(
        (row for row in recall.table.rows() if not row["first_token_collision"]),
        key=lambda row: row["margin"],
    )
    assert rows["prompt"][-1] == widest["prompt"]


def test_again_measures_nothing(
    demo: tuple[Path, km.Recall], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, first = demo
    before = counts(folder)
    begin = time.process_time()
    second = run_demo(folder, relations=FEW, per_relation=8)
    assert time.process_time() - begin < 10
    assert counts(folder) == before
    assert second.run == first.run
    assert list(second.table.rows()) == list(first.table.rows())
    assert "km: asking 32 facts of 4 relations" in capsys.readouterr().out


def test_next_commands_work(
    demo: tuple[Path, km.Recall],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = demo
    run_demo(folder, relations=FEW, per_relation=8)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-4].startswith("Done in ") and printed[-4].endswith("Next:")
    for line in printed[-3:]:
        words = shlex.split(line)
        assert words[0] == "km"
        assert cli.main(words[1:]) == 0, line
        assert capsys.readouterr().out
    assert (folder / "tokyo.svg").exists()


def test_pictures_are_of_its_own_run(demo: tuple[Path, km.Recall]) -> None:
    """Another, newer run in the same base does not enter the pictures."""
    folder, recall = demo
    before = (folder / "taxonomy.svg").read_bytes()
    model = km.load("smollm2")
    with km.KnowledgeBase(folder / "study.db") as kb:
        km.memorization(
            model, km.datasets.facts("adj_antonym").select(per_relation=2), templates=0, kb=kb
        )
    run_demo(folder, relations=FEW, per_relation=8)
    assert (folder / "taxonomy.svg").read_bytes() == before
    assert re.search(rf"n\s=\s{len(recall.facts)}\b", before.decode())


def test_table_at_the_end(demo: tuple[Path, km.Recall], capsys: pytest.CaptureFixture[str]) -> None:
    folder, recall = demo
    run_demo(folder, relations=FEW, per_relation=8)
    lines = capsys.readouterr().out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("relation "))
    names = [line.split()[0] for line in lines[head + 1 : head + 5]]
    assert names == [row["relation"] for row in recall.relations.rows()]
