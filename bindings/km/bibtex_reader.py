r"""BibTeX read: entries of a file as rows of the knowledge base's `works`.

One pass over the text, so that a long or hostile file takes time in proportion to its length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from km.errors import FormatError

_MONTHS = "January February March April May June July August September October November December"
_MACROS = {month[:3].lower(): month for month in _MONTHS.split()}
_WORD = re.compile(r"[^\s\"#%'(),={}]+")
_BLANK = re.compile(r"\s*")
_BRACE = re.compile(r"[{}]")
_BRACE_OR_QUOTE = re.compile(r"[{}\"]")
_TOKEN = re.compile(r"\\([A-Za-z]+)[ \t\n]*|\\(.)|([{}])|(~)|(\$[^$]*\$)|([^\\{}~$]+|\$|\\)", re.S)
_ARXIV = re.compile(r"(?:arxiv[:./\s]*(?:org/(?:abs|pdf)/)?|abs/)(\d{4}\.\d{4,5})(?!\d)", re.I)
_ARXIV_ID = re.compile(r"(?:arxiv:)?(\d{4}\.\d{4,5})(?:v\d+)?", re.I)
_AND = re.compile(r"[{}]|(?<=\s)and(?=\s)", re.I)

_ACCENTS = {
    "`": "\u0300",
    "'": "\u0301",
    "^": "\u0302",
    "~": "\u0303",
    "=": "\u0304",
    "u": "\u0306",
    ".": "\u0307",
    '"': "\u0308",
    "r": "\u030a",
    "H": "\u030b",
    "v": "\u030c",
    "d": "\u0323",
    "c": "\u0327",
    "k": "\u0328",
    "b": "\u0331",
}
_SYMBOLS = {
    "textbackslash": "\\",
    "textbraceleft": "{",
    "textbraceright": "}",
    "textasciitilde": "~",
    "textasciicircum": "^",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "textquotesingle": "'",
    "textendash": "\u2013",
    "textemdash": "\u2014",
    "ldots": "\u2026",
    "dots": "\u2026",
    "ss": "ß",
    "o": "ø",
    "O": "Ø",
    "l": "ł",
    "L": "Ł",
    "aa": "å",
    "AA": "Å",
    "ae": "æ",
    "AE": "Æ",
    "oe": "œ",
    "OE": "Œ",
    "i": "i",
    "j": "j",
    "dh": "ð",
    "DH": "Ð",
    "th": "þ",
    "TH": "Þ",
    "dj": "đ",
    "DJ": "Đ",
}
# Commands that say only how their text looks.
_LOOKS = re.compile(
    "text(bf|it|sc|rm|tt|sf|up)|emph|em|bf|it|sc|rm|tt|mathrm|mbox|url|protect|relax|noopsort"
)


@dataclass(frozen=True)
class Entry:
    """One entry: its type in lower case, key, fields as they stand in the file, and its line."""

    type: str
    key: str
    fields: Mapping[str, str]
    line: int


def read_entries(text: str) -> list[Entry]:
    """The entries of a BibTeX file, in order; ``@string`` is resolved, ``@comment`` left out.

    Raises
    ------
    FormatError
        It is malformed, or two entries have one key; the line is named.
    """
    entries: list[Entry] = []
    lines: dict[str, int] = {}
    reader = _Reader(text)
    while (entry := reader.entry()) is not None:
        if entry.key in lines:
            raise FormatError(
                f"line {entry.line}: the key {entry.key!r} was there on line {lines[entry.key]}"
            )
        lines[entry.key] = entry.line
        entries.append(entry)
    return entries


class _Reader:
    """A position in a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.macros = dict(_MACROS)
        self._line, self._line_at = 1, 0

    def line(self, at: int) -> int:
        """The number of a line; positions come in rising order, so each line is counted once."""
        self._line += self.text.count("\n", self._line_at, at)
        self._line_at = max(at, self._line_at)
        return self._line

    def fail(self, at: int, why: str) -> FormatError:
        return FormatError(f"line {self.text.count(chr(10), 0, at) + 1}: {why}")

    def blank(self) -> str:
        """Skip blanks; the character that follows, "" at the end."""
        found = _BLANK.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return self.text[self.at : self.at + 1]

    def take(self, wanted: str, what: str) -> str:
        found = self.blank()
        if not found or found not in wanted:
            shown = repr(found) if found else "the end of the file"
            raise self.fail(self.at, f"{what} was expected, and there is {shown}")
        self.at += 1
        return found

    def word(self, what: str) -> str:
        self.blank()
        found = _WORD.match(self.text, self.at)
        if found is None:
            raise self.fail(self.at, f"{what} is missing")
        self.at = found.end()
        return found.group()

    def entry(self) -> Entry | None:
        """The next entry; None at the end."""
        while (start := self.text.find("@", self.at)) >= 0:
            self.at = start + 1
            kind = self.word("the type after '@'").lower()
            if self.blank() not in ("{", "("):
                continue  # an address in the text between entries
            if kind in ("comment", "preamble"):
                self.balanced("{", "}") if self.text[self.at] == "{" else self.balanced("(", ")")
                continue
            end = "}" if self.take("{(", "'{'") == "{" else ")"
            if kind == "string":
                name = self.word("the name of a @string").lower()
                self.take("=", "'='")
                self.macros[name] = self.value()
                self.take(end, f"{end!r}")
                continue
            return self.fields(kind, end, start)
        return None

    def fields(self, kind: str, end: str, start: int) -> Entry:
        key = self.word("the key of the entry")
        fields: dict[str, str] = {}
        while self.take("," + end, f"',' or {end!r} in the entry {key!r}") == ",":
            if self.blank() == end:
                self.at += 1
                break
            name = self.word(f"the name of a field of {key!r}").lower()
            self.take("=", f"'=' after {name!r} in the entry {key!r}")
            fields.setdefault(name, self.value())
        return Entry(kind, key, fields, self.line(start))

    def value(self) -> str:
        """Texts, numbers and names of @string, joined by "#"."""
        parts = [self.one_value()]
        while self.blank() == "#":
            self.at += 1
            parts.append(self.one_value())
        return "".join(parts)

    def one_value(self) -> str:
        first = self.blank()
        if first == "{":
            return self.balanced("{", "}")
        if first == '"':
            return self.quoted()
        name = self.word("a value")
        return self.macros.get(name.lower(), name)

    def balanced(self, opening: str, closing: str) -> str:
        """What stands between a bracket and the one that closes it."""
        start, depth = self.at, 0
        marks = _BRACE if opening == "{" else re.compile(r"[()]")
        for found in marks.finditer(self.text, start):
            depth += 1 if found.group() == opening else -1
            if depth == 0:
                self.at = found.end()
                return self.text[start + 1 : found.start()]
        raise self.fail(start, f"{opening!r} is not closed")

    def quoted(self) -> str:
        start, depth = self.at, 0
        for found in _BRACE_OR_QUOTE.finditer(self.text, start + 1):
            mark = found.group()
            depth += (mark == "{") - (mark == "}")
            if mark == '"' and depth == 0:
                self.at = found.end()
                return self.text[start + 1 : found.start()]
        raise self.fail(start, "a quoted value is not closed")


