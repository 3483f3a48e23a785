"""What changed from one model to another, fact by fact, beyond what means nothing: `km.diff`.

Recorded in a knowledge base as the measure "learning.diff". Its run's parameters hold `before` and
`after` (name, fingerprint, precision, run of each side), `floors`, `paraphrase_flips` and `chunks`:
the content keys of the tables, by name:

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

Columns: :data:`km.diff_facts.COLUMNS`, :data:`km.diff_shares.COLUMNS`, :data:`RELATION_COLUMNS`,
:data:`km.diff_layers.LAYER_COLUMNS`. Definitions: docs/measures/diff.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from km import comparison, diff_facts, diff_layers, diff_shares, stats
from km.arguments import MOST_TOKENS, coverage, real_number, whole_number
from km.chunk_work import ChunkWork, counted
from km.diff_facts import Cells, Floor, Layout
from km.diff_shares import ALL, UNRELATED, Limit
from km.diff_sides import (
    Side,
    Source,
    check_settings,
    coarser_type,
    known_with_lens,
    read_targets,
    requantised,
    requantised_jobs,
    resolve,
    target_names,
)
from km.display import escape
from km.errors import ArgumentError, Error
from km.progress import Progress, ProgressReporter
from km.recall import Recall, memorization
from km.recall_plan import RelationPlan, make_plan, resolve_facts
from km.recall_summary import mean
from km.result import Result, content_key, make_provenance, stored_provenance, stored_table
from km.table import Column, Table

if TYPE_CHECKING:
    from km.datasets import FactSet, Relation
    from km.kb import KnowledgeBase

DIFF_ID = "learning.diff"
DIFF_VERSION = 1

EVERYTHING = "all facts"

RELATION_COLUMNS = [
    Column("relation", "text", "", f"Name of the relation; the first row is {EVERYTHING!r}."),
    Column("n", "int64", "facts", "Facts ranked."),
    Column("n_rows", "int64", "rows", "Facts times templates."),
    Column("recall_before", "double", "share", "Rows whose answer ranks first."),
    Column("recall_after", "double", "share", "The same of the second model."),
    Column("change", "double", "share", "after minus before, paired by row."),
    Column("low", "double", "share", "Lower end of its interval (clustered)."),
    Column("high", "double", "share", "Upper end."),
    Column("p_value", "double", "", "Of no change: signs of whole relations flipped."),
    Column("detectable", "double", "share", "Smallest change this many facts show (power 0.8)."),
    Column("logp_change", "double", "nats", "Mean change of the answers' log-probability."),
    Column("logp_low", "double", "nats", "Lower end of its interval (clustered)."),
    Column("logp_high", "double", "nats", "Upper end."),
    Column("kl", "double", "nats", "Mean KL(before || after) of the next token after a prompt."),
    Column("n_kl", "int64", "prompts", "Prompts it is a mean of."),
    *(
        Column(verdict.replace(" ", "_"), "int64", "facts", f"Facts with the verdict {verdict}.")
        for verdict in diff_facts.VERDICTS
    ),
]

_TABLES = ("facts", "shares", "relations", "layers")


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
        self.notes = [str(note) for note in self.parameters["notes"]]
        keys = self.parameters["chunks"]
        self.chunks = [(keys[name], tables[name]) for name in _TABLES]
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
        return cls({name: stored_table(kb, run, keys[name]) for name in _TABLES}, provenance, run)

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
        return "\n".join(_summary(self))

    def to_json(self, indent: int | None = None) -> str:
        """Everything as one JSON object: summary, alarm, tables as lists of rows, provenance."""
        tables = {name: getattr(self, name) for name in (*_TABLES, "flows")}
        rows = {
            name: [json.loads(line) for line in (table.to_jsonl() or "").splitlines()]
            for name, table in tables.items()
        }
        content = {
            "summary": self.summary.splitlines(),
            "alarm": self.alarm,
            "run": self.run,
            **rows,
            "provenance": self.provenance,
        }
        return json.dumps(content, ensure_ascii=False, indent=indent, allow_nan=False)

    def __repr__(self) -> str:
        return f"<km.Diff>\n{self.summary}"

    def _repr_html_(self) -> str:
        lines = "".join(f"<div>{escape(line)}</div>" for line in _summary(self))
        parts = "".join(
            f"<details><summary>{name}</summary>{getattr(self, name)._repr_html_()}</details>"
            for name in ("shares", "relations", "layers", "facts")
        )
        return f"<div>{lines}{parts}</div>"


# ---- the summary ----


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _points(row: Mapping[str, Any], value: str, low: str, high: str) -> str:
    if row[low] is None:
        return f"{100 * row[value]:+.1f} points"
    return f"{100 * row[value]:+.1f} points [{100 * row[low]:+.1f}, {100 * row[high]:+.1f}]"


def _name(side: Mapping[str, Any]) -> str:
    return f"{side['name']} ({side['precision']})" if side.get("name") else "a recorded recall"


def _summary(diff: Diff) -> list[str]:
    parameters = diff.parameters
    whole = diff.relations.row(0)
    names = (_name(parameters["before"]), _name(parameters["after"]))
    relations = len(diff.relations) - 1
    lines = [
        f"{names[0]} → {names[1]}: {whole['n']} facts of {relations} relation"
        f"{'s' if relations != 1 else ''}, {whole['n_rows']} prompts"
    ]
    if whole["change"] is not None:
        detectable = whole["detectable"]
        shown = "" if detectable is None else f" (smallest detectable: {100 * detectable:.1f})"
        lines.append(
            f"recall {_percent(whole['recall_before'])} → {_percent(whole['recall_after'])}: "
            f"{_points(whole, 'change', 'low', 'high')}{shown}"
        )
    lines += _counts(diff)
    lines.append(f"Floor: {_floors(parameters)}.")
    for row in list(diff.changes.rows())[:5]:
        lines.append(f"  {_change_line(row)}")
    if len(diff.changes) > 5:
        lines.append(f"  … and {len(diff.changes) - 5} more")
    if not diff.alarm:
        lines.append("No fact changed by more than the floor.")
    return [*lines, *diff.notes]


def _counts(diff: Diff) -> list[str]:
    """Facts by verdict, those that were to change apart; beside them the shares of the others."""
    groups: dict[str, Any] = {"facts": None}
    if diff.targeted:
        groups = {"targets": True, "unrelated": False}
    of = "" if not diff.targeted else " of unrelated facts"
    spread = f"{100 * diff.parameters['confidence']:g} %"
    head = "".join(f"{name:>11}" for name in groups)
    lines = [f"{'':<12}{head}   net share{of} above the floor [{spread}]"]
    rows = list(diff.facts.rows())
    for verdict in diff_facts.VERDICTS:
        counts = [
            sum(row["verdict"] == verdict and row["target"] is wanted for row in rows)
            for wanted in groups.values()
        ]
        shown = "".join(f"{count:>11}" for count in counts)
        lines.append(f"  {verdict:<10}{shown}   {_beside(diff, verdict)}".rstrip())
    return lines


def _beside(diff: Diff, verdict: str) -> str:
    """The net share with its interval, or what the verdict means."""
    if verdict == diff_facts.UNRESOLVED:
        return "flips that do not exceed the floor"
    if verdict not in diff_shares.OUTCOMES:
        return ""
    row = diff.share(verdict, UNRELATED if diff.targeted else ALL)
    if row["net"] is None:
        return "–"
    spread = "" if row["low"] is None else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{100 * row['net']:.1f} %{spread} of what was {row['of']}"


def _floors(parameters: Mapping[str, Any]) -> str:
    flips = parameters["paraphrase_flips"]
    parts = [f"a factor of two ({diff_facts.LEAST:.2f} nats)"]
    if flips is not None:
        parts.append(f"paraphrases (they miss {_percent(flips)} of what the others hold)")
    for floor in parameters["floors"]:
        parts.append(f"{floor['name']} {floor['detail']} (facts move by up to {floor['logp']:.2g})")
    return "; ".join(parts)


def _change_line(row: Mapping[str, Any]) -> str:
    spread = f"[{row['change_low']:+.1f}, {row['change_high']:+.1f}]"
    return (
        f"{row['verdict']}: {row['subject']} ({row['relation']}): "
        f"{row['leading_before']!r} {row['p_leading_before']:.2g} → "
        f"{row['leading_after']!r} {row['p_leading_after']:.2g}; "
        f"log p of {row['answer']!r} {row['change']:+.1f} {spread}"
    )


def _evidence(diff: Diff) -> list[dict[str, Any]]:
    """Side effects on facts that were not meant to change; nothing without targets."""
    if not diff.targeted:
        return []
    row = diff.share(diff_facts.LOST, UNRELATED)
    if row["net"] is None:
        return []
    names = (_name(diff.parameters["before"]), _name(diff.parameters["after"]))
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
        Before and after. A path is a file, a folder or a name that :func:`km.load` takes; "run:12"
        is a recall recorded in `kb`, for which no model is loaded.
    facts : FactSet, Relation, relations or str, optional
        A str is a shipped relation, kind or "all". May be left out when both sides are recalls.
    targets : str, relations, or an iterable of str, optional
        Facts that were meant to change: relations, or "relation/fact". All others are then
        *unrelated*, and corrected and reported by themselves.
    null_models : iterable of models, as `a`
        Models that differ from `a` by what means nothing, such as the same recipe on neutral text
        with other seeds. Five or more bound well what one more would do.
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
    work = _Work(
        before=resolve(a, "a", kb, threads),
        after=resolve(b, "b", kb, threads),
        nulls=[
            resolve(source, f"null_models[{i}]", kb, threads)
            for i, source in enumerate(null_models)
        ],
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
    return work.run(targets, requantise, probes, level, confidence)


class _Work:
    """One call's work."""

    def __init__(
        self,
        before: Side,
        after: Side,
        nulls: list[Side],
        facts: Any,
        asking: dict[str, Any],
        kb: KnowledgeBase | None,
        progress: Progress,
    ) -> None:
        self.before, self.after, self.nulls = before, after, nulls
        self.sides = [before, after, *nulls]
        self.kb = kb
        self.progress = progress
        self.asking = asking
        self.notes: list[str] = []
        self._settle()
        self.plans = self._plan(facts)
        self.facts = facts

    def _settle(self) -> None:
        """Recalls that are there already decide how the others are asked."""
        given = [side.recall for side in self.sides if side.recall is not None]
        for recall in given[1:]:
            check_settings(given[0], recall)
        if given:
            found = given[0].parameters
            self.asking |= {name: found[name] for name in ("templates", "max_candidates", "bos")}
            self.asking["seed"] = int(given[0].provenance["seed"])

    def _plan(self, facts: Any) -> list[RelationPlan]:
        if facts is None:
            if any(side.recall is None for side in self.sides):
                raise ArgumentError("facts is missing; only recalls carry their own facts")
            return []
        names = ("templates", "max_candidates", "seed")
        options = [self.asking[name] for name in names]
        return [make_plan(relation, *options) for relation in resolve_facts(facts)]

    def run(
        self, targets: Any, requantise: bool, probes: int, level: float, confidence: float
    ) -> Diff:
        """Measure what is missing and put it together."""
        for side in self.sides:
            self._measure(side)
        rows = self._rows()
        layout = Layout(rows[0])
        before, after, *nulls = [Cells(own) for own in rows]
        wanted = read_targets(targets, layout.facts)
        provenance = self._provenance(probes, requantise, level, confidence)
        work = ChunkWork(self.kb, provenance)
        same = self.before.about.get("fingerprint") == self.after.about.get("fingerprint")
        floors = [] if same else self._floors(layout, before, nulls, work, requantise, level)
        probed = self._probe(work, probes)
        seed = int(self.asking["seed"])
        facts = diff_facts.fact_rows(layout, before, after, floors, wanted, level, confidence)
        shares = diff_shares.share_rows(layout, before, after, floors, facts, confidence, seed)
        relations = _relation_rows(layout, before, after, facts, probed, confidence, seed)
        layers = diff_layers.layer_rows(probed, confidence, seed) if probed is not None else []
        if same:
            self.notes.append("Both sides are the same model: there is nothing to differ.")
            _no_spread(shares, relations)
        self._caution(layout)
        tables = {
            "facts": Table.from_rows(diff_facts.COLUMNS, facts),
            "shares": Table.from_rows(diff_shares.COLUMNS, shares),
            "relations": Table.from_rows(RELATION_COLUMNS, relations),
            "layers": Table.from_rows(diff_layers.LAYER_COLUMNS, layers),
        }
        self._finish(provenance, layout, before, floors, targets)
        result = Diff(tables, provenance, work.run_id)
        if self.kb is not None and not self.kb.read_only:
            result.run = self.kb.record(result)
        return result

    def _caution(self, layout: Layout) -> None:
        """What could not be said for want of prompts or subjects."""
        most = max(len(places) for places in layout.rows_of)
        if most < 2:
            self.notes.append("Asked one way only, no fact can be told to have changed.")
        elif most < 5:
            self.notes.append(f"{most} templates are few: verdicts rest on them.")
        if len(set(layout.subject)) < 2:
            self.notes.append("A single subject gives no interval, so no limit can be exceeded.")

    # ---- the sides ----

    def _measure(self, side: Side) -> None:
        """A side's recall: measured, found in the knowledge base, or that of an equal model."""
        if side.recall is not None:
            return
        assert side.model is not None
        for other in self.sides:
            same = other.model is not None and other.model.fingerprint == side.model.fingerprint
            if other.recall is not None and same:
                side.recall = other.recall
                return
        lens = known_with_lens(self.kb, side.model, self.plans, self.asking["bos"])
        side.recall = memorization(
            side.model,
            self.facts,
            baselines=False,
            lens=lens,
            kb=self.kb,
            progress=self.progress,
            **self.asking,
        )

    def _rows(self) -> list[list[dict[str, Any]]]:
        """Rows of all sides in one order: those that all have."""
        asked = [
            {(row["relation"], row["fact"], row["template_text"]): row for row in rows}
            for rows in (_recall(side).table.rows() for side in self.sides)
        ]
        shared = [key for key in asked[0] if all(key in rows for rows in asked)]
        if not shared:
            raise ArgumentError("the two sides share no fact and prompt")
        dropped = max(len(rows) for rows in asked) - len(shared)
        if dropped:
            self.notes.append(f"{dropped} prompts that only one side was asked are left out.")
        out = [[rows[key] for key in shared] for rows in asked]
        for own in out[1:]:
            diff_facts.check_same_questions(out[0], own)
        hashes = {side.about.get("tokenizer_hash") for side in (self.before, self.after)}
        if len(hashes) > 1:
            self.notes.append(
                "The models tokenise differently: they are compared by text, and log-probabilities "
                "hold for each one's own tokens."
            )
        return out

    # ---- floors ----

    def _floors(
        self,
        layout: Layout,
        before: Cells,
        nulls: list[Cells],
        work: ChunkWork,
        requantise: bool,
        level: float,
    ) -> list[Floor]:
        floors = []
        if requantise:
            cells = self._requantised(before, work)
            if cells is not None:
                assert self.before.model is not None
                name = coarser_type(self.before.model)
                made = diff_facts.make_floor("requantisation", name, layout, before, [cells], level)
                floors.append(made)
        if nulls:
            detail = f"of {len(nulls)}" if len(nulls) > 1 else "of one"
            made = diff_facts.make_floor("retraining", detail, layout, before, nulls, level)
            floors.append(made)
            if len(nulls) < 5:
                self.notes.append(
                    f"{len(nulls)} null {'models are' if len(nulls) > 1 else 'model is'} few to "
                    "say what one more would do; five or more bound it well."
                )
        else:
            self.notes.append(
                "Without null_models, what retraining alone does to these facts is not known."
            )
        return floors

    def _requantised(self, before: Cells, work: ChunkWork) -> Cells | None:
        """The first model's rows with coarser weights; None, with a note, where there are none."""
        model = self.before.model
        if model is None:
            self.notes.append("Requantisation was not measured: the first side is a recall.")
            return None
        bos, batch = self.asking["bos"], self.asking["batch_tokens"]
        try:
            with ExitStack() as stack:
                opened = stack.enter_context(requantised(model))
                jobs = list(requantised_jobs(model, self.plans, bos, batch, opened))
                report = stack.enter_context(
                    ProgressReporter(
                        self.progress, "requantised", unit="relations", total=len(jobs)
                    )
                )
                found = work.run(counted(jobs, report))
        except (Error, MemoryError, OSError) as error:
            self.notes.append(f"Requantisation was not measured: {error}")
            return None
        by_key = {
            (row["relation"], row["fact"], row["template_text"]): row
            for _, table in found
            for row in table.rows()
        }
        keys = [(row["relation"], row["fact"], row["template_text"]) for row in before.rows]
        return Cells([by_key[key] for key in keys])

    # ---- layers ----

    def _probe(self, work: ChunkWork, count: int) -> Table | None:
        """The probes' table; None where nothing can be compared."""
        one, two = self.before.model, self.after.model
        if not count:
            return None
        if one is None or two is None:
            self.notes.append("Layers were not compared: that needs both models.")
            return None
        what = diff_layers.comparable(one, two)
        if what.note:
            self.notes.append(what.note)
        if not what.output:
            return None
        bos = self.asking["bos"]
        jobs = []
        chosen = diff_layers.choose_probes(self.plans, count, int(self.asking["seed"]))
        for own in chosen:
            parameters = {
                "table": "probes",
                "after": two.fingerprint,
                "layers": what.layers,
                "probes": [list(probe) for probe in own],
            }
            ids = [one.encode(probe.prompt, bos=bos) for probe in own]
            key = content_key(DIFF_ID, DIFF_VERSION, parameters, one.fingerprint, ids)
            jobs.append((key, partial(diff_layers.probe_table, one, two, own, what, bos)))
        with ProgressReporter(self.progress, "layers", unit="relations", total=len(jobs)) as report:
            return Table.concat(table for _, table in work.run(counted(jobs, report)))

    # ---- provenance ----

    def _provenance(
        self, probes: int, requantise: bool, level: float, confidence: float
    ) -> dict[str, Any]:
        parameters = {
            "before": self.before.brief,
            "after": self.after.brief,
            "nulls": [side.brief for side in self.nulls],
            **{name: self.asking[name] for name in ("max_candidates", "bos")},
            "templates": _plain(self.asking["templates"]),
            "requantise": requantise,
            "probes": probes,
            "level": level,
            "confidence": confidence,
        }
        seed = int(self.asking["seed"])
        made = make_provenance(DIFF_ID, DIFF_VERSION, self.after.model, parameters, seed)
        return made | {"model": self.after.about or None}

    def _finish(
        self,
        provenance: dict[str, Any],
        layout: Layout,
        before: Cells,
        floors: Sequence[Floor],
        targets: Any,
    ) -> None:
        """What is known only after measuring."""
        parameters = provenance["parameters"]
        held = diff_shares.others_hold(layout, before)
        asked = [[row["relation"], row["fact"], row["prompt"]] for row in before.rows]
        parameters["targets"] = target_names(targets)
        parameters["floors"] = [
            {"name": f.name, "detail": f.detail, "logp": f.logp, "margin": f.margin} for f in floors
        ]
        parameters["paraphrase_flips"] = diff_facts.paraphrase_flips(before, held)
        parameters["notes"] = self.notes
        parameters["chunks"] = {
            name: content_key(
                DIFF_ID,
                DIFF_VERSION,
                {"table": name, **{k: v for k, v in parameters.items() if k != "notes"}},
                str(self.after.about.get("fingerprint")),
                asked,
            )
            for name in _TABLES
        }


