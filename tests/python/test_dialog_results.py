"""The page of results: means, spreads and tests are those of what the cache holds."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "grounded-dialog"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="not in a source tree")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("results"), importlib.import_module("results_page")
    for name in ("results", "results_page"):
        sys.modules.pop(name, None)


def run_of(correct: list[float]) -> dict[str, Any]:
    """Dialogues of two turns each, the same on own and gold history."""
    n = len(correct)
    rows = {
        "history": ["own"] * n + ["gold"] * n,
        "dialogue": [f"d{i // 2}" for i in range(n)] * 2,
        "split": ["test_seen"] * 2 * n,
        "turn": [1 + i % 2 for i in range(n)] * 2,
        "gold": [1] * 2 * n,
        "correct": correct * 2,
        "accepted": correct * 2,
    }
    return {"rows": rows}


def put(cache: Path, selector: str, seed: int, runs: dict[str, Any]) -> None:
    job = {"data": "kdconv", "selector": selector, "params": {}, "seed": seed}
    name = f"kdconv-{selector}" + (f"-seed{seed}" if seed else "")
    (cache / f"{name}.json").write_text(json.dumps({"key": "", "job": job, "runs": runs}))


NAMES = ["kdconv-bm25-unused", "kdconv-same", *(f"kdconv-disentangled-seed{i}" for i in (1, 2, 3))]


def test_the_page_has_means_spreads_and_tests(
    tmp_path: Path, scripts: tuple[ModuleType, ModuleType]
) -> None:
    _, page = scripts
    put(tmp_path, "bm25-unused", 0, {"": run_of([0, 1, 0, 0] * 5)})
    for seed, first in ((1, 1), (2, 0)):
        put(tmp_path, "disentangled", seed, {"short": run_of([first, 1, 1, 1] * 5)})
    said = page.write_page(tmp_path, tmp_path / "RESULTS.md", NAMES)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "3 jobs of 1 data sets, 2 not finished" in said
    assert "- KdConv: same as last; DiffKS, disentangled (3)." in text
    assert "| DiffKS, disentangled | 12 epochs | own | 25.7 | 87.5 ± 17.7 | 2 |" in text
    assert "Not finished" not in text and "| BM25 | – | own | 23.6 |" not in text
    # 100 and 75 %: mean 87.5, standard deviation 17.7; turn 1: 100 and 50.
    assert "| DiffKS, disentangled | 2 | 87.5 ± 17.7 | 75.0 ± 35.4 | 100.0 ± 0.0 |" in text
    assert "| BM25, used ones excluded | – | 25.0 | 0.0 | 50.0 | 25.0 | 50.0 | 25.0 |" in text
    assert "| DiffKS, disentangled – BM25, used ones excluded | +62.5 |" in text
    assert text.count("BM25, used ones excluded | –") == 1


@pytest.mark.parametrize("selector", ["disentangled", "postks"])
def test_what_was_stopped_in_the_long_training_keeps_the_short_one(
    tmp_path: Path,
    scripts: tuple[ModuleType, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    selector: str,
) -> None:
    results, _ = scripts
    sizes = {"embedding": 4, "hidden": 4, "decoder": 4, "dropout": 0.0, "learning_rate": 1e-2}
    monkeypatch.setattr(results, "SIZES", {**sizes, "batch_size": 8})
    monkeypatch.setattr(results, "SHORT", 1)
    monkeypatch.setattr(results, "LONG", 3)
    whole = results.load_data("kdconv", None)
    few = {
        one.id
        for split in ("train", "valid", "test_seen")
        for one in [d for d in whole if d.split == split][:8]
    }
    data = whole.where(lambda one: one.id in few)
    params = {"supervision": 1.0} if selector == "postks" else {"variant": "disentangled"}
    job = results.Job("kdconv", selector, params, seed=1)
    first = results.trained_runs(job, data, tmp_path)
    again = results.trained_runs(job, data, tmp_path)  # finds the checkpoints of three epochs
    for found in (first, again):
        assert len(found["short"]["curve"]) == 1 and len(found["long"]["curve"]) == 3
    assert first["short"]["rows"] == again["short"]["rows"]
    assert first["long"]["rows"] == again["long"]["rows"]


def test_a_job_is_done_once(tmp_path: Path, scripts: tuple[ModuleType, ModuleType]) -> None:
    results, _ = scripts
    job = results.Job("kdconv", "bm25")
    assert "there already" not in results.run_job(job, tmp_path, None)
    assert "there already" in results.run_job(job, tmp_path, None)
    found = json.loads((tmp_path / "kdconv-bm25.json").read_text())["runs"][""]["rows"]
    own = [
        credit
        for credit, mode, gold in zip(
            found["correct"], found["history"], found["gold"], strict=True
        )
        if mode == "own" and gold
    ]
    assert sum(own) / len(own) == pytest.approx(0.236, abs=5e-4)  # as an independent program says
    with pytest.raises(SystemExit, match="--flodial"):
        results.run_job(results.Job("flodial", "bm25"), tmp_path, None)
