"""km's exceptions. All derive from :class:`km.Error`; ``status`` and ``where`` say what failed.

A refusal by the operating system is ``OSError`` with errno and file name, lack of memory
``MemoryError``, as everywhere in Python.
"""

from __future__ import annotations

from km._km import (
    ArgumentError,
    BusyError,
    CancelledError,
    Error,
    FormatError,
    NotFoundError,
    NumericError,
    ShapeError,
    UnsupportedError,
)

__all__ = [
    "ArgumentError",
    "BusyError",
    "CancelledError",
    "Error",
    "FormatError",
    "NotFoundError",
    "NumericError",
    "ShapeError",
    "UnsupportedError",
]
