"""Reading the files of a data set: every error names file, place and field."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_FILE_BYTES = 1 << 30


class DataFileError(ValueError):
    """A file of facts or texts breaks its layout; the message names file, place and field."""


def broken(path: Path, place: str, problem: str) -> DataFileError:
    """The error to raise for a problem at a place of a file (the whole file when empty)."""
    where = f"{path}: {place}" if place else str(path)
    return DataFileError(f"{where}: {problem}")


def read_text(path: Path) -> str:
    """The text of a regular UTF-8 file of bearable size, without a byte order mark."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise broken(path, "", "not a regular file")
        size = status.st_size
        if size > MAX_FILE_BYTES:
            raise broken(path, "", f"{size} bytes; files of a data set may have {MAX_FILE_BYTES}")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise broken(path, f"byte {error.start}", "not UTF-8; save the file as UTF-8") from None


def parse_json(path: Path, text: str, place: str = "") -> Any:
    """The value a JSON text stands for."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = place or f"line {error.lineno}, column {error.colno}"
        raise broken(path, where, f"not valid JSON: {error.msg}") from None
    except RecursionError:
        raise broken(path, place, "JSON is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise broken(path, place, f"not usable JSON: {error}") from None


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each line that is not blank."""
    yield from parse_jsonl(path, read_text(path))


def parse_jsonl(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same of a text that was read from a file."""
    for number, line in enumerate(text.split("\n"), 1):  # U+2028 ends no line here
        if not line.strip():
            continue
        place = f"line {number}"
        record = parse_json(path, line, place)
        if not isinstance(record, dict):
            raise broken(path, place, "expected a JSON object")
        yield place, record


def text_field(path: Path, place: str, record: dict[str, Any], name: str) -> str:
    """A field that must hold a text, without blanks around it."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise broken(path, place, f"field {name!r}: expected a text that is not empty")
    if "\0" in value:
        raise broken(path, place, f"field {name!r}: NUL character")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise broken(path, place, f"field {name!r}: lone surrogate; not a Unicode text")
    return value.strip()
