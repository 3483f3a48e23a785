"""Result: a table with its provenance, and the keys under which measurements are found again."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from km import _km
from km.display import escape, mapping_html
from km.errors import ArgumentError, NotFoundError
from km.progress import in_notebook
from km.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from km.kb import KnowledgeBase
    from km.methods import Methods
    from km.model import Model


class Result:
    """What a measure returns: a table, and everything needed to make it again.

    Attributes
    ----------
    table : Table
    provenance : dict
        measure, version, parameters, seed, model, km_version, cpu, blas_core, time, command.
    """

    def __init__(self, table: Table, provenance: Mapping[str, Any]) -> None:
        self.table = table
        self.provenance = dict(provenance)

    @property
    def measure(self) -> str:
        """Id of the measure, such as "memorization.recall"."""
        return str(self.provenance["measure"])

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the measure."""
        return dict(self.provenance["parameters"])

    def __len__(self) -> int:
        return len(self.table)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The table as an Arrow C stream."""
        return self.table.__arrow_c_stream__(requested_schema)

    def plot(self, ax: Axes | None = None, kind: str | None = None, **options: Any) -> Axes:
        """Plot the result with matplotlib (``pip install 'km[plot]'``).

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            None: new ones of pyplot.
        kind : str, optional
            None: the first that docs/plots.md lists for this result, such as a forest plot of a
            study's findings.
        **options
            Of the function in :mod:`km.plot`, and what the kind of this result takes.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ArgumentError
            The result has no such plot.
        """
        from km.plot import plot_result

        return plot_result(self, ax, kind, **options)

    def methods(self) -> Methods:
        """A Methods paragraph: measure, model, what was asked, seed, intervals, km, citations.

        Returns
        -------
        km.methods.Methods
            With ``text``, ``latex`` and ``bibtex``; docs/citing.md.
        """
        from km.methods import methods_of

        return methods_of(self)

    def _title(self) -> str:
        model = self.provenance.get("model") or {}
        of = f" of {model.get('name')} ({model.get('precision')})" if model else ""
        return f"{self.measure} v{self.provenance['version']}{of}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._title()}>\n{self.table!r}"

    def _repr_html_(self) -> str:
        facts = [(k, v) for k, v in self.provenance.items() if not isinstance(v, dict)]
        facts += [(f"model {k}", v) for k, v in (self.provenance.get("model") or {}).items()]
        facts += [("parameters", canonical_json(self.parameters))]
        return (
            f"<div><b>{escape(self._title())}</b>{self.table._repr_html_()}"
            f"<details><summary>provenance</summary>{mapping_html(facts)}</details></div>"
        )


class ChunkedResult(Result):
    """A result whose table is that of its chunks, one after another.

    Attributes
    ----------
    chunks : list of (key, Table)
    run : int or None
        The run in the knowledge base.
    """

    MEASURE_ID: ClassVar[str]

    def __init__(
        self,
        chunks: Sequence[tuple[str, Table]],
        provenance: dict[str, Any],
        run: int | None = None,
    ) -> None:
        super().__init__(Table.concat(table for _, table in chunks), provenance)
        self.chunks = list(chunks)
        self.run = run

    @classmethod
    def from_knowledge_base(cls, kb: KnowledgeBase, run: int) -> Self:
        """The measurement that a run recorded.

        Raises
        ------
        NotFoundError
            There is no such finished run, it is of another measure, or a table is missing.
        """
        chunks, provenance = stored_chunks(kb, run, cls.MEASURE_ID)
        return cls(chunks, provenance, run)


def make_provenance(
    measure: str,
    version: int,
    model: Model | None,
    parameters: Mapping[str, Any],
    seed: int | None = None,
) -> dict[str, Any]:
    """The provenance of a measurement made now.

    Raises
    ------
    ArgumentError
        A parameter cannot be written as canonical JSON.
    """
    canonical_json(parameters)
    return {
        "measure": measure,
        "version": version,
        "parameters": dict(parameters),
        "seed": seed,
        "model": None if model is None else model.describe(),
        "km_version": _km.version(),
        "cpu": None if model is None else model.context.cpu,
        "blas_core": None if model is None else model.context.blas_core,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "command": command_line(),
    }


def command_line() -> str | None:
    """What started this process, as one would type it; None in a notebook or a session."""
    program = Path(sys.argv[0])
    if program.name == "km" or program.parts[-2:] == ("km", "__main__.py"):
        return shlex.join(["km", *sys.argv[1:]])
    if program.suffix != ".py" or in_notebook():
        return None
    return shlex.join(["python", *sys.argv])


def stored_provenance(
    kb: KnowledgeBase, run: int, measure: str
) -> tuple[dict[str, Any], str | None]:
    """Provenance of a finished run of `measure`, and the key of its result.

    Raises
    ------
    NotFoundError
        There is no such run, it has not finished, or it is of another measure.
    """
    found = kb.sql(
        "SELECT r.measure, r.version, r.parameters, r.seed, r.km_version, r.cpu, r.blas_core, "
        "r.started AS time, r.command, r.status, r.key, r.model FROM runs AS r WHERE r.id = ?",
        [run],
    )
    if not len(found) or found["measure"][0] != measure or found["status"][0] != "done":
        raise NotFoundError(f"{kb.path} has no finished run {run} of {measure}")
    provenance = found.row(0)
    key, model = provenance.pop("key"), provenance.pop("model")
    del provenance["status"]
    provenance["parameters"] = json.loads(provenance["parameters"])
    models = kb.sql(
        "SELECT name, path, fingerprint, tokenizer_hash, precision, architecture, n_parameters "
        "FROM models WHERE id = ?",
        [model],
    )
    provenance["model"] = models.row(0) if len(models) else None
    return provenance, key


def stored_table(kb: KnowledgeBase, run: int, key: str | None) -> Table:
    """A table that a run rests on.

    Raises
    ------
    NotFoundError
        The table is not in the knowledge base.
    """
    table = None if key is None else kb.load_chunk(key)
    if table is None:
        raise NotFoundError(f"run {run}: its table {key} is not in {kb.path}")
    return table


def stored_chunks(
    kb: KnowledgeBase, run: int, measure: str
) -> tuple[list[tuple[str, Table]], dict[str, Any]]:
    """Key and table of each chunk of a finished run whose parameters list them, and provenance.

    Raises
    ------
    NotFoundError
        There is no such run, it has not finished, it is of another measure, or a table is missing.
    """
    provenance, _ = stored_provenance(kb, run, measure)
    keys = provenance["parameters"]["chunks"]
    return [(key, stored_table(kb, run, key)) for key in keys], provenance


def canonical_json(value: object) -> str:
    """JSON with one spelling: sorted keys, no blanks, shortest floats, no NaN.

    Examples
    --------
    >>> canonical_json({"b": (1, 2.5), "a": None})
    '{"a":null,"b":[1,2.5]}'
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def content_key(
    measure: str,
    version: int,
    parameters: Mapping[str, Any],
    model_fingerprint: str,
    token_ids: Iterable[Any],
) -> str:
    """SHA-256 (hex) under which a measurement is stored and found again.

    Parameters
    ----------
    measure, version, parameters
        Of the measure.
    model_fingerprint : str
    token_ids : iterable of int or of sequences of int
        What the model is shown. km's own version is left out on purpose: an upgrade alone
        measures nothing twice.
    """
    key = {
        "measure": measure,
        "version": version,
        "parameters": parameters,
        "model": model_fingerprint,
        "tokens": list(token_ids),
    }
    return hashlib.sha256(canonical_json(key).encode("ascii")).hexdigest()


def _plain(value: object) -> object:
    """The value in types that JSON has; numpy scalars and arrays become Python numbers."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ArgumentError(f"{value} has no canonical JSON")
        return float(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ArgumentError("keys of canonical JSON must be str")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    to_list = getattr(value, "tolist", None)
    if to_list is not None:
        return _plain(to_list())
    raise ArgumentError(f"{type(value).__name__} has no canonical JSON")
