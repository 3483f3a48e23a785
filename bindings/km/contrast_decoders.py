"""Decoders that contrast what a model says with what it, or another, says knowing less.

The arithmetic of a step is in :mod:`km.scores.decoding`; definitions: docs/generation.md.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeAlias

from km import _km
from km.arguments import real_number, whole_number
from km.decoders import Choice, Sample
from km.errors import ArgumentError
from km.score import list_prompts
from km.scores import decoding
from km.scores.overshadow import Floor, Select, select_token

if TYPE_CHECKING:
    from km.generate import Branch, Step
    from km.model import Ids, Model

Detect: TypeAlias = Literal["once", "each"]
Remove: TypeAlias = Literal["one", "all"]

_MOST_WEIGHT = 1e6


def _share(name: str, value: float) -> None:
    if real_number(name, value, 0, 1) == 0:
        raise ArgumentError(f"{name} is 0; it must be above 0 and at most 1")


def _one_of(name: str, value: str, *known: str) -> None:
    if value not in known:
        raise ArgumentError(f"{name} is {value!r}; it must be one of {', '.join(known)}")


def _take(step: Step, tokens: Sequence[int]) -> list[Choice]:
    """One token a branch, with the log-probability that the model itself gives it."""
    return [
        Choice(i, token, logprob)
        for i, (token, logprob) in enumerate(zip(tokens, step.at(tokens), strict=True))
    ]


# ---- CoDa ----


@dataclass(frozen=True)
class CoDa:
    """Amplify the prompt's token that the rest overshadows (Zhang et al. 2025).

    Every token of the prompt is left out in turn. The token without which the choice of the next
    one stays most as it is, by the indicator of :func:`km.scores.decoding.overshadowing`, is
    overshadowed; what it changes is amplified (:func:`km.scores.decoding.coda`). Where none is, the
    step is greedy. Special tokens are never left out.

    Parameters
    ----------
    alpha : float
        A token is likely with at least this share of the largest probability.
    floor : {"vtop_min", "neg_min"}
        The floor of the indicator's reward: the least likely of the tokens likely without the
        candidate, or of those likely in both that the candidate makes less likely.
    select : {"min", "max"}
        The candidate with the smallest indicator, if that is negative; or with the largest.
    detect : {"once", "each"}
        Look for the token before the first generated token and keep it, or before each.
    remove : {"one", "all"}
        Contrast with the prompt without the selected token, or without all tokens that have a
        negative indicator.
    mask : int, optional
        Put this token in the place of one left out, so that no other changes its position.
    weight : float
        Of the contrast; 1 in the paper.
    first : int
        Tokens before this position are never left out, such as those of an example.
    """

    alpha: float = 0.01
    floor: Floor = "vtop_min"
    select: Select = "min"
    detect: Detect = "once"
    remove: Remove = "one"
    mask: int | None = None
    weight: float = 1.0
    first: int = 0

    def __post_init__(self) -> None:
        _share("alpha", self.alpha)
        whole_number("first", self.first, 0)
        _one_of("floor", self.floor, "vtop_min", "neg_min")
        _one_of("select", self.select, "min", "max")
        _one_of("detect", self.detect, "once", "each")
        _one_of("remove", self.remove, "one", "all")
        real_number("weight", self.weight, 0, _MOST_WEIGHT)
        if self.mask is not None:
            whole_number("mask", self.mask, 0)
        if self.remove == "all" and self.select == "max":
            raise ArgumentError('remove="all" takes every negative indicator; select must be "min"')

    @property
    def branches(self) -> int:
        """One."""
        return 1

    def describe(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"decoder": "CoDa", **asdict(self)}

    def candidates(self, ids: Sequence[int], model: Model) -> list[int]:
        """Positions of a prompt that are left out in turn."""
        if len(ids) == 1 and self.mask is None:
            return []
        return [i for i in range(self.first, len(ids)) if not model.is_special(ids[i])]

    def without(self, ids: Sequence[int], positions: Sequence[int]) -> list[int]:
        """A prompt without the tokens at some positions."""
        gone = set(positions)
        if self.mask is None:
            return [token for i, token in enumerate(ids) if i not in gone]
        return [self.mask if i in gone else token for i, token in enumerate(ids)]

    def contexts(self, branch: Branch, model: Model) -> list[list[int]]:
        """The prompt without each candidate, or without what was found before."""
        if self._looks(branch):
            positions = self.candidates(branch.prompt_ids, model)
            return [self.without(branch.prompt_ids, [i]) for i in positions]
        return [self.without(branch.prompt_ids, branch.state)] if branch.state else []

    def _looks(self, branch: Branch) -> bool:
        return branch.state is None or self.detect == "each"

    def choose(self, step: Step) -> list[Choice]:
        """One token a branch."""
        tokens, _ = step.argmax()
        for i, branch in enumerate(step.branches):
            masked = self._masked(step, i, branch)
            if masked is not None:
                scores = decoding.coda(step.logits[i], masked, self.alpha, self.weight)
                tokens[i] = decoding.pick(scores)
        return _take(step, tokens)

    def _masked(self, step: Step, i: int, branch: Branch) -> Any:
        """Logits without what is overshadowed, which the branch remembers; None: nothing is."""
        rows = step.contexts(i)
        if not self._looks(branch):
            return rows[0] if branch.state else None
        found = self._find(step.logits[i], rows)
        positions = self.candidates(branch.prompt_ids, step.model)
        rest = self.without(branch.prompt_ids, [positions[n] for n in found])
        branch.state = tuple(positions[n] for n in found) if rest else ()
        if len(branch.state) < 2:
            return rows[found[0]] if branch.state else None
        return step.forward([rest + branch.ids])[0]

    def _find(self, full: Any, rows: Any) -> list[int]:
        """Which of the candidates are overshadowed."""
        indicator = decoding.overshadowing(full, rows, self.alpha, self.floor).indicator
        if self.remove == "all":
            return [int(n) for n in (indicator < 0).nonzero()[0]]
        selected = select_token(indicator.tolist(), self.select)
        return [] if selected is None else [selected]


# ---- context-aware decoding ----


def _check_prompts(without: list[str | list[int]], n: int) -> None:
    if len(without) != n:
        raise ArgumentError(
            f"without has {len(without)} prompts for {n}; give one for each prompt, in their order"
        )


def _take_scores(step: Step, scores: Sequence[Any], sample: Sample | None) -> list[Choice]:
    """The largest scores, or draws from them."""
    import numpy as np

    if sample is None:
        return _take(step, [decoding.pick(row) for row in scores])
    rows = np.ascontiguousarray(np.stack(scores), dtype=np.float32)
    ids, _ = _km.rows_sample(
        step.model._model,
        rows,
        array("q", [branch.stream for branch in step.branches]),
        array("q", [len(branch.ids) for branch in step.branches]),
        sample.seed,
        sample.temperature,
        sample.top_k,
        sample.top_p,
        sample.min_p,
    )
    return _take(step, ids.tolist())


class _Context:
    """What CAD and AdaCAD share: the same prompts without their contexts, and how to choose."""

    without: str | Ids | Sequence[str | Ids]
    sample: Sample | None

    @property
    def branches(self) -> int:
        """One."""
        return 1

    def describe(self) -> dict[str, Any]:
        """Name and parameters."""
        parameters = asdict(self)  # type: ignore[call-overload]
        seed = {} if self.sample is None else {"seed": parameters["sample"].pop("seed")}
        shown = {"decoder": type(self).__name__, **parameters, "without": self._without()}
        return {**shown, **seed}

    def _without(self) -> list[str | list[int]]:
        return list_prompts(self.without)

    def contexts(self, branch: Branch, model: Model) -> list[str | list[int]]:
        """The branch's prompt without its context."""
        listed = self._without()
        if branch.prompt >= len(listed):
            _check_prompts(listed, branch.prompt + 1)
        return [listed[branch.prompt]]

    def _pairs(self, step: Step) -> list[tuple[Any, Any]]:
        """Logits with and without context, of each branch."""
        _check_prompts(self._without(), len(step.finished))
        return [(step.logits[i], step.contexts(i)[0]) for i in range(len(step.branches))]


