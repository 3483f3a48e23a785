"""Write the tables of a knowledge base as files that other programs read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from km.errors import ArgumentError, UnsupportedError

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

# Rows before what they refer to, so that every reference is found even when another process
# writes while the tables are read one after another.
_ORDER = (
    "measurements",
    "run_chunks",
    "conflicts",
    "chunks",
    "evidence",
    "verdicts",
    "freezings",
    "prediction_nodes",
    "rivals",
    "lineage",
    "runs",
    "units",
    "predictions",
    "taxonomy_conflicts",
    "models",
    "facts",
    "texts",
    "measure_nodes",
    "measures",
    "seed_places",
    "edges",
    "works",
    "nodes",
    "meta",
)
_JSON_COLUMNS = frozenset({"parameters", "config", "answers", "columns", "data", "recipe"})
_PAGE = 50_000


def export(
    kb: KnowledgeBase, folder: str | os.PathLike[str], format: Literal["json", "parquet"] = "json"
) -> dict[str, int]:
    """Write every table to a file of its own, and ``schema.json`` beside them.

    With "json" a table becomes ``<table>.jsonl``, one object a line, in which columns that hold
    JSON (parameters, answers, a measurement's data) are objects and arrays; with "parquet" it
    becomes ``<table>.parquet``, in which they are texts. ``schema.json`` names the file, rows,
    columns, types, keys and references of each table.

    Parameters
    ----------
    kb : KnowledgeBase
    folder : str or os.PathLike
        Made by this call; it appears when everything is written.
    format : {"json", "parquet"}
        Parquet needs pyarrow (``pip install km[parquet]``).

    Returns
    -------
    dict of str to int
        Rows of each table.

    Raises
    ------
    ArgumentError
        The folder is there already.
    UnsupportedError
        pyarrow is not installed.
    """
    target = Path(folder)
    if format not in ("json", "parquet"):
        raise ArgumentError(f"format must be 'json' or 'parquet', not {format!r}")
    if target.exists():
        raise ArgumentError(f"{target}: is there already: name a new folder")
    if format == "parquet":
        _pyarrow()
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True)
    try:
        tables = {name: _export_table(kb, name, partial, format) for name in _ORDER}
        facts = kb.info()
        schema = {
            "schema_version": int(facts["schema_version"]),
            "taxonomy_version": facts.get("taxonomy_version"),
            "exported": datetime.now(UTC).isoformat(timespec="seconds"),
            "format": format,
            "tables": {name: tables[name] for name in reversed(_ORDER)},
        }
        text = json.dumps(schema, ensure_ascii=False, indent=1) + "\n"
        (partial / "schema.json").write_text(text, encoding="utf-8")
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return {name: int(table["rows"]) for name, table in tables.items()}


def _export_table(kb: KnowledgeBase, name: str, folder: Path, format: str) -> dict[str, Any]:
    """Write one table; its entry in ``schema.json``."""
    columns = [
        {"name": row["name"], "type": row["type"], "not_null": bool(row["notnull"])}
        for row in kb.sql(f"PRAGMA table_info({name})").rows()
    ]
    keys = kb.sql("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", [name])
    references = kb.sql(
        'SELECT "table" AS t, "from" AS f, "to" AS k FROM pragma_foreign_key_list(?)'
        " ORDER BY id, seq",
        [name],
    )
    key = list(keys["name"])
    file = f"{name}.jsonl" if format == "json" else f"{name}.parquet"
    write = _write_jsonl if format == "json" else _write_parquet
    return {
        "file": file,
        "rows": write(folder / file, columns, _pages(kb, name, columns, key)),
        "columns": columns,
        "key": key,
        "references": [
            {"column": r["f"], "table": r["t"], "to": r["k"]} for r in references.rows()
        ],
    }


def _pages(
    kb: KnowledgeBase, name: str, columns: list[dict[str, Any]], key: list[str]
) -> Iterator[list[dict[str, Any]]]:
    """Rows in the order of their key, some at a time."""
    names = ", ".join(f'"{column["name"]}"' for column in columns)
    keys = ", ".join(f'"{part}"' for part in key)
    marks = ", ".join("?" for _ in key)
    last: list[Any] | None = None
    while True:
        where = "" if last is None else f"WHERE ({keys}) > ({marks})"
        sql = f"SELECT {names} FROM {name} {where} ORDER BY {keys} LIMIT {_PAGE}"
        rows = list(kb.sql(sql, last, timeout=3600.0).rows())
        if rows:
            yield rows
        if len(rows) < _PAGE:
            return
        last = [rows[-1][part] for part in key]


def _write_jsonl(
    path: Path, columns: list[dict[str, Any]], pages: Iterator[list[dict[str, Any]]]
) -> int:
    """One JSON object a line; null cells are left out. The number of rows."""
    heads = {column["name"]: json.dumps(column["name"]) + ":" for column in columns}
    n = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for rows in pages:
            n += len(rows)
            for row in rows:
                cells = (
                    heads[name]
                    + (value if name in _JSON_COLUMNS else json.dumps(value, ensure_ascii=False))
                    for name, value in row.items()
                    if value is not None
                )
                file.write("{" + ",".join(cells) + "}\n")
    return n


def _write_parquet(
    path: Path, columns: list[dict[str, Any]], pages: Iterator[list[dict[str, Any]]]
) -> int:
    """The number of rows; a column of any type is one of texts."""
    pa = _pyarrow()
    import pyarrow.parquet as pq

    types = {"INTEGER": pa.int64(), "REAL": pa.float64()}
    schema = pa.schema([(c["name"], types.get(c["type"], pa.string())) for c in columns])
    n = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows in pages:
            n += len(rows)
            arrays = [_array(pa, field, [row[field.name] for row in rows]) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return n


def _array(pa: Any, field: Any, cells: list[Any]) -> Any:
    if field.type == pa.string():
        cells = [None if cell is None else str(cell) for cell in cells]
    return pa.array(cells, type=field.type)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise UnsupportedError("Parquet needs pyarrow: pip install km[parquet]") from error
    return pyarrow
