"""Priming scores and pruning: what must hold for any input (golden cases: tests/golden)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import km
from km.scores import priming as p

LOGS = st.floats(-60, 0)
PAIRS = st.lists(st.tuples(LOGS, LOGS), min_size=1, max_size=12)


@given(PAIRS, st.randoms(use_true_random=False), st.floats(-5, 5))
def test_scores_do_not_see_the_order_and_move_with_a_common_factor(
    pairs: list[tuple[float, float]], random: Any, shift: float
) -> None:
    before, after = (np.array(side) for side in zip(*pairs, strict=True))
    got = p.scores(before, after)
    assert got.log_s_prime == pytest.approx(
        math.log(np.mean(np.exp(after - before))), rel=1e-9, abs=1e-9
    )
    assert got.median_log_ratio == np.median(after - before)
    assert (after - before).min() - 1e-9 <= got.mean_log_ratio <= got.log_s_prime + 1e-9
    order = list(range(len(pairs)))
    random.shuffle(order)
    again = p.scores(before[order], after[order])
    assert again.log_s_prime == got.log_s_prime
    moved = p.scores(before - 60, after - 60 + shift)
    assert moved.log_s_prime == pytest.approx(got.log_s_prime + shift, abs=1e-9)
    assert got.n_unstable == int((before < math.log(p.UNSTABLE)).sum())


def test_scores_of_probability_zero() -> None:
    zero = -math.inf
    dropped = p.scores([zero, -1.0], [zero, -1.0])
    assert (dropped.n, dropped.n_dropped, dropped.log_s_prime) == (1, 1, 0.0)
    risen = p.scores([zero, -1.0], [-3.0, -1.0])
    assert risen.log_s_prime == math.inf == risen.s_prime and risen.n_unstable == 1
    assert risen.log_s_prime_stable == 0
    gone = p.scores([-3.0, -1.0], [zero, -1.0])
    assert gone.log_s_prime == pytest.approx(-math.log(2)) and gone.mean_log_ratio == -math.inf
    nothing = p.scores([zero], [zero])
    assert nothing.n == 0 and math.isnan(nothing.log_s_prime) and math.isnan(nothing.mean_delta_p)
    assert math.isnan(p.scores([-1.0], [-1.0], zero, zero).log_s_mem)
    assert p.scores([-1.0], [-1.0], zero, -1.0).log_s_mem == math.inf
    both = p.scores([zero, -1.0], [-1.0, zero])
    assert math.isnan(both.mean_log_ratio) and both.log_s_prime == math.inf


def test_scores_refuse_what_is_no_logarithm_of_a_probability() -> None:
    with pytest.raises(km.ArgumentError, match="at least one prefix"):
        p.scores([], [])
    with pytest.raises(km.ArgumentError, match=r"after\[1\] is nan"):
        p.scores([-1.0, -1.0], [-1.0, math.nan])
    with pytest.raises(km.ArgumentError, match=r"context_before\[0\] is nan"):
        p.scores([-1.0], [-1.0], math.nan, -1.0)
    with pytest.raises(km.ShapeError, match="'after' has 1"):
        p.scores([-1.0, -2.0], [-1.0])
    with pytest.raises(km.ArgumentError, match="unstable"):
        p.scores([-1.0], [-1.0], unstable=-1)


def test_predictor_edges() -> None:
    two = p.predictor([-9.0, -1.0], [2.0, 1.0])
    assert math.isnan(two.pearson) and two.mean_surprising == 2 and two.mean_unsurprising == 1
    assert math.isnan(p.predictor([-1.0], [1.0]).mean_surprising)
    with pytest.raises(km.NumericError, match="inf"):
        p.predictor([-9.0, -1.0], [math.inf, 1.0])
    with pytest.raises(km.ArgumentError, match="threshold"):
        p.predictor([-9.0], [1.0], threshold=0)


# ---- pruning ----


def pruned_by_sorting(deltas: list[Any], low: float, high: float, key: str, keep: bool) -> Any:
    """The rule as it is written: a stable sort by key, descending."""
    flat = np.concatenate([d.ravel() for d in deltas]) if deltas else np.empty(0)
    ranked = np.argsort(-(np.abs(flat) if key == "abs" else flat), kind="stable")
    first, last = (round(min(max(share, 0.0), 1.0) * flat.size) for share in (low, high))
    pruned = np.zeros(flat.size, dtype=bool)
    pruned[ranked[first:last]] = True
    return pruned ^ keep


CHANGES = st.one_of(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(max_dims=2, max_side=40),
        elements=st.floats(
            width=32, allow_nan=False, allow_infinity=False, min_value=-2, max_value=2
        ),
    ),
    hnp.arrays(
        np.float64,
        hnp.array_shapes(max_dims=2, max_side=40),
        elements=st.floats(allow_nan=False, min_value=-2, max_value=2),
    ),
    hnp.arrays(
        np.float32,
        st.integers(1, 300),
        elements=st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, math.inf, -math.inf]),
    ),
)
SHARES = st.floats(-0.2, 1.2)


@settings(max_examples=150)
@given(CHANGES, SHARES, SHARES, st.sampled_from(["abs", "signed"]), st.booleans())
def test_masks_are_those_of_a_stable_sort(
    delta: Any, a: float, b: float, key: Any, keep: bool
) -> None:
    low, high = sorted((a, b))
    mask = p.prune_mask(delta, key=key, keep=keep, slice=(low, high))
    expected = ~pruned_by_sorting([delta], low, high, key, keep)
    assert mask.shape == delta.shape and mask.dtype == bool
    np.testing.assert_array_equal(mask.ravel(), expected)
    inverse = p.prune_mask(delta, key=key, keep=not keep, slice=(low, high))
    np.testing.assert_array_equal(inverse, ~mask)


def many(seed: int, kind: str, n: int, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(seed)
    if kind == "normal":
        return rng.normal(size=n).astype(dtype)
    if kind == "steps":  # what the first steps of Adam do: few sizes, many ties
        return rng.choice([0.0, 1e-4, -1e-4, 2e-4], size=n).astype(dtype)
    rows = np.zeros(n, dtype)  # an embedding of which few rows were used
    rows[n // 2 : n // 2 + n // 50] = rng.normal(size=n // 50)
    return rows


@pytest.mark.parametrize("kind", ["normal", "steps", "rows"])
@pytest.mark.parametrize("key", ["abs", "signed"])
@pytest.mark.parametrize(("low", "high"), [(0, 0.08), (0.08, 0.23), (0.5, 1), (0, 1e-6)])
def test_large_tensors(kind: str, key: Any, low: float, high: float) -> None:
    """Beyond one piece and beyond what a sample sees, per tensor and together."""
    deltas = [many(i, kind, n) for i, n in enumerate([300_001, 70_000, 5, 131_072])]
    masks = p.prune_mask(deltas, key=key, slice=(low, high))
    for delta, mask in zip(deltas, masks, strict=True):
        np.testing.assert_array_equal(mask, ~pruned_by_sorting([delta], low, high, key, False))
    together = np.concatenate(p.prune_mask(deltas, key=key, slice=(low, high), scope="global"))
    np.testing.assert_array_equal(together, ~pruned_by_sorting(deltas, low, high, key, False))


def test_a_sample_that_misleads_changes_nothing() -> None:
    """All large changes sit where few samples fall, so that the border lies outside the window."""
    delta = np.zeros(400_000, np.float32)
    turns = (np.arange(2048, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)
    seen = (turns.astype(np.float64) / 2**53 * delta.size).astype(np.int64)
    delta[:] = np.linspace(1, 2, delta.size, dtype=np.float32)
    delta[seen] = 5.0
    for low, high in [(0, 0.3), (0, 0.001), (0.2, 0.9)]:
        mask = p.prune_mask(delta, slice=(low, high))
        np.testing.assert_array_equal(mask, ~pruned_by_sorting([delta], low, high, "abs", False))
    delta[seen] = -7.0
    mask = p.prune_mask(delta, 0.999, key="signed")
    np.testing.assert_array_equal(mask, ~pruned_by_sorting([delta], 0, 0.999, "signed", False))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pruned_weights_are_the_base_and_the_others_untouched(dtype: Any) -> None:
    rng = np.random.default_rng(3)
    base = [rng.normal(size=(300, 70)).astype(dtype), np.array([0.0, -0.0, 0.0, -0.0], dtype)]
    tuned = [base[0] + rng.normal(size=(300, 70)).astype(dtype), -base[1]]
    values = [array.copy() for array in tuned]
    counts = p.prune_in_place(values, base, 0.25)
    assert counts.tolist() == [5250, 1]
    for value, after, before in zip(values, tuned, base, strict=True):
        mask = p.prune_mask(after - before, 0.25)
        expected = np.where(mask, after, before)
        assert value.tobytes() == expected.tobytes()
    assert p.prune_in_place(values, base, 1.0).tolist() == [21000, 4]
    assert [value.tobytes() for value in values] == [array.tobytes() for array in base]
    untouched = [array.copy() for array in tuned]
    assert p.prune_in_place(untouched, base, -1.0).tolist() == [0, 0]
    assert [value.tobytes() for value in untouched] == [array.tobytes() for array in tuned]


def test_nan_is_named_and_changes_nothing() -> None:
    base = [np.zeros(10, np.float32), np.zeros(70_000, np.float32)]
    values = [np.arange(10, dtype=np.float32), np.ones(70_000, np.float32)]
    values[1][66_000] = np.nan
    before = [value.copy() for value in values]
    for k in (0.08, 0.0, 1.0):
        with pytest.raises(km.NumericError, match="second: the change of element 66000 is NaN"):
            p.prune_in_place(values, base, k, names=["first", "second"])
        assert [v.tobytes() for v in values] == [b.tobytes() for b in before]
    with pytest.raises(km.NumericError, match="tensor 0: the change of element 1"):
        p.prune_mask([1.0, math.nan])


def test_pruning_refuses_what_it_cannot_do() -> None:
    ones = np.ones(4, np.float32)
    with pytest.raises(km.ArgumentError, match=r"begins at 0\.5 and ends at 0\.2"):
        p.prune_mask(ones, slice=(0.5, 0.2))
    with pytest.raises(km.ArgumentError, match="begins"):
        p.prune_mask(ones, slice=(0.0, math.nan))
    with pytest.raises(km.ArgumentError, match="key="):
        p.prune_mask(ones, key="size")  # type: ignore[arg-type]
    with pytest.raises(km.ArgumentError, match="scope="):
        p.prune_mask(ones, scope="all")  # type: ignore[arg-type]
    with pytest.raises(km.ArgumentError, match="not numbers"):
        p.prune_mask(["a", "b"])  # type: ignore[list-item]
    with pytest.raises(km.ShapeError, match=r"base\[0\] has another size"):
        p.prune_in_place([ones], [np.ones(5, np.float32)])
    with pytest.raises(km.ShapeError, match="the same as all others"):
        p.prune_in_place([ones], [np.ones(4)])
    with pytest.raises(km.ShapeError, match="'base' has 2"):
        p.prune_in_place([ones], [ones, ones])
    frozen = ones.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        p.prune_in_place([frozen], [ones])
    assert p.prune_mask([]) == []
