"""Whole-answer recall: what a model has memorised of facts, beside its baselines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km import _km
from km import recall_summary as summary
from km.chunk_work import ChunkWork
from km.display import escape
from km.errors import ArgumentError
from km.lens import LENS_ID
from km.progress import Progress, ProgressReporter
from km.recall_plan import RelationPlan, make_plan, resolve_facts
from km.result import (
    Result,
    content_key,
    make_provenance,
    stored_provenance,
    stored_table,
)
from km.table import Table

if TYPE_CHECKING:
    from km.datasets import FactSet, Relation
    from km.kb import KnowledgeBase
    from km.model import Model

RECALL_ID = "memorization.recall"
RECALL_VERSION = 1

RANDOM_INIT = "random initialisation"


class Recall(Result):
    """What :func:`km.memorization` returns.

    Attributes
    ----------
    table : Table
        One row a fact and template.
    control : Table or None
        The same rows for the same architecture with random weights.
    facts : Table
        One row a fact: its state and what it rests on.
    relations : Table
        One row a relation: recall with its interval beside the baselines.
    overall : Table
        Two rows: all facts alike (micro) and all relations alike (macro).
    survival : Table
        Share of rows in which the answer does not yet lead for good, after each layer.
    evidence : list of dict
        What the measurement says about nodes of the taxonomy.
    chunks : list of (key, Table)
        The rows relation by relation, under the keys a knowledge base stores them.
    run : int or None
        The run in the knowledge base it was measured with or read from.
    asked : FactSet or None
    notes : list of str
        What a reader has to know before quoting a figure.
    """

    def __init__(
        self,
        chunks: Sequence[tuple[str, Table]],
        provenance: dict[str, Any],
        run: int | None = None,
        asked: FactSet | None = None,
    ) -> None:
        relations = provenance["parameters"]["relations"]
        found = dict(chunks)
        control = [found[r["control"]] for r in relations if r["control"] is not None]
        super().__init__(Table.concat(found[r["chunk"]] for r in relations), provenance)
        self.control = Table.concat(control) if control else None
        self.chunks = list(chunks)
        self.run = run
        self.asked = asked
        self._n_layers = int(provenance["parameters"]["n_layers"])
        self._summarise(float(provenance["parameters"]["confidence"]), int(provenance["seed"]))

    @classmethod
    def from_knowledge_base(cls, kb: KnowledgeBase, run: int) -> Recall:
        """The recall that a run recorded.

        Raises
        ------
        NotFoundError
            There is no such finished run, or it is not one of recall.
        """
        provenance, _ = stored_provenance(kb, run, RECALL_ID)
        keys = [
            key
            for relation in provenance["parameters"]["relations"]
            for key in (relation["chunk"], relation["control"])
            if key is not None
        ]
        return cls([(key, stored_table(kb, run, key)) for key in keys], provenance, run)

    def _summarise(self, confidence: float, seed: int) -> None:
        rows = list(self.table.rows())
        control = list(self.control.rows()) if self.control is not None else None
        facts = summary.summarise_facts(rows, confidence)
        overall = summary.summarise_overall(rows, control, facts, confidence, seed)
        kinds = {r["name"]: r["kind"] for r in self.parameters["relations"]}
        relations = summary.summarise_relations(kinds, rows, control, facts, confidence, seed)
        self.facts = Table.from_rows(summary.FACT_COLUMNS, facts)
        self.relations = Table.from_rows(summary.SUMMARY_COLUMNS, relations)
        self.overall = Table.from_rows(summary.SUMMARY_COLUMNS, overall)
        self.survival = Table.from_rows(
            summary.SURVIVAL_COLUMNS, summary.survival(rows, control, self._n_layers)
        )
        self.lead = summary.median_lead(rows, self._n_layers)
        self.control_lead = summary.median_lead(control or [], self._n_layers)
        self.notes = _notes(self, rows, overall[0])
        self.evidence = _evidence(self, facts, overall, confidence, seed)

    def __repr__(self) -> str:
        lines = [f"<km.Recall {self._title()}>"]
        lines += [_line(row) for row in self.overall.rows()]
        head = "relation                          n  recall  interval         no subj  common  "
        lines += [head + "shuffl  random"]
        lines += [_relation_line(row) for row in self.relations.rows()]
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        shown = [c for c in _SHOWN if any(cell is not None for cell in self.relations[c])]
        columns = [c for c in self.relations.columns if c.name in shown]
        rows = [*self.overall.rows(), *self.relations.rows()]
        brief = Table.from_rows(columns, [{c: row[c] for c in shown} for row in rows])
        return (
            f"<div><b>{escape(self._title())}</b>{brief._repr_html_()}<ul>{notes}</ul>"
            f"<details><summary>rows</summary>{self.table._repr_html_()}</details></div>"
        )

    def write_samples(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the rows as lm-evaluation-harness logs samples: :func:`km.samples.write_samples`.

        Returns
        -------
        list of Path
            One file a relation.
        """
        from km.samples import write_samples

        return write_samples(self, folder)

    def draw(self, **options: Any) -> Any:
        """The picture :func:`km.draw.recall` makes of it."""
        from km.draw import recall

        return recall(self, **options)


