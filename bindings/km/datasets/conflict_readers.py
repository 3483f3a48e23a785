"""Files of questions with passages: MRQA, substitution sets, NQ-Swap, Wikidata, MemoTrap.

Readers take ``.gz`` files as well as plain ones. Every error names the file, the line and the
field. Texts are kept as they are, blanks included, since places count their characters.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from km.datasets.answer_text import Spans, find_mentions
from km.datasets.conflict_set import QAAnswer, QAExample, QASet, WikidataEntity, as_examples
from km.datasets.files import MAX_FILE_BYTES, broken, parse_json, parse_jsonl, read_text
from km.errors import ArgumentError

PathLike: TypeAlias = "str | os.PathLike[str]"

# Where the question begins behind the event in MemoTrap's history of science.
_QUESTION = re.compile(r" (?:Before|Prior to) the aforementioned | What was ")
# Fields of answers and examples that every file carries itself.
_ANSWER_TEXTS = ("ner_label", "kb_id", "wikidata_label", "wikipedia_page", "answer_type")


@dataclass(frozen=True, slots=True)
class TwoClassItem:
    """A prompt with two continuations, of which one goes against what was memorised.

    Attributes
    ----------
    id, prompt : str
    classes : (str, str)
        Continuations as they follow the prompt, blanks included.
    wanted : int
        Index of the continuation that the prompt asks for.
    stem : str
        What items about the same thing have in common: the cluster for intervals, and what a split
        must not cut through.
    """

    id: str
    prompt: str
    classes: tuple[str, str]
    wanted: int
    stem: str


# ---- lines and fields ----


def _text(path: Path) -> str:
    if path.suffix != ".gz":
        return read_text(path)
    try:
        with gzip.open(path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise broken(path, "", f"not a whole gzip file: {error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise broken(path, "", f"more than {MAX_FILE_BYTES} bytes when unpacked")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise broken(path, f"byte {error.start}", "not UTF-8; save the file as UTF-8") from None


def json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each line that is not blank."""
    yield from parse_jsonl(path, _text(path))


def _headed(path: Path, name: str) -> tuple[dict[str, Any], Iterator[tuple[str, dict[str, Any]]]]:
    """The first line, which must have a field, and the others."""
    lines = json_objects(path)
    first = next(lines, None)
    if first is None:
        raise broken(path, "", "no line holds anything")
    if name not in first[1]:
        raise broken(path, first[0], f"field {name!r} is missing: expected the header of the file")
    return first[1], lines


def _string(path: Path, place: str, record: Mapping[str, Any], name: str) -> str:
    """A text as it is; may be empty."""
    value = record.get(name)
    if not isinstance(value, str):
        raise broken(path, place, f"field {name!r}: expected a text")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise broken(path, place, f"field {name!r}: lone surrogate; not a Unicode text")
    return value


def filled(path: Path, place: str, record: Mapping[str, Any], name: str) -> str:
    """A text as it is, which must hold something."""
    value = _string(path, place, record, name)
    if not value.strip():
        raise broken(path, place, f"field {name!r}: expected a text that is not empty")
    return value


def _strings(path: Path, place: str, record: Mapping[str, Any], name: str) -> list[str]:
    value = record.get(name)
    if not isinstance(value, list):
        raise broken(path, place, f"field {name!r}: expected a list of texts")
    return [_string(path, place, {name: item}, name) for item in value]


def _answers(path: Path, place: str, record: Mapping[str, Any], name: str) -> list[str]:
    """One text or several; at least one, none empty."""
    value = record.get(name)
    found = _strings(path, place, {name: [value]} if isinstance(value, str) else record, name)
    if not found or not all(text.strip() for text in found):
        raise broken(path, place, f"field {name!r}: expected at least one answer, none empty")
    return found


def _count(path: Path, place: str, record: Mapping[str, Any], name: str) -> int:
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise broken(path, place, f"field {name!r}: expected a count")
    return value


def _some(where: Path, examples: list[QAExample]) -> tuple[QAExample, ...]:
    if not examples:
        raise broken(where, "", "no examples found")
    return tuple(examples)