@dataclass(frozen=True)
class CAD(_Context):
    """Context-aware decoding (Shi et al. 2024): trust the prompt's context over what is known.

    Parameters
    ----------
    without : str, token ids, or a sequence of these
        The prompts without their contexts, one for each prompt of the call.
    alpha : float
        (1 + alpha) * logits with context - alpha * logits without: 1 where context and memory
        conflict, 0.5 for summaries, 0 is greedy decoding.
    top_p_context, top_p_prior : float
        Filters of either side before they are combined; see :func:`km.scores.decoding.cad`.
    sample : Sample, optional
        Draw from the combined scores; default: the largest.
    """

    without: str | Ids | Sequence[str | Ids]
    alpha: float = 1.0
    top_p_context: float = 1.0
    top_p_prior: float = 1.0
    sample: Sample | None = None

    def __post_init__(self) -> None:
        list_prompts(self.without)
        real_number("alpha", self.alpha, 0, _MOST_WEIGHT)
        _share("top_p_context", self.top_p_context)
        _share("top_p_prior", self.top_p_prior)

    def choose(self, step: Step) -> list[Choice]:
        """One token a branch."""
        scores = [
            decoding.cad(context, prior, self.alpha, self.top_p_context, self.top_p_prior)
            for context, prior in self._pairs(step)
        ]
        return _take_scores(step, scores, self.sample)


