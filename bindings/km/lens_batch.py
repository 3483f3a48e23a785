"""The logit lens of many prompts: all layers in one pass, and from which layer answers lead."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from km import _km
from km import recall_summary as summary
from km.answers import ids_and_text, target_token
from km.arguments import MOST_TOKENS, one_each, several, whole_number
from km.errors import ArgumentError
from km.progress import Progress, ProgressReporter
from km.result import Result, content_key, make_provenance
from km.table import Column, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from km.model import Ids, Model

LOGIT_LENS_ID = "interpretability.logit_lens"
LOGIT_LENS_VERSION = 1

COLUMNS = [
    Column("prompt", "int64", "", "Index of the prompt."),
    Column("layer", "int64", "layer", "Block read after; the number of blocks is the output."),
    Column("target_id", "int64", "", "Token followed through the layers."),
    Column("target", "text", "", "Its text."),
    Column("rank", "int64", "rank", "Tokens strictly more likely than the target."),
    Column("logprob", "double", "nats", "Log-probability of the target."),
    Column("top_id", "int64", "", "Most likely token."),
    Column("top_token", "text", "", "Its text."),
    Column("top_probability", "double", "probability", "Its probability."),
    Column("top_ids", "text", "", "The most likely tokens, best first, a JSON array."),
    Column("top_tokens", "text", "", "Their texts, a JSON array."),
    Column("top_probabilities", "text", "probability", "Their probabilities, a JSON array."),
]

CAUTION = (
    "The logit lens reads states through the final norm and unembedding, which the layers below "
    "were not trained for: a description, not a test of where knowledge sits."
)


class LogitLens(Result):
    """What :func:`logit_lens` returns: one row a prompt and layer.

    Attributes
    ----------
    table : Table
    control : Table or None
        The same rows for the same architecture with random weights.
    survival : Table
        Share of prompts in which the target does not yet lead the vocabulary for good, after each
        layer, beside random weights.
    lead : tuple of (int or None, float or None, int)
        Median layer from which the target leads (None: more than half never do), share that never
        does (censored), n.
    control_lead : tuple
        The same for random weights.
    evidence : list of dict
    notes : list of str
    """

    def __init__(
        self,
        table: Table,
        control: Table | None,
        provenance: dict[str, Any],
        chunks: Sequence[tuple[str, Table]],
    ) -> None:
        super().__init__(table, provenance)
        self.control = control
        self.chunks = list(chunks)
        n_layers = int(self.parameters["n_layers"])
        rows = lead_rows(table, n_layers)
        others = None if control is None else lead_rows(control, n_layers)
        self.survival = Table.from_rows(
            summary.SURVIVAL_COLUMNS, summary.survival(rows, others, n_layers)
        )
        self.lead = summary.median_lead(rows, n_layers)
        self.control_lead = summary.median_lead(others or [], n_layers)
        self.notes = [CAUTION]
        if control is None:
            self.notes.append("The random-initialised control was not measured.")
        self.evidence = _evidence(self)

    def __repr__(self) -> str:
        median, censored, n = self.lead
        layer = "after the output in more than half" if median is None else f"layer {median}"
        return (
            f"<km.LogitLens {self._title()}: n = {n} prompts, median lead {layer}, "
            f"{100 * (censored or 0):.0f} % never lead>\n{self.survival!r}\n"
            + "\n".join(self.notes)
        )

    def draw(self, **options: Any) -> Any:
        """The picture :func:`km.draw.survival` makes of it."""
        from km.draw import survival

        return survival(self, **{"over": "the vocabulary", **options})


def lead_rows(table: Table, n_layers: int) -> list[dict[str, Any]]:
    """Of each prompt, the layer from which the target's rank is 0 up to the output."""
    ranks = table.column("rank").reshape(-1, n_layers + 1)
    rows = []
    for own in ranks:
        behind = [layer for layer in range(n_layers + 1) if own[layer] > 0]
        first = behind[-1] + 1 if behind else 0
        rows.append({"lead_censored": first > n_layers, "lead_layer": first})
    return rows


def _evidence(lens: LogitLens) -> list[dict[str, Any]]:
    median, censored, n = lens.lead
    _, beside, n_beside = lens.control_lead
    control = f"; with random weights {100 * beside:.1f} % of {n_beside}" if beside else ""
    note = (
        "First layer from which the target leads the vocabulary up to the output; "
        f"{100 * (censored or 0):.1f} % of {n} prompts never do{control}. {CAUTION}"
    )
    return [
        {
            "node": "logit-lens",
            "measure": LOGIT_LENS_ID,
            "statistic": "median_lead_layer",
            "value": None if median is None else float(median),
            "low": None,
            "high": None,
            "n": n,
            "unit": "layer",
            "baseline": None,
            "note": note,
        }
    ]


