"""Small pieces of HTML for notebooks: everything escaped, nothing longer than two screenfuls."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

MAX_ROWS = 60
MAX_CELL = 200

_STYLE = (
    "<style>.km-table{border-collapse:collapse;font-size:90%}"
    ".km-table th,.km-table td{padding:2px 8px;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #8884}.km-table td.n{text-align:right;"
    "font-variant-numeric:tabular-nums}.km-table .u{opacity:.65;font-weight:normal}"
    ".km-note{opacity:.7;font-size:85%}</style>"
)


def escape(value: object) -> str:
    """Text for HTML content and attribute values."""
    return html.escape(str(value), quote=True)


def shorten(text: str, limit: int = MAX_CELL) -> str:
    """The text, cut at `limit` characters with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def format_cell(value: object) -> str:
    """A cell as plain text: four significant digits for floats, an en dash for null."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else f"{value:.4g}"
    return shorten(str(value))


def pick_rows(n: int, limit: int = MAX_ROWS) -> tuple[range, range]:
    """Rows to show from the start and from the end of `n`."""
    if n <= limit:
        return range(n), range(0)
    tail = limit // 4
    return range(limit - tail), range(n - tail, n)


def table_html(
    header: Sequence[tuple[str, str]], rows: Iterable[Sequence[object]], note: str = ""
) -> str:
    """An HTML table.

    Parameters
    ----------
    header : sequence of (name, unit)
    rows : iterable of rows of cells
        A row that is empty stands for rows left out.
    note : str
        A line below the table.
    """
    head = "".join(
        f"<th>{escape(name)}{f' <span class=u>{escape(unit)}</span>' if unit else ''}</th>"
        for name, unit in header
    )
    body = []
    for row in rows:
        if not row:
            body.append(f'<tr><td colspan="{max(len(header), 1)}">⋮</td></tr>')
            continue
        cells = "".join(
            f"<td{' class=n' if _is_number(cell) else ''}>{escape(format_cell(cell))}</td>"
            for cell in row
        )
        body.append(f"<tr>{cells}</tr>")
    below = f'<div class="km-note">{escape(note)}</div>' if note else ""
    return (
        f'<div>{_STYLE}<table class="km-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>{below}</div>"
    )


def mapping_html(items: Iterable[tuple[str, object]]) -> str:
    """A two-column HTML table of names and values."""
    return table_html([("", ""), ("", "")], [(name, value) for name, value in items])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