_SHOWN = (
    "relation", "n", "n_templates", "recall", "low", "high", "commonest", "subject_removed",
    "shuffled", "random_init", "chance", "exact", "top1", "robust", "prompt_dependent",
    "not_shown",
)  # fmt: skip


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _line(row: dict[str, Any]) -> str:
    if row["recall"] is None:
        return f"{row['relation']}: nothing was ranked"
    spread = f" [{_percent(row['low'])}, {_percent(row['high'])}]" if row["low"] is not None else ""
    floors = ", ".join(
        f"{name} {_percent(row[key])}"
        for name, key in (
            ("commonest answer", "commonest"),
            ("subject removed", "subject_removed"),
            ("subjects shuffled", "shuffled"),
            ("random weights", "random_init"),
        )
        if row[key] is not None
    )
    return (
        f"{row['relation']}: recall {_percent(row['recall'])}{spread}, n = {row['n']}; "
        f"beside {floors}"
    )


def _relation_line(row: dict[str, Any]) -> str:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    spread = f"[{share(row['low'])}, {share(row['high'])}]"
    return (
        f"{row['relation'][:29]:<29} {row['n']:>5}  {share(row['recall']):>6}  {spread:<15}  "
        f"{share(row['subject_removed']):>7}  {share(row['commonest']):>6}  "
        f"{share(row['shuffled']):>6}  {share(row['random_init']):>6}"
    )


def _notes(recall: Recall, rows: summary.Rows, micro: dict[str, Any]) -> list[str]:
    notes = [
        "Recall: the whole answer ranks first among candidates of its relation by summed "
        "log-probability; aliases count. A fact not shown under these prompts may be known."
    ]
    if micro["n_templates"] < 2:
        notes.append("Asked with fewer than two templates, no fact can be called robust.")
    elif micro["n_templates"] < 5:
        notes.append(f"{micro['n_templates']} templates are few: robust states rest on them.")
    if recall.control is None:
        notes.append("The random-initialisation baseline was not measured.")
    unranked = sum(row["correct"] is None for row in rows)
    if unranked:
        notes.append(f"{unranked} rows have no wrong candidate and are left out of every share.")
    for column, text in (
        ("first_token_collision", "share their first token with a wrong candidate"),
        ("lone_blank_first_token", "start with a lone blank"),
    ):
        count = sum(bool(row[column]) for row in rows)
        if count:
            notes.append(f"{count} of {len(rows)} rows {text}: first-token figures mislead there.")
    split = sum(not row["boundary_ok"] for row in rows)
    if split:
        notes.append(
            f"In {split} rows prompt and answer tokenise differently together than apart "
            "(boundary_ok)."
        )
    lone = sum(row["shuffled_rank"] is None for row in rows)
    if lone:
        notes.append(f"{lone} rows have no subject to shuffle with.")
    return notes


def _evidence(
    recall: Recall,
    facts: summary.Rows,
    overall: summary.Rows,
    confidence: float,
    seed: int,
) -> list[dict[str, Any]]:
    """What the figures may say: recall and mastery, never hypotheses about mechanisms."""
    out = []
    for name, row in (("micro", overall[0]), ("macro", overall[1])):
        if row["recall"] is None:
            continue
        out.append(
            _item(
                "memorization", RECALL_ID, f"recall_{name}", row["recall"], row["low"],
                row["high"], row["n"], "share", max(summary.floors(row)),
                _line(row) + ". The baseline is the strongest of these.",
            )
        )  # fmt: skip
        out.append(
            _item(
                "memorization", RECALL_ID, f"gain_over_subject_removed_{name}", row["gain"],
                row["gain_low"], row["gain_high"], row["n"], "share", 0.0,
                "Recall minus recall under the prompt without its subject, paired.",
            )
        )  # fmt: skip
    out += _mastery(facts, confidence, seed)
    return out + _lens_evidence(recall)


