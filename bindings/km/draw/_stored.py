"""What pictures read from a knowledge base: models, lineage, runs, and states of facts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from km.draw._common import number, visible
from km.errors import ArgumentError, NotFoundError
from km.recall_summary import NOT_SHOWN, PROMPT_DEPENDENT, ROBUST, summarise_facts
from km.result import stored_provenance, stored_table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

RECALL_ID = "memorization.recall"
OTHER_ANSWER = "another answer"
MAX_DESCRIPTION = 2000  # characters, at most 8,000 bytes
SHORTEST = 8  # characters of a fingerprint that name a model

# state -> colour, colour of text on it, what it means
STATES = {
    ROBUST: ("blue", "paper", "right under every prompt and above the subject-removed prompt"),
    PROMPT_DEPENDENT: ("mid-blue", "ink", "right under some prompts, or not above that baseline"),
    NOT_SHOWN: ("grid", "ink", "right under no prompt asked"),
    OTHER_ANSWER: ("vermilion", "paper", "the same other answer first under every prompt asked"),
}
RANK = {ROBUST: 2, PROMPT_DEPENDENT: 1, NOT_SHOWN: 0, OTHER_ANSWER: 0}  # of what is recalled

Fact = tuple[str, str]  # relation, id


@dataclass(frozen=True)
class FactState:
    """How one fact did in one run: its state, what it was asked with, what came out on top."""

    state: str
    subject: str
    answer: str
    top: str
    asked: tuple[Any, ...]
    verdict: str = ""  # of a diff


def file_name(kb: KnowledgeBase) -> str:
    """The name of a knowledge base's file, without its folder."""
    return os.path.basename(kb.path)


def described(subtitle: str, details: Iterable[str]) -> str:
    """A description for readers who cannot see the picture: what it says, then its figures."""
    text = visible(" ".join([subtitle, *details]))
    return text if len(text) <= MAX_DESCRIPTION else text[: MAX_DESCRIPTION - 1] + "…"


def short(fingerprint: str) -> str:
    """The beginning of a fingerprint, by which a model can be named."""
    return visible(fingerprint)[:SHORTEST]


def check_source(source: Any, kinds: str) -> None:
    """Refuse what is neither a knowledge base nor a result.

    Raises
    ------
    TypeError
        Such as a path.
    """
    if not hasattr(source, "ask") and not hasattr(source, "provenance"):
        raise TypeError(
            f"source must be {kinds}, not {type(source).__name__}; km.KnowledgeBase(path) opens a "
            "file"
        )


def stored_models(kb: KnowledgeBase) -> dict[str, dict[str, Any]]:
    """Models by fingerprint, in the order they were recorded."""
    sql = "SELECT fingerprint, name, precision, architecture, n_parameters FROM models ORDER BY id"
    return {row["fingerprint"]: row for row in kb.sql(sql).rows()}


def stored_lineage(kb: KnowledgeBase) -> list[dict[str, Any]]:
    """Steps from parent to child as ``kb.ask("lineage")`` gives them, with short keys."""
    steps = kb.ask("lineage").rows()
    return [
        {name: row[name] for name in ("kind", "step", "run", "measure", "seed", "recipe")}
        | {"child": row["child_fingerprint"], "parent": row["parent_fingerprint"]}
        for row in steps
    ]


