"""What a priming measurement does and looks at: recipe of training, schedule, items, columns."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km.arguments import need, need_unicode, real_number, strings, whole_number
from km.datasets.priming_set import (
    PrimingText,
    Probe,
    keyword_place,
    priming_texts,
    priming_theme,
)
from km.errors import ArgumentError
from km.optimizers import Optimizer
from km.result import content_key
from km.scores.priming import UNSTABLE
from km.table import Column, Table

if TYPE_CHECKING:
    from km.model import Model
    from km.optimizers import SGD, AdamW
    from km.pruning import Pruning

PRIMING_ID = "learning.priming"
PRIMING_VERSION = 1

# Between a text put before a probe and the probe.
SEPARATOR = "\n\n"

IN_CONTEXT = "in_context"

KeywordTokens: TypeAlias = Literal["joint", "first"]

COLUMNS = [
    Column("text", "text", "", "Identifier of the text whose keyword is looked at."),
    Column("theme", "text", "", "Theme of the keyword; empty when not known."),
    Column("category", "text", "", "Category of the text; empty when not known."),
    Column("keyword", "text", "", "The word whose probability is followed."),
    Column("arm", "text", "", "What was done between before and after; docs/measures/priming.md."),
    Column("learned", "text", "", "What was learned, or put before; on rows of kind context only."),
    Column("kind", "text", "", "context, plain_context, theme, other_theme or neutral."),
    Column("probe", "text", "", "Identifier of what stands before the keyword."),
    Column("probe_theme", "text", "", "Theme of the probe."),
    Column("probe_text", "text", "", "What stands before the keyword; the sentence if neutral."),
    Column("n_tokens", "int64", "tokens", "Tokens scored."),
    Column("logp_keyword_before", "double", "nats", "Of the keyword in the text, before."),
    Column("logp_before", "double", "nats", "Log-probability before."),
    Column("logp_after", "double", "nats", "Log-probability after."),
    Column("log_ratio", "double", "nats", "logp_after - logp_before."),
    Column("unstable", "bool", "", "The probability before is below 1e-10."),
]


# ---- how a text is learned ----


@dataclass(frozen=True)
class Recipe:
    """How one text is learned.

    Attributes
    ----------
    optimizer : AdamW or SGD
        Fresh for each text.
    presentations : int
        Steps at which the text is part of the batch.
    spacing : int
        Steps from one presentation to the next; 1: one after another.
    steps : int or None
        Steps altogether; None: up to the last presentation.
    background : tuple of str
        Texts of the other elements of the batches; none: a batch is the text alone.
    batch_size : int
        With a background.
    companions : tuple of str
        Texts learned at the same steps.
    clip : float or None
        Largest norm of the gradient.
    seed : int
        Of the order of the background.
    """

    optimizer: AdamW | SGD
    presentations: int = 3
    spacing: int = 1
    steps: int | None = None
    background: tuple[str, ...] = ()
    batch_size: int = 8
    companions: tuple[str, ...] = ()
    clip: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number("presentations", self.presentations, 0)
        whole_number("spacing", self.spacing, 1)
        whole_number("batch_size", self.batch_size, 1)
        whole_number("seed", self.seed, 0, 2**64 - 1)
        need("optimizer", self.optimizer, Optimizer, "km.AdamW(lr=1e-4)")
        if self.clip is not None and real_number("clip", self.clip, 0, 1e18) == 0:
            raise ArgumentError("clip is 0, which would stop all learning; None clips nothing")
        if self.steps is not None and whole_number("steps", self.steps, 0) < self.n_steps:
            raise ArgumentError(
                f"steps is {self.steps}; {self.presentations} presentations {self.spacing} apart "
                f"need {self.n_steps}"
            )
        longer = (self.steps or 0) > self._needed or (self.spacing > 1 and self.presentations > 1)
        if longer and not self.background:
            raise ArgumentError(
                "steps between and after presentations need texts to learn from: give background"
            )
        if self.background and len(self.companions) >= self.batch_size:
            raise ArgumentError(
                f"the text and {len(self.companions)} companions do not fit into a batch of "
                f"{self.batch_size}"
            )

    @property
    def _needed(self) -> int:
        return (self.presentations - 1) * self.spacing + 1 if self.presentations else 0

    @property
    def n_steps(self) -> int:
        """Optimiser steps altogether."""
        return max(self._needed, self.steps or 0)

    def batches(self, text: str) -> Iterator[list[str]]:
        """The texts of each step; a presentation takes the place of a batch's first elements."""
        inserted = [text, *self.companions]
        others = self._background()
        for step in range(self.n_steps):
            index, rest = divmod(step, self.spacing)
            own = inserted if rest == 0 and index < self.presentations else []
            batch = [next(others) for _ in range(self.batch_size)] if self.background else []
            yield own + batch[len(own) :]

    def _background(self) -> Iterator[str]:
        """The background again and again, each time in another order."""
        import numpy as np

        generator = np.random.Generator(np.random.PCG64(self.seed))
        while True:
            for i in generator.permutation(len(self.background)).tolist():
                yield self.background[i]

    def describe(self) -> dict[str, Any]:
        """Everything that decides the trained weights, as parameters of a provenance."""
        return {
            "presentations": self.presentations,
            "spacing": self.spacing,
            "steps": self.n_steps,
            "background": _digest(self.background),
            "batch_size": self.batch_size if self.background else None,
            "companions": list(self.companions),
            "clip": self.clip,
            "background_seed": self.seed if self.background else None,
            "optimizer": self.optimizer.describe(),
        }


