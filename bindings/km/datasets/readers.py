"""Readers for files of facts: km's own JSON, JSONL and CSV, and five published layouts.

Every error names the file, the line or entry, and the field, and says what was expected.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from km.datasets.fact_set import Fact, FactSet, Relation, relation_from_dict
from km.datasets.files import broken, parse_json, read_jsonl, read_text, text_field


def _texts(path: Path, place: str, record: dict[str, Any], name: str) -> list[str]:
    value = record.get(name)
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        raise broken(path, place, f"field {name!r}: expected a list of texts")
    return [text_field(path, place, {name: item}, name) for item in value]


def _template(path: Path, place: str, template: str) -> str:
    """km's form: one ``{}``, the answer after the end; accepts ``[X]`` and a final ``[Y]``."""
    text = template.strip()
    if "[Y]" in text:
        text, after = text.split("[Y]", 1)
        if after.strip(" ."):
            raise broken(path, place, f"template {template!r}: [Y] must come last")
        text = text.rstrip()
    text = text.replace("[X]", "{}")
    if text.count("{}") != 1:
        raise broken(path, place, f"template {template!r}: expected exactly one {{}} or [X]")
    return text


def _templates(path: Path, place: str, record: dict[str, Any], name: str) -> list[str]:
    return [_template(path, place, text) for text in _texts(path, place, record, name)]


def _answers(path: Path, place: str, record: dict[str, Any]) -> list[str]:
    if "answers" in record:
        return _texts(path, place, record, "answers")
    if "answer" in record:
        return [text_field(path, place, record, "answer"), *_aliases(path, place, record)]
    raise broken(path, place, "field 'answer' (or 'answers') is missing")


def _aliases(path: Path, place: str, record: dict[str, Any]) -> list[str]:
    return _texts(path, place, record, "aliases") if record.get("aliases") else []


