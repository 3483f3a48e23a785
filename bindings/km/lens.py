"""The logit lens of one prompt: what each layer would say next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from km.answers import ids_and_text, target_token
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

    ids, text = ids_and_text(model, prompt)
    token = target_token(model, ids, text, target)
    table = Table.wrap(model._model.lens(as_ids(ids), token, top_k))
    shown = text.decode("utf-8", "replace")
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
