"""Compare two models on the same facts, and plan how many facts a comparison needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from km import _km, stats
from km.display import escape
from km.errors import ArgumentError
from km.result import Result, make_provenance
from km.table import Column, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Comparison", "Power", "compare", "power"]

#: Columns taken as the outcome when none is named, the first that both sides have.
OUTCOMES = ("recall", "recalled", "correct", "exact", "top1", "state")
#: Columns that identify a fact within its relation, the first that both sides have.
KEYS = ("fact", "fact_id", "id", "subject")

_COLUMNS = (
    Column("quantity", "text"),
    Column("value", "double"),
    Column("low", "double"),
    Column("high", "double"),
    Column("n", "int64", "items"),
    Column("note", "text"),
)


class Comparison(Result):
    """The difference between two results, what it could have shown, and a test of it.

    Attributes
    ----------
    detectable : float or None
        Smallest true difference that this many items in these clusters show with the stated
        power; None where the items show no spread at all.
    difference : stats.Interval
        Mean of a minus mean of b.
    test : stats.Test
        Of no difference: signs of whole relations flipped (paired), or relations' means exchanged.
    mcnemar : stats.Test or None
        For paired outcomes of 0 and 1; treats items as independent.
    a, b : stats.Interval
        Means of the two sides over the same items.
    left_out : dict of str to int
        Items not compared: "only in a", "only in b", "null".
    table, provenance
        As in `Result`.
    """

    def __init__(
        self,
        *,
        names: tuple[str, str],
        outcome: str,
        detectable: float | None,
        difference: stats.Interval,
        test: stats.Test,
        mcnemar: stats.Test | None,
        sides: tuple[stats.Interval, stats.Interval],
        left_out: Mapping[str, int],
        provenance: Mapping[str, Any],
    ) -> None:
        self.names = names
        self.outcome = outcome
        self.detectable = detectable
        self.difference = difference
        self.test = test
        self.mcnemar = mcnemar
        self.a, self.b = sides
        self.left_out = dict(left_out)
        super().__init__(Table.from_rows(_COLUMNS, self._rows()), provenance)

    def sentences(self) -> list[str]:
        """What the comparison says, the smallest detectable difference first."""
        alpha, power_ = self.parameters["alpha"], self.parameters["power"]
        d = self.difference
        first = "Smallest detectable difference: "
        if self.detectable is None:
            first += "none can be stated, as the differences show no spread."
        else:
            first += f"{self.detectable:.3g} (two-sided alpha {alpha:g}, power {power_:g})."
        lines = [
            first,
            f"{self.outcome} of {self.names[0]} minus {self.names[1]}: {d}.",
            f"Test of no difference by cluster: p = {self.test.p:.3g}"
            f" ({'exact' if self.test.exact else f'{self.test.draws} draws'}).",
        ]
        if d.low <= 0 <= d.high:
            lines.append("No difference is shown; that is not evidence that there is none.")
        dropped = [f"{n} {why}" for why, n in self.left_out.items() if n]
        if dropped:
            lines.append(f"Items left out: {', '.join(dropped)}.")
        return lines

    def __repr__(self) -> str:
        return "\n".join(
            [f"<Comparison of {self.names[0]} and {self.names[1]}>", *self.sentences()]
        )

    def _repr_html_(self) -> str:
        lines = "".join(f"<div>{escape(line)}</div>" for line in self.sentences())
        return f"<div>{lines}{super()._repr_html_()}</div>"

    def _rows(self) -> list[dict[str, object]]:
        n = self.difference.n
        rows: list[dict[str, object]] = [
            {
                "quantity": "smallest detectable difference",
                "value": self.detectable,
                "n": n,
                "note": f"{self.difference.n_clusters} clusters",
            }
        ]
        named = [("difference", self.difference), *zip(self.names, (self.a, self.b), strict=True)]
        for name, interval in named:
            rows.append(
                {
                    "quantity": name,
                    "value": interval.estimate,
                    "low": interval.low,
                    "high": interval.high,
                    "n": interval.n,
                    "note": interval.method,
                }
            )
        tests = [("p by cluster", self.test), ("p by McNemar, items independent", self.mcnemar)]
        for name, test in tests:
            if test is not None:
                note = "exact" if test.exact else f"{test.draws} draws"
                rows.append({"quantity": name, "value": test.p, "n": test.n, "note": note})
        return rows


def compare(
    a: Result | Table,
    b: Result | Table,
    paired: bool = True,
    *,
    outcome: str | None = None,
    success: str = "robust",
    macro: bool = False,
    confidence: float = 0.95,
    alpha: float = 0.05,
    power: float = 0.8,
    replicates: int = 2000,
    draws: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two results fact by fact, with an interval clustered by relation.

    Parameters
    ----------
    a, b : Result or Table
        With a table of one row a fact (``.facts``, or the table itself) that has the columns
        relation, subject and the outcome.
    paired : bool
        Match facts by relation and identity and leave out those that only one side has (they are
        counted in ``left_out``). False: two separate samples of facts.
    outcome : str, optional
        Column to compare; numbers or booleans, or text, which counts 1 where it equals `success`.
        "recall" is a fact's share of templates under which its answer ranks first (n_correct /
        n_templates) where there is no column of that name. None: the first of recall, recalled,
        correct, exact, top1, state that both sides have.
    macro : bool
        Compare means of relations instead of means of facts.
    confidence, replicates, seed
        Of the interval; below 30 relations it is a t interval.
    alpha, power : float
        For the smallest detectable difference.
    draws : int
        Of the permutation test beyond 20 relations.

    Returns
    -------
    Comparison

    Raises
    ------
    ArgumentError
        A column is missing, a fact occurs twice, or fewer than two items can be compared.

    Notes
    -----
    The smallest detectable difference is (t(1 - alpha/2) + t(power)) times the cluster-robust
    standard error of the difference. It depends on the data through their spread alone.
    """
    tables = (_facts(a), _facts(b))
    column = _outcome(tables, outcome)
    sides = _read(tables, column, success)
    settings = {"confidence": confidence, "replicates": replicates, "seed": seed, "macro": macro}
    found = (_paired if paired else _unpaired)(*sides, settings, draws)
    provenance = make_provenance(
        "compare",
        1,
        None,
        {
            "paired": paired,
            "outcome": column,
            "success": success,
            "macro": macro,
            "confidence": confidence,
            "alpha": alpha,
            "power": power,
            "replicates": replicates,
            "draws": draws,
        },
        seed,
    )
    provenance["a"], provenance["b"] = _origin(a), _origin(b)
    return Comparison(
        names=(_name(a, "a"), _name(b, "b")),
        outcome=column,
        detectable=_detectable(found.spread, alpha, power),
        difference=found.difference,
        test=found.test,
        mcnemar=found.mcnemar,
        sides=found.sides,
        left_out=found.left_out,
        provenance=provenance,
    )


