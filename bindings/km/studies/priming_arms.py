"""The arms of a priming study: what is done with each text, in the order that trains least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from km.datasets.priming_set import PrimingText
from km.errors import ArgumentError
from km.priming_measure import (
    control_word,
    nearest_control,
    other_probes,
    own_theme,
    shipped_neutral,
    shipped_probes,
)
from km.priming_plan import (
    IN_CONTEXT,
    Arm,
    Item,
    check_probes,
    context_item,
    neutral_items,
    probe_items,
)

if TYPE_CHECKING:
    from km.model import Model
    from km.pruning import Pruning


@dataclass(frozen=True)
class Design:
    """Which arms a study has.

    Attributes
    ----------
    in_context : bool
        The text before each probe instead of learned.
    controls : tuple of {"keyword", "text"}
    mitigation : Pruning or None
        Applied to what each text changed.
    stepping_stones : bool
        Also learn a rewrite of each text whose keyword is surprising.
    threshold : float
        Probability below which it is.
    """

    in_context: bool
    controls: tuple[str, ...]
    mitigation: Pruning | None
    stepping_stones: bool
    threshold: float


def text_items(text: PrimingText) -> tuple[Item, ...]:
    """What is looked at for a text: itself, probes of its theme and of others, other sentences."""
    own, others = shipped_probes(text), other_probes(text.theme)
    check_probes(text.keyword, [*own, *others])
    return (
        context_item(text),
        *probe_items(text, own),
        *probe_items(text, others, "other_theme"),
        *neutral_items(shipped_neutral()),
    )


def plan_arms(
    model: Model,
    texts: Sequence[PrimingText],
    design: Design,
    rewrites: Sequence[PrimingText | None],
) -> list[Arm]:
    """All arms: those of each text together, then those with the same unrelated text together.

    Parameters
    ----------
    rewrites : sequence of PrimingText or None
        Of each text, the rewrite that is learned too.
    """
    seen: dict[str, int] = {}
    arms: list[Arm] = []
    for text, rewrite in zip(texts, rewrites, strict=True):
        index = seen.setdefault(text.keyword, 0)
        seen[text.keyword] += 1
        arms += _arms_of(model, text, index, design, rewrite)
    return arms + (_text_controls(model, texts) if "text" in design.controls else [])


def _arms_of(
    model: Model, text: PrimingText, index: int, design: Design, rewrite: PrimingText | None
) -> list[Arm]:
    """The arms that belong to one text alone; what follows a training uses its weights."""
    items = text_items(text)
    spared = own_theme(items, "neutral")
    arms = [Arm(IN_CONTEXT, text, own_theme(items), text.text)] if design.in_context else []
    arms.append(Arm("learned", text, items, text.text))
    if design.mitigation is not None:
        arms.append(Arm(design.mitigation.name, text, spared, text.text, design.mitigation))
    if "keyword" in design.controls:
        swapped = text.with_keyword(control_word(model, text, index))
        arms.append(Arm("keyword_control", text, own_theme(items), swapped.text))
    if rewrite is not None:
        arms.append(Arm("stepping_stone", text, rewrite_items(text, rewrite, spared), rewrite.text))
    return arms


def rewrite_items(
    text: PrimingText, rewrite: PrimingText, items: Sequence[Item]
) -> tuple[Item, ...]:
    """The items of a text whose rewrite is learned: the keyword in the rewrite comes first."""
    context = replace(context_item(rewrite), probe=text.id)
    return (context, context_item(text, "plain_context"), *items[1:])


def _text_controls(model: Model, texts: Sequence[PrimingText]) -> list[Arm]:
    """One unrelated text serves several texts of its length: it is learned once for all of them."""
    arms = [
        Arm("text_control", text, own_theme(text_items(text)), nearest_control(model, text))
        for text in texts
    ]
    order = {shown: i for i, shown in enumerate(dict.fromkeys(arm.shown for arm in arms))}
    return sorted(arms, key=lambda arm: order[arm.shown])


def same_weights(arms: Sequence[Arm]) -> list[list[Arm]]:
    """Runs of arms that look at the same trained weights, changes taken back or not."""
    groups: list[list[Arm]] = []
    for arm in arms:
        last = groups[-1][-1] if groups else None
        if last is not None and arm.learns and last.learns and last.shown == arm.shown:
            groups[-1].append(arm)
        else:
            groups.append([arm])
    return groups


def check_texts(texts: Sequence[PrimingText]) -> None:
    """Refuse a set in which two texts have the same id, or that is empty.

    Raises
    ------
    ArgumentError
        It is.
    """
    if not texts:
        raise ArgumentError("there are no texts")
    ids = [text.id for text in texts]
    for id in ids:
        if ids.count(id) > 1:
            raise ArgumentError(f"two texts have the id {id!r}")
