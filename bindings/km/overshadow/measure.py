"""Rates of overshadowing: how often rare prompts get the popular answer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km import _km
from km.arguments import coverage, real_number, whole_number
from km.chunk_work import ChunkWork, counted
from km.errors import ArgumentError
from km.overshadow.pairs import Encoded, Pair, check_pairs, encode_pair
from km.overshadow.synthetic import Corpus
from km.progress import Progress, ProgressReporter
from km.result import ChunkedResult, content_key, make_provenance
from km.scores.overshadow import ratio_interval
from km.stats import Interval, bootstrap, clustered_bootstrap, wilson
from km.table import Column, Table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.model import Model

RATE_ID = "overshadow.rate"
RATE_VERSION = 1

Mode: TypeAlias = Literal["greedy", "probability"]
MODES: tuple[Mode, ...] = ("greedy", "probability")

# Prompts of a chunk; groups are never divided.
CHUNK_PROMPTS = 256
# Groups from which a correlation over groups is worth its estimate.
MIN_CORRELATED = 3

COLUMNS = [
    Column("group", "text", "", "Group of the prompt."),
    Column("kind", "text", "", "A: popular condition, B: rare condition, shared: the context."),
    Column("prompt", "text", "", "The prompt; null when it was given as token ids."),
    Column("prompt_ids", "text", "", "Token ids of the prompt, as JSON."),
    Column("answer_ids", "text", "", "Token ids of the right answer, as JSON; null for shared."),
    Column("popular_ids", "text", "", "Token ids of the popular answer, as JSON."),
    Column("logp_popular", "double", "nats", "Log-probability of the whole popular answer."),
    Column("logp_answer", "double", "nats", "The same of the right answer; null for shared."),
    Column("greedy_popular", "bool", "", "Greedy decoding gives the popular answer."),
    Column("greedy_answer", "bool", "", "Greedy decoding gives the right one; null for shared."),
]

SUMMARY_COLUMNS = [
    Column("mode", "text", "", "greedy: shares of prompts; probability: mean probabilities."),
    Column("rate", "text", "", "Which rate."),
    Column("estimate", "double", "", "Null where it is not defined."),
    Column("low", "double", "", "Of the interval."),
    Column("high", "double", "", "Of the interval; null where it has no upper end."),
    Column("n", "int64", "prompts", "Prompts it rests on."),
    Column("n_groups", "int64", "groups", "Groups it rests on."),
    Column("method", "text", "", "Of the interval."),
]


@dataclass(frozen=True)
class Cell:
    """Counts of one model and one set of prompts: what :func:`km.overshadow.fit` takes.

    Attributes
    ----------
    P, L, S : float
        Relative popularity, relative length, number of parameters.
    n_a, n_a_correct, n_b, n_b_hallucinated : int
        Prompts of A and those answered with the popular answer, and the same of B.
    """

    P: float
    L: float
    S: float
    n_a: int
    n_a_correct: int
    n_b: int
    n_b_hallucinated: int

    def __post_init__(self) -> None:
        for name in ("P", "L", "S"):
            value = real_number(name, getattr(self, name), 0, 1e300)
            if value == 0:
                raise ArgumentError(f"{name} is 0; it must be positive")
        whole_number("n_a_correct", self.n_a_correct, 0, whole_number("n_a", self.n_a, 1))
        most = whole_number("n_b", self.n_b, 1)
        whole_number("n_b_hallucinated", self.n_b_hallucinated, 0, most)

    @property
    def R(self) -> float:
        """HR / RR; NaN without recall."""
        if not self.n_a_correct:
            return math.nan
        return (self.n_b_hallucinated / self.n_b) / (self.n_a_correct / self.n_a)


class Rates(ChunkedResult):
    """What :func:`rates` returns: one row a prompt.

    Attributes
    ----------
    summary : Table
        By mode: RR, HR and R, what else B prompts were answered, and the shared context alone.
    chunks : list of (key, Table)
    notes : list of str
    evidence : list of dict
    """

    MEASURE_ID = RATE_ID

    def __init__(
        self,
        chunks: Sequence[tuple[str, Table]],
        provenance: dict[str, Any],
        run: int | None = None,
    ) -> None:
        super().__init__(chunks, provenance, run)
        rows = list(self.table.rows())
        confidence, seed = self.parameters["confidence"], int(self.parameters["bootstrap_seed"])
        found = [row for mode in MODES for row in _summarise(rows, mode, confidence, seed)]
        self.summary = Table.from_rows(SUMMARY_COLUMNS, found)
        self.notes = _notes(self)
        self.evidence = _evidence(self)

    def rate(self, name: str, mode: Mode = "greedy") -> dict[str, Any]:
        """One row of the summary.

        Parameters
        ----------
        name : {"RR", "HR", "R", "right", "other", "shared"}
        mode : {"greedy", "probability"}
        """
        rows = [r for r in self.summary.rows() if (r["rate"], r["mode"]) == (name, mode)]
        if not rows:
            raise ArgumentError(f"there is no {name!r} by {mode!r}; see the summary")
        return rows[0]

    def cell(self, P: float | None = None, L: float | None = None, S: float | None = None) -> Cell:
        """The greedy counts with what they belong to, for :func:`km.overshadow.fit`.

        Parameters
        ----------
        P, L : float, optional
            None: those of the corpus that was measured.
        S : float, optional
            None: the model's number of parameters.
        """
        given = {"P": P, "L": L, "S": S}
        known = {**self.parameters["factors"], "S": self._n_parameters()}
        values = {name: known[name] if value is None else value for name, value in given.items()}
        lacking = [name for name, value in values.items() if value is None]
        if lacking:
            raise ArgumentError(f"{lacking[0]} is not known of these prompts; give {lacking[0]}")
        hits: dict[str, list[bool]] = {"A": [], "B": [], "shared": []}
        for row in self.table.rows():
            hits[row["kind"]].append(bool(row["greedy_popular"]))
        a, b = hits["A"], hits["B"]
        return Cell(values["P"], values["L"], values["S"], len(a), sum(a), len(b), sum(b))

    def _n_parameters(self) -> float | None:
        model = self.provenance.get("model") or {}
        return model.get("n_parameters")

    def __repr__(self) -> str:
        lines = [f"<km.overshadow.Rates {self._title()}>", repr(self.summary)]
        return "\n".join([*lines, *self.notes])


def rates(
    model: Model,
    pairs: Corpus | Iterable[Pair],
    *,
    bos: bool | None = None,
    confidence: float = 0.95,
    bootstrap_seed: int = 0,
    kb: KnowledgeBase | None = None,
    progress: Progress = None,
) -> Rates:
    """Recall of popular statements, hallucination on rare ones, and their ratio.

    Parameters
    ----------
    model : Model
    pairs : Corpus or sequence of Pair
        Each group needs prompts of both kinds.
    bos : bool, optional
        Put the beginning-of-sequence token before prompts. None: what the model file says where
        prompts are str; before token ids nothing.
    confidence : float
    bootstrap_seed : int
    kb : KnowledgeBase, optional
        Prompts measured before are looked up in it; the result is recorded in it.
    progress : bool or callable, optional

    Returns
    -------
    Rates

    Raises
    ------
    ArgumentError
        Pairs do not go together, or do not fit into the model's context.

    Notes
    -----
    Zhang et al. 2025: RR is the share of A prompts and HR that of B prompts whose greedy answer is
    the popular one, R = HR / RR. By probability, both are means of the joint probability of all
    tokens of the popular answer. Intervals resample groups; that of R is made of those of HR and RR
    and never divides by an estimate (:func:`km.scores.overshadow.ratio_interval`).

    Examples
    --------
    >>> model = km.load()  # doctest: +SKIP
    >>> start = "The name of this North Korean"  # doctest: +SKIP
    >>> pairs = [  # doctest: +SKIP
    ...     km.overshadow.Pair("x", "A", f"{start} politician is", "Kim Jong Un", "Kim Jong Un"),
    ...     km.overshadow.Pair("x", "B", f"{start} singer is", "Hyon Song Wol", "Kim Jong Un"),
    ... ]
    >>> km.overshadow.rates(model, pairs)  # doctest: +SKIP
    """
    confidence = coverage(confidence)
    seed = whole_number("bootstrap_seed", bootstrap_seed, 0, 2**32 - 1)
    factors: dict[str, float | None] = {"P": None, "L": None}
    if isinstance(pairs, Corpus):
        factors = {"P": pairs.P, "L": pairs.L}
        pairs = pairs.pairs()
    listed = check_pairs(pairs)
    encoded = {pair: encode_pair(model, pair, bos) for pair in listed}
    blocks = _blocks(listed)
    keys = [_key(model, block, encoded) for block in blocks]
    parameters: dict[str, Any] = {
        "n_pairs": len(listed),
        "factors": factors,
        "bos": bos,
        "confidence": confidence,
        "bootstrap_seed": seed,
        "chunks": keys,
    }
    provenance = make_provenance(RATE_ID, RATE_VERSION, model, parameters)
    work = ChunkWork(kb, provenance)
    with ProgressReporter(progress, "overshadowing", unit="parts", total=len(blocks)) as report:
        jobs = [
            (key, partial(_measure, model, block, encoded))
            for key, block in zip(keys, blocks, strict=True)
        ]
        chunks = work.run(counted(jobs, report))
    result = Rates(chunks, provenance, work.run_id)
    if kb is not None and not kb.read_only:
        result.run = kb.record(result)
    return result


# ---- measuring ----


def _blocks(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Whole groups, put together until a block has enough prompts."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    blocks: list[list[Pair]] = []
    for group in groups.values():
        if not blocks or len(blocks[-1]) + len(group) > CHUNK_PROMPTS:
            blocks.append([])
        blocks[-1].extend(group)
    return blocks


def _key(model: Model, block: Sequence[Pair], encoded: dict[Pair, Encoded]) -> str:
    said = [p.prompt if isinstance(p.prompt, str) else None for p in block]
    parameters = {"prompts": [[p.group, p.kind, text] for p, text in zip(block, said, strict=True)]}
    ids = [part for p in block for part in vars(encoded[p]).values()]
    return content_key(RATE_ID, RATE_VERSION, parameters, model.fingerprint, ids)


def _measure(model: Model, block: Sequence[Pair], encoded: dict[Pair, Encoded]) -> Table:
    asked: dict[tuple[tuple[int, ...], tuple[int, ...]], None] = {}
    for pair in block:
        ids = encoded[pair]
        asked[ids.prompt, ids.popular] = asked[ids.prompt, ids.answer] = None
        if ids.shared:
            asked[ids.shared, ids.popular] = None
    found = dict(zip(asked, score_answers(model, list(asked)), strict=True))
    rows = []
    for pair in block:
        ids = encoded[pair]
        popular, answer = found[ids.prompt, ids.popular], found[ids.prompt, ids.answer]
        rows.append(
            {
                **_row(pair, pair.kind, pair.prompt, ids.prompt, ids.popular, popular),
                "answer_ids": json.dumps(ids.answer),
                "logp_answer": answer[0],
                "greedy_answer": answer[1],
            }
        )
    for pair in {pair.group: pair for pair in block if encoded[pair].shared}.values():
        ids = encoded[pair]
        assert pair.shared is not None
        popular = found[ids.shared, ids.popular]
        rows.append(_row(pair, "shared", pair.shared, ids.shared, ids.popular, popular))
    return Table.from_rows(COLUMNS, rows)


def score_answers(
    model: Model, asked: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[tuple[float, bool]]:
    """Log-probability (nats) of each answer after its prompt, and whether it is the greedy one."""
    import numpy as np

    ids = np.array([i for prompt, answer in asked for i in (*prompt, *answer)], dtype=np.int32)
    sizes = [len(prompt) + len(answer) for prompt, answer in asked]
    offsets = np.array([0, *accumulate(sizes)], dtype=np.int64)
    given = np.array([len(prompt) for prompt, _ in asked], dtype=np.int64)
    scored = _km.continuations_run(model._model, ids, offsets, given)
    return list(zip(scored[2].tolist(), map(bool, scored[3].tolist()), strict=True))


def _row(
    pair: Pair,
    kind: str,
    prompt: Any,
    ids: tuple[int, ...],
    popular: tuple[int, ...],
    found: tuple[float, bool],
) -> dict[str, Any]:
    return {
        "group": pair.group,
        "kind": kind,
        "prompt": prompt if isinstance(prompt, str) else None,
        "prompt_ids": json.dumps(ids),
        "popular_ids": json.dumps(popular),
        "logp_popular": found[0],
        "greedy_popular": found[1],
    }


# ---- summary ----


@dataclass(frozen=True)
class _Values:
    """Values of a rate, one a prompt, with the prompts' groups."""

    x: list[float]
    groups: list[str]

    def interval(self, mode: Mode, confidence: float, seed: int) -> Interval:
        """By group; where there is one group alone, by prompt."""
        if len(set(self.groups)) > 1:
            return clustered_bootstrap(
                self.x, self.groups, confidence=confidence, seed=seed, proportion=True
            )
        if mode == "greedy":
            return wilson(round(sum(self.x)), len(self.x), confidence=confidence)
        if len(self.x) == 1:
            return Interval(self.x[0], 0.0, 1.0, None, None, 1, 1, "none", confidence)
        return bootstrap(self.x, confidence=confidence, seed=seed, proportion=True)

    def means(self) -> dict[str, float]:
        """Mean of each group."""
        sums: dict[str, list[float]] = {}
        for value, group in zip(self.x, self.groups, strict=True):
            sums.setdefault(group, []).append(value)
        return {group: math.fsum(values) / len(values) for group, values in sums.items()}