@dataclass(frozen=True, slots=True)
class Power:
    """How large a comparison must be, or how small a difference it shows.

    Attributes
    ----------
    n : float
        Pairs, or items in each of two groups.
    difference : float or None
        None where n shows no difference at all.
    paired : bool
    rate : float
        Discordance of pairs, or the baseline of two groups.
    alpha, power, design_effect : float
    """

    n: float
    difference: float | None
    paired: bool
    rate: float
    alpha: float
    power: float
    design_effect: float

    def __str__(self) -> str:
        what = "pairs" if self.paired else "items in each group"
        given = "discordance" if self.paired else "baseline"
        terms = (
            f"{given} {self.rate:g}, two-sided alpha {self.alpha:g}, power {self.power:g}, "
            f"design effect {self.design_effect:g}"
        )
        if self.difference is None:
            return f"{self.n:g} {what} show no difference ({terms})"
        return f"{self.n:g} {what} show a difference of {self.difference:.3g} ({terms})"


def power(
    n: float | None = None,
    *,
    difference: float | None = None,
    discordance: float | None = None,
    baseline: float | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> Power:
    """Smallest difference that n facts show, or the facts that a difference needs.

    Parameters
    ----------
    n : float, optional
        Facts; give either this or `difference`.
    difference : float, optional
        Between two proportions.
    discordance : float, optional
        Share of facts on which two models disagree: the comparison is paired.
    baseline : float, optional
        Proportion of the first of two separate groups of facts, instead of `discordance`.
    design_effect : float
        How much clustering inflates the variance; 1 for independent facts.

    Examples
    --------
    >>> print(power(300, discordance=0.1))  # doctest: +ELLIPSIS
    300 pairs show a difference of 0.05... power 0.8, design effect 1)
    >>> power(difference=0.05, discordance=0.1).n
    312
    """
    if (n is None) == (difference is None) or (discordance is None) == (baseline is None):
        raise ArgumentError("power() needs n or difference, and discordance or baseline")
    terms = {"alpha": alpha, "power": power, "design_effect": design_effect}
    if discordance is not None:
        rate = discordance
        if difference is None:
            assert n is not None
            difference = stats.power_paired(n, discordance, **terms)
        else:
            n = stats.pairs_needed(difference, discordance, **terms)
    else:
        assert baseline is not None
        rate = baseline
        if difference is None:
            assert n is not None
            difference = stats.power_two_proportions(n, baseline, **terms)
        else:
            n = stats.items_needed(baseline, baseline + difference, **terms)
    assert n is not None
    shown = None if math.isnan(difference) else difference
    return Power(n, shown, discordance is not None, rate, alpha, power, design_effect)


# ---- reading ----


@dataclass(slots=True)
class _Side:
    """One result's facts: key -> (relation, subject, outcome or None)."""

    items: dict[tuple[str, str], tuple[str, str, float | None]]


@dataclass(slots=True)
class _Found:
    difference: stats.Interval
    spread: stats.Interval
    test: stats.Test
    mcnemar: stats.Test | None
    sides: tuple[stats.Interval, stats.Interval]
    left_out: dict[str, int]


def _facts(result: Result | Table) -> Table:
    if isinstance(result, Table):
        return result
    table = getattr(result, "facts", None)
    table = getattr(result, "table", None) if table is None else table
    if not isinstance(table, Table):
        raise ArgumentError(f"compare() takes a Result or a Table, not {type(result).__name__}")
    return table


def _origin(result: Result | Table) -> dict[str, Any] | None:
    return None if isinstance(result, Table) else dict(result.provenance)


def _name(result: Result | Table, default: str) -> str:
    model = (_origin(result) or {}).get("model") or {}
    name = model.get("name")
    return f"{name} ({model.get('precision')})" if name else default


def _outcome(tables: tuple[Table, Table], outcome: str | None) -> str:
    shared = [name for name in tables[0].names if name in tables[1].names]
    if "recall" not in shared and {"n_correct", "n_templates"} <= set(shared):
        shared.append("recall")
    if outcome is None:
        outcome = next((name for name in OUTCOMES if name in shared), None)
    if outcome is None or outcome not in shared:
        what = "no outcome column" if outcome is None else f"no column {outcome!r}"
        raise ArgumentError(f"{what} in both results; they share {', '.join(shared)}")
    for name in ("relation", "subject"):
        if name not in shared:
            raise ArgumentError(f"compare() needs a column {name!r} in both results")
    return outcome


def _number(value: object, success: str) -> float | None:
    if isinstance(value, str):
        return float(value == success)
    if value is None or math.isnan(float(value)):  # type: ignore[arg-type]
        return None
    return float(value)  # type: ignore[arg-type]


def _values(table: Table, outcome: str) -> list[Any]:
    """The outcome's cells; the share of templates answered right where it is "recall"."""
    if outcome in table.names:
        return table[outcome]
    pairs = zip(table["n_correct"], table["n_templates"], strict=True)
    return [hits / n if n and hits is not None else None for hits, n in pairs]


def _read(tables: tuple[Table, Table], outcome: str, success: str) -> tuple[_Side, _Side]:
    key = next(name for name in KEYS if all(name in table.names for table in tables))
    sides = []
    for table in tables:
        items: dict[tuple[str, str], tuple[str, str, float | None]] = {}
        columns = (table["relation"], table[key], table["subject"], _values(table, outcome))
        for relation, identity, subject, value in zip(*columns, strict=True):
            at = (str(relation), str(identity))
            if at in items:
                raise ArgumentError(f"{key} {identity!r} occurs twice in relation {relation!r}")
            items[at] = (str(relation), str(subject), _number(value, success))
        sides.append(_Side(items))
    return sides[0], sides[1]


# ---- the two designs ----


def _groups(items: Sequence[tuple[str, str, float | None]]) -> tuple[list[str], list[str]]:
    return [item[0] for item in items], [item[1] for item in items]


def _paired(a: _Side, b: _Side, settings: Mapping[str, Any], draws: int) -> _Found:
    import numpy as np

    shared = [key for key in a.items if key in b.items]
    for key in shared:
        if a.items[key][1] != b.items[key][1]:
            raise ArgumentError(
                f"relation {key[0]!r}, fact {key[1]!r} is about {a.items[key][1]!r} in one result "
                f"and {b.items[key][1]!r} in the other; pairs need the same facts"
            )
    keys = [key for key in shared if a.items[key][2] is not None and b.items[key][2] is not None]
    if len(keys) < 2:
        raise ArgumentError(f"only {len(keys)} facts have an outcome in both results")
    x = np.array([a.items[key][2] for key in keys], dtype=np.float64)
    y = np.array([b.items[key][2] for key in keys], dtype=np.float64)
    relation, subject = _groups([a.items[key] for key in keys])
    options = {**settings, "proportion": _is_proportion(x) and _is_proportion(y)}
    spread = stats.paired_bootstrap(
        x, y, relation, subject, **{**options, "method": "t", "proportion": False}
    )
    alone = len(set(relation)) == 1
    binary = _is_binary(x) and _is_binary(y)
    return _Found(
        difference=stats.paired_bootstrap(x, y, relation, subject, **options),
        spread=spread,
        test=stats.permutation_test(
            x - y, subject if alone else relation, draws=draws, seed=settings["seed"]
        ),
        mcnemar=stats.mcnemar(int((x > y).sum()), int((x < y).sum())) if binary else None,
        sides=(
            stats.clustered_bootstrap(x, relation, subject, **options),
            stats.clustered_bootstrap(y, relation, subject, **options),
        ),
        left_out={
            "only in a": len(a.items) - len(shared),
            "only in b": len(b.items) - len(shared),
            "null": len(shared) - len(keys),
        },
    )


def _unpaired(a: _Side, b: _Side, settings: Mapping[str, Any], draws: int) -> _Found:
    import numpy as np

    spreads, sides, means, dropped = [], [], [], 0
    for side in (a, b):
        items = [item for item in side.items.values() if item[2] is not None]
        dropped += len(side.items) - len(items)
        if len(items) < 2:
            raise ArgumentError(f"only {len(items)} facts of one result have an outcome")
        x = np.array([item[2] for item in items], dtype=np.float64)
        relation, subject = _groups(items)
        options = {**settings, "proportion": _is_proportion(x)}
        sides.append(stats.clustered_bootstrap(x, relation, subject, **options))
        plain = {**settings, "method": "t"}
        spreads.append(stats.clustered_bootstrap(x, relation, subject, **plain))
        groups = subject if len(set(relation)) == 1 else relation
        means.append([x[np.array(groups) == group].mean() for group in sorted(set(groups))])
    difference = _welch(spreads[0], spreads[1])
    return _Found(
        difference=difference,
        spread=difference,
        test=stats.permutation_test_two_sample(*means, draws=draws, seed=settings["seed"]),
        mcnemar=None,
        sides=(sides[0], sides[1]),
        left_out={"null": dropped},
    )


def _welch(a: stats.Interval, b: stats.Interval) -> stats.Interval:
    """Difference of two independent cluster-robust means (Welch's degrees of freedom)."""
    assert a.se is not None and b.se is not None and a.df is not None and b.df is not None
    va, vb = a.se**2, b.se**2
    se = math.sqrt(va + vb)
    df = (va + vb) ** 2 / (va**2 / a.df + vb**2 / b.df) if se > 0 else a.df + b.df
    half = se * _km.stats_t_quantile((1 + a.confidence) / 2, df)
    d = a.estimate - b.estimate
    n, clusters = a.n + b.n, a.n_clusters + b.n_clusters
    return stats.Interval(d, d - half, d + half, se, df, n, clusters, "CR2 Welch t", a.confidence)


def _detectable(spread: stats.Interval, alpha: float, power_: float) -> float | None:
    if not (0 < alpha < 1 and alpha / 2 < power_ < 1):
        raise ArgumentError(f"alpha {alpha:g} and power {power_:g}; 0 < alpha / 2 < power < 1")
    if not spread.se or spread.df is None:
        return None
    quantiles = (_km.stats_t_quantile(p, spread.df) for p in (1 - alpha / 2, power_))
    return sum(quantiles) * spread.se


def _is_proportion(x: NDArray[np.float64]) -> bool:
    return bool(((x >= 0) & (x <= 1)).all())


def _is_binary(x: NDArray[np.float64]) -> bool:
    return bool(((x == 0) | (x == 1)).all())
