"""Arrays by name in safetensors files, which appear when they are whole.

Files that km writes hold a SHA-256 over header and values, so that a flipped bit is an error.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km.cache import atomic_write
from km.errors import ArgumentError, FormatError

if TYPE_CHECKING:
    import numpy as np

_TYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "|u1", "BOOL": "|b1"}
_MAX_HEADER = 100_000_000
_MAX_DIMENSIONS = 8
_SUM = "km_sha256"  # among the texts of a file: of everything but itself


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray[Any, Any]],
    metadata: Mapping[str, str],
    overwrite: bool = False,
) -> Path:
    """Write arrays, in the order given, and texts beside them.

    Parameters
    ----------
    path : path-like
    tensors : mapping of str to array
        float32, float64, int32, int64, uint8 or bool.
    metadata : mapping of str to str
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    ArgumentError
        The path is there and `overwrite` is not set, or an array is of another type.
    """
    import numpy as np

    target = Path(path).expanduser()
    if target.exists() and (target.is_dir() or not overwrite):
        hint = "a folder" if target.is_dir() else "there already; overwrite=True replaces it"
        raise ArgumentError(f"{target}: is {hint}")
    names = {np.dtype(dtype): name for name, dtype in _TYPES.items()}
    facts = {"format": "pt", **metadata}
    facts.pop(_SUM, None)
    header: dict[str, Any] = {"__metadata__": facts}
    at = 0
    for name, values in tensors.items():
        if values.dtype not in names:
            raise ArgumentError(f"{name!r} is {values.dtype}; {', '.join(_TYPES)} can be written")
        place = [at, at + values.nbytes]
        kind = names[values.dtype]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": place}
        at += values.nbytes
    facts[_SUM] = _digest(header, tensors)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(target) as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for values in tensors.values():
            file.write(_bytes_of(values))
    return target


def read_tensors(
    path: str | os.PathLike[str],
    *,
    ours: bool = False,
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """The arrays of a safetensors file, copied, and its texts.

    Parameters
    ----------
    path : path-like
    ours : bool
        The file must have been written by :func:`write_tensors`.

    Raises
    ------
    FormatError
        The file is no whole safetensors file, holds a type that :func:`write_tensors` does not
        write, or its bytes are not those that were written.
    """
    import numpy as np

    source = Path(path).expanduser()
    if source.exists() and not source.is_file():  # reading a pipe would wait for ever
        raise FormatError(f"{source}: is no file")
    with source.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file.read(8), file.read, size, source)
        start = file.tell()
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            kind, shape, begin, end = _read_entry(name, entry, size - start, source)
            values = np.empty(shape, dtype=np.dtype(_TYPES[kind]))
            if values.nbytes != end - begin:
                raise FormatError(f"{source}: tensor {name!r} has {end - begin} bytes")
            file.seek(start + begin)
            if values.nbytes and file.readinto(values.data.cast("B")) != values.nbytes:
                raise FormatError(f"{source}: tensor {name!r} ends before its last byte")
            tensors[name] = values
    metadata = header.get("__metadata__", {})
    written = metadata.pop(_SUM, None)
    if written is None and ours:
        raise FormatError(f"{source}: is no file that km wrote, or is damaged")
    if written is not None and written != _digest(header, tensors):
        raise FormatError(f"{source}: is damaged; the bytes are not those that were written")
    return tensors, {str(k): str(v) for k, v in metadata.items()}


def _bytes_of(values: np.ndarray[Any, Any]) -> memoryview:
    """The values in order; the array's own memory where it lies in order."""
    import numpy as np

    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _digest(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray[Any, Any]]) -> str:
    total = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for values in tensors.values():
        total.update(_bytes_of(values))
    return total.hexdigest()


def _read_header(first: bytes, read: Any, size: int, source: Path) -> dict[str, Any]:
    n = struct.unpack("<Q", first)[0] if len(first) == 8 else size
    if n > min(size - 8, _MAX_HEADER):
        raise FormatError(f"{source}: is no safetensors file")
    try:
        header = json.loads(read(n))
    except (ValueError, RecursionError):
        raise FormatError(f"{source}: the header is no JSON") from None
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise FormatError(f"{source}: the header is no object of tensors")
    return header


def _read_entry(
    name: str, entry: Any, available: int, source: Path
) -> tuple[str, list[int], int, int]:
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        good = all(type(n) is int and 0 <= n <= available for n in [*shape, begin, end])
        good = good and len(shape) <= _MAX_DIMENSIONS
    except (TypeError, KeyError, ValueError):
        good = False
    if not good or not begin <= end <= available or math.prod(shape) > available:
        raise FormatError(f"{source}: tensor {name!r} does not lie inside the file")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise FormatError(f"{source}: tensor {name!r} is {kind}, not {', '.join(_TYPES)}")
    return kind, shape, begin, end
