"""Readers for a user's own priming texts and probes, in the layout of the shipped ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from km.datasets.files import broken, read_jsonl, text_field
from km.datasets.priming_set import PrimingSet, PrimingText, Probe, keyword_place


def _optional(path: Path, place: str, record: dict[str, Any], name: str, default: str) -> str:
    return text_field(path, place, record, name) if name in record else default


def _records(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(place, id, object) of each line; ids may be left out but not given twice."""
    seen: dict[str, str] = {}
    for place, record in read_jsonl(path):
        id = _optional(path, place, record, "id", str(len(seen) + 1))
        if id in seen:
            raise broken(path, place, f"field 'id': {id!r} is also the id of {seen[id]}")
        seen[id] = place
        yield place, id, record
    if not seen:
        raise broken(path, "", "no line holds anything")


def _prefix(path: Path, place: str, record: dict[str, Any], text: str, keyword: str) -> str:
    """What the file gives, checked, or what stands before the keyword."""
    if "prefix" in record:
        prefix = text_field(path, place, record, "prefix")
        rest = text.removeprefix(f"{prefix} {keyword}")
        if rest == text or rest[:1].isalnum():
            raise broken(
                path,
                place,
                f"field 'text': expected the prefix, a blank, the keyword {keyword!r} and "
                "perhaps more",
            )
        return prefix
    start = keyword_place(text, keyword)
    if start is None:
        raise broken(path, place, f"field 'text': the keyword {keyword!r} is not in it")
    if not text.startswith(keyword, start):
        there = text[start : start + len(keyword)]
        raise broken(path, place, f"field 'keyword': {keyword!r}, but {there!r} in the text")
    if start < 2 or text[start - 1] != " " or text[start - 2] == " ":
        raise broken(
            path, place, "field 'text': one blank, and words before it, must precede the keyword"
        )
    return text[: start - 1]


def read_priming_texts(path: str | os.PathLike[str]) -> PrimingSet:
    """Read priming texts from a JSONL file.

    Parameters
    ----------
    path : path
        One object a line: ``theme``, ``keyword`` and ``text``; and, if wanted, ``id``,
        ``category``, ``source`` and ``prefix``, which otherwise is what stands before the keyword.

    Returns
    -------
    PrimingSet
        :func:`validate_priming` says what else may be wrong with them.

    Raises
    ------
    DataFileError
        The file breaks its layout; names the line and the field.
    OSError
        The file cannot be read.
    """
    where = Path(path)
    texts = []
    for place, id, record in _records(where):
        keyword = text_field(where, place, record, "keyword")
        text = text_field(where, place, record, "text")
        texts.append(
            PrimingText(
                id=id,
                theme=text_field(where, place, record, "theme"),
                category=_optional(where, place, record, "category", ""),
                keyword=keyword,
                prefix=_prefix(where, place, record, text, keyword),
                text=text,
                source=_optional(where, place, record, "source", ""),
            )
        )
    return PrimingSet(tuple(texts), source=str(where), name=where.stem)


def read_probes(path: str | os.PathLike[str]) -> list[Probe]:
    """Read probes from a JSONL file.

    Parameters
    ----------
    path : path
        One object a line: ``theme`` and ``text``, and ``id`` if wanted.

    Returns
    -------
    list of Probe

    Raises
    ------
    DataFileError
        The file breaks its layout; names the line and the field.
    OSError
        The file cannot be read.
    """
    where = Path(path)
    return [
        Probe(
            id, text_field(where, place, record, "theme"), text_field(where, place, record, "text")
        )
        for place, id, record in _records(where)
    ]
