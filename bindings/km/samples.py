"""Per-sample lines as lm-evaluation-harness writes them with ``--log_samples``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km.errors import ArgumentError

if TYPE_CHECKING:
    from km.recall import Recall

METRICS = ("acc", "exact_match", "greedy", "logp", "rank")
_UNSAFE = re.compile(r'["<>:/|\\?*\[\]\x00-\x1f]+')


def write_samples(recall: Recall, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the rows of a recall as files ``MODEL/samples_RELATION_TIME.jsonl``.

    One file a relation, which stands for the harness's task, and one line a fact and prompt: a
    request of kind loglikelihood with the prompt and the accepted answer that scored best. In its
    response, "True" says that greedy decoding gives an accepted answer. The metrics are km's: acc
    (the answer ranks first among the candidates), exact_match, greedy, logp (nats) and rank; one
    that was not measured is null.

    Parameters
    ----------
    recall : Recall
    folder : path-like
        Made where it is not there; as the harness's ``--output_path``.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ArgumentError
        A file is already there.
    """
    model = str((recall.provenance.get("model") or {}).get("name") or "model")
    target = Path(folder) / _file_name(model)
    time = _time(recall.provenance.get("time"))
    texts: dict[Path, list[str]] = {}
    for relation, sample in samples(recall):
        path = target / f"samples_{_file_name(relation)}_{time}.jsonl"
        texts.setdefault(path, []).append(json.dumps(sample, ensure_ascii=False) + "\n")
    for path in texts:
        if path.exists():
            raise ArgumentError(f"{path} is already there")
    target.mkdir(parents=True, exist_ok=True)
    for path, lines in texts.items():
        path.write_text("".join(lines), encoding="utf-8")
    return list(texts)


def samples(recall: Recall) -> Iterator[tuple[str, dict[str, Any]]]:
    """Relation and line of each row; lines are numbered within their relation."""
    next_id: dict[str, int] = {}
    for row in recall.table.rows():
        relation = str(row["relation"])
        number = next_id.setdefault(relation, 0)
        next_id[relation] += 1
        yield relation, _sample(number, row)


def _sample(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("relation", "fact", "subject", "answer", "template", "template_text", "prompt")
    doc = {name: row[name] for name in names}
    answer = str(row["scored_answer"] or row["answer"])
    target = str(row["answer"])
    response = [str(row["logp"]), str(bool(row["exact_greedy"]))]
    metrics = {
        "acc": None if row["correct"] is None else int(row["correct"]),
        "exact_match": None if row["exact"] is None else int(row["exact"]),
        "greedy": int(bool(row["exact_greedy"])),
        "logp": row["logp"] if math.isfinite(row["logp"]) else None,
        "rank": row["rank"],
    }
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": row["prompt"], "arg_1": f" {answer}"}},
        "resps": [[response]],
        "filtered_resps": [response],
        "filter": "none",
        "metrics": list(METRICS),
        "doc_hash": digest(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": digest(str(row["prompt"])),
        "target_hash": digest(target),
        **metrics,
    }


def digest(text: str) -> str:
    """SHA-256 (hex) of a text, as the harness hashes documents, prompts and targets."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _file_name(name: str) -> str:
    """A name as the harness makes it safe, which never leaves the folder."""
    safe = _UNSAFE.sub("__", name)
    return f"_{safe}" if safe.startswith(".") else safe


def _time(given: object) -> str:
    """Time of the measurement as it stands in file names."""
    known = given if isinstance(given, str) else datetime.now(UTC).isoformat()
    plain = datetime.fromisoformat(known).replace(tzinfo=None)
    return plain.isoformat(timespec="microseconds").replace(":", "-")
