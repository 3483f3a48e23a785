"""Substitution, files of questions with passages, and the data of knowledge conflict."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from km import datasets as d
from km.datasets import DataFileError, QAAnswer, QAExample, QASet, WikidataEntity
from km.datasets.answer_text import find_literal, matches
from km.errors import ArgumentError, NotFoundError

TINY = Path(__file__).parents[1] / "golden_data" / "tiny_llama"


def example(context: str, *answers: str, uid: str = "1", kind: str | None = "PERSON") -> QAExample:
    return QAExample(uid, "Who?", context, tuple(QAAnswer(text, kind) for text in answers))


def people(*names: str) -> QASet:
    return QASet(tuple(example(f"It was {n}.", n, uid=f"e{i}") for i, n in enumerate(names)), "p")


# ---- mentions ----


def test_clean_mentions_are_words_and_the_longest() -> None:
    text = "USA, us and US; bus. The USA's"
    found = d.find_mentions(text, ["US", "USA"])
    assert [text[a:b] for a, b in found] == ["USA", "us", "US", "USA"]
    inside = d.find_mentions(text, ["US", "USA"], whole_words=False)
    assert [text[a:b] for a, b in inside] == ["USA", "us", "US", "us", "USA"]


def test_offsets_survive_letters_that_change_length() -> None:
    text = "İİ met Ann in the Straße"
    assert [text[a:b] for a, b in d.find_mentions(text, ["ann", "STRASSE"])] == ["Ann", "Straße"]
    start, end = find_literal("Ann", text)[0]
    assert text[start:end] != "Ann"  # the reference's offsets are those of the lower-cased text


def test_half_a_letter_is_no_mention() -> None:
    assert d.find_mentions("Maß Mas", ["mas"], whole_words=False) == ((4, 7),)


def test_empty_answers_stand_nowhere() -> None:
    assert d.find_mentions("some text", [""]) == ()
    assert len(find_literal("", "ab")) == 3


def test_matches() -> None:
    assert matches("Paris.", ["paris"]) and not matches("Paris is", ["Paris"])
    assert matches("the Paris of", ["Paris"], "start")
    assert not matches("In Paris", ["Paris"], "start")
    assert matches("In New York it", ["New York"], "contains")
    assert not matches("New old York", ["New York"], "contains")
    assert matches("the", ["a"]) and matches("the", ["a"], "start")  # both normalise to nothing
    assert not matches("Paris", ["the"], "contains")
    with pytest.raises(ArgumentError, match="match is 'fuzzy'"):
        matches("a", ["b"], "fuzzy")  # type: ignore[arg-type]


# ---- editing ----


def test_clean_never_edits_what_it_put_in() -> None:
    text = "It was UN ; indeed un ."
    made = d.substitute(example(text, "UN"), "June 4 , 1911")
    assert made.context == "It was June 4 , 1911 ; indeed June 4 , 1911 ."
    spans = made.answers[0].spans
    assert spans is not None
    assert [made.context[a:b] for a, b in spans] == ["June 4 , 1911"] * 2


def test_the_original_is_kept() -> None:
    given = example("It was Ann.", "Ann")
    made = d.substitute(given, QAAnswer("Bo", "PERSON", popularity=3), "mine")
    assert (made.uid, made.original, made.is_substitute) == ("mine_1", given, True)
    assert made.answers[0].popularity == 3


def test_a_passage_without_the_answer() -> None:
    given = example("Annual report", "Ann")
    with pytest.raises(ArgumentError, match=r"1: no answer stands in the context"):
        d.substitute(given, "Bo")
    assert d.substitute(given, "Bo", mode="reference").context == "Boual report"
    missing = example("Nothing", "Ann")
    assert d.substitute(missing, "Bo", mode="reference", replace_every=True).context == "Nothing"
    with pytest.raises(ArgumentError, match="mode is 'other'"):
        d.substitute(given, "Bo", mode="other")  # type: ignore[arg-type]


# ---- policies ----


def test_clean_corpus_draws_different_substitutes_and_says_what_it_skips() -> None:
    given = people("Ann", "Bo", "Cy")
    given = QASet((*given.examples, example("nobody", "Dee", uid="e3")), "p")
    made = d.substitute_corpus(given, samples=2, seed=3)
    assert made.name == "p-corpus"
    by_original: dict[str, set[str]] = {}
    for new in made:
        assert isinstance(new.original, QAExample)
        assert new.texts != new.original.texts
        by_original.setdefault(new.original.uid, set()).add(new.texts[0])
    assert {uid: len(texts) for uid, texts in by_original.items()} == {"e0": 2, "e1": 2, "e2": 2}
    assert made.skipped == (("e3", "no answer stands in the context"),) * 2
    assert made == d.substitute_corpus(given, samples=2, seed=3)
    assert made != d.substitute_corpus(given, samples=2, seed=4)


def test_clean_corpus_rejects_aliases_of_the_answer() -> None:
    un = QAAnswer("UN", "ORGANIZATION", ("United Nations",))
    first = QAExample("1", "?", "the UN met", (un,))
    second = example("United Nations", "United Nations", uid="2", kind="ORGANIZATION")
    made = d.substitute_corpus([first, second])
    assert len(made) == 0 and [why for _, why in made.skipped] == ["no eligible candidate"] * 2
    reference = d.substitute_corpus([first, second], mode="reference")
    assert [new.texts[0] for new in reference] == ["United Nations", "UN"]


def test_type_swap_names_the_type() -> None:
    given = [*people("Ann"), example("In Oslo", "Oslo", uid="x", kind="LOCATION")]
    assert [new.uid for new in d.substitute_type_swap(given)] == [
        "type-swap-sub-0-LOCATION_e0",
        "type-swap-sub-0-PERSON_x",
    ]


def test_nonnumeric_aliases() -> None:
    year = QAExample("y", "?", "in 1998", (QAAnswer("1998", "DATE", ("98",)),))
    assert len(d.substitute_alias([year])) == 0
    assert len(d.substitute_alias([year], category="ALL")) == 1
    assert len(d.substitute_alias([year], mode="reference")) == 1
    made = d.substitute_alias([year], category="date").examples[0]
    assert (made.texts, made.answers[0].aliases) == (("98",), ("1998",))


def test_popularity_is_checked_and_typed_in_clean_mode() -> None:
    entities = [WikidataEntity(f"Q{i}", f"P{i}", (), ("Q5",), "", i * 10) for i in range(7)]
    sizes = [len(part) for part in d.popularity_bins(entities, 5, mode="clean")]
    assert sizes == [1, 1, 2, 1, 2]
    made = d.substitute_popularity(people("P0"), entities, bins=7)
    assert len(made) == 6 and made.skipped == (("e0", "no eligible candidate"),)
    assert {new.answer_type for new in made} == {"PERSON"}
    with pytest.raises(ArgumentError, match="no entity is of the wanted type"):
        d.substitute_popularity(people("P0"), entities, entity_type="Q6256")


def test_draws_and_seeds_are_checked() -> None:
    with pytest.raises(ArgumentError, match="draws has no number left"):
        d.substitute_corpus(people("Ann", "Bo"), draws=[1])
    with pytest.raises(ArgumentError, match="seed is -1"):
        d.substitute_corpus(people("Ann", "Bo"), seed=-1)
    with pytest.raises(ArgumentError, match="there are no examples"):
        d.substitute_corpus([])
    with pytest.raises(TypeError, match="must hold QAExample, not str"):
        d.substitute_corpus(["Ann"])  # type: ignore[list-item]


def test_mixed_training_sets() -> None:
    given = people(*(f"P{i}" for i in range(20)))
    made = d.substitute_corpus(given)
    mixed = d.mix_substituted(given, made, ratio=0.5, seed=1)
    assert (mixed.name, len(mixed)) == ("p-mixed", 30)
    assert {e.uid for e in mixed} >= {e.uid for e in given}
    assert sum(e.is_substitute for e in mixed) == 10
    assert mixed == d.mix_substituted(given, made, ratio=0.5, seed=1)
    assert mixed != d.mix_substituted(given, made, ratio=0.5, seed=2)
    assert len(d.mix_substituted(given, made, ratio=3)) == 40
    with pytest.raises(ArgumentError, match="ratio is -1"):
        d.mix_substituted(given, made, ratio=-1)


# ---- facts ----


def test_counterfactuals_state_another_answer_of_the_relation() -> None:
    capitals = d.facts("country_capital_city")
    made = d.counterfactuals(capitals, positions=["only", "end"], seed=1)
    assert len(made) == 32 and not made.skipped
    answers = {fact.answer for relation in capitals for fact in relation.facts}
    for new in made:
        assert isinstance(new.original, QAExample) and new.answers[0].spans is not None
        ((start, end),) = new.answers[0].spans
        assert new.context[start:end] == new.texts[0] in answers - set(new.original.accepted)
        assert new.metadata["subject"] in new.context
    pairs = {}
    for new in made:
        pairs.setdefault(new.metadata["fact"], set()).add(new.texts)
    assert all(len(texts) == 1 for texts in pairs.values())  # the same at every position
    assert made.examples[1].context.endswith(f"{made.examples[0].context}")


def test_the_subject_keeps_its_words() -> None:
    relation = d.Relation(
        "capital",
        "factual",
        ("The capital of {} is", "The seat of {} is"),
        "it",
        (d.Fact("0", "Singapore", ("Singapore",)), d.Fact("1", "Norway", ("Oslo",))),
    )
    made = d.counterfactuals(relation)
    assert made.examples[0].context == "The seat of Singapore is Oslo."


def test_fact_examples_check_their_templates() -> None:
    with pytest.raises(ArgumentError, match="statement is 9, but country_capital_city has"):
        d.fact_examples(d.facts("country_capital_city"), statement=9)
    with pytest.raises(ArgumentError, match="positions holds 'top'"):
        d.fact_examples(d.facts("country_capital_city"), positions="top")


def test_matched_substitutes_are_the_nearest() -> None:
    import km

    tiny = km.load(str(TINY))
    given = d.fact_examples(d.facts("country_capital_city"))
    made = d.substitute_matched(given, tiny, nearest=1)
    assert made == d.substitute_matched(given, tiny, nearest=1)
    for new in made:
        assert isinstance(new.original, QAExample)
        match = new.metadata["match"]
        lengths = [len(tiny.encode(f" {text}", bos=False)) for text in (
            new.original.texts[0], new.texts[0])]  # fmt: skip
        assert match["tokens"] == lengths
        others = [e for e in given if e.texts[0] not in new.original.accepted]
        gaps = {abs(len(tiny.encode(f" {e.texts[0]}", bos=False)) - lengths[0]) for e in others}
        assert abs(lengths[1] - lengths[0]) == min(gaps)
        close = abs(match["prior"][0] - match["prior"][1]) <= 1
        assert match["matched"] == (close and lengths[0] == lengths[1])
        assert match["frequency"] == [1, 1]
    with pytest.raises(ArgumentError, match=r"frequency of 'Washington D\.C\.' is None"):
        d.substitute_matched(given, tiny, frequency={"Paris": 2.0})


# ---- files ----


def test_mrqa_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "nq.jsonl.gz"
    given = QASet((example("It was Ann.", "Ann", kind=None),), "nq")
    d.write_mrqa(path, given)
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert lines[0] == {"header": {"dataset": "nq"}}
    assert lines[1]["qas"][0]["detected_answers"] == [{"text": "Ann", "char_spans": [[7, 9]]}]
    read = d.read_mrqa(path)
    assert (read.name, read.examples) == ("nq", given.examples)
    first = path.read_bytes()
    d.write_mrqa(path, given)
    assert path.read_bytes() == first
    with pytest.raises(ArgumentError, match="uid '1' is given twice"):
        d.write_mrqa(path, [*given, *given])


def test_substitution_sets_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    made = d.substitute_corpus(people("Ann", "Bo"))
    d.write_qa(path, made, whole_originals=True)
    assert json.loads(path.read_text().splitlines()[0])["dataset"] == "p-corpus"
    assert d.read_qa(path).examples == made.examples
    d.write_qa(path, made)
    assert [new.original for new in d.read_qa(path)] == ["e0", "e1"]


def test_nq_swap_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "swap.jsonl"
    made = d.substitute_corpus(people("Ann", "Bo"))
    d.write_nq_swap(path, made)
    read = d.read_nq_swap(path)
    assert [new.context for new in read] == [new.context for new in made]
    assert isinstance(read.examples[0].original, QAExample)
    assert read.examples[0].original.texts == ("Ann",)
    with pytest.raises(ArgumentError, match="has no whole original"):
        d.write_nq_swap(path, people("Ann"))


def test_wikidata_entities(tmp_path: Path) -> None:
    path = tmp_path / "info.json.gz"
    ada = {"label": "Ada", "aliases": ["A"], "entity_types": ["Q5"], "wikipedia_page": "Ada",
           "popularity": 7}  # fmt: skip
    path.write_bytes(gzip.compress(json.dumps({"Q7": ada}).encode()))
    entity = d.read_wikidata_entities(path)["Q7"]
    assert entity == WikidataEntity("Q7", "Ada", ("A",), ("Q5",), "Ada", 7)
    linked = QAAnswer("Ada", ner_label="PERSON", kb_id="Q7").linked(entity)
    assert (linked.answer_type, linked.popularity, linked.aliases) == ("PERSON", 7, ("A",))


HEADER = '{"header": {}}\n'
BROKEN: list[tuple[Callable[[Path], Any], str, str]] = [
    (d.read_mrqa, "", "no line holds anything"),
    (d.read_mrqa, '{"context": "x"}', "line 1: field 'header' is missing"),
    (d.read_mrqa, HEADER, "no examples found"),
    (d.read_mrqa, HEADER + '{"context": 3, "qas": []}', "line 2: field 'context': expected a text"),
    (d.read_mrqa, HEADER + '{"context": "x", "qas": 1}', "line 2: field 'qas': expected a list"),
    (
        d.read_mrqa,
        HEADER + '{"context": "x", "qas": [{"qid": "1", "question": "?", "answers": []}]}',
        "line 2, qas 0: field 'answers': expected at least one",
    ),
    (d.read_mrqa, HEADER + "{", "line 2: not valid JSON"),
    (d.read_qa, '{"dataset": "x"}\n{"uid": "1"}', "line 2: field 'gold_answers'"),
    (
        d.read_qa,
        '{"dataset": "x"}\n{"uid": "1", "query": "?", "context": "", "gold_answers": '
        '[{"text": "a", "spans": [[3]]}]}',
        "line 2, gold_answers 0: field 'spans'",
    ),
    (
        d.read_qa,
        '{"dataset": "x"}\n{"uid": "1", "query": "?", "context": "", "gold_answers": '
        '[{"text": "a", "popularity": -1}]}',
        "line 2, gold_answers 0: field 'popularity': expected a count",
    ),
    (d.read_nq_swap, '{"question": "?"}', "line 1: field 'org_answer'"),
    (d.read_wikidata_entities, '{"Q1": {"label": ""}}', "entry 'Q1': field 'label'"),
    (d.read_wikidata_entities, "[]", "expected an object from ids"),
    (d.read_memotrap, '{"prompt": "x", "classes": ["a"]}', "line 1: field 'classes'"),
    (
        d.read_memotrap,
        '{"prompt": "x", "classes": ["a", "b"], "answer_index": true}',
        "line 1: field 'answer_index'",
    ),
    (d.read_memotrap, '{"prompt": "\\ud800", "classes": ["a", "b"], "answer_index": 1}', "lone"),
]


@pytest.mark.parametrize(("read", "text", "message"), BROKEN, ids=range(len(BROKEN)))
def test_broken_files(read: Callable[[Path], Any], text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(text)
    with pytest.raises(DataFileError) as error:
        read(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def test_broken_gzip(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    for data in (b"plain", gzip.compress(HEADER.encode())[:-6]):
        path.write_bytes(data)
        with pytest.raises(DataFileError, match="not a whole gzip file"):
            d.read_mrqa(path)


def test_memotrap_csv(tmp_path: Path) -> None:
    path = tmp_path / "trap.csv"
    path.write_text("prompt,classes,answer_index\nSay it:,\"[' a', ' b']\",1\n")
    (item,) = d.read_memotrap(path)
    assert (item.prompt, item.classes, item.wanted) == ("Say it:", (" a", " b"), 1)
    path.write_text('prompt,classes,answer_index\nSay it:,"open(1)",1\n')
    with pytest.raises(DataFileError, match="line 2: fields 'classes' and 'answer_index'"):
        d.read_memotrap(path)


# ---- what comes with km ----


def test_memotrap() -> None:
    counts = {name: len(d.memotrap(name)) for name in
              ("proverb_ending", "proverb_translation", "history_of_science")}  # fmt: skip
    assert counts == {
        "proverb_ending": 614,
        "proverb_translation": 601,
        "history_of_science": 540,
    }
    items = d.memotrap()
    assert len({item.id for item in items}) == len(items) == 1755
    assert all(text.startswith(" ") for item in items for text in item.classes)
    translated = {item.stem for item in d.memotrap("proverb_translation")}
    assert translated <= {item.stem for item in d.memotrap("proverb_ending")}
    assert len({item.stem for item in d.memotrap("history_of_science")}) == 91
    with pytest.raises(NotFoundError, match="no file 'hate'"):
        d.memotrap("hate")


def test_nq_synth_holds_its_substitutes() -> None:
    given = d.nq_synth()
    assert len(given) == 700 and all(new.is_substitute for new in given)
    found = [bool(find_literal(new.texts[0], new.context)) for new in given]
    assert sum(found) / len(found) > 0.99