def _values(rows: Sequence[dict[str, Any]], kind: str, mode: Mode, of: str) -> _Values:
    own = [row for row in rows if row["kind"] == kind]
    if mode == "greedy":
        x = [float(row[f"greedy_{of}"]) for row in own]
    else:
        x = [math.exp(row[f"logp_{of}"]) for row in own]
    return _Values(x, [row["group"] for row in own])


def _summarise(
    rows: Sequence[dict[str, Any]], mode: Mode, confidence: float, seed: int
) -> list[dict[str, Any]]:
    recall, wrong = _values(rows, "A", mode, "popular"), _values(rows, "B", mode, "popular")
    right, shared = _values(rows, "B", mode, "answer"), _values(rows, "shared", mode, "popular")
    rr, hr = (v.interval(mode, confidence, seed) for v in (recall, wrong))
    low, high = ratio_interval(hr, rr, correlation=_correlation(recall.means(), wrong.means()))
    n_groups = len(set(recall.groups))
    found = [_summary_row(mode, "RR", rr, n_groups), _summary_row(mode, "HR", hr, n_groups)]
    found.append(
        {
            **_summary_row(mode, "R", hr, n_groups),
            "estimate": hr.estimate / rr.estimate if rr.estimate else None,
            "low": low,
            "high": high if math.isfinite(high) else None,
            "n": rr.n + hr.n,
            "method": f"ratio of {hr.method}",
        }
    )
    rest = {"right": right}
    if mode == "greedy":
        neither = [1 - a - b for a, b in zip(right.x, wrong.x, strict=True)]
        rest["other"] = _Values(neither, right.groups)
    if shared.x:
        rest["shared"] = shared
    found += [
        _summary_row(mode, name, v.interval(mode, confidence, seed), len(set(v.groups)))
        for name, v in rest.items()
    ]
    return found


