"""KnowledgeBase: one SQLite file with the taxonomy, works, models, facts, runs and evidence.

What the tables hold, and what is guaranteed when a process is killed, is in
``docs/knowledge-base.md``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km import _km
from km.display import escape, mapping_html, table_html
from km.errors import ArgumentError
from km.progress import Progress, ProgressReporter
from km.result import Result, canonical_json
from km.table import Table
from km.taxonomy import Taxonomy

if TYPE_CHECKING:
    from km.datasets import FactSet
    from km.ledger import NodeLedger
    from km.methods import Methods
    from km.model import Model

Outcome: TypeAlias = Literal["done", "cancelled", "failed"]
Stored: TypeAlias = Literal["stored", "same", "differs"]
Lineage: TypeAlias = Literal["trained", "edited", "pruned", "merged", "quantised", "snapshot"]

_RUN_DETAILS = ("seed", "km_version", "cpu", "blas_core", "command")
_MODEL_FIELDS = (
    "fingerprint",
    "name",
    "architecture",
    "precision",
    "path",
    "tokenizer_hash",
    "n_parameters",
    "config",
)


class ConflictWarning(UserWarning):
    """The same measurement gave other values than those stored; the stored ones were kept."""


class KnowledgeBase:
    """A knowledge base file; made, with the taxonomy, when it is not there.

    Several processes may use one file at once. Every writing call is one transaction: when it
    returns, a killed process loses nothing of it. Use it in a ``with`` statement or call
    :meth:`close`.

    Parameters
    ----------
    path : str or os.PathLike
        ":memory:" is a temporary one.
    read_only : bool
        Never write; the file must exist.
    allow_network : bool
        Open on a network file system, where locks may not hold, all the same.
    busy_timeout : float
        Seconds to wait for another process that is writing.

    Raises
    ------
    NotFoundError
        No such file (read_only) or folder.
    FormatError
        Not a knowledge base, or damaged.
    UnsupportedError
        Written by a newer km; older and opened read-only; on a network file system.

    Examples
    --------
    >>> with KnowledgeBase(":memory:") as kb:
    ...     kb.ask("contradicted-hypotheses")["node"][:2]
    ['hyp-modular-region', 'hyp-modular-region']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        read_only: bool = False,
        *,
        allow_network: bool = False,
        busy_timeout: float = 30.0,
    ) -> None:
        if not 0.001 <= busy_timeout <= 86400.0:
            raise ArgumentError("busy_timeout must lie between 0.001 and 86,400 seconds")
        timeout_ms = math.ceil(busy_timeout * 1000.0)
        self._kb = _km.KnowledgeBase(path, read_only, allow_network, timeout_ms)
        if self._kb.warning:
            warnings.warn(f"{os.fspath(path)}: {self._kb.warning}", stacklevel=2)
        if not read_only:
            self._renew_taxonomy()

    # ---- opening and closing ----

    @property
    def path(self) -> str:
        """Path of the file as it was given."""
        return os.fsdecode(self._kb.path)

    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading only."""
        return self._kb.read_only

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        self._kb.close()

    def __enter__(self) -> KnowledgeBase:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Group calls: all of them happen, or on an exception none. May be nested."""
        self._kb.begin()
        try:
            yield
        except BaseException:
            self._kb.rollback()
            raise
        self._kb.commit()

    def _renew_taxonomy(self) -> None:
        """Load the package's taxonomy where there is none or an older version of it."""
        rows = self.sql("SELECT value FROM meta WHERE key = 'taxonomy_version'")["value"]
        text = taxonomy_text()
        if rows and int(rows[0]) >= json.loads(text)["version"]:
            return
        conflicts = self.load_taxonomy(text)
        if len(conflicts):
            message = (
                f"km's new taxonomy differs from what was added here in {len(conflicts)} places; "
                "what is here stays: kb.taxonomy.conflicts() lists them"
            )
            warnings.warn(message, ConflictWarning, stacklevel=3)

    def load_taxonomy(self, taxonomy: str | bytes | Mapping[str, Any]) -> Table:
        """Put another taxonomy (JSON text or its content) in place of km's present one.

        What was added or moved here stays (:class:`km.taxonomy.Taxonomy`).

        Returns
        -------
        Table
            Where it says something else about what was added or moved here: what, key, problem,
            ours, theirs.

        Raises
        ------
        FormatError, ArgumentError
            It is malformed, or lacks nodes that recorded evidence points to.
        """
        is_text = isinstance(taxonomy, str | bytes)
        text = taxonomy if is_text else json.dumps(taxonomy)
        with self.transaction():
            self._kb.load_taxonomy(text)  # type: ignore[arg-type]
            return self.sql(
                "SELECT what, key, problem, ours, theirs FROM taxonomy_conflicts"
                " WHERE source = 'km' ORDER BY what, key"
            )

    # ---- recording ----

    def record(self, result: Result, *, note: str | None = None) -> int:
        """Store a result: model, facts, measurements, evidence and verdicts, all or nothing.

        Recording the same result again changes nothing and returns the same run. The predictions
        that km ships about the measure get their verdicts (:func:`km.ledger.judge_result`).

        Parameters
        ----------
        result : Result
            What a measure returned. Where it has them, its ``run`` (begun while measuring),
            ``chunks`` (pairs of content key and table), ``evidence`` (dictionaries) and ``asked``
            (a fact set) are used.
        note : str, optional
            Kept with a new run.

        Returns
        -------
        int
            The run.

        Warns
        -----
        ConflictWarning
            The same measurement was stored before with other values.
        """
        from km.ledger.record import judge_result

        key = result_key(result)
        with self.transaction():
            run = self._kb.find_run(key)
            if run is None:
                run = self._record_run(result, key, note)
            evidence = [_plain_record(row) for row in getattr(result, "evidence", ())]
            self._kb.put_evidence(run, canonical_json(evidence))
            if not len(self.sql("SELECT 1 FROM verdicts WHERE run = ?", [run])):
                judge_result(self, result, run)
        return run

    def _record_run(self, result: Result, key: str, note: str | None) -> int:
        asked = getattr(result, "asked", None)
        if asked is not None:
            self.add_facts(asked)
        run = getattr(result, "run", None)
        if run is None or not self._has_run(run, result):
            run = self._begin_run(result.provenance, note, _utc(result.provenance.get("time")))
        for chunk_key, table in getattr(result, "chunks", None) or [(key, result.table)]:
            self.store_chunk(run, chunk_key, table)
        self._kb.finish_run(run, "done", key)
        return int(run)

    def _has_run(self, run: int, result: Result) -> bool:
        """Whether a run begun while measuring is this base's, and still without a result."""
        sql = "SELECT 1 FROM runs WHERE id = ? AND measure = ? AND key IS NULL"
        return len(self.sql(sql, [run, result.measure])) == 1

    def add_model(self, model: Mapping[str, Any]) -> int:
        """Record a model (as ``Model.describe()`` gives it) when its fingerprint is new.

        Returns
        -------
        int
            Its id.
        """
        row = {name: model[name] for name in _MODEL_FIELDS if model.get(name) is not None}
        return self._kb.put_model(canonical_json(row | {"path": str(row.get("path", ""))}))

    def add_facts(self, facts: FactSet | Iterable[Mapping[str, Any]]) -> int:
        """Record facts; those whose id is known stay as they are.

        Parameters
        ----------
        facts : FactSet, or dictionaries with id, relation, subject, answers[, source, licence]

        Returns
        -------
        int
            How many were new.
        """
        rows = _fact_rows(facts) if hasattr(facts, "relations") else [dict(row) for row in facts]
        return self._kb.put_facts(canonical_json(rows))

    def add_texts(self, texts: Iterable[Mapping[str, Any]]) -> int:
        """Record texts (id, body[, title, source, licence]) for search; the number of new ones."""
        return self._kb.put_texts(canonical_json([dict(row) for row in texts]))

    def add_lineage(
        self,
        child: Model | Mapping[str, Any] | str,
        parent: Model | Mapping[str, Any] | str,
        kind: Lineage,
        *,
        run: int | None = None,
        step: int | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> bool:
        """Record that a model came from another; a merged one is recorded with each parent.

        Parameters
        ----------
        child, parent : Model, what ``Model.describe()`` gives, or str
            Models are recorded when they are new; a text is the fingerprint of a recorded one.
        kind : {"trained", "edited", "pruned", "merged", "quantised", "snapshot"}
        run : int, optional
            The run that made the child.
        step : int, optional
            Optimiser steps from parent to child.
        recipe : mapping, optional
            What else decides the child: optimiser, learning rate, data, seed.

        Returns
        -------
        bool
            Whether it is new; what is there already for these models and this kind stays.

        Raises
        ------
        ArgumentError
            The child has the parent's fingerprint, or the parent came from the child.
        NotFoundError
            A fingerprint or run is not recorded.
        """
        with self.transaction():
            row: dict[str, Any] = {
                "child": self._fingerprint(child),
                "parent": self._fingerprint(parent),
                "kind": kind,
            }
            details = {"run": run, "step": step, "recipe": None if recipe is None else dict(recipe)}
            row |= {name: value for name, value in details.items() if value is not None}
            return self._kb.put_lineage(canonical_json([row])) == 1

    def _fingerprint(self, model: Model | Mapping[str, Any] | str) -> str:
        """The fingerprint of a model, which is recorded unless only its fingerprint is given."""
        if isinstance(model, str):
            return model
        described = model if isinstance(model, Mapping) else model.describe()
        self.add_model(described)
        return str(described["fingerprint"])

    def add_measure(self, id: str, nodes: Sequence[str], *, module: str = "user") -> None:
        """Declare a measure of your own and the nodes of the taxonomy it may bear on."""
        self._kb.put_measure(canonical_json({"id": id, "module": module, "nodes": list(nodes)}))

    def begin_run(self, provenance: Mapping[str, Any], *, note: str | None = None) -> int:
        """Start a run, so that chunks can be stored while it measures.

        Parameters
        ----------
        provenance : mapping
            measure, version, parameters; optional model (``Model.describe()``), seed, km_version,
            cpu, blas_core, command. What :func:`km.result.make_provenance` gives.
        note : str, optional

        Returns
        -------
        int
            The run, for :meth:`store_chunk`, :meth:`load_chunk` and :meth:`finish_run`. The
            predictions that km ships about the measure are frozen for it first.
        """
        return self._begin_run(provenance, note, None)

    def _begin_run(
        self, provenance: Mapping[str, Any], note: str | None, started: str | None
    ) -> int:
        """Begin a run now, or one that started when it was measured."""
        from km.ledger.record import freeze_for_run

        row = {name: provenance[name] for name in ("measure", "version", "parameters")}
        row |= {k: provenance[k] for k in _RUN_DETAILS if provenance.get(k) is not None}
        if note is not None:
            row["note"] = note
        with self.transaction():
            if provenance.get("model"):
                row["model"] = self.add_model(provenance["model"])
            if started is None:
                freeze_for_run(self, provenance)
            else:
                row["started"] = started
            return self._kb.begin_run(canonical_json(row))

    def finish_run(self, run: int, outcome: Outcome = "done") -> None:
        """End a run as "done", "cancelled" or "failed"; :meth:`record` does it for its result."""
        self._kb.finish_run(run, outcome)

    def store_chunk(self, run: int, key: str, table: Table) -> Stored:
        """Store a table of measurements under its content key (:func:`km.result.content_key`).

        Returns
        -------
        {"stored", "same", "differs"}
            New, there already with the same values, or there with other values: those stay, the
            table ``conflicts`` notes it, and a ConflictWarning is given.
        """
        stored = self._kb.store_chunk(run, key, table._table)
        if stored == "differs":
            message = f"run {run} gave other values than those stored for chunk {key}"
            warnings.warn(message, ConflictWarning, stacklevel=2)
        return stored

    def load_chunk(self, key: str, run: int | None = None) -> Table | None:
        """The table stored under a content key, exactly as it was; None when there is none.

        Parameters
        ----------
        key : str
        run : int, optional
            Note that this run used it.
        """
        found = self._kb.load_chunk(key)
        if found is not None and run is not None:
            self._kb.use_chunk(run, key)
        return None if found is None else Table.wrap(found)

    # ---- asking ----

    def sql(
        self,
        statement: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        timeout: float = 60.0,
        max_rows: int = 1_000_000,
    ) -> Table:
        """The rows of one reading SQL statement.

        Parameters
        ----------
        statement : str
        params : sequence (for ``?``) or mapping (for ``:name``), optional
        timeout : float
            Seconds, after which the statement is stopped.
        max_rows : int
            A longer answer is an error, never cut.

        Raises
        ------
        ArgumentError
            Not one statement, not valid, or it would change something.
        CancelledError
            It took longer than `timeout`.
        """
        given = None if params is None else canonical_json(params)
        timeout_ms = max(1, math.ceil(timeout * 1000.0))
        return Table.wrap(self._kb.query(statement, given, timeout_ms, max_rows))

    def ask(self, name: str, **params: Any) -> Table:
        """The answer to a named question (see :meth:`questions`).

        Raises
        ------
        NotFoundError
            There is no such question; near ones are named.
        ArgumentError
            A parameter is unknown or missing.
        """
        return Table.wrap(self._kb.ask(name, canonical_json(params)))

    @staticmethod
    def questions() -> Table:
        """The named questions: name, title, description, parameters with defaults, SQL."""
        return Table.wrap(_km.kb_questions())

    def search(self, text: str, *, kind: str | None = None, limit: int = 50) -> Table:
        """Nodes, works, facts and texts that hold every word, best first.

        English words match by stem, Chinese, Japanese and Korean by pairs of characters.

        Parameters
        ----------
        text : str
        kind : {"node", "work", "fact", "text"}, optional
        limit : int
        """
        if limit < 1:
            raise ArgumentError("limit must be at least 1")
        if kind not in (None, "node", "work", "fact", "text"):
            raise ArgumentError(f"kind must be node, work, fact or text, not {kind!r}")
        return Table.wrap(self._kb.search(text, kind, limit))

    def ledger(self, node: str = "root") -> NodeLedger:
        """The literature on a node and what lies below it, beside the verdicts of runs.

        Raises
        ------
        NotFoundError
            The taxonomy has no such node.
        """
        from km.ledger import NodeLedger

        return NodeLedger(self, node)

    def methods(self, run: int) -> Methods:
        """A Methods paragraph about a finished run: :meth:`km.Result.methods`.

        Raises
        ------
        NotFoundError
            There is no such finished run.
        """
        from km.methods import methods_of_run

        return methods_of_run(self, run)

    def runs(self) -> Table:
        """Runs, newest first."""
        return self.ask("runs")

    def info(self) -> dict[str, str]:
        """Path, schema version, taxonomy, sizes and row counts."""
        table = Table.wrap(self._kb.info())
        return dict(zip(table["name"], table["value"], strict=True))

    def check(self, full: bool = False) -> Table:
        """Problems of the file, one a row; none when it is sound.

        Parameters
        ----------
        full : bool
            Also every index and the digest of every chunk; reads the whole file.
        """
        return Table.wrap(self._kb.check(full))

    # ---- whole files ----

    def merge(self, path: str | os.PathLike[str], *, progress: Progress = None) -> Table:
        """Bring in what another knowledge base holds; the other file is only read.

        Models are matched by fingerprint, facts, texts, works and nodes by id, runs and chunks by
        content key, predictions and units by digest. It all happens or nothing of it, and merging
        again adds nothing.

        Parameters
        ----------
        path : str or os.PathLike
            The other base, of the same schema version.
        progress : bool or callable(done, total, info), optional
            Default: a bar on a terminal.

        Returns
        -------
        Table
            What happened, as what (the table), outcome, n, key, ours, theirs. Outcomes: "added"
            (n rows), "went on" (runs that were still running here), "earlier" (freezings that the
            other file has from before), "differs" (the same key with other values: ours stay, and
            measurements are noted in ``conflicts``), "refused" (what the rules here do not accept).

        Raises
        ------
        FormatError
            Damaged, or not what km writes.
        UnsupportedError
            Of another schema version.
        """
        with ProgressReporter(progress, "merging", "chunk") as report:
            return Table.wrap(self._kb.merge(path, report))

    def snapshot(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        progress: Progress = None,
    ) -> None:
        """Copy the base to a file of its own, also while other processes write to it.

        The copy is the state at one moment. `path` holds all of it, or what it held before.

        Parameters
        ----------
        path : str or os.PathLike
        overwrite : bool
            Replace a file that is there.
        progress : bool or callable(done, total, info), optional
            Default: a bar on a terminal.
        """
        with ProgressReporter(progress, "copying", "page") as report:
            self._kb.snapshot(path, overwrite, report)

    def export(
        self, folder: str | os.PathLike[str], format: Literal["json", "parquet"] = "json"
    ) -> dict[str, int]:
        """Write every table to a file of its own: :func:`km.kb_export.export`."""
        from km.kb_export import export

        return export(self, folder, format)

    @property
    def taxonomy(self) -> Taxonomy:
        """The taxonomy with the newest evidence, as it is now; what adds to it and moves in it."""
        return Taxonomy(self)

    # ---- showing ----

    def __repr__(self) -> str:
        if self._kb.closed:
            return f"<KnowledgeBase {self.path!r}, closed>"
        counts = self.info()
        shown = ("models", "runs", "measurements", "evidence")
        return f"<KnowledgeBase {self.path!r}: {', '.join(f'{counts[k]} {k}' for k in shown)}>"

    def _repr_html_(self) -> str:
        if self._kb.closed:
            return f"<div>{escape(repr(self))}</div>"
        runs = self.runs()
        shown = ["run", "measure", "model", "status", "started", "rows", "evidence"]
        rows = [[row[name] for name in shown] for row in runs.rows(0, 10)]
        header = [(name, "") for name in shown]
        return (
            f"<div><b>Knowledge base</b>{mapping_html(self.info().items())}"
            f"{table_html(header, rows, f'{len(runs)} runs')}</div>"
        )


def taxonomy_text() -> bytes:
    """The package's taxonomy as JSON text."""
    return resources.files("km").joinpath("data", "taxonomy.json").read_bytes()


def result_key(result: Result) -> str:
    """Content key of a result: measure, version, parameters, seed, model and the table itself."""
    table = result.table
    digest = hashlib.sha256(canonical_json([list(c) for c in table._table.specs]).encode())
    digest.update((table.to_jsonl() or "").encode())
    model = result.provenance.get("model") or {}
    key = {
        "measure": result.measure,
        "version": result.provenance["version"],
        "parameters": result.parameters,
        "seed": result.provenance.get("seed"),
        "model": model.get("fingerprint"),
        "table": digest.hexdigest(),
    }
    return hashlib.sha256(canonical_json(key).encode()).hexdigest()


def _fact_rows(facts: Any) -> list[dict[str, Any]]:
    """Rows of `facts` from a fact set; the relation makes a fact's id unique."""
    shared = {k: v for k, v in (("source", facts.source), ("licence", facts.licence)) if v}
    return [
        {
            "id": f"{relation.name}/{fact.id}",
            "relation": relation.name,
            "subject": fact.subject,
            "answers": list(fact.answers),
        }
        | shared
        for relation in facts.relations
        for fact in relation.facts
    ]


def _utc(time: object) -> str | None:
    """A time of a provenance as the knowledge base writes it; None without one."""
    if not isinstance(time, str):
        return None
    given = datetime.fromisoformat(time)
    known = given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    return known.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _plain_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record with NaN and infinities as null, which is what they mean there: not defined."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
