"""km.studies.conflict: corpus, family, fine-tuning, figures with known truth, resuming, words."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import conflict_simulation as simulation
import pytest

import km
from km import cli, ledger
from km.conflict_plan import CLOSED, SUBSTITUTE
from km.datasets import Fact, FactSet, Relation
from km.errors import ArgumentError
from km.studies import ConflictFamily, ConflictReal, ConflictStudy, conflict_corpus
from km.studies import conflict_analysis as analysis
from km.studies.conflict_family import Cell, Shape, StoppedError, train_cell
from km.studies.conflict_real import is_trained, recall_of, tunings
from km.studies.conflict_result import find
from km.studies.conflict_rows import FAMILY, MIXED, PLAIN, RANDOM, REAL, UNSUBSTITUTED
from km.studies.conflict_synthetic import ASK, OPEN, STOP

TINY = Path(__file__).parents[1] / "golden_data" / "tiny_llama"
FAMILY_OF_TWO = ConflictFamily(
    shapes=(Shape(16, 1, 2), Shape(32, 1, 2)),
    seeds=(0, 1, 2),
    counts=(8, 64),
    facts=8,
    answers=8,
    readers=12,
    readings=300,
    held_out=20,
    lr=1e-2,
    warmup=5,
)
SHORT = ConflictReal(
    positions=("only",), max_tokens=3, paraphrases=1, steps=4, batch_size=4, training_seeds=(0,)
)


# ---- the corpus ----


def test_counts_are_what_was_asked_for() -> None:
    corpus = conflict_corpus((3, 10), facts=8, readings=40, unhelpful=0.5, seed=5)
    stated = Counter(document[-4:] for document in corpus.documents)
    bare = Counter(document for document in corpus.documents if len(document) == 4)
    for fact in corpus.facts:
        said = (*fact.question, fact.answer)
        assert stated[said] == fact.count
        assert bare[said] == fact.count - fact.count // 2
    assert sum(fact.count for fact in corpus.facts) + 40 == len(corpus.documents)
    assert Counter(fact.count for fact in corpus.facts) == {3: 8, 10: 8}


def test_no_passage_of_the_corpus_speaks_of_a_fact() -> None:
    corpus = conflict_corpus((4,), facts=8, readings=60, seed=2)
    subjects = {fact.subject for fact in corpus.facts}
    for document in corpus.documents:
        passage = document[: document.index(ASK)]
        assert not subjects & set(passage)
        assert (passage[:1] == (OPEN,)) == bool(passage)
        if passage and document[-2] not in subjects:  # a reading: the passage gives the answer
            sentence = (*document[-3:], STOP)
            places = range(1, len(passage), 4)
            assert sum(passage[i : i + 4] == sentence for i in places) == 1


def test_substitutes_are_answers_of_the_same_relation_and_count() -> None:
    corpus = conflict_corpus((4, 8), facts=12, seed=3)
    for fact in corpus.facts:
        pool = {
            other.answer
            for other in corpus.facts
            if (other.relation, other.count) == (fact.relation, fact.count)
        }
        assert fact.substitute in pool - {fact.answer}
    places = {corpus.prompt(corpus.facts[0], 77, i).index(77) for i in range(3)}
    assert places == {3, 7, 11}
    assert corpus.prompt(corpus.facts[0], 77, 1)[-3:] == corpus.facts[0].question


def test_a_corpus_depends_on_its_seed_alone() -> None:
    first, again, other = (conflict_corpus((4,), facts=8, readings=9, seed=s) for s in (1, 1, 2))
    assert first == again and first.digest() == again.digest()
    assert first.documents != other.documents
    with pytest.raises(ArgumentError, match="different numbers"):
        conflict_corpus((4, 4))
    with pytest.raises(ArgumentError, match="answers"):
        conflict_corpus((4,), facts=32, relations=2, answers=8)


# ---- one training ----


def test_rows_do_not_depend_on_threads_and_stop_when_told() -> None:
    cell = Cell(FAMILY_OF_TWO, Shape(16, 1, 2), 0)
    rows = list(train_cell(cell, threads=1).rows())
    assert rows == list(train_cell(cell, threads=2).rows())
    n_facts = 16
    counts = Counter((row["arm"], row["condition"]) for row in rows)
    for arm in (PLAIN, RANDOM):
        assert counts[arm, CLOSED] == n_facts
        assert counts[arm, SUBSTITUTE] == counts[arm, "original"] == 3 * n_facts
        assert counts[arm, "reading"] == 20
    with pytest.raises(StoppedError):
        train_cell(cell, lambda: True)


def test_a_model_of_the_family_learns_frequent_facts() -> None:
    rows = list(train_cell(Cell(FAMILY_OF_TWO, Shape(32, 1, 2), 1)).rows())
    closed = [row for row in rows if row["condition"] == CLOSED]
    known = {arm: [r["known"] for r in closed if r["arm"] == arm] for arm in (PLAIN, RANDOM)}
    assert sum(known[PLAIN]) >= 9
    assert sum(known[RANDOM]) <= 2


def test_pilot_seeds_are_refused() -> None:
    with pytest.raises(ArgumentError, match="choose the recipe"):
        ConflictFamily(seeds=(0, 900))
    with pytest.raises(ArgumentError, match="differ"):
        ConflictFamily(seeds=(1, 1))
    small, large = ConflictFamily().shapes[0], ConflictFamily().shapes[-1]
    assert small.d_model < large.d_model


# ---- figures with known truth ----


def words(seed: int, **truth: float) -> dict[str, str | None]:
    """The verdict's word of each prediction for a simulated study."""
    found = find(simulation.simulate(seed, **truth), ledger.predictions("conflict"))
    return {one.prediction.id: one.word for one in found if one.prediction is not None}


