"""The shipped facts and the readers for files of facts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import km
from km.datasets.files import DataFileError


def test_shipped_facts_meet_the_promises() -> None:
    everything = km.datasets.facts()
    assert len(everything) >= 3000 and len(everything.relations) == 40
    assert everything.licence == "MIT" and "KnowledgeCircuits" in everything.source
    for relation in everything:
        assert len(relation.templates) >= 5, relation.name
        assert len(set(relation.templates)) == len(relation.templates), relation.name
        assert relation.subjectless
        for template in relation.templates:
            assert template.count("{}") == 1 and template == template.strip(), template
        ids = [fact.id for fact in relation.facts]
        assert len(set(ids)) == len(ids)
        for fact in relation.facts:
            assert fact.subject == fact.subject.strip() and fact.answer == fact.answer.strip()


def test_selection() -> None:
    assert {r.kind for r in km.datasets.facts("linguistic")} == {"linguistic"}
    two = km.datasets.facts(["country_currency", "person_father"])
    assert [r.name for r in two] == ["country_currency", "person_father"]
    assert len(two.select(per_relation=3)) == 6
    with pytest.raises(KeyError, match="no relation 'capital'"):
        km.datasets.facts("capital")
    with pytest.raises(ValueError, match="per_relation"):
        two.select(per_relation=0)


def test_validate_finds_planted_problems(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    facts = [
        {"subject": "Lyon", "answer": "France"},
        {"subject": "lyon", "answer": "France"},
        {"subject": "Lyon", "answer": "Italy"},
        {"subject": "Mexico City", "answer": "Mexico", "aliases": ["mexico", "Italy"]},
        {"subject": "Here", "answer": "country"},
    ]
    record = {"name": "city", "templates": ["The country of {} is"], "facts": facts}
    path.write_text(json.dumps(record))
    report = km.validate(km.datasets.read_facts(path))
    assert report.counts() == {
        "duplicate": 1,
        "several-answers": 1,
        "repeated-alias": 1,
        "alias-clash": 1,
        "leak-subject": 1,
        "leak-template": 1,
    }
    assert "leak-subject" in report._repr_html_()


def test_validate_takes_what_memorization_takes() -> None:
    name = "country_capital_city"
    facts = km.datasets.facts(name)
    expected = repr(km.validate(facts))
    for given in (name, facts[name], [facts[name]]):
        assert repr(km.validate(given)) == expected


def test_json_jsonl_and_csv_agree(tmp_path: Path) -> None:
    template = "The capital of {} is"
    (tmp_path / "a.json").write_text(
        json.dumps(
            {
                "name": "capital",
                "templates": [template],
                "facts": [{"subject": "France", "answers": ["Paris", "City of Light"]}],
            }
        )
    )
    (tmp_path / "a.jsonl").write_text(
        json.dumps(
            {
                "relation": "capital",
                "subject": "France",
                "answer": "Paris",
                "aliases": ["City of Light"],
                "template": template,
            }
        )
        + "\n\n"
    )
    (tmp_path / "a.csv").write_text(
        "relation,subject,answer,aliases,template\n"
        f'capital,France,Paris,City of Light,"{template}"\n'
    )
    sets = [km.datasets.read_facts(tmp_path / f"a.{kind}") for kind in ("json", "jsonl", "csv")]
    for read in sets:
        assert read["capital"].facts == sets[0]["capital"].facts
        assert read["capital"].templates == (template,)


def test_counterfact_popqa_lama_pararel_bear(tmp_path: Path) -> None:
    (tmp_path / "counterfact.json").write_text(
        json.dumps(
            [
                {
                    "case_id": 7,
                    "requested_rewrite": {
                        "prompt": "The mother tongue of {} is",
                        "relation_id": "P103",
                        "target_new": {"str": "English"},
                        "target_true": {"str": "French"},
                        "subject": "Danielle Darrieux",
                    },
                }
            ]
        )
    )
    fact = km.datasets.read_facts(tmp_path / "counterfact.json")["P103"].facts[0]
    assert (fact.id, fact.answer) == ("7", "French")

    (tmp_path / "popqa.tsv").write_text(
        "id\tsubj\tprop\tobj\tquestion\tpossible_answers\n"
        "4\tGeorge Rankin\toccupation\tpolitician\tWhat is George Rankin's occupation?\t"
        '"[""politician"", ""pol""]"\n'
    )
    popqa = km.datasets.read_facts(tmp_path / "popqa.tsv")["occupation"]
    assert popqa.facts[0].answers == ("politician", "pol")
    assert popqa.templates == ("What is {}'s occupation? The answer is",)

    row = json.dumps({"sub_label": "Paris", "obj_label": "France"}) + "\n"
    lama = tmp_path / "lama"
    (lama / "TREx").mkdir(parents=True)
    (lama / "relations.jsonl").write_text(
        json.dumps({"relation": "P17", "template": "[X] is located in [Y] ."}) + "\n"
    )
    (lama / "TREx" / "P17.jsonl").write_text(row)
    pararel = tmp_path / "pararel"
    (pararel / "graphs_json").mkdir(parents=True)
    (pararel / "trex_lms_vocab").mkdir()
    (pararel / "graphs_json" / "P17.jsonl").write_text(
        json.dumps({"pattern": "[X] lies in [Y]."})
        + "\n"
        + json.dumps({"pattern": "[Y] holds [X]."})
    )
    (pararel / "trex_lms_vocab" / "P17.jsonl").write_text(row)
    bear = tmp_path / "bear"
    bear.mkdir()
    (bear / "metadata_relations.json").write_text(
        json.dumps({"P17": {"templates": ["[X] is in [Y]."]}})
    )
    (bear / "P17.jsonl").write_text(row)
    for folder, template in (
        (lama, "{} is located in"),
        (pararel, "{} lies in"),
        (bear, "{} is in"),
    ):
        relation = km.datasets.read_facts(folder)["P17"]
        assert relation.templates == (template,)
        assert relation.facts[0].answer == "France"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "line 1, column 2: not valid JSON"),
        ("a.json", "[" * 100_000, "nested too deeply|not valid JSON"),
        ("a.json", '{"name": "r", "templates": ["no hole"], "facts": [1]}', "fact 0"),
        (
            "a.json",
            '{"name": "r", "templates": ["no hole"], "facts": [{"subject": "a", "answer": "b"}]}',
            "exactly one",
        ),
        ("a.json", '{"name": "r", "facts": []}', "field 'facts'"),
        ("a.jsonl", '{"relation": "r"}', "line 1: field 'subject'"),
        ("a.jsonl", '{"relation": "r", "subject": "s"}', "line 1: field 'answer'"),
        ("a.jsonl", "3", "line 1: expected a JSON object"),
        ("a.csv", "relation,subject\nx,y\n", "column 'answer' is missing"),
        ("a.csv", "relation,subject,answer,template\na,b,,{} is\n", "line 2: field 'answer'"),
        ("a.csv", "relation,subject,answer,template\n", "no facts found"),
        ("a.tsv", "subj\tprop\n\tx\n", "field 'subj'"),
        ("a.xml", "", "unknown kind of file '.xml'"),
        (
            "a.json",
            '{"name": "r", "templates": ["{} x"], '
            '"facts": [{"subject": "\\ud800", "answer": "b"}]}',
            "surrogate",
        ),
    ],
)
def test_bad_files_name_the_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataFileError, match=message) as caught:
        km.datasets.read_facts(path)
    assert str(path) in str(caught.value)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"relation": "\xff"}')
    with pytest.raises(DataFileError, match="byte 14: not UTF-8"):
        km.datasets.read_facts(path)


def test_an_unknown_folder(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="not a folder of facts"):
        km.datasets.read_facts(tmp_path)


def test_line_separators_inside_a_text_end_no_line(tmp_path: Path) -> None:
    subject = "a\u2028b\x85c\x0bd"
    fact = {"relation": "r", "subject": subject, "answer": "x", "template": "{} is"}
    (tmp_path / "a.jsonl").write_text(json.dumps(fact, ensure_ascii=False) + "\r\n", newline="")
    (tmp_path / "a.csv").write_text(
        f"relation,subject,answer,template\r\nr,{subject},x,{{}} is\r\n"
    )
    for name in ("a.jsonl", "a.csv"):
        found = km.datasets.read_facts(tmp_path / name)["r"].facts
        assert [(f.subject, f.answer) for f in found] == [(subject, "x")]


RELATION = {"name": "r", "templates": ["{} is"], "facts": [{"subject": "a", "answer": "b"}]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[{"n": %s}]' % ("9" * 5000), "not usable JSON"),
        ("a.jsonl", '{"relation": %s}' % ("9" * 5000), "line 1: not usable JSON"),
        ("a.json", json.dumps([RELATION, RELATION]), "entry 1: field 'name': 'r' is given twice"),
        (
            "a.csv",
            "relation,subject,answer,template\nr,a\0,b,{} is\n",
            "line 2: field 'subject': NUL",
        ),
        (
            "a.tsv",
            "subj\tprop\tobj\tquestion\tpossible_answers\na\tp\tb\tWho is a?\t[1]\n",
            "line 2: field 'possible_answers'",
        ),
    ],
)
def test_odd_files_name_the_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataFileError) as caught:
        km.datasets.read_facts(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")  # reading it would wait for ever
    (tmp_path / "b.jsonl").symlink_to("/dev/zero")
    for name in ("a.json", "b.jsonl"):
        with pytest.raises(DataFileError, match="not a regular file"):
            km.datasets.read_facts(tmp_path / name)
