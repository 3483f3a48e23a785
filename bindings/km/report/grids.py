"""Tables of a page: what is embedded of them, within a stated cap, and what is said of the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from km.display import format_cell, shorten
from km.table import Table

FIRST_ROWS = 20  # in the markup; the others are drawn when asked for
MAX_ROWS = 2_000  # embedded of one table
MAX_BYTES = 300_000  # embedded of one table
PAGE_BYTES = 900_000  # embedded of all tables together
LEAST_BYTES = 20_000  # a table gets so much even where the page is full
MAX_TEXT = 300  # characters of a cell

_NUMBERS = ("int64", "double")


@dataclass
class Head:
    """A column of a grid."""

    name: str
    unit: str = ""
    description: str = ""
    number: bool = False


@dataclass
class Grid:
    """A table of the page.

    Attributes
    ----------
    id : str
        Of its element.
    caption : str
    heads : list of Head
    rows : list of list
        Cells of the first rows, in the markup.
    more : str or None
        JSON of all embedded rows, where the markup has not all of them.
    note : str
        What was left out.
    step : int
        From one embedded row to the next.
    raw : bool
        Rows as they were measured, which are shown when asked for.
    """

    id: str
    caption: str
    heads: list[Head]
    rows: list[list[Any]]
    more: str | None = None
    note: str = ""
    step: int = 1
    raw: bool = False

    @property
    def opens(self) -> bool:
        """Whether it is shown at once."""
        return not self.raw and self.more is None

    def cells(self) -> Iterable[list[tuple[str, Any]]]:
        """Text and sorting value of the cells of each row."""
        return ([(show(cell), sortable(cell)) for cell in row] for row in self.rows)


@dataclass
class Grids:
    """Makes the grids of one page, which share a budget of bytes."""

    left: int = PAGE_BYTES
    _n: int = field(default=0, repr=False)

    def of_table(self, caption: str, table: Table, note: str = "", where: str = "") -> list[Grid]:
        """A grid of a table; where it is cut, a grid that summarises all of its rows as well.

        Parameters
        ----------
        caption : str
        table : Table
        note : str
        where : str
            How to get all rows.
        """
        heads = [Head(c.name, c.unit, c.description, c.type in _NUMBERS) for c in table.columns]
        columns = [table[name] for name in table.names]
        rows = [list(row) for row in zip(*columns, strict=True)] if columns else []
        grid = self.of_rows(caption, heads, rows, note, where)
        if grid.step == 1:
            return [grid]
        summary = [[h.name, h.unit, *_summary(c)] for h, c in zip(heads, columns, strict=True)]
        title = f"{caption}: all {len(table):,} rows in figures"
        return [self.of_rows(title, _SUMMARY, summary), grid]

    def of_rows(
        self,
        caption: str,
        heads: Sequence[Head],
        rows: Sequence[Sequence[Any]],
        note: str = "",
        where: str = "",
    ) -> Grid:
        """A grid of rows; the embedded ones are evenly spaced where not all of them are."""
        self._n += 1
        kept, text, step = self._kept(rows)
        notes = [note] if note else []
        if step > 1:
            which = f"Every {_ordinal(step)} row is on this page: {len(kept):,} of {len(rows):,}."
            notes.append(f"{which} {where}".strip())
        more = text if len(kept) > FIRST_ROWS else None
        first = kept[:FIRST_ROWS]
        return Grid(f"grid-{self._n}", caption, list(heads), first, more, " ".join(notes), step)

    def _kept(self, rows: Sequence[Sequence[Any]]) -> tuple[list[list[Any]], str, int]:
        """Evenly spaced rows that fit, their JSON, and the step from one to the next."""
        allowed = max(LEAST_BYTES, min(MAX_BYTES, self.left))
        step = max(1, -(-len(rows) // MAX_ROWS))
        kept = [[plain_cell(cell) for cell in row] for row in rows[::step]]
        text = embed(kept)
        while len(text) > allowed and len(kept) > FIRST_ROWS:
            factor = max(2, math.ceil(len(text) / allowed))
            step, kept = step * factor, kept[::factor]
            text = embed(kept)
        self.left = max(0, self.left - len(text))
        return kept, text, step


_SUMMARY = [
    Head("column"),
    Head("unit"),
    Head("n", "", "Cells that are not null.", True),
    Head("null", "", "Cells that are null.", True),
    Head("different", "", "Different values.", True),
    Head("least", "", "Smallest number.", True),
    Head("median", "", "Middle number.", True),
    Head("mean", "", "Mean of the finite numbers.", True),
    Head("greatest", "", "Largest number.", True),
]


def _summary(cells: Sequence[Any]) -> list[Any]:
    known = [cell for cell in cells if cell is not None]
    numbers = sorted(
        cell
        for cell in known
        if isinstance(cell, int | float) and not isinstance(cell, bool) and math.isfinite(cell)
    )
    counts = [len(known), len(cells) - len(known), len(set(known))]
    if not numbers:
        return [*counts, None, None, None, None]
    middle = (numbers[(len(numbers) - 1) // 2] + numbers[len(numbers) // 2]) / 2
    return [*counts, numbers[0], middle, math.fsum(numbers) / len(numbers), numbers[-1]]


def plain_cell(cell: object) -> Any:
    """A cell as it is embedded: numbers with six significant digits, texts of bounded length."""
    if cell is None or isinstance(cell, bool | int):
        return cell
    if isinstance(cell, float):
        return float(f"{cell:.6g}") if math.isfinite(cell) else format_cell(cell)
    return shorten(str(cell), MAX_TEXT)


def show(cell: object) -> str:
    """A cell as text."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float) and math.isfinite(cell):
        return _number(cell)
    return format_cell(cell)


def _number(x: float) -> str:
    """Four significant digits, as the page's script writes them."""
    if x.is_integer() and abs(x) < 1e15:
        return str(int(x))
    short = float(f"{x:.4g}")
    return f"{short:.10f}".rstrip("0").rstrip(".") if 1e-5 <= abs(x) < 1e6 else f"{x:.4g}"


def sortable(cell: object) -> Any:
    """What a cell is sorted by where that is not its text; "" for null."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return int(cell)
    return cell if isinstance(cell, int | float) else None


def embed(value: object) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element.

    Examples
    --------
    >>> embed("</script>\\u2028")
    '"\\\\u003c/script\\\\u003e\\\\u2028"'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _ordinal(n: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{n}{'th' if n % 100 in (11, 12, 13) else ends.get(n % 10, 'th')}"
