"""The work of `km.diff`: both sides asked the same, floors measured, layers laid side by side."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from km import diff_facts, diff_layers, diff_relations, diff_shares
from km.chunk_work import ChunkWork, counted
from km.diff_facts import Cells, Floor, Layout
from km.diff_sides import (
    Side,
    check_settings,
    coarser_type,
    known_with_lens,
    read_targets,
    requantised,
    requantised_jobs,
    target_names,
)
from km.errors import ArgumentError, CancelledError, Error
from km.progress import Progress, ProgressReporter
from km.recall import Recall, memorization
from km.recall_plan import RelationPlan, make_plan, resolve_facts
from km.result import content_key, make_provenance
from km.table import Table

if TYPE_CHECKING:
    from km.datasets import FactSet
    from km.kb import KnowledgeBase

DIFF_ID = "learning.diff"
DIFF_VERSION = 1
#: Tables of a diff, each recorded under a content key of its own.
TABLES = ("facts", "shares", "relations", "layers", "floors", "notes")


class Work:
    """One call's work."""

    def __init__(
        self,
        before: Side,
        after: Side,
        nulls: Iterable[Side],
        facts: Any,
        asking: dict[str, Any],
        kb: KnowledgeBase | None,
        progress: Progress,
    ) -> None:
        self.before, self.after = before, after
        self.sides = [before, after]
        self._given_nulls = nulls
        self.kb = kb
        self.progress = progress
        self.asking = asking
        self.notes: list[str] = []
        self._settle()
        self.facts = facts if hasattr(facts, "relations") or facts is None else _relations(facts)
        self.plans = self._plan()

    def _settle(self) -> None:
        """Recalls that are there already decide how the others are asked."""
        given = [side.recall for side in self.sides if side.recall is not None]
        if len(given) > 1:
            check_settings(*given)
        if given:
            found = given[0].parameters
            self.asking |= {name: found[name] for name in ("templates", "max_candidates", "bos")}
            self.asking["seed"] = int(given[0].provenance["seed"])

    def _plan(self) -> list[RelationPlan]:
        if self.facts is None:
            return []
        names = ("templates", "max_candidates", "seed")
        options = [self.asking[name] for name in names]
        return [make_plan(relation, *options) for relation in self.facts]

    def run(
        self, targets: Any, requantise: bool, probes: int, level: float, confidence: float
    ) -> tuple[dict[str, Table], dict[str, Any], int | None]:
        """Measure what is missing: the tables, their provenance, and the run begun for them."""
        if self.plans:  # before anything is measured
            read_targets(
                targets, [(plan.name, fact.id) for plan in self.plans for fact in plan.facts]
            )
        for side in self.sides:
            self._measure(side)
        same = self.before.about.get("fingerprint") == self.after.about.get("fingerprint")
        if not same:
            self._measure_nulls()
        rows = self._rows()
        layout = Layout(rows[0])
        before, after, *nulls = [Cells(own) for own in rows]
        wanted = read_targets(targets, layout.facts)
        settings = {
            "targets": target_names(targets),
            "requantise": requantise,
            "probes": probes,
            "level": level,
            "confidence": confidence,
        }
        provenance = self._provenance(settings, before)
        work = ChunkWork(self.kb, provenance)
        floors = [] if same else self._floors(layout, before, nulls, work, requantise, level)
        probed = self._probe(work, probes)
        seed = int(self.asking["seed"])
        facts = diff_facts.fact_rows(layout, before, after, floors, wanted, level, confidence)
        shares = diff_shares.share_rows(layout, before, after, floors, facts, confidence, seed)
        relations = diff_relations.relation_rows(
            layout, before, after, facts, probed, confidence, seed
        )
        layers = diff_layers.layer_rows(probed, confidence, seed) if probed is not None else []
        if same:
            self.notes.append("Both sides are the same model: there is nothing to differ.")
            _no_spread(shares, relations)
        self._caution(layout)
        held = diff_shares.others_hold(layout, before)
        tables = {
            "facts": Table.from_rows(diff_facts.COLUMNS, facts),
            "shares": Table.from_rows(diff_shares.COLUMNS, shares),
            "relations": Table.from_rows(diff_relations.COLUMNS, relations),
            "layers": Table.from_rows(diff_layers.LAYER_COLUMNS, layers),
            "floors": diff_facts.floor_table(floors, diff_facts.paraphrase_flips(before, held)),
            "notes": Table([("note", "text")], [self.notes]),
        }
        return tables, provenance, work.run_id

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
        if self.facts is None:
            raise ArgumentError("facts is missing; only recalls carry their own facts")
        assert side.model is not None
        for other in self.sides:
            known = other.model is not None and other.recall is not None
            if known and other.about["fingerprint"] == side.about["fingerprint"]:
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

    def _measure_nulls(self) -> None:
        """Null models one after another, so that no two are in memory together."""
        for side in self._given_nulls:
            if side.recall is not None:
                check_settings(_recall(self.before), side.recall)
            self._measure(side)
            self.sides.append(side.without_model())

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
        with requantised(model) as opened:
            jobs = list(requantised_jobs(model, self.plans, bos, batch, opened))
            if self.kb is None or any(self.kb.load_chunk(key) is None for key, _ in jobs):
                try:
                    opened()
                except CancelledError:
                    raise
                except (Error, MemoryError, OSError) as error:
                    self.notes.append(f"Requantisation was not measured: {error}")
                    return None
            with ProgressReporter(
                self.progress, "requantised", unit="relations", total=len(jobs)
            ) as report:
                found = work.run(counted(jobs, report))
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

    def _provenance(self, settings: dict[str, Any], before: Cells) -> dict[str, Any]:
        """What makes the diff again, with the content keys of its tables."""
        parameters = {
            "before": self.before.brief,
            "after": self.after.brief,
            "nulls": [side.brief for side in self.sides[2:]],
            "max_candidates": self.asking["max_candidates"],
            "bos": self.asking["bos"],
            "templates": _listed(self.asking["templates"]),
            **settings,
        }
        asked = [[row["relation"], row["fact"], row["prompt"]] for row in before.rows]
        fingerprint = str(self.after.about.get("fingerprint"))
        keys = {
            name: content_key(
                DIFF_ID, DIFF_VERSION, {"table": name, **parameters}, fingerprint, asked
            )
            for name in TABLES
        }
        seed = int(self.asking["seed"])
        made = make_provenance(
            DIFF_ID, DIFF_VERSION, self.after.model, {**parameters, "chunks": keys}, seed
        )
        return made | {"model": self.after.about or None}


def _relations(facts: Any) -> FactSet:
    """Facts in any form as a set, so that they can be gone through more than once."""
    from km.datasets import FactSet
    from km.datasets import facts as shipped

    return shipped(facts) if isinstance(facts, str) else FactSet(tuple(resolve_facts(facts)))


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


def _listed(templates: Any) -> list[int] | None:
    if templates is None:
        return None
    return [templates] if isinstance(templates, int) else list(templates)
