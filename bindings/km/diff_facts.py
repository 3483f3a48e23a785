"""Verdicts on single facts: what two models say of the same prompts, against a noise floor.

Rows are those of :class:`km.recall.Recall`, one a (fact, template), in the same order for every
model. Definitions: docs/measures/diff.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from km import _km, stats
from km.errors import ArgumentError
from km.recall_summary import mean, summarise_facts
from km.table import Column, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEARNED = "learned"
KEPT = "kept"
WEAKENED = "weakened"
LOST = "lost"
CHANGED = "changed"
UNRESOLVED = "unresolved"
NOT_HELD = "not held"
VERDICTS = (LEARNED, KEPT, WEAKENED, LOST, CHANGED, UNRESOLVED, NOT_HELD)
LISTED = (LEARNED, WEAKENED, LOST, CHANGED)  # verdicts that say something changed

#: The smallest change that counts, nats: a factor of two.
LEAST = math.log(2)

COLUMNS = [
    Column("relation", "text", "", "Name of the relation."),
    Column("fact", "text", "", "Identifier of the fact."),
    Column("subject", "text", "", "What the prompts ask about."),
    Column("answer", "text", "", "The printed answer."),
    Column("target", "bool", "", "Meant to change; null when no targets were given."),
    Column("verdict", "text", "", ", ".join(VERDICTS) + "; null when the fact is not ranked."),
    Column("state_before", "text", "", "robust, prompt-dependent or not shown."),
    Column("state_after", "text", "", "The same of the second model."),
    Column("n_templates", "int64", "templates", "Prompts asked."),
    Column("n_correct_before", "int64", "templates", "Prompts whose answer ranks first."),
    Column("n_correct_after", "int64", "templates", "The same of the second model."),
    Column("rank_before", "double", "rank", "Median rank of the answer over prompts."),
    Column("rank_after", "double", "rank", "The same of the second model."),
    Column("p_before", "double", "probability", "Geometric mean over prompts, of the answer."),
    Column("p_after", "double", "probability", "The same of the second model."),
    Column("leading_before", "text", "", "Candidate that ranks first under most prompts."),
    Column("leading_after", "text", "", "The same of the second model."),
    Column("n_leading_before", "int64", "templates", "Prompts under which it does."),
    Column("n_leading_after", "int64", "templates", "The same of the second model."),
    Column("p_leading_before", "double", "probability", "Geometric mean over these prompts."),
    Column("p_leading_after", "double", "probability", "The same of the second model."),
    Column("change", "double", "nats", "Mean change of the answer's log-probability."),
    Column("change_low", "double", "nats", "Lower end of its t interval over prompts."),
    Column("change_high", "double", "nats", "Upper end."),
    Column("floor", "double", "nats", "What a change must exceed to count."),
    Column("margin_change", "double", "nats", "Mean change of the lead over wrong candidates."),
    Column("margin_low", "double", "nats", "Lower end of its t interval over prompts."),
    Column("margin_high", "double", "nats", "Upper end."),
    Column("margin_floor", "double", "nats", "What a change of the lead must exceed to count."),
    Column("p_value", "double", "", "Of the change the verdict rests on: no more than the floor."),
    Column("q_value", "double", "", "Benjamini and Hochberg over all tests of its group of facts."),
]


FLOOR_COLUMNS = [
    Column("name", "text", "", "least, paraphrases, requantisation or retraining."),
    Column("detail", "text", "", "Such as the type the weights were stored in."),
    Column("n_models", "int64", "models", "Null models measured."),
    Column("logp", "double", "nats", "What a fact's mean change must exceed."),
    Column("margin", "double", "nats", "What the change of its lead must exceed."),
    Column("share", "double", "share", "Prompts that miss a fact which the other prompts hold."),
]


class Cells:
    """One model's rows as arrays, in the order they were measured.

    Attributes
    ----------
    rows : list of dict
    correct, logp, margin : (N) float64
        correct is 0 or 1; NaN where nothing is ranked.
    top : list of str
        The printed answer where an accepted one ranks first, else the wrong candidate.
    top_logp : (N) float64
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        import numpy as np

        def numbers(values: Iterable[Any]) -> Floats:
            return np.array([math.nan if v is None else float(v) for v in values])

        self.rows = list(rows)
        self.correct = numbers(row["correct"] for row in rows)
        self.logp = numbers(row["logp"] for row in rows)
        self.margin = numbers(row["margin"] for row in rows)
        self.top = [row["answer"] if row["correct"] else row["top_candidate"] for row in rows]
        self.top_logp = np.where(self.correct == 1, self.logp, self.logp - self.margin)


