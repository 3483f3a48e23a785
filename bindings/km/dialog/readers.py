"""Readers of grounded dialogues: one's own JSONL, and one unified layout.

Nothing is downloaded. Every error names file, dialogue and turn. Files may be compressed (.gz).
docs/dialog.md says where each data set comes from and what its licence allows.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from km.datasets.files import MAX_FILE_BYTES, broken, parse_json, parse_jsonl, read_text
from km.dialog.dialogues import (
    SPLITS,
    Dialogue,
    DialogueSet,
    DialogueTurn,
    Sentence,
    Split,
)

PathLike: TypeAlias = "str | os.PathLike[str]"


def read_any_text(path: Path) -> str:
    """The text of a UTF-8 file, compressed or not."""
    if path.suffix != ".gz":
        return read_text(path)
    try:
        with gzip.open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise broken(path, "", f"not a whole gzip file ({error})") from None
    if len(data) > MAX_FILE_BYTES:
        raise broken(path, "", f"unpacks to more than {MAX_FILE_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise broken(path, f"byte {error.start}", "not UTF-8; save the file as UTF-8") from None


def read_json_list(path: Path) -> list[Any]:
    """The list that a JSON file holds."""
    found = parse_json(path, read_any_text(path))
    if not isinstance(found, list):
        raise broken(path, "", "expected a JSON list of dialogues")
    return found


class Place:
    """Where a reader is in a file, for its messages."""

    def __init__(self, path: Path, dialogue: str, turn: int | None = None) -> None:
        self.path = path
        self.dialogue = dialogue
        self.turn = turn

    def at(self, turn: int) -> Place:
        """The place of a turn, counted from 0; messages count from 1."""
        return Place(self.path, self.dialogue, turn)

    def error(self, problem: str) -> Exception:
        """The error to raise for a problem here."""
        turn = "" if self.turn is None else f", turn {self.turn + 1}"
        return broken(self.path, f"dialogue {self.dialogue}{turn}", problem)

    def text(self, value: Any, name: str, empty: bool = False) -> str:
        """A text of the file, checked, without blanks around it."""
        if not isinstance(value, str):
            raise self.error(f"{name}: expected a text, found {kind_of(value)}")
        if not empty and not value.strip():
            raise self.error(f"{name}: is empty")
        if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise self.error(f"{name}: has a NUL character or a lone surrogate")
        return value.strip()

    def list(self, value: Any, name: str, least: int = 0) -> list[Any]:
        """A list of the file, checked."""
        if not isinstance(value, list):
            raise self.error(f"{name}: expected a list, found {kind_of(value)}")
        if len(value) < least:
            found = f"has {len(value)} entry; {least} are needed" if value else "is empty"
            raise self.error(f"{name}: {found}")
        return value

    def mapping(self, value: Any, name: str) -> dict[str, Any]:
        """An object of the file, checked."""
        if not isinstance(value, dict):
            raise self.error(f"{name}: expected an object, found {kind_of(value)}")
        return value

    def index(self, value: Any, name: str, least: int, n: int) -> int:
        """A whole number from `least` to n - 1."""
        if type(value) is not int or not least <= value < n:
            raise self.error(f"{name}: is {value!r}; expected a whole number, {least} to {n - 1}")
        return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    if value is None:
        return "nothing"
    return names.get(type(value), "a number")


class SentencePool:
    """Makes each sentence, and each list of candidates, once."""

    def __init__(self) -> None:
        self._sentences: dict[tuple[str, str], Sentence] = {}
        self._lists: dict[tuple[Sentence, ...], tuple[Sentence, ...]] = {}

    def sentence(self, text: str, topic: str = "", kind: str = "") -> Sentence:
        """A sentence that is known by its text alone; its id is a number."""
        key = (topic, text)
        if key not in self._sentences:
            self._sentences[key] = Sentence(str(len(self._sentences) + 1), text, topic, kind)
        return self._sentences[key]

    def candidates(self, sentences: Iterable[Sentence]) -> tuple[Sentence, ...]:
        """The list, the same object for the same sentences."""
        found = tuple(sentences)
        return self._lists.setdefault(found, found)


# ---- one's own ----


def read_dialogues(
    path: PathLike, knowledge: PathLike | None = None, *, name: str | None = None
) -> DialogueSet:
    """Read dialogues of one's own.

    Parameters
    ----------
    path : path
        A JSONL file, or a folder with ``dialogues.jsonl`` or several ``dialogues*.jsonl``, which
        are read in the order of their names (all may be ``.gz``). One dialogue a line:
        ``id``, ``topic``, ``split`` and ``turns``, each with ``user``, ``candidates`` (ids of
        sentences; they may stand once at the dialogue), ``gold`` (an id, or null: no knowledge
        used), ``response`` and, if wanted, ``also`` (ids that are as good) and ``act``.
    knowledge : path, optional
        File or folder of sentences: ``id`` and ``text``, and ``topic``, ``kind`` and ``source`` if
        wanted. Default: ``knowledge*.jsonl`` beside the dialogues.
    name : str, optional
        Default: that of the folder or file.

    Raises
    ------
    DataFileError
        The file breaks its layout; names file, dialogue and turn.
    OSError
        A file cannot be read.
    """
    given = Path(path)
    beside = given if given.is_dir() else given.parent
    sentences: dict[str, Sentence] = {}
    for file in _files_in(beside if knowledge is None else Path(knowledge), "knowledge"):
        _read_knowledge(file, sentences)
    seen: dict[str, str] = {}
    lists: dict[tuple[str, ...], tuple[Sentence, ...]] = {}
    dialogues = []
    for file in _files_in(given, "dialogues"):
        for line, record in parse_jsonl(file, read_any_text(file)):
            place = Place(file, f"of {line}")
            id = place.text(record.get("id"), "field 'id'")
            if id in seen:
                raise place.error(f"field 'id': {id!r} is also the id of {seen[id]}")
            seen[id] = f"{file.name}, {line}"
            dialogues.append(_own_dialogue(Place(file, repr(id)), id, record, sentences, lists))
    if not dialogues:
        raise broken(given, "", "no line holds a dialogue")
    default = given.name if given.is_dir() else given.name.split(".")[0]
    return DialogueSet(dialogues, default if name is None else name, str(path))


def _files_in(path: Path, stem: str) -> list[Path]:
    """The file itself, or those of a folder whose names begin so."""
    if not path.is_dir():
        return [path]
    found = sorted([*path.glob(f"{stem}*.jsonl"), *path.glob(f"{stem}*.jsonl.gz")])
    if not found:
        raise broken(path, "", f"the folder has no {stem}*.jsonl or {stem}*.jsonl.gz")
    return found


def _read_knowledge(path: Path, sentences: dict[str, Sentence]) -> None:
    """Add the sentences of a file."""
    for line, record in parse_jsonl(path, read_any_text(path)):
        place = Place(path, f"of {line}")

        def field(name: str, default: str | None = None) -> str:
            value = record.get(name)  # noqa: B023
            if value is None and default is not None:
                return default
            return place.text(value, f"field {name!r}")  # noqa: B023

        try:
            sentence = Sentence(
                field("id"), field("text"), field("topic", ""), field("kind", ""),
                field("source", ""),
            )  # fmt: skip
        except ValueError as error:
            raise type(error)(str(error).replace("dialogue of line", "line", 1)) from None
        if sentence.id in sentences:
            raise broken(path, line, f"field 'id': {sentence.id!r} is there already")
        sentences[sentence.id] = sentence


def _own_dialogue(
    place: Place,
    id: str,
    record: Mapping[str, Any],
    sentences: Mapping[str, Sentence],
    lists: dict[tuple[str, ...], tuple[Sentence, ...]],
) -> Dialogue:
    topic = place.text(record.get("topic"), "field 'topic'")
    split = record.get("split")
    if split not in SPLITS:
        raise place.error(f"field 'split': is {split!r}; expected {', '.join(SPLITS)}")
    shared = record.get("candidates")
    turns = []
    for number, turn in enumerate(place.list(record.get("turns"), "field 'turns'", 1)):
        here = place.at(number)
        entry = here.mapping(turn, "the turn")
        ids = here.list(entry.get("candidates", shared), "field 'candidates'", 1)
        turns.append(_own_turn(here, entry, _candidates(here, ids, sentences, lists)))
    return Dialogue(id, topic, split, tuple(turns))


def _candidates(
    place: Place,
    ids: list[Any],
    sentences: Mapping[str, Sentence],
    lists: dict[tuple[str, ...], tuple[Sentence, ...]],
) -> tuple[Sentence, ...]:
    """The sentences of a list of ids; the same object for the same list."""
    key = tuple(place.text(id, "field 'candidates'") for id in ids)
    if key not in lists:
        unknown = [id for id in key if id not in sentences]
        if unknown:
            raise place.error(f"field 'candidates': no sentence has the id {unknown[0]!r}")
        if len(set(key)) < len(key):
            twice = next(id for id in key if key.count(id) > 1)
            raise place.error(f"field 'candidates': {twice!r} stands there twice")
        lists[key] = tuple(sentences[id] for id in key)
    return lists[key]


def _own_turn(
    place: Place, entry: Mapping[str, Any], candidates: tuple[Sentence, ...]
) -> DialogueTurn:
    slots = {sentence.id: slot for slot, sentence in enumerate(candidates, 1)}

    def slot_of(id: Any, name: str) -> int:
        text = place.text(id, f"field {name!r}")
        if text not in slots:
            raise place.error(f"field {name!r}: {text!r} is not among the candidates")
        return slots[text]

    if "gold" not in entry:
        raise place.error("field 'gold': is missing; null says that no knowledge is used")
    gold = 0 if entry["gold"] is None else slot_of(entry["gold"], "gold")
    listed = place.list(entry.get("also") or [], "field 'also'")
    also = tuple(dict.fromkeys(slot_of(id, "also") for id in listed))
    act = entry.get("act")
    return DialogueTurn(
        user=place.text(entry.get("user"), "field 'user'"),
        candidates=candidates,
        gold=gold,
        response=place.text(entry.get("response"), "field 'response'"),
        also=tuple(slot for slot in also if slot != gold),
        act="" if act is None else place.text(act, "field 'act'"),
    )


# ---- the unified layout ----


def read_unified_dialogues(
    paths: Mapping[Split, PathLike] | PathLike, *, name: str | None = None
) -> DialogueSet:
    """Read dialogues whose turns carry context, texts of candidates and index of the gold one.

    Parameters
    ----------
    paths : mapping of split to path, or one path
        JSONL files; a single one is read as "test_seen". One dialogue a line: ``dialog_id`` and
        ``turns``, each with ``context`` (utterances so far), ``knowledge`` (slot 0 stands for no
        knowledge), ``gold``, ``response`` and, if wanted, ``golds`` (all good slots).
        ``flowchart``, where it is there, is the topic.
    name : str, optional
        Default: that of the first file.

    Raises
    ------
    DataFileError
        A file breaks its layout; names file, dialogue and turn.
    """
    files = dict(paths) if isinstance(paths, Mapping) else {"test_seen": paths}
    pool = SentencePool()
    dialogues = []
    for split, given in files.items():
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; it must be {', '.join(SPLITS)}")
        path = Path(given)
        for line, record in parse_jsonl(path, read_any_text(path)):
            id = Place(path, f"of {line}").text(record.get("dialog_id"), "field 'dialog_id'")
            dialogues.append(_unified_dialogue(Place(path, repr(id)), id, split, record, pool))
    first = Path(next(iter(files.values())))
    return DialogueSet(dialogues, first.name.split(".")[0] if name is None else name, str(first))


def _unified_dialogue(
    place: Place, id: str, split: Any, record: Mapping[str, Any], pool: SentencePool
) -> Dialogue:
    topic = place.text(record.get("flowchart", ""), "field 'flowchart'", empty=True)
    said: list[str] = []
    turns = []
    for number, value in enumerate(place.list(record.get("turns"), "field 'turns'", 1)):
        here = place.at(number)
        entry = here.mapping(value, "the turn")
        turn = _unified_turn(here, entry, topic, said, pool)
        said += [turn.user, turn.response]
        turns.append(turn)
    return Dialogue(id, topic, split, tuple(turns))


def _unified_turn(
    place: Place, entry: Mapping[str, Any], topic: str, said: list[str], pool: SentencePool
) -> DialogueTurn:
    context = [place.text(text, "field 'context'") for text in place.list(
        entry.get("context"), "field 'context'", 1)]  # fmt: skip
    if context[:-1] != said:
        raise place.error("field 'context': is not what was said in the turns before")
    listed = place.list(entry.get("knowledge"), "field 'knowledge'", 2)
    texts = [place.text(text, "field 'knowledge'") for text in listed[1:]]
    gold = place.index(entry.get("gold"), "field 'gold'", 0, len(listed))
    golds = place.list(entry.get("golds") or [], "field 'golds'")
    also = [place.index(slot, "field 'golds'", 0, len(listed)) for slot in golds]
    return DialogueTurn(
        user=context[-1],
        candidates=pool.candidates(pool.sentence(text, topic) for text in texts),
        gold=gold,
        response=place.text(entry.get("response"), "field 'response'"),
        also=tuple(slot for slot in dict.fromkeys(also) if slot != gold),
    )
