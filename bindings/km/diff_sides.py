"""The two sides of a diff: models in any form, or recalls that were recorded, asked the same."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from km import _km
from km.arguments import need
from km.errors import ArgumentError, UnsupportedError
from km.recall import Recall, recall_key
from km.recall_plan import RelationPlan
from km.table import Table

if TYPE_CHECKING:
    import os

    from km.kb import KnowledgeBase
    from km.model import Model

#: What may be compared: a model, something with ``.model()`` (a snapshot), a file, a folder, a
#: checkpoint, a name that km knows, a recall, or "run:12" of a knowledge base.
Source: TypeAlias = "Model | Recall | str | os.PathLike[str] | Any"

RUN = "run:"


@dataclass
class Side:
    """One side of a diff.

    Attributes
    ----------
    model : Model or None
        None for a recall that was recorded.
    recall : Recall or None
        None until it is measured.
    """

    model: Model | None
    recall: Recall | None = None

    @cached_property
    def about(self) -> dict[str, Any]:
        """The model's part of a provenance; that of a trainable model costs a pass over it."""
        if self.model is not None:
            return self.model.describe()
        assert self.recall is not None
        return dict(self.recall.provenance.get("model") or {})

    def without_model(self) -> Side:
        """The same, keeping no weights in memory."""
        assert self.about is not None
        self.model = None
        return self

    @property
    def brief(self) -> dict[str, Any]:
        """What a diff keeps of it."""
        kept = ("name", "fingerprint", "tokenizer_hash", "precision")
        run = self.recall.run if self.recall is not None else None
        return {**{name: self.about.get(name) for name in kept}, "run": run}


def resolve(
    source: Source,
    name: str,
    kb: KnowledgeBase | None,
    threads: int | None,
    origin: Model | None = None,
) -> Side:
    """A side from whatever was given; `origin` is the model that checkpoints were made from.

    Raises
    ------
    ArgumentError
        It is nothing that can be compared; the message names the argument.
    """
    from km.checkpoint_model import is_checkpoint, load_checkpoint
    from km.loading import load
    from km.model import Model

    if isinstance(source, Model):
        return Side(source)
    if isinstance(source, Recall):
        return Side(None, source)
    if isinstance(source, str) and source.startswith(RUN):
        return Side(None, _recorded(source, name, kb))
    if isinstance(source, str | Path) or hasattr(source, "__fspath__"):
        if is_checkpoint(source):
            return Side(load_checkpoint(source, origin))
        return Side(load(source, threads=threads))
    made = getattr(source, "model", None)
    if callable(made):
        return resolve(made(), name, kb, threads, origin)
    raise ArgumentError(
        f"{name} is a {type(source).__name__}; give a model, a snapshot, a path, a recall, or "
        f'"{RUN}12" with kb='
    )


def resolve_both(
    a: Source,
    b: Source,
    kb: KnowledgeBase | None,
    threads: int | None,
    origin: Source | None,
) -> tuple[Side, Side, Model | None]:
    """Both sides, and the model that checkpoints among the null models were made from.

    Where one side is a checkpoint and no origin is given, the other side is taken for it.
    """
    from km.kb import KnowledgeBase

    need("kb", kb, KnowledgeBase, "km.KnowledgeBase(path)")
    base = None if origin is None else resolve(origin, "origin", kb, threads).model
    if base is None and _holds_checkpoint(a):
        after = resolve(b, "b", kb, threads)
        return resolve(a, "a", kb, threads, after.model), after, after.model
    before = resolve(a, "a", kb, threads, base)
    base = base or before.model
    return before, resolve(b, "b", kb, threads, base), base


def _holds_checkpoint(source: Source) -> bool:
    from km.checkpoint_model import is_checkpoint

    return isinstance(source, str | Path) and is_checkpoint(source)


def _recorded(source: str, name: str, kb: KnowledgeBase | None) -> Recall:
    number = source.removeprefix(RUN)
    if not number.isdecimal():
        raise ArgumentError(f"{name} is {source!r}; a recorded run is written {RUN}12")
    if kb is None:
        raise ArgumentError(f"{name} is {source!r}; a recorded run needs its knowledge base, kb=")
    return Recall.from_knowledge_base(kb, int(number))


def check_settings(a: Recall, b: Recall) -> None:
    """Refuse two recorded recalls whose candidates were not chosen alike.

    Raises
    ------
    ArgumentError
        Seed, number of candidates, BOS or facts differ.
    """
    for name in ("max_candidates", "bos", "templates"):
        if a.parameters[name] != b.parameters[name]:
            raise ArgumentError(
                f"the two recalls were measured with {name} {a.parameters[name]!r} and "
                f"{b.parameters[name]!r}; measure one of them again"
            )
    if a.provenance["seed"] != b.provenance["seed"]:
        raise ArgumentError("the two recalls were measured with different seeds of candidates")
    counts = [{r["name"]: r["n"] for r in recall.parameters["relations"]} for recall in (a, b)]
    for name in counts[0].keys() & counts[1].keys():
        if counts[0][name] != counts[1][name]:
            raise ArgumentError(
                f"relation {name!r} has {counts[0][name]} facts in one recall and "
                f"{counts[1][name]} in the other, so that their candidates differ"
            )


