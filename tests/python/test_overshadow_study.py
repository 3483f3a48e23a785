"""km.studies.overshadowing: the design, trainings, resuming, the frozen forecast, the verdicts."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from overshadow_simulation import constant, log_linear, simulate

import km
from km.chunk_work import ChunkWork
from km.overshadow import law, rates
from km.result import make_provenance
from km.studies import OvershadowingDesign, OvershadowingStudy, overshadow_study, overshadowing
from km.studies.overshadow_design import make_corpus, settings, trainings
from km.studies.overshadow_forecast import equal_loss, make_forecast
from km.studies.overshadow_train import StoppedError, next_rung, train

TINY = OvershadowingDesign(
    sizes=((1, 8, 1), (1, 16, 1), (1, 24, 1)),
    centre_size=0,
    popularities=(2, 5),
    centre_popularity=5,
    held_out_popularities=(3,),
    distinct=(2, 1),
    centre_distinct=2,
    held_out_distinct=(),
    prompt=4,
    lines=12,
    groups=4,
    vocabulary=256,
    tokens=1200,
    batch_size=16,
    lr=1e-2,
    evaluations=2,
)


# ---- the design ----


def test_one_factor_at_a_time_around_the_centre() -> None:
    design = OvershadowingDesign()
    found = settings(design)
    centre = found[0]
    assert centre.families == ("P", "L", "S")
    for own in found[1:]:
        changed = [
            name for name in ("P", "d", "size") if getattr(own, name) != getattr(centre, name)
        ]
        assert [name.replace("d", "L").replace("size", "S") for name in changed] == list(
            own.families
        )
    fitted = [own for own in found if not own.held_out]
    assert len({own.P for own in fitted}) == 6 and len({own.d for own in fitted}) == 6
    assert len({own.size for own in found}) == 5
    assert [own.size for own in found if own.held_out and own.families == ("S",)] == [4]


def test_cells_are_equal_in_all_but_the_factor() -> None:
    design = OvershadowingDesign()
    for own in trainings(design, 2, 0)[::5]:
        made = make_corpus(design, own)
        assert len(made) == design.groups * design.lines
        assert {len(line.ids) for line in made.statements} == {design.prompt + 1}
        assert made.P == own.setting.P
        assert design.prompt / own.setting.d == pytest.approx(made.L)


def test_no_two_trainings_share_a_seed_and_none_has_one_of_the_pilots() -> None:
    for seeds in (3, 5):
        seen = [own.seed for own in trainings(OvershadowingDesign(), seeds, 0)]
        assert len(set(seen)) == len(seen) and min(seen) >= 1 << 30
    few, many = (trainings(OvershadowingDesign(), seeds, 0) for seeds in (3, 5))
    assert {own for own in few if own.part == "fit"} <= set(many)
    assert not {own.seed for own in few if own.part != "fit"} & {own.seed for own in many}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"popularities": (5, 6)}, "P=6: 12 lines cannot be shared out 6 to 1"),
        ({"popularities": (2, 3)}, "must hold the centre, 5"),
        ({"held_out_popularities": (2,)}, "held out and fitted"),
        ({"centre_size": 2}, "centre_size is 2"),
        ({"tokens": 400_000}, "tokens is 400000"),
        ({"lr": 0.0}, "lr is 0"),
        ({"distinct": (2, 5)}, "distinct is 5"),
    ],
)
def test_what_a_design_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(km.ArgumentError, match=message):
        replace(TINY, **change)


# ---- one training ----


def test_a_training_counts_what_rates_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from km.studies import overshadow_train

    own = trainings(TINY, 2, 0)[0]
    kept = []
    ask = overshadow_train._Cell.ask

    def spy(self: Any, moment: str) -> None:
        ask(self, moment)
        if moment == "end":
            kept.append(self.model.frozen())

    monkeypatch.setattr(overshadow_train._Cell, "ask", spy)
    table = train(TINY, own)
    last = table.row(len(table) - 1)
    found = rates(kept[0], make_corpus(TINY, own))
    cell = found.cell()
    assert [last[n] for n in ("n_a", "n_a_correct", "n_b", "n_b_hallucinated")] == [
        cell.n_a, cell.n_a_correct, cell.n_b, cell.n_b_hallucinated,
    ]  # fmt: skip
    assert [last[n] for n in ("P", "L", "S")] == [cell.P, cell.L, cell.S]
    for name in ("RR", "HR"):
        expected = found.rate(name, "probability")["estimate"]
        assert last[f"{name}_probability"] == pytest.approx(expected, abs=1e-6)
    assert last["n_b_right"] / last["n_b"] == pytest.approx(found.rate("right")["estimate"])
    assert last["n_shared_popular"] / 4 == pytest.approx(found.rate("shared")["estimate"])
    assert last["tokens"] >= TINY.tokens and last["step"] == TINY.steps
    moments = table["moment"]
    assert moments[0] == "start" and moments[-1] == "end" and "along" in moments


def test_trainings_have_the_same_counts_with_any_threads() -> None:
    own = trainings(TINY, 2, 0)[1]
    assert list(train(TINY, own).rows()) == list(train(TINY, own, threads=2).rows())


def test_a_training_stops_between_steps() -> None:
    answers = iter([False, False, True])
    with pytest.raises(StoppedError):
        train(TINY, trainings(TINY, 2, 0)[0], stopped=lambda: next(answers))


def test_rungs_fall_by_the_factor() -> None:
    loss = 3.7
    for _ in range(9):
        lower = next_rung(loss, 0.8)
        assert 0.8 * loss * (1 - 1e-6) <= lower < loss
        loss = lower


def test_the_loss_that_all_reached() -> None:
    falling = [{"loss": None}, {"loss": 2.0}, {"loss": 0.7}]
    slow = [{"loss": None}, {"loss": 3.0}, {"loss": 0.85}]
    assert equal_loss([falling, slow], 0.9) == pytest.approx(0.9)
    assert equal_loss([falling, [{"loss": None}]], 0.9) is None


# ---- the study ----


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of tiny models, stopped after a few of them and then finished."""
    path = tmp_path_factory.mktemp("study") / "k.db"
    seen: list[int] = []

    def stop(done: int, total: int, info: dict[str, Any]) -> None:
        seen.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with km.KnowledgeBase(path) as kb:
        with pytest.raises(KeyboardInterrupt):
            overshadowing(design=TINY, seeds=2, kb=kb, progress=stop)
        kept = len(kb.sql("SELECT key FROM chunks"))
        assert 5 <= kept <= 7 and seen == [0, 1, 2, 3, 4, 5]
        assert kb.sql("SELECT status FROM runs")["status"] == ["cancelled"]
        told: list[Any] = []
        study = overshadowing(design=TINY, seeds=2, kb=kb, announce=told.append, workers=1)
        assert told[0].known == kept and told[0].bytes > 0 and told[0].seconds > 0
        assert study.n_measured == told[0].trainings - kept
    return path


