"""One page a run: conclusion, findings, verdicts, tables, pictures, provenance, how to repeat."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km.errors import Error
from km.report.forest import Axis, Mark, axis, slug
from km.report.grids import Grid, Grids, Head
from km.report.kinds import Kind, kind_of
from km.report.pictures import Pictures
from km.result import canonical_json, stored_provenance
from km.table import Table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

MAX_PAGES = 40
MAX_SINGLE = 3  # pages of measures that look at one fact
SINGLE = ("memorization.lens",)
MAX_CHUNKS = 20_000


@dataclass
class FindingGroup:
    """Findings of one unit on one axis."""

    unit: str
    axis: Axis
    rows: list[tuple[Mapping[str, Any], Mark]]


@dataclass
class Turn:
    """A turn of a conversation, with the node that its answer rests on."""

    user: str
    response: str
    node: str
    name: str
    source: str


@dataclass
class RunPage:
    """What a run's page shows.

    Attributes
    ----------
    run : int
    measure, title, about : str
    conclusion : str
        "" where the measure draws none.
    lines : list of str
        What was found, in words.
    findings : list of FindingGroup
    turns : list of Turn
        Of a conversation.
    recall : dict or None
        What the template of recall needs.
    grids : list of Grid
    pictures : list of (caption, svg)
    cautions : list of str
        What the measure says a reader has to know.
    notes : list of str
        What is missing, and why.
    facts : list of (name, value)
        Provenance.
    commands : list of (str, str)
    """

    run: int
    measure: str
    title: str
    about: str
    conclusion: str = ""
    lines: list[str] = field(default_factory=list)
    findings: list[FindingGroup] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    recall: dict[str, Any] | None = None
    verdicts: list[Any] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: list[tuple[str, Any]] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Id of its section."""
        return f"run-{self.run}"


def chosen_runs(runs: Sequence[Mapping[str, Any]], only: Iterable[int] | None) -> list[int]:
    """Finished runs that get a page, newest first; those that look at one fact come last.

    Parameters
    ----------
    runs : sequence of mapping
        Rows of the question "runs".
    only : iterable of int, optional
        These alone.
    """
    done = [row for row in runs if row["status"] == "done"]
    if only is not None:
        wanted = set(only)
        return [row["run"] for row in done if row["run"] in wanted]
    single = [row["run"] for row in done if row["measure"] in SINGLE]
    whole = [row["run"] for row in done if row["measure"] not in SINGLE]
    return [*whole[:MAX_PAGES], *single[:MAX_SINGLE]]


def run_page(
    kb: KnowledgeBase, row: Mapping[str, Any], grids: Grids, pictures: Pictures
) -> RunPage:
    """The page of a finished run; `row` is that of the question "runs"."""
    run, measure = int(row["run"]), str(row["measure"])
    kind = kind_of(measure)
    provenance, _ = stored_provenance(kb, run, measure)
    page = RunPage(run, measure, kind.title, _about(row))
    result = _load(kind, kb, page)
    if result is not None:
        if measure == "memorization.recall":
            from km.report.recall import recall_parts

            page.recall = recall_parts(kb, result, pictures)
        _say(page, kind, result)
    if measure == "dialog.conversation":
        page.turns = _turns(kb, run)
    if result is not None or not kind.place:
        _draw(page, kind, kb, result, pictures)
    tables = [] if result is None else list(kind.tables_of(result))
    for caption, table in tables:
        page.grids += grids.of_table(caption, table, where=_where(kb, run))
    page.grids += _evidence(kb, run, grids)
    known = dict(getattr(result, "chunks", None) or ())
    page.grids += _rows(kb, run, grids, page, known, [table for _, table in tables])
    page.facts = _facts(row, provenance)
    page.commands = _commands(kb, row)
    return page


def _about(row: Mapping[str, Any]) -> str:
    model = " ".join(str(row[name]) for name in ("model", "precision") if row[name])
    return f"{model or 'no single model'} · {str(row['started'])[:10]} · {row['rows']:,} rows"


