"""Citations and Methods paragraphs: every measure, what is counted, what LaTeX would obey."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import learning_bases
import pytest

import km
from km import cli, training
from km.citations import MEASURES, MORE_WORKS, citation_cff, cited_works, known_works, spoken
from km.kb import result_key, taxonomy_text
from km.ledger.record import unit_of
from km.methods import Methods
from km.result import Result
from km.table import Table

ROOT = Path(__file__).parents[2]
TAXONOMY = json.loads(taxonomy_text())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A knowledge base with a recall of the tiny model as run 1 and a training as run 2."""
    path = tmp_path_factory.mktemp("citing") / "study.db"
    model = km.load(Path(__file__).parents[1] / "golden_data" / "tiny_llama", threads=1)
    facts = km.datasets.facts(["country_capital_city", "person_mother"]).select(per_relation=4)
    with km.KnowledgeBase(path) as kb:
        km.memorization(model, facts, templates=[0, 1], baselines=False, seed=7, kb=kb)
        rows = [{"step": step, "loss": 2.0 / step} for step in (1, 2)]
        table = Table.from_rows(training.COLUMNS, rows)
        about = {"version": 1, "model": learning_bases.model("$toy_{1}"), "parameters": {}}
        kb.record(training.Training(table, about | {"measure": training.TRAINING_ID}))
    return path


# ---- what measures rest on ----


def test_every_measure_that_works_has_a_definition() -> None:
    available = {m["id"] for m in TAXONOMY["measurements"] if m["status"] == "available"}
    assert set(MEASURES) == available
    for measure in MEASURES.values():
        assert not measure.definition.endswith(".")
        assert measure.definition[0].islower()


def test_sources_are_works_that_are_known() -> None:
    known = {work["key"] for work in (*TAXONOMY["works"], *MORE_WORKS)}
    assert len(known) == len(TAXONOMY["works"]) + len(MORE_WORKS)
    used = {key for measure in MEASURES.values() for key in measure.sources}
    assert used <= known
    assert {work["key"] for work in MORE_WORKS} <= used
    assert all(work["arxiv"] and work["authors"] for work in MORE_WORKS)


def test_works_as_sentences_name_them() -> None:
    def said(authors: str) -> str:
        return spoken({"authors": authors, "title": "A title", "year": 2020})

    assert said("Doe, J.") == "Doe, 2020"
    assert said("Doe, J.; Roe, R.") == "Doe and Roe, 2020"
    assert said("Doe, J.; Roe, R.; Poe, E.") == said("Doe, J.; and others") == "Doe et al., 2020"
    assert said("7 authors") == "“A title”, 2020"
    assert spoken({"authors": "nostalgebraist", "title": "t"}) == "nostalgebraist"


def test_works_of_ones_own_are_cited_too() -> None:
    own = {"key": "own2026", "title": "Ours", "authors": "We, A.", "year": 2026, "venue": None,
           "arxiv": None, "verified_by": "us"}  # fmt: skip
    taxonomy = TAXONOMY | {"version": TAXONOMY["version"] + 1}
    taxonomy["works"] = [*TAXONOMY["works"], own]
    with km.KnowledgeBase(":memory:") as kb:
        kb.load_taxonomy(taxonomy)
        assert [work["title"] for work in cited_works("own2026", kb)] == ["Ours"]
        assert set(known_works()) < set(known_works(kb))
    with pytest.raises(km.NotFoundError, match="near are petroni2019lama"):
        cited_works("petroni2019lamb")
    with pytest.raises(km.ArgumentError, match="which knowledge base"):
        cited_works("1")


# ---- the paragraph ----


