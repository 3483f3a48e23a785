"""Verbatim memorization: how much of given texts a model reproduces, and exposure of canaries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from km import _km
from km.errors import ArgumentError
from km.progress import Progress, ProgressReporter
from km.result import Result, make_provenance
from km.scores import memorization as scores
from km.table import Column, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from km.model import Model

VERBATIM_ID = "memorization.verbatim"
VERBATIM_VERSION = 1

MEMBERSHIP_WARNING = (
    "Likelihood scores (loss, min-k, zlib and their kin) are no verdict on membership: without "
    "non-members of the same distribution, and the AUC of a classifier that never saw the model, "
    "they measure how ordinary a text is."
)

VERBATIM_COLUMNS = [
    Column("text", "int64", "", "Index of the text."),
    Column("n_tokens", "int64", "tokens", "Tokens of the text, BOS included."),
    Column("n_bytes", "int64", "bytes", "UTF-8 bytes of the text."),
    Column("prefix", "int64", "tokens", "Tokens given."),
    Column("suffix", "int64", "tokens", "Tokens to be reproduced; null when the text is short."),
    Column("extractable", "bool", "", "Greedy decoding from the prefix yields the suffix."),
    Column("match_fraction", "double", "share", "Suffix tokens that are the argmax, true context."),
    Column("matching_prefix", "int64", "tokens", "Suffix tokens before the first miss."),
    Column("suffix_logp", "double", "nats", "Log-probability of the suffix given the prefix."),
    Column("loss", "double", "nats/token", "Mean negative log-probability of all tokens."),
    Column("bits_per_byte", "double", "bits/byte", "All tokens' surprisal by byte of text."),
    Column("min_k", "double", "nats", "Mean of the least likely tokens (Min-K% Prob)."),
    Column("min_k_plus_plus", "double", "", "The same, standardised by position (Min-K%++)."),
    Column("zlib_bytes", "int64", "bytes", "Length of the text after zlib."),
    Column("zlib_ratio", "double", "nats/byte", "loss / zlib_bytes."),
    Column("zlib_per_loss", "double", "bytes/nat", "zlib_bytes / loss (Carlini et al. 2021)."),
]

EXPOSURE_COLUMNS = [
    Column("canary", "text", "", "What was inserted."),
    Column("log_perplexity", "double", "bits", "-log2 p(canary | prefix)."),
    Column("rank", "int64", "rank", "1 + number of references less perplexing."),
    Column("exposure", "double", "bits", "log2 of the space minus log2 rank."),
    Column("n_references", "int64", "references", "References it was ranked among."),
    Column("enumerated", "bool", "", "The references are all other members of the space."),
]


class Verbatim(Result):
    """What :func:`verbatim` returns: one row a text.

    Attributes
    ----------
    tokens : Table
        One row a token after the first of each text.
    notes : list of str
        What a reader has to know, the warning about membership first.
    evidence : list of dict
        What the measurement says about the taxonomy.
    """

    def __init__(self, table: Table, tokens: Table, provenance: dict[str, Any]) -> None:
        super().__init__(table, provenance)
        self.tokens = tokens
        short = sum(cell is None for cell in table["extractable"])
        self.notes = [MEMBERSHIP_WARNING]
        if short:
            self.notes.append(
                f"{short} of {len(table)} texts are shorter than prefix and suffix together: "
                "nothing is said about their extraction."
            )
        self.evidence = _verbatim_evidence(table, int(provenance["parameters"]["prefix"]))

    def __repr__(self) -> str:
        return "\n".join([super().__repr__(), *self.notes])


class ExposureResult(Result):
    """What :func:`exposure` returns: one row a canary.

    Attributes
    ----------
    references : (R) float64, bits
        Log-perplexities of the references.
    """

    def __init__(
        self, table: Table, references: NDArray[np.float64], provenance: dict[str, Any]
    ) -> None:
        super().__init__(table, provenance)
        self.references = references


# ---- verbatim ----


def verbatim(
    model: Model,
    texts: str | Iterable[str],
    *,
    prefix: int = 50,
    suffix: int = 50,
    min_k_ratio: float = 0.2,
    bos: bool | None = None,
    batch_tokens: int = 1024,
    progress: Progress = None,
) -> Verbatim:
    """Measure how much of texts a model reproduces.

    One pass a text, with the true tokens before each: a suffix whose every token is the argmax is
    exactly what greedy decoding from the prefix yields.

    Parameters
    ----------
    model : Model
    texts : str or iterable of str
    prefix, suffix : int
        Tokens given and tokens to be reproduced after them, BOS not counted.
    min_k_ratio : float
        Share of tokens that min-k takes.
    bos : bool, optional
        Start with the beginning-of-sequence token; None: what the model file says.
    batch_tokens : int
        Tokens a forward pass.
    progress : bool or callable, optional

    Returns
    -------
    Verbatim
        Texts with fewer than prefix + suffix tokens have no extraction figures. Likelihood scores
        carry the warning that they are no verdict on membership.

    Raises
    ------
    ArgumentError
        No texts, a text of fewer than two tokens, prefix or suffix below 1.
    """
    if prefix < 1 or suffix < 1:
        raise ArgumentError("prefix and suffix must be at least 1")
    given = [texts] if isinstance(texts, str) else list(texts)
    ids = [model.encode(text, bos=bos) for text in given]
    for i, tokens in enumerate(ids):
        if len(tokens) < 2:
            raise ArgumentError(f"text {i} has {len(tokens)} tokens; at least 2 are needed")
    if not ids:
        raise ArgumentError("there are no texts")
    packed, offsets = _pack(ids)
    with ProgressReporter(progress, "verbatim", unit="texts", total=len(ids)) as report:
        table = Table.wrap(_km.verbatim_run(model._model, packed, offsets, batch_tokens, report))
    starts = [int(bool(tokens and tokens[0] == model.bos and bos is not False)) for tokens in ids]
    rows = _text_rows(table, given, ids, starts, prefix, suffix, min_k_ratio)
    parameters = {
        "texts": ids,
        "prefix": prefix,
        "suffix": suffix,
        "min_k_ratio": min_k_ratio,
        "bos": bos,
    }
    provenance = make_provenance(VERBATIM_ID, VERBATIM_VERSION, model, parameters)
    return Verbatim(Table.from_rows(VERBATIM_COLUMNS, rows), table, provenance)


def _pack(ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    import numpy as np

    lengths = [len(tokens) for tokens in ids]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.array([t for tokens in ids for t in tokens], dtype=np.int32), offsets


def _text_rows(
    table: Table,
    texts: Sequence[str],
    ids: Sequence[Sequence[int]],
    starts: Sequence[int],
    prefix: int,
    suffix: int,
    ratio: float,
) -> list[dict[str, Any]]:
    columns = {name: table.column(name) for name in ("logp", "is_argmax", "mu", "sigma2")}
    rows = []
    at = 0
    for i, (text, tokens, start) in enumerate(zip(texts, ids, starts, strict=True)):
        part = {name: values[at : at + len(tokens) - 1] for name, values in columns.items()}
        at += len(tokens) - 1
        row = {"text": i, "n_tokens": len(tokens), "prefix": prefix}
        rows.append(
            row
            | _likelihood(part, text, ratio)
            | _extraction(part, start + prefix, suffix, len(tokens))
        )
    return rows


def _likelihood(part: dict[str, Any], text: str, ratio: float) -> dict[str, Any]:
    data = text.encode("utf-8")
    loss = scores.loss(part["logp"])
    length = scores.zlib_length(data)
    return {
        "n_bytes": len(data),
        "loss": loss,
        "bits_per_byte": loss * len(part["logp"]) / math.log(2) / len(data) if data else None,
        "min_k": _known(scores.min_k(part["logp"], ratio)),
        "min_k_plus_plus": _known(
            scores.min_k_plus_plus(part["logp"], part["mu"], part["sigma2"], ratio)
        ),
        "zlib_bytes": length,
        "zlib_ratio": loss / length,
        "zlib_per_loss": length / loss if loss > 0 else None,
    }


def _extraction(part: dict[str, Any], first: int, suffix: int, n: int) -> dict[str, Any]:
    """Of the suffix that starts at token `first`; row t judges token t + 1."""
    if n < first + suffix:
        return {}
    hits = part["is_argmax"][first - 1 : first - 1 + suffix]
    misses = [i for i, hit in enumerate(hits) if not hit]
    return {
        "suffix": suffix,
        "extractable": not misses,
        "match_fraction": float(hits.mean()),
        "matching_prefix": misses[0] if misses else suffix,
        "suffix_logp": float(part["logp"][first - 1 : first - 1 + suffix].sum()),
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _verbatim_evidence(table: Table, prefix: int) -> list[dict[str, Any]]:
    from km import stats

    known = [bool(cell) for cell in table["extractable"] if cell is not None]
    if not known:
        return []
    found = stats.wilson(sum(known), len(known))
    return [
        {
            "node": "memorization",
            "measure": VERBATIM_ID,
            "statistic": "extractable_share",
            "value": found.estimate,
            "low": found.low,
            "high": found.high,
            "n": len(known),
            "unit": "share",
            "baseline": None,
            "note": f"Texts whose suffix greedy decoding reproduces from {prefix} tokens; Wilson "
            "interval, texts taken as independent.",
        }
    ]


# ---- exposure ----


def exposure(
    model: Model,
    canaries: str | Iterable[str],
    references: Iterable[str],
    *,
    prefix: str = "",
    enumerated: bool = False,
    bos: bool | None = None,
    batch_tokens: int = 1024,
    progress: Progress = None,
) -> ExposureResult:
    """Exposure of canaries: how far ahead of random alternatives a model puts them.

    Parameters
    ----------
    model : Model
    canaries : str or iterable of str
        What was inserted into training, such as "281265017".
    references : iterable of str
        Other members of the same space: a random sample, or all of them with `enumerated`.
    prefix : str
        Text before canary and reference, such as "The random number is "; with it, only what
        follows is scored. Blanks at its end belong to what follows.
    enumerated : bool
        The references are all other members, so the space has one member more.
    bos : bool, optional
        None: what the model file says.
    batch_tokens : int
    progress : bool or callable, optional

    Returns
    -------
    ExposureResult

    Raises
    ------
    ArgumentError
        No canary or reference, or nothing is left to score.

    Notes
    -----
    exposure = log2 of the space minus log2 rank (Carlini et al. 2019). From a sample of R
    references it cannot exceed log2 R.
    """
    names = [canaries] if isinstance(canaries, str) else list(canaries)
    others = list(references)
    if not names or not others:
        raise ArgumentError("exposure needs at least one canary and one reference")
    scored = _log_perplexities(model, prefix, names + others, bos, batch_tokens, progress)
    own, rest = scored[: len(names)], scored[len(names) :]
    space = math.log2(len(others) + 1) if enumerated else None
    found = scores.exposure(own, rest, log2_space=space)
    columns = [
        names, own.tolist(), found.rank.tolist(), found.exposure.tolist(),
        [len(others)] * len(names), [enumerated] * len(names),
    ]  # fmt: skip
    parameters = {
        "canaries": names,
        "references": others,
        "prefix": prefix,
        "enumerated": enumerated,
        "bos": bos,
    }
    provenance = make_provenance("memorization.exposure", 1, model, parameters)
    return ExposureResult(Table(EXPOSURE_COLUMNS, columns), rest, provenance)


def _log_perplexities(
    model: Model,
    prefix: str,
    texts: Sequence[str],
    bos: bool | None,
    batch_tokens: int,
    progress: Progress,
) -> NDArray[np.float64]:
    """-log2 p(text | prefix), bits. Without a prefix the first token is what is conditioned on."""
    import numpy as np

    stem = prefix.rstrip(" ")
    blanks = prefix[len(stem) :]
    before = model.encode(stem, bos=bos) if stem or bos else []
    ids, lengths = [], []
    for text in texts:
        own = model.encode(blanks + text, bos=False)
        given = before or ([model.bos] if model.adds_bos and bos is None and model.bos else [])
        if len(own) + len(given) < 2 or not own:
            raise ArgumentError(f"{text!r}: nothing is left to score")
        ids.append([*given, *own])
        lengths.append(len(given) or 1)
    packed, offsets = _pack(ids)
    with ProgressReporter(progress, "exposure", unit="texts", total=len(ids)) as report:
        scored = _km.continuations_run(
            model._model, packed, offsets, np.array(lengths, dtype=np.int64), batch_tokens, report
        )
    return -np.asarray(scored[2]) / math.log(2)