def _summary_row(mode: Mode, name: str, interval: Interval, n_groups: int) -> dict[str, Any]:
    return {
        "mode": mode,
        "rate": name,
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "n_groups": n_groups,
        "method": interval.method,
    }


def _correlation(a: dict[str, float], b: dict[str, float]) -> float:
    """Pearson's r of two rates over groups; 0 where there are too few or one does not vary."""
    n = len(a)
    if n < MIN_CORRELATED:
        return 0.0
    mean_a, mean_b = math.fsum(a.values()) / n, math.fsum(b.values()) / n
    saa = math.fsum((v - mean_a) ** 2 for v in a.values())
    sbb = math.fsum((v - mean_b) ** 2 for v in b.values())
    if saa <= 0 or sbb <= 0:
        return 0.0
    sab = math.fsum((a[g] - mean_a) * (b[g] - mean_b) for g in a)
    return max(-1.0, min(1.0, sab / math.sqrt(saa * sbb)))


def _notes(result: Rates) -> list[str]:
    notes = []
    ratio, recall = result.rate("R"), result.rate("RR")
    if ratio["estimate"] is None:
        notes.append("no popular prompt is answered: RR is 0 and R is not defined.")
    elif ratio["high"] is None:
        notes.append("RR may be 0 within its interval: R has no upper end.")
    if recall["n_groups"] == 1:
        notes.append("one group: the intervals hold for further prompts of this group alone.")
    return notes


def _evidence(result: Rates) -> list[dict[str, Any]]:
    ratio = result.rate("R")
    if ratio["estimate"] is None:
        return []
    shared = [r["estimate"] for r in result.summary.rows() if r["rate"] == "shared"]
    return [
        {
            "node": "knowledge-overshadowing",
            "measure": RATE_ID,
            "statistic": "R",
            "value": ratio["estimate"],
            "low": ratio["low"],
            "high": ratio["high"],
            "n": ratio["n"],
            "unit": "",
            "baseline": None,
            "note": "HR / RR by greedy answers, intervals by group."
            + (f" The shared context alone gives {shared[0]:.3f}." if shared else ""),
        }
    ]
