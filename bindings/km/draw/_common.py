"""What the pictures share: text made safe and short enough, figures as text."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from km._kmviz import Graph, text_width

MAX_TITLE = 600  # characters of a text shown on hovering
_NAMES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def visible(text: object, *, keep_lines: bool = False) -> str:
    """Text in which every character can be drawn.

    Control characters, lone surrogates and noncharacters become escapes such as ``\\x07``; bytes
    are decoded as UTF-8 with invalid bytes escaped.

    Parameters
    ----------
    text : object
        A str, bytes, or anything str() takes.
    keep_lines : bool
        Leave line feeds as they are.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return "".join(c if keep_lines and c == "\n" else _visible_character(c) for c in str(text))


def _visible_character(c: str) -> str:
    if c in _NAMES:
        return _NAMES[c]
    code = ord(c)
    if unicodedata.category(c) in ("Cc", "Cs") or code & 0xFFFE == 0xFFFE:
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    return " " if c in "\u2028\u2029" else c


def token(text: object) -> str:
    """A token as a label in which everything can be seen.

    Blanks at its ends become U+2423; characters without a mark of their own (other blanks, format
    characters, private and unassigned ones) become escapes.
    """
    shown = visible(text)
    left = len(shown) - len(shown.lstrip(" "))
    right = len(shown) - len(shown.rstrip(" ")) if left < len(shown) else 0
    inner = "".join(_seen(c) for c in shown[left : len(shown) - right])
    return "\u2423" * left + inner + "\u2423" * right


def _seen(c: str) -> str:
    if c == " " or unicodedata.category(c) not in ("Zs", "Zl", "Zp", "Cf", "Co", "Cn"):
        return c
    code = ord(c)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def fit(text: str, width: float, size: float = 10.0, bold: bool = False) -> str:
    """The text, cut with an ellipsis where it would be wider than `width` points."""
    if text_width(text, size, bold) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle].rstrip() + "…", size, bold) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…"


def wrap(text: str, width: float, size: float = 10.0, bold: bool = False, lines: int = 3) -> str:
    """The text broken at blanks into at most `lines` lines of `width` points."""
    rows: list[str] = []
    for word in text.split(" "):
        longer = f"{rows[-1]} {word}" if rows else word
        if rows and (text_width(longer, size, bold) <= width or len(rows) == lines):
            rows[-1] = longer
        else:
            rows.append(word)
    return "\n".join(fit(row, width, size, bold) for row in rows)


def hover(text: str) -> str:
    """A text for hovering: every line feed stays, the length is bounded."""
    shown = visible(text, keep_lines=True)
    return shown if len(shown) <= MAX_TITLE else shown[: MAX_TITLE - 1] + "…"


def number(value: object) -> float | None:
    """A finite number, or None where there is none."""
    if value is None or isinstance(value, bool | str):
        return None
    result = float(value)  # type: ignore[arg-type]
    return result if math.isfinite(result) else None


def figure(value: object) -> str:
    """A number for reading: two decimals below 10, fewer above."""
    x = number(value)
    if x is None:
        return "–"
    size = abs(x)
    if size != 0.0 and size < 0.005:
        return f"{x:.1g}"
    if size >= 100 or (size >= 10 and x == round(x)):
        return f"{x:,.0f}"
    return f"{x:.2f}" if size < 10 else f"{x:.1f}"


def share(value: object) -> str:
    """A share with two decimals."""
    x = number(value)
    return "–" if x is None else f"{x:.2f}"


def interval(
    row: Mapping[str, Any], name: str = "value", shown: Callable[[object], str] = figure
) -> str:
    """The value and its interval as "0.31 [0.24, 0.39]", or the value alone without one."""
    text = shown(row.get(name))
    if number(row.get("low")) is None or number(row.get("high")) is None:
        return text
    return f"{text} [{shown(row['low'])}, {shown(row['high'])}]"


def records(source: Any) -> list[dict[str, Any]]:
    """Rows as dicts from a table, a data frame, one dict or an iterable of dicts."""
    if callable(getattr(source, "to_dict", None)):
        return [dict(row) for row in source.to_dict("records")]
    if callable(getattr(source, "rows", None)):
        source = source.rows()
    if isinstance(source, Mapping):
        source = [source]
    return [dict(row) for row in source]


def model_name(source: Any, given: str | None = None) -> str:
    """The given name, or name and precision of the model of a km result; "" without one."""
    if given is not None:
        return given
    model = (getattr(source, "provenance", None) or {}).get("model") or {}
    return " ".join(str(model[key]) for key in ("name", "precision") if model.get(key))


def count(n: int, noun: str) -> str:
    """Such as "1 fact" and "1,312 facts"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def headline(what: str, model: object = "", n: str = "") -> str:
    """A title that says what is shown, of which model, and of how many; what is "" is left out."""
    parts = (what, str(model or ""), f"n = {n}" if n else "")
    return visible(", ".join(part for part in parts if part))


def footnote(source: Any, given: str | None) -> str:
    """The given footnote, or the provenance of a km result in one line."""
    if given is not None:
        return visible(given, keep_lines=True)
    origin = getattr(source, "provenance", None)
    if not isinstance(origin, Mapping):
        return ""
    parts = [
        model_name(source),
        f"{origin['measure']} v{origin['version']}" if "measure" in origin else "",
        f"km {origin['km_version']}" if origin.get("km_version") else "",
        str(origin.get("time") or "")[:10],
    ]
    return visible(" · ".join(part for part in parts if part))


def text_line(graph: Graph, label: str, title: str, left: float, y: float, **options: Any) -> None:
    """Add a line of text whose left end is at `left`; options as of ``Graph.add_node``."""
    width = text_width(label, options.get("size", 10.0), options.get("bold", False)) + 2.0
    graph.add_node(
        label, title=title, shape="plain", stroke="none", align="left", x=left + 0.5 * width, y=y,
        width=width, height=12.0, **options,
    )  # fmt: skip


def share_scale(graph: Graph, width: float, top: float, bottom: float) -> None:
    """Lines and figures of a scale from 0 to 1 that is `width` points wide."""
    for step in range(6):
        x = width * step / 5.0
        graph.add_node(
            title="", shape="box", fill="grid", stroke="none", x=x, y=0.5 * (top + bottom),
            width=1.0, height=bottom - top,
        )  # fmt: skip
        for y in (top - 8.0, bottom + 8.0):
            graph.add_node(
                f"{step / 5.0:.1f}", title="", shape="plain", stroke="none", text="muted",
                size=9.0, x=x, y=y,
            )  # fmt: skip
