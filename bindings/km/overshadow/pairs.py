"""Prompts of overshadowing: of one condition among many, and what answers them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km.arguments import is_ids
from km.errors import ArgumentError

if TYPE_CHECKING:
    from km.model import Model

Kind: TypeAlias = Literal["A", "B"]
Text: TypeAlias = "str | Sequence[int]"


@dataclass(frozen=True)
class Pair:
    """One prompt of a popular or a rare condition.

    Texts are all str or all token ids. An answer given as str is joined to its prompt by one blank.

    Attributes
    ----------
    group : str
        Prompts with the same shared context belong together; groups are what intervals resample.
    kind : {"A", "B"}
        The popular or the rare condition.
    prompt : str or tuple of int
        The shared context with the distinguishing tokens in it.
    answer : str or tuple of int
        The right answer of this prompt.
    popular : str or tuple of int
        The answer of the popular condition; the same as `answer` for kind "A".
    shared : str or tuple of int, optional
        The shared context without the distinguishing tokens: a baseline.
    """

    group: str
    kind: Kind
    prompt: Text
    answer: Text
    popular: Text
    shared: Text | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("A", "B"):
            raise ArgumentError(f'kind is {self.kind!r}; it must be "A" or "B"')
        if not isinstance(self.group, str):
            raise TypeError(f"group must be str, not {type(self.group).__name__}")
        for name in ("prompt", "answer", "popular", "shared"):
            value = getattr(self, name)
            if value is None and name == "shared":
                continue
            object.__setattr__(self, name, _text(name, value))
        if isinstance(self.prompt, str) != isinstance(self.answer, str):
            raise TypeError("prompt and answer of a pair must both be str or both token ids")
        if (self.kind == "A") != (self.answer == self.popular):
            raise ArgumentError(
                f"group {self.group!r}: the answer of kind A, and of no other, is the popular one"
            )


@dataclass(frozen=True)
class Encoded:
    """A pair as token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    popular: tuple[int, ...]
    shared: tuple[int, ...]


def check_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs as a list, each of their groups with prompts of both kinds.

    Raises
    ------
    ArgumentError
        There are none, a group lacks a kind, or has two popular answers or shared contexts.
    """
    listed = list(pairs)
    if not listed:
        raise ArgumentError("there are no pairs")
    kinds: dict[str, set[str]] = {}
    common: dict[str, tuple[Any, Any]] = {}
    for pair in listed:
        if not isinstance(pair, Pair):
            raise TypeError(f"pairs must be km.overshadow.Pair, not {type(pair).__name__}")
        kinds.setdefault(pair.group, set()).add(pair.kind)
        if common.setdefault(pair.group, (pair.popular, pair.shared)) != (
            pair.popular,
            pair.shared,
        ):
            raise ArgumentError(
                f"group {pair.group!r} has two popular answers or shared contexts; make two groups"
            )
    for group, found in kinds.items():
        if len(found) < 2:
            lacking = "B" if "A" in found else "A"
            raise ArgumentError(f"group {group!r} has no prompt of kind {lacking}")
    return listed


def encode_pair(model: Model, pair: Pair, bos: bool | None) -> Encoded:
    """Token ids of a pair; answers are encoded by themselves, with the blank before them.

    Parameters
    ----------
    bos : bool, optional
        Put the beginning-of-sequence token before prompts; None: where the prompts are str, what
        the model file says, and before token ids nothing.

    Raises
    ------
    ArgumentError
        A prompt or answer without tokens, or more than the model's context.
    """
    ids = Encoded(
        _prompt(model, pair.prompt, bos),
        _answer(model, pair.prompt, pair.answer),
        _answer(model, pair.prompt, pair.popular),
        () if pair.shared is None else _prompt(model, pair.shared, bos),
    )
    for name in ("prompt", "answer", "popular"):
        if not getattr(ids, name):
            raise ArgumentError(f"group {pair.group!r}: the {name} has no tokens")
    most = int(model.config["context_length"])
    longest = max(len(ids.prompt), len(ids.shared)) + max(len(ids.answer), len(ids.popular))
    if longest - 1 > most:
        raise ArgumentError(
            f"group {pair.group!r}: {longest} tokens do not fit into the model's context of {most}"
        )
    return ids


def _prompt(model: Model, text: Text, bos: bool | None) -> tuple[int, ...]:
    if isinstance(text, str):
        return tuple(model.encode(text, bos=bos))
    if not bos:
        return tuple(text)
    if model.bos is None:
        raise ArgumentError("bos=True: the model has no beginning-of-sequence token")
    return (model.bos, *text)


def _answer(model: Model, prompt: Text, text: Text) -> tuple[int, ...]:
    if not isinstance(text, str):
        return tuple(text)
    blank = " " if text and not text[0].isspace() and not str(prompt)[-1:].isspace() else ""
    return tuple(model.encode(blank + text, bos=False))


def _text(name: str, value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if not is_ids(value) and value != ():
        raise TypeError(f"{name} must be str or token ids, not {type(value).__name__}")
    return tuple(int(id) for id in value)
