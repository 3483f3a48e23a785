"""Figures of a conflict study from its rows: slopes, paired differences, shares. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from km import stats
from km.conflict_plan import CLOSED, ORIGINAL, PARAPHRASE, SUBSTITUTE
from km.errors import ArgumentError
from km.regression import t_quantile, within_slope
from km.scores.conflict import ratio_of_buckets
from km.stats import Interval
from km.studies.conflict_rows import (
    CLOSED_BOOK,
    FAMILY,
    MITIGATION,
    MIXED,
    PLAIN,
    RANDOM,
    REAL,
    UNSUBSTITUTED,
    Row,
)
from km.table import Column

# Standard errors between an effect that four in five studies see and none: 1.96 + 0.84.
POWER_ERRORS = 2.801585
MIN_CLUSTERS = 2

RATIO_COLUMNS = [
    Column("part", "text", "", "real model, mitigation or family."),
    Column("arm", "text", "", "plain, or what the model was fine-tuned on."),
    Column("group", "text", "", "What the rows have in common."),
    Column("value", "text", "", "Its value."),
    Column("n", "int64", "answers", "Answers to changed passages about known facts."),
    Column("p_original", "double", "share", "Answered as remembered."),
    Column("p_substitute", "double", "share", "Answered as the changed passage says."),
    Column("p_other", "double", "share", "Answered neither."),
    Column("ratio", "double", "share", "Memorization ratio; null when all is other."),
    Column("low", "double", "share", "Interval of the ratio."),
    Column("high", "double", "share", "Interval of the ratio."),
    Column("n_clusters", "int64", "clusters", "Relations, facts or seeds resampled as a whole."),
    Column("random_original", "double", "share", "p_original of random weights, same prompts."),
    Column("random_substitute", "double", "share", "p_substitute of random weights."),
    Column("random_other", "double", "share", "p_other of random weights."),
]


@dataclass(frozen=True)
class Figure:
    """An estimate with what a verdict needs.

    Attributes
    ----------
    estimate, low, high : float or None
        None where there is no such figure.
    n : int
        Clusters: relations or seeds.
    p : float or None
        Two-sided, not adjusted.
    detectable : float or None
        Smallest difference from nothing that four in five studies like this one see.
    n_items : int
    beside : str
        What has to be read with it, such as the share of other answers.
    """

    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    p: float | None = None
    detectable: float | None = None
    n_items: int = 0
    beside: str = ""


def changed(rows: Iterable[Row], part: str, arm: str = PLAIN) -> list[Row]:
    """Answers to changed passages about facts that were known without one."""
    return [
        row
        for row in rows
        if row["part"] == part
        and row["arm"] == arm
        and row["condition"] == SUBSTITUTE
        and row["known"]
    ]


def decided(rows: Iterable[Row]) -> list[Row]:
    """Those that give the original or the substitute."""
    return [row for row in rows if row["bucket"] != "other"]


# ---- slopes ----


def slope_within_relations(
    rows: Sequence[Row], value: Callable[[Row], float | None], level: float
) -> Figure:
    """Slope of keeping the original on a value of the fact, among facts of the same relation."""
    mine = decided(changed(rows, REAL))
    pairs = [(x, row) for row in mine if (x := value(row)) is not None and math.isfinite(x)]
    if not pairs:
        return Figure()
    found = within_slope(
        [x for x, _ in pairs],
        [float(row["bucket"] == "original") for _, row in pairs],
        [row["relation"] for _, row in pairs],
    )
    if not math.isfinite(found.se):
        return Figure(n=found.n_clusters, n_items=found.n)
    low, high = found.interval(level)
    p = two_sided_p(found.estimate / found.se, found.df) if found.se > 0 else None
    return Figure(
        found.estimate, low, high, found.n_clusters, p, found.detectable(1 - level), found.n
    )


def familiarity(row: Row) -> float | None:
    """Log-probability that the model names the subject at all."""
    return None if row["familiarity"] is None else float(row["familiarity"])


def log_views(row: Row) -> float | None:
    """Logarithm of the page views of the fact."""
    views = row["page_views"]
    return math.log(views) if views else None


def paraphrase_mastery(rows: Sequence[Row]) -> Callable[[Row], float | None]:
    """Of a row's fact, the share of other wordings of its question that are answered rightly."""
    found: dict[tuple[str, str], list[bool]] = {}
    for row in rows:
        if row["part"] == REAL and row["arm"] == PLAIN and row["condition"] == PARAPHRASE:
            found.setdefault(_fact(row), []).append(row["bucket"] == "original")

    def mastery(row: Row) -> float | None:
        own = found.get(_fact(row))
        return sum(own) / len(own) if own else None

    return mastery