def known_with_lens(
    kb: KnowledgeBase | None, model: Model, plans: Sequence[RelationPlan], bos: bool | None
) -> bool:
    """Whether the knowledge base has the rows with the layers of the lens, so that they serve."""
    return kb is not None and all(
        kb.load_chunk(recall_key(model, plan, bos, lens=True)) is not None for plan in plans
    )


# ---- the same weights, stored more coarsely ----


def coarser_type(model: Model) -> str:
    """The type a model's weights are stored in anew to see what storing alone does."""
    return "F16" if model.precision == "Q8_0" else "Q8_0"


def requantised_jobs(
    model: Model,
    plans: Sequence[RelationPlan],
    bos: bool | None,
    batch_tokens: int,
    opened: Callable[[], Model],
) -> Iterator[tuple[str, Callable[[], Table]]]:
    """Content keys of a requantised model's rows and what measures them.

    The keys name the original model, so that one whose rows are known is never made.
    """
    weights = ["requantised", coarser_type(model)]
    for plan in plans:

        def measure(plan: RelationPlan = plan) -> Table:
            arguments = plan.arguments()
            return Table.wrap(
                _km.memorization_run(opened()._model, *arguments, bos, batch_tokens, False, None)
            )

        yield recall_key(model, plan, bos, lens=False, weights=weights), measure


@contextmanager
def requantised(model: Model) -> Iterator[Callable[[], Model]]:
    """Gives a function that makes the model with coarser weights when it is first called.

    It is written to a temporary folder, which is gone afterwards.

    Raises
    ------
    UnsupportedError
        There is no room for the file; the message says how much it needs.
    """
    from km.loading import load

    made: list[Model] = []
    with tempfile.TemporaryDirectory(prefix="km-") as folder:

        def opened() -> Model:
            if not made:
                _check_room(folder, requantised_bytes(model))
                path = model.save(
                    Path(folder) / "requantised.gguf",
                    dtype=coarser_type(model),  # type: ignore[arg-type]
                )
                made.append(load(path, threads=model.context.threads))
            return made[0]

        yield opened


def requantised_bytes(model: Model) -> int:
    """About how large the file of the requantised model is."""
    per_weight = 2.0 if coarser_type(model) == "F16" else 34 / 32
    return int(per_weight * model.n_parameters) + (16 << 20)


def _check_room(folder: str, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UnsupportedError(
            f"{folder} has {free >> 20} MiB free; the requantised model needs {needed >> 20} MiB"
        )


def read_targets(targets: Any, facts: Sequence[tuple[str, str]]) -> list[bool] | None:
    """Of each fact whether it was meant to change.

    Parameters
    ----------
    targets : None, str, or an iterable
        Of "relation", "relation/fact" or fact ids; relations; or a fact set.
    facts : sequence of (relation, fact)

    Raises
    ------
    ArgumentError
        One of them names nothing among the facts, or facts of several relations.
    """
    if targets is None:
        return None
    chosen = [False] * len(facts)
    for relation, fact in _named(targets, {relation for relation, _ in facts}):
        found = [
            i for i, (own, id) in enumerate(facts) if relation in (None, own) and fact in (None, id)
        ]
        shown = "/".join(part for part in (relation, fact) if part is not None)
        if not found:
            raise ArgumentError(f"targets: {shown!r} is no relation or fact that was asked")
        if relation is None and len(found) > 1:
            first = facts[found[0]][0]
            raise ArgumentError(
                f"targets: fact {shown!r} is in several relations; write {first}/{shown}"
            )
        for i in found:
            chosen[i] = True
    return chosen


def _named(targets: Any, relations: set[str]) -> Iterator[tuple[str | None, str | None]]:
    """Relation and fact that each target names; None for any."""
    items: Any = [targets] if isinstance(targets, str) or hasattr(targets, "templates") else targets
    for item in items:
        if hasattr(item, "facts"):
            yield from ((item.name, fact.id) for fact in item.facts)
        elif not isinstance(item, str):
            raise ArgumentError(f"targets holds a {type(item).__name__}; give names or relations")
        elif item in relations:
            yield item, None
        elif item.partition("/")[0] in relations:
            relation, _, fact = item.partition("/")
            yield relation, fact
        else:
            yield None, item


def target_names(targets: Any) -> list[str] | None:
    """The targets as a diff records them."""
    if targets is None:
        return None
    items: Any = [targets] if isinstance(targets, str) or hasattr(targets, "templates") else targets
    return [item if isinstance(item, str) else str(item.name) for item in items]