class Layout:
    """Which rows belong to which fact, and what is common to all models.

    Attributes
    ----------
    facts : list of (relation, fact)
    rows_of : list of (T) int
        Rows of each fact.
    relation, subject, template : list of str
        Of each row; templates are numbered within their relation.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        places: dict[tuple[str, str], list[int]] = {}
        for i, row in enumerate(rows):
            places.setdefault((row["relation"], row["fact"]), []).append(i)
        self.facts = list(places)
        self.rows_of = list(places.values())
        self.relation = [row["relation"] for row in rows]
        self.subject = [f"{row['relation']}\0{row['subject']}" for row in rows]
        self.template = [f"{row['relation']}\0{row['template']}" for row in rows]

    def means(self, values: Floats) -> list[float]:
        """Mean over each fact's rows."""
        return [float(values[rows].mean()) for rows in self.rows_of]

    def clusters(self, places: Sequence[int]) -> tuple[list[str], ...] | None:
        """Relation, subject and template of some rows, as an interval takes them.

        Subjects alone where one relation was asked one way; None for a single subject, which says
        nothing about spread.
        """
        relation, subject, template = (
            [values[i] for i in places] for values in (self.relation, self.subject, self.template)
        )
        if len(set(subject)) < 2:
            return None
        if len(set(relation)) == 1 and len(set(template)) == 1:
            return (subject,)
        return relation, subject, template