def _write(path: PathLike, records: Iterable[Mapping[str, Any]]) -> None:
    """Lines of JSON, packed when the name ends in .gz; with the same bytes each time."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    data = "".join(lines).encode()
    where = Path(path)
    where.write_bytes(gzip.compress(data, mtime=0) if where.suffix == ".gz" else data)


# ---- MRQA ----


def read_mrqa(path: PathLike) -> QASet:
    """Read a file of the MRQA shared task: one example a question.

    Parameters
    ----------
    path : path
        A first line with ``header``; then lines with ``context`` and ``qas``, each with ``qid``,
        ``question`` and ``answers``. What else they hold, ``detected_answers`` included, is not
        used.

    Returns
    -------
    QASet
        Answers without types: :meth:`QASet.typed` and :meth:`QAAnswer.linked` give them.

    Raises
    ------
    DataFileError
        The file breaks its layout; names the line and the field.
    OSError
        The file cannot be read.
    """
    where = Path(path)
    header, lines = _headed(where, "header")
    examples = []
    for place, record in lines:
        context = filled(where, place, record, "context")
        questions = record.get("qas")
        if not isinstance(questions, list):
            raise broken(where, place, "field 'qas': expected a list of questions")
        for index, question in enumerate(questions):
            at = f"{place}, qas {index}"
            if not isinstance(question, dict):
                raise broken(where, at, "expected an object with qid, question and answers")
            answers = _answers(where, at, question, "answers")
            examples.append(
                QAExample(
                    uid=filled(where, at, question, "qid"),
                    query=filled(where, at, question, "question"),
                    context=context,
                    answers=tuple(QAAnswer(text) for text in answers),
                )
            )
    about = header["header"] if isinstance(header["header"], dict) else {}
    name = str(about.get("dataset") or where.name.split(".")[0])
    return QASet(_some(where, examples), name, str(where))


def write_mrqa(path: PathLike, examples: QASet | Iterable[QAExample]) -> None:
    """Write examples as a file of the MRQA shared task, one line a passage.

    ``detected_answers`` holds the places of whole-word mentions; both ends of its ``char_spans``
    are inclusive, as the format wants. Token places are left out.

    Raises
    ------
    ArgumentError
        A uid is given twice.
    """
    listed = as_examples(examples)
    _check_uids(listed)
    passages: dict[str, list[dict[str, Any]]] = {}
    for example in listed:
        passages.setdefault(example.context, []).append(
            {
                "qid": example.uid,
                "question": example.query,
                "answers": list(example.texts),
                "detected_answers": [
                    {"text": text, "char_spans": [[a, b - 1] for a, b in spans]}
                    for text in example.texts
                    if (spans := find_mentions(example.context, [text]))
                ],
            }
        )
    name = examples.name if isinstance(examples, QASet) else ""
    lines = [{"context": context, "qas": qas} for context, qas in passages.items()]
    _write(path, [{"header": {"dataset": name}}, *lines])


def _check_uids(examples: Iterable[QAExample]) -> None:
    seen: set[str] = set()
    for example in examples:
        if example.uid in seen:
            raise ArgumentError(f"uid {example.uid!r} is given twice; make them unique first")
        seen.add(example.uid)


# ---- normalised files and substitution sets ----


def read_qa(path: PathLike) -> QASet:
    """Read normalised examples or a substitution set in the layout of Longpre et al.

    Parameters
    ----------
    path : path
        A first line with ``dataset``; then one example a line: ``uid``, ``query``, ``context``,
        ``gold_answers`` and, where they are there, ``metadata``, ``is_substitute`` and
        ``original_example`` (a uid or a whole example).

    Raises
    ------
    DataFileError
        The file breaks its layout; names the line and the field.
    OSError
        The file cannot be read.
    """
    where = Path(path)
    header, lines = _headed(where, "dataset")
    examples = [_example(where, place, record) for place, record in lines]
    return QASet(_some(where, examples), str(header["dataset"]), str(where))


def _example(path: Path, place: str, record: Mapping[str, Any]) -> QAExample:
    answers = record.get("gold_answers")
    if not isinstance(answers, list):
        raise broken(path, place, "field 'gold_answers': expected a list of answers")
    metadata = record.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise broken(path, place, "field 'metadata': expected an object")
    original = record.get("original_example")
    if isinstance(original, dict):
        original = _example(path, f"{place}, original_example", original)
    elif not (original is None or isinstance(original, str)):
        raise broken(path, place, "field 'original_example': expected a uid or an example")
    return QAExample(
        uid=filled(path, place, record, "uid"),
        query=filled(path, place, record, "query"),
        context=_string(path, place, record, "context"),
        answers=tuple(
            _answer(path, f"{place}, gold_answers {index}", answer)
            for index, answer in enumerate(answers)
        ),
        is_substitute=bool(record.get("is_substitute")),
        metadata=metadata,
        original=original,
    )


def _answer(path: Path, place: str, record: Any) -> QAAnswer:
    if not isinstance(record, dict):
        raise broken(path, place, "expected an object with text")
    given = {name: record[name] for name in _ANSWER_TEXTS if record.get(name) is not None}
    texts = {name: _string(path, place, given, name) for name in given}
    types = record.get("wikidata_types")
    popularity = record.get("popularity")
    return QAAnswer(
        text=filled(path, place, record, "text"),
        aliases=tuple(_strings(path, place, {"aliases": record.get("aliases") or []}, "aliases")),
        spans=_spans(path, place, record.get("spans")),
        wikidata_types=None
        if types is None
        else tuple(_strings(path, place, record, "wikidata_types")),
        popularity=None if popularity is None else _count(path, place, record, "popularity"),
        **texts,
    )


def _spans(path: Path, place: str, value: Any) -> Spans | None:
    if value is None:
        return None
    problem = broken(path, place, "field 'spans': expected pairs [start, end] of places")
    if not isinstance(value, list):
        raise problem
    for pair in value:
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(type(at) is int for at in pair) or not 0 <= pair[0] <= pair[1]:
            raise problem
    return tuple((start, end) for start, end in value)


def write_qa(
    path: PathLike, examples: QASet | Iterable[QAExample], *, whole_originals: bool = False
) -> None:
    """Write examples in the layout of Longpre et al., which :func:`read_qa` reads.

    Parameters
    ----------
    path : path
    examples : QASet or iterable of QAExample
    whole_originals : bool
        Keep the originals of substituted examples, not only their uids.
    """
    listed = as_examples(examples)
    name = examples.name if isinstance(examples, QASet) else Path(path).name.split(".")[0]
    source = examples.source if isinstance(examples, QASet) else ""
    header = {"dataset": name, "original_path": source}
    _write(path, [header, *(_example_record(example, whole_originals) for example in listed)])


def _example_record(example: QAExample, whole: bool) -> dict[str, Any]:
    original: Any = example.original
    if isinstance(original, QAExample):
        original = _example_record(original, whole) if whole else original.uid
    return {
        "uid": example.uid,
        "query": example.query,
        "context": example.context,
        "metadata": dict(example.metadata),
        "is_substitute": example.is_substitute,
        "gold_answers": [_answer_record(answer) for answer in example.answers],
        "original_example": original,
    }


def _answer_record(answer: QAAnswer) -> dict[str, Any]:
    names = ("text", "spans", "ner_label", "kb_id", "wikidata_label", "aliases", "wikidata_types")
    rest = ("wikipedia_page", "popularity", "answer_type")
    return {name: getattr(answer, name) for name in (*names, *rest)}


# ---- NQ-Swap ----


def read_nq_swap(path: PathLike) -> QASet:
    """Read a file in the layout of NQ-Swap: each question with two passages.

    Parameters
    ----------
    path : path
        One object a line: ``question``, ``org_context``, ``org_answer``, ``sub_context`` and
        ``sub_answer``; answers are a text or a list of texts. ``id`` if wanted.

    Returns
    -------
    QASet
        Substituted examples, each with its original.

    Raises
    ------
    DataFileError
        The file breaks its layout; names the line and the field.
    OSError
        The file cannot be read.
    """
    where = Path(path)
    examples = []
    for place, record in json_objects(where):
        uid = str(record.get("id") or f"{where.name.split('.')[0]}:{place.removeprefix('line ')}")
        query = filled(where, place, record, "question")
        texts = {
            name: _answers(where, place, record, name) for name in ("org_answer", "sub_answer")
        }
        original = QAExample(
            uid,
            query,
            filled(where, place, record, "org_context"),
            tuple(QAAnswer(text) for text in texts["org_answer"]),
        )
        examples.append(
            QAExample(
                f"swap_{uid}",
                query,
                filled(where, place, record, "sub_context"),
                tuple(QAAnswer(text) for text in texts["sub_answer"]),
                True,
                original=original,
            )
        )
    return QASet(_some(where, examples), where.name.split(".")[0], str(where))


def write_nq_swap(path: PathLike, examples: QASet | Iterable[QAExample]) -> None:
    """Write substituted examples in the layout of NQ-Swap.

    Raises
    ------
    ArgumentError
        An example has no whole original.
    """
    records = []
    for example in as_examples(examples):
        original = example.original
        if not isinstance(original, QAExample):
            raise ArgumentError(
                f"{example.uid} has no whole original, which NQ-Swap's layout needs"
            )
        records.append(
            {
                "id": original.uid,
                "question": example.query,
                "org_context": original.context,
                "org_answer": list(original.texts),
                "sub_context": example.context,
                "sub_answer": list(example.texts),
            }
        )
    _write(path, records)


# ---- Wikidata ----


def read_wikidata_entities(path: PathLike) -> dict[str, WikidataEntity]:
    """Read a file of entities: JSON of id to label, aliases, types, page and popularity.

    Parameters
    ----------
    path : path
        ``{"Q1": {"label", "aliases", "entity_types", "wikipedia_page", "popularity"}}``.

    Returns
    -------
    dict of str to WikidataEntity
        In the file's order.

    Raises
    ------
    DataFileError
        The file breaks its layout; names the entry and the field.
    OSError
        The file cannot be read.
    """
    where = Path(path)
    data = parse_json(where, _text(where))
    if not isinstance(data, dict):
        raise broken(where, "", "expected an object from ids to entities")
    entities = {}
    for id, record in data.items():
        place = f"entry {id!r}"
        if not isinstance(record, dict):
            raise broken(where, place, "expected an object")
        page = record.get("wikipedia_page")
        entities[id] = WikidataEntity(
            id,
            filled(where, place, record, "label"),
            tuple(_strings(where, place, record, "aliases")),
            tuple(_strings(where, place, record, "entity_types")),
            None if page is None else _string(where, place, record, "wikipedia_page"),
            _count(where, place, record, "popularity"),
        )
    return entities


# ---- MemoTrap ----


def read_memotrap(path: PathLike) -> list[TwoClassItem]:
    """Read a file of MemoTrap: JSONL, or the authors' CSV.

    Parameters
    ----------
    path : path
        ``prompt``, ``classes`` (two texts; in CSV a list as Python writes it) and ``answer_index``;
        ``id`` if wanted.

    Raises
    ------
    DataFileError
        The file breaks its layout; names the line and the field.
    OSError
        The file cannot be read.
    """
    where = Path(path)
    rows = _csv_objects(where) if where.suffix == ".csv" else json_objects(where)
    items = []
    for place, record in rows:
        classes = _strings(where, place, record, "classes")
        if len(classes) != 2 or not all(classes):
            raise broken(where, place, "field 'classes': expected two texts, none empty")
        wanted = record.get("answer_index")
        if type(wanted) is not int or wanted not in (0, 1):
            raise broken(where, place, "field 'answer_index': expected 0 or 1")
        prompt = filled(where, place, record, "prompt")
        id = str(record.get("id") or f"{where.stem}:{place.removeprefix('line ')}")
        items.append(
            TwoClassItem(id, prompt, (classes[0], classes[1]), wanted, prompt_stem(prompt))
        )
    if not items:
        raise broken(where, "", "no items found")
    return items


def _csv_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    try:
        for row in reader:
            place = f"line {reader.line_num}"
            record: dict[str, Any] = dict(row)
            try:
                record["classes"] = ast.literal_eval(row.get("classes") or "")
                record["answer_index"] = int(row.get("answer_index") or "")
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                problem = "fields 'classes' and 'answer_index': expected a list and a number"
                raise broken(path, place, problem) from None
            yield place, record
    except csv.Error as error:
        raise broken(path, f"line {reader.line_num}", f"not valid CSV: {error}") from None


def prompt_stem(prompt: str) -> str:
    """The proverb or event a prompt of MemoTrap is about.

    Examples
    --------
    >>> prompt_stem('Write a quote that ends in the word "down": He who does not advance goes')
    'He who does not advance goes'
    """
    if "\nto:\n" in prompt:
        return prompt.split("\nto:\n", 1)[1].strip()
    line = prompt.split("\n", 1)[0]
    for mark in ('": ', "event: "):
        line = line.split(mark, 1)[-1]
    return _QUESTION.split(line, maxsplit=1)[0].strip()