def unescape_latex(text: str) -> str:
    r"""LaTeX text as plain text: accents, symbols and escaped characters; formulas stay.

    Examples
    --------
    >>> unescape_latex(r"{\'E}t{\"u}de of {R\&D} at 50\,\%")
    'Étüde of R&D at 50 %'
    """
    out: list[str] = []
    accent = ""
    for found in _TOKEN.finditer(text):
        command, mark, brace, tie, formula, plain = found.groups()
        if command is not None and command in _ACCENTS and len(command) == 1:
            accent = _ACCENTS[command]
            continue
        if mark is not None and mark in _ACCENTS:
            accent = _ACCENTS[mark]
            continue
        if brace is not None:
            continue
        shown = plain or formula or ""
        if command is not None:
            shown = _SYMBOLS.get(command, "" if _LOOKS.fullmatch(command) else found.group())
        elif mark is not None:
            shown = "" if mark in "-/" else " " if mark in "\\,;: " else mark
        elif tie is not None:
            shown = " "
        if accent and shown:
            shown, accent = unicodedata.normalize("NFC", shown[0] + accent) + shown[1:], ""
        out.append(shown)
    return " ".join("".join(out).split())


def split_authors(text: str) -> list[str]:
    """Names parted by "and" outside braces."""
    names, start, depth = [], 0, 0
    for found in _AND.finditer(text):
        mark = found.group()
        if mark in "{}":
            depth += 1 if mark == "{" else -1
        elif depth == 0:
            names.append(text[start : found.start()])
            start = found.end()
    names.append(text[start:])
    return [name.strip() for name in names if name.strip()]