def test_a_paragraph_says_what_was_measured(base: Path) -> None:
    with km.KnowledgeBase(base, read_only=True) as kb:
        made = kb.methods(1)
        recall = km.Recall.from_knowledge_base(kb, 1)
        key = kb.sql("SELECT key FROM runs WHERE id = 1")["key"][0]
    unit = unit_of(recall.provenance)
    assert unit is not None
    model = recall.provenance["model"]
    assert key == result_key(recall)
    for part in (
        "whole-answer recall of facts (measure memorization.recall, version 1; after Petroni et "
        "al., 2019): the share of prompts",
        f"tiny_llama (llama, {model['n_parameters']:,} parameters, precision F32, fingerprint "
        f"SHA-256 {model['fingerprint'][:16]}...)",
        "Asked were 8 facts of 2 relations with 2 prompts each, giving 16 rows (facts SHA-256 "
        f"{unit.facts[:16]}..., prompts SHA-256 {unit.prompts[:16]}...)",
        "The seed was 7. Intervals cover 95 % (",
        "max_candidates = 20",
        f"Computed with km {km.__version__} (km developers, 2026; CPU variant ",
        f"the result has the SHA-256 {key[:16]}...",
    ):
        assert part in made.text
    assert made.text == recall.methods().text
    assert [work["key"] for work in made.works] == ["petroni2019lama", "km"]
    assert str(made) == made.text
    assert repr(made) == f"{made.text}\n\n{made.bibtex}"


def test_latex_cites_keys_that_the_bibtex_has(base: Path) -> None:
    with km.KnowledgeBase(base, read_only=True) as kb:
        made = kb.methods(1)
        toy = kb.methods(2)
    keys = [key for cited in re.findall(r"\\citealp\{([^}]*)\}", made.latex)
            for key in cited.split(",")]  # fmt: skip
    assert keys == re.findall(r"^@\w+\{([^,]*),", made.bibtex, re.M) == ["petroni2019lama", "km"]
    assert r"tiny\_llama" in made.latex and r"95 \%" in made.latex
    assert r"\$toy\_{\textbraceleft}1{\textbraceright}" in toy.latex
    assert [work["key"] for work in toy.works] == ["km"]  # a measure without a source


def test_measures_of_ones_own_and_results_without_a_model() -> None:
    provenance: dict[str, Any] = {"measure": "mine", "version": 3, "parameters": {"k": 2}}
    made = Result(Table([("x", "int64")], [[1, 2]]), provenance).methods()
    assert isinstance(made, Methods)
    assert made.text.startswith(
        "We measured mine (version 3), a measure of our own. The measurement has 2 rows. "
        "Parameters: k = 2. Computed with km (km developers, 2026); the result has"
    )


def test_the_page_on_citing_runs(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    known: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, known)
    assert "0.31 [0.24, 0.39]" in capsys.readouterr().out
    with km.KnowledgeBase(base, read_only=True) as kb:
        assert "\\citealp{petroni2019lama}" in known["paragraph"](kb, 1)


def test_runs_that_are_not_there(base: Path) -> None:
    with (
        km.KnowledgeBase(base, read_only=True) as kb,
        pytest.raises(km.NotFoundError, match="no finished run 99"),
    ):
        kb.methods(99)


# ---- the command, and the file in the repository ----


def test_the_repository_has_the_citation_of_this_version() -> None:
    assert (ROOT / "CITATION.cff").read_text(encoding="utf-8") == citation_cff(km.__version__)


def test_km_cite(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*args: str) -> str:
        assert cli.main(["cite", *args]) == 0
        return capsys.readouterr().out

    assert f"note          = {{Version {km.__version__}, Apache-2.0}}" in said()
    assert said("--cff") == citation_cff(km.__version__)
    keys = re.findall(r"^@\w+\{([^,]*),", said("overshadow.decoders"), re.M)
    assert keys == [*MEASURES["overshadow.decoders"].sources, "km"]
    assert re.findall(r"^@\w+\{([^,]*),", said("hu2022lora"), re.M) == ["hu2022lora"]
    assert said("1", "--kb", str(base)) == said("memorization.recall")
    text = said("1", "--kb", str(base), "--methods")
    assert text.startswith("We measured") and "@inproceedings{petroni2019lama," in text
    assert "\\citealp{petroni2019lama}" in said("1", "--kb", str(base), "--methods", "--latex")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["nothing.here"], "no work, measure or run is called 'nothing.here'"),
        (["1"], "of which knowledge base"),
        (["--methods"], "number of a run"),
        (["memorization.recall", "--methods"], "number of a run and --kb"),
        (["memorization.recall", "--cff"], "takes no target"),
    ],
)
def test_km_cite_refuses(args: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cite", *args]) == 1
    assert why in capsys.readouterr().err
