"""The data of knowledge conflict that come with km: MemoTrap and NQ-Synth."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from km.arguments import strings
from km.datasets.conflict_readers import (
    TwoClassItem,
    filled,
    json_objects,
    read_memotrap,
)
from km.datasets.conflict_set import QAAnswer, QAExample, QASet
from km.errors import NotFoundError

MEMOTRAP_FILES = ("proverb_ending", "proverb_translation", "history_of_science")
NQ_SYNTH_SOURCE = (
    "HanNight/AdaCAD, data/nq_synth_2_-1.jsonl (MIT); texts of Wikipedia (CC BY-SA 3.0)"
)


def _folder() -> Path:
    """Where the files lie; the package is never run from within an archive."""
    return Path(str(resources.files("km.datasets") / "data" / "conflict"))


@functools.cache
def _memotrap(name: str) -> tuple[TwoClassItem, ...]:
    return tuple(read_memotrap(_folder() / f"memotrap_{name}.jsonl"))


def memotrap(files: str | Iterable[str] = "all") -> list[TwoClassItem]:
    """Items of MemoTrap: prompts whose wanted continuation goes against a well-known text.

    Parameters
    ----------
    files : str or several
        Of "proverb_ending" (614 items), "proverb_translation" (601) and "history_of_science" (540);
        "all".

    Returns
    -------
    list of TwoClassItem
        Liu and Liu 2023, MIT licence. Items of one ``stem`` belong together: the two files of
        proverbs share theirs.

    Raises
    ------
    NotFoundError
        For another name.

    Examples
    --------
    >>> item = memotrap("proverb_ending")[0]
    >>> item.classes[item.wanted], item.stem
    (' returned.', 'Long absent, soon')
    """
    names = list(MEMOTRAP_FILES) if files == "all" else strings("files", files)
    items: list[TwoClassItem] = []
    for name in names:
        if name not in MEMOTRAP_FILES:
            raise NotFoundError(f"no file {name!r}; there are: {', '.join(MEMOTRAP_FILES)}")
        items += _memotrap(name)
    return items


@functools.cache
def nq_synth() -> QASet:
    """Questions of Natural Questions whose passage was made to give another answer.

    Returns
    -------
    QASet
        700 examples of AdaCAD's data (Wang et al. 2024). The passage before the substitution and
        the original answer are not in the data: :func:`km.conflict` takes the model's own answer
        without a passage in their place.

    Examples
    --------
    >>> nq_synth().examples[0].texts
    ('Brian Urlacher',)
    """
    path = _folder() / "nq_synth.jsonl"
    examples = tuple(
        QAExample(
            uid=filled(path, place, record, "id"),
            query=filled(path, place, record, "question"),
            context=filled(path, place, record, "context"),
            answers=(QAAnswer(filled(path, place, record, "sub_answer")),),
            is_substitute=True,
        )
        for place, record in json_objects(path)
    )
    return QASet(examples, "nq_synth", NQ_SYNTH_SOURCE, "MIT; CC BY-SA 3.0")
