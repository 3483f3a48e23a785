"""Tables for LaTeX: booktabs, escaped, estimates with their intervals in one cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km.bibtex import escape_latex
from km.errors import ArgumentError

if TYPE_CHECKING:
    from km.table import Table

NOTHING = "--"
NUMBERS = ("int64", "double")


def to_latex(
    table: Table,
    *,
    columns: Sequence[str] | None = None,
    caption: str = "",
    label: str = "",
    digits: int | Mapping[str, int] = 3,
    intervals: bool = True,
) -> str:
    """A table as LaTeX; what :meth:`km.Table.to_latex` does."""
    names = list(columns) if columns is not None else table.names
    for name in names:
        if name not in table.names:
            raise ArgumentError(f"no column {name!r}; there are {', '.join(table.names)}")
    if not names:
        raise ArgumentError("a LaTeX table needs a column")
    places = _digits(digits, table.names)
    kinds = {column.name: column.type for column in table.columns}
    spans = interval_columns(names, kinds) if intervals else {}
    dropped = {end for pair in spans.values() for end in pair}
    shown = [name for name in names if name not in dropped]
    cells = {name: table[name] for name in names}
    body = [
        " & ".join(_cell(cells, name, i, spans.get(name), places[name]) for name in shown)
        for i in range(len(table))
    ]
    head = " & ".join(_head(name, table.units[name], name in spans) for name in shown)
    layout = "".join("r" if kinds[name] in NUMBERS else "l" for name in shown)
    lines = [
        "\\begin{table}",
        "  \\centering",
        *([f"  \\caption{{{escape_latex(caption)}}}"] if caption else []),
        *([f"  \\label{{{_label(label)}}}"] if label else []),
        f"  \\begin{{tabular}}{{{layout}}}",
        "    \\toprule",
        f"    {head} \\\\",
        "    \\midrule",
        *(f"    {row} \\\\" for row in body),
        "    \\bottomrule",
        "  \\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join([*lines, ""])


def interval_columns(names: Sequence[str], kinds: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Columns of the interval by that of the estimate.

    ``X_low`` and ``X_high`` belong to X; low and high to the nearest column of real numbers to
    their left that is not an end itself.
    """
    spans = {
        name: (f"{name}_low", f"{name}_high")
        for name in names
        if f"{name}_low" in names and f"{name}_high" in names
    }
    taken = {end for pair in spans.values() for end in pair} | set(spans)
    if "low" in names and "high" in names:
        before = names[: min(names.index("low"), names.index("high"))]
        own = [name for name in before if kinds[name] == "double" and name not in taken]
        if own:
            spans[own[-1]] = ("low", "high")
    return spans


def number_latex(value: float, digits: int) -> str:
    r"""A number with so many significant digits, in math mode where it has a sign or a power.

    Examples
    --------
    >>> number_latex(-0.12345, 3), number_latex(1.5e-7, 2), number_latex(1234567.0, 3)
    ('$-0.123$', '$1.5\\times10^{-7}$', '$1.23\\times10^{6}$')
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return r"$\infty$" if value > 0 else r"$-\infty$"
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    exponent = int(power)
    if value != 0 and not -4 <= exponent < max(digits, 5):
        return rf"${mantissa}\times10^{{{exponent}}}$"
    text = f"{value:.{max(0, digits - 1 - exponent)}f}" if value else "0"
    return f"${text}$" if text.startswith("-") else text


def _digits(digits: int | Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    given = digits if isinstance(digits, Mapping) else dict.fromkeys(names, digits)
    for name, n in given.items():
        if name not in names:
            raise ArgumentError(f"digits: no column {name!r}; there are {', '.join(names)}")
        if not 1 <= n <= 17:
            raise ArgumentError(f"digits of {name} are {n}, not 1 to 17")
    return {name: given.get(name, 3) for name in names}


def _cell(
    cells: Mapping[str, Sequence[Any]],
    name: str,
    row: int,
    span: tuple[str, str] | None,
    digits: int,
) -> str:
    text = _value(cells[name][row], digits)
    if span is None or cells[name][row] is None:
        return text
    ends = [cells[end][row] for end in span]
    if None in ends:
        return text
    low, high = (_value(end, digits) for end in ends)
    return f"{text} [{low}, {high}]"


def _value(value: object, digits: int) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        text = f"{value:,}".replace(",", "{,}")
        return f"${text}$"
    if isinstance(value, float):
        return number_latex(value, digits)
    return escape_latex(value)


def _head(name: str, unit: str, has_interval: bool) -> str:
    words = escape_latex(name.replace("_", " "))
    known = escape_latex(unit)
    shown = f"{words} ({known})" if known and known not in words else words
    return f"{shown} [interval]" if has_interval else shown


def _label(label: str) -> str:
    r"""A label for ``\ref``, which LaTeX prints nowhere and reads letter by letter."""
    if not all(c.isascii() and (c.isalnum() or c in ":._-/+") for c in label):
        raise ArgumentError(f"label is {label!r}; letters, digits and : . _ - / + are allowed")
    return label