def _no_spread(*tables: list[dict[str, Any]]) -> None:
    """A model against itself differs by exactly nothing, whatever the facts."""
    ends = ("low", "high", "logp_low", "logp_high", "detectable")
    for rows in tables:
        for row in rows:
            row |= {name: 0.0 for name in ends if row.get(name) is not None}
            if "interval" in row:
                row["interval"] = "the same model"


def _recall(side: Side) -> Recall:
    assert side.recall is not None
    return side.recall


def _plain(templates: Any) -> Any:
    return (
        [templates]
        if isinstance(templates, int)
        else None
        if templates is None
        else list(templates)
    )


# ---- relations ----


def _relation_rows(
    layout: Layout,
    before: Cells,
    after: Cells,
    facts: Sequence[Mapping[str, Any]],
    probed: Table | None,
    confidence: float,
    seed: int,
) -> list[dict[str, Any]]:
    """One row for all facts, then one a relation."""
    names = dict.fromkeys(layout.relation)
    outputs = _outputs(probed)
    return [
        _relation_row(name, layout, before, after, facts, outputs, confidence, seed)
        for name in [None, *names]
    ]


def _outputs(probed: Table | None) -> list[tuple[str, float]]:
    """Relation and next-token divergence of each probe."""
    if probed is None:
        return []
    last = max(probed["layer"])
    return [(row["relation"], row["kl"]) for row in probed.rows() if row["layer"] == last]


