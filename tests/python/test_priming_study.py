"""km.studies.priming on a few texts and a tiny model: arms, controls, resuming, words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km
from km import cli
from km.datasets import PrimingText
from km.priming_run import Learner
from km.studies.priming_arms import Design, plan_arms, same_weights
from km.studies.priming_compare import KEPT, Question, compare_arms
from km.studies.priming_words import describe_findings

TINY = Path(__file__).parents[1] / "golden_data" / "tiny_llama"
WORDS = {"mauve": "colour", "haggis": "food"}
STEMS = ("It is", "We all like", "One day she saw")
TEXTS = [
    PrimingText(f"{word}-{i}", theme, "odd", word, stem, f"{stem} {word}.")
    for word, theme in WORDS.items()
    for i, stem in enumerate(STEMS)
]
OPTIONS: dict[str, Any] = {"texts": TEXTS, "full": True, "optimizer": km.AdamW(lr=3e-3)}
ARMS = ["in_context", "learned", "ignore_topk", "keyword_control", "stepping_stone", "text_control"]


@pytest.fixture(scope="module")
def tiny() -> km.Model:
    return km.load(TINY)


@pytest.fixture(scope="module")
def study(tiny: km.Model) -> km.studies.PrimingStudy:
    return km.studies.priming(tiny, **OPTIONS)


def rows_of(study: km.studies.PrimingStudy, text: str, arm: str) -> list[dict[str, Any]]:
    rows = study.table.rows()
    return [row for row in rows if row["text"] == text and row["arm"] == arm]


# ---- what is measured ----


def test_every_text_has_every_arm(study: km.studies.PrimingStudy) -> None:
    cells = {(row["text"], row["arm"]) for row in study.texts.rows()}
    assert cells == {(text.id, arm) for text in TEXTS for arm in ARMS}
    assert len(study.texts) == len(cells)


@pytest.mark.parametrize("index", [0, 4])
def test_arms_are_those_of_one_text_alone(
    tiny: km.Model, study: km.studies.PrimingStudy, index: int
) -> None:
    """Neither the texts learned before nor the order of measuring leaves a trace."""
    text = TEXTS[index]
    alone = km.priming(
        tiny,
        text,
        optimizer=OPTIONS["optimizer"],
        mitigation=km.IgnoreTopK(),
        control_keyword=rows_of(study, text.id, "keyword_control")[0]["learned"].split()[-1][:-1],
    )
    for arm in set(ARMS) - {"stepping_stone"}:
        own = [row for row in alone.table.rows() if row["arm"] == arm]
        assert own == rows_of(study, text.id, arm), arm


def test_a_stepping_stone_is_the_best_rewrite(
    tiny: km.Model, study: km.studies.PrimingStudy
) -> None:
    for text in TEXTS:
        rows = rows_of(study, text.id, "stepping_stone")
        best = km.stepping_stones(tiny, text).best
        assert best is not None
        assert rows[0]["learned"] == best.text
        assert rows[0]["probe_text"] == best.prefix
        assert [row["kind"] for row in rows[:2]] == ["context", "plain_context"]
        assert rows[1]["probe_text"] == text.prefix
        trained = tiny.trainable()
        trainer = km.Trainer(trained, OPTIONS["optimizer"])
        for _ in range(3):
            trainer.step([best.text])
        expected = trained.score([best.prefix, text.prefix], [text.keyword]).table["logp"]
        assert [row["logp_after"] for row in rows[:2]] == expected


def test_texts_whose_keyword_is_likely_need_no_rewrite(tiny: km.Model) -> None:
    study = km.studies.priming(
        tiny, texts=TEXTS, stepping_stones=True, threshold=1e-15, controls=(), in_context=False
    )
    assert set(study.texts["arm"]) == {"learned"}


def test_each_unrelated_text_is_learned_once(tiny: km.Model) -> None:
    design = Design(True, ("keyword", "text"), km.IgnoreTopK(), False, 1e-3)
    arms = plan_arms(tiny, TEXTS, design, [None] * len(TEXTS))
    groups = same_weights(arms)
    learned = [group[0].shown for group in groups if group[0].learns]
    assert len(learned) == len(set(learned))
    assert [arm.name for group in groups for arm in group] == [arm.name for arm in arms]
    assert ["learned", "ignore_topk"] in [[arm.name for arm in group] for group in groups]


# ---- what is said ----


def test_paired_comparisons_by_hand() -> None:
    texts = [
        {"text": f"{k}{i}", "keyword": k, "arm": arm, "s": value + i + (2.0 if k == "b" else 0.0)}
        for k in "abc"
        for i in range(2)
        for arm, value in (("learned", 1.0), ("control", 0.25 if k == "a" else 0.5))
    ]
    texts.append({"text": "d0", "keyword": "d", "arm": "learned", "s": 9.0})
    (row,) = compare_arms(texts, [Question("q", "learned", "s", "control")], 0.95, 0)
    assert (row["n"], row["n_clusters"]) == (6, 3)
    assert row["difference"] == pytest.approx((2 * 0.75 + 4 * 0.5) / 6)
    expected = km.stats.clustered_bootstrap([0.75, 0.75, 0.5, 0.5, 0.5, 0.5], list("aabbcc"))
    assert (row["low"], row["high"]) == (expected.low, expected.high)
    assert row["p"] == row["p_adjusted"] == 0.25


def test_findings_begin_with_what_could_be_seen(study: km.studies.PrimingStudy) -> None:
    lines = study.findings
    assert lines == describe_findings(study)
    assert "6 texts with 2 keywords" in lines[0]
    assert lines[1].startswith("Smallest differences")
    text = "\n".join(lines)
    for words in ("This is not evidence", "threshold", "Ignore topk", "Stepping stone", "1e-10"):
        assert words in text, words
    assert text in repr(study)
    assert "<li>" in study._repr_html_()


def test_the_conclusion_is_two_sentences(study: km.studies.PrimingStudy) -> None:
    """What may be concluded with its figures, and what not; two keywords conclude nothing."""
    may, may_not = study.conclusion.split(". ")
    assert may.count("too few keywords") == 3 and "n = 2 keywords" in may
    assert study.provenance["model"]["name"] in may
    assert may_not.startswith("Nothing follows for other models") and "denominator" in may_not
    assert study.conclusion in repr(study)
    assert "Nothing follows for other models" in study._repr_html_()


def test_memorisation_is_kept_only_where_the_interval_says_so(
    study: km.studies.PrimingStudy,
) -> None:
    rows = [r for r in study.comparisons.rows() if r["question"].endswith(": memorisation")]
    assert len(rows) == 2
    for row in rows:
        name = row["question"].split(":")[0].capitalize()
        (line,) = [line for line in study.findings if f"{name} " in line and " It " in line]
        assert ("It keeps memorisation" in line) == (row["low"] > -KEPT)


def test_a_model_that_learns_nothing_shows_nothing(tiny: km.Model) -> None:
    """A learning rate of 0: every figure is exactly 0, and nothing may be found."""
    study = km.studies.priming(tiny, texts=TEXTS, optimizer=km.AdamW(lr=0.0), in_context=False)
    assert set(study.table["log_ratio"]) == {0.0}
    assert "consistent" not in study.analysis.verdicts.values()
    assert not [line for line in study.findings if line.startswith("Consistent")]


def test_the_frozen_predictions_get_their_verdicts(study: km.studies.PrimingStudy) -> None:
    """Two keywords are too few for any of them, and both places say so."""
    with km.KnowledgeBase(":memory:") as kb:
        run = kb.record(study)
        rows = kb.ask("verdicts", node="priming-spread")
    assert set(rows["prediction"]) == {p.id for p in km.ledger.predictions("priming")}
    assert set(rows["word"]) == {"not testable here"}
    assert set(rows["n"]) == {2} and set(rows["run"]) == {run}
    own = {row["statement"]: row["prediction"] for row in rows.rows()}
    for statement, name in own.items():
        assert any(
            line.startswith(f"Not testable here, {name}: {statement}") for line in study.findings
        )


# ---- resuming ----


class Stop(Exception):
    pass


def test_a_stopped_study_goes_on_and_ends_the_same(
    tiny: km.Model,
    study: km.studies.PrimingStudy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = Learner._train
    count = 0

    def stopping(self: Learner, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        train(self, *arguments)

    with km.KnowledgeBase(tmp_path / "kb.db") as kb:
        monkeypatch.setattr(Learner, "_train", stopping)
        with pytest.raises(KeyboardInterrupt):
            km.studies.priming(tiny, kb=kb, **OPTIONS)
        monkeypatch.setattr(Learner, "_train", train)
        stored = kb.sql("SELECT count(*) AS n FROM chunks")["n"][0]
        seen: list[str] = []
        found = km.studies.priming(
            tiny, kb=kb, progress=lambda d, t, info: seen.append(info["description"]), **OPTIONS
        )
        assert 0 < found.n_measured < study.n_measured
        assert stored + found.n_measured == study.n_measured
        assert any("arms known" in words for words in seen)
        assert found.table["logp_after"] == study.table["logp_after"]
        assert found.findings == study.findings

        def refuse(*_: object) -> None:
            raise AssertionError("a second run measures nothing")

        monkeypatch.setattr(Learner, "_ready", refuse)
        again = km.studies.priming(tiny, kb=kb, **OPTIONS)
        assert (again.n_measured, again.run) == (0, found.run)
        assert found.run is not None
        kept = km.studies.PrimingStudy.from_knowledge_base(kb, found.run)
        assert repr(kept) == repr(study)
        evidence = kb.sql("SELECT DISTINCT node FROM evidence")["node"]
        assert evidence == ["priming-spread"]
        statuses = kb.sql("SELECT status FROM runs WHERE measure = 'learning.priming_study'")
        assert sorted(statuses["status"]) == ["cancelled", "done"]


def test_arms_of_a_smaller_study_serve_a_full_one(tiny: km.Model, tmp_path: Path) -> None:
    optimizer = OPTIONS["optimizer"]
    with km.KnowledgeBase(tmp_path / "kb.db") as kb:
        first = km.studies.priming(tiny, texts=TEXTS, optimizer=optimizer, kb=kb)
        full = km.studies.priming(tiny, kb=kb, **OPTIONS)
        assert first.n_measured == 4 * len(TEXTS)
        assert full.n_measured == 3 * len(TEXTS)  # rewrites, and both mitigations


# ---- arguments and the command ----


def test_bad_arguments(tiny: km.Model) -> None:
    with pytest.raises(km.ArgumentError, match="immutable model"):
        km.studies.priming(tiny.trainable(), texts=TEXTS)
    with pytest.raises(km.ArgumentError, match="no texts"):
        km.studies.priming(tiny, texts=[])
    with pytest.raises(km.ArgumentError, match="two texts have the id 'mauve-0'"):
        km.studies.priming(tiny, texts=[*TEXTS, TEXTS[0]])
    with pytest.raises(km.ArgumentError, match="no 'other'"):
        km.studies.priming(tiny, texts=TEXTS, controls=["other"])
    alien = PrimingText("x", "metal", "odd", "tin", "It is", "It is tin.")
    with pytest.raises(km.ArgumentError, match="km has no probes for the keyword 'tin'"):
        km.studies.priming(tiny, texts=[alien])


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(km.datasets, "priming_texts", lambda *_, **__: TEXTS)
    command = ["study", "priming", "--model", str(TINY), "--kb", str(tmp_path / "kb.db")]
    assert cli.main([*command, "--keywords", "mauve,haggis", "--lr", "0.001"]) == 0
    out = capsys.readouterr().out
    assert "6 texts with 2 keywords" in out
    assert "24 arms, 24 measured now" in out
    assert cli.main([*command, "--keywords", "mauve,haggis", "--lr", "0.001", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["question"] == "memorisation"
    assert np.isfinite(rows[0]["difference"])
