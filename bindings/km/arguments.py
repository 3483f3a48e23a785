"""Checks of arguments that many functions share: each error names the argument and its bounds."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

from km.errors import ArgumentError

# What a pass of a measure may be asked to hold: larger ones never fit into memory.
MOST_TOKENS = 2**31 - 1


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """An integer within bounds (numpy's too).

    Raises
    ------
    TypeError
        It is no integer.
    ArgumentError
        It lies outside.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None
    if number < least or (most is not None and number > most):
        bounds = f"at least {least}" if most is None else f"{least} to {most}"
        raise ArgumentError(f"{name} is {number}; it must be {bounds}")
    return number


def real_number(name: str, value: Any, least: float, most: float) -> float:
    """A finite number within bounds; errors as of :func:`whole_number`."""
    try:
        number = float(value) if not isinstance(value, str | bytes) else None
    except TypeError:
        number = None
    except OverflowError:
        number = float("inf")
    if number is None:
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not least <= number <= most or number in (float("inf"), float("-inf")):
        raise ArgumentError(f"{name} is {number}; it must be finite and {least:g} to {most:g}")
    return number


def coverage(value: Any) -> float:
    """The confidence of an interval, between 0 and 1."""
    number = real_number("confidence", value, 0, 1)
    if number in (0, 1):
        raise ArgumentError(f"confidence is {number:g}; it must lie between 0 and 1")
    return number


def is_ids(value: object) -> bool:
    """Whether a value is a sequence of integers: token ids of one text."""
    if isinstance(value, str | bytes):
        return False
    shape = getattr(value, "shape", None)
    if shape is not None:
        return len(shape) == 1
    return isinstance(value, Sequence) and len(value) > 0 and hasattr(value[0], "__index__")


def several(name: str, values: Any, of_ids: bool = False) -> list[Any]:
    """One text or token as a list of one, several as a list.

    Parameters
    ----------
    name : str
    values : str, bytes, int, or an iterable of what is wanted
    of_ids : bool
        A sequence of integers is one text, given as token ids.

    Raises
    ------
    TypeError
        It is nothing of this.
    """
    one = isinstance(values, str | bytes) or hasattr(type(values), "__index__")
    if one and getattr(values, "shape", ()) == ():  # arrays of any shape have __index__
        return [values]
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence, not {type(values).__name__}")
    items = list(values)
    if of_ids and items and (is_ids(items) or is_ids(values)):
        return [values if is_ids(values) else items]
    return items


def one_each(name: str, values: Any, n: int) -> list[Any]:
    """As :func:`several`, one a prompt.

    Raises
    ------
    ArgumentError
        There are not n.
    """
    items = several(name, values)
    if len(items) != n:
        prompts = "1 prompt" if n == 1 else f"{n} prompts"
        raise ArgumentError(f"{name} has {len(items)} entries for {prompts}; give one a prompt")
    return items


def strings(name: str, values: Any) -> list[str]:
    """One str as a list of one; several as a list of str.

    Raises
    ------
    TypeError
        Something else is among them.
    """
    items = several(name, values)
    for item in items:
        if not isinstance(item, str):
            raise TypeError(f"{name} must hold str, not {type(item).__name__}")
    return items


def need_unicode(name: str, text: str) -> None:
    """Refuse half a surrogate pair, which is no text.

    Raises
    ------
    ArgumentError
        With its place.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"{name}: character {error.start} is a lone surrogate, which is no text"
        ) from None


def need(name: str, value: Any, kind: type, example: str) -> None:
    """Refuse what is neither None nor of a class.

    Raises
    ------
    TypeError
        With an example of what is meant.
    """
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be such as {example}, not {type(value).__name__}")