EFFECTS = (
    "conflict-popularity-familiarity",
    "conflict-count-family",
    "conflict-size-family",
    "conflict-mitigation-ratio",
    "conflict-mitigation-cost",
)


def test_without_an_effect_hardly_anything_is_consistent() -> None:
    n = 120
    said = [words(seed) for seed in range(n)]
    for name in EFFECTS:
        assert sum(one[name] == "consistent" for one in said) <= 0.05 * n, name


def test_a_planted_effect_is_found() -> None:
    n = 25
    truth = {"familiarity": 0.06, "count": 0.06, "size": 0.2, "mixed": -0.35, "cost": 0.25}
    said = [words(1000 + seed, **truth) for seed in range(n)]
    for name in EFFECTS:
        assert sum(one[name] == "consistent" for one in said) >= 0.8 * n, name
    wrong = [words(2000 + s, count=-0.06, size=-0.2, mixed=0.35) for s in range(5)]
    for name in ("conflict-count-family", "conflict-size-family", "conflict-mitigation-ratio"):
        assert sum(one[name] == "inconsistent" for one in wrong) >= 4, name


def test_without_page_views_their_prediction_is_not_testable() -> None:
    assert words(1)["conflict-popularity-views"] == "not testable here"
    rows = simulation.simulate(2, familiarity=0.06)
    for row in rows:
        if row["part"] == REAL:
            row["page_views"] = 2.718281828 ** (row["familiarity"] + 30)
    views = analysis.slope_within_relations(rows, analysis.log_views, 0.95)
    familiar = analysis.slope_within_relations(rows, analysis.familiarity, 0.95)
    assert views.estimate == pytest.approx(familiar.estimate, rel=1e-6)


def family_row(seed: int, size: float, count: int, fact: str, bucket: str) -> dict[str, Any]:
    return simulation.row(
        part=FAMILY, arm=PLAIN, seed=seed, size=size, count=count, fact=fact, relation="0",
        condition=SUBSTITUTE, position="0", bucket=bucket, known=True,
    )  # fmt: skip


def test_slopes_of_the_family_by_hand() -> None:
    rows = []
    for seed, kept in ((0, (1, 2, 4)), (1, (0, 2, 3))):
        for count, n in zip((4, 8, 16), kept, strict=True):
            for i in range(4):
                bucket = "original" if i < n else "substitute"
                rows.append(family_row(seed, 1e5, count, f"{count}/{i}", bucket))
    found = analysis.count_slope(rows, 0.95)
    slopes = [(4 - 1) / 4 / 2, (3 - 0) / 4 / 2]
    assert found.estimate == pytest.approx(sum(slopes) / 2)
    assert (found.n, found.n_items) == (2, 24)
    extra = [family_row(s, 1e6, 4, f"4/{i}", "original") for s in (0, 1) for i in range(4)]
    sizes = analysis.size_slope(rows + extra, 0.95)
    # On the facts that both sizes have: 1/4 and 0 of count 4 for the small one, all for the large.
    assert sizes.estimate == pytest.approx(((1 - 0.25) + (1 - 0)) / 2)
    assert sizes.low is not None and sizes.low < sizes.estimate
    others = [family_row(0, 1e5, 4, "x", "other")]
    assert analysis.count_slope(rows + others, 0.95).estimate == found.estimate