class _Collector:
    """Groups facts by relation in order of appearance."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, list[Fact]] = {}
        self.templates: dict[str, list[str]] = {}

    def add(
        self,
        relation: str,
        subject: str,
        answers: list[str],
        templates: list[str],
        fact_id: str = "",
    ) -> None:
        facts = self.facts.setdefault(relation, [])
        known = self.templates.setdefault(relation, [])
        known.extend(text for text in templates if text not in known)
        facts.append(Fact(fact_id or str(len(facts)), subject, tuple(dict.fromkeys(answers))))

    def finish(self, name: str) -> FactSet:
        if not self.facts:
            raise broken(self.path, "", "no facts found")
        for relation, templates in self.templates.items():
            if not templates:
                raise broken(
                    self.path, f"relation {relation!r}", "no template; give one with {} or [X]"
                )
        relations = tuple(
            Relation(relation, "", tuple(self.templates[relation]), "it", tuple(facts))
            for relation, facts in self.facts.items()
        )
        return FactSet(relations, source=str(self.path), name=name)


def _checked_relation(path: Path, place: str, record: Any) -> Relation:
    if not isinstance(record, dict):
        raise broken(path, place, "expected a relation: an object with name, templates and facts")
    name = text_field(path, place, record, "name")
    place = f"{place} ({name})" if place else f"relation {name!r}"
    facts = record.get("facts")
    if not isinstance(facts, list) or not facts:
        raise broken(path, place, "field 'facts': expected a list that is not empty")
    checked = []
    for index, fact in enumerate(facts):
        at = f"{place}, fact {index}"
        if not isinstance(fact, dict):
            raise broken(path, at, "expected an object with subject and answers")
        checked.append(
            {
                "id": str(fact.get("id", index)),
                "subject": text_field(path, at, fact, "subject"),
                "answers": _answers(path, at, fact),
            }
        )
    return relation_from_dict(
        {
            **record,
            "name": name,
            "kind": str(record.get("kind", "")),
            "templates": _templates(path, place, record, "templates"),
            "subjectless": text_field(path, place, {"subjectless": "it", **record}, "subjectless"),
            "facts": checked,
        }
    )


def _read_json(path: Path) -> FactSet:
    data = parse_json(path, read_text(path))
    records = data if isinstance(data, list) else [data]
    if records and isinstance(records[0], dict) and "requested_rewrite" in records[0]:
        return _read_counterfact(path, records)
    relations = tuple(
        _checked_relation(path, f"entry {index}" if isinstance(data, list) else "", record)
        for index, record in enumerate(records)
    )
    if not relations:
        raise broken(path, "", "no relations found")
    names: set[str] = set()
    for index, relation in enumerate(relations):
        if relation.name in names:
            raise broken(path, f"entry {index}", f"field 'name': {relation.name!r} is given twice")
        names.add(relation.name)
    return FactSet(relations, source=str(path), name=path.stem)


def _read_jsonl(path: Path) -> FactSet:
    collector = _Collector(path)
    for place, record in read_jsonl(path):
        templates = "templates" if "templates" in record else "template"
        collector.add(
            text_field(path, place, record, "relation"),
            text_field(path, place, record, "subject"),
            _answers(path, place, record),
            _templates(path, place, record, templates) if templates in record else [],
            str(record.get("id", "")),
        )
    return collector.finish(path.stem)


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    try:
        for record in reader:
            place = f"line {reader.line_num}"
            if None in record:
                raise broken(path, place, "more cells than columns in the header")
            yield place, record
    except csv.Error as error:
        raise broken(path, f"line {reader.line_num}", f"not valid CSV: {error}") from None


def _read_csv(path: Path) -> FactSet:
    collector = _Collector(path)
    for place, record in _csv_rows(path, ","):
        for name in ("relation", "subject", "answer", "template"):
            if name not in record:
                raise broken(path, "line 1", f"column {name!r} is missing from the header")
        aliases = [text.strip() for text in (record.get("aliases") or "").split("|")]
        answer = text_field(path, place, record, "answer")
        collector.add(
            text_field(path, place, record, "relation"),
            text_field(path, place, record, "subject"),
            [answer, *(text for text in aliases if text)],
            [_template(path, place, text_field(path, place, record, "template"))],
            record.get("id") or "",
        )
    return collector.finish(path.stem)


def _read_counterfact(path: Path, records: list[Any]) -> FactSet:
    """CounterFact (Meng et al. 2022): the true target is the answer."""
    collector = _Collector(path)
    for index, record in enumerate(records):
        place = f"entry {index}"
        rewrite = record.get("requested_rewrite") if isinstance(record, dict) else None
        if not isinstance(rewrite, dict):
            raise broken(path, place, "field 'requested_rewrite' is missing")
        target = rewrite.get("target_true")
        if not isinstance(target, dict):
            raise broken(path, place, "field 'target_true': expected an object with 'str'")
        collector.add(
            text_field(path, place, rewrite, "relation_id"),
            text_field(path, place, rewrite, "subject"),
            [text_field(path, place, target, "str")],
            [_template(path, place, text_field(path, place, rewrite, "prompt"))],
            str(record.get("case_id", "")),
        )
    return collector.finish("counterfact")


def _read_popqa(path: Path) -> FactSet:
    """PopQA (Mallen et al. 2023): test.tsv; each relation gets a question template of its own."""
    collector = _Collector(path)
    for place, record in _csv_rows(path, "\t"):
        subject = text_field(path, place, record, "subj")
        question = text_field(path, place, record, "question")
        name = "possible_answers"
        answers = parse_json(path, text_field(path, place, record, name), place)
        if subject not in question:
            raise broken(path, place, "field 'question' does not contain the subject")
        template = question.replace(subject, "{}", 1) + " The answer is"
        collector.add(
            text_field(path, place, record, "prop"),
            subject,
            [text_field(path, place, record, "obj"), *_texts(path, place, {name: answers}, name)],
            [_template(path, place, template)],
            record.get("id") or "",
        )
    return collector.finish("popqa")


def _labelled(path: Path, place: str, row: dict[str, Any]) -> tuple[str, list[str]]:
    answers = [text_field(path, place, row, "obj_label")]
    if row.get("obj_aliases"):
        answers += _texts(path, place, row, "obj_aliases")
    return text_field(path, place, row, "sub_label"), answers


def _read_lama(path: Path) -> FactSet:
    """LAMA's T-REx and Google-RE layout: relations.jsonl beside TREx/P*.jsonl (or P*.jsonl)."""
    collector = _Collector(path)
    relations = path / "relations.jsonl"
    for place, relation in read_jsonl(relations):
        name = text_field(relations, place, relation, "relation")
        template = _template(relations, place, text_field(relations, place, relation, "template"))
        for file in (path / "TREx" / f"{name}.jsonl", path / f"{name}.jsonl"):
            if file.exists():
                for at, row in read_jsonl(file):
                    collector.add(name, *_labelled(file, at, row), [template])
    return collector.finish("lama")