def _digest(texts: Sequence[str]) -> str | None:
    """SHA-256 (hex) over texts in order; None without any."""
    if not texts:
        return None
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


# ---- what is looked at ----


@dataclass(frozen=True)
class Item:
    """One log-probability that is measured before and after.

    Attributes
    ----------
    kind : {"context", "plain_context", "theme", "other_theme", "neutral"}
        The keyword in the learned text, in the text as it was before it was rewritten, after a
        probe of its theme or of another; or a sentence that has nothing to do with it.
    probe, theme : str
        Identifier and theme of what stands before the keyword.
    context : str
        What stands before the keyword; a neutral sentence whole.
    keyword : str
        Empty for a neutral sentence.
    """

    kind: str
    probe: str
    theme: str
    context: str
    keyword: str

    def behind(self, text: str) -> Item:
        """The same with a text put before it."""
        return replace(self, context=f"{text}{SEPARATOR}{self.context}")


def context_item(text: PrimingText, kind: str = "context") -> Item:
    """The keyword in its text."""
    return Item(kind, text.id, text.theme, text.prefix, text.keyword)


def probe_items(text: PrimingText, probes: Sequence[Probe], kind: str = "theme") -> list[Item]:
    """The keyword after probes."""
    return [Item(kind, probe.id, probe.theme, probe.text, text.keyword) for probe in probes]


def neutral_items(sentences: Sequence[str]) -> list[Item]:
    """Sentences that have nothing to do with what is learned."""
    return [
        Item("neutral", f"neutral-{i}", "", sentence, "") for i, sentence in enumerate(sentences)
    ]


@dataclass(frozen=True)
class Encoded:
    """An item as the model is shown it: ids given, and ids whose log-probabilities are summed."""

    given: tuple[int, ...]
    scored: tuple[int, ...]


def encode_item(model: Model, item: Item, keyword_tokens: KeywordTokens) -> Encoded:
    """Token ids of an item; the keyword is encoded by itself, with the blank before it.

    Raises
    ------
    ArgumentError
        There is nothing to score, or it does not fit into the model's context.
    """
    given = model.encode(item.context)
    scored = []
    if item.keyword:
        blank = "" if item.context[-1:].isspace() else " "
        scored = model.encode(blank + item.keyword, bos=False)
        scored = scored[:1] if keyword_tokens == "first" else scored
    else:
        given, scored = given[:1], given[1:]
    if not given or not scored:
        raise ArgumentError(f"{item.kind} {item.probe!r}: {item.context!r} leaves nothing to score")
    longest = int(model.config["context_length"])
    if len(given) + len(scored) - 1 > longest:
        raise ArgumentError(
            f"{item.kind} {item.probe!r}: {len(given) + len(scored)} tokens do not fit into the "
            f"model's context of {longest}"
        )
    return Encoded(tuple(given), tuple(scored))