def test_a_study_goes_on_and_comes_back(base: Path) -> None:
    with km.KnowledgeBase(base) as kb:
        again = overshadowing(design=TINY, seeds=2, kb=kb)
        assert again.n_measured == 0 and again.run is not None
        back = OvershadowingStudy.from_knowledge_base(kb, again.run)
        assert list(back.findings.rows()) == list(again.findings.rows())
        assert list(back.scores.rows()) == list(again.scores.rows())
        assert [v.word for v in again.verdicts] == again.findings["word"]
        assert again.conclusion.count(". ") == 1 and again.conclusion.endswith(".")
        assert again.series("P")["series"][0] == "P" and len(again.series("training")) > 0
        with pytest.raises(km.ArgumentError, match="no series 'Q'"):
            again.series("Q")  # type: ignore[arg-type]


def test_the_forecast_is_stored_before_what_it_is_scored_on(base: Path) -> None:
    with km.KnowledgeBase(base) as kb:
        chunks = kb.sql(
            "SELECT r.measure, c.id, m.data FROM chunks AS c JOIN runs AS r ON r.id = c.run "
            "JOIN measurements AS m ON m.chunk = c.id AND m.row = 0 ORDER BY c.id"
        )
    forecast = chunks["measure"].index("overshadow.forecast")
    parts = [json.loads(data).get("part") for data in chunks["data"]]
    assert set(parts[:forecast]) == {"fit"}
    assert set(parts[forecast + 1 :]) == {"fresh", "held out"}
    assert json.loads(chunks["data"][forecast])["frozen"] is True