def count_slope(rows: Sequence[Row], level: float) -> Figure:
    """Rise of the share that keeps the original with each doubling of a fact's count.

    Least squares within each model of the family; the slopes of the models of a seed, which share
    their corpus, are one observation.
    """
    mine = decided(changed(rows, FAMILY))
    values, n_items = [], 0
    for own in _by(mine, "seed").values():
        cells = list(_by(own, "size").values())
        found = _pooled(
            [([math.log2(r["count"]) for r in c], [_kept(r) for r in c]) for c in cells]
        )
        if found is not None:
            values.append(found)
            n_items += len(own)
    return _mean(values, level, n_items, _others(changed(rows, FAMILY)))


def size_slope(rows: Sequence[Row], level: float) -> Figure:
    """Rise of the memorization ratio with each tenfold of parameters, among models of a seed.

    Facts count that all sizes of the seed know, so that sizes are compared on the same facts.
    """
    mine = changed(rows, FAMILY)
    values, n_items, kept = [], 0, []
    for own in _by(mine, "seed").values():
        sizes = _by(own, "size")
        facts = [{row["fact"] for row in part} for part in sizes.values()]
        shared = set.intersection(*facts)
        points = []
        for size, part in sizes.items():
            counted = [row for row in part if row["fact"] in shared]
            kept += counted
            ruled = decided(counted)
            if ruled:
                points.append((math.log10(size), sum(map(_kept, ruled)) / len(ruled)))
                n_items += len(ruled)
        found = _pooled([([x for x, _ in points], [y for _, y in points])])
        if found is not None:
            values.append(found)
    return _mean(values, level, n_items, _others(kept))


