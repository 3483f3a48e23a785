"""Readers of FloDial and KdConv as their authors published them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from km.arguments import whole_number
from km.datasets.files import broken, parse_json
from km.dialog.dialogues import SPLITS, Dialogue, DialogueSet, DialogueTurn, Sentence, Split
from km.dialog.readers import PathLike, Place, SentencePool, read_any_text, read_json_list

_KDCONV_CHARACTERS = 240  # of a candidate


def read_flodial(
    folder: PathLike,
    *,
    dialogs: str = "dialogs/test_dialogs.json",
    split: str | None = None,
    name: str = "flodial",
) -> DialogueSet:
    """Read FloDial from a copy of its repository.

    Parameters
    ----------
    folder : path
        With ``knowledge-sources/*.json`` and the files named below.
    dialogs : str
        File of dialogues.
    split : str, optional
        File of ids by part ("trn", "val" or "dev", "tst"), such as "dialogs/s-flo.json"; dialogues
        it does not name are left out. None: every dialogue is of "test_seen".
    name : str

    Returns
    -------
    DialogueSet
        The candidates of a turn are the nodes and the questions with answers of its flowchart, in
        the order of the file; ids are those of the data ("chart-1", "faq-0").

    Raises
    ------
    DataFileError
        A file breaks its layout; names file, dialogue and turn.
    """
    root = Path(folder)
    path = root / dialogs
    found = parse_json(path, read_any_text(path))
    if not isinstance(found, dict):
        raise broken(path, "", "expected an object of dialogues by id")
    parts = None if split is None else _flodial_parts(root / split)
    charts: dict[str, tuple[Sentence, ...]] = {}
    dialogues = []
    for id, value in found.items():
        if parts is not None and id not in parts:
            continue
        place = Place(path, repr(id))
        record = place.mapping(value, "the dialogue")
        chart = place.text(record.get("flowchart"), "field 'flowchart'")
        if chart not in charts:
            if "/" in chart or not (root / "knowledge-sources" / f"{chart}.json").is_file():
                raise place.error(f"field 'flowchart': there is no knowledge source {chart!r}")
            charts[chart] = _flowchart(root / "knowledge-sources" / f"{chart}.json", chart)
        turns = tuple(_flodial_turns(place, record, charts[chart]))
        part: Split = "test_seen" if parts is None else parts[id]
        dialogues.append(Dialogue(f"flodial-{id}", chart, part, turns))
    return DialogueSet(dialogues, name, str(root))


def _flodial_parts(path: Path) -> dict[str, Split]:
    """The split of each dialogue by its id."""
    names: dict[str, Split] = {
        "trn": "train", "train": "train", "val": "valid", "valid": "valid", "dev": "valid",
        "tst": "test_seen", "test": "test_seen",
    }  # fmt: skip
    found = parse_json(path, read_any_text(path))
    if not isinstance(found, dict):
        raise broken(path, "", "expected an object of lists of ids")
    parts: dict[str, Split] = {}
    for name, ids in found.items():
        if name not in names or not isinstance(ids, list):
            raise broken(path, f"field {name!r}", f"expected lists of ids under {', '.join(names)}")
        for id in ids:
            if str(id) in parts:
                raise broken(path, f"field {name!r}", f"dialogue {id} is in two parts")
            parts[str(id)] = names[name]
    return parts


def _flowchart(path: Path, chart: str) -> tuple[Sentence, ...]:
    place = Place(path, repr(chart))
    record = place.mapping(parse_json(path, read_any_text(path)), "the file")
    sentences = []
    for id, node in place.mapping(record.get("nodes"), "field 'nodes'").items():
        text = place.text(place.mapping(node, f"node {id}").get("utterance"), f"node {id}")
        sentences.append(Sentence(f"chart-{id}", text, chart, "node", chart))
    for faq in place.list(record.get("supporting_faqs") or [], "field 'supporting_faqs'"):
        entry = place.mapping(faq, "field 'supporting_faqs'")
        id, q, a = (
            place.text(entry.get(key), f"field {key!r} of a question") for key in ("id", "q", "a")
        )
        sentences.append(Sentence(f"faq-{id}", f"{q} {a}", chart, "faq", chart))
    return tuple(sentences)


def _flodial_turns(
    place: Place, record: Mapping[str, Any], candidates: tuple[Sentence, ...]
) -> Iterator[DialogueTurn]:
    slots = {sentence.id: slot for slot, sentence in enumerate(candidates, 1)}
    said = place.list(record.get("utterences"), "field 'utterences'", 2)
    if len(said) % 2:
        raise place.error("field 'utterences': the agent does not have the last word")
    for number in range(0, len(said), 2):
        here = place.at(number // 2)
        user, agent = (here.mapping(entry, "the utterance") for entry in said[number : number + 2])
        if (user.get("speaker"), agent.get("speaker")) != ("user", "agent"):
            raise here.error("field 'speaker': expected user and agent in turn")
        doc = agent.get("grounded_doc_id")
        if doc is not None and doc not in slots:
            raise here.error(f"field 'grounded_doc_id': the flowchart has no {doc!r}")
        yield DialogueTurn(
            here.text(user.get("utterance"), "field 'utterance'"),
            candidates,
            0 if doc is None else slots[doc],
            here.text(agent.get("utterance"), "field 'utterance'"),
        )


# ---- KdConv ----


def read_kdconv(
    paths: Mapping[Split, Sequence[PathLike] | PathLike],
    *,
    distractors: int = 8,
    seed: int = 0,
    name: str = "kdconv",
) -> DialogueSet:
    """Read KdConv from its files with annotated triples (``data/<domain>/train.json``, ...).

    Parameters
    ----------
    paths : mapping of split to path or paths
    distractors : int
        Triples about the same entities, used in other dialogues, that are put among the candidates
        at most.
    seed : int
        Of the choice of distractors and of the order of candidates.
    name : str

    Returns
    -------
    DialogueSet
        Every second message answers the one before. The candidates of a dialogue are the triples
        that either speaker uses anywhere in it, and distractors, in an order that says nothing;
        the gold one of an answer is its first triple, and its others are as good. A triple is the
        text "name attribute value", an "Information" without its attribute; cut at 240 characters.

    Raises
    ------
    DataFileError
        A file breaks its layout; names file, dialogue and turn.
    """
    most = whole_number("distractors", distractors, 0)
    read: list[tuple[Place, str, Split, list[tuple[str, list[_Triple]]]]] = []
    for split, given in paths.items():
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; it must be {', '.join(SPLITS)}")
        for file in [given] if isinstance(given, str | Path) else list(given):  # type: ignore[arg-type]
            path = Path(file)
            domain = path.parent.name
            for number, value in enumerate(read_json_list(path), 1):
                place = Place(path, str(number))
                id = f"{name}-{domain}-{path.stem.split('.')[0]}-{number}"
                read.append((place, id, split, _kdconv_messages(place, value)))
    known = _by_entity(messages for _, _, _, messages in read)
    pool = SentencePool()
    dialogues = [
        _kdconv_dialogue(place, id, split, messages, known, most, seed, pool)
        for place, id, split, messages in read
    ]
    return DialogueSet(dialogues, name, str(next(iter(paths.values()))))


_Triple = tuple[str, str]  # entity, text


def _kdconv_messages(place: Place, value: Any) -> list[tuple[str, list[_Triple]]]:
    record = place.mapping(value, "the dialogue")
    out = []
    for i, item in enumerate(place.list(record.get("messages"), "field 'messages'", 2)):
        here = place.at(i // 2)
        message = here.mapping(item, "the message")
        triples = [
            _triple(here, attribute)
            for attribute in here.list(message.get("attrs") or [], "field 'attrs'")
        ]
        out.append((here.text(message.get("message"), "field 'message'"), triples))
    return out


def _triple(place: Place, value: Any) -> _Triple:
    entry = place.mapping(value, "field 'attrs'")
    entity, attribute, text = (
        place.text(entry.get(key), f"field {key!r}") for key in ("name", "attrname", "attrvalue")
    )
    if attribute == "Information":
        whole = text if text.startswith(entity) else f"{entity} {text}"
    else:
        whole = f"{entity} {attribute} {text}"
    return entity, " ".join(whole.split())[:_KDCONV_CHARACTERS]


def _by_entity(dialogues: Any) -> dict[str, list[str]]:
    """Texts of the triples about each entity, in order."""
    known: dict[str, dict[str, None]] = {}
    for messages in dialogues:
        for _, triples in messages:
            for entity, text in triples:
                known.setdefault(entity, {})[text] = None
    return {entity: list(texts) for entity, texts in known.items()}


def _kdconv_dialogue(
    place: Place,
    id: str,
    split: Split,
    messages: list[tuple[str, list[_Triple]]],
    known: Mapping[str, list[str]],
    distractors: int,
    seed: int,
    pool: SentencePool,
) -> Dialogue:
    import random

    used = {text: entity for _, triples in messages for entity, text in triples}
    if not used:
        raise place.error("no message has triples")
    draw = random.Random(f"{seed} {id}")
    others = {text for entity in used.values() for text in known[entity]} - used.keys()
    chosen = sorted(others)
    draw.shuffle(chosen)
    texts = sorted([*used, *chosen[:distractors]])
    draw.shuffle(texts)
    slots = {text: slot for slot, text in enumerate(texts, 1)}
    candidates = pool.candidates(pool.sentence(text) for text in texts)
    turns = []
    for i in range(1, len(messages), 2):
        response, triples = messages[i]
        golds = list(dict.fromkeys(slots[text] for _, text in triples))
        turns.append(
            DialogueTurn(
                messages[i - 1][0], candidates, golds[0] if golds else 0, response, tuple(golds[1:])
            )
        )
    return Dialogue(id, place.path.parent.name, split, tuple(turns))
