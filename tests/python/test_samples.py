"""Samples as lm-evaluation-harness writes them, held to lines that it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import km
from km.errors import ArgumentError
from km.samples import METRICS, digest

DATA = Path(__file__).parents[1] / "golden_data"
GOLDEN = [json.loads(line) for line in (DATA / "lm_eval_samples.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def recall() -> km.Recall:
    model = km.load(DATA / "tiny_llama", threads=1)
    names = ["country_capital_city", "person_mother"]
    facts = km.datasets.facts(names).select(per_relation=3)
    return km.memorization(model, facts, templates=[0, 1], baselines=False)


def shape(value: Any) -> Any:
    """Types of what is in a value, with the names of an object's members."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


def test_lines_have_the_form_of_the_harness(recall: km.Recall, tmp_path: Path) -> None:
    paths = recall.write_samples(tmp_path)
    time = recall.provenance["time"].split("+")[0].replace(":", "-") + "000"
    assert [path.name for path in paths] == [
        f"samples_country_capital_city_{time}.jsonl", f"samples_person_mother_{time}.jsonl",
    ]  # fmt: skip
    assert {path.parent for path in paths} == {tmp_path / "tiny_llama"}
    rows = iter(recall.table.rows())
    for path in paths:
        samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [sample["doc_id"] for sample in samples] == list(range(6))
        for sample, row in zip(samples, rows, strict=False):
            check(sample, row)


def check(sample: dict[str, Any], row: dict[str, Any]) -> None:
    golden = GOLDEN[0]
    own = list(golden)[: list(golden).index("acc")]
    assert list(sample) == [*own, *METRICS]
    for name in own:
        if name not in ("doc", "metrics"):
            assert shape(sample[name]) == shape(golden[name]), name
    assert sample["metrics"] == list(METRICS)
    assert sample["arguments"]["gen_args_0"] == {
        "arg_0": row["prompt"],
        "arg_1": f" {row['scored_answer']}",
    }
    logp, greedy = sample["resps"][0][0]
    assert float(logp) == row["logp"] == sample["logp"]
    assert greedy == str(row["exact_greedy"])
    assert sample["acc"] == row["correct"] and sample["rank"] == row["rank"]


def test_hashes_are_those_of_the_harness() -> None:
    for golden in GOLDEN:
        doc = json.dumps(golden["doc"], indent=2, ensure_ascii=False)
        assert digest(doc) == golden["doc_hash"]
        assert digest(golden["arguments"]["gen_args_0"]["arg_0"]) == golden["prompt_hash"]
        assert digest(golden["target"]) == golden["target_hash"]


def test_nothing_is_overwritten_and_names_stay_in_the_folder(
    recall: km.Recall, tmp_path: Path
) -> None:
    recall.provenance["model"] = {**recall.provenance["model"], "name": "../org/mo:del"}
    (first, _) = recall.write_samples(tmp_path)
    assert first.parent == tmp_path / "_..__org__mo__del"
    kept = first.read_bytes()
    with pytest.raises(ArgumentError, match="already there"):
        recall.write_samples(tmp_path)
    assert first.read_bytes() == kept