def test_p_of_students_t() -> None:
    # scipy.stats.t.sf(t, df) * 2
    for t, df, p in ((2.0, 3, 0.1393259686), (-3.5, 10, 0.0057265054), (0.0, 4, 1.0)):
        assert analysis.two_sided_p(t, df) == pytest.approx(p, abs=1e-7)


def test_ratios_show_all_three_shares_beside_random_weights() -> None:
    rows = simulation.simulate(3)
    table = analysis.ratio_rows(rows, 0.95)
    for row in table:
        assert row["p_original"] + row["p_substitute"] + row["p_other"] == pytest.approx(1)
        if row["ratio"] is not None:
            both = row["p_original"] + row["p_substitute"]
            assert row["ratio"] == pytest.approx(row["p_original"] / both)
    groups = {(row["part"], row["group"]) for row in table}
    assert {(REAL, "relation"), (REAL, "familiarity"), (FAMILY, "size and count")} <= groups


# ---- the study ----


def relation(name: str, answers: str) -> Relation:
    """Facts that a small model learns by heart."""
    facts = tuple(Fact(str(i), f"{name}{i}", (answer,)) for i, answer in enumerate(answers.split()))
    templates = (f"The {name} of {{}} is", f"{{}} has the {name}", f"Of {{}} the {name} is")
    return Relation(name, "factual", templates, "it", facts)


FACTS = FactSet(
    (
        relation("colour", "red blue green red blue green red blue"),
        relation("size", "big small tall big small tall big small"),
    )
)


@pytest.fixture(scope="module")
def learned() -> km.Model:
    """A tiny model that has learned the facts."""
    texts = []
    for own in FACTS:
        for fact in own.facts:
            for template in own.templates:
                prompt = template.replace("{}", fact.subject)
                texts.append(km.Example(f"{prompt} {fact.answer}.", targets=len(prompt)))
    training = km.train(
        km.load(TINY), texts, epochs=40, optimizer=km.AdamW(lr=1e-2), progress=False
    )
    return training.model


@pytest.fixture(scope="module")
def study(learned: km.Model) -> ConflictStudy:
    return km.studies.conflict(
        learned, facts=FACTS, family=FAMILY_OF_TWO, real=SHORT, progress=False
    )


def test_every_part_is_measured(study: ConflictStudy, learned: km.Model) -> None:
    arms = Counter((row["part"], row["arm"]) for row in study.rows)
    assert set(arms) == {
        ("closed book", PLAIN), (REAL, PLAIN), (REAL, RANDOM), ("mitigation", PLAIN),
        ("mitigation", UNSUBSTITUTED), ("mitigation", MIXED), (FAMILY, PLAIN), (FAMILY, RANDOM),
    }  # fmt: skip
    right, asked = analysis.known_share(study.rows)
    assert asked == 16
    assert right >= 8
    closed = next(row for row in study.rows if row["part"] == "closed book")
    expected = learned.score("This text is about", [f"{closed['relation']}{closed['fact']}"])
    assert closed["familiarity"] == expected.table["logp"][0]


def test_trained_and_asked_facts_are_different(learned: km.Model) -> None:
    examples = list(km.datasets.counterfactuals(FACTS, positions="only"))
    known = {(e.metadata["relation"], e.metadata["fact"]) for e in examples}
    plain, unsubstituted, mixed = tunings(examples, known, SHORT)
    for arm in (unsubstituted, mixed):
        keys = {(e.metadata["relation"], e.metadata["fact"]) for e in arm.trained}
        assert keys and all(is_trained(key, 0) for key in keys)
        assert not keys & {(e.metadata["relation"], e.metadata["fact"]) for e in arm.asked}
    assert plain.examples() == []
    assert len(mixed.examples()) == 2 * len(unsubstituted.examples())
    shown = {example.text for example in unsubstituted.examples()}
    assert shown < {example.text for example in mixed.examples()}
    original = unsubstituted.trained[0].original
    assert original is not None and not isinstance(original, str)
    said = f"{original.context} {original.query} {original.answers[0].text}"
    assert said in shown
    keys = {arm.key(learned, "u") for arm in (plain, unsubstituted, mixed)}
    assert len(keys) == 3
    longer = replace(mixed, design=replace(SHORT, steps=5))
    assert longer.key(learned, "u") not in keys
    assert mixed.key(learned, "other") not in keys


