"""Table: typed columns with names, units and nulls; what every measure returns."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from km import _km
from km.display import MAX_ROWS, format_cell, pick_rows, table_html
from km.errors import ArgumentError, NotFoundError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes

_Path: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Column:
    """What a column holds.

    Attributes
    ----------
    name : str
    type : {"int64", "double", "bool", "text"}
    unit : str
        Such as "nats", "probability", "rank"; "" for none.
    description : str
        One sentence.
    """

    name: str
    type: str
    unit: str = ""
    description: str = ""


class Table:
    """Typed columns with names, units and nulls.

    It speaks the Arrow C stream interface: ``pyarrow.table(t)``, ``polars.DataFrame(t)`` and DuckDB
    take it without copying numbers.

    Parameters
    ----------
    columns : sequence of Column or (name, type[, unit[, description]])
    data : sequence of sequences
        One sequence a column, all of the same length; None is null.

    Examples
    --------
    >>> t = Table([("fact", "text"), ("rank", "int64", "rank")], [["a", "b"], [1, None]])
    >>> t
    fact  rank
    a        1
    b        –
    [2 rows × 2 columns]
    >>> t["rank"]
    [1, None]
    """

    __slots__ = ("_table",)

    def __init__(
        self,
        columns: Sequence[Column | Sequence[str]],
        data: Sequence[Sequence[object]] | None = None,
    ) -> None:
        specs = [_spec(column) for column in columns]
        self._table = _km.Table(specs, [[] for _ in specs] if data is None else data)

    # ---- making ----

    @classmethod
    def wrap(cls, table: _km.Table) -> Table:
        """A Table around what a function of ``km._km`` returned."""
        self = cls.__new__(cls)
        self._table = table
        return self

    @classmethod
    def from_rows(
        cls, columns: Sequence[Column | Sequence[str]], rows: Iterable[Mapping[str, object]]
    ) -> Table:
        """A table from dictionaries; keys that a row lacks are null, unknown keys an error."""
        names = [_spec(column)[0] for column in columns]
        data: list[list[object]] = [[] for _ in names]
        for row in rows:
            unknown = row.keys() - set(names)
            if unknown:
                raise ArgumentError(f"no column {sorted(unknown)[0]!r}")
            for name, values in zip(names, data, strict=True):
                values.append(row.get(name))
        return cls(columns, data)

    @classmethod
    def concat(cls, tables: Iterable[Table]) -> Table:
        """All rows of tables with the same columns, in order."""
        iterator = iter(tables)
        first = next(iterator, None)
        if first is None:
            raise ArgumentError("concat() needs at least one table")
        out = _km.Table(first._table.specs, [[] for _ in first._table.specs])
        out.append(first._table)
        for table in iterator:
            out.append(table._table)
        return cls.wrap(out)

    # ---- shape ----

    def __len__(self) -> int:
        return len(self._table)

    @property
    def columns(self) -> list[Column]:
        """Name, type, unit and description of each column."""
        return [Column(*spec) for spec in self._table.specs]

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [spec[0] for spec in self._table.specs]

    @property
    def units(self) -> dict[str, str]:
        """Unit of each column by name."""
        return {spec[0]: spec[2] for spec in self._table.specs}

    # ---- reading ----

    def __getitem__(self, name: str) -> list[Any]:
        """The cells of a column as Python objects, None where null."""
        return self._table.cells(name)

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """A column as a numpy array.

        Returns
        -------
        (N) float64, int64 or bool; object for text
            Null is NaN in a float64 column. Columns of int64 or bool with nulls are objects, with
            None for null, since no number may stand for "not measured".
        """
        import numpy as np

        kind = next((spec[1] for spec in self._table.specs if spec[0] == name), None)
        if kind is None:
            raise NotFoundError(f"no column {name!r}; there are {', '.join(self.names)}")
        if kind == "double" or (kind != "text" and not any(self._table.nulls(name).tolist())):
            return np.asarray(self._table.values(name))
        out = np.empty(len(self), dtype=object)
        out[:] = self._table.cells(name)
        return out

    def nulls(self, name: str) -> np.ndarray[Any, Any]:
        """For each row whether the cell of a column is null: (N) bool."""
        import numpy as np

        return np.asarray(self._table.nulls(name))

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
        """Rows start..stop-1 as dictionaries."""
        names = self.names
        cells = [self._table.cells(i, start, stop) for i in range(len(names))]
        for row in zip(*cells, strict=True):
            yield dict(zip(names, row, strict=True))

    def row(self, index: int) -> dict[str, Any]:
        """One row as a dictionary; negative indices count from the end."""
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"row {index} of a table of {len(self)} rows")
        return next(self.rows(at, at + 1))

    def select(self, /, *names: str, **where: object) -> Table:
        """Some columns, in the order named, and the rows whose cells equal the values given.

        Parameters
        ----------
        *names : str
            None at all: every column.
        **where : object
            Column and value; None finds cells that are null.

        Raises
        ------
        NotFoundError
            There is no such column.

        Examples
        --------
        >>> table = Table([("fact", "text"), ("rank", "int64")], [["a", "b"], [1, None]])
        >>> table.select("fact", rank=None)
        fact
        b
        [1 rows × 1 columns]
        """
        for name in (*names, *where):
            if name not in self.names:
                raise NotFoundError(f"no column {name!r}; there are {', '.join(self.names)}")
        columns = {column.name: column for column in self.columns}
        wanted = names or tuple(columns)
        kept = [
            {name: row[name] for name in wanted}
            for row in self.rows()
            if all(row[name] == value for name, value in where.items())
        ]
        return Table.from_rows([columns[name] for name in wanted], kept)

    # ---- leaving ----

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The table as an Arrow C stream of one batch."""
        return self._table.__arrow_c_stream__(requested_schema)

    def to_pandas(self) -> pd.DataFrame:
        """A DataFrame; columns with nulls get pandas' nullable types, `attrs` holds the units."""
        import pandas as pd

        plain = {"int64": "int64", "double": "float64", "bool": "bool", "text": "str"}
        nullable = {"int64": "Int64", "double": "float64", "bool": "boolean", "text": "str"}
        series = {}
        for name, kind, _, _ in self._table.specs:
            has_nulls = any(self._table.nulls(name).tolist())
            dtype = (nullable if has_nulls else plain)[kind]
            series[name] = pd.Series(self._table.cells(name), dtype=dtype)
        frame = pd.DataFrame(series)
        frame.attrs["units"] = self.units
        return frame

    def to_csv(self, path: _Path | TextIO | None = None) -> str | None:
        """Write CSV (UTF-8, a header row, nothing where null) or return it as text."""
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.names)
        cells = [self._table.cells(i) for i in range(len(self.names))]
        for row in zip(*cells, strict=True):
            writer.writerow(["" if cell is None else _csv_cell(cell) for cell in row])
        return _deliver(out.getvalue(), path)

    def to_jsonl(self, path: _Path | TextIO | None = None) -> str | None:
        """Write one JSON object a row or return them as text; NaN and infinities become null."""
        lines = [
            json.dumps({k: _finite(v) for k, v in row.items()}, ensure_ascii=False)
            for row in self.rows()
        ]
        return _deliver("".join(line + "\n" for line in lines), path)

    def to_latex(
        self,
        path: _Path | TextIO | None = None,
        *,
        columns: Sequence[str] | None = None,
        caption: str = "",
        label: str = "",
        digits: int | Mapping[str, int] = 3,
        intervals: bool = True,
    ) -> str | None:
        """Write a LaTeX table (package booktabs) or return it as text.

        Parameters
        ----------
        path : path or open text file, optional
            None: the text is returned.
        columns : sequence of str, optional
            Which, in this order; None: all.
        caption, label : str
            Left out where empty. The caption is escaped, a label may have letters, digits and
            ``: . _ - / +``.
        digits : int or mapping of column to int
            Significant digits of real numbers; 3 where a mapping says nothing.
        intervals : bool
            Put an estimate and its interval into one cell, as 0.31 [0.24, 0.39]: ``X_low`` and
            ``X_high`` belong to X, low and high to the real number before them.

        Raises
        ------
        ArgumentError
            There is no such column, or digits or label are not valid.
        """
        from km.latex import to_latex

        text = to_latex(
            self, columns=columns, caption=caption, label=label, digits=digits,
            intervals=intervals,
        )  # fmt: skip
        return _deliver(text, path)

    # ---- showing ----

    def plot(self, kind: str | None = None, ax: Axes | None = None, **options: Any) -> Axes:
        """Plot the table with matplotlib (``pip install 'km[plot]'``).

        Parameters
        ----------
        kind : {"survival", "reliability", "spread", "slopes", "curves", "forest"}, optional
            None: the first of these whose columns the table has; docs/plots.md has the rule.
        ax : matplotlib.axes.Axes, optional
            None: new ones of pyplot.
        **options
            Of the function in :mod:`km.plot` that is named as the kind.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ArgumentError
            The table has the columns of no kind, or not those of this one.
        """
        from km.plot import plot_table

        return plot_table(self, kind, ax, **options)

    def __repr__(self) -> str:
        head, tail = pick_rows(len(self), 20)
        columns = [
            [spec[0], *map(format_cell, self._shown(i, head, tail))]
            for i, spec in enumerate(self._table.specs)
        ]
        gap = len(head) + 1 if len(tail) else None
        lines = _align(columns, [spec[1] != "text" for spec in self._table.specs], gap)
        return "\n".join([*lines, f"[{len(self)} rows × {len(columns)} columns]"])

    def _repr_html_(self) -> str:
        head, tail = pick_rows(len(self), MAX_ROWS)
        specs = self._table.specs
        rows: list[Sequence[object]] = list(
            zip(*(self._shown(i, head, tail) for i in range(len(specs))), strict=True)
        )
        if len(tail):
            rows.insert(len(head), ())
        note = f"{len(self)} rows × {len(specs)} columns"
        return table_html([(spec[0], spec[2]) for spec in specs], rows, note)

    def _shown(self, column: int, head: range, tail: range) -> list[Any]:
        cells = self._table.cells(column, head.start, head.stop)
        return cells + self._table.cells(column, tail.start, tail.stop)


def _spec(column: Column | Sequence[str]) -> tuple[str, str, str, str]:
    if isinstance(column, Column):
        return (column.name, column.type, column.unit, column.description)
    if isinstance(column, str) or not 2 <= len(column) <= 4:
        raise ArgumentError(f"a column is (name, type[, unit[, description]]), not {column!r}")
    parts = [*column, "", ""]
    return (parts[0], parts[1], parts[2], parts[3])


def _csv_cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else value


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _deliver(text: str, path: _Path | TextIO | None) -> str | None:
    if path is None:
        return text
    if not isinstance(path, str | os.PathLike):
        path.write(text)
        return None
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    return None


def _align(columns: list[list[str]], right: list[bool], gap: int | None) -> list[str]:
    """Lines of text columns, numbers to the right; an ellipsis line before row `gap`."""
    if not columns:
        return []
    flat = [[cell.replace("\n", "⏎") for cell in column] for column in columns]
    flat = [[c if len(c) <= 40 else c[:39] + "…" for c in column] for column in flat]
    widths = [max(map(len, column)) for column in flat]
    lines = []
    for row in zip(*flat, strict=True):
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    if gap is not None:
        lines.insert(gap, "⋮")
    return lines
