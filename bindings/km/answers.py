"""Prompts given as text or token ids, and the tokens with which answers continue them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from km.arguments import whole_number
from km.errors import ArgumentError

if TYPE_CHECKING:
    from km.model import Ids, Model


def ids_and_text(
    model: Model, prompt: str | bytes | Ids, bos: bool | None = None
) -> tuple[list[int], bytes]:
    """Ids of a prompt, and the bytes they stand for."""
    from km.model import as_ids

    if isinstance(prompt, str | bytes):
        return model.encode(prompt, bos=bos), as_bytes(prompt)
    ids = list(as_ids(prompt))
    return ids, model.decode_bytes(ids)


def as_bytes(text: str | bytes) -> bytes:
    """A text in UTF-8; bytes are passed on."""
    return text.encode() if isinstance(text, str) else text


def answer_tokens(
    model: Model, ids: list[int], prompt: str | bytes, answer: str, bos: bool | None = None
) -> list[int]:
    """Tokens of an answer as it continues the prompt; a blank is put between where both touch.

    Raises
    ------
    ArgumentError
        The answer does not start a token of its own.
    """
    before = as_bytes(prompt)
    after = answer.encode()
    runs_together = before[-1:] not in b" \n\t" and after[:1] not in b" \n\t"
    whole = model.encode(before + (b" " if runs_together else b"") + after, bos=bos)
    if whole[: len(ids)] != ids or len(whole) == len(ids):
        raise ArgumentError(
            f"the target {answer!r} does not start a token of its own after this prompt; "
            "give the token's id instead"
        )
    return whole[len(ids) :]


def target_token(
    model: Model,
    ids: list[int],
    prompt: str | bytes,
    target: str | int,
    bos: bool | None = None,
    name: str = "target",
) -> int:
    """The token meant: an id, or the first token of a text as it continues the prompt.

    Errors call it by its `name`.
    """
    if isinstance(target, str):
        return answer_tokens(model, ids, prompt, target, bos)[0]
    return whole_number(name, target, 0, int(model.config["vocab_size"]) - 1)
