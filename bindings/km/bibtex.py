"""BibTeX: rows of the knowledge base's `works` as entries, and text as LaTeX shows it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

# A group around each command, since BibTeX counts braces and knows no escaped one.
_LATEX = {
    "\\": r"{\textbackslash}",
    "{": r"{\textbraceleft}",
    "}": r"{\textbraceright}",
    "~": r"{\textasciitilde}",
    "^": r"{\textasciicircum}",
    "<": r"{\textless}",
    ">": r"{\textgreater}",
    "|": r"{\textbar}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
}
_PREPRINTS = ("", "arxiv", "corr", "preprint")
_UNPUBLISHED = ("web", "software")
_VOLUME = re.compile(r"(?P<name>.*[^\d\s])\s+(?P<volume>\d+)(?:\((?P<number>[\w-]+)\))?")
_YEAR = re.compile(r"(?:19|20)\d\d")
_COUNT = re.compile(r"\d+ authors?")
_REMARK = re.compile(r"\s*\(third-party note\)\s*$")


def escape_latex(text: object) -> str:
    r"""Text that LaTeX prints as it is.

    Characters that LaTeX obeys become commands, control characters and line feeds blanks; all
    others stay as they are, since LaTeX reads UTF-8.

    Examples
    --------
    >>> print(escape_latex("50 % of R&D_{x}"))
    50 \% of R\&D\_{\textbraceleft}x{\textbraceright}
    """
    return "".join(_LATEX.get(c, c) for c in _plain(text))


def work_to_bibtex(row: Mapping[str, Any]) -> str:
    """A work as a BibTeX entry, with a line feed at its end.

    Parameters
    ----------
    row : mapping
        key, title; authors (names as "Last, F." parted by "; ", or a JSON array of names; "and
        others" may end it, and "7 authors" names nobody), year, venue, arxiv, doi, url, note where
        known. Others are left out.

    Returns
    -------
    str
        Of type misc, article or inproceedings, as the venue says. Words of the title with capitals
        inside are kept from lower-casing styles.

    Examples
    --------
    >>> print(work_to_bibtex({"key": "doe2024", "title": "On LLM facts", "authors": "Doe, J.",
    ...                       "year": 2024, "venue": "CoRR", "arxiv": "2401.00001"}), end="")
    @misc{doe2024,
      title         = {On {LLM} facts},
      author        = {Doe, J.},
      year          = {2024},
      eprint        = {2401.00001},
      archivePrefix = {arXiv},
    }
    """
    kind, fields = _published(_text(row.get("venue")))
    arxiv = _text(row.get("arxiv"))
    entry = {
        "title": _title(_text(row.get("title"))),
        "author": _authors(_text(row.get("authors"))),
        "year": escape_latex(_text(row.get("year"))),
        **{name: escape_latex(value) for name, value in fields.items()},
        "eprint": _identifier(arxiv),
        "archivePrefix": "arXiv" if arxiv else "",
        "doi": _identifier(_text(row.get("doi"))),
        "url": _identifier(_text(row.get("url"))),
        "note": escape_latex(_text(row.get("note"))),
    }
    lines = [f"  {name:13} = {{{value}}}," for name, value in entry.items() if value]
    return "\n".join([f"@{kind}{{{bibtex_key(_text(row['key']))},", *lines, "}", ""])


def works_to_bibtex(rows: Iterable[Mapping[str, Any]]) -> str:
    """Entries of several works, one after another with an empty line between them."""
    return "\n".join(work_to_bibtex(row) for row in rows)


def bibtex_key(key: str) -> str:
    r"""The key with what BibTeX does not allow in one replaced by "_".

    It is what ``\cite`` takes.
    """
    return re.sub(r"[^A-Za-z0-9:._/+-]", "_", key) or "_"


def surnames(authors: str) -> list[str]:
    """Last names of a work's authors; "others" where more are not named, nothing for a count."""
    if not authors or _COUNT.fullmatch(authors):
        return []
    return [_others(name).split(",")[0].strip() for name in _names(authors)]


def _plain(text: object) -> str:
    shown = str(text)
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in shown)


def _text(value: object) -> str:
    return "" if value is None else " ".join(_plain(value).split())


def _identifier(text: str) -> str:
    """An address or identifier: not escaped, as styles print it verbatim, but harmless."""
    return quote(text, safe="/:?#[]@!$&'()*+,;=-._~%")


def _published(venue: str) -> tuple[str, dict[str, str]]:
    """Type of the entry and what is known of where it appeared."""
    name = _REMARK.sub("", venue)
    if name.lower() in _PREPRINTS:
        return "misc", {}
    if name.lower() in _UNPUBLISHED:
        return "misc", {"howpublished": name.capitalize()}
    if _YEAR.search(name):
        return "inproceedings", {"booktitle": name}
    found = _VOLUME.fullmatch(name)
    if found is None:
        return "article", {"journal": name}
    parts = {"journal": found["name"], "volume": found["volume"], "number": found["number"] or ""}
    return "article", parts


def _title(text: str) -> str:
    """The title with words such as LLM or MQuAKE in braces."""
    words = [escape_latex(word) for word in text.split(" ")]
    inner = [any(c.isupper() for c in word[1:]) for word in text.split(" ")]
    return " ".join(f"{{{w}}}" if kept else w for w, kept in zip(words, inner, strict=True))


def _authors(text: str) -> str:
    if not text or _COUNT.fullmatch(text):
        return ""
    plain = [_others(name) for name in _names(text)]
    return " and ".join(name if name == "others" else _name(name) for name in plain)


def _others(name: str) -> str:
    """The name, or "others" for what stands for those that are not named."""
    plain = re.sub(r"^and\s+(?=others$)", "", name)
    return "others" if plain in ("others", "et al.") else plain


def _names(text: str) -> list[str]:
    try:
        listed = json.loads(text)
    except ValueError:
        listed = None
    parts = [str(name) for name in listed] if isinstance(listed, list) else text.split(";")
    return [part.strip() for part in parts if part.strip()]


def _name(name: str) -> str:
    """A person's name as it is; anything else as one unit, which BibTeX does not take apart."""
    escaped = escape_latex(name)
    is_person = 1 <= name.count(",") <= 2 and not re.search(r"\band\b", name)
    return escaped if is_person else f"{{{escaped}}}"