def check_same_questions(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse rows that do not ask the same.

    Raises
    ------
    ArgumentError
        Prompts, facts or numbers of candidates differ.
    """
    same = ("relation", "fact", "subject", "answer", "template_text", "prompt", "n_candidates")
    if len(before) != len(after):
        raise ArgumentError(f"one model was asked {len(before)} prompts, the other {len(after)}")
    for one, other in zip(before, after, strict=True):
        for name in same:
            if one[name] != other[name]:
                raise ArgumentError(
                    f"relation {one['relation']!r}, fact {one['fact']!r}: {name} is "
                    f"{one[name]!r} for one model and {other[name]!r} for the other"
                )


# ---- the floor ----


@dataclass(frozen=True, slots=True)
class Floor:
    """What changes that mean nothing reach.

    Attributes
    ----------
    name : str
        "requantisation" or "retraining".
    detail : str
        Such as the type of the weights.
    logp, margin : float
        Bounds of a fact's mean change, nats.
    cells : tuple of Cells
        One a null model.
    """

    name: str
    detail: str
    logp: float
    margin: float
    cells: tuple[Cells, ...]


def make_floor(
    name: str, detail: str, layout: Layout, before: Cells, nulls: Sequence[Cells], level: float
) -> Floor:
    """The floor that null models set."""
    logp = [_largest(layout, null.logp - before.logp) for null in nulls]
    margin = [_largest(layout, null.margin - before.margin) for null in nulls]
    return Floor(name, detail, _bound(logp, level), _bound(margin, level), tuple(nulls))


def floor_table(floors: Sequence[Floor], flips: float | None) -> Table:
    """What was taken as noise, and how far it reaches."""
    rows: list[dict[str, Any]] = [
        {"name": "least", "detail": "a factor of two", "logp": LEAST, "margin": LEAST},
        {"name": "paraphrases", "detail": "the first model's own", "share": flips},
    ]
    rows += [
        {
            "name": floor.name,
            "detail": floor.detail,
            "n_models": len(floor.cells),
            "logp": floor.logp,
            "margin": floor.margin,
        }
        for floor in floors
    ]
    return Table.from_rows(FLOOR_COLUMNS, rows)


def _largest(layout: Layout, change: Floats) -> float:
    """The largest absolute mean change of a fact; 0 where nothing was ranked."""
    found = [abs(value) for value in layout.means(change) if not math.isnan(value)]
    return max(found, default=0.0)


def _bound(largest: Sequence[float], level: float) -> float:
    """What the largest change of one more null model exceeds with probability `level`.

    Log-normal prediction bound; the largest seen where there are fewer than two or one is zero.
    """
    k = len(largest)
    top = max(largest)
    if k < 2 or min(largest) <= 0:
        return top
    logs = [math.log(value) for value in largest]
    centre = math.fsum(logs) / k
    spread = math.sqrt(math.fsum((x - centre) ** 2 for x in logs) / (k - 1))
    reach = _km.stats_t_quantile(1 - level, k - 1) * spread * math.sqrt(1 + 1 / k)
    return max(top, math.exp(min(centre + reach, 700.0)))


# ---- one fact ----


@dataclass(frozen=True, slots=True)
class Shift:
    """A mean change over the prompts of a fact, and how it stands to the floor."""

    mean: float
    low: float | None
    high: float | None
    p: float | None


def shift(values: Sequence[float], floor: float, confidence: float) -> Shift:
    """Mean change with its t interval, and p for: the mean lies within plus and minus `floor`.

    Notes
    -----
    p is the supremum over that null hypothesis, P(T > (|m| - floor) / se) + P(T > (|m| + floor) /
    se) with n - 1 degrees of freedom; null below two values, which show no spread.
    """
    n = len(values)
    centre = math.fsum(values) / n
    if n < 2:
        return Shift(centre, None, None, None)
    se = math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (n - 1) / n)
    half = _km.stats_t_quantile(0.5 + confidence / 2, n - 1) * se
    if se == 0:
        p = 0.0 if abs(centre) > floor else 1.0
    else:
        near, far = ((abs(centre) + sign * floor) / se for sign in (-1, 1))
        p = _km.stats_t_cdf(-near, n - 1) + _km.stats_t_cdf(-far, n - 1)
    return Shift(centre, centre - half, centre + half, min(p, 1.0))


def _leading(cells: Cells, rows: Sequence[int]) -> tuple[str, int, float]:
    """Candidate that ranks first most often (the first such), how often, its probability."""
    name, count = Counter(cells.top[i] for i in rows).most_common(1)[0]
    logs = [float(cells.top_logp[i]) for i in rows if cells.top[i] == name]
    return name, count, math.exp(math.fsum(logs) / len(logs))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _side(cells: Cells, rows: Sequence[int], ranked: bool, suffix: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "p": math.exp(math.fsum(float(cells.logp[i]) for i in rows) / len(rows)),
        "n_correct": sum(bool(cells.correct[i] == 1) for i in rows),
    }
    if ranked:
        found["rank"] = _median([float(cells.rows[i]["rank"]) for i in rows])
        keys = ("leading", "n_leading", "p_leading")
        found |= dict(zip(keys, _leading(cells, rows), strict=True))
    return {f"{name}_{suffix}": value for name, value in found.items()}


def fact_rows(
    layout: Layout,
    before: Cells,
    after: Cells,
    floors: Sequence[Floor],
    targets: Sequence[bool] | None,
    level: float,
    confidence: float,
) -> list[dict[str, Any]]:
    """One row a fact with its verdict; `targets` says of each fact whether it was to change."""
    floor = max([LEAST, *(f.logp for f in floors)])
    margin_floor = max([LEAST, *(f.margin for f in floors)])
    states = [
        [fact["state"] for fact in summarise_facts([dict(r) for r in cells.rows], confidence)]
        for cells in (before, after)
    ]
    rows, tests = [], []
    for i, places in enumerate(layout.rows_of):
        first = before.rows[places[0]]
        ranked = not math.isnan(float(before.correct[places[0]]))
        logp = shift(
            [float(v) for v in after.logp[places] - before.logp[places]], floor, confidence
        )
        row: dict[str, Any] = {
            **{name: first[name] for name in ("relation", "fact", "subject", "answer")},
            "target": None if targets is None else targets[i],
            "state_before": states[0][i],
            "state_after": states[1][i],
            "n_templates": len(places),
            **_side(before, places, ranked, "before"),
            **_side(after, places, ranked, "after"),
            **{"change": logp.mean, "change_low": logp.low, "change_high": logp.high},
            "floor": floor,
            "margin_floor": margin_floor,
        }
        margin = None
        if ranked:
            change = [float(v) for v in after.margin[places] - before.margin[places]]
            margin = shift(change, margin_floor, confidence)
            row |= {"margin_change": margin.mean}
            row |= {"margin_low": margin.low, "margin_high": margin.high}
        rows.append(row)
        tests.append((logp, margin))
    _judge(rows, tests, level)
    return rows


def _judge(
    rows: list[dict[str, Any]], tests: Sequence[tuple[Shift, Shift | None]], level: float
) -> None:
    """Put verdict, p and q into the rows; each group of facts is a family of its own."""
    for group in (None, False, True):
        chosen = [i for i, row in enumerate(rows) if row["target"] is group]
        p = {
            (i, j): test.p
            for i in chosen
            for j, test in enumerate(tests[i])
            if test is not None and test.p is not None
        }
        q = stats.benjamini_hochberg(list(p.values())).tolist() if p else []
        found = dict(zip(p, q, strict=True))
        for i in chosen:
            rows[i] |= _verdict(rows[i], tests[i], found.get((i, 0)), found.get((i, 1)), level)


def _held(n_correct: int, n_templates: int) -> bool:
    return 2 * n_correct > n_templates


def _verdict(
    row: Mapping[str, Any],
    tests: tuple[Shift, Shift | None],
    q_logp: float | None,
    q_margin: float | None,
    level: float,
) -> dict[str, Any]:
    """Verdict of one fact with the p and q it rests on."""
    logp, margin = tests
    if margin is None:
        return {"verdict": None, "p_value": logp.p, "q_value": q_logp}
    n = row["n_templates"]
    was, now = _held(row["n_correct_before"], n), _held(row["n_correct_after"], n)
    by_margin = {"p_value": margin.p, "q_value": q_margin}
    by_logp = {"p_value": logp.p, "q_value": q_logp}
    if was != now and q_margin is not None and q_margin <= level:
        if not was and margin.mean > 0:
            return {"verdict": LEARNED, **by_margin}
        if was and margin.mean < 0:
            other = _held(row["n_leading_after"], n) and row["leading_after"] != row["answer"]
            return {"verdict": CHANGED if other else LOST, **by_margin}
    if was and logp.mean < 0 and q_logp is not None and q_logp <= level:
        return {"verdict": WEAKENED, **by_logp}
    if was != now:
        return {"verdict": UNRESOLVED, **by_margin}
    return {"verdict": KEPT if was else NOT_HELD, **by_logp}


def flows(rows: Sequence[Mapping[str, Any]]) -> Table:
    """How many facts went from which state to which."""
    counts = Counter(
        (row["state_before"], row["state_after"]) for row in rows if row["state_before"] is not None
    )
    columns = [("before", "text"), ("after", "text"), ("n", "int64", "facts")]
    found = [{"before": b, "after": a, "n": n} for (b, a), n in sorted(counts.items())]
    return Table.from_rows(columns, found)


def paraphrase_flips(cells: Cells, held: Sequence[bool | None]) -> float | None:
    """Share of prompts that miss a fact which the model's other prompts hold."""
    return mean(1 - float(cells.correct[i]) for i, known in enumerate(held) if known)