@dataclass(frozen=True)
class Arm:
    """One thing done to a model, and what is looked at before and after.

    Attributes
    ----------
    name : str
        "in_context", or what is written of the training in the table.
    text : PrimingText
        Whose keyword is followed.
    items : tuple of Item
        The keyword in its text first.
    shown : str
        What is learned; in context, what is put before each probe.
    pruning : Pruning or None
        Changes that are taken back.
    """

    name: str
    text: PrimingText
    items: tuple[Item, ...]
    shown: str
    pruning: Pruning | None = None

    @property
    def learns(self) -> bool:
        """Whether anything is learned."""
        return self.name != IN_CONTEXT

    def key(self, model: Model, recipe: Mapping[str, Any], keyword_tokens: KeywordTokens) -> str:
        """Content key of its rows.

        Parameters
        ----------
        recipe : mapping
            As :meth:`Recipe.describe` gives it.
        """
        encoded = [encode_item(model, item, keyword_tokens) for item in self.items]
        ids = [model.encode(self.shown), *(part for e in encoded for part in (e.given, e.scored))]
        parameters = {
            "arm": self.name,
            "text": [self.text.id, self.text.theme, self.text.category, self.text.keyword],
            "items": [[item.kind, item.probe, item.theme] for item in self.items],
            "keyword_tokens": keyword_tokens,
            "recipe": recipe if self.learns else None,
            "pruning": None if self.pruning is None else self.pruning.describe(),
        }
        return content_key(PRIMING_ID, PRIMING_VERSION, parameters, model.fingerprint, ids)

    def table(
        self, encoded: Sequence[Encoded], before: Sequence[float], after: Sequence[float]
    ) -> Table:
        """The rows from log-probabilities of the items."""
        rows = []
        for item, ids, old, new in zip(self.items, encoded, before, after, strict=True):
            row = {
                "text": self.text.id,
                "theme": self.text.theme,
                "category": self.text.category,
                "keyword": self.text.keyword,
                "arm": self.name,
                "learned": self.shown if item.kind == "context" else None,
                "kind": item.kind,
                "probe": item.probe,
                "probe_theme": item.theme,
                "probe_text": item.context,
                "n_tokens": len(ids.scored),
                "logp_keyword_before": before[0],
                "logp_before": old,
                "logp_after": new,
                "log_ratio": new - old,
                "unstable": item.kind != "neutral" and old < math.log(UNSTABLE),
            }
            rows.append(row)
        return Table.from_rows(COLUMNS, rows)


# ---- arguments ----


def as_priming_text(
    text: str | PrimingText, keyword: str | None, context: str | None
) -> PrimingText:
    """A user's text with its parts: prefix, keyword and what follows.

    Raises
    ------
    ArgumentError
        The keyword does not stand in the text, or not behind the context.
    """
    if isinstance(text, PrimingText):
        need_unicode("text", text.text)
        if keyword not in (None, text.keyword) or context not in (None, text.prefix):
            raise ArgumentError(f"text {text.id!r} has a keyword and a context of its own")
        return text
    if not isinstance(text, str):
        raise TypeError(f"text must be str or PrimingText, not {type(text).__name__}")
    if not isinstance(keyword, str) or not keyword.strip():
        raise ArgumentError("keyword must be a word of the text")
    need("context", context, str, "'The colour of joy is'")
    need_unicode("text", text)
    keyword = keyword.strip()
    if context is None:
        place = keyword_place(text, keyword)
        if place is None:
            raise ArgumentError(f"the keyword {keyword!r} does not stand in the text")
        context = text[:place].rstrip(" ")
        keyword = text[place : place + len(keyword)]
    if not context:
        raise ArgumentError(f"nothing stands before the keyword {keyword!r}")
    if not text[len(context) :].lstrip(" ").startswith(keyword) or not text.startswith(context):
        raise ArgumentError(f"context must be what the text has before the keyword {keyword!r}")
    return PrimingText("text", theme_of(keyword), "", keyword, context, text)


def theme_of(keyword: str) -> str:
    """The shipped theme of a keyword; "" for any other word."""
    for name in priming_texts().themes:
        if keyword in priming_theme(name).keywords:
            return name
    return ""


def as_probes(name: str, probes: Any, theme: str = "") -> list[Probe]:
    """Probes given as texts or as :class:`~km.datasets.Probe`.

    Raises
    ------
    TypeError
        Something else is among them.
    """
    if isinstance(probes, str | Probe):
        probes = [probes]
    found = []
    for i, probe in enumerate(probes):
        if isinstance(probe, Probe):
            found.append(probe)
        else:
            found.append(Probe(f"{name}-{i}", theme, strings(name, probe)[0]))
    ids = [probe.id for probe in found]
    if len(set(ids)) < len(ids):
        raise ArgumentError(f"{name}: two probes have the same id")
    return found


def check_probes(keyword: str, probes: Sequence[Probe]) -> None:
    """Refuse probes that hold the keyword.

    Raises
    ------
    ArgumentError
        One does, or is empty.
    """
    for probe in probes:
        need_unicode(f"probe {probe.id!r}", probe.text)
        if not probe.text.strip():
            raise ArgumentError(f"probe {probe.id!r} is empty")
        if keyword_place(probe.text, keyword) is not None:
            raise ArgumentError(f"probe {probe.id!r} holds the keyword {keyword!r}")
