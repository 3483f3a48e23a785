"""Arguments that several commands take, and how they are read."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from km.kb import KnowledgeBase


def numbers(text: str) -> list[int]:
    """Whole numbers parted by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 0,2,5") from None


def names(text: str) -> list[str]:
    """Names parted by commas."""
    return [name.strip() for name in text.split(",")]


def add_threads(parser: argparse._ActionsContainer) -> None:
    """Add ``--threads`` to a command or a group of its options."""
    parser.add_argument(
        "--threads", type=int, help="default: the CPUs this process may use; results do not change"
    )


def open_knowledge_base(path: Path | None) -> AbstractContextManager[KnowledgeBase | None]:
    """The knowledge base of ``--kb``; None where the option is not given."""
    from km.kb import KnowledgeBase

    return nullcontext() if path is None else KnowledgeBase(path)