def _item(
    node: str,
    measure: str,
    statistic: str,
    value: float | None,
    low: float | None,
    high: float | None,
    n: int,
    unit: str,
    baseline: float | None,
    note: str,
) -> dict[str, Any]:
    return {
        "node": node,
        "measure": measure,
        "statistic": statistic,
        "value": value,
        "low": low,
        "high": high,
        "n": n,
        "unit": unit,
        "baseline": baseline,
        "note": note,
    }


def _mastery(facts: summary.Rows, confidence: float, seed: int) -> list[dict[str, Any]]:
    """Shares of facts by state, clustered by relation; nothing with a single template."""
    judged = [fact for fact in facts if fact["state"] is not None]
    if not judged or max(fact["n_templates"] for fact in judged) < 2:
        return []
    rows = [
        {
            "relation": fact["relation"],
            "subject": fact["subject"],
            "template": 0,
            "robust": fact["state"] == summary.ROBUST,
        }
        for fact in judged
    ]
    spread = summary.share_interval(rows, "robust", confidence, seed, macro=False)
    note = (
        "Facts right under every prompt asked whose gain over the subject-removed prompt has an "
        f"interval above zero; {sum(f['state'] == summary.PROMPT_DEPENDENT for f in judged)} more "
        "are right under some prompt."
    )
    value = summary.mean(row["robust"] for row in rows)
    return [
        _item(
            "knowledge-mastery", RECALL_ID, "robust_share", value, spread.low, spread.high,
            len(rows), "share", None, note,
        )
    ]  # fmt: skip


def _lens_evidence(recall: Recall) -> list[dict[str, Any]]:
    median, censored, n = recall.lead
    if n == 0 or censored is None:
        return []
    _, control_censored, n_control = recall.control_lead
    beside = (
        f"; with random weights {_percent(control_censored)} of {n_control}" if n_control else ""
    )
    note = (
        f"First layer from which the answer's first token leads the candidates' up to the output; "
        f"{_percent(censored)} of {n} rows never do{beside}. Logit lens through the final norm: a "
        "description, not a test of where knowledge sits."
    )
    return [
        _item(
            "logit-lens", LENS_ID, "median_lead_layer",
            None if median is None else float(median), None, None, n, "layer", None, note,
        )
    ]  # fmt: skip


# ---- running ----


def memorization(
    model: Model,
    facts: FactSet | Relation | Iterable[Relation] | str,
    templates: int | Sequence[int] | None = None,
    *,
    max_candidates: int = 20,
    seed: int = 0,
    bos: bool | None = None,
    baselines: bool = True,
    lens: bool = True,
    confidence: float = 0.95,
    batch_tokens: int = 1024,
    kb: KnowledgeBase | None = None,
    progress: Progress = None,
) -> Recall:
    """Measure what a model has memorised of facts.

    Each fact is asked with each template; its whole answer is ranked among other answers of the
    relation. Definitions of every column: docs/measures/memorization.md.

    Parameters
    ----------
    model : Model
    facts : FactSet, Relation, relations or str
        A str is a shipped relation, kind or "all".
    templates : int or sequence of int, optional
        Indices of each relation's templates; None: all.
    max_candidates : int
        Answers ranked, the right one included. Beyond it a sample decided by `seed` is taken.
    seed : int
        Of candidate samples, shuffled subjects, random weights and bootstraps.
    bos : bool, optional
        Start prompts with the beginning-of-sequence token; None: what the model file says.
    baselines : bool
        Also measure the same architecture with random weights, which doubles the work. The other
        three baselines (commonest answer, subject removed, subjects shuffled) are always there.
    lens : bool
        Also the layer from which the answer leads.
    confidence : float
        Coverage of the intervals.
    batch_tokens : int
        Distinct tokens a forward pass; bounds memory, changes figures by some 1e-5 nats a token.
    kb : KnowledgeBase, optional
        Finished relations are looked up in it and stored as soon as they are measured, so that an
        interrupted run is taken up where it stopped; the result is recorded in it.
    progress : bool or callable, optional
        None shows a bar on a terminal or in a notebook.

    Returns
    -------
    Recall

    Raises
    ------
    ArgumentError
        Facts or options are wrong; the message names relation and fact.
    CancelledError, KeyboardInterrupt
        Relations finished before are kept in `kb`.

    Examples
    --------
    >>> model = km.load()  # doctest: +SKIP
    >>> km.memorization(model, "country_capital_city", templates=0)  # doctest: +SKIP
    """
    _check_objects(model, kb)
    if not 0 < confidence < 1:
        raise ArgumentError(f"confidence is {confidence}, not between 0 and 1")
    if not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise ArgumentError(f"seed is {seed!r}, not a whole number from 0 to 2^64 - 1")
    relations = resolve_facts(facts)
    plans = [make_plan(r, templates, max_candidates, seed) for r in relations]
    measurement = _Measurement(model, {"bos": bos, "lens": lens}, batch_tokens, seed)
    jobs = [(plan, control) for plan in plans for control in (False, True)[: 2 if baselines else 1]]
    keys = {(plan.name, control): measurement.key(plan, control) for plan, control in jobs}
    parameters = {
        "max_candidates": max_candidates,
        "templates": None if templates is None else list(plans[0].template_indices),
        "bos": bos,
        "lens": lens,
        "baselines": baselines,
        "confidence": confidence,
        "n_layers": int(model.config["n_layers"]),
        "relations": [
            {
                "name": plan.name,
                "kind": plan.kind,
                "n": len(plan.facts),
                "chunk": keys[plan.name, False],
                "control": keys.get((plan.name, True)),
            }
            for plan in plans
        ],
    }
    provenance = make_provenance(RECALL_ID, RECALL_VERSION, model, parameters, seed)
    work = ChunkWork(kb, provenance)
    total = sum(plan.n_cases for plan, _ in jobs)
    with ProgressReporter(progress, "memorization", unit="prompts", total=total) as report:
        keyed = [(keys[plan.name, control], plan, control) for plan, control in jobs]
        chunks = work.run(measurement.jobs(keyed, report))
    asked = facts if hasattr(facts, "relations") else None
    result = Recall(chunks, provenance, work.run_id, asked)  # type: ignore[arg-type]
    if kb is not None and not kb.read_only:
        result.run = kb.record(result)
    return result