def pack(ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Sequences end to end, and where each starts."""
    import numpy as np

    lengths = [len(tokens) for tokens in ids]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.array([t for tokens in ids for t in tokens], dtype=np.int32), offsets


def read_targets(
    model: Model,
    prompts: str | bytes | Ids | Iterable[str | bytes | Ids],
    targets: str | int | Iterable[str | int],
    bos: bool | None,
    name: str = "targets",
) -> tuple[list[list[int]], list[int]]:
    """Ids of each prompt, and the token followed in each; a single prompt may stand by itself.

    Raises
    ------
    ArgumentError
        No prompts, not one target a prompt, or a target that starts no token of its own.
    """
    given = several("prompts", prompts, of_ids=True)
    if not given:
        raise ArgumentError("prompts is empty")
    ids, tokens = [], []
    for i, (prompt, target) in enumerate(
        zip(given, one_each(name, targets, len(given)), strict=True)
    ):
        own, text = ids_and_text(model, prompt, bos)
        if not own:
            raise ArgumentError(f"prompt {i} has no tokens")
        ids.append(own)
        tokens.append(target_token(model, own, text, target, bos, f"prompt {i}: {name[:-1]}"))
    return ids, tokens


def logit_lens(
    model: Model,
    prompts: str | bytes | Ids | Iterable[str | bytes | Ids],
    targets: str | int | Iterable[str | int],
    *,
    top_k: int = 1,
    bos: bool | None = None,
    control: bool = True,
    seed: int = 0,
    batch_tokens: int = 1024,
    progress: Progress = None,
) -> LogitLens:
    """What each layer would say next at the last token of many prompts.

    All layers are read in one pass and all prompts in one forest of tokens, so that common
    beginnings are computed once and no more than one block of logits exists at a time.

    Parameters
    ----------
    model : Model
    prompts : str, bytes or token ids, or an iterable of them
    targets : str or int, or an iterable of them
        One a prompt: the token followed, as an id or as the text that continues the prompt, of
        which the first token is followed.
    top_k : int
        How many of each layer's most likely tokens to list.
    bos : bool, optional
        Start prompts with the beginning-of-sequence token; None: what the model file says.
    control : bool
        Also measure the same architecture with random weights, which doubles the work.
    seed : int
        Of the random weights.
    batch_tokens : int
        Distinct tokens a pass; bounds memory, changes no figure.
    progress : bool or callable, optional

    Returns
    -------
    LogitLens

    Raises
    ------
    ArgumentError
        Prompts and targets do not fit.

    Notes
    -----
    p_l = softmax(W_U norm(h_l)) with h_l the residual stream after block l (nostalgebraist 2020).
    A target *leads* from the first layer on at which, and at every later one up to the output, no
    token is more likely; where it never does it is censored, so the survival curve counts it.
    """
    ids, tokens = read_targets(model, prompts, targets, bos)
    top_k = whole_number("top_k", top_k, 1, int(model.config["vocab_size"]))
    batch_tokens = whole_number("batch_tokens", batch_tokens, 1, MOST_TOKENS)
    seed = whole_number("seed", seed, 0, 2**64 - 1)
    n_layers = int(model.config["n_layers"])
    parameters = {
        "prompts": ids,
        "targets": tokens,
        "top_k": top_k,
        "bos": bos,
        "n_layers": n_layers,
        "control": control,
    }
    provenance = make_provenance(LOGIT_LENS_ID, LOGIT_LENS_VERSION, model, parameters, seed)
    tables = []
    total = len(ids) * (2 if control else 1)
    with ProgressReporter(progress, "logit lens", unit="prompts", total=total) as report:
        for part, own in enumerate([model, *([model.random_like(seed)] if control else [])]):
            report.start_part(part * len(ids))
            tables.append(_measure(own, ids, tokens, top_k, batch_tokens, report))
    shown = {"targets": tokens, "top_k": top_k}
    chunks = [
        (
            content_key(
                LOGIT_LENS_ID,
                LOGIT_LENS_VERSION,
                {**shown, "weights": ["random initialisation", seed] if i else None},
                model.fingerprint,
                ids,
            ),
            table,
        )
        for i, table in enumerate(tables)
    ]
    return LogitLens(tables[0], tables[1] if control else None, provenance, chunks)


def _measure(
    model: Model,
    ids: Sequence[Sequence[int]],
    targets: Sequence[int],
    top_k: int,
    batch_tokens: int,
    report: ProgressReporter,
) -> Table:
    import numpy as np

    packed, offsets = pack(ids)
    found = _km.lens_run(
        model._model,
        packed,
        offsets,
        np.array(targets, dtype=np.int32),
        top_k,
        batch_tokens,
        report,
    )
    rank, logprob, top_ids, top_logprobs = (np.asarray(array) for array in found)
    return _lens_table(model, targets, rank, logprob, top_ids, np.exp(top_logprobs))


def _lens_table(
    model: Model,
    targets: Sequence[int],
    rank: NDArray[np.int64],
    logprob: NDArray[np.float64],
    top_ids: NDArray[np.int32],
    top: NDArray[np.float64],
) -> Table:
    n, n_read = rank.shape
    texts: dict[int, str] = {}

    def text(token: int) -> str:
        if token not in texts:
            texts[token] = model.decode([token])
        return texts[token]

    ids = top_ids.reshape(n * n_read, -1).tolist()
    probabilities = top.reshape(n * n_read, -1).tolist()
    columns: list[Sequence[object]] = [
        [i for i in range(n) for _ in range(n_read)],
        list(range(n_read)) * n,
        [t for t in targets for _ in range(n_read)],
        [text(t) for t in targets for _ in range(n_read)],
        rank.reshape(-1).tolist(),
        logprob.reshape(-1).tolist(),
        [row[0] for row in ids],
        [text(row[0]) for row in ids],
        [row[0] for row in probabilities],
        [_json(row) for row in ids],
        [_json([text(t) for t in row]) for row in ids],
        [_json([_short(p) for p in row]) for row in probabilities],
    ]
    return Table(COLUMNS, columns)


def _json(row: list[Any]) -> str:
    return json.dumps(row, separators=(",", ":"), ensure_ascii=False)


def _short(p: float) -> float:
    """Nine digits, as a float32 probability has."""
    return float(f"{p:.9g}") if math.isfinite(p) else p
