"""What gradients are taken of: a weighted sum over log-probabilities, probabilities or logits.

A loss is small and never changes; which tokens it means is found in each text it is used with.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from km.answers import answer_tokens
from km.errors import ArgumentError
from km.points import is_index
from km.prompts import Positions, Prompt, each_text, resolve

if TYPE_CHECKING:
    from km.model import Model

Target: TypeAlias = "int | str | Sequence[int | str]"
Kind: TypeAlias = Literal["logit", "logprob", "prob"]
# (position whose output is meant, token id, weight)
Term: TypeAlias = "tuple[int, int, float]"


@dataclass(frozen=True)
class Loss:
    """A loss over the output of chosen positions; made by the functions of this module.

    Attributes
    ----------
    kind : {"logit", "logprob", "prob"}
    targets : tuple of (target, weight)
        A target None is the token that follows in the text.
    positions
        Whose output is meant.
    """

    kind: Kind
    targets: tuple[tuple[Target | None, float], ...]
    positions: Positions

    def terms(self, model: Model, prompts: Sequence[Prompt], text: int) -> list[Term]:
        """What is summed over in one text, by rising position."""
        prompt = prompts[text]
        found = sorted(resolve(each_text(self.positions, len(prompts))[text], prompt))
        terms: list[Term] = []
        for position in found:
            for target, weight in self.targets:
                id = _token(model, prompt, position, _of_text(target, text, len(prompts)))
                terms.append((position, id, weight))
        return terms


def logprob(target: Target, *, positions: Positions = "last") -> Loss:
    """Log-probability of a token as the next one, nats.

    Parameters
    ----------
    target : int, str, or a sequence with one a text
        A token's id, or the text that continues the prompt, of which the first token is meant.
    positions : optional
        After which tokens; several are summed.

    Examples
    --------
    >>> import km.loss
    >>> km.loss.logprob(314)
    Loss(kind='logprob', targets=((314, 1.0),), positions='last')
    """
    return Loss("logprob", ((target, 1.0),), positions)


def prob(target: Target, *, positions: Positions = "last") -> Loss:
    """Probability of a token as the next one; parameters as of :func:`logprob`."""
    return Loss("prob", ((target, 1.0),), positions)


def logit(target: Target, *, positions: Positions = "last") -> Loss:
    """Logit of a token; parameters as of :func:`logprob`."""
    return Loss("logit", ((target, 1.0),), positions)


def logit_difference(target: Target, other: Target, *, positions: Positions = "last") -> Loss:
    """Logit of a token minus that of another; parameters as of :func:`logprob`."""
    return Loss("logit", ((target, 1.0), (other, -1.0)), positions)


def nll() -> Loss:
    """Negative log-likelihood of each text: minus the sum over its tokens after the first, nats."""
    return Loss("logprob", ((None, -1.0),), slice(None, -1))


def _of_text(target: Target | None, text: int, n_texts: int) -> int | str | None:
    """The target meant in one text."""
    if target is None or isinstance(target, str) or is_index(target):
        return cast("int | str | None", target)
    listed = list(cast("Sequence[int | str]", target))
    if len(listed) != n_texts:
        raise ArgumentError(f"target has {len(listed)} entries for {n_texts} texts")
    return listed[text]


def _token(model: Model, prompt: Prompt, position: int, target: int | str | None) -> int:
    """The id of a target after a position of a text."""
    if target is None:
        if position + 1 == len(prompt.ids):
            raise ArgumentError("target: no token follows the last one; give an id or a text")
        return prompt.ids[position + 1]
    if isinstance(target, str):
        if prompt.text is None or position != len(prompt.ids) - 1:
            raise ArgumentError(
                f"the target {target!r} continues a whole text; give a token's id for token ids "
                "and for positions inside a text"
            )
        return answer_tokens(model, list(prompt.ids), prompt.text, target, prompt.bos)[0]
    id, vocab = operator.index(target), model.config["vocab_size"]
    if not 0 <= id < vocab:
        raise ArgumentError(f"target: token {id} is outside the vocabulary of {vocab}")
    return id
