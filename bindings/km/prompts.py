"""What a trace runs over: texts as token ids, and positions in them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from km import _km
from km.errors import ArgumentError
from km.points import is_index

if TYPE_CHECKING:
    from km.model import Model

Text: TypeAlias = "str | bytes | Sequence[int]"
Positions: TypeAlias = "str | int | slice | Span | Sequence[Any]"


@dataclass(frozen=True)
class Prompt:
    """One text of a trace.

    Attributes
    ----------
    ids : tuple of int
    text : bytes or None
        None where token ids were given.
    bounds : tuple of (start, end)
        The bytes of the text each token stands for.
    bos : bool or None
        What the text was tokenised with.
    """

    ids: tuple[int, ...]
    text: bytes | None = None
    bounds: tuple[tuple[int, int], ...] = ()
    bos: bool | None = None


@dataclass(frozen=True)
class Span:
    """The tokens of a piece of text, found by its bytes in each text; made by :func:`km.span`."""

    text: str
    occurrence: int | None = None
    which: Literal["all", "first", "last"] = "all"

    @property
    def first(self) -> Span:
        """Its first token alone."""
        return replace(self, which="first")

    @property
    def last(self) -> Span:
        """Its last token alone."""
        return replace(self, which="last")

    def find(self, model: Model, text: str | bytes, *, bos: bool | None = None) -> list[int]:
        """Positions of its tokens in a text.

        Raises
        ------
        ArgumentError
            The text does not hold it, holds it more than once while `occurrence` is None, or one of
            its tokens also stands for other text.
        """
        return self.locate(read_prompt(model, text, bos))

    def locate(self, prompt: Prompt) -> list[int]:
        """The same in a text that has been tokenised."""
        if prompt.text is None:
            raise ArgumentError(f"{self!r} needs a text to be found in, not token ids")
        begin, end = self._bytes(prompt.text)
        found = [i for i, (a, b) in enumerate(prompt.bounds) if a < end and b > begin]
        covered = prompt.text[prompt.bounds[found[0]][0] : prompt.bounds[found[-1]][1]]
        if covered.strip() != self.text.encode().strip():
            shown = covered.decode("utf-8", "replace")
            raise ArgumentError(f"the tokens of {self.text!r} also hold other text: {shown!r}")
        picked = {"all": found, "first": found[:1], "last": found[-1:]}
        return picked[self.which]

    def _bytes(self, text: bytes) -> tuple[int, int]:
        """First byte and the one after the last."""
        wanted = self.text.encode()
        starts = [i for i in range(len(text)) if text.startswith(wanted, i)]
        if not starts:
            raise ArgumentError(
                f"{self.text!r} does not occur in {text.decode('utf-8', 'replace')!r}"
            )
        if self.occurrence is None and len(starts) > 1:
            raise ArgumentError(
                f"{self.text!r} occurs {len(starts)} times; say which with occurrence=0 to "
                f"{len(starts) - 1}"
            )
        which = self.occurrence or 0
        if not -len(starts) <= which < len(starts):
            raise ArgumentError(f"{self.text!r} occurs {len(starts)} times; there is no {which}")
        return starts[which], starts[which] + len(wanted)


def span(text: str, *, occurrence: int | None = None) -> Span:
    """The tokens of a piece of text, to be used as positions.

    Parameters
    ----------
    text : str
        Found by its bytes; a blank that its first token begins with belongs to it.
    occurrence : int, optional
        Which one (0 is the first, -1 the last) where there are several; None: there must be one.

    Examples
    --------
    >>> import km
    >>> km.span("Eiffel Tower").last
    Span(text='Eiffel Tower', occurrence=None, which='last')
    """
    if not isinstance(text, str):
        raise TypeError(f"the text of a span must be str, not {type(text).__name__}")
    if not text.strip():
        raise ArgumentError("the text of a span is empty")
    return Span(text, occurrence)


# ---- texts ----


def read_prompt(model: Model, text: Text, bos: bool | None) -> Prompt:
    """One text or one sequence of token ids."""
    if isinstance(text, str | bytes):
        tokens = model.tokens(text, bos)
        raw = text.encode() if isinstance(text, str) else text
        bounds = tuple((token.start, token.end) for token in tokens)
        prompt = Prompt(tuple(token.id for token in tokens), raw, bounds, bos)
    else:
        from km.model import as_ids

        prompt = Prompt(tuple(as_ids(text)))
    if not prompt.ids:
        raise ArgumentError("a text has no tokens")
    return prompt


def read_prompts(
    model: Model, texts: Text | Sequence[Text], bos: bool | None
) -> tuple[list[Prompt], bool]:
    """The texts, and whether a single one was given instead of a list."""
    if isinstance(texts, str | bytes):
        return [read_prompt(model, texts, bos)], True
    items: list[Any] = texts.tolist() if isinstance(texts, _km.Array) else list(texts)
    if not items:
        raise ArgumentError("texts is empty")
    if is_index(items[0]):
        return [read_prompt(model, items, bos)], True
    return [read_prompt(model, item, bos) for item in items], False


# ---- positions ----


def each_text(positions: Positions, n_texts: int) -> list[Positions]:
    """What is wanted of each text: the same of all, or a list with an entry a text."""
    if isinstance(positions, str | slice | Span) or is_index(positions):
        return [positions] * n_texts
    items = list(cast("Sequence[Any]", positions))
    if all(is_index(item) for item in items):
        return [items] * n_texts
    if len(items) != n_texts:
        raise ArgumentError(f"positions has {len(items)} entries for {n_texts} texts")
    return items


def resolve(positions: Positions, prompt: Prompt) -> list[int]:
    """The positions meant in one text."""
    n = len(prompt.ids)
    if isinstance(positions, Span):
        return positions.locate(prompt)
    if isinstance(positions, str):
        if positions not in ("last", "all"):
            raise ArgumentError(
                f'positions is {positions!r}; it must be "last", "all", an int, a slice, a list '
                "of ints or a km.span"
            )
        return [n - 1] if positions == "last" else list(range(n))
    if isinstance(positions, slice):
        found = list(range(*positions.indices(n)))
    elif is_index(positions):
        found = [operator.index(cast("int", positions))]
    else:
        found = [operator.index(i) for i in cast("Sequence[int]", positions)]
    for i in found:
        if not -n <= i < n:
            raise ArgumentError(f"position {i} is outside a text of {n} tokens")
    found = [i % n for i in found]
    if not found or len(set(found)) < len(found):
        raise ArgumentError(f"positions {positions!r} of {n} tokens: none, or one of them twice")
    return found