def _load(kind: Kind, kb: KnowledgeBase, page: RunPage) -> Any:
    try:
        return kind.load(kb, page.run)
    except (Error, LookupError, ValueError) as error:
        page.notes.append(
            "This version of km cannot read the run as a whole, so its findings and pictures are "
            f"missing here: {error}"
        )
        return None


def _say(page: RunPage, kind: Kind, result: Any) -> None:
    """Conclusion and findings, which are a table or lines."""
    page.conclusion = kind.concluding(result)
    found = getattr(result, "findings", None)
    lines = getattr(result, "lines", None)
    if isinstance(found, Table):
        page.findings = finding_groups(found.rows())
    elif found is not None and lines is None:
        lines = found
    page.lines = [str(line) for line in lines or ()]
    if page.recall is None:
        page.cautions = [str(note) for note in getattr(result, "notes", ())]


def finding_groups(rows: Iterable[Mapping[str, Any]]) -> list[FindingGroup]:
    """Findings by unit, each unit on one axis that shows 0."""
    by_unit: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_unit.setdefault(str(row.get("unit") or ""), []).append(row)
    out = []
    for unit, own in by_unit.items():
        line = axis(own, 0.0)
        out.append(FindingGroup(unit, line, [(row, line.mark(row)) for row in own]))
    return out


def _turns(kb: KnowledgeBase, run: int) -> list[Turn]:
    """What was asked and answered, in order."""
    rows = kb.sql(
        "SELECT m.data FROM run_chunks AS rc JOIN measurements AS m ON m.chunk = rc.chunk"
        " WHERE rc.run = ? ORDER BY rc.chunk, m.row",
        [run],
    )
    names = {row["id"]: row["name"] for row in kb.sql("SELECT id, name FROM nodes").rows()}
    turns: dict[int, Turn] = {}
    for row in (json.loads(data) for data in rows["data"]):
        turn = turns.setdefault(row["turn"], Turn(row["user"], row["response"], "", "", ""))
        if row.get("chosen"):
            turn.node, turn.source = row.get("node") or "", row.get("source") or ""
            turn.name = names.get(turn.node, "")
    return list(turns.values())


def _draw(page: RunPage, kind: Kind, kb: KnowledgeBase, result: Any, pictures: Pictures) -> None:
    if kind.draw is None:
        return
    try:
        drawn = list(kind.draw(kb, page.run, result))
    except (Error, ValueError) as error:
        page.notes.append(f"There is no picture: {error}")
        return
    for caption, picture in drawn:
        svg = pictures.take(picture.svg)
        if svg is None:
            page.notes.append(
                "A picture was left out to keep this page small; km draw shows it from the "
                "knowledge base."
            )
        else:
            page.pictures.append((caption, svg))


def _evidence(kb: KnowledgeBase, run: int, grids: Grids) -> list[Grid]:
    found = kb.sql(
        "SELECT n.name AS node, e.statistic, e.value, e.low, e.high, e.n, e.unit,"
        " CAST(e.baseline AS TEXT) AS baseline, e.note FROM evidence AS e"
        " JOIN nodes AS n ON n.id = e.node WHERE e.run = ? ORDER BY e.id",
        [run],
    )
    if not len(found):
        return []
    note = "What this run says about nodes of the taxonomy; no verdict follows from it by itself."
    return grids.of_table("Evidence", found, note)


