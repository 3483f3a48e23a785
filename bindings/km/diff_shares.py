"""Shares of facts lost, learned, weakened and changed, above what means nothing.

Facts are selected by all prompts but one and looked at under that one, so that the selection does
not flatter the estimate. Definitions: docs/measures/diff.md.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from km import _km, stats
from km.diff_facts import CHANGED, LEARNED, LOST, WEAKENED, Cells, Floor, Layout
from km.errors import ArgumentError
from km.table import Column

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

OUTCOMES = (LEARNED, WEAKENED, LOST, CHANGED)
ALL, TARGETS, UNRELATED = "all", "targets", "unrelated"

#: The floor that is always there: the first model's own misses under the prompt left out.
PARAPHRASES = "paraphrases"

COLUMNS = [
    Column("group", "text", "", "all; with targets also these and the unrelated facts."),
    Column("outcome", "text", "", ", ".join(OUTCOMES) + "."),
    Column("of", "text", "", "What the share is of: facts held, or not held, before."),
    Column("n_facts", "int64", "facts", "Facts selected under some prompt."),
    Column("n_rows", "int64", "rows", "Prompts looked at."),
    Column("listed", "int64", "facts", "Facts of the group with this verdict."),
    Column("apparent", "double", "share", "Of facts selected and judged by the same prompts."),
    Column("share", "double", "share", "Under the prompts left out of the selection."),
    Column("floor", "text", "", "The floor that leaves the least certain."),
    Column("floor_share", "double", "share", "What this floor reaches."),
    Column("net", "double", "share", "share minus floor_share."),
    Column("low", "double", "share", "Lower end of its interval, clustered by relation."),
    Column("high", "double", "share", "Upper end."),
    Column("interval", "text", "", "Method of the interval."),
    Column("n_clusters", "int64", "clusters", "Units the interval counts as independent."),
]


# ---- selection ----


def others_hold(layout: Layout, cells: Cells) -> list[bool | None]:
    """For each row whether the fact's other prompts hold the answer; None where nothing is asked.

    Held: the answer ranks first under more than half of them.
    """
    out: list[bool | None] = [None] * len(cells.rows)
    for places in layout.rows_of:
        right = [float(cells.correct[i]) for i in places]
        if len(places) < 2 or math.isnan(right[0]):
            continue
        total = sum(right)
        for i, own in zip(places, right, strict=True):
            out[i] = 2 * (total - own) > len(places) - 1
    return out


def _other_leader(layout: Layout, cells: Cells) -> list[str | None]:
    """For each row the wrong candidate that leads most of the fact's other prompts."""
    out: list[str | None] = [None] * len(cells.rows)
    for places in layout.rows_of:
        for i in places:
            others = Counter(cells.top[j] for j in places if j != i)
            name, count = others.most_common(1)[0] if others else ("", 0)
            if 2 * count > len(places) - 1 and name != cells.rows[i]["answer"]:
                out[i] = name
    return out


def _signs(layout: Layout, outcome: str, before: Cells, model: Cells) -> Floats:
    """What speaks for an outcome under each prompt: 1, 0, or -1 for its opposite."""
    import numpy as np

    if outcome == LOST:
        return before.correct - model.correct
    if outcome == LEARNED:
        return model.correct - before.correct
    if outcome == WEAKENED:
        change = model.logp - before.logp
        return np.where(change < -math.log(2), 1.0, np.where(change > math.log(2), -1.0, 0.0))
    leader = _other_leader(layout, model)
    return np.array(
        [
            float(name is not None and model.top[i] == name) - float(before.top[i] == name)
            for i, name in enumerate(leader)
        ]
    )


# ---- estimates ----


@dataclass(frozen=True, slots=True)
class _Estimate:
    floor: str
    floor_share: float
    net: float
    low: float | None
    high: float | None
    method: str
    n_clusters: int | None


def share_rows(
    layout: Layout,
    before: Cells,
    after: Cells,
    floors: Sequence[Floor],
    facts: Sequence[Mapping[str, Any]],
    confidence: float,
    seed: int,
) -> list[dict[str, Any]]:
    """One row a group of facts and outcome, in the order of the columns."""
    groups: dict[str, list[int]] = {ALL: list(range(len(facts)))}
    if any(row["target"] is not None for row in facts):
        groups[TARGETS] = [i for i, row in enumerate(facts) if row["target"]]
        groups[UNRELATED] = [i for i, row in enumerate(facts) if not row["target"]]
    held = others_hold(layout, before)
    out = []
    for group, members in groups.items():
        places = [i for member in members for i in layout.rows_of[member]]
        for outcome in OUTCOMES:
            wanted = outcome != LEARNED
            chosen = [i for i in places if held[i] is wanted]
            row = {
                "group": group,
                "outcome": outcome,
                "of": "held before" if wanted else "not held before",
                "listed": sum(facts[i]["verdict"] == outcome for i in members),
                "apparent": _apparent([facts[i] for i in members], outcome),
            }
            out.append(
                row | _share(layout, outcome, before, after, floors, chosen, confidence, seed)
            )
    return out