def _check_objects(model: object, kb: object) -> None:
    """A name or a path in place of the object is a likely slip: say what makes one of it."""
    from km.kb import KnowledgeBase
    from km.model import Model

    if not isinstance(model, Model):
        raise ArgumentError(f"model is a {type(model).__name__}; load one with km.load(...)")
    if kb is not None and not isinstance(kb, KnowledgeBase):
        raise ArgumentError(f"kb is a {type(kb).__name__}; open one with km.KnowledgeBase(path)")


def recall_key(
    model: Model, plan: RelationPlan, bos: bool | None, lens: bool, weights: list[Any] | None = None
) -> str:
    """Content key of a relation's rows.

    Parameters
    ----------
    weights : list, optional
        What was done to the model's weights, in JSON types: rows of a model that follows from this
        one are found without making it.
    """
    parameters: dict[str, Any] = {"bos": bos, "lens": lens, **plan.describe()}
    if weights is not None:
        parameters["weights"] = weights
    ids = [model.encode(text, bos=False) for text in plan.texts()]
    return content_key(RECALL_ID, RECALL_VERSION, parameters, model.fingerprint, ids)


class _Measurement:
    """One call's work, relation by relation."""

    def __init__(self, model: Model, options: dict[str, Any], batch_tokens: int, seed: int) -> None:
        self.model = model
        self.options = options
        self.batch_tokens = batch_tokens
        self.seed = seed
        self._random: Model | None = None

    def key(self, plan: RelationPlan, control: bool) -> str:
        """Content key of a relation's rows; the random control follows from the seed."""
        weights = [RANDOM_INIT, self.seed] if control else None
        return recall_key(self.model, plan, weights=weights, **self.options)

    def jobs(
        self, jobs: Sequence[tuple[str, RelationPlan, bool]], report: ProgressReporter
    ) -> Iterator[tuple[str, Callable[[], Table]]]:
        """Keys and what measures them; progress counts the prompts of each relation."""
        done = 0
        for key, plan, control in jobs:
            report.start_part(done, relation=plan.name)
            yield key, partial(self._measure, plan, control, report)
            done += plan.n_cases
            report.start_part(done)
            report(0)

    def _measure(self, plan: RelationPlan, control: bool, report: ProgressReporter) -> Table:
        return Table.wrap(
            _km.memorization_run(
                self._model(control)._model,
                *plan.arguments(),
                self.options["bos"],
                self.batch_tokens,
                self.options["lens"],
                _scaled(report, plan.n_cases),
            )
        )

    def _model(self, control: bool) -> Model:
        if not control:
            return self.model
        if self._random is None:
            self._random = self.model.random_like(self.seed)
        return self._random


def _scaled(report: ProgressReporter, n_cases: int) -> Callable[[int, int], None]:
    """Progress in prompts from the library's own units."""

    def tell(done: int, total: int) -> None:
        report(n_cases * done // total if total else 0)

    return tell