def test_a_killed_study_trains_again_what_it_had_begun(tmp_path: Path) -> None:
    """SIGKILL while models train; what follows gives the tables of an undisturbed study."""
    path, script = tmp_path / "k.db", tmp_path / "study.py"
    script.write_text(_KILLED.format(design=repr(TINY), path=str(path)), encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 4:
                break
        process.kill()
    with km.KnowledgeBase(path) as kb:
        kept = len(kb.sql("SELECT key FROM chunks"))
        assert 4 <= kept < 21
        study = overshadowing(design=TINY, seeds=2, kb=kb)
        assert study.n_measured == len(study.chunks) - kept
    plain = overshadowing(design=TINY, seeds=2, workers=1)
    assert [key for key, _ in plain.chunks] == [key for key, _ in study.chunks]
    for (_, one), (_, other) in zip(plain.chunks, study.chunks, strict=True):
        assert list(one.rows()) == list(other.rows())
    assert list(plain.forecast.rows()) == list(study.forecast.rows())


_KILLED = """
import km
from km.result import make_provenance
from km.studies import OvershadowingDesign, overshadowing

with km.KnowledgeBase({path!r}) as kb:
    overshadowing(
        design={design}, seeds=2, kb=kb, progress=lambda done, *_: print(done, flush=True)
    )
"""


def test_jobs_that_end_are_kept_when_another_fails(tmp_path: Path) -> None:
    """The run ends as failed, the job that was running may finish, and no further one begins."""
    stop = threading.Event()
    table = km.Table.from_rows([("x", "int64", "", "")], [{"x": 1}])
    begun = []

    def fails() -> km.Table:
        raise ValueError("no")

    def finishes() -> km.Table:
        begun.append(1)
        assert stop.wait(60)
        return table

    jobs = [("a" * 64, finishes), ("b" * 64, fails), *((c * 64, finishes) for c in "cde")]
    with km.KnowledgeBase(tmp_path / "k.db") as kb:
        provenance = make_provenance("overshadow.study", 1, None, {})
        with pytest.raises(ValueError, match="no"):
            ChunkWork(kb, provenance).run_together(jobs, 2, lambda done: None, stop)
        assert len(kb.sql("SELECT key FROM chunks")) == len(begun) <= 2
        assert kb.sql("SELECT status FROM runs")["status"] == ["failed"]


def test_more_seeds_use_the_trainings_there_are(base: Path) -> None:
    told: list[Any] = []

    class StopError(Exception):
        pass

    def stop(estimate: Any) -> None:
        told.append(estimate)
        raise StopError

    with km.KnowledgeBase(base) as kb, pytest.raises(StopError):
        overshadowing(design=TINY, seeds=3, kb=kb, announce=stop)
    assert told[0].known == 8


def test_a_study_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overshadow_study, "estimate_bytes", lambda design: 1 << 50)
    with pytest.raises(MemoryError, match="2 workers need"):
        overshadowing(design=TINY)


# ---- verdicts on simulated counts ----


@pytest.fixture
def no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves by values left out take most of the time, and no verdict rests on them."""
    monkeypatch.setattr(law, "_compare", lambda work, confidence: [])


@pytest.mark.usefixtures("no_comparison")
def test_a_planted_law_is_found() -> None:
    words = [[f.word for f in simulate(log_linear, seed).figures[:4]] for seed in range(20)]
    for own in zip(*words, strict=True):
        assert own.count("consistent") >= 16


@pytest.mark.usefixtures("no_comparison")
def test_no_law_is_found_where_there_is_none() -> None:
    """In at most 5 % of studies is anything consistent that says that R grows or how."""
    hits = sum(
        any(f.word == "consistent" for f in simulate(constant, seed).figures[:5])
        for seed in range(40)
    )
    assert hits <= 2


def test_a_saturating_curve_is_told_from_the_law() -> None:
    """R that stops growing at P = 9: the frozen log-linear curve is no better."""

    def bent(P: float, L: float, S: float) -> float:
        return 0.9 * min(1.0, math.log(P) / math.log(9))

    study = simulate(bent, 1, spread=0.02)
    assert study.figures[4].word != "consistent"
    gains = {c: [] for c in ("log-linear", "saturating")}  # type: dict[str, list[float]]
    for row in study.scores.rows():
        if row["series"] == "P" and row["curve"] in gains:
            gains[row["curve"]].append(row["log_score"])
    assert np.mean(gains["saturating"]) > np.mean(gains["log-linear"])


def test_no_recall_is_said_and_not_judged() -> None:
    study = simulate(log_linear, 1, recall=0.0)
    assert all(f.estimate is None for f in study.figures[:4])
    assert study.laws["P"] is None and "recall" in study.refused["P"]
    assert set(study.findings["word"]) <= {"not testable here", "inconclusive"}
    assert any("not identified" in line for line in study.lines)


def test_detectable_effects_come_first_and_figures_agree_with_the_law() -> None:
    study = simulate(log_linear, 3)
    assert study.lines[1].startswith("Smallest change of R")
    row = study.findings.row(0)
    found = study.laws["P"]
    assert found is not None
    assert row["estimate"] == pytest.approx(found.slope("P") * math.log(59 / 2))
    assert row["low"] < row["estimate"] < row["high"]
    assert 0.2 < row["estimate"] < 0.6
    assert "grows with relative popularity" in study.conclusion


def test_a_forecast_predicts_what_it_was_not_fitted_to() -> None:
    study = simulate(log_linear, 2, spread=0.01)
    held = [row for row in study.scores.rows() if row["part"] == "held out"]
    assert {row["series"] for row in held} == {"P", "L", "S", "S at equal loss"}
    errors = [row["relative_error"] for row in held if row["curve"] == "log-linear"]
    flat = [row["relative_error"] for row in held if row["curve"] == "constant"]
    assert np.mean(errors) < 0.1 < np.mean(flat)
    empty = make_forecast([], OvershadowingDesign(), [1.0] * 5, True)
    assert len(empty) == 0