def _apparent(facts: Sequence[Mapping[str, Any]], outcome: str) -> float | None:
    """The share one would count without care: facts selected and judged by the same prompts."""
    ranked = [row for row in facts if row["verdict"] is not None]

    def held(row: Mapping[str, Any], side: str) -> bool:
        return bool(2 * row[f"n_correct_{side}"] > row["n_templates"])

    chosen = [row for row in ranked if held(row, "before") is (outcome != LEARNED)]
    if not chosen:
        return None

    def happened(row: Mapping[str, Any]) -> bool:
        if outcome == WEAKENED:
            return bool(row["change"] < -math.log(2))
        if outcome == CHANGED:
            leads = 2 * row["n_leading_after"] > row["n_templates"]
            return bool(leads and row["leading_after"] != row["answer"])
        return held(row, "after") is (outcome == LEARNED)

    return sum(map(happened, chosen)) / len(chosen)


def _share(
    layout: Layout,
    outcome: str,
    before: Cells,
    after: Cells,
    floors: Sequence[Floor],
    chosen: list[int],
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    n_facts = len({(layout.relation[i], before.rows[i]["fact"]) for i in chosen})
    out: dict[str, Any] = {"n_facts": n_facts, "n_rows": len(chosen)}
    if not chosen:
        return out
    seen = _signs(layout, outcome, before, after)[chosen]
    nulls: list[tuple[str, list[Floats]]] = [(PARAPHRASES, [0 * seen])]
    for floor in floors:
        own = [_signs(layout, outcome, before, null)[chosen] for null in floor.cells]
        nulls.append((floor.name, own))
    found = [_net(layout, chosen, seen, name, own, confidence, seed) for name, own in nulls]
    least = min(found, key=lambda e: (e.low if e.low is not None else e.net, -e.floor_share))
    return out | {
        "share": float(seen.mean()),
        "floor": least.floor,
        "floor_share": least.floor_share,
        "net": least.net,
        "low": least.low,
        "high": least.high,
        "interval": least.method,
        "n_clusters": least.n_clusters,
    }


def _net(
    layout: Layout,
    chosen: list[int],
    seen: Floats,
    name: str,
    nulls: list[Floats],
    confidence: float,
    seed: int,
) -> _Estimate:
    """The share above one floor; its interval also holds the spread between null models."""
    import numpy as np

    floor = np.mean(nulls, axis=0)
    shares = [float(own.mean()) for own in nulls]
    net = float(seen.mean()) - float(floor.mean())
    found = _paired(layout, chosen, seen, floor, confidence, seed)
    if found is None:
        return _Estimate(name, float(floor.mean()), net, None, None, "none: a single subject", None)
    reach = 0.0
    if len(shares) > 1:
        spread = float(np.std(shares, ddof=1)) * math.sqrt(1 + 1 / len(shares))
        reach = _km.stats_t_quantile(0.5 + confidence / 2, len(shares) - 1) * spread
    low = net - math.hypot(net - found.low, reach)
    high = net + math.hypot(found.high - net, reach)
    return _Estimate(
        name, float(floor.mean()), net, max(low, min(net, -1.0)),
        min(high, max(net, 1.0)), found.method,
        found.n_clusters,
    )  # fmt: skip


def _paired(
    layout: Layout, chosen: list[int], seen: Floats, floor: Floats, confidence: float, seed: int
) -> stats.Interval | None:
    """Interval of the mean of seen - floor, values from -1 to 1; None for a single subject."""
    ids = layout.clusters(chosen)
    if ids is None:
        return None
    options: dict[str, Any] = {"confidence": confidence, "seed": seed}
    difference = seen - floor
    if bool((difference == difference[0]).all()):
        # No spread at all: plus and minus Wilson's bound of 0 in the clusters.
        zero, at = 0 * difference, float(difference[0])
        bound = stats.paired_bootstrap(zero, zero, *ids, proportion=True, **options)
        return replace(bound, estimate=at, low=at + bound.low, high=at + bound.high)
    found = stats.paired_bootstrap(seen, floor, *ids, **options)
    if found.method == "cluster bootstrap" or len(ids) == 1:
        return found
    # Few relations may happen to agree: never less than what the subjects alone would say.
    subjects = stats.paired_bootstrap(seen, floor, ids[1], **options)
    return max(found, subjects, key=lambda interval: interval.high - interval.low)


# ---- the rule a script may set ----


@dataclass(frozen=True, slots=True)
class Limit:
    """A share that makes ``km diff`` fail, such as lost > 0.02.

    Attributes
    ----------
    outcome : str
    share : float
    """

    outcome: str
    share: float

    def __str__(self) -> str:
        return f"{self.outcome} > {100 * self.share:g} %"


def parse_limit(text: str) -> Limit:
    """A limit as one writes it: "lost>2%" or "weakened > 0.05".

    Raises
    ------
    ArgumentError
        It is written otherwise.

    Examples
    --------
    >>> parse_limit("lost>2%")
    Limit(outcome='lost', share=0.02)
    """
    match = re.fullmatch(r"\s*([a-z]+)\s*>\s*([0-9.]+)\s*(%?)\s*", text)
    try:
        value = float(match[2]) / (100 if match[3] else 1) if match else math.nan
    except ValueError:
        value = math.nan
    if not match or match[1] not in OUTCOMES or not 0 <= value < 1:
        names = ", ".join(OUTCOMES)
        raise ArgumentError(
            f"{text!r} is no limit; write one of {names}, then > and a share, such as lost>2%"
        )
    return Limit(match[1], value)