def _read_pararel(path: Path) -> FactSet:
    """ParaRel (Elazar et al. 2021): patterns/ or graphs_json/ beside trex_lms_vocab/."""
    collector = _Collector(path)
    patterns = path / "graphs_json" if (path / "graphs_json").is_dir() else path / "patterns"
    for file in sorted(patterns.glob("*.jsonl")):
        templates = []
        for place, row in read_jsonl(file):
            text = text_field(file, place, row, "pattern")
            if text.rstrip(" .").endswith("[Y]"):
                templates.append(_template(file, place, text))
        rows = path / "trex_lms_vocab" / file.name
        if templates and rows.exists():
            for at, row in read_jsonl(rows):
                collector.add(file.stem, *_labelled(rows, at, row), templates)
    return collector.finish("pararel")


def _read_bear(path: Path) -> FactSet:
    """BEAR (Wiland et al. 2024): metadata_relations.json beside P*.jsonl."""
    collector = _Collector(path)
    metadata_path = path / "metadata_relations.json"
    metadata = parse_json(metadata_path, read_text(metadata_path))
    if not isinstance(metadata, dict):
        raise broken(metadata_path, "", "expected an object of relations")
    for name, about in metadata.items():
        file, place = path / f"{name}.jsonl", f"relation {name!r}"
        if not isinstance(about, dict):
            raise broken(metadata_path, place, "expected an object with templates")
        texts = _texts(metadata_path, place, about, "templates")
        usable = [
            _template(metadata_path, place, text)
            for text in texts
            if text.rstrip(" .").endswith("[Y]")
        ]
        if usable and file.exists():
            for at, row in read_jsonl(file):
                collector.add(name, *_labelled(file, at, row), usable)
    return collector.finish("bear")


_BY_SUFFIX: dict[str, Callable[[Path], FactSet]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_popqa,
}

_FOLDERS: tuple[tuple[str, Callable[[Path], FactSet]], ...] = (
    ("metadata_relations.json", _read_bear),
    ("relations.jsonl", _read_lama),
    ("graphs_json", _read_pararel),
    ("patterns", _read_pararel),
)


def read_facts(path: str | os.PathLike[str]) -> FactSet:
    """Read facts from disk; the layout is recognised by the name and the content.

    Parameters
    ----------
    path : path
        ``.json``: a relation (name, templates, facts: subject, answers), a list of relations, or
        CounterFact. ``.jsonl``: one fact a line (relation, subject, answer or answers, template or
        templates). ``.csv``: columns relation, subject, answer, template, and optionally aliases
        (parted by ``|``) and id. ``.tsv``: PopQA. A folder: BEAR, LAMA or ParaRel.

    Returns
    -------
    FactSet
        Templates in which the answer does not come last are left out for LAMA's relatives, where a
        left-to-right model cannot be asked with them.

    Raises
    ------
    DataFileError
        The file breaks its layout; names the line or entry and the field.
    OSError
        The file cannot be read.
    """
    where = Path(path)
    if where.is_dir():
        for mark, reader in _FOLDERS:
            if (where / mark).exists():
                return reader(where)
        marks = ", ".join(mark for mark, _ in _FOLDERS)
        raise broken(where, "", f"not a folder of facts km knows: none of {marks} is in it")
    if where.suffix.lower() not in _BY_SUFFIX:
        known = ", ".join(_BY_SUFFIX)
        raise broken(where, "", f"unknown kind of file {where.suffix!r}; expected one of {known}")
    return _BY_SUFFIX[where.suffix.lower()](where)