def named_model(models: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """The fingerprint of the model a name, a fingerprint or the beginning of one means.

    Raises
    ------
    NotFoundError
        No model is called so.
    ArgumentError
        Several models are.
    """
    if name in models:
        return name
    begins = len(name) >= SHORTEST
    found = [
        key
        for key, model in models.items()
        if model["name"] == name or (begins and key.startswith(name))
    ]
    if not found:
        raise NotFoundError(f"the knowledge base has no model {name!r}")
    if len(found) > 1:
        which = ", ".join(short(key) for key in found[:6])
        raise ArgumentError(
            f"{len(found)} models are called {name!r}: give a fingerprint ({which})"
        )
    return found[0]


def newest_runs(kb: KnowledgeBase, measure: str) -> dict[str, int]:
    """The newest finished run of a measure on each model, by fingerprint."""
    sql = (
        "SELECT m.fingerprint, max(r.id) AS run FROM runs AS r JOIN models AS m ON m.id = r.model"
        " WHERE r.measure = ? AND r.status = 'done' GROUP BY m.id ORDER BY m.id"
    )
    return {row["fingerprint"]: int(row["run"]) for row in kb.sql(sql, [measure]).rows()}


def chosen_run(kb: KnowledgeBase, measure: str, run: int | None) -> int:
    """The run asked for, or the newest finished one of a measure.

    Raises
    ------
    NotFoundError
        There is none.
    """
    if run is not None:
        return run
    sql = "SELECT max(id) AS id FROM runs WHERE measure = ? AND status = 'done'"
    found = kb.sql(sql, [measure])["id"][0]
    if found is None:
        raise NotFoundError(f"{kb.path} has no finished run of {measure}")
    return int(found)


def fact_states(kb: KnowledgeBase, run: int) -> dict[Fact, FactState]:
    """The state of each ranked fact of a recall run."""
    provenance, _ = stored_provenance(kb, run, RECALL_ID)
    parameters = provenance["parameters"]
    states: dict[Fact, FactState] = {}
    for relation in parameters["relations"]:
        rows = list(stored_table(kb, run, relation["chunk"]).rows())
        groups: dict[Fact, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault((row["relation"], row["fact"]), []).append(row)
        for fact in summarise_facts(rows, float(parameters["confidence"])):
            if fact["state"] is not None:
                key = (fact["relation"], fact["fact"])
                states[key] = _state(fact, groups[key])
    return states


def _state(fact: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> FactState:
    """One candidate that leads under every one of several prompts is an answer of its own."""
    tops = {row["top_candidate"] for row in rows}
    settled = fact["state"] == NOT_SHOWN and len(rows) > 1 and len(tops) == 1
    asked = sorted((row["template"], row["prompt"], row["n_candidates"]) for row in rows)
    return FactState(
        OTHER_ANSWER if settled else fact["state"],
        str(fact["subject"]),
        str(fact["answer"]),
        " / ".join(sorted(str(top) for top in tops)),
        tuple(asked),
    )


def generations(names: Iterable[str], steps: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many steps each model lies below its farthest ancestor.

    Steps that would close a circle, which km never writes, are left out of the count.
    """
    parents: dict[str, list[str]] = {name: [] for name in names}
    for step in steps:
        if step["child"] in parents and step["parent"] in parents:
            parents[step["child"]].append(step["parent"])
    depth: dict[str, int] = {}
    for start in parents:
        _measure(start, parents, depth)
    return depth


def _measure(start: str, parents: Mapping[str, list[str]], depth: dict[str, int]) -> None:
    """Depths of a model and its ancestors, without recursion: chains may be long."""
    stack, open_ = [start], {start}
    while stack:
        name = stack[-1]
        waiting = [p for p in parents[name] if p not in depth and p not in open_]
        if waiting:
            stack.append(waiting[0])
            open_.add(waiting[0])
            continue
        depth[name] = max((depth[p] + 1 for p in parents[name] if p in depth), default=0)
        stack.pop()
        open_.discard(name)


def optimizer_name(described: object) -> str:
    """An optimiser as a recipe describes it, such as "AdamW at 5e-5"."""
    if not isinstance(described, Mapping):
        return ""
    name, lr = str(described.get("name", "optimizer")), number(described.get("lr"))
    return name if lr is None else f"{name} at {small(lr)}"


def small(value: float) -> str:
    """A number such as 0.02 or 5e-5."""
    if value != 0.0 and abs(value) < 1e-3:
        mantissa, power = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(power)}"
    return f"{value:g}"


def count_name(n: int) -> str:
    """A number of parameters such as 135M."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if n >= size:
            return f"{n / size:.3g}{letter}"
    return str(n)
