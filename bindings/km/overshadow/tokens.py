"""Overshadowed tokens of natural prompts: what the next token does not depend on."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from km import _km
from km.arguments import whole_number
from km.chunk_work import ChunkWork, counted
from km.errors import ArgumentError
from km.forest import Forest
from km.progress import Progress, ProgressReporter
from km.prompts import Prompt
from km.result import Result, content_key, make_provenance, stored_chunks
from km.score import list_prompts
from km.scores.overshadow import (
    ALPHA,
    Floor,
    Select,
    indicator,
    log_softmax,
    select_token,
    top_tokens,
)
from km.table import Column, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from km.kb import KnowledgeBase
    from km.model import Ids, Model

FIND_ID = "overshadow.find"
FIND_VERSION = 2

# Nodes of a forest of prompts that differ in one token, and tokens of one pass over it.
MOST_NODES, PASS_TOKENS = 4096, 1024

COLUMNS = [
    Column("position", "int64", "tokens", "Place of the token in the prompt, from 0."),
    Column("id", "int64", "", "The token."),
    Column("token", "text", "", "Its text."),
    Column("indicator", "double", "nats", "r_pmi_sum + escape; negative: overshadowed."),
    Column("r_pmi_sum", "double", "nats", "Sum of the negative log ratios with to without it."),
    Column("escape", "double", "nats", "Reward of tokens that are top tokens with it alone."),
    Column("floor", "double", "nats", "Log-probability that the reward is measured from."),
    Column("n_common", "int64", "tokens", "Top tokens with and without it."),
    Column("n_escaping", "int64", "tokens", "Top tokens with it alone."),
    Column("next_id", "int64", "", "Most probable next token of the whole prompt."),
    Column("next_token", "text", "", "Its text."),
    Column("next_id_without", "int64", "", "Most probable next token without the token."),
    Column("next_token_without", "text", "", "Its text."),
    Column(
        "overlap", "double", "probability", "Probability both next tokens' distributions share."
    ),
]

SUMMARY_COLUMNS = [
    Column("prompt", "int64", "", "Index of the prompt."),
    Column("position", "int64", "tokens", "Place of the selected token; null where there is none."),
    Column("token", "text", "", "Its text."),
    Column("indicator", "double", "nats", "Of the selected token."),
    Column("per_token", "double", "nats/token", "The same for each top token it is a sum over."),
    Column("median_of_others", "double", "nats", "Of the other tokens' indicators: the baseline."),
    Column("n_negative", "int64", "tokens", "Candidates whose indicator is negative."),
    Column("n_candidates", "int64", "tokens", "Tokens that were left out in turn."),
    Column("next_token", "text", "", "Most probable next token of the whole prompt."),
    Column("next_token_without", "text", "", "The same without the selected token."),
]


class Overshadowed(Result):
    """What :func:`find` returns: one row a candidate token of a prompt.

    Attributes
    ----------
    summary : Table
        One row a prompt: the selected token, and how strongly beside the others.
    prompts : list of str or None
        As they were given; None for token ids.
    chunks : list of (key, Table)
    """

    def __init__(
        self,
        chunks: Sequence[tuple[str, Table]],
        provenance: dict[str, Any],
        run: int | None = None,
    ) -> None:
        self.chunks = list(chunks)
        self.run = run
        own = provenance["parameters"]
        self.prompts: list[str | None] = list(own["prompts"])
        rows = [list(table.rows()) for _, table in chunks]
        columns = [Column("prompt", "int64", "", "Index of the prompt."), *COLUMNS]
        columns.append(Column("selected", "bool", "", "Taken to be the overshadowed token."))
        found: list[dict[str, Any]] = []
        summary = []
        for prompt, candidates in enumerate(rows):
            best = select_token([row["indicator"] for row in candidates], own["select"])
            summary.append(_summary(prompt, candidates, best))
            found += [
                {"prompt": prompt, **row, "selected": i == best} for i, row in enumerate(candidates)
            ]
        super().__init__(Table.from_rows(columns, found), provenance)
        self.summary = Table.from_rows(SUMMARY_COLUMNS, summary)

    @classmethod
    def from_knowledge_base(cls, kb: KnowledgeBase, run: int) -> Overshadowed:
        """The measurement that a run recorded.

        Raises
        ------
        NotFoundError
            There is no such finished run, or it is of another measure.
        """
        chunks, provenance = stored_chunks(kb, run, FIND_ID)
        return cls(chunks, provenance, run)

    def __repr__(self) -> str:
        return f"<km.overshadow.Overshadowed {self._title()}>\n{self.summary!r}"


def find(
    model: Model,
    prompts: str | Ids | Sequence[str | Ids],
    *,
    alpha: float = ALPHA,
    floor: Floor = "vtop_min",
    select: Select = "min",
    replace_by: int | None = None,
    bos: bool | None = None,
    special: bool = False,
    kb: KnowledgeBase | None = None,
    progress: Progress = None,
) -> Overshadowed:
    """Find the tokens of prompts that the next token is chosen without.

    Each token of a prompt, special ones excepted, is left out in turn, and the distributions of the
    next token with and without it are compared over their top tokens.

    Parameters
    ----------
    model : Model
    prompts : str, token ids, or a sequence of these
    alpha : float
        Share of the largest probability from which a token is among the top tokens.
    floor : {"vtop_min", "neg_min"}
        What escaping tokens are measured from: see :func:`km.scores.overshadow.indicator`.
    select : {"min", "max"}
        See :func:`km.scores.overshadow.select_token`.
    replace_by : int, optional
        Put this token in the place of the one left out; None: remove it.
    bos : bool, optional
        Put the beginning-of-sequence token before text; None: what the model file says.
    special : bool
        Treat special tokens written in the texts as those tokens.
    kb : KnowledgeBase, optional
        Prompts measured before are looked up in it; the result is recorded in it.
    progress : bool or callable, optional

    Returns
    -------
    Overshadowed

    Raises
    ------
    ArgumentError
        A prompt without tokens, or longer than the model's context.

    Notes
    -----
    Work is done on ids, so a token that comes twice is left out at one place at a time. The
    direction of the selection is disputed; docs/measures/overshadowing.md says by whom.

    Examples
    --------
    >>> model = km.load()  # doctest: +SKIP
    >>> km.overshadow.find(model, "The name of this North Korean singer is")  # doctest: +SKIP
    """
    top_tokens([0.0], alpha)
    indicator([0.0], [0.0], floor=floor)
    select_token([], select)
    if replace_by is not None:
        most = int(model.config["vocab_size"]) - 1
        replace_by = whole_number("replace_by", replace_by, 0, most)
    listed = list_prompts(prompts)
    ids = [
        model.encode(each, bos=bos, special=special) if isinstance(each, str) else each
        for each in listed
    ]
    context = int(model.config["context_length"])
    for i, own in enumerate(ids):
        if not own or len(own) > context:
            raise ArgumentError(f"prompt {i} has {len(own)} tokens; it must have 1 to {context}")
    options = {"alpha": float(alpha), "floor": floor, "replace_by": replace_by}
    keys = [content_key(FIND_ID, FIND_VERSION, options, model.fingerprint, [own]) for own in ids]
    parameters: dict[str, Any] = {
        **options,
        "select": select,
        "bos": bos,
        "special": special,
        "prompts": [each if isinstance(each, str) else None for each in listed],
        "prompt_ids": ids,
        "chunks": keys,
    }
    provenance = make_provenance(FIND_ID, FIND_VERSION, model, parameters)
    work = ChunkWork(kb, provenance)
    with ProgressReporter(progress, "overshadowed", unit="prompts", total=len(ids)) as report:
        jobs = [
            (key, partial(_measure, model, own, float(alpha), floor, replace_by))
            for key, own in zip(keys, ids, strict=True)
        ]
        chunks = work.run(counted(jobs, report))
    result = Overshadowed(chunks, provenance, work.run_id)
    if kb is not None and not kb.read_only:
        result.run = kb.record(result)
    return result


def _measure(
    model: Model, ids: Sequence[int], alpha: float, floor: Floor, replace_by: int | None
) -> Table:
    """The rows of one prompt."""
    import numpy as np

    middle = [] if replace_by is None else [replace_by]
    places, variants = [], []
    for i, id in enumerate(ids):
        variant = [*ids[:i], *middle, *ids[i + 1 :]]
        if variant and not model.is_special(id) and variant != list(ids):
            places.append(i)
            variants.append(variant)
    logits = next_logits(model, [list(ids), *variants])
    whole = logits[0]
    chances = _probabilities(whole)
    rows = []
    for position, without in zip(places, logits[1:], strict=True):
        found = indicator(whole, without, alpha=alpha, floor=floor)
        best, other = int(whole.argmax()), int(without.argmax())
        rows.append(
            {
                "position": position,
                "id": ids[position],
                "token": model.decode([ids[position]]),
                "indicator": found.value,
                "r_pmi_sum": found.r_pmi_sum,
                "escape": found.escape,
                "floor": None if math.isnan(found.floor) else found.floor,
                "n_common": len(found.common),
                "n_escaping": len(found.escaping),
                "next_id": best,
                "next_token": model.decode([best]),
                "next_id_without": other,
                "next_token_without": model.decode([other]),
                "overlap": float(np.minimum(chances, _probabilities(without)).sum()),
            }
        )
    return Table.from_rows(COLUMNS, rows)


def next_logits(model: Model, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Logits after each of several sequences of token ids; common beginnings are computed once.

    Returns
    -------
    (N, V) float32
    """
    import numpy as np

    out = np.empty((len(sequences), int(model.config["vocab_size"])), dtype=np.float32)
    first = 0
    while first < len(sequences):
        stop, nodes = first, 0
        while stop < len(sequences) and (
            stop == first or nodes + len(sequences[stop]) <= MOST_NODES
        ):
            nodes += len(sequences[stop])
            stop += 1
        out[first:stop] = _forest_logits(model, sequences[first:stop])
        first = stop
    return out


