"""A Methods paragraph made from a run's provenance, with the works it cites."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from km.bibtex import bibtex_key, escape_latex, works_to_bibtex
from km.citations import MEASURES, Work, km_work, known_works, spoken
from km.table import Table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.result import Result

SHOWN = 16  # digits of a fingerprint or digest in the text
MAX_PARAMETERS = 16
TOLD = ("relations", "chunks", "confidence", "n_layers")  # parameters that have their own sentence

# A part of a sentence: a text, or the works cited there.
Part = str | tuple[Work, ...]


@dataclass(frozen=True)
class Methods:
    """How something was measured, ready for a paper.

    Attributes
    ----------
    parts : tuple
        Texts, and works where they are cited.
    """

    parts: tuple[Part, ...]

    @property
    def works(self) -> list[Work]:
        """The works that are cited, each once."""
        found = {work["key"]: work for part in self.parts if not isinstance(part, str)
                 for work in part}  # fmt: skip
        return list(found.values())

    @property
    def text(self) -> str:
        """The paragraph with names and years."""
        return "".join(
            part if isinstance(part, str) else "; ".join(map(spoken, part)) for part in self.parts
        )

    @property
    def latex(self) -> str:
        r"""The paragraph for LaTeX, with ``\citep`` of the package natbib."""
        return "".join(
            escape_latex(part)
            if isinstance(part, str)
            else "\\citealp{" + ",".join(bibtex_key(str(work["key"])) for work in part) + "}"
            for part in self.parts
        )

    @property
    def bibtex(self) -> str:
        """The works that are cited as BibTeX."""
        return works_to_bibtex(self.works)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"{self.text}\n\n{self.bibtex}"


def methods_of(result: Result) -> Methods:
    """The paragraph of a result; what :meth:`km.Result.methods` does."""
    from km.kb import result_key

    of = getattr(result, "of", None)
    models = (
        [study.provenance.get("model") for study in of]
        if isinstance(of, list)
        else [result.provenance.get("model")]
    )
    return _methods(
        result.provenance, models, [result.table], _intervals(result), result_key(result), None
    )


def methods_of_run(kb: KnowledgeBase, run: int) -> Methods:
    """The paragraph of a recorded run; what :meth:`km.KnowledgeBase.methods` does.

    Raises
    ------
    NotFoundError
        There is no such finished run.
    """
    from km.errors import NotFoundError
    from km.report.kinds import kind_of
    from km.result import stored_provenance

    found = kb.sql("SELECT measure FROM runs WHERE id = ? AND status = 'done'", [run])
    if not len(found):
        raise NotFoundError(f"{kb.path} has no finished run {run}")
    measure = str(found["measure"][0])
    provenance, key = stored_provenance(kb, run, measure)
    result = kind_of(measure).load(kb, run)
    tables = [result.table] if result is not None else _tables(kb, run)
    intervals = _intervals(result) if result is not None else []
    return _methods(provenance, [provenance["model"]], tables, intervals, key, kb)


def _tables(kb: KnowledgeBase, run: int) -> list[Table]:
    sql = "SELECT c.key FROM chunks AS c JOIN run_chunks AS r ON r.chunk = c.id WHERE r.run = ?"
    found = (kb.load_chunk(str(key)) for key in kb.sql(sql + " ORDER BY c.id", [run])["key"])
    return [table for table in found if table is not None]


def _methods(
    provenance: Mapping[str, Any],
    models: Sequence[Mapping[str, Any] | None],
    tables: Sequence[Table],
    intervals: Sequence[str],
    key: str | None,
    kb: KnowledgeBase | None,
) -> Methods:
    works = known_works(kb)
    parts = [
        *_measure(provenance, works),
        *(_model(model) for model in models if model),
        _asked(provenance, tables),
        _settings(provenance, intervals),
        *_software(provenance, key),
    ]
    return Methods(tuple(part for part in parts if part))


def _measure(provenance: Mapping[str, Any], works: Mapping[str, Work]) -> list[Part]:
    measure, version = str(provenance["measure"]), provenance["version"]
    known = MEASURES.get(measure)
    if known is None:
        return [f"We measured {measure} (version {version}), a measure of our own."]
    cited = tuple(works[key] for key in known.sources)
    start = f"We measured {known.name} (measure {measure}, version {version}"
    after = f"): {known.definition}."
    return [f"{start}; after ", cited, after] if cited else [f"{start}{after}"]


def _model(model: Mapping[str, Any]) -> str:
    details = [
        str(model.get("architecture") or ""),
        f"{model['n_parameters']:,} parameters" if model.get("n_parameters") else "",
        f"precision {model['precision']}" if model.get("precision") else "",
        f"fingerprint SHA-256 {_short(model['fingerprint'])}" if model.get("fingerprint") else "",
    ]
    return f" The model was {model['name']} ({', '.join(d for d in details if d)})."


def _short(digest: object) -> str:
    text = str(digest)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _asked(provenance: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """Facts, prompts and rows with the digests that the ledger gives them."""
    from km.ledger.record import unit_of

    n_rows = sum(len(table) for table in tables)
    facts = {pair for table in tables for pair in _pairs(table, "relation", "fact")}
    prompts = {pair for table in tables for pair in _pairs(table, "relation", "template")}
    counted = ""
    if facts:
        relations = len({relation for relation, _ in facts})
        each = {sum(r == own for own, _ in prompts) for r, _ in facts}
        most = max(each)
        of = f"{len(facts):,} facts of {relations:,} {_plural('relation', relations)}"
        asked = f" with {'up to ' if len(each) > 1 else ''}{most} {_plural('prompt', most)} each"
        counted = f"asked were {of}{asked if prompts else ''}, "
    unit = unit_of(provenance)
    digests = [
        f"{name} SHA-256 {_short(digest)}"
        for name, digest in (("facts", unit and unit.facts), ("prompts", unit and unit.prompts))
        if digest
    ]
    stated = f" ({', '.join(digests)})" if digests else ""
    text = f"{counted}giving {n_rows:,} rows{stated}." if counted else (
        f"the measurement has {n_rows:,} rows{stated}."
    )  # fmt: skip
    return f" {text[0].upper()}{text[1:]}"


def _pairs(table: Table, *columns: str) -> Iterable[tuple[Any, ...]]:
    if not all(name in table.names for name in columns):
        return ()
    return zip(*(table[name] for name in columns), strict=True)


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 else noun + "s"


def _settings(provenance: Mapping[str, Any], intervals: Sequence[str]) -> str:
    """Seed, intervals and the parameters that are single values."""
    out = []
    parameters = dict(provenance["parameters"])
    if provenance.get("seed") is not None:
        out.append(f"The seed was {provenance['seed']}.")
    if parameters.get("confidence") is not None:
        by = f" ({', '.join(intervals)})" if intervals else ""
        out.append(f"Intervals cover {100 * float(parameters['confidence']):g} %{by}.")
    plain = [
        f"{name} = {json.dumps(value)}"
        for name, value in sorted(parameters.items())
        if name not in TOLD and isinstance(value, bool | int | float | str) and len(str(value)) < 40
    ]
    if plain:
        more = f" and {len(plain) - MAX_PARAMETERS} more" if len(plain) > MAX_PARAMETERS else ""
        out.append(f"Parameters: {', '.join(plain[:MAX_PARAMETERS])}{more}.")
    return "".join(f" {sentence}" for sentence in out)


def _intervals(result: Any) -> list[str]:
    """Methods of the intervals that the result's tables name."""
    found: dict[str, None] = {}
    for table in vars(result).values():
        if isinstance(table, Table) and "low" in table.names:
            for column in {"interval", "method"} & set(table.names):
                found |= dict.fromkeys(str(name) for name in table[column] if name)
    return sorted(found)


def _software(provenance: Mapping[str, Any], key: str | None) -> list[Part]:
    version = str(provenance.get("km_version") or "")
    cpu = [
        f"{what} {provenance[name]}"
        for name, what in (("cpu", "CPU variant"), ("blas_core", "OpenBLAS core"))
        if provenance.get(name)
    ]
    stated = f"; {', '.join(cpu)}" if cpu else ""
    command = provenance.get("command")
    ends = [
        f" the result has the SHA-256 {_short(key)}" if key else "",
        f" it was made by the command: {command}" if command else "",
    ]
    rest = ";".join(end for end in ends if end)
    return [
        f" Computed with km {version}".rstrip() + " (",
        (km_work(version),),
        f"{stated}){';' if rest else ''}{rest}.",
    ]
