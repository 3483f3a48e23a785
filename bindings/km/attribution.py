"""Direct logit attribution: what each head and each MLP adds to an answer's logit itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from km import _km, stats
from km.arguments import MOST_TOKENS, coverage, several, whole_number
from km.lens_batch import pack, read_targets
from km.progress import Progress, ProgressReporter
from km.result import Result, make_provenance
from km.table import Column, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from km.model import Ids, Model

ATTRIBUTION_ID = "interpretability.logit_attribution"
ATTRIBUTION_VERSION = 1

COLUMNS = [
    Column("prompt", "int64", "", "Index of the prompt."),
    Column("part", "text", "", "embedding, position, head, attention bias, mlp, final norm bias."),
    Column("layer", "int64", "layer", "Null for parts without one."),
    Column("head", "int64", "head", "Null but for heads."),
    Column("logit", "double", "logits", "What the part adds to the logit or logit difference."),
    Column("share", "double", "share", "The same over the whole logit; it may lie outside 0 to 1."),
]

MEAN_COLUMNS = [
    *COLUMNS[1:4],
    Column("mean", "double", "logits", "Mean over prompts."),
    Column("low", "double", "logits", "Lower end of its interval; null below two prompts."),
    Column("high", "double", "logits", "Upper end."),
    Column("shuffled", "double", "logits", "Mean for another prompt's tokens; null without."),
    Column("n", "int64", "prompts", "Prompts."),
]

CAUTION = (
    "Direct effects only: what a part does through later parts is not counted, and the scales of "
    "the norms are held at this run's own. A part that writes as much for another prompt's answer "
    "(shuffled) says nothing about this one."
)


class LogitAttribution(Result):
    """What :func:`logit_attribution` returns: one row a prompt and part.

    Attributes
    ----------
    table : Table
    means : Table
        One row a part: mean over prompts with its interval, beside the control.
    logits : (N) float64
        The logit, or logit difference, that the parts of each prompt add up to.
    residual : float, logits
        Largest distance of a sum of parts from its logit: what float32 leaves open.
    notes : list of str
    """

    def __init__(
        self,
        parts: NDArray[np.float64],
        logits: NDArray[np.float64],
        shuffled: NDArray[np.float64] | None,
        labels: Sequence[tuple[str, int | None, int | None]],
        provenance: dict[str, Any],
    ) -> None:
        super().__init__(_table(parts, logits, labels), provenance)
        self.logits = logits
        self.residual = float(abs(parts.sum(axis=1) - logits).max())
        self.means = Table.from_rows(
            MEAN_COLUMNS, _means(parts, shuffled, labels, float(self.parameters["confidence"]))
        )
        self.notes = [CAUTION]
        if self.parameters["softcap"]:
            self.notes.append("The logit is taken before the model's final soft cap.")
        if shuffled is None:
            self.notes.append("The shuffled control was not measured.")
        self.evidence = _evidence(self, parts)

    def __repr__(self) -> str:
        rows = sorted(self.means.rows(), key=lambda row: -abs(row["mean"]))[:10]
        lines = [
            f"<km.LogitAttribution {self._title()}: n = {len(self.logits)} prompts>",
            f"largest of {len(self.means)} parts, chosen after looking; each interval is its own:",
        ]
        lines += [
            f"{name(row):<22} {row['mean']:+.3f}"
            + (f" [{row['low']:+.3f}, {row['high']:+.3f}]" if row["low"] is not None else "")
            + (f", shuffled {row['shuffled']:+.3f}" if row["shuffled"] is not None else "")
            for row in rows
        ]
        return "\n".join([*lines, *self.notes])

    def draw(self, **options: Any) -> Any:
        """The picture :func:`km.draw.attribution` makes of the means."""
        from km.draw import attribution

        return attribution(self, **options)


def name(row: Any) -> str:
    """A part in one word: "head 5.3" is head 3 of layer 5."""
    if row["part"] == "head":
        return f"head {row['layer']}.{row['head']}"
    return str(row["part"]) if row["layer"] is None else f"{row['part']} {row['layer']}"


def _labels(n_layers: int, n_heads: int) -> list[tuple[str, int | None, int | None]]:
    """Part, layer and head in the order of libkm."""
    labels: list[tuple[str, int | None, int | None]] = [
        ("embedding", None, None),
        ("position", None, None),
    ]
    for layer in range(n_layers):
        labels += [("head", layer, head) for head in range(n_heads)]
        labels += [("attention bias", layer, None), ("mlp", layer, None)]
    return [*labels, ("final norm bias", None, None)]


def _table(
    parts: NDArray[np.float64],
    logits: NDArray[np.float64],
    labels: Sequence[tuple[str, int | None, int | None]],
) -> Table:
    n, m = parts.shape
    shares = [
        [value / logit if logit != 0 else None for value in row]
        for row, logit in zip(parts.tolist(), logits.tolist(), strict=True)
    ]
    return Table(
        COLUMNS,
        [
            [i for i in range(n) for _ in range(m)],
            [part for part, _, _ in labels] * n,
            [layer for _, layer, _ in labels] * n,
            [head for _, _, head in labels] * n,
            parts.reshape(-1).tolist(),
            [share for row in shares for share in row],
        ],
    )


def _means(
    parts: NDArray[np.float64],
    shuffled: NDArray[np.float64] | None,
    labels: Sequence[tuple[str, int | None, int | None]],
    confidence: float,
) -> list[dict[str, Any]]:
    rows = []
    for j, (part, layer, head) in enumerate(labels):
        spread = None
        if len(parts) > 1:
            spread = stats.clustered_bootstrap(parts[:, j], confidence=confidence)
        rows.append(
            {
                "part": part,
                "layer": layer,
                "head": head,
                "mean": float(parts[:, j].mean()),
                "low": spread.low if spread else None,
                "high": spread.high if spread else None,
                "shuffled": None if shuffled is None else float(shuffled[:, j].mean()),
                "n": len(parts),
            }
        )
    return rows


def _evidence(result: LogitAttribution, parts: NDArray[np.float64]) -> list[dict[str, Any]]:
    """The share of the logit that MLPs write directly; a description of reading, not of storage."""
    rows = list(result.means.rows())
    mlp = [j for j, row in enumerate(rows) if row["part"] == "mlp"]
    own = parts[:, mlp].sum(axis=1)
    spread = stats.clustered_bootstrap(own) if len(own) > 1 else None
    shuffled = [rows[j]["shuffled"] for j in mlp]
    return [
        {
            "node": "observation-methods",
            "measure": ATTRIBUTION_ID,
            "statistic": "direct_logit_of_mlps",
            "value": float(own.mean()),
            "low": spread.low if spread else None,
            "high": spread.high if spread else None,
            "n": len(own),
            "unit": "logits",
            "baseline": None if shuffled[0] is None else sum(shuffled),
            "note": f"Of {float(result.logits.mean()):.3f} logits on average; the baseline is the "
            f"same for another prompt's tokens. {CAUTION}",
        }
    ]


def logit_attribution(
    model: Model,
    prompts: str | bytes | Ids | Iterable[str | bytes | Ids],
    targets: str | int | Iterable[str | int],
    contrasts: str | int | Iterable[str | int] | None = None,
    *,
    bos: bool | None = None,
    control: bool = True,
    confidence: float = 0.95,
    batch_tokens: int = 1024,
    progress: Progress = None,
) -> LogitAttribution:
    """Split the logit of a token after each prompt into what each head and each MLP adds to it.

    Parameters
    ----------
    model : Model
    prompts : str, bytes or token ids, or an iterable of them
    targets : str or int, or an iterable of them
        One a prompt: the token as an id, or as the text that continues the prompt, of which the
        first token is taken.
    contrasts : str or int, or an iterable of them, optional
        One a prompt: split the lead of the target's logit over this token's.
    bos : bool, optional
        Start prompts with the beginning-of-sequence token; None: what the model file says.
    control : bool
        Also split, for each prompt, the logits of the next prompt's tokens; needs two prompts.
    confidence : float
        Coverage of the intervals over prompts.
    batch_tokens : int
        Distinct tokens a pass.
    progress : bool or callable, optional

    Returns
    -------
    LogitAttribution

    Raises
    ------
    ArgumentError
        Prompts, targets and contrasts do not fit.

    Notes
    -----
    The residual stream is the sum of the embedding, of each head's z W_O, of the MLPs' outputs and
    of biases. Each summand is read through the final norm, whose scale (for LayerNorm mean and
    scale) is held at that of the whole stream, and the unembedding, so the parts add up to the
    logit (Elhage et al. 2021). A norm on attention's output (Gemma) is held in the same way; one on
    the MLP's output belongs to the MLP. A final soft cap is left out: the logit before it is split.
    """
    given = several("prompts", prompts, of_ids=True)
    ids, tokens = read_targets(model, given, targets, bos)
    others = [-1] * len(ids)
    if contrasts is not None:
        _, others = read_targets(model, given, contrasts, bos, "contrasts")
    confidence = coverage(confidence)
    batch_tokens = whole_number("batch_tokens", batch_tokens, 1, MOST_TOKENS)
    rounds = 2 if control and len(ids) > 1 else 1
    with ProgressReporter(progress, "attribution", unit="prompts", total=rounds * len(ids)) as bar:
        parts, logits = _run(model, ids, tokens, others, batch_tokens, bar)
        shuffled = None
        if rounds > 1:
            bar.start_part(len(ids))
            turned = [values[1:] + values[:1] for values in (tokens, others)]
            shuffled, _ = _run(model, ids, turned[0], turned[1], batch_tokens, bar)
    config = model.config
    parameters = {
        "prompts": ids,
        "targets": tokens,
        "contrasts": None if contrasts is None else others,
        "bos": bos,
        "control": control,
        "confidence": confidence,
        "softcap": float(config.get("final_softcap", 0.0)),
    }
    provenance = make_provenance(ATTRIBUTION_ID, ATTRIBUTION_VERSION, model, parameters)
    labels = _labels(int(config["n_layers"]), int(config["n_heads"]))
    return LogitAttribution(parts, logits, shuffled, labels, provenance)


def _run(
    model: Model,
    ids: Sequence[Sequence[int]],
    tokens: Sequence[int],
    contrasts: Sequence[int],
    batch_tokens: int,
    report: ProgressReporter,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import numpy as np

    packed, offsets = pack(ids)
    parts, logits = _km.attribution_run(
        model._model,
        packed,
        offsets,
        np.array(tokens, dtype=np.int32),
        np.array(contrasts, dtype=np.int32),
        batch_tokens,
        report,
    )
    return np.asarray(parts), np.asarray(logits)