def entry_to_work(entry: Entry) -> dict[str, Any]:
    """A row of `works`: key, title, authors, year, venue, arxiv, note, verified_by.

    What BibTeX cannot say stands in fields that begin with "km", which
    :meth:`km.taxonomy.Taxonomy.to_bibtex` writes where they are needed.

    Raises
    ------
    FormatError
        The entry has no title.
    """
    fields = {name: unescape_latex(value) for name, value in entry.fields.items()}
    title = fields.get("kmtitle") or fields.get("title", "")
    if not title:
        raise FormatError(f"line {entry.line}: the entry {entry.key!r} has no title")
    year, remark = _year(fields)
    arxiv = _arxiv(fields)
    notes = [fields.get("note", ""), remark, f"doi {fields['doi']}" if fields.get("doi") else ""]
    return {
        "key": fields.get("kmkey") or entry.key,
        "title": title,
        "authors": fields.get("kmauthors") or _authors(entry.fields),
        "year": year,
        "venue": fields.get("kmvenue") or _venue(fields, arxiv),
        "arxiv": arxiv,
        "note": fields.get("kmnote") or "; ".join(part for part in notes if part) or None,
        "verified_by": "bibtex",
    }


def _authors(fields: Mapping[str, str]) -> str:
    raw = fields.get("author") or fields.get("editor") or ""
    return "; ".join(_name(name) for name in split_authors(raw))


def _name(name: str) -> str:
    """A name as "Last, First"; one in braces is a unit."""
    if name.lower() == "others":
        return "and others"
    plain = unescape_latex(name).replace(";", ",")
    words = plain.split()
    if "," in name or len(words) < 2 or (name.startswith("{") and name.endswith("}")):
        return plain
    last = len(words) - 1
    while last > 1 and words[last - 1][:1].islower():
        last -= 1
    return f"{' '.join(words[last:])}, {' '.join(words[:last])}"


def _year(fields: Mapping[str, str]) -> tuple[int | None, str]:
    """The year, and what stands in its place where it is none."""
    given = fields.get("year") or fields.get("date", "")
    found = re.match(r"[12]\d{3}(?!\d)", given)
    return (int(found.group()), "") if found else (None, f"year {given}" if given else "")


def _arxiv(fields: Mapping[str, str]) -> str | None:
    eprint = _ARXIV_ID.fullmatch(fields.get("eprint", ""))
    archive = fields.get("archiveprefix") or fields.get("eprinttype") or "arxiv"
    if eprint is not None and archive.lower() == "arxiv":
        return eprint.group(1)
    for name in ("journal", "volume", "howpublished", "note", "url"):
        found = _ARXIV.search(fields.get(name, ""))
        if found is not None:
            return found.group(1)
    return None


def _venue(fields: Mapping[str, str], arxiv: str | None) -> str | None:
    journal = fields.get("journal") or fields.get("journaltitle", "")
    if arxiv is not None and re.match(r"arxiv\b", journal, re.I):
        return "arXiv"
    if journal:
        volume, number = fields.get("volume", ""), fields.get("number", "")
        place = volume + (f"({number})" if number and volume else "")
        return f"{journal} {place}".strip() if not place.startswith("abs/") else journal
    for name in ("booktitle", "howpublished", "school", "institution", "publisher"):
        if fields.get(name):
            return fields[name]
    return None
