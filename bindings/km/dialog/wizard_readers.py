"""Readers of Wizard of Wikipedia and Holl-E, prepared and as their authors published them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from km.arguments import whole_number
from km.dialog.dialogues import SPLITS, Dialogue, DialogueSet, DialogueTurn, Split
from km.dialog.readers import PathLike, Place, SentencePool, read_json_list

_NOTHING = "no_passages_used"


def read_wizard(paths: Mapping[Split, PathLike], *, name: str = "wizard") -> DialogueSet:
    """Read Wizard of Wikipedia.

    Parameters
    ----------
    paths : mapping of split to path
        Files of ParlAI ("train.json", "valid_random_split.json", "test_topic_split.json", ...) or
        prepared ones: a JSON list of objects with ``chosen_topics``, ``posts``, ``responses``,
        ``knowledge`` (a list a turn, its first entry "no_knowledge_used") and ``labels``.
    name : str

    Returns
    -------
    DialogueSet
        Of ParlAI's files, a wizard's candidates are the passage of the chosen topic and what was
        retrieved for the two utterances before; a dialogue that the wizard opens has the topic as
        the user's words, and a sentence that was checked but is no candidate counts as none.

    Raises
    ------
    DataFileError
        A file breaks its layout; names file, dialogue and turn.
    """
    dialogues = []
    pool = SentencePool()
    for split, given in _checked(paths).items():
        path = Path(given)
        for number, value in enumerate(read_json_list(path), 1):
            place = Place(path, str(number))
            record = place.mapping(value, "the dialogue")
            read = _raw_dialogue if "dialog" in record else _prepared_dialogue
            dialogues.append(read(place, f"{split}-{number}", split, record, pool))
    return DialogueSet(dialogues, name, str(Path(next(iter(paths.values()))).parent))


def _checked(paths: Mapping[Split, PathLike]) -> Mapping[Split, PathLike]:
    if not isinstance(paths, Mapping) or not paths:
        raise TypeError('paths must be such as {"train": "train.json"}')
    for split in paths:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; it must be {', '.join(SPLITS)}")
    return paths


# ---- prepared ----


def _prepared_dialogue(
    place: Place, id: str, split: Split, record: dict[str, Any], pool: SentencePool
) -> Dialogue:
    lists = [place.list(record.get(name), f"field {name!r}", 1) for name in (
        "posts", "responses", "knowledge", "labels")]  # fmt: skip
    if len({len(values) for values in lists}) > 1:
        raise place.error("posts, responses, knowledge and labels have different lengths")
    topics = place.list(record.get("chosen_topics") or [], "field 'chosen_topics'")
    topic = place.text(topics[0], "field 'chosen_topics'") if topics else ""
    turns = []
    for number, (post, response, knowledge, label) in enumerate(zip(*lists, strict=True)):
        here = place.at(number)
        listed = here.list(knowledge, "field 'knowledge'", 2)
        if listed[0] != "no_knowledge_used":
            raise here.error(
                f"field 'knowledge': begins with {listed[0]!r}, not 'no_knowledge_used'"
            )
        gold = here.index(label, "field 'labels'", -1, len(listed))
        turns.append(
            DialogueTurn(
                here.text(post, "field 'posts'"),
                pool.candidates(
                    pool.sentence(here.text(text, "field 'knowledge'"), topic)
                    for text in listed[1:]
                ),
                max(gold, 0),
                here.text(response, "field 'responses'"),
            )
        )
    return Dialogue(id, topic, split, tuple(turns))


# ---- as published ----


def _raw_dialogue(
    place: Place, id: str, split: Split, record: dict[str, Any], pool: SentencePool
) -> Dialogue:
    topic = place.text(record.get("chosen_topic"), "field 'chosen_topic'")
    passage = _texts(place, record.get("chosen_topic_passage"), "field 'chosen_topic_passage'")
    said = place.list(record.get("dialog"), "field 'dialog'", 1)
    entries = [place.at(i).mapping(value, "the utterance") for i, value in enumerate(said)]
    turns = []
    for i, entry in enumerate(entries):
        here = place.at(i)
        if "Wizard" not in here.text(entry.get("speaker"), "field 'speaker'"):
            continue
        passages = {topic: passage}
        for before in (i - 1, i - 2):  # what the apprentice's words found, then the wizard's own
            if before >= 0:
                found = entries[before].get("retrieved_passages")
                _add_passages(place.at(before), found, passages)
        texts = [text for sentences in passages.values() for text in sentences]
        user = here.text(entries[i - 1].get("text"), "field 'text'") if i else topic
        turns.append(_raw_turn(here, entry, user, texts, topic, pool))
    if not turns:
        raise place.error("field 'dialog': the wizard says nothing")
    return Dialogue(id, topic, split, tuple(turns))


def _texts(place: Place, value: Any, name: str) -> list[str]:
    return [place.text(text, name) for text in place.list(value, name)]


def _add_passages(place: Place, found: Any, passages: dict[str, list[str]]) -> None:
    name = "field 'retrieved_passages'"
    for passage in place.list(found or [], name):
        for title, sentences in place.mapping(passage, name).items():
            if title not in passages:
                passages[title] = _texts(place, sentences, name)


def _raw_turn(
    place: Place, entry: dict[str, Any], user: str, texts: list[str], topic: str, pool: SentencePool
) -> DialogueTurn:
    texts = list(dict.fromkeys(texts))
    if not texts:
        raise place.error("there is no candidate sentence")
    checked = entry.get("checked_sentence") or {}
    values = list(place.mapping(checked, "field 'checked_sentence'").values())
    sentence = place.text(values[0], "field 'checked_sentence'") if values else _NOTHING
    gold = texts.index(sentence) + 1 if sentence in texts else 0
    candidates = pool.candidates(pool.sentence(text, topic) for text in texts)
    return DialogueTurn(user, candidates, gold, place.text(entry.get("text"), "field 'text'"))


# ---- Holl-E ----


def read_holle(
    paths: Mapping[Split, PathLike], *, max_turns: int | None = 10, name: str = "holl-e"
) -> DialogueSet:
    """Read Holl-E in its prepared form.

    Parameters
    ----------
    paths : mapping of split to path
        A JSON list of objects with ``post``, ``resp`` (a text or several, of which the first is
        taken), ``know`` (a list of sentences a turn) and ``atten`` (index of the sentence that was
        used, -1: none).
    max_turns : int, optional
        Take so many turns of a chat at most, as the preparation does; None: all.
    name : str

    Returns
    -------
    DialogueSet
        Slot 0 is an empty sentence.

    Raises
    ------
    DataFileError
        A file breaks its layout; names file, dialogue and turn.
    """
    most = None if max_turns is None else whole_number("max_turns", max_turns, 1)
    dialogues = []
    pool = SentencePool()
    for split, given in _checked(paths).items():
        path = Path(given)
        for number, value in enumerate(read_json_list(path), 1):
            place = Place(path, str(number))
            record = place.mapping(value, "the dialogue")
            turns = _holle_turns(place, record, pool)
            dialogues.append(Dialogue(f"{split}-{number}", "", split, tuple(turns)[:most]))
    source = str(Path(next(iter(paths.values()))).parent)
    return DialogueSet(dialogues, name, source, none_text="")


def _holle_turns(
    place: Place, record: dict[str, Any], pool: SentencePool
) -> Iterable[DialogueTurn]:
    lists = [place.list(record.get(name), f"field {name!r}", 1) for name in (
        "post", "resp", "know", "atten")]  # fmt: skip
    if len({len(values) for values in lists}) > 1:
        raise place.error("post, resp, know and atten have different lengths")
    turns = []
    for number, (post, response, knowledge, label) in enumerate(zip(*lists, strict=True)):
        here = place.at(number)
        listed = here.list(knowledge, "field 'know'", 1)
        if isinstance(response, list):
            response = here.list(response, "field 'resp'", 1)[0]
        texts = [here.text(text, "field 'know'", empty=True) for text in listed]
        turns.append(
            DialogueTurn(
                here.text(post, "field 'post'"),
                pool.candidates(pool.sentence(text) for text in texts),
                here.index(label, "field 'atten'", -1, len(listed)) + 1,
                here.text(response, "field 'resp'"),
            )
        )
    return turns