def _rows(
    kb: KnowledgeBase,
    run: int,
    grids: Grids,
    page: RunPage,
    known: Mapping[str, Table],
    shown: Sequence[Table],
) -> list[Grid]:
    """The rows of the run's chunks that are not shown yet, one grid for each set of columns."""
    keys = kb.sql(
        "SELECT c.key, c.columns, c.n_rows FROM run_chunks AS rc"
        " JOIN chunks AS c ON c.id = rc.chunk WHERE rc.run = ? ORDER BY c.id",
        [run],
    )
    by_columns: dict[str, list[str]] = {}
    for row in keys.rows(0, MAX_CHUNKS):
        if row["n_rows"]:
            by_columns.setdefault(row["columns"], []).append(row["key"])
    if len(keys) > MAX_CHUNKS:
        page.notes.append(f"Rows of the first {MAX_CHUNKS:,} of {len(keys):,} chunks were read.")
    tables = []
    for names in by_columns.values():
        found = (known.get(key) or kb.load_chunk(key) for key in names)
        table = Table.concat(table for table in found if table is not None)
        if not any(_same(table, other) for other in shown):
            tables.append(table)
    out: list[Grid] = []
    for number, table in enumerate(tables, start=1):
        which = f", part {number} of {len(tables)}" if len(tables) > 1 else ""
        out += grids.of_table(f"Measured rows of run {run}{which}", table, where=_where(kb, run))
    for grid in out:
        grid.raw = True
    return out


def _same(a: Table, b: Table) -> bool:
    return a.names == b.names and len(a) == len(b) and a.to_jsonl() == b.to_jsonl()


def _where(kb: KnowledgeBase, run: int) -> str:
    sql = (
        "SELECT m.data FROM run_chunks AS c JOIN measurements AS m ON m.chunk = c.chunk"
        f" WHERE c.run = {run}"
    )
    name = shlex.quote(Path(kb.path).name)
    return f'All of them: km kb query "{sql}" --kb {name}'


def _facts(row: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[tuple[str, Any]]:
    model = provenance.get("model") or {}
    facts = [
        ("run", row["run"]),
        ("measure", f"{row['measure']} version {row['version']}"),
        ("model", ", ".join(str(model[k]) for k in ("name", "architecture", "precision") if model)
         if model else None),
        ("model file", Path(model["path"]).name if model.get("path") else None),
        ("model fingerprint", model.get("fingerprint")),
        ("tokenizer hash", model.get("tokenizer_hash")),
        ("weights", f"{model['n_parameters']:,}" if model.get("n_parameters") else None),
        ("seed", row["seed"]),
        ("parameters", _parameters(provenance["parameters"])),
        ("chunks", f"{row['chunks']:,} with {row['rows']:,} rows"),
        ("started", row["started"]),
        ("finished", row["finished"]),
        ("km", row["km_version"]),
        ("CPU variant", row["cpu"]),
        ("OpenBLAS core", row["blas_core"]),
    ]  # fmt: skip
    return [(name, value) for name, value in facts if value is not None and value != ""]


def _parameters(parameters: Mapping[str, Any]) -> str:
    """Parameters without the keys of chunks, which are many."""
    plain = {
        name: value
        for name, value in parameters.items()
        if name != "relations" and not name.endswith("chunks")
    }
    text = canonical_json(plain)
    return text if len(text) <= 2_000 else text[:1_999] + "…"


def _commands(kb: KnowledgeBase, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    name = Path(kb.path).name
    made = [("Repeat it", str(row["command"]))] if row["command"] else []
    if row["measure"] in ("memorization.recall", "memorization.lens"):
        verify = shlex.join(["km", "verify", str(row["run"]), "--kb", name])
        made.append(("Measure every row again and compare", verify))
    return made


def word_class(word: object) -> str:
    """A verdict's word as the name of a class."""
    return slug(word)


def runs_grid(kb: KnowledgeBase, runs: Sequence[Mapping[str, Any]], grids: Grids) -> Grid:
    """All runs of the file, newest first."""
    names = ("run", "measure", "status", "model", "precision", "seed", "started", "chunks", "rows",
             "evidence")  # fmt: skip
    numbers = ("run", "seed", "chunks", "rows", "evidence")
    heads = [Head(name, number=name in numbers) for name in names]
    rows = [[row[name] for name in names] for row in runs]
    return grids.of_rows("All runs", heads, rows)
