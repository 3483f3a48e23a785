"""Decoders: how the next tokens of a generation are chosen. Definitions: docs/generation.md."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from km import _km
from km.arguments import real_number, whole_number
from km.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np

    from km.generate import Branch, Step
    from km.model import Model


# Below it logits over the temperature leave float32.
_LEAST_TEMPERATURE = 1e-6
# Beyond them a power of a length leaves double precision, or no search fits into memory.
_MOST_PENALTY = 16.0
_MOST_BEAMS = 100_000


class Choice(NamedTuple):
    """One token that continues a branch.

    Attributes
    ----------
    branch : int
        Index of the branch among the step's.
    token : int
    logprob : float
        What the generation reports of it, nats.
    done : bool
        End the branch with this token, whatever it is.
    score : float, optional
        Of the branch should it end here: among the ended branches of a prompt the highest one is
        the result. Default: the sum of log-probabilities.
    """

    branch: int
    token: int
    logprob: float
    done: bool = False
    score: float | None = None


@runtime_checkable
class Decoder(Protocol):
    """Chooses tokens step by step; see docs/generation.md for one written by a user.

    A decoder holds parameters only: what belongs to one generation stands in the step's branches,
    so that one decoder serves many calls at once.
    """

    def choose(self, step: Step) -> Sequence[Choice]:
        """The tokens that continue the step's branches.

        A branch that no choice names is given up; one that several name is split. A branch whose
        token is an end-of-sequence token, or completes a stop string, or is the last one allowed
        ends by itself.
        """

    def describe(self) -> dict[str, Any]:
        """Name and parameters, for the provenance."""

    @property
    def branches(self) -> int:
        """The most branches of one prompt that are alive at a time."""


@runtime_checkable
class ContextDecoder(Decoder, Protocol):
    """A decoder that compares each branch with what the model says after other prompts."""

    def contexts(self, branch: Branch, model: Model) -> Sequence[str | Sequence[int]]:
        """Prompts whose logits the next step needs beside the branch's: text or token ids.

        Asked before each step; the tokens generated so far follow each. All of a step's contexts
        and branches are computed in one pass, and what they share with each other or with those of
        earlier steps is computed once. :meth:`km.generate.Step.contexts` gives their logits.
        """


@runtime_checkable
class LayerDecoder(Decoder, Protocol):
    """A decoder that looks at what layers of the model would say."""

    def lens(self, model: Model) -> tuple[Sequence[int], bool]:
        """Layers wanted, and whether their streams go through the final norm.

        0 are the embeddings, l the stream after l blocks. :meth:`km.generate.Step.layers` gives
        their logits.
        """


def _described(decoder: Any) -> dict[str, Any]:
    return {"decoder": type(decoder).__name__, **asdict(decoder)}


@dataclass(frozen=True)
class Greedy:
    """The most likely token at every step; the lowest id among equals."""

    @property
    def branches(self) -> int:
        """One."""
        return 1

    def describe(self) -> dict[str, Any]:
        """Name and parameters."""
        return _described(self)

    def choose(self, step: Step) -> list[Choice]:
        """One token a branch."""
        ids, logprobs = step.argmax()
        return [Choice(i, ids[i], logprobs[i]) for i in range(len(ids))]


@dataclass(frozen=True)
class Sample:
    """Draw each token at random from the filtered distribution.

    The filters are applied in the order of the parameters, as transformers does. A draw depends on
    the seed, the prompt's tokens, how often the same prompt came before it in the call, and the
    number of tokens generated so far: never on other prompts in the call.

    Parameters
    ----------
    temperature : float
        Logits are divided by it.
    top_k : int
        Keep the k most likely tokens, and what ties with the last of them; 0: all.
    top_p : float
        Keep a token while those more likely hold less than this share of the probability; 1: all.
    min_p : float
        Keep a token with at least this share of the most likely one's probability.
    seed : int
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not _LEAST_TEMPERATURE <= self.temperature < float("inf"):
            raise ArgumentError(
                f"temperature is {self.temperature}; it must be at least {_LEAST_TEMPERATURE:g} "
                "(Greedy() is its limit 0) and finite"
            )
        whole_number("top_k", self.top_k, 0, 2**62)
        if not 0 < self.top_p <= 1:
            raise ArgumentError(f"top_p is {self.top_p}; it must be in (0, 1]")
        if not 0 <= self.min_p <= 1:
            raise ArgumentError(f"min_p is {self.min_p}; it must be in [0, 1]")
        whole_number("seed", self.seed, 0, 2**64 - 1)

    @property
    def branches(self) -> int:
        """One."""
        return 1

    def describe(self) -> dict[str, Any]:
        """Name and parameters."""
        return _described(self)

    def filter(self, step: Step, branch: int) -> np.ndarray[Any, Any]:
        """Logits of one branch after the filters: (V) float32, -inf where a token was removed."""
        import numpy as np

        row = np.ascontiguousarray(step.logits[branch])
        return np.asarray(
            _km.sampling_filter(
                step.model._model, row, self.temperature, self.top_k, self.top_p, self.min_p
            )
        )

    def choose(self, step: Step) -> list[Choice]:
        """One token a branch."""
        ids, logprobs = _km.rows_sample(
            step.model._model,
            step.raw_logits,
            array("q", [branch.stream for branch in step.branches]),
            array("q", [len(branch.ids) for branch in step.branches]),
            self.seed,
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
        )
        pairs = zip(ids.tolist(), logprobs.tolist(), strict=True)
        return [Choice(i, token, logprob) for i, (token, logprob) in enumerate(pairs)]


