"""km.overshadow: corpora, rates, the law and overshadowed tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import km
from km.overshadow import Cell, Pair, corpus, find, fit, rates
from km.overshadow.curves import Counts, Predicted, fit_curve, linear, linear_starts
from km.overshadow.measure import _correlation
from km.overshadow.tokens import next_logits
from km.scores import overshadow as scores

TINY = Path(__file__).parents[1] / "golden_data" / "tiny_llama"


@pytest.fixture(scope="module")
def tiny() -> km.Model:
    return km.load(TINY)


# ---- corpora ----


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 3), st.integers(0, 6), st.integers(1, 3), st.integers(1, 2),
    st.integers(0, 9),
)  # fmt: skip
def test_a_corpus_is_what_was_asked_for(
    ratio: int, n: int, s: int, d: int, answer: int, seed: int
) -> None:
    length = (s + d) / d
    made = corpus(
        ratio, length, groups=3, n=n, n_distinct=d, n_answer=answer, first_id=7, seed=seed
    )
    assert ratio == made.P
    assert pytest.approx(length) == made.L
    assert len(made) == 3 * (ratio * n + n)
    assert len({line.prompt for line in made.statements}) == len(made)
    assert all(7 <= i < 7 + 1024 for line in made.statements for i in line.ids)
    for group in made.groups:
        parts = [group.shared, *group.popular, *group.rare, group.popular_answer, group.rare_answer]
        ids = [i for part in parts for i in part]
        assert len(set(ids)) == len(ids)
        assert (len(group.popular), len(group.rare)) == (ratio * n, n)
    for line in made.statements:
        group = made.groups[line.group]
        own = group.popular if line.kind == "A" else group.rare
        at = made.position
        assert line.prompt[at : at + d] in own
        assert line.prompt[:at] + line.prompt[at + d :] == group.shared
        expected = group.popular_answer if line.kind == "A" else group.rare_answer
        assert line.answer == expected


def test_seeds_and_places() -> None:
    assert corpus(3, 4, seed=1) == corpus(3, 4, seed=1)
    assert corpus(3, 4, seed=1) != corpus(3, 4, seed=2)
    first = corpus(3, 4, groups=1, position=0).statements[0]
    assert first.prompt[0] not in corpus(3, 4, groups=1, position=0).groups[0].shared


def test_texts_have_one_word_a_token() -> None:
    made = corpus(2, 3, groups=2, vocabulary=300)
    words = made.words()
    assert len(set(words)) == 300 and {len(word) for word in words} == {4}
    for text, ids in zip(made.texts(), made.ids, strict=True):
        assert [words.index(word) for word in text.split(" ")] == ids
    pair = made.pairs(words)[0]
    assert isinstance(pair.prompt, str) and len(pair.prompt.split(" ")) == 3
    with pytest.raises(km.ArgumentError, match="300 different"):
        made.texts(["a"] * 300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"P": 2.5, "L": 4}, "P cannot be had exactly"),
        ({"P": 2, "L": 1.5}, "L cannot be had exactly"),
        ({"P": 0.5, "L": 2}, "P is 0.5"),
        ({"P": 2000, "L": 2}, "needs 2004 different tokens"),
        ({"P": 2, "L": 4, "position": 4}, "position is 4"),
        ({"P": 1, "L": 1, "vocabulary": 4, "groups": 9}, "too small for 9 groups"),
    ],
)
def test_what_a_corpus_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(km.ArgumentError, match=message):
        corpus(**arguments)


# ---- rates ----


def test_rates_are_counts_and_mean_probabilities(tiny: km.Model) -> None:
    vocabulary = int(tiny.config["vocab_size"])
    made = corpus(4, 3, groups=6, vocabulary=vocabulary - 8, first_id=8, n_answer=2, seed=3)
    result = rates(tiny, made)
    rows = [row for row in result.table.rows() if row["kind"] != "shared"]
    assert len(rows) == len(made) and len(result.table) == len(made) + 6
    for row in rows[:8]:
        prompt, popular = json.loads(row["prompt_ids"]), json.loads(row["popular_ids"])
        whole = tiny.logprobs([*prompt, *popular])
        assert row["logp_popular"] == pytest.approx(float(whole[-2:].sum()), abs=1e-4)
    b = [math.exp(row["logp_popular"]) for row in rows if row["kind"] == "B"]
    a = [math.exp(row["logp_popular"]) for row in rows if row["kind"] == "A"]
    assert result.rate("HR", "probability")["estimate"] == pytest.approx(np.mean(b))
    found = result.rate("R", "probability")
    assert found["estimate"] == pytest.approx(np.mean(b) / np.mean(a))
    assert found["low"] <= found["estimate"] and (
        found["high"] is None or found["estimate"] <= found["high"]
    )
    cell = result.cell()
    assert [4, 3, tiny.n_parameters] == [cell.P, cell.L, cell.S]
    assert (cell.n_a, cell.n_b) == (24, 6)


def test_a_model_that_learned_the_popular_answer_alone_is_overshadowed(tiny: km.Model) -> None:
    made = corpus(3, 4, groups=2, vocabulary=64, first_id=40, seed=5)
    trainable = tiny.trainable()
    trainer = km.Trainer(trainable, km.AdamW(lr=1e-2))
    lines = [list(line.ids) for line in made.statements if line.kind == "A"]
    for _ in range(30):
        trainer.step(lines)
    result = rates(trainable, made)
    assert result.rate("RR")["estimate"] == 1
    assert result.rate("HR")["estimate"] == 1
    assert result.rate("R")["estimate"] == 1
    assert result.rate("right")["estimate"] == 0
    assert result.rate("shared")["n"] == 2


def test_the_greedy_answer_is_what_generation_gives(tiny: km.Model) -> None:
    prompt = tuple(tiny.encode("The hue of joy"))
    answer = tuple(tiny.generate([list(prompt)], max_tokens=2, eos=[])[0].ids)
    other = (answer[0], answer[1] ^ 1)
    pairs = [Pair("g", "A", prompt, answer, answer), Pair("g", "B", prompt[1:], other, answer)]
    result = rates(tiny, pairs)
    row = result.table.row(0)
    assert row["greedy_popular"] and row["greedy_answer"]
    assert result.rate("RR")["method"] == "wilson"
    assert any("one group" in note for note in result.notes)


def test_no_recall_has_no_ratio(tiny: km.Model) -> None:
    made = corpus(2, 2, groups=3, vocabulary=64, first_id=40, n_answer=3)
    result = rates(tiny, made)
    found = result.rate("R")
    assert found["estimate"] is None and found["high"] is None and found["low"] == 0
    assert "not defined" in result.notes[0] and result.evidence == []


def test_rates_resume_and_come_back(tiny: km.Model, tmp_path: Path) -> None:
    made = corpus(2, 2, groups=3, vocabulary=64, first_id=40)
    with km.KnowledgeBase(tmp_path / "k.db") as kb:
        first = rates(tiny, made, kb=kb)
        chunks = len(kb.sql("SELECT key FROM chunks"))
        again = rates(tiny, made, kb=kb)
        assert again.table["logp_popular"] == first.table["logp_popular"]
        assert len(kb.sql("SELECT key FROM chunks")) == chunks == 1
        assert first.run is not None
        back = km.overshadow.Rates.from_knowledge_base(kb, first.run)
        assert list(back.summary.rows()) == list(first.summary.rows())


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "no pairs"),
        ([Pair("g", "A", "x", "y", "y")], "no prompt of kind B"),
        ([Pair("g", "A", "x", "y", "y"), Pair("g", "B", "z", "v", "w")], "two popular answers"),
    ],
)
def test_pairs_that_do_not_go_together(tiny: km.Model, pairs: list[Pair], message: str) -> None:
    with pytest.raises(km.ArgumentError, match=message):
        rates(tiny, pairs)


def test_what_a_pair_cannot_be() -> None:
    with pytest.raises(km.ArgumentError, match="of kind A, and of no other"):
        Pair("g", "B", "x", "y", "y")
    with pytest.raises(km.ArgumentError, match='it must be "A" or "B"'):
        Pair("g", "C", "x", "y", "y")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="both be str or both token ids"):
        Pair("g", "A", "x", (1,), (1,))


# ---- the ratio from counts ----


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.data())
def test_the_ratio_never_explodes(n: int, data: Any) -> None:
    m = data.draw(st.integers(1, 60))
    found = scores.rates(m, data.draw(st.integers(0, m)), n, data.draw(st.integers(0, n)))
    assert 0 <= found.low <= found.high
    if not math.isnan(found.ratio):
        assert found.low <= found.ratio <= found.high < math.inf
    else:
        assert found.high == math.inf


def test_intervals_of_the_ratio_cover() -> None:
    """95 % intervals hold the truth in 93 to 98 % of draws."""
    generator = np.random.Generator(np.random.PCG64(1))
    for q, h in ((0.9, 0.3), (0.4, 0.2), (0.6, 0.6)):
        a, b = generator.binomial(80, q, 1500), generator.binomial(40, h, 1500)
        held = [
            found.low <= h / q <= found.high
            for found in (scores.rates(80, int(i), 40, int(j)) for i, j in zip(a, b, strict=True))
        ]
        assert 0.93 <= np.mean(held) <= 0.98


def test_a_correlation_of_the_rates_narrows_the_interval() -> None:
    both = km.stats.wilson(30, 60)
    apart = scores.ratio_interval(both, both)
    together = scores.ratio_interval(both, both, correlation=0.9)
    assert together[1] - together[0] < apart[1] - apart[0]
    assert _correlation({"a": 0.0, "b": 0.5, "c": 1.0}, {"a": 0.0, "b": 0.2, "c": 0.4}) == 1


@settings(max_examples=100, deadline=None)
@given(
    st.floats(0.01, 3), st.integers(1, 40), st.integers(1, 40), st.data()
)  # fmt: skip
def test_profiled_recall_is_the_most_likely(r: float, n_a: int, n_b: int, data: Any) -> None:
    k_a, k_b = data.draw(st.integers(0, n_a)), data.draw(st.integers(0, n_b))
    counts = Counts(*(np.array([float(v)]) for v in (n_a, k_a, n_b, k_b)))
    best = counts.log_likelihood(np.array([r]))[0]
    for q in np.linspace(1e-3, min(1, 1 / r) * (1 - 1e-9), 101):
        value = sum(
            k * math.log(p) + (n - k) * math.log1p(-p)
            for k, n, p in ((k_a, n_a, q), (k_b, n_b, r * q))
        )
        assert value <= best + 1e-7


# ---- the law ----


def plant(
    law: Any,
    factor: str = "P",
    seed: int = 0,
    n_b: int = 60,
    spread: float = 0.0,
    levels: Sequence[float] = (2, 5, 10, 25, 50, 100),
) -> list[Cell]:
    """Cells whose R is law(log x), with recalls of their own and, if asked, extra spread."""
    generator = np.random.Generator(np.random.PCG64(seed))
    cells = []
    for x in levels:
        for _ in range(3):
            ratio = max(law(math.log(x)) + spread * generator.standard_normal(), 0.0)
            q = generator.uniform(0.7, 0.95)
            a, b = generator.binomial(400, q), generator.binomial(n_b, min(1.0, ratio * q))
            cells.append(
                Cell(**{"P": 4.0, "L": 4.0, "S": 1e6, factor: x}, n_a=400, n_a_correct=int(a),
                     n_b=n_b, n_b_hallucinated=int(b))
            )  # fmt: skip
    return cells


def test_a_planted_law_is_recovered() -> None:
    laws = [fit(plant(lambda u: 0.1 + 0.15 * u, seed=seed, spread=0.03), "P") for seed in range(40)]
    slopes = np.array([law.slope("P") for law in laws])
    assert slopes.mean() == pytest.approx(0.15, abs=0.008)
    rows = [law.table.row(1) for law in laws]
    held = np.mean([row["low"] <= 0.15 <= row["high"] for row in rows])
    assert held >= 0.85
    assert np.mean([law.verdict("P") == "grows" for law in laws]) >= 0.95
    fresh = [law.evaluate(plant(lambda u: 0.1 + 0.15 * u, seed=1000 + i)) for i, law in
             enumerate(laws[:10])]  # fmt: skip
    assert np.mean([found.coverage for found in fresh]) >= 0.9
    assert all(found.log_gain > 0 for found in fresh)


def test_a_flat_one_is_declared_so() -> None:
    verdicts = [fit(plant(lambda u: 0.5, seed=s, n_b=400), "L" if s % 2 else "P").verdict(
        "L" if s % 2 else "P") for s in range(0, 40, 2)]  # fmt: skip
    assert np.mean([v == "flat" for v in verdicts]) >= 0.8
    assert np.mean([v in ("grows", "falls") for v in verdicts]) <= 0.1


def test_noise_alone_is_rarely_called_a_law() -> None:
    verdicts = [fit(plant(lambda u: 0.5, seed=s, spread=0.1), "P").verdict("P") for s in range(60)]
    assert np.mean([v in ("grows", "falls") for v in verdicts]) <= 0.1


def test_curves_are_told_apart() -> None:
    doubled = [2.0**i for i in range(1, 13)]
    steep = fit(plant(lambda u: 0.05 + 0.09 * u, levels=doubled, n_b=400), "P")
    assert steep.shape == "log-linear"
    bent = fit(plant(lambda u: 0.9 / (1 + 4 / math.exp(u)), n_b=4000), "P")
    assert bent.shape == "saturating"
    level = fit(plant(lambda u: 0.5), "P")
    assert level.shape in ("constant", "undecided")
    rows = {
        row["curve"]: row for row in fit(plant(lambda u: 0.05 + 0.2 * u), "P").comparison.rows()
    }
    assert rows["constant"]["gain_low"] > 0


def test_log_scores_are_probabilities() -> None:
    for dispersion, variance in ((1.0, 0.0), (3.0, 0.0), (1.0, 0.02)):
        cells = [Cell(2, 2, 1, 50, 40, 30, k) for k in range(31)]
        found = Predicted(np.full(31, 0.6), np.full(31, variance), dispersion)
        total = np.exp(Counts.of(cells).log_score(found)).sum()
        assert total == pytest.approx(1, abs=1e-9)


def test_the_likelihood_is_at_its_maximum() -> None:
    counts = Counts.of(plant(lambda u: 0.1 + 0.15 * u))
    design = np.column_stack([np.ones(18), np.log(np.repeat([2.0, 5, 10, 25, 50, 100], 3))])
    curve = linear(design)
    fitted = fit_curve(counts, curve, linear_starts(counts, design))
    for step in (np.array([1e-4, 0]), np.array([0, 1e-4])):
        up, down = (
            counts.log_likelihood(curve(fitted.parameters + s * step)[0]).sum() for s in (1, -1)
        )
        assert up < fitted.log_likelihood > down
        assert (up - down) / 2e-4 == pytest.approx(0, abs=0.05)


def test_derivatives_of_the_likelihood() -> None:
    counts = Counts.of(plant(lambda u: 0.1 + 0.15 * u))
    ratio = np.linspace(0.2, 0.9, 18)
    up, down = counts.log_likelihood(ratio + 1e-6), counts.log_likelihood(ratio - 1e-6)
    np.testing.assert_allclose(counts.score(ratio)[0], (up - down) / 2e-6, rtol=1e-4, atol=1e-4)


def test_a_joint_law_tells_the_factors_apart() -> None:
    generator = np.random.Generator(np.random.PCG64(4))
    cells = []
    for p in (2.0, 10.0, 50.0):
        for length in (2.0, 4.0, 8.0):
            for s in (1e5, 1e6):
                ratio = 0.1 * math.log(p) + 0.1 * math.log(length) + 0.02 * math.log(s / 1e5)
                a, b = generator.binomial(2000, 0.9), generator.binomial(2000, 0.9 * ratio)
                cells.append(Cell(p, length, s, 2000, int(a), 2000, int(b)))
    law = fit(cells, "joint")
    assert law.factors == ("P", "L", "S")
    assert law.slope("P") == pytest.approx(0.1, abs=0.01)
    assert law.slope("L") == pytest.approx(0.1, abs=0.015)
    assert law.slope("S") == pytest.approx(0.02, abs=0.01)
    assert law.critical("P") is None
    assert law.predict(P=10, L=4, S=1e6).estimate == pytest.approx(0.415, abs=0.02)


def cell(p: float = 2, length: float = 4, size: float = 1e6, a: int = 9, b: int = 3) -> Cell:
    return Cell(p, length, size, 10, a, 10, b)


@pytest.mark.parametrize(
    ("cells", "factor", "message"),
    [
        ([], "P", "no cells"),
        ([cell(), cell()], "P", "P is the same in all cells"),
        ([cell(2, 4), cell(5, 8)], "P", "L varies with P"),
        ([cell(2, 4), cell(5, 8), cell(2, 4)], "joint", "P and L vary together"),
        ([cell(2), cell(5)], "joint", "fewer than two factors vary"),
        ([cell(2, a=0), cell(5, a=0)], "P", "no cell has any recall"),
        ([cell(2, b=0), cell(5, b=0)], "P", "no cell has any hallucination"),
        ([cell(2), cell(5)], "Q", "factor is 'Q'"),
    ],
)
def test_a_law_that_is_not_identified_is_refused(
    cells: list[Cell], factor: Any, message: str
) -> None:
    with pytest.raises(km.ArgumentError, match=message):
        fit(cells, factor)


def test_two_cells_have_a_slope_but_no_verdict() -> None:
    law = fit([cell(2, b=2), cell(8, b=6)], "P")
    assert law.slope("P") > 0 and law.verdict("P") == "undecided"
    assert law.table["se"] == [None, None, None, None]
    assert law.line is not None and law.line.slope_se is None


def test_predictions_stay_within_the_range_unless_asked() -> None:
    law = fit(plant(lambda u: 0.1 + 0.15 * u, n_b=400), "P")
    inside = law.predict(P=10)
    assert inside.low < 0.1 + 0.15 * math.log(10) < inside.high
    with pytest.raises(km.ArgumentError, match="fitted from 2 to 100"):
        law.predict(P=500)
    assert law.predict(P=500, extrapolate=True).estimate > inside.estimate
    with pytest.raises(km.ArgumentError, match="give P"):
        law.predict(L=4)
    with pytest.raises(km.ArgumentError, match="was in the fit"):
        law.evaluate(law.cells[:1])


def test_a_law_is_recorded(tmp_path: Path) -> None:
    law = fit(plant(lambda u: 0.1 + 0.15 * u), "P")
    with km.KnowledgeBase(tmp_path / "k.db") as kb:
        run = kb.record(law)
        assert kb.record(law) == run
        found = kb.sql("SELECT measure, status FROM runs").row(0)
        assert found == {"measure": "overshadow.law", "status": "done"}
        assert len(kb.sql("SELECT node FROM evidence WHERE node = 'knowledge-overshadowing'"))


# ---- the indicator ----


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-8, 8), min_size=2, max_size=12), st.floats(0.001, 1), st.data())
def test_what_holds_of_every_indicator(full: list[float], alpha: float, data: Any) -> None:
    masked = data.draw(st.lists(st.floats(-8, 8), min_size=len(full), max_size=len(full)))
    same = scores.indicator(full, full, alpha=alpha)
    assert (same.value, len(same.escaping)) == (0, 0)
    assert int(np.argmax(full)) in same.common
    for floor in ("vtop_min", "neg_min"):
        found = scores.indicator(full, masked, alpha=alpha, floor=floor)  # type: ignore[arg-type]
        assert found.r_pmi_sum <= 0
        assert found.value == found.r_pmi_sum + found.escape
        shifted = scores.indicator(
            np.array(full) + 3,
            masked,
            alpha=alpha,
            floor=floor,  # type: ignore[arg-type]
        )
        assert shifted.value == pytest.approx(found.value, abs=1e-9)


def test_impossible_tokens_are_never_on_top_and_nan_is_refused() -> None:
    assert scores.top_tokens([0.0, -math.inf], 1e-9).tolist() == [True, False]
    for bad in ([0.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]):
        with pytest.raises(km.ArgumentError, match="logits must be"):
            scores.indicator(bad, [0.0, 0.0])
    for alpha in (0.0, -1.0, 1.5):
        with pytest.raises(km.ArgumentError, match="alpha is"):
            scores.top_tokens([0.0], alpha)


def test_selection() -> None:
    assert scores.select_token([-1.0, -2.0, -2.0]) == 1
    assert scores.select_token([1.0, 0.0]) is None
    assert scores.select_token([1.0, 3.0, 3.0], "max") == 1
    assert scores.select_token([]) is None


# ---- tokens of prompts ----


def test_find_compares_the_prompt_with_each_token_left_out(tiny: km.Model) -> None:
    ids = tiny.encode("The hue of joy is", bos=True)
    result = find(tiny, "The hue of joy is", bos=True)
    rows = list(result.table.rows())
    assert [row["position"] for row in rows] == list(range(1, len(ids)))  # no bos
    whole = tiny.next_logprobs(ids)
    for row in rows:
        at = row["position"]
        without = tiny.next_logprobs(ids[:at] + ids[at + 1 :])
        expected = scores.indicator(whole, without)
        assert row["indicator"] == pytest.approx(expected.value, abs=1e-3)
        assert row["n_common"] == len(expected.common)
        assert row["next_id"] == int(np.argmax(whole))
        assert 0 <= row["overlap"] <= 1 + 1e-9
    best = min(rows, key=lambda row: row["indicator"])
    assert best["selected"] == (best["indicator"] < 0)
    assert sum(row["selected"] for row in rows) == int(best["selected"])


def test_directions_floors_and_replacement(tiny: km.Model) -> None:
    text = "Her coat is red"
    largest = find(tiny, text, select="max")
    values = largest.table["indicator"]
    assert largest.table["selected"].index(True) == values.index(max(values))
    other = find(tiny, text, floor="neg_min", alpha=0.3)
    assert other.parameters["floor"] == "neg_min"
    ids = tiny.encode(text)
    replaced = find(tiny, [ids], replace_by=ids[0])
    assert ids[0] not in replaced.table["id"]  # replacing a token by itself tells nothing


def test_a_prompt_of_one_token_has_no_candidate(tiny: km.Model) -> None:
    result = find(tiny, [[40], [41, 42]])
    assert result.summary["n_candidates"] == [0, 2]
    assert result.table["prompt"] == [1, 1]
    with pytest.raises(km.ArgumentError, match="prompt 0 has 0 tokens"):
        find(tiny, "", bos=False)


def test_logits_of_forests_are_those_of_single_prompts(
    tiny: km.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = [[40, 41, 42, 43], [40, 41, 43], [41], [40, 41, 42, 43]]
    whole = next_logits(tiny, sequences)
    for row, own in zip(whole, sequences, strict=True):
        expected = tiny.next_logprobs(own)
        np.testing.assert_allclose(scores.log_softmax(row), expected, atol=1e-4)
    monkeypatch.setattr("km.overshadow.tokens.MOST_NODES", 4)
    monkeypatch.setattr("km.overshadow.tokens.PASS_TOKENS", 2)
    assert np.array_equal(next_logits(tiny, sequences), whole)


def test_find_resumes_and_comes_back(tiny: km.Model, tmp_path: Path) -> None:
    with km.KnowledgeBase(tmp_path / "k.db") as kb:
        first = find(tiny, ["Sand is", "The sea turned"], kb=kb)
        swapped = find(tiny, ["The sea turned", "Sand is"], kb=kb)
        assert [r["indicator"] for r in swapped.table.rows() if r["prompt"] == 1] == [
            r["indicator"] for r in first.table.rows() if r["prompt"] == 0
        ]
        assert first.run is not None
        back = km.overshadow.Overshadowed.from_knowledge_base(kb, first.run)
        assert list(back.table.rows()) == list(first.table.rows())
        assert list(back.summary.rows()) == list(first.summary.rows())
