"""Dialogues: readers, their messages on hostile files, and what a set can do."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from km import dialog
from km.datasets import DataFileError
from km.errors import ArgumentError

ROOT = Path(__file__).parents[2]

KNOWLEDGE: list[dict[str, Any]] = [
    {"id": "s1", "text": "A fuse melts.", "topic": "fuses", "kind": "definition", "source": "km"},
    {"id": "s2", "text": "A blown fuse is dark.", "topic": "fuses"},
    {"id": "s3", "text": "A relay clicks."},
]
DIALOGUE: dict[str, Any] = {
    "id": "d1",
    "topic": "fuses",
    "split": "train",
    "candidates": ["s1", "s2", "s3"],
    "turns": [
        {"user": "What is a fuse?", "gold": "s1", "act": "open", "response": "It melts."},
        {"user": "And then?", "gold": "s2", "also": ["s3"], "response": "It is dark."},
        {"user": "Thanks", "gold": None, "act": None, "response": "Welcome."},
    ],
}


def write_own(folder: Path, *dialogues: Any, knowledge: Any = None) -> Path:
    lines = "".join(json.dumps(one) + "\n" for one in dialogues)
    (folder / "dialogues.jsonl").write_text(lines)
    known = KNOWLEDGE if knowledge is None else knowledge
    (folder / "knowledge.jsonl").write_text("".join(json.dumps(one) + "\n" for one in known))
    return folder


# ---- one's own ----


def test_reads_dialogues_of_ones_own(tmp_path: Path) -> None:
    found = dialog.read_dialogues(write_own(tmp_path, DIALOGUE))
    assert len(found) == 1 and found.n_turns == 3 and found.topics == ["fuses"]
    first, second, third = found[0].turns
    assert (first.gold, second.gold, third.gold) == (1, 2, 0)
    assert second.also == (3,) and second.accepted == (2, 3) and first.act == "open"
    assert first.candidates is third.candidates  # stored once
    assert first.candidates[0].source == "km" and first.candidates[2].topic == ""
    assert found[0].utterances(1) == ["What is a fuse?", "It melts.", "And then?"]
    assert "1 dialogue, 3 turns (train 1), 3.0 candidates a turn, gold in 67 %" in repr(found)


def test_candidates_may_stand_at_each_turn(tmp_path: Path) -> None:
    one = copy.deepcopy(DIALOGUE)
    del one["candidates"]
    for turn in one["turns"]:
        turn["candidates"] = ["s3", "s2", "s1"]
    found = dialog.read_dialogues(write_own(tmp_path, one))
    assert found[0].turns[0].gold == 3


def test_several_compressed_files_are_read_in_order(tmp_path: Path) -> None:
    for number in (2, 1):
        line = json.dumps(DIALOGUE | {"id": f"d{number}"}).encode()
        (tmp_path / f"dialogues_{number}.jsonl.gz").write_bytes(gzip.compress(line))
    known = "\n".join(json.dumps(one) for one in KNOWLEDGE).encode()
    (tmp_path / "knowledge.jsonl.gz").write_bytes(gzip.compress(known))
    assert [one.id for one in dialog.read_dialogues(tmp_path)] == ["d1", "d2"]


def test_written_dialogues_are_read_back(tmp_path: Path) -> None:
    found = dialog.read_dialogues(write_own(tmp_path, DIALOGUE))
    for compress in (False, True):
        place = dialog.write_dialogues(found, tmp_path / f"out{compress}", compress=compress)
        assert dialog.read_dialogues(place).dialogues == found.dialogues
        with pytest.raises(ArgumentError, match="overwrite=True"):
            dialog.write_dialogues(found, place, compress=compress)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The dialogue with another value at a place such as turns.1.gold."""
    one: Any = copy.deepcopy(DIALOGUE)
    *way, last = path.split(".")
    at = one
    for key in way:
        at = at[int(key)] if key.isdecimal() else at[key]
    if value is ...:
        del at[last]
    else:
        at[int(last) if last.isdecimal() else last] = value
    return one


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("turns.1.gold", "s9", "dialogue 'd1', turn 2: field 'gold': 's9' is not among"),
        ("turns.1.gold", 1, "turn 2: field 'gold': expected a text, found a number"),
        ("turns.1.gold", ..., "turn 2: field 'gold': is missing; null says"),
        ("turns.1.also", ["s9"], "turn 2: field 'also': 's9' is not among the candidates"),
        ("turns.1.also", "s1", "turn 2: field 'also': expected a list"),
        ("turns.0.user", "  ", "turn 1: field 'user': is empty"),
        ("turns.0.user", "a\0b", "turn 1: field 'user': has a NUL character"),
        ("turns.0.user", "\ud800", "lone surrogate"),
        ("turns.2.response", ..., "turn 3: field 'response': expected a text, found nothing"),
        ("turns.0.act", 3, "turn 1: field 'act'"),
        ("turns.0", "hello", "turn 1: the turn: expected an object, found a text"),
        ("turns", [], "dialogue 'd1': field 'turns': is empty"),
        ("turns", {}, "field 'turns': expected a list, found an object"),
        ("candidates", ["s1", "s1"], "turn 1: field 'candidates': 's1' stands there twice"),
        ("candidates", ["s1", "s8"], "field 'candidates': no sentence has the id 's8'"),
        ("candidates", [], "field 'candidates': is empty"),
        ("candidates", ..., "field 'candidates': expected a list, found nothing"),
        ("split", "test", "field 'split': is 'test'; expected train, valid"),
        ("topic", None, "field 'topic': expected a text, found nothing"),
        ("id", 7, "dialogue of line 1: field 'id': expected a text, found a number"),
    ],
)
def test_a_broken_dialogue_is_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    folder = write_own(tmp_path, changed(path, value))
    with pytest.raises(DataFileError) as error:
        dialog.read_dialogues(folder)
    assert message in str(error.value)
    assert "dialogues.jsonl" in str(error.value)


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"the folder has no knowledge\*\.jsonl"):
        dialog.read_dialogues(tmp_path)
    with pytest.raises(DataFileError, match=r"'d1' is also the id of dialogues\.jsonl, line 1"):
        dialog.read_dialogues(write_own(tmp_path, DIALOGUE, DIALOGUE))
    with pytest.raises(DataFileError, match="no line holds a dialogue"):
        dialog.read_dialogues(write_own(tmp_path))
    with pytest.raises(DataFileError, match="line 4: field 'id': 's1' is there already"):
        dialog.read_dialogues(write_own(tmp_path, DIALOGUE, knowledge=[*KNOWLEDGE, KNOWLEDGE[0]]))
    with pytest.raises(DataFileError, match=r"knowledge\.jsonl: line 1: field 'text'"):
        dialog.read_dialogues(write_own(tmp_path, DIALOGUE, knowledge=[{"id": "s1"}]))
    write_own(tmp_path, DIALOGUE)
    (tmp_path / "dialogues.jsonl").write_text('{"id": "d1"')
    with pytest.raises(DataFileError, match="line 1: not valid JSON"):
        dialog.read_dialogues(tmp_path)
    (tmp_path / "dialogues.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataFileError, match="not UTF-8"):
        dialog.read_dialogues(tmp_path)
    (tmp_path / "dialogues.jsonl").unlink()
    (tmp_path / "dialogues.jsonl.gz").write_bytes(gzip.compress(b"{}" * 100)[:-9])
    with pytest.raises(DataFileError, match="not a whole gzip file"):
        dialog.read_dialogues(tmp_path)
    with pytest.raises(OSError, match="absent"):
        dialog.read_dialogues(tmp_path / "absent.jsonl", tmp_path / "knowledge.jsonl")


# ---- the unified layout ----

UNIFIED: dict[str, Any] = {
    "dialog_id": "u1",
    "flowchart": "brakes",
    "turns": [
        {
            "context": ["Help"],
            "knowledge": ["none", "A pad.", "A disc."],
            "gold": 2,
            "golds": [2, 1],
            "response": "A disc?",
        },
        {
            "context": ["Help", "A disc?", "Thanks"],
            "knowledge": ["none", "A pad.", "A disc."],
            "gold": 0,
            "response": "Bye",
        },
    ],
}


def test_reads_the_unified_layout(tmp_path: Path) -> None:
    path = tmp_path / "brakes.test.jsonl"
    path.write_text(json.dumps(UNIFIED) + "\n")
    found = dialog.read_unified_dialogues({"test_unseen": path})
    assert found.name == "brakes" and found[0].split == "test_unseen"
    assert found[0].topic == "brakes" and found[0].turns[1].user == "Thanks"
    assert found[0].turns[0].gold == 2 and found[0].turns[0].also == (1,)
    assert found[0].turns[0].candidates is found[0].turns[1].candidates


@pytest.mark.parametrize(
    ("turn", "change", "message"),
    [
        (1, {"context": ["Help", "Thanks"]}, "turn 2: field 'context': is not what was said"),
        (0, {"gold": 3}, "turn 1: field 'gold': is 3; expected a whole number, 0 to 2"),
        (0, {"gold": True}, "turn 1: field 'gold': is True"),
        (0, {"golds": [5]}, "turn 1: field 'golds'"),
        (0, {"knowledge": ["none"]}, "turn 1: field 'knowledge': has 1 entry; 2 are"),
        (0, {"knowledge": ["none", ""]}, "turn 1: field 'knowledge': is empty"),
    ],
)
def test_a_broken_unified_turn_is_named(
    tmp_path: Path, turn: int, change: dict[str, Any], message: str
) -> None:
    one = copy.deepcopy(UNIFIED)
    one["turns"][turn] |= change
    path = tmp_path / "u.jsonl"
    path.write_text(json.dumps(one))
    with pytest.raises(DataFileError) as error:
        dialog.read_unified_dialogues(path)
    assert f"dialogue 'u1', {message}" in str(error.value)


# ---- published layouts ----


def save(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


PREPARED: dict[str, Any] = {
    "chosen_topics": ["blue"],
    "posts": ["hi", "why"],
    "responses": ["blue is nice", "because"],
    "knowledge": [["no_knowledge_used", "blue is a colour"], ["no_knowledge_used", "a", "b"]],
    "labels": [1, -1],
}


def test_reads_prepared_wizard_files(tmp_path: Path) -> None:
    found = dialog.read_wizard({"train": save(tmp_path / "train.json", [PREPARED])})
    assert found[0].topic == "blue" and [turn.gold for turn in found[0].turns] == [1, 0]
    bad = PREPARED | {"labels": [1]}
    with pytest.raises(DataFileError, match=r"train.json: dialogue 1: .*different lengths"):
        dialog.read_wizard({"train": save(tmp_path / "train.json", [bad])})
    bad = PREPARED | {"knowledge": [["blue", "x"], ["no_knowledge_used", "a"]]}
    with pytest.raises(DataFileError, match="dialogue 1, turn 1: field 'knowledge': begins with"):
        dialog.read_wizard({"train": save(tmp_path / "train.json", [bad])})


def test_reads_wizard_files_as_published(tmp_path: Path) -> None:
    raw = {
        "chosen_topic": "Blue",
        "chosen_topic_passage": ["Blue is a colour.", "It is cold."],
        "dialog": [
            {
                "speaker": "0_Wizard",
                "text": "I like it.",
                "checked_sentence": {"chosen_topic_0_Blue": "It is cold."},
                "retrieved_passages": [{"Sky": ["The sky is blue."]}],
            },
            {
                "speaker": "1_Apprentice",
                "text": "The sea?",
                "retrieved_passages": [{"Sea": ["The sea is wet."]}, {"Blue": ["Not this."]}],
            },
            {
                "speaker": "0_Wizard",
                "text": "Wet.",
                "checked_sentence": {"partner_Sea": "The sea is wet."},
                "retrieved_passages": [],
            },
            {"speaker": "1_Apprentice", "text": "Ok", "retrieved_passages": []},
            {
                "speaker": "0_Wizard",
                "text": "Bye.",
                "checked_sentence": {"no_passages_used": "no_passages_used"},
                "retrieved_passages": [],
            },
        ],
    }
    found = dialog.read_wizard({"valid": save(tmp_path / "valid.json", [raw])})
    first, second, third = found[0].turns
    assert first.user == "Blue" and first.gold == 2 and len(first.candidates) == 2
    texts = [sentence.text for sentence in second.candidates]
    assert texts == ["Blue is a colour.", "It is cold.", "The sea is wet.", "The sky is blue."]
    assert second.gold == 3 and third.gold == 0


def test_reads_prepared_holle_files(tmp_path: Path) -> None:
    one = {"post": ["hi", "and"], "resp": ["yes", ["no", "nope"]], "know": [["a", "b"], ["a"]],
           "atten": [1, -1]}  # fmt: skip
    found = dialog.read_holle({"test_seen": save(tmp_path / "test.json", [one])})
    assert found.none_text == "" and [turn.gold for turn in found[0].turns] == [2, 0]
    assert found[0].turns[1].response == "no"
    with pytest.raises(DataFileError, match="turn 1: field 'atten': is 2; expected"):
        dialog.read_holle({"train": save(tmp_path / "t.json", [one | {"atten": [2, -1]}])})


def flodial_folder(folder: Path) -> Path:
    save(
        folder / "knowledge-sources" / "fuse.json",
        {
            "name": "fuse",
            "nodes": {"1": {"utterance": "Is it dark?"}, "2": {"utterance": "Replace it."}},
            "supporting_faqs": [{"q": "What is a fuse?", "a": "A wire.", "id": "0"}],
        },
    )
    said = [("user", None), ("agent", "chart-1"), ("user", "chart-1"), ("agent", "faq-0"),
            ("user", None), ("agent", None)]  # fmt: skip
    utterances = [
        {"speaker": who, "utterance": f"words {i}", **({"grounded_doc_id": doc} if doc else {})}
        for i, (who, doc) in enumerate(said)
    ]
    one = {"utterences": utterances, "flowchart": "fuse"}
    save(folder / "dialogs" / "test_dialogs.json", {"7": one, "8": one})
    save(folder / "dialogs" / "s-flo.json", {"trn": ["7"], "val": []})
    return folder


def test_reads_flodial_as_published(tmp_path: Path) -> None:
    folder = flodial_folder(tmp_path)
    found = dialog.read_flodial(folder)
    assert [turn.gold for turn in found[0].turns] == [1, 3, 0] and len(found) == 2
    assert found[0].turns[0].candidates[2].text == "What is a fuse? A wire."
    parts = dialog.read_flodial(folder, split="dialogs/s-flo.json")
    assert [(one.id, one.split) for one in parts] == [("flodial-7", "train")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flowchart": "../fuse"}, "dialogue '7': field 'flowchart': there is no knowledge source"),
        ({"flowchart": 3}, "field 'flowchart': expected a text"),
        (
            {"utterences": [{"speaker": "user", "utterance": "a"}]},
            "field 'utterences': has 1 entry; 2 are",
        ),
        ({"utterences": [{}, {}, {}]}, "the agent does not have the last word"),
    ],
)
def test_a_broken_flodial_dialogue_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = flodial_folder(tmp_path)
    path = folder / "dialogs" / "test_dialogs.json"
    dialogues = json.loads(path.read_text())
    dialogues["7"] |= change
    save(path, dialogues)
    with pytest.raises(DataFileError) as error:
        dialog.read_flodial(folder)
    assert message in str(error.value)


def test_flodial_speakers_and_nodes_are_checked(tmp_path: Path) -> None:
    folder = flodial_folder(tmp_path)
    path = folder / "dialogs" / "test_dialogs.json"
    dialogues = json.loads(path.read_text())
    dialogues["8"]["utterences"][3]["grounded_doc_id"] = "faq-9"
    save(path, dialogues)
    with pytest.raises(DataFileError, match=r"dialogue '8', turn 2: .* has no 'faq-9'"):
        dialog.read_flodial(folder)
    dialogues["8"]["utterences"][3]["speaker"] = "user"
    save(path, dialogues)
    with pytest.raises(DataFileError, match="turn 2: field 'speaker': expected user and agent"):
        dialog.read_flodial(folder)


def kdconv_dialogue(value: str) -> dict[str, Any]:
    def triple(attribute: str, text: str) -> dict[str, str]:
        return {"name": "片", "attrname": attribute, "attrvalue": text}

    return {
        "messages": [
            {"message": "看过吗？"},
            {
                "message": "看过。",
                "attrs": [triple("年", value), triple("Information", "片是好的")],
            },
            {"message": "嗯"},
            {"message": "再见"},
        ]
    }


def test_reads_kdconv_as_published(tmp_path: Path) -> None:
    path = save(tmp_path / "film" / "dev.json", [kdconv_dialogue("1"), kdconv_dialogue("2")])
    found = dialog.read_kdconv({"train": path})
    texts = {sentence.text for sentence in found[0].turns[0].candidates}
    assert texts == {"片 年 1", "片是好的", "片 年 2"}  # the last a distractor from the other
    first, second = found[0].turns
    assert first.candidates[first.gold - 1].text == "片 年 1" and len(first.also) == 1
    assert second.gold == 0 and found.topics == ["film"]
    again = dialog.read_kdconv({"train": path})
    assert again.dialogues == found.dialogues
    alone = dialog.read_kdconv({"train": path}, distractors=0)
    assert len(alone[0].turns[0].candidates) == 2
    bad = {"messages": [{"message": "a"}, {"message": "b", "attrs": [{"name": "x"}]}]}
    with pytest.raises(DataFileError, match="dialogue 1, turn 1: field 'attrname'"):
        dialog.read_kdconv({"train": save(tmp_path / "film" / "bad.json", [bad])})


# ---- sets ----


def test_a_set_splits_holds_out_and_shuffles(tmp_path: Path) -> None:
    other = DIALOGUE | {"id": "d2", "topic": "relays", "split": "valid"}
    found = dialog.read_dialogues(write_own(tmp_path, DIALOGUE, other))
    assert len(found.split("train")) == 1 and len(found.split("test_seen")) == 0
    held = found.hold_out(["relays"])
    assert [one.split for one in held] == ["train", "test_unseen"]
    with pytest.raises(ArgumentError, match="no dialogue has the topic 'x'"):
        found.hold_out(["x"])
    with pytest.raises(ArgumentError, match="split is 'test'"):
        found.split("test")  # type: ignore[arg-type]
    mixed = found.shuffled(3)
    for before, after in zip(found, mixed, strict=True):
        for a, b in zip(before.turns, after.turns, strict=True):
            assert sorted(s.id for s in a.candidates) == sorted(s.id for s in b.candidates)
            if a.gold:
                assert a.candidates[a.gold - 1] == b.candidates[b.gold - 1]
            assert [a.candidates[i - 1] for i in a.also] == [b.candidates[i - 1] for i in b.also]
    assert mixed[0].turns[0].candidates is mixed[0].turns[1].candidates
    assert any(found.shuffled(s)[0].turns[0].gold != 1 for s in range(4))
    with pytest.raises(ArgumentError, match="two dialogues have the id 'd1'"):
        dialog.DialogueSet([found[0], found[0]])


@pytest.mark.skipif(not (ROOT / "grounded-dialog").is_dir(), reason="not in a source tree")
def test_the_shipped_kdconv_part_is_whole() -> None:
    found = dialog.read_dialogues(ROOT / "grounded-dialog" / "data" / "kdconv")
    parts = {name: len(found.split(name)) for name in ("train", "valid", "test_seen")}
    assert parts == {"train": 594, "valid": 72, "test_seen": 117}
    test = found.split("test_seen")
    assert test.n_turns == 1248 and sum(turn.gold > 0 for _, _, turn in test.turns()) == 940
