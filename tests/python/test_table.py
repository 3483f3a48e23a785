"""km.Table: building, reading, leaving through Arrow, pandas, CSV and JSON, showing."""

from __future__ import annotations

import csv
import gc
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

import km
from km.table import Column

COLUMNS = [
    Column("fact", "text", "", "The fact asked."),
    Column("rank", "int64", "rank", "Rank of the answer."),
    Column("logprob", "double", "nats", "Log-probability."),
    Column("exact", "bool"),
]
DATA = [
    ["plain", "with \0 NUL and ﷽ 🇫🇷", None, ""],
    [0, None, 2**62, -1],
    [-0.5, math.nan, None, math.inf],
    [True, False, None, True],
]


@pytest.fixture
def table() -> km.Table:
    return km.Table(COLUMNS, DATA)


def test_cells_come_back(table: km.Table) -> None:
    assert len(table) == 4
    assert table.columns == COLUMNS
    assert table.units == {"fact": "", "rank": "rank", "logprob": "nats", "exact": ""}
    assert table["fact"] == DATA[0]
    assert table["rank"] == DATA[1]
    assert table["exact"] == DATA[3]
    assert table["logprob"][0] == -0.5
    assert math.isnan(table["logprob"][1])
    assert table["logprob"][2:] == [None, math.inf]
    assert table.row(-1) == {"fact": "", "rank": -1, "logprob": math.inf, "exact": True}
    assert [row["rank"] for row in table.rows(1, 3)] == [None, 2**62]


def test_columns_as_arrays(table: km.Table) -> None:
    assert table.column("logprob").dtype == np.float64
    assert np.isnan(table.column("logprob")).tolist() == [False, True, True, False]
    assert table.nulls("logprob").tolist() == [False, False, True, False]
    assert table.column("rank").dtype == object  # a null among whole numbers
    assert table.column("rank").tolist() == DATA[1]
    whole = km.Table([("n", "int64"), ("b", "bool")], [[1, 2], [True, False]])
    assert whole.column("n").dtype == np.int64
    assert whole.column("b").dtype == np.bool_
    assert whole.column("n").tolist() == [1, 2]


def test_empty_tables() -> None:
    empty = km.Table(COLUMNS)
    assert len(empty) == 0
    assert empty["rank"] == []
    assert empty.column("rank").shape == (0,)
    assert "[0 rows × 4 columns]" in repr(empty)
    assert list(empty.rows()) == []
    assert empty.to_csv() == "fact,rank,logprob,exact\n"


def test_from_rows_and_concat(table: km.Table) -> None:
    rows = km.Table.from_rows(COLUMNS, [{"fact": "a"}, {"rank": 3, "exact": False}])
    assert rows["fact"] == ["a", None]
    joined = km.Table.concat([table, rows])
    assert joined["rank"] == [*DATA[1], None, 3]
    assert len(table) == 4
    with pytest.raises(km.ArgumentError, match="no column 'nope'"):
        km.Table.from_rows(COLUMNS, [{"nope": 1}])
    with pytest.raises(km.ArgumentError):
        km.Table.concat([table, km.Table([("fact", "text")], [["x"]])])
    with pytest.raises(km.ArgumentError):
        km.Table.concat([])


