"""The logit lens of one prompt: what each layer would say next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from km.errors import ArgumentError
from km.result import Result, make_provenance, stored_provenance, stored_table
from km.table import Table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.model import Ids, Model

LENS_ID = "memorization.lens"
LENS_VERSION = 1


class LensResult(Result):
    """One row a layer (and one for the output): rank and probability of the target, top tokens.

    Attributes
    ----------
    prompt : str
    answer : str
        Text of the token followed.
    """

    def __init__(
        self, table: Table, provenance: Mapping[str, Any], prompt: str, answer: str
    ) -> None:
        super().__init__(table, provenance)
        self.prompt = prompt
        self.answer = answer

    @classmethod
    def from_knowledge_base(cls, kb: KnowledgeBase, run: int) -> LensResult:
        """The lens that a run recorded.

        Raises
        ------
        NotFoundError
            There is no such finished run, or it is not a lens.
        """
        provenance, key = stored_provenance(kb, run, LENS_ID)
        parameters = provenance["parameters"]
        return cls(
            stored_table(kb, run, key), provenance, parameters["prompt"], parameters["answer"]
        )

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return str(self.provenance["model"]["name"])

    def layers(self) -> list[dict[str, Any]]:
        """The layers as :func:`km.draw.lens` takes them.

        Returns
        -------
        list of dict
            layer (the last one "output"), top (pairs of text and probability, best first),
            target_rank (1: first), target_prob.
        """
        rows = list(self.table.rows())
        return [
            {
                "layer": "output" if i == len(rows) - 1 else row["layer"],
                "top": list(
                    zip(
                        json.loads(row["top_tokens"]),
                        json.loads(row["top_probabilities"]),
                        strict=True,
                    )
                ),
                "target_rank": row["rank"] + 1,
                "target_prob": row["probability"],
            }
            for i, row in enumerate(rows)
        ]

    def draw(self, **options: Any) -> Any:
        """The picture :func:`km.draw.lens` makes of it."""
        from km.draw import lens

        return lens(self, **options)


def run_lens(model: Model, prompt: str | bytes | Ids, target: str | int, top_k: int) -> LensResult:
    """See :meth:`km.Model.lens`."""
    from km.model import as_ids

    ids, text = read_prompt(model, prompt)
    token = first_token(model, ids, text, target) if isinstance(target, str) else target
    table = Table.wrap(model._model.lens(as_ids(ids), token, top_k))
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    answer = model.decode([token])
    parameters = {
        "prompt": shown,
        "answer": answer,
        "ids": ids,
        "target": token,
        "top_k": top_k,
    }
    provenance = make_provenance(LENS_ID, LENS_VERSION, model, parameters)
    return LensResult(table, provenance, shown, answer)


def read_prompt(
    model: Model, prompt: str | bytes | Ids, bos: bool | None = None
) -> tuple[list[int], str | bytes]:
    """Ids and text of a prompt given as either."""
    from km.model import as_ids

    if isinstance(prompt, str | bytes):
        return model.encode(prompt, bos=bos), prompt
    ids = list(as_ids(prompt))
    return ids, model.decode(ids)


def answer_tokens(
    model: Model,
    ids: list[int],
    prompt: str | bytes,
    answer: str,
    bos: bool | None = None,
) -> list[int]:
    """Tokens of an answer as it continues the prompt; a blank is put between where both touch.

    Raises
    ------
    ArgumentError
        The answer does not start a token of its own.
    """
    before = prompt.encode() if isinstance(prompt, str) else prompt
    after = answer.encode()
    runs_together = before[-1:] not in b" \n\t" and after[:1] not in b" \n\t"
    whole = model.encode(before + (b" " if runs_together else b"") + after, bos=bos)
    if whole[: len(ids)] != ids or len(whole) == len(ids):
        raise ArgumentError(
            f"the target {answer!r} does not start a token of its own after this prompt; "
            "give the token's id instead"
        )
    return whole[len(ids) :]


def first_token(
    model: Model,
    ids: list[int],
    prompt: str | bytes,
    target: str,
    bos: bool | None = None,
) -> int:
    """First token of the target as it continues the prompt."""
    return answer_tokens(model, ids, prompt, target, bos)[0]