def _pooled(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float | None:
    """Least-squares slope with an intercept for each group; None where x does not vary."""
    sxx = sxy = 0.0
    for x, y in groups:
        if not x:
            continue
        mx, my = sum(x) / len(x), sum(y) / len(y)
        sxx += sum((a - mx) ** 2 for a in x)
        sxy += sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return sxy / sxx if sxx > 1e-12 else None


# ---- differences and shares ----


def kept_memory(rows: Sequence[Row], level: float, seed: int = 0) -> Figure:
    """The memorization ratio of the real model."""
    mine = changed(rows, REAL)
    ruled = decided(mine)
    values = [_kept(row) for row in ruled]
    return _clustered(values, ruled, level, seed, True, _others(mine))


def passage_sways(rows: Sequence[Row], level: float, seed: int = 0) -> Figure:
    """Original answers with the original passage less those with the changed one, paired."""
    right = {
        (*_fact(row), row["position"]): _kept(row)
        for row in rows
        if row["part"] == REAL and row["arm"] == PLAIN and row["condition"] == ORIGINAL
    }
    pairs = [
        (right[key], _kept(row), row)
        for row in changed(rows, REAL)
        if (key := (*_fact(row), row["position"])) in right
    ]
    return _paired(pairs, level, seed, _others(changed(rows, REAL)))


def mitigated_ratio(rows: Sequence[Row], level: float, seed: int = 0) -> Figure:
    """Memorization ratio after mixed fine-tuning less after unsubstituted, on the same facts.

    A fact counts where some seed of both arms gives the original or the substitute.
    """
    arms = [changed(rows, MITIGATION, arm) for arm in (MIXED, UNSUBSTITUTED)]
    beside = "; ".join(
        f"{arm}: {_others(part)}" for arm, part in zip((MIXED, UNSUBSTITUTED), arms, strict=True)
    )
    return _paired(_matched(*map(decided, arms)), level, seed, beside)


def against_before(rows: Sequence[Row], arm: str, level: float, seed: int = 0) -> Figure:
    """Memorization ratio after a fine-tuning less before it, on the same facts."""
    after, before = changed(rows, MITIGATION, arm), changed(rows, MITIGATION)
    return _paired(_matched(decided(after), decided(before)), level, seed, _others(after))


def untouched_accuracy(
    rows: Sequence[Row], arm: str, against: str, level: float, seed: int = 0
) -> Figure:
    """Questions without a passage of facts not trained on: right in `arm` less in `against`."""
    sides = [
        [
            row
            for row in rows
            if row["part"] == MITIGATION and row["arm"] == name and row["condition"] == CLOSED
        ]
        for name in (arm, against)
    ]
    beside = ""
    if all(sides):
        beside = " against ".join(f"{sum(map(_kept, s)) / len(s):.3f}" for s in sides)
    return _paired(_matched(*sides), level, seed, beside)


def _matched(ours: Iterable[Row], theirs: Iterable[Row]) -> list[tuple[float, float, Row]]:
    """Means over seeds of facts, by position, that are in both."""
    sides = [_by_fact(part) for part in (ours, theirs)]
    return [
        (_average(own), _average(sides[1][key]), own[0])
        for key, own in sides[0].items()
        if key in sides[1]
    ]


def _by_fact(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    out: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        out.setdefault((*_fact(row), row["position"]), []).append(row)
    return out


def _average(rows: Sequence[Row]) -> float:
    return sum(map(_kept, rows)) / len(rows)


def _paired(
    pairs: Sequence[tuple[float, float, Row]], level: float, seed: int, beside: str
) -> Figure:
    relations = [str(row["relation"]) for _, _, row in pairs]
    if len(set(relations)) < MIN_CLUSTERS:
        return Figure(n=len(set(relations)), n_items=len(pairs), beside=beside)
    ours, theirs = [a for a, _, _ in pairs], [b for _, b, _ in pairs]
    spread = stats.paired_bootstrap(
        ours, theirs, relations, confidence=level, seed=seed, proportion=True
    )
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    p = stats.permutation_test(differences, relations, seed=seed).p
    return _figure(spread, p, len(pairs), beside)


def _clustered(
    values: Sequence[float], rows: Sequence[Row], level: float, seed: int, share: bool, beside: str
) -> Figure:
    relations = [str(row["relation"]) for row in rows]
    if len(set(relations)) < MIN_CLUSTERS:
        return Figure(n=len(set(relations)), n_items=len(values), beside=beside)
    spread = stats.clustered_bootstrap(
        values, relations, confidence=level, seed=seed, proportion=share
    )
    return _figure(spread, None, len(values), beside)


def _mean(values: Sequence[float], level: float, n_items: int, beside: str) -> Figure:
    """Mean of one value a seed with Student's t interval."""
    if len(values) < MIN_CLUSTERS:
        return Figure(n=len(values), n_items=n_items, beside=beside)
    n, mean = len(values), sum(values) / len(values)
    se = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    if se <= 1e-12:  # equal by chance, as where all answers are the same: nothing tells the spread
        return Figure(mean, n=n, n_items=n_items, beside=beside)
    errors = t_quantile((1 + level) / 2, n - 1)
    p = two_sided_p(mean / se, n - 1)
    seen = (errors + t_quantile(0.8, n - 1)) * se
    return Figure(mean, mean - errors * se, mean + errors * se, n, p, seen, n_items, beside)


def _figure(spread: Interval, p: float | None, n_items: int, beside: str) -> Figure:
    half = (spread.high - spread.low) / 2
    se = spread.se if spread.se is not None else half / 1.959964
    return Figure(
        spread.estimate, spread.low, spread.high, spread.n_clusters, p, POWER_ERRORS * se, n_items,
        beside,
    )  # fmt: skip


def two_sided_p(t: float, df: float) -> float:
    """Two-sided p of Student's t, by bisection of its quantiles.

    Examples
    --------
    >>> round(two_sided_p(t_quantile(0.975, 5), 5), 6)
    0.05
    """
    size, low, high = abs(t), 0.5, 1.0 - 1e-15
    if t_quantile(high, df) <= size:
        return 2 * (1 - high)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_quantile(middle, df) < size else (low, middle)
    return 2 * (1 - (low + high) / 2)


def _kept(row: Row) -> float:
    return float(row["bucket"] == "original")


def _fact(row: Row) -> tuple[str, str]:
    return str(row["relation"]), str(row["fact"])


def _by(rows: Iterable[Row], name: str) -> dict[Any, list[Row]]:
    out: dict[Any, list[Row]] = {}
    for row in rows:
        out.setdefault(row[name], []).append(row)
    return dict(sorted(out.items()))


def _others(rows: Sequence[Row]) -> str:
    """Original, substitute and other, which stand beside every ratio."""
    if not rows:
        return "nothing counts"
    shares = [
        sum(row["bucket"] == name for row in rows) / len(rows)
        for name in ("original", "substitute", "other")
    ]
    return "original {:.3f}, substitute {:.3f}, other {:.3f}".format(*shares)


# ---- the table of ratios ----


def ratio_rows(rows: Sequence[Row], level: float, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of RATIO_COLUMNS: original, substitute and other of every group, with its ratio."""
    out = []
    for part, arms in ((REAL, (PLAIN,)), (MITIGATION, (PLAIN, UNSUBSTITUTED, MIXED))):
        for arm in arms:
            mine = changed(rows, part, arm)
            random = changed(rows, part, RANDOM)
            for group, value, own, beside in _groups(mine, random, part == REAL):
                cluster = "fact" if group == "relation" else "relation"
                out.append(_ratio(part, arm, group, value, own, beside, cluster, level, seed))
    out += _family_ratios(rows, level, seed)
    return out


def _groups(
    rows: Sequence[Row], random: Sequence[Row], parted: bool
) -> Iterator[tuple[str, str, list[Row], list[Row]]]:
    """(group, value, rows, rows of random weights) of all, and of each way to part them."""
    if not rows:
        return
    yield "all", "all", list(rows), list(random)
    thirds = _thirds(rows)
    ways: dict[str, Callable[[Row], Any]] = {
        "relation": lambda row: row["relation"],
        "position": lambda row: row["position"],
        "recall": lambda row: row["state"],
        "substitute": lambda row: {True: "matched", False: "not matched"}.get(row["matched"]),
        "familiarity": lambda row: thirds.get(_fact(row)),
    }
    for group, find in ways.items() if parted else ():
        values = sorted({find(row) for row in rows} - {None})
        if len(values) > 1:
            for value in values:
                own = [row for row in rows if find(row) == value]
                beside = [row for row in random if find(row) == value]
                yield group, str(value), own, beside


def _thirds(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Third of the facts by familiarity within their relation."""
    names = ("1 least familiar", "2 middle", "3 most familiar")
    out = {}
    for own in _by(rows, "relation").values():
        known = {_fact(row): row["familiarity"] for row in own if row["familiarity"] is not None}
        order = sorted(known, key=lambda key: (known[key], key))
        for place, key in enumerate(order):
            if len(order) >= len(names):
                out[key] = names[len(names) * place // len(order)]
    return out


def _family_ratios(rows: Sequence[Row], level: float, seed: int) -> list[dict[str, Any]]:
    mine, random = changed(rows, FAMILY), _untrained(rows)
    out = []
    for size, own in _by(mine, "size").items():
        beside = [row for row in random if row["size"] == size]
        name = f"{size:,.0f} parameters"
        out.append(_ratio(FAMILY, PLAIN, "size", name, own, beside, "seed", level, seed))
        for count, part in _by(own, "count").items():
            less = [row for row in beside if row["count"] == count]
            value = f"{name}, count {count}"
            found = _ratio(FAMILY, PLAIN, "size and count", value, part, less, "seed", level, seed)
            out.append(found)
    return out


def _untrained(rows: Iterable[Row]) -> list[Row]:
    """Random weights of the family, which know nothing: all their answers count."""
    return [
        row
        for row in rows
        if row["part"] == FAMILY and row["arm"] == RANDOM and row["condition"] == SUBSTITUTE
    ]


def _ratio(
    part: str,
    arm: str,
    group: str,
    value: str,
    rows: Sequence[Row],
    random: Sequence[Row],
    cluster: str,
    level: float,
    seed: int,
) -> dict[str, Any]:
    buckets = [row["bucket"] for row in rows]
    clusters = [str(row[cluster]) for row in rows]
    try:
        found = ratio_of_buckets(buckets, clusters=clusters, confidence=level, seed=seed)
    except ArgumentError as error:
        raise ArgumentError(f"{part}, {group} {value}: {error}") from None
    beside = {
        f"random_{name}": sum(row["bucket"] == name for row in random) / len(random)
        if random
        else None
        for name in ("original", "substitute", "other")
    }
    shown = ("p_original", "p_substitute", "p_other", "ratio", "low", "high")
    figures = {name: getattr(found, name) for name in shown}
    return {
        "part": part, "arm": arm, "group": group, "value": value, "n": found.n,
        "n_clusters": found.n_clusters,
        **{k: None if math.isnan(v) else v for k, v in figures.items()}, **beside,
    }  # fmt: skip


def known_share(rows: Iterable[Row]) -> tuple[int, int]:
    """Facts answered rightly without a passage by the real model, and facts asked."""
    asked = [row for row in rows if row["part"] == CLOSED_BOOK]
    return sum(bool(row["known"]) for row in asked), len(asked)