@dataclass(frozen=True)
class AdaCAD(_Context):
    """CAD with a weight of its own at every step (Wang et al. 2025).

    The weight is the Jensen-Shannon divergence, in nats, of what the model says with and without
    the context, and at least `threshold`.

    Parameters
    ----------
    without : str, token ids, or a sequence of these
        The prompts without their contexts, one for each prompt of the call.
    threshold : float
        The least weight.
    sample : Sample, optional
        Draw from the combined scores; default: the largest.
    """

    without: str | Ids | Sequence[str | Ids]
    threshold: float = 0.0
    sample: Sample | None = None

    def __post_init__(self) -> None:
        list_prompts(self.without)
        real_number("threshold", self.threshold, 0, _MOST_WEIGHT)

    def choose(self, step: Step) -> list[Choice]:
        """One token a branch."""
        scores = [
            decoding.adacad(context, prior, self.threshold).scores
            for context, prior in self._pairs(step)
        ]
        return _take_scores(step, scores, self.sample)


# ---- two layers, two models ----


@dataclass(frozen=True)
class DoLa:
    """Contrast the output with an earlier layer (Chuang et al. 2024).

    At each step the layer whose distribution is farthest from the output's is taken among
    candidates (:func:`km.scores.decoding.dola`).

    Parameters
    ----------
    layers : {"low", "high"} or sequence of int
        Candidates: every other layer of the lower or upper half, or those given; 0 are the
        embeddings, l the stream after l blocks. One alone is contrasted at every step.
    relative_top : float
        A token stays with at least this share of the largest probability; 1 is greedy decoding
        where no two logits are equal.
    js : {"reference", "standard"}
        How far a layer is: as DoLa's code computes it, or the Jensen-Shannon divergence.
    final_norm : bool
        Put an early stream through the final norm before the unembedding; DoLa's code does not.
    """

    layers: str | Sequence[int] = "low"
    relative_top: float = 0.1
    js: decoding.Divergence = "reference"
    final_norm: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.layers, str):
            _one_of("layers", self.layers, "low", "high")
        elif not self.layers:
            raise ArgumentError("layers is empty; give at least one candidate")
        else:
            for layer in self.layers:
                whole_number("layer", layer, 0)
        _share("relative_top", self.relative_top)
        _one_of("js", self.js, "reference", "standard")

    @property
    def branches(self) -> int:
        """One."""
        return 1

    def describe(self) -> dict[str, Any]:
        """Name and parameters."""
        layers = self.layers if isinstance(self.layers, str) else [*map(int, self.layers)]
        return {"decoder": "DoLa", **asdict(self), "layers": layers}

    def lens(self, model: Model) -> tuple[Sequence[int], bool]:
        """The candidates."""
        if not isinstance(self.layers, str):
            return self.layers, self.final_norm
        n = int(model.config["n_layers"])
        first, last = (0, (n + 1) // 2) if self.layers == "low" else ((n + 1) // 2, n)
        found = range(first, last, 2)
        if not found:
            raise ArgumentError(f"{n} layers have no upper half; give layers as numbers")
        return found, self.final_norm

    def choose(self, step: Step) -> list[Choice]:
        """One token a branch."""
        scores = [
            decoding.dola(step.logits[i], step.layers(i), self.relative_top, self.js).scores
            for i in range(len(step.branches))
        ]
        return _take(step, [decoding.pick(row) for row in scores])


@dataclass(frozen=True)
class ContrastiveDecoding:
    """Contrast an expert with an amateur (Li et al. 2023): another model, or a layer of this one.

    Parameters
    ----------
    amateur : Model or int
        A model with the same tokenizer, or a layer: 0 are the embeddings, l the stream after l
        blocks.
    alpha : float
        A token stays with at least this share of the expert's largest probability.
    beta : float
        Weight of the amateur's log-probabilities; 0 is greedy decoding.
    temperature : float
        The amateur's logits are divided by it.
    ignore_prefix : bool
        The amateur sees the last token of the prompt and what was generated, no more. Not for a
        layer.
    final_norm : bool
        Put a layer's stream through the final norm before the unembedding.
    """

    amateur: Model | int
    alpha: float = 0.1
    beta: float = 1.0
    temperature: float = 1.0
    ignore_prefix: bool = False
    final_norm: bool = True

    def __post_init__(self) -> None:
        if not hasattr(self.amateur, "tokenizer_hash"):
            whole_number("amateur", self.amateur, 0)
            if self.ignore_prefix:
                raise ArgumentError("ignore_prefix needs an amateur model: a layer sees the prompt")
        _share("alpha", self.alpha)
        real_number("beta", self.beta, 0, _MOST_WEIGHT)
        real_number("temperature", self.temperature, 1e-6, 1e6)

    @property
    def branches(self) -> int:
        """One."""
        return 1

    @property
    def _model(self) -> Model | None:
        return None if isinstance(self.amateur, SupportsIndex) else self.amateur

    def describe(self) -> dict[str, Any]:
        """Name and parameters; of an amateur model its name and fingerprint."""
        model = self._model
        amateur = (
            self.amateur
            if model is None
            else {"name": model.name, "fingerprint": model.fingerprint}
        )
        return {
            "decoder": "ContrastiveDecoding",
            "amateur": amateur,
            "alpha": self.alpha,
            "beta": self.beta,
            "temperature": self.temperature,
            "ignore_prefix": self.ignore_prefix,
            "final_norm": self.final_norm,
        }

    def lens(self, model: Model) -> tuple[Sequence[int], bool]:
        """The amateur, if it is a layer."""
        amateur = self._model
        if amateur is None:
            return [self.amateur], self.final_norm  # type: ignore[list-item]
        if amateur.tokenizer_hash != model.tokenizer_hash:
            raise ArgumentError(
                f"{amateur.name} has another tokenizer than {model.name}; both must have the same"
            )
        return [], True

    def choose(self, step: Step) -> list[Choice]:
        """One token a branch."""
        amateur = self._model
        rows: Sequence[Any]
        if amateur is None:
            rows = [step.layers(i)[0] for i in range(len(step.branches))]
        else:
            first = -1 if self.ignore_prefix else 0
            rows = step.forward([b.prompt_ids[first:] + b.ids for b in step.branches], amateur)  # type: ignore[assignment]
        scores = [
            decoding.contrastive(step.logits[i], row, self.alpha, self.beta, self.temperature)
            for i, row in enumerate(rows)
        ]
        return _take(step, [decoding.pick(row) for row in scores])