@pytest.mark.parametrize(
    ("columns", "data", "error"),
    [
        ([("a", "int32")], [[1]], km.ArgumentError),
        ([("a", "int64"), ("a", "int64")], [[], []], km.ArgumentError),
        ([("a\0b", "int64")], [[]], km.ArgumentError),
        ([("a",)], [[]], km.ArgumentError),
        ([], [], km.ArgumentError),
        (["a"], [[]], km.ArgumentError),
        ([("a", "int64")], [], km.ShapeError),
        ([("a", "int64"), ("b", "int64")], [[1], []], km.ShapeError),
        ([("a", "int64")], [["x"]], TypeError),
        ([("a", "int64")], [[1.5]], TypeError),
        ([("a", "int64")], [[2**63]], OverflowError),
        ([("a", "double")], [["1"]], TypeError),
        ([("a", "text")], [[1]], TypeError),
        ([("a", "text")], [["\ud800"]], UnicodeEncodeError),
        ([("a", "text")], ["abc"], TypeError),
        ([("a", "int64")], 3, TypeError),
    ],
)
def test_bad_input(columns: list[tuple[str, ...]], data: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        km.Table(columns, data)  # type: ignore[arg-type]


def test_bad_reads(table: km.Table) -> None:
    with pytest.raises(km.NotFoundError, match="no column 'x'"):
        table["x"]
    with pytest.raises(KeyError):
        table.column("x")
    with pytest.raises(km.NotFoundError):
        table._table.cells(4)
    with pytest.raises(km.ArgumentError, match="holds text"):
        table._table.values("fact")
    with pytest.raises(IndexError):
        table.row(4)
    assert table._table.cells("rank", 3, 2) == []
    assert table._table.cells("rank", -5, 99) == DATA[1]


def test_pyarrow_round_trip(table: km.Table) -> None:
    pa = pytest.importorskip("pyarrow")
    arrow = pa.table(table)
    names = [column.name for column in COLUMNS]
    del table
    gc.collect()
    assert arrow.column_names == names
    assert arrow.column("fact").to_pylist() == DATA[0]
    assert arrow.column("rank").to_pylist() == DATA[1]
    assert arrow.column("exact").to_pylist() == DATA[3]
    assert arrow.column("logprob").null_count == 1
    assert arrow.schema.field("logprob").metadata[b"unit"] == b"nats"
    assert arrow.schema.field("rank").metadata[b"description"] == b"Rank of the answer."
    arrow.validate(full=True)


def test_arrow_of_an_empty_table() -> None:
    pa = pytest.importorskip("pyarrow")
    arrow = pa.table(km.Table(COLUMNS))
    assert arrow.num_rows == 0
    assert arrow.column_names == ["fact", "rank", "logprob", "exact"]


def test_an_exported_table_can_be_exported_again_and_an_unused_stream_is_freed(
    table: km.Table,
) -> None:
    first, second = table.__arrow_c_stream__(), table.__arrow_c_stream__()
    assert "arrow_array_stream" in repr(first)
    del first, second
    with pytest.raises(TypeError):
        table._table.__arrow_c_stream__(1, 2)  # type: ignore[call-arg]


def test_a_table_whose_numbers_arrow_holds_cannot_change(table: km.Table) -> None:
    pa = pytest.importorskip("pyarrow")
    arrow = pa.table(table)
    with pytest.raises(km.BusyError):
        table._table.append(km.Table(COLUMNS)._table)
    assert arrow.num_rows == 4


def test_pandas(table: km.Table) -> None:
    pd = pytest.importorskip("pandas")
    frame = table.to_pandas()
    assert frame["rank"].dtype == "Int64"
    assert frame["rank"].isna().tolist() == [False, True, False, False]
    assert frame["rank"][2] == 2**62
    assert frame["exact"].dtype == "boolean"
    assert frame["fact"].isna().tolist() == [False, False, True, False]
    assert frame.attrs["units"]["logprob"] == "nats"
    whole = km.Table([("n", "int64")], [[1, 2]]).to_pandas()
    assert whole["n"].dtype == "int64"
    assert isinstance(frame, pd.DataFrame)


def test_csv_and_jsonl(table: km.Table, tmp_path: Path) -> None:
    text = table.to_csv()
    assert text is not None
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["fact", "rank", "logprob", "exact"]
    assert rows[1] == ["plain", "0", "-0.5", "true"]
    assert rows[3] == ["", str(2**62), "", ""]
    assert table.to_csv(tmp_path / "t.csv") is None
    assert (tmp_path / "t.csv").read_bytes() == text.encode()
    stream = io.StringIO()
    assert table.to_csv(stream) is None
    assert stream.getvalue() == text
    lines = table.to_jsonl()
    assert lines is not None
    values = [json.loads(line) for line in lines.splitlines()]
    assert [value["logprob"] for value in values] == [-0.5, None, None, None]
    assert values[1]["fact"] == DATA[0][1]


def test_html_is_escaped_and_short() -> None:
    hostile = '<script>alert(1)</script>"&'
    table = km.Table([(hostile, "text", hostile)], [[hostile] + ["x" * 5000] * 999])
    page = table._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<tr>") <= 63  # a header, 60 rows and an ellipsis
    assert "1000 rows" in page
    assert len(page) < 60 * 400


def test_repr_shows_both_ends() -> None:
    table = km.Table([("n", "int64"), ("s", "text")], [list(range(100)), ["a\nb"] * 100])
    lines = repr(table).splitlines()
    assert lines[0].split() == ["n", "s"]
    assert lines[1].split() == ["0", "a⏎b"]
    assert lines[-2].split() == ["99", "a⏎b"]
    assert "⋮" in lines
    assert lines[-1] == "[100 rows × 2 columns]"


def test_select_takes_columns_and_rows(table: km.Table) -> None:
    part = table.select("rank", "fact", exact=True, rank=0)
    assert part.names == ["rank", "fact"]
    assert part.units == {"rank": "rank", "fact": ""}
    assert list(part.rows()) == [{"rank": 0, "fact": "plain"}]
    assert table.select().columns == COLUMNS
    assert list(table.select(fact=None).rows()) == [table.row(2)]
    assert len(table.select("fact", rank=3)) == 0
    for wrong in (lambda: table.select("nothing"), lambda: table.select(nothing=1)):
        with pytest.raises(km.NotFoundError, match="no column 'nothing'; there are fact, rank"):
            wrong()