def _forest_logits(model: Model, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """The same for sequences that fit into one session."""
    import numpy as np

    forest = Forest([Prompt(tuple(own)) for own in sequences])
    ends = [nodes[-1] for nodes in forest.nodes]
    session = _km.Session(model._model, len(forest.ids))
    out = np.empty((len(sequences), int(model.config["vocab_size"])), dtype=np.float32)
    for first in range(0, len(forest.ids), PASS_TOKENS):
        last = min(first + PASS_TOKENS, len(forest.ids))
        wanted = [row for row, node in enumerate(ends) if first <= node < last]
        rows = session.append(
            forest.ids[first:last],
            forest.parent[first:last],
            array("q", [ends[row] - first for row in wanted]),
        )
        if wanted:
            out[wanted] = np.asarray(rows)
    return out


def _probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    import numpy as np

    return np.asarray(np.exp(log_softmax(logits)))


def _summary(prompt: int, rows: Sequence[dict[str, Any]], best: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompt": prompt,
        "n_candidates": len(rows),
        "n_negative": sum(row["indicator"] < 0 for row in rows),
    }
    if rows:
        found["next_token"] = rows[0]["next_token"]
    if best is None:
        return found
    row = rows[best]
    others = [other["indicator"] for i, other in enumerate(rows) if i != best]
    n_top = row["n_common"] + row["n_escaping"]
    return {
        **found,
        **{name: row[name] for name in ("position", "token", "indicator", "next_token_without")},
        "per_token": row["indicator"] / n_top,
        "median_of_others": median(others) if others else None,
    }