def _relation_row(
    name: str | None,
    layout: Layout,
    before: Cells,
    after: Cells,
    facts: Sequence[Mapping[str, Any]],
    outputs: Sequence[tuple[str, float]],
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    places = [
        i
        for i, relation in enumerate(layout.relation)
        if name in (None, relation) and not math.isnan(float(before.correct[i]))
    ]
    own = [f for f in facts if name in (None, f["relation"]) and f["verdict"] is not None]
    kl = [value for relation, value in outputs if name in (None, relation)]
    row: dict[str, Any] = {
        "relation": EVERYTHING if name is None else name,
        "n": len(own),
        "n_rows": len(places),
        "kl": mean(kl),
        "n_kl": len(kl),
        **{
            verdict.replace(" ", "_"): sum(f["verdict"] == verdict for f in own)
            for verdict in diff_facts.VERDICTS
        },
    }
    if not places:
        return row
    row |= {
        "recall_before": float(before.correct[places].mean()),
        "recall_after": float(after.correct[places].mean()),
        "logp_change": float((after.logp[places] - before.logp[places]).mean()),
    }
    row["change"] = row["recall_after"] - row["recall_before"]
    recall = _interval(layout, places, before.correct, after.correct, True, confidence, seed)
    logp = _interval(layout, places, before.logp, after.logp, False, confidence, seed)
    if recall is not None and logp is not None:
        row |= {"low": recall.low, "high": recall.high}
        row |= {"logp_low": logp.low, "logp_high": logp.high}
    if name is None and recall is not None:
        row |= _test(layout, places, before, after, confidence, seed)
    return row


def _interval(
    layout: Layout,
    places: list[int],
    before: Any,
    after: Any,
    proportion: bool,
    confidence: float,
    seed: int,
) -> stats.Interval | None:
    ids = layout.clusters(places)
    if ids is None:
        return None
    return stats.paired_bootstrap(
        after[places], before[places], *ids, confidence=confidence, seed=seed, proportion=proportion
    )


def _test(
    layout: Layout,
    places: list[int],
    before: Cells,
    after: Cells,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Permutation test of the change of recall, and the smallest change that would show."""
    compared = comparison.compare(
        _recall_table(layout, places, after),
        _recall_table(layout, places, before),
        outcome="recall",
        confidence=confidence,
        seed=seed,
    )
    return {"p_value": compared.test.p, "detectable": compared.detectable}


def _recall_table(layout: Layout, places: list[int], cells: Cells) -> Table:
    """One row a fact: the share of its prompts that are right."""
    hits: dict[tuple[str, str, str], list[float]] = {}
    for i in places:
        row = cells.rows[i]
        key = (row["relation"], row["fact"], row["subject"])
        hits.setdefault(key, []).append(float(cells.correct[i]))
    columns = [("relation", "text"), ("fact", "text"), ("subject", "text"), ("recall", "double")]
    rows = [(*key, math.fsum(values) / len(values)) for key, values in hits.items()]
    return Table(columns, [list(column) for column in zip(*rows, strict=True)])
