"""What changed from one model to another, fact by fact, beyond what means nothing: `km.diff`.

Recorded in a knowledge base as the measure "learning.diff". Its run's parameters hold `before` and
`after` (name, fingerprint, precision, run of each side) and `chunks`, the content keys of the
tables by name:

facts
    One row a fact: relation, fact, subject, answer, target, verdict (learned, kept, weakened, lost,
    changed, unresolved, not held), state_before and state_after (robust, prompt-dependent, not
    shown), ranks, probabilities and leading answers before and after, change in nats with its
    interval, floor, p and q. Flows between states are counts of (state_before, state_after).
shares
    One row a group (all, targets, unrelated) and outcome: share, floor, net share with interval.
relations
    One row a relation, the first for all facts together: recall before and after, the change with
    its interval, counts of verdicts, mean change of log-probability, next-token divergence.
layers
    One row a layer: distance and angle of residual streams, divergence read through the logit lens.
floors, notes
    What was taken as noise, and what a reader has to know.

Columns: ``COLUMNS`` of km.diff_facts, km.diff_shares and km.diff_relations, ``LAYER_COLUMNS`` of
km.diff_layers, ``FLOOR_COLUMNS`` of km.diff_facts. Definitions: docs/measures/diff.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km import diff_facts, diff_shares
from km.arguments import MOST_TOKENS, coverage, real_number, whole_number
from km.diff_shares import ALL, UNRELATED, Limit
from km.diff_sides import Source, resolve, resolve_both
from km.diff_summary import side_name, summarise
from km.diff_work import DIFF_ID, TABLES, Work
from km.display import escape
from km.errors import ArgumentError
from km.model import Model
from km.progress import Progress
from km.result import Result, stored_provenance, stored_table
from km.table import Table

if TYPE_CHECKING:
    from km.datasets import FactSet, Relation
    from km.kb import KnowledgeBase
    from km.picture import Picture


class Diff(Result):
    """What :func:`km.diff` returns.

    Attributes
    ----------
    table : Table
        One row a fact with its verdict; also ``facts``.
    shares : Table
        Shares lost, learned, weakened and changed above the floor, with intervals.
    relations : Table
        One row a relation, the first for all facts.
    layers : Table
        One row a layer; empty where nothing can be compared.
    floors : Table
        What was taken as noise, and how far it reaches.
    flows : Table
        Facts by state before and after.
    changes : Table
        The rows of ``table`` whose change exceeds the floor, largest first.
    alarm : bool
        Whether there are any.
    run : int or None
        The run in the knowledge base.
    notes : list of str
        What a reader has to know before quoting a figure.
    """

    def __init__(
        self, tables: Mapping[str, Table], provenance: Mapping[str, Any], run: int | None = None
    ) -> None:
        super().__init__(tables["facts"], provenance)
        self.facts = tables["facts"]
        self.shares = tables["shares"]
        self.relations = tables["relations"]
        self.layers = tables["layers"]
        self.run = run
        rows = list(self.facts.rows())
        self.flows = diff_facts.flows(rows)
        listed = [row for row in rows if row["verdict"] in diff_facts.LISTED]
        listed.sort(key=lambda row: -abs(row["change"]))
        self.changes = Table.from_rows(diff_facts.COLUMNS, listed)
        self.alarm = bool(listed)
        self.floors = tables["floors"]
        self.notes = [str(note) for note in tables["notes"]["note"]]
        keys = self.parameters["chunks"]
        self.chunks = [(keys[name], tables[name]) for name in TABLES]
        self.evidence = _evidence(self)

    @classmethod
    def from_knowledge_base(cls, kb: KnowledgeBase, run: int) -> Diff:
        """The diff that a run recorded.

        Raises
        ------
        NotFoundError
            There is no such finished run, or it is not one of a diff.
        """
        provenance, _ = stored_provenance(kb, run, DIFF_ID)
        keys = provenance["parameters"]["chunks"]
        return cls({name: stored_table(kb, run, keys[name]) for name in TABLES}, provenance, run)

    # ---- reading ----

    def share(self, outcome: str, group: str = ALL) -> dict[str, Any]:
        """The row of ``shares`` for an outcome and a group of facts."""
        for row in self.shares.rows():
            if row["outcome"] == outcome and row["group"] == group:
                return row
        groups = sorted(set(self.shares["group"]))
        raise ArgumentError(
            f"no share of {outcome!r} in {group!r}; there are {', '.join(diff_shares.OUTCOMES)} "
            f"in {', '.join(groups)}"
        )

    def exceeds(self, limits: str | Iterable[str]) -> list[str]:
        """Which limits are exceeded, each with the share that does so; see ``km diff --fail-on``.

        Parameters
        ----------
        limits : str or iterable of str
            Such as "lost>2%". The lower end of the net share's interval counts, of the unrelated
            facts where targets were given, else of all.

        Returns
        -------
        list of str
            Empty when none is.
        """
        parsed = [limits] if isinstance(limits, str) else list(limits)
        out = []
        for limit in map(diff_shares.parse_limit, parsed):
            found = self._exceeds(limit)
            if found is not None:
                out.append(found)
        return out

    def _exceeds(self, limit: Limit) -> str | None:
        group = UNRELATED if self.targeted else ALL
        row = self.share(limit.outcome, group)
        if row["low"] is None or row["low"] <= limit.share:
            return None
        return (
            f"{limit}: {100 * row['net']:.1f} % of facts {row['of']} ({group}), at least "
            f"{100 * row['low']:.1f} %"
        )

    @property
    def targeted(self) -> bool:
        """Whether some facts were meant to change."""
        return UNRELATED in self.shares["group"]

    @property
    def summary(self) -> str:
        """The diff in a few lines."""
        return "\n".join(summarise(self))

    def to_json(self, indent: int | None = None) -> str:
        """Everything as one JSON object: summary, alarm, tables as lists of rows, provenance."""
        names = ("facts", "shares", "relations", "layers", "floors", "flows")
        rows = {
            name: [json.loads(line) for line in (getattr(self, name).to_jsonl() or "").splitlines()]
            for name in names
        }
        content = {
            "summary": self.summary.splitlines(),
            "alarm": self.alarm,
            "run": self.run,
            "notes": self.notes,
            **rows,
            "provenance": self.provenance,
        }
        return json.dumps(content, ensure_ascii=False, indent=indent, allow_nan=False)

    def draw(self, **options: Any) -> Picture:
        """Flows between states of facts as a picture: :func:`km.draw.evolution`."""
        from km import draw

        return draw.evolution(self, **options)

    def __repr__(self) -> str:
        return f"<km.Diff>\n{self.summary}"

    def _repr_html_(self) -> str:
        lines = "".join(f"<div>{escape(line)}</div>" for line in summarise(self))
        parts = "".join(
            f"<details><summary>{name}</summary>{getattr(self, name)._repr_html_()}</details>"
            for name in ("shares", "relations", "layers", "facts")
        )
        return f"<div>{lines}{parts}</div>"


def _evidence(diff: Diff) -> list[dict[str, Any]]:
    """Side effects on facts that were not meant to change; nothing without targets."""
    if not diff.targeted:
        return []
    row = diff.share(diff_facts.LOST, UNRELATED)
    if row["net"] is None:
        return []
    names = (side_name(diff.parameters["before"]), side_name(diff.parameters["after"]))
    return [
        {
            "node": "editing-side-effects",
            "measure": DIFF_ID,
            "statistic": "lost_share_unrelated",
            "value": row["net"],
            "low": row["low"],
            "high": row["high"],
            "n": row["n_facts"],
            "unit": "share",
            "baseline": row["floor_share"],
            "note": f"{names[0]} → {names[1]}: recall lost on facts held before that were not to "
            f"change, above the floor ({row['floor']}).",
        }
    ]


# ---- measuring ----


def diff(
    a: Source,
    b: Source,
    facts: FactSet | Relation | Iterable[Relation] | str | None = None,
    *,
    targets: Any = None,
    null_models: Iterable[Source] = (),
    requantise: bool = True,
    templates: int | Sequence[int] | None = None,
    max_candidates: int = 20,
    probes: int = 8,
    bos: bool | None = None,
    level: float = 0.05,
    confidence: float = 0.95,
    seed: int = 0,
    batch_tokens: int = 1024,
    threads: int | None = None,
    origin: Source | None = None,
    kb: KnowledgeBase | None = None,
    progress: Progress = None,
) -> Diff:
    """What facts a second model learned, kept, weakened, lost or changed against a first one.

    Both are asked the same prompts with the same candidates as in :func:`km.memorization`. A fact
    is listed only when its change exceeds the noise floor with its interval over prompts, after
    correction over all facts. Definitions: docs/measures/diff.md.

    Parameters
    ----------
    a, b : Model, snapshot, path, Recall, or "run:12"
        Before and after. A path is a file, a folder or a name that :func:`km.load` takes, or a
        checkpoint of :func:`km.train` (of a folder of them the newest); "run:12" is a recall
        recorded in `kb`, for which no model is loaded.
    facts : FactSet, Relation, relations or str, optional
        A str is a shipped relation, kind or "all". May be left out when both sides are recalls.
    targets : str, relations, or an iterable of str, optional
        Facts that were meant to change: relations, or "relation/fact". All others are then
        *unrelated*, and corrected and reported by themselves.
    null_models : iterable of models, as `a`
        Models that differ from `a` by what means nothing, such as the same recipe on neutral text
        with other seeds (:func:`km.diff_nulls`). Five or more bound well what one more would do.
        They are taken one by one, so that an iterator never holds two.
    requantise : bool
        Also measure `a` with its weights stored more coarsely (Q8_0, or F16 where they are Q8_0).
        Needs about a byte a parameter of temporary disk, and as long as one of the models.
    templates, max_candidates, bos, batch_tokens
        As in :func:`km.memorization`.
    probes : int
        Prompts a relation at which layers and next-token distributions are compared; 0: none.
    level : float
        Share of false changes among those listed, at most (Benjamini and Hochberg).
    confidence : float
        Of the intervals.
    seed : int
        Of candidates, probes and bootstraps.
    threads : int, optional
        For models given by path.
    origin : as `a`, optional
        The model that checkpoints were trained from; None: the other side.
    kb : KnowledgeBase, optional
        Finds what it has measured, keeps what is measured, and records the diff.
    progress : bool or callable, optional

    Returns
    -------
    Diff

    Raises
    ------
    ArgumentError
        A side is nothing that can be compared, the two were asked different things, or targets are
        not among the facts.

    Examples
    --------
    >>> import km
    >>> model = km.load()                                                 # doctest: +SKIP
    >>> km.diff(model, edited, "country_capital_city")                    # doctest: +SKIP
    """
    level = real_number("level", level, 1e-6, 0.5)
    confidence = coverage(confidence)
    probes = whole_number("probes", probes, 0)
    seed = whole_number("seed", seed, 0, 2**64 - 1)
    batch_tokens = whole_number("batch_tokens", batch_tokens, 1, MOST_TOKENS)
    if isinstance(null_models, Model | str | os.PathLike):
        raise TypeError("null_models must be several models: null_models=[model]")
    before, after, base = resolve_both(a, b, kb, threads, origin)
    work = Work(
        before=before,
        after=after,
        nulls=(
            resolve(source, f"null_models[{i}]", kb, threads, base)
            for i, source in enumerate(null_models)
        ),
        facts=facts,
        asking={
            "templates": templates,
            "max_candidates": max_candidates,
            "bos": bos,
            "seed": seed,
            "batch_tokens": batch_tokens,
        },
        kb=kb,
        progress=progress,
    )
    tables, provenance, run = work.run(targets, requantise, probes, level, confidence)
    result = Diff(tables, provenance, run)
    if kb is not None and not kb.read_only:
        result.run = kb.record(result)
    return result


def diff_nulls(
    model: Model, examples: Any, seeds: Iterable[int] = range(5), **recipe: Any
) -> Iterator[Model]:
    """Null models for :func:`diff`: the model after a recipe on neutral text, one a seed.

    Parameters
    ----------
    model : Model
        Itself left as it is, also when it is trainable.
    examples : as :func:`km.train` takes them
        Text that has nothing to do with the facts. More than a run takes, so that seeds, which
        decide the order, also decide what is seen.
    seeds : iterable of int
    **recipe
        Arguments of :func:`km.train` as in the run that is to be judged: steps, batch_size,
        optimizer, lora and so on.

    Yields
    ------
    Model
        Trained when it is asked for; with a knowledge base given to :func:`diff` its recall is
        kept, and "run:N" serves later.

    Examples
    --------
    >>> nulls = km.diff_nulls(model, texts, steps=20)                     # doctest: +SKIP
    >>> km.diff(model, trained, "factual", null_models=nulls)             # doctest: +SKIP
    """
    from km.training import train

    for name in ("seed", "checkpoint"):
        if name in recipe:
            raise ArgumentError(f"{name} is not part of the recipe; null models have their own")
    start = model.frozen() if hasattr(model, "frozen") else model
    for seed in seeds:
        yield train(start, examples, seed=seed, **recipe).model
