"""Activation patching: single activations of one run put into another, everywhere in turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from km import stats
from km.answers import ids_and_text, target_token
from km.arguments import MOST_TOKENS, coverage, several, strings, whole_number
from km.errors import ArgumentError
from km.points import OVER_POSITIONS, Points
from km.progress import Progress, ProgressReporter
from km.result import Result, make_provenance
from km.scores.interventions import patching_effect
from km.table import Column, Table
from km.variants import SET, Change, Sweep, read_run

if TYPE_CHECKING:
    from km.model import Ids, Model
    from km.points import Point

PATCHING_ID = "interpretability.activation_patching"
PATCHING_VERSION = 1

COLUMNS = [
    Column("pair", "int64", "", "Index of the pair of prompts."),
    Column("direction", "text", "", "denoising: clean into corrupted; noising: the reverse."),
    Column("point", "text", "", "What was patched."),
    Column("layer", "int64", "layer", "Null for points without one."),
    Column("head", "int64", "head", "Null for points without heads."),
    Column("position", "int64", "token", "Token patched."),
    Column("token", "text", "", "Its text in the clean prompt."),
    Column("metric", "double", "nats", "log p(answer) - log p(wrong) of the patched run."),
    Column("effect", "double", "share", "Share of the two runs' difference that the patch makes."),
]

PAIR_COLUMNS = [
    Column("pair", "int64", "", "Index of the pair of prompts."),
    Column("clean", "text", "", "Prompt with the answer."),
    Column("corrupted", "text", "", "Prompt with the wrong answer."),
    Column("clean_metric", "double", "nats", "log p(answer) - log p(wrong), clean run."),
    Column("corrupted_metric", "double", "nats", "The same of the corrupted run."),
]

MEAN_COLUMNS = [
    *COLUMNS[1:6],
    Column("effect", "double", "share", "Mean over pairs."),
    Column("low", "double", "share", "Lower end of its interval; null below two pairs."),
    Column("high", "double", "share", "Upper end."),
    Column("n", "int64", "pairs", "Pairs."),
]

CAUTION = (
    "Denoising shows what suffices to restore the answer, noising what it cannot do without; the "
    "two can disagree (redundant paths), and what is found holds for this kind of corruption."
)


class Pair(NamedTuple):
    """Two prompts, and the first tokens of their answers."""

    clean: list[int]
    corrupted: list[int]
    texts: tuple[str, str]
    answer: int
    wrong: int

    @property
    def wants(self) -> list[tuple[int, int]]:
        """Both answers after the last token."""
        last = len(self.clean) - 1
        return [(last, self.answer), (last, self.wrong)]


class ActivationPatching(Result):
    """What :func:`activation_patching` returns: one row a patch.

    Attributes
    ----------
    table : Table
    pairs : Table
        The two runs of each pair.
    means : Table or None
        Mean effects over pairs by place; None where the pairs differ in length.
    notes : list of str
    evidence : list of dict
    """

    def __init__(
        self, table: Table, pairs: Table, lengths: Sequence[int], provenance: dict[str, Any]
    ) -> None:
        super().__init__(table, provenance)
        self.pairs = pairs
        same = len(set(lengths)) == 1
        confidence = float(self.parameters["confidence"])
        self.means = Table.from_rows(MEAN_COLUMNS, _means(table, confidence)) if same else None
        self.notes = [CAUTION]
        if not same:
            self.notes.append("The pairs differ in length: effects are not averaged by position.")
        flat = sum(row["clean_metric"] <= row["corrupted_metric"] for row in pairs.rows())
        if flat:
            self.notes.append(
                f"In {flat} of {len(pairs)} pairs the clean run does not prefer the answer more "
                "than the corrupted one: their effects say nothing."
            )
        self.evidence = _evidence(self)

    def __repr__(self) -> str:
        lines = [f"<km.ActivationPatching {self._title()}: n = {len(self.pairs)} pairs>"]
        if self.means is not None:
            rows = [row for row in self.means.rows() if row["effect"] is not None]
            rows.sort(key=lambda row: -abs(row["effect"]))
            lines.append(f"largest of {len(rows)} mean effects, chosen after looking:")
            lines += [f"{place(row)} {row['direction']}: {row['effect']:+.3f}" for row in rows[:8]]
        return "\n".join([*lines, *self.notes])

    def draw(self, point: str | None = None, direction: str = "denoising", **options: Any) -> Any:
        """The picture :func:`km.draw.patching` makes of one point (None: the first)."""
        from km.draw import patching

        return patching(self, point=point, direction=direction, **options)


def place(row: Mapping[str, Any]) -> str:
    """Where a patch was made, in short."""
    layer = "" if row["layer"] is None else f" {row['layer']}"
    head = "" if row["head"] is None else f".{row['head']}"
    return f"{row['point']}{layer}{head} at {row['position']}"


def _means(table: Table, confidence: float) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[float]] = {}
    keys = ("direction", "point", "layer", "head", "position")
    for row in table.rows():
        own = groups.setdefault(tuple(row[key] for key in keys), [])
        if row["effect"] is not None:
            own.append(row["effect"])
    rows = []
    for key, values in groups.items():
        spread = None
        if len(values) > 1:
            spread = stats.clustered_bootstrap(values, confidence=confidence)
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "effect": sum(values) / len(values) if values else None,
                "low": spread.low if spread else None,
                "high": spread.high if spread else None,
                "n": len(values),
            }
        )
    return rows


def _evidence(result: ActivationPatching) -> list[dict[str, Any]]:
    if result.means is None:
        return []
    best: dict[str, dict[str, Any]] = {}
    for row in result.means.rows():
        key = row["direction"]
        if row["effect"] is not None and (key not in best or row["effect"] > best[key]["effect"]):
            best[key] = row
    return [
        {
            "node": "activation-patching",
            "measure": PATCHING_ID,
            "statistic": f"largest_{direction}_effect",
            "value": row["effect"],
            "low": None,
            "high": None,
            "n": row["n"],
            "unit": "share",
            "baseline": 0.0,
            "note": f"At {place(row)}, chosen after looking, hence without interval. {CAUTION}",
        }
        for direction, row in best.items()
    ]


# ---- running ----


def activation_patching(
    model: Model,
    clean: str | Ids | Iterable[str | Ids],
    corrupted: str | Ids | Iterable[str | Ids],
    answer: str | int | Sequence[str | int],
    wrong: str | int | Sequence[str | int],
    *,
    points: str | Sequence[str] = ("resid_pre", "attn_out", "mlp_out"),
    directions: str | Sequence[str] = ("denoising", "noising"),
    bos: bool | None = None,
    confidence: float = 0.95,
    batch_tokens: int = 2048,
    progress: Progress = None,
) -> ActivationPatching:
    """Put each activation of one run into the other in turn, and see which answer it leads to.

    Parameters
    ----------
    model : Model
    clean, corrupted : str, or sequences of str
        Prompts of pairwise equal length in tokens, such as the same sentence about two subjects.
    answer, wrong : str or int, or sequences of them
        Right answers of the clean and of the corrupted prompt, of which the first tokens count;
        both follow the clean prompt. One serves all pairs.
    points : sequence of str
        Named points; one with heads is patched head by head.
    directions : sequence of {"denoising", "noising"}
        Clean activations into the corrupted run, or corrupted ones into the clean run.
    bos : bool, optional
        None: what the model file says.
    confidence : float
        Coverage of the intervals over pairs.
    batch_tokens : int
        Distinct tokens a pass; no figure depends on it.
    progress : bool or callable, optional

    Returns
    -------
    ActivationPatching

    Raises
    ------
    ArgumentError
        Prompts of a pair differ in length or not at all, or a point cannot be patched.

    Notes
    -----
    The metric is log p(answer) - log p(wrong) after the last token, which is the difference of
    their logits. Effects are shares of the difference between the two runs (Heimersheim and Nanda
    2024): 1 is the other run's metric. Tokens before the first that differs have equal activations
    in both runs; their effect is 0 without being computed.
    """
    pairs = _pairs(model, clean, corrupted, answer, wrong, bos)
    points, directions = strings("points", points), strings("directions", directions)
    confidence = coverage(confidence)
    batch_tokens = whole_number("batch_tokens", batch_tokens, 1, MOST_TOKENS)
    chosen = [_point(model, name) for name in points]
    unknown = [name for name in directions if name not in ("denoising", "noising")]
    if unknown or not directions or not chosen:
        raise ArgumentError("give points, and directions of denoising and noising")
    rows: list[dict[str, Any]] = []
    about = []
    total = len(pairs) * len(directions)
    with ProgressReporter(progress, "patching", unit="sweeps", total=total) as report:
        for i, pair in enumerate(pairs):
            found, metrics = _sweep(model, pair, chosen, directions, batch_tokens)
            rows += [{"pair": i, **row} for row in found]
            about.append(
                {
                    "pair": i,
                    "clean": pair.texts[0],
                    "corrupted": pair.texts[1],
                    "clean_metric": metrics[0],
                    "corrupted_metric": metrics[1],
                }
            )
            report((i + 1) * len(directions))
    parameters = {
        "clean": [pair.clean for pair in pairs],
        "corrupted": [pair.corrupted for pair in pairs],
        "answer": [pair.answer for pair in pairs],
        "wrong": [pair.wrong for pair in pairs],
        "points": list(points),
        "directions": list(directions),
        "bos": bos,
        "confidence": confidence,
    }
    provenance = make_provenance(PATCHING_ID, PATCHING_VERSION, model, parameters)
    return ActivationPatching(
        Table.from_rows(COLUMNS, rows),
        Table.from_rows(PAIR_COLUMNS, about),
        [len(pair.clean) for pair in pairs],
        provenance,
    )


def _point(model: Model, name: str) -> Point:
    point = Points(model).find(name)
    if name in OVER_POSITIONS or name == "logits":
        raise ArgumentError(f"{name} cannot be patched in a sweep")
    return point


def _each(name: str, value: Any, n: int) -> list[Any]:
    """One a pair; one str or int serves all."""
    values = several(name, value)
    if len(values) == 1:
        return values * n
    if len(values) != n:
        raise ArgumentError(f"{name} has {len(values)} entries for {n} pairs of prompts")
    return values


def _pairs(
    model: Model, clean: Any, corrupted: Any, answer: Any, wrong: Any, bos: bool | None
) -> list[Pair]:
    ours = several("clean", clean, of_ids=True)
    theirs = several("corrupted", corrupted, of_ids=True)
    if not ours or len(ours) != len(theirs):
        raise ArgumentError(
            f"clean holds {len(ours)} prompts and corrupted {len(theirs)}; give pairs"
        )
    answers = _each("answer", answer, len(ours))
    others = _each("wrong", wrong, len(ours))
    return [
        read_pair(model, *values, bos) for values in zip(ours, theirs, answers, others, strict=True)
    ]


def read_pair(
    model: Model,
    clean: str | Ids,
    corrupted: str | Ids,
    answer: str | int,
    wrong: str | int,
    bos: bool | None,
) -> Pair:
    """Two prompts of equal length that differ, and the first tokens of their answers."""
    ids, text = ids_and_text(model, clean, bos)
    other, other_text = ids_and_text(model, corrupted, bos)
    if len(ids) != len(other) or ids == other:
        raise ArgumentError(
            f"{clean!r} has {len(ids)} tokens, {corrupted!r} {len(other)}: they must differ, and "
            "have the same number of tokens"
        )
    tokens = [
        target_token(model, ids, text, value, bos, name)
        for name, value in (("answer", answer), ("wrong", wrong))
    ]
    if tokens[0] == tokens[1]:
        raise ArgumentError(f"{answer!r} and {wrong!r} start with the same token")
    shown = [t.decode("utf-8", "replace") for t in (text, other_text)]
    return Pair(ids, other, (shown[0], shown[1]), tokens[0], tokens[1])


def _sweep(
    model: Model,
    pair: Pair,
    chosen: Sequence[Point],
    directions: Sequence[str],
    batch_tokens: int,
) -> tuple[list[dict[str, Any]], list[float]]:
    """Rows of one pair, and the metrics of its two runs."""
    import numpy as np

    n_layers = int(model.config["n_layers"])
    reads = [
        (point.name, layer)
        for point in chosen
        for layer in range(n_layers if point.has_layer else 1)
    ]
    runs = [read_run(model, ids, reads, pair.wants) for ids in (pair.clean, pair.corrupted)]
    metrics = [float(logprobs[0] - logprobs[1]) for _, logprobs in runs]
    first = next(
        i for i, (a, b) in enumerate(zip(pair.clean, pair.corrupted, strict=True)) if a != b
    )
    by_name = {point.name: point for point in chosen}
    rows: list[dict[str, Any]] = []
    for direction in directions:
        source = 0 if direction == "denoising" else 1
        activations = runs[source][0]
        values = np.concatenate([activations[read].reshape(-1) for read in reads])
        places, variants, offset = [], [], 0
        for name, layer in reads:
            point = by_name[name]
            for position in range(len(pair.clean)):
                for head in range(point.heads):
                    at = offset + (position * point.heads + head) * point.width
                    places.append((point, layer, head, position))
                    if position >= first:
                        variants.append(
                            [
                                Change(
                                    position, SET, name, layer, at, head if point.heads > 1 else -1
                                )
                            ]
                        )
            offset += len(pair.clean) * point.heads * point.width
        ids = pair.corrupted if direction == "denoising" else pair.clean
        base, found = Sweep(model, ids, [], values, pair.wants, batch_tokens).run(variants)
        patched = iter((found[:, 0] - found[:, 1]).tolist())
        untouched = float(base[0] - base[1])
        for point, layer, head, position in places:
            metric = next(patched) if position >= first else untouched
            effect = float(
                patching_effect(metric, metrics[0], metrics[1], denoising=direction == "denoising")
            )
            rows.append(
                {
                    "direction": direction,
                    "point": point.name,
                    "layer": layer if point.has_layer else None,
                    "head": head if point.heads > 1 else None,
                    "position": position,
                    "token": model.decode([pair.clean[position]]),
                    "metric": metric,
                    "effect": effect if np.isfinite(effect) else None,
                }
            )
    return rows, metrics
