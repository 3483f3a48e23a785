"""Writing dialogues in the layout of one's own, as :func:`read_dialogues` reads them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from km.cache import atomic_write
from km.dialog.dialogues import Dialogue, DialogueSet
from km.dialog.readers import PathLike
from km.errors import ArgumentError


def write_dialogues(
    dialogues: DialogueSet, folder: PathLike, *, compress: bool = False, overwrite: bool = False
) -> Path:
    """Write ``dialogues.jsonl`` and ``knowledge.jsonl`` (or ``.jsonl.gz``) into a folder.

    Candidates that all turns of a dialogue share stand once.

    Raises
    ------
    ArgumentError
        There are such files, two sentences have one id, or the text of slot 0 is not the usual one.
    """
    place = Path(folder)
    if dialogues.none_text != DialogueSet([]).none_text:
        raise ArgumentError("this layout has no place for another text of slot 0")
    sentences = dialogues.sentences()
    ids = {sentence.id for sentence in sentences}
    if len(ids) < len(sentences):
        raise ArgumentError("two sentences have one id")
    suffix = ".jsonl.gz" if compress else ".jsonl"
    targets = [place / f"{stem}{suffix}" for stem in ("dialogues", "knowledge")]
    there = [target for target in targets if target.exists()]
    if there and not overwrite:
        raise ArgumentError(f"{there[0]}: is there already; overwrite=True replaces it")
    place.mkdir(parents=True, exist_ok=True)
    known = (
        {
            "id": s.id,
            "text": s.text,
            **{k: v for k, v in (("topic", s.topic), ("kind", s.kind), ("source", s.source)) if v},
        }
        for s in sentences
    )
    _write(targets[0], (_dialogue(dialogue) for dialogue in dialogues), compress)
    _write(targets[1], known, compress)
    return place


def _dialogue(dialogue: Dialogue) -> dict[str, Any]:
    lists = [[sentence.id for sentence in turn.candidates] for turn in dialogue.turns]
    shared = all(ids == lists[0] for ids in lists)
    out: dict[str, Any] = {"id": dialogue.id, "topic": dialogue.topic, "split": dialogue.split}
    if shared:
        out["candidates"] = lists[0]
    turns = []
    for turn, ids in zip(dialogue.turns, lists, strict=True):
        entry: dict[str, Any] = {"user": turn.user}
        if not shared:
            entry["candidates"] = ids
        entry["gold"] = ids[turn.gold - 1] if turn.gold else None
        if turn.also:
            entry["also"] = [ids[slot - 1] for slot in turn.also if slot]
        if turn.act:
            entry["act"] = turn.act
        entry["response"] = turn.response
        turns.append(entry)
    return {**out, "turns": turns}


def _write(path: Path, records: Iterable[dict[str, Any]], compress: bool) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    data = text.encode()
    with atomic_write(path) as file:
        file.write(gzip.compress(data, 9, mtime=0) if compress else data)
