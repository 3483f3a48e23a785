"""Affine lenses: one affine map a layer to the last residual stream, by ridge regression."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km import _km, stats
from km.answers import ids_and_text, target_token
from km.cache import atomic_write
from km.errors import ArgumentError, FormatError
from km.lens import LensResult
from km.lens_batch import pack
from km.progress import Progress, ProgressReporter
from km.result import Result, canonical_json, content_key, make_provenance
from km.table import Column, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from km.model import Ids, Model

AFFINE_LENS_ID = "interpretability.affine_lens"
AFFINE_LENS_VERSION = 1

# A held-out text may not share a run of so many tokens with a fitted one.
OVERLAP = 32
FILE_VERSION = 1

_LAYER = Column("layer", "int64", "layer", "Block read after.")
_FIGURES = [
    ("kl_affine", "nats", "Mean KL(model || affine lens)"),
    ("kl_logit_lens", "nats", "Mean KL(model || plain logit lens)"),
    ("kl_difference", "nats", "The former minus the latter, paired by token"),
    ("agreement_affine", "share", "Tokens at which the affine lens's first choice is the model's"),
    ("agreement_logit_lens", "share", "The same for the plain logit lens"),
]
CONTROL_COLUMNS = [
    _LAYER,
    Column("n", "int64", "tokens", "Tokens judged."),
    *(Column(name, "double", unit, f"{text}.") for name, unit, text in _FIGURES),
]
COLUMNS = [
    _LAYER,
    Column("n", "int64", "tokens", "Tokens judged: all but the first of each text."),
    Column("n_texts", "int64", "texts", "Texts, which the intervals count as independent."),
    *(
        column
        for name, unit, text in _FIGURES
        for column in (
            Column(name, "double", unit, f"{text}."),
            Column(f"{name}_low", "double", unit, "Lower end of its interval."),
            Column(f"{name}_high", "double", unit, "Upper end."),
        )
    ),
    Column("interval", "text", "", "Method of the intervals; null below two texts."),
]
PROMPT_COLUMNS = [
    Column("layer", "int64", "layer", "Block read after; the number of blocks is the output."),
    Column("target_id", "int64", "", "Token followed through the layers."),
    Column("target", "text", "", "Its text."),
    Column("rank", "int64", "rank", "Tokens strictly more likely than the target."),
    Column("logprob", "double", "nats", "Log-probability of the target."),
    Column("probability", "double", "probability", "Probability of the target."),
    Column("entropy", "double", "nats", "Entropy of the layer's distribution."),
    Column("top_id", "int64", "", "Most likely token."),
    Column("top_token", "text", "", "Its text."),
    Column("top_probability", "double", "probability", "Its probability."),
    Column("top_ids", "text", "", "The most likely tokens, best first, a JSON array."),
    Column("top_tokens", "text", "", "Their texts, a JSON array."),
    Column("top_probabilities", "text", "probability", "Their probabilities, a JSON array."),
]

CAUTION = (
    "A fitted map can find what the model itself does not use: a description of what is linearly "
    "readable, to be read beside random weights, not a test of where knowledge sits."
)


class AffineLens:
    """One affine map a layer, from its residual stream to the one after the last block.

    Made by :meth:`fit` or :meth:`load`. Reading a layer means: map, then the model's own final norm
    and unembedding.

    Attributes
    ----------
    model : Model
    weights : (L, D, D) float32
        y = weights[l] @ x + biases[l]; those of the last layer are the identity.
    biases : (L, D) float32
    texts : list of list of int
        Token ids the lens was fitted on.
    provenance : dict

    Notes
    -----
    After Din et al. 2023 (Jump to Conclusions, arXiv 2303.09435): the maps minimise squared
    distance, in closed form. This is not the tuned lens of Belrose et al. 2023 (arXiv 2303.08112),
    whose maps are trained on the KL divergence of the predictions; its figures differ. Here the
    ridge penalises the distance from the identity, so the lens falls back on the plain logit lens.
    """

    def __init__(
        self,
        model: Model,
        weights: NDArray[np.float32],
        biases: NDArray[np.float32],
        texts: Sequence[Sequence[int]],
        provenance: dict[str, Any],
    ) -> None:
        self.model = model
        self.weights = weights
        self.biases = biases
        self.texts = [list(text) for text in texts]
        self.provenance = provenance

    def __repr__(self) -> str:
        n = sum(len(text) - 1 for text in self.texts)
        return (
            f"<km.AffineLens of {self.model.name}: {len(self.weights)} layers, fitted on {n} "
            f"tokens of {len(self.texts)} texts, ridge {self.ridge:g}>"
        )

    @property
    def ridge(self) -> float:
        """Weight of the penalty, as given to :meth:`fit`."""
        return float(self.provenance["parameters"]["ridge"])

    @classmethod
    def fit(
        cls,
        model: Model,
        texts: Iterable[str | bytes | Ids],
        *,
        ridge: float = 0.01,
        bos: bool | None = None,
        batch_tokens: int = 1024,
        progress: Progress = None,
    ) -> AffineLens:
        """Fit the maps by ridge regression.

        Parameters
        ----------
        model : Model
        texts : iterable of str, bytes or token ids
            At least two tokens each, none longer than the model's context. The first token of a
            text is left out: attention sinks there are many times larger than all other streams.
            Use many more tokens than the model is wide.
        ridge : float
            Positive: the penalty on the squared distance of the weights from the identity, in
            units of tokens times the mean variance of an element of the stream.
        bos : bool, optional
            Start texts with the beginning-of-sequence token; None: what the model file says.
        batch_tokens : int
            Tokens of a pass, of which the streams of all layers are held; changes no figure.
        progress : bool or callable, optional

        Returns
        -------
        AffineLens

        Raises
        ------
        ArgumentError
            Texts are missing or too short, or the ridge is not positive.
        MemoryError
            The sums, 16 L D^2 bytes (159 MB for 30 layers of width 576), or the streams do not
            fit; nothing has been computed then.
        """
        ids = _read_texts(model, texts, bos)
        parameters = {"ridge": ridge, "bos": bos, "n_layers": int(model.config["n_layers"])}
        with ProgressReporter(progress, "affine lens", unit="texts", total=len(ids)) as report:
            weights, biases = _fit(model, ids, ridge, batch_tokens, report)
        provenance = make_provenance(AFFINE_LENS_ID, AFFINE_LENS_VERSION, model, parameters)
        return cls(model, weights, biases, ids, provenance)

    def evaluate(
        self,
        texts: Iterable[str | bytes | Ids],
        *,
        control: bool = True,
        seed: int = 0,
        confidence: float = 0.95,
        batch_tokens: int = 1024,
        progress: Progress = None,
    ) -> AffineLensEvaluation:
        """Compare the lens with the model's output on texts it was not fitted on.

        Parameters
        ----------
        texts : iterable of str, bytes or token ids
            Held out: none may share a run of 32 tokens (or all of its tokens) with a fitted text.
        control : bool
            Also fit and evaluate a lens of the same architecture with random weights on the same
            texts, which more than doubles the work.
        seed : int
            Of the random weights and of the bootstrap.
        confidence : float
            Coverage of the intervals, clustered by text.
        batch_tokens : int
            Tokens of a pass; changes no figure.
        progress : bool or callable, optional

        Returns
        -------
        AffineLensEvaluation

        Raises
        ------
        ArgumentError
            Texts are missing or too short, or overlap with those the lens was fitted on; or the
            confidence is none.
        """
        if not 0.0 < confidence < 1.0:
            raise ArgumentError(f"confidence is {confidence}; it must lie between 0 and 1")
        bos = self.provenance["parameters"]["bos"]
        ids = _read_texts(self.model, texts, bos)
        _check_overlap(self.texts, ids)
        parameters = {
            **self.provenance["parameters"],
            "fitted": self.texts,
            "texts": ids,
            "control": control,
            "seed": seed,
            "confidence": confidence,
        }
        provenance = make_provenance(
            AFFINE_LENS_ID, AFFINE_LENS_VERSION, self.model, parameters, seed
        )
        steps = [len(ids)] + ([len(self.texts), len(ids)] if control else [])
        with ProgressReporter(progress, "affine lens", unit="texts", total=sum(steps)) as report:
            figures = _figures(self.model, self.weights, self.biases, ids, batch_tokens, report)
            table = _table(figures, ids, confidence, seed)
            other = None
            if control:
                random = self.model.random_like(seed)
                report.start_part(steps[0])
                maps = _fit(random, self.texts, self.ridge, batch_tokens, report)
                report.start_part(sum(steps[:2]))
                other = _control_table(_figures(random, *maps, ids, batch_tokens, report))
        key = {name: parameters[name] for name in ("ridge", "seed", "confidence")}
        chunks = [
            (
                content_key(
                    AFFINE_LENS_ID,
                    AFFINE_LENS_VERSION,
                    {**key, "weights": ["random initialisation", seed] if i else None},
                    self.model.fingerprint,
                    [*self.texts, [], *ids],
                ),
                part,
            )
            for i, part in enumerate([table, *([other] if other is not None else [])])
        ]
        return AffineLensEvaluation(table, other, provenance, chunks)

    def __call__(
        self, prompt: str | bytes | Ids, target: str | int, *, top_k: int = 5
    ) -> LensResult:
        """What each layer would say next after a prompt, read through its map.

        Parameters
        ----------
        prompt : str, bytes or token ids
        target : str or int
            The token followed, as in :meth:`km.Model.lens`.
        top_k : int
            How many of each layer's most likely tokens to list.

        Returns
        -------
        LensResult
            One row a layer, and one for the model's output, with the columns of
            :meth:`km.Model.lens`.
        """
        import numpy as np

        if top_k < 1:
            raise ArgumentError(f"top_k is {top_k}; it must be at least 1")
        model = self.model
        bos = self.provenance["parameters"]["bos"]
        ids, text = ids_and_text(model, prompt, bos)
        token = target_token(model, ids, text, target, bos)
        found = _km.affine_lens_run(
            model._model,
            self.weights,
            self.biases,
            *pack([ids]),
            np.array([token], dtype=np.int32),
            top_k,
        )
        table = _prompt_table(model, token, [np.asarray(array)[0] for array in found])
        shown = text.decode("utf-8", "replace")
        parameters = {
            **self.provenance["parameters"],
            "fitted": self.texts,
            "prompt": shown,
            "answer": model.decode([token]),
            "ids": ids,
            "target": token,
            "top_k": top_k,
        }
        provenance = make_provenance(AFFINE_LENS_ID, AFFINE_LENS_VERSION, model, parameters)
        return LensResult(table, provenance, shown, parameters["answer"])

    # ---- files ----

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the lens to a file of numpy's npz format; a failure leaves nothing behind.

        Returns
        -------
        Path
        """
        import numpy as np

        target = Path(path)
        ids, offsets = pack(self.texts)
        about = {
            "format": FILE_VERSION,
            "fingerprint": self.model.fingerprint,
            "provenance": canonical_json(self.provenance),
        }
        with atomic_write(target) as file:
            np.savez(
                file,
                weights=self.weights,
                biases=self.biases,
                ids=ids,
                offsets=offsets,
                about=np.array(json.dumps(about)),
            )
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model) -> AffineLens:
        """Read a lens that :meth:`save` wrote.

        Raises
        ------
        ArgumentError
            The lens is of another model: the fingerprints of the weights differ.
        FormatError
            The file is not a lens.
        """
        import zipfile

        import numpy as np

        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(str(arrays["about"]))
            provenance = json.loads(about["provenance"])
            version, fingerprint = about["format"], about["fingerprint"]
            bounds = arrays["offsets"].tolist()
            flat = arrays["ids"].tolist()
            weights, biases = arrays["weights"], arrays["biases"]
        except OSError:
            raise
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            zipfile.BadZipFile,
        ) as error:
            raise FormatError(f"{path}: not a lens that AffineLens.save wrote ({error})") from None
        if version != FILE_VERSION:
            raise FormatError(f"{path}: format {version}; this km reads {FILE_VERSION}")
        if fingerprint != model.fingerprint:
            of = provenance["model"]["name"]
            raise ArgumentError(
                f"{path}: a lens of {of}, whose weights are not those of {model.name} "
                f"(fingerprints {fingerprint[:12]} and {model.fingerprint[:12]})"
            )
        n, width = int(model.config["n_layers"]), int(model.config["d_model"])
        if weights.shape != (n, width, width) or biases.shape != (n, width):
            raise FormatError(f"{path}: maps of shape {weights.shape} and {biases.shape}")
        if weights.dtype != np.float32 or biases.dtype != np.float32:
            raise FormatError(f"{path}: maps of {weights.dtype} and {biases.dtype}, not float32")
        texts = [flat[a:b] for a, b in pairwise(bounds)]
        return cls(model, weights, biases, texts, provenance)