@dataclass(frozen=True)
class Beam:
    """Keep the n continuations with the highest sum of log-probabilities.

    The search of transformers' ``generate(num_beams=n, early_stopping=False)``, in double
    precision. Each step looks at the 2n best continuations of a prompt's branches (more where there
    are several end tokens). Those among the best n that end are results, scored by the sum divided
    by (number of generated tokens) ** length_penalty; the best n that do not end go on. The search
    of a prompt ends when n results are there and the best branch's sum, divided in the same way by
    its present length, is not above the worst of the n best results.

    Parameters
    ----------
    n : int
    length_penalty : float
        Above 0 favours long results, below 0 short ones.
    """

    n: int
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        whole_number("n", self.n, 1, _MOST_BEAMS)
        real_number("length_penalty", self.length_penalty, -_MOST_PENALTY, _MOST_PENALTY)

    @property
    def branches(self) -> int:
        """As many as beams."""
        return self.n

    def describe(self) -> dict[str, Any]:
        """Name and parameters."""
        return _described(self)

    def choose(self, step: Step) -> list[Choice]:
        """The beams of every prompt."""
        width = self.n * max(2, 1 + len(step.eos))
        ids, logprobs = step.top(min(width, step.vocab_size))
        groups: dict[int, list[int]] = {}
        for i, branch in enumerate(step.branches):
            groups.setdefault(branch.prompt, []).append(i)
        out: list[Choice] = []
        for prompt, members in groups.items():
            candidates = [
                (step.branches[i].logp + logprob, Choice(i, token, logprob))
                for i in members
                for token, logprob in zip(ids[i], logprobs[i], strict=True)
            ]
            # Stable: among equals the earlier branch and the stronger token come first.
            candidates.sort(key=lambda candidate: -candidate[0])
            out += self._step_of_prompt(step, prompt, candidates[:width])
        return out

    def _step_of_prompt(
        self, step: Step, prompt: int, candidates: list[tuple[float, Choice]]
    ) -> list[Choice]:
        length = step.number + 1
        ended: list[Choice] = []
        going: list[tuple[float, Choice]] = []
        for place, (total, choice) in enumerate(candidates):
            ends = step.last or step.ends(step.branches[choice.branch], choice.token)
            if ends and place < self.n:
                score = total / length ** float(self.length_penalty)
                ended.append(choice._replace(done=True, score=score))
            elif not ends and len(going) < self.n:
                going.append((total, choice))
        scores = sorted(
            [b.score for b in step.finished[prompt]] + [c.score or 0.0 for c in ended],
            reverse=True,
        )
        if going and len(scores) >= self.n:
            best = going[0][0] / length**self.length_penalty
            if best <= scores[self.n - 1]:
                going = []
        return ended + [choice for _, choice in going]


def pick_best(branches: Sequence[Branch]) -> Branch:
    """The ended branch with the highest score; the earliest among equals."""
    return max(branches, key=lambda branch: branch.score)