def test_the_page_begins_with_what_could_be_seen(study: ConflictStudy) -> None:
    assert "16 facts" in study.lines[0]
    assert study.lines[1].startswith(("Smallest effects", "Nothing could"))
    page = repr(study)
    assert all(line in page for line in study.lines)
    assert "two unrelated models" in page
    assert "random weights" in page
    assert study.conclusion.count(". ") == 1 and study.conclusion.endswith(".")
    assert [v.prediction.id for v in study.verdicts] == [
        one["prediction"] for one in study.findings.rows() if one["prediction"]
    ]
    assert [v.word for v in study.verdicts] == [
        one["word"] for one in study.findings.rows() if one["prediction"]
    ]
    assert {row["group"] for row in study.series().rows()} <= {"size and count"}


def test_a_stopped_study_goes_on(
    learned: km.Model, study: ConflictStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import km.studies.conflict_study as module

    done = 0

    def interrupted(cell: Cell, stopped: Any) -> km.Table:
        nonlocal done
        if cell.seed == 1:
            raise KeyboardInterrupt
        done += 1
        return train_cell(cell, stopped)

    options: dict[str, Any] = {"facts": FACTS, "family": FAMILY_OF_TWO, "real": SHORT}
    with km.KnowledgeBase(tmp_path / "study.db") as kb:
        monkeypatch.setattr(module, "train_cell", interrupted)
        with pytest.raises(KeyboardInterrupt):
            km.studies.conflict(learned, **options, kb=kb, progress=False)
        monkeypatch.undo()
        second = km.studies.conflict(learned, **options, kb=kb, progress=False)
        assert 0 < second.n_measured <= 6
        assert second.rows == study.rows
        third = km.studies.conflict(learned, **options, kb=kb, progress=False)
        assert third.n_measured == 0
        assert third.run == second.run
        read = ConflictStudy.from_knowledge_base(kb, second.run or 0)
        assert read.lines == second.lines
        assert read.conclusion == second.conclusion
        recorded = kb.sql("SELECT measure, status FROM runs WHERE id = ?", [second.run])
        assert recorded.row(0) == {"measure": "conflict.study", "status": "done"}
        judged = kb.sql("SELECT count(*) AS n FROM verdicts")["n"][0]
        assert judged == len(second.verdicts) == 9
        running = kb.sql("SELECT count(*) AS n FROM runs WHERE status = 'running'")
        assert running["n"][0] == 0
        other = km.studies.conflict(
            learned, **options | {"real": replace(SHORT, steps=5)}, kb=kb, progress=False
        )
        assert len(other.verdicts) == 9


def test_a_recall_of_the_model_is_found(learned: km.Model, tmp_path: Path) -> None:
    with km.KnowledgeBase(tmp_path / "study.db") as kb:
        assert recall_of(kb, learned) is None
        recall = km.memorization(learned, FACTS, baselines=False, lens=False, kb=kb, progress=False)
        found = recall_of(kb, learned)
        assert found is not None
        assert list(found.facts.rows()) == list(recall.facts.rows())
        assert recall_of(kb, km.load(TINY)) is None
        study = km.studies.conflict(
            learned, facts=FACTS, family=FAMILY_OF_TWO, real=SHORT, kb=kb, progress=False
        )
    states = {(row["relation"], row["fact"]): row["state"] for row in recall.facts.rows()}
    told = [row for row in study.rows if row["part"] == REAL]
    assert told
    for row in told:
        assert row["state"] == states[row["relation"], row["fact"]]


def test_options_are_checked(learned: km.Model) -> None:
    with pytest.raises(ArgumentError, match="immutable"):
        km.studies.conflict(learned.trainable())
    with pytest.raises(ArgumentError, match="per_relation"):
        ConflictReal(per_relation=0)


def test_help_of_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["study", "conflict"], ["conflict"]):
        with pytest.raises(SystemExit):
            cli.main([*command, "--help"])
        assert "--kb" in capsys.readouterr().out


def test_the_command_measures_facts_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = FACTS["size"]
    facts = [{"id": f.id, "subject": f.subject, "answers": list(f.answers)} for f in own.facts]
    record = {"name": own.name, "kind": own.kind, "templates": list(own.templates), "facts": facts}
    file = tmp_path / "size.json"
    file.write_text(json.dumps(record), encoding="utf-8")
    kb = str(tmp_path / "c.db")
    command = ["conflict", "--model", str(TINY), "--facts", str(file), "--kb", kb]
    assert cli.main([*command, "--by", "score", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["group"] for row in rows} >= {"all", "all, known or not"}
    assert all(row["random_other"] is not None for row in rows if row["n"])
    assert cli.main([*command, "--by", "score", "--no-baselines"]) == 0
    assert "memorization ratio" in capsys.readouterr().out