class AffineLensEvaluation(Result):
    """What :meth:`AffineLens.evaluate` returns: one row a layer.

    Attributes
    ----------
    table : Table
        Both lenses beside the model's output, with intervals clustered by text.
    control : Table or None
        The means for the same architecture with random weights, lens fitted on the same texts.
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
        self.notes = [
            "Affine maps by regression (Din et al. 2023), not the KL-trained tuned lens of Belrose "
            "et al. 2023.",
            CAUTION,
        ]
        if control is None:
            self.notes.append("The random-initialised control was not measured.")
        self.evidence = _evidence(self)

    def __repr__(self) -> str:
        beside = "" if self.control is None else f"\nrandom weights:\n{self.control!r}"
        return "\n".join(
            [f"<km.AffineLensEvaluation {self._title()}>", f"{self.table!r}{beside}", *self.notes]
        )


def _read_texts(
    model: Model, texts: Iterable[str | bytes | Ids], bos: bool | None
) -> list[list[int]]:
    if isinstance(texts, str | bytes):
        raise ArgumentError("texts must be a sequence of texts; put a single one into a list")
    ids = [ids_and_text(model, text, bos)[0] for text in texts]
    if not ids:
        raise ArgumentError("texts is empty; an affine lens needs at least one text")
    context = int(model.config["context_length"])
    for i, own in enumerate(ids):
        if len(own) < 2:
            raise ArgumentError(f"text {i} has {len(own)} tokens; it needs at least two")
        if len(own) > context:
            raise ArgumentError(
                f"text {i} has {len(own)} tokens and the model's context {context}; cut it up"
            )
    return ids


def _runs(text: Sequence[int], length: int) -> Iterable[tuple[int, ...]]:
    return (tuple(text[i : i + length]) for i in range(len(text) - length + 1))


def _check_overlap(fitted: Sequence[Sequence[int]], held_out: Sequence[Sequence[int]]) -> None:
    seen: dict[int, set[tuple[int, ...]]] = {}
    for i, text in enumerate(held_out):
        length = min(OVERLAP, len(text))
        if length not in seen:
            seen[length] = {run for own in fitted for run in _runs(own, length)}
        if any(run in seen[length] for run in _runs(text, length)):
            raise ArgumentError(
                f"text {i} shares {length} tokens in a row with a text the lens was fitted on; "
                "evaluate it on other texts"
            )


def _fit(
    model: Model,
    ids: Sequence[Sequence[int]],
    ridge: float,
    batch_tokens: int,
    report: ProgressReporter,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    import numpy as np

    weights, biases = _km.affine_lens_fit(model._model, *pack(ids), ridge, batch_tokens, report)
    return np.asarray(weights), np.asarray(biases)


def _figures(
    model: Model,
    weights: NDArray[np.float32],
    biases: NDArray[np.float32],
    ids: Sequence[Sequence[int]],
    batch_tokens: int,
    report: ProgressReporter,
) -> list[NDArray[np.float64]]:
    """Of each token and layer, in the order of _FIGURES."""
    import numpy as np

    found = _km.affine_lens_evaluate(
        model._model, weights, biases, *pack(ids), batch_tokens, report
    )
    kl_affine, kl_logit, agree_affine, agree_logit = (np.asarray(array) for array in found)
    return [kl_affine, kl_logit, kl_affine - kl_logit, agree_affine, agree_logit]


def _table(
    figures: Sequence[NDArray[np.float64]],
    ids: Sequence[Sequence[int]],
    confidence: float,
    seed: int,
) -> Table:
    text_of = [i for i, text in enumerate(ids) for _ in text[1:]]
    options: dict[str, Any] = {"confidence": confidence, "seed": seed}
    rows = []
    for layer in range(figures[0].shape[1]):
        row: dict[str, Any] = {"layer": layer, "n": len(text_of), "n_texts": len(ids)}
        row["interval"] = None
        for (name, unit, _), values in zip(_FIGURES, figures, strict=True):
            x = values[:, layer]
            row[name] = float(x.mean())
            row[f"{name}_low"] = row[f"{name}_high"] = None
            if len(ids) > 1:
                options["proportion"] = unit == "share"
                spread = stats.clustered_bootstrap(x, text_of, **options)
                row[f"{name}_low"], row[f"{name}_high"] = spread.low, spread.high
                row["interval"] = row["interval"] or spread.method
        rows.append(row)
    return Table.from_rows(COLUMNS, rows)


def _control_table(figures: Sequence[NDArray[np.float64]]) -> Table:
    rows = []
    for layer in range(figures[0].shape[1]):
        row: dict[str, Any] = {"layer": layer, "n": len(figures[0])}
        for (name, _, _), values in zip(_FIGURES, figures, strict=True):
            row[name] = float(values[:, layer].mean())
        rows.append(row)
    return Table.from_rows(CONTROL_COLUMNS, rows)


def _evidence(result: AffineLensEvaluation) -> list[dict[str, Any]]:
    """The difference from the plain logit lens at the layer in the middle, chosen beforehand."""
    layer = (len(result.table) - 1) // 2
    row = result.table.row(layer)
    control = ""
    if result.control is not None:
        beside = result.control.row(layer)
        control = (
            f"; with random weights {beside['kl_affine']:.3f} and {beside['kl_logit_lens']:.3f}"
        )
    return [
        {
            "node": "logit-lens",
            "measure": AFFINE_LENS_ID,
            "statistic": f"kl_affine_minus_logit_lens_layer_{layer}",
            "value": row["kl_difference"],
            "low": row["kl_difference_low"],
            "high": row["kl_difference_high"],
            "n": row["n"],
            "unit": "nats",
            "baseline": 0.0,
            "note": f"KL from the model's output on held-out texts, layer {layer}: affine lens "
            f"{row['kl_affine']:.3f}, plain logit lens {row['kl_logit_lens']:.3f}{control}. "
            f"{CAUTION}",
        }
    ]


def _prompt_table(model: Model, token: int, found: Sequence[NDArray[Any]]) -> Table:
    rank, logprob, entropy, top_ids, top_logprobs = found
    rows = []
    for layer in range(len(rank)):
        ids = top_ids[layer].tolist()
        texts = [model.decode([t]) for t in ids]
        probabilities = [float(f"{math.exp(p):.9g}") for p in top_logprobs[layer].tolist()]
        rows.append(
            {
                "layer": layer,
                "target_id": token,
                "target": model.decode([token]),
                "rank": int(rank[layer]),
                "logprob": float(logprob[layer]),
                "probability": math.exp(logprob[layer]),
                "entropy": float(entropy[layer]),
                "top_id": ids[0],
                "top_token": texts[0],
                "top_probability": math.exp(top_logprobs[layer][0]),
                "top_ids": _json(ids),
                "top_tokens": _json(texts),
                "top_probabilities": _json(probabilities),
            }
        )
    return Table.from_rows(PROMPT_COLUMNS, rows)


def _json(row: list[Any]) -> str:
    return json.dumps(row, separators=(",", ":"), ensure_ascii=False)
