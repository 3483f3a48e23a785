"""Causal tracing against what the authors' code gives on the same tiny GPT-2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km

HERE = Path(__file__).parent
MODEL = HERE.parent / "golden_data" / "tiny_gpt2_trace"
TOLERANCE = 1e-5  # the golden's own: float32

(CASE,) = json.loads(
    (HERE / "data" / "memorization" / "causal_trace_gpt2.json").read_text(encoding="utf-8")
)["cases"]


@pytest.fixture(scope="module")
def tiny() -> km.Model:
    return km.load(MODEL)


def tensor(name: str) -> Any:
    """A float32 tensor of the model file, read without km."""
    data = (MODEL / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return np.frombuffer(data[8 + length + begin : 8 + length + end], dtype=np.float32)


def trace(tiny: km.Model, **options: Any) -> km.CausalTrace:
    inputs, params = CASE["inputs"], CASE["params"]
    (noise,) = (value for key, value in inputs.items() if key.startswith("standard_normal"))
    fact = {
        "prompt": inputs["input_ids"],
        "subject": inputs["subject_range"],
        "answer": params["answer_id"],
    }
    given: dict[str, Any] = {
        "kinds": ("state", "mlp"),
        "window": params["window_for_mlp"],
        "samples": params["samples"],
        "noise": params["noise_scale"],
        "noise_values": [noise],
    }
    return km.causal_trace(tiny, [fact], **{**given, **options})


def test_scores(tiny: km.Model) -> None:
    result = trace(tiny)
    assert (result.n, result.n_skipped) == (1, 0)
    for kind, expected in CASE["expected"]["rows_are_tokens_cols_are_layers"].items():
        grid = result.grid(0, kind)
        assert grid["low"] == pytest.approx(expected["low"], abs=TOLERANCE)
        assert grid["high"] == pytest.approx(expected["high"], abs=TOLERANCE)
        np.testing.assert_allclose(grid["scores"], expected["scores"], rtol=0, atol=TOLERANCE)


def test_batches_change_no_bit(tiny: km.Model) -> None:
    whole = trace(tiny).table["p_restored"]
    assert trace(tiny, batch_tokens=1).table["p_restored"] == whole
    assert trace(tiny, batch_tokens=37).table["p_restored"] == whole


def test_cells_without_effect_are_what_a_run_gives(tiny: km.Model) -> None:
    """Cells that are filled in without a run: restore all tokens, the model decides."""
    from km.causal_tracing import POINTS
    from km.variants import ADD, SET, Change, Sweep, read_run

    inputs, params = CASE["inputs"], CASE["params"]
    (noise,) = (value for key, value in inputs.items() if key.startswith("standard_normal"))
    draws = (params["noise_scale"] * np.array(noise)).astype(np.float32)
    ids, (begin, end) = inputs["input_ids"], inputs["subject_range"]
    reads = [(POINTS["state"], layer) for layer in range(3)]
    clean, _ = read_run(tiny, ids, reads)
    values = np.concatenate([draws.reshape(-1), *(clean[read].reshape(-1) for read in reads)])
    base = [Change(begin + i, ADD, "embed", 0, i * 12) for i in range(end - begin)]
    skipped = [(t, layer) for layer in range(3) for t in range(5) if t < begin or layer == 2]
    variants = [
        [Change(t, SET, "resid_post", layer, draws.size + (layer * 6 + t) * 12)]
        for t, layer in skipped
    ]
    sweep = Sweep(tiny, ids, base, values, [(5, params["answer_id"])], 4096)
    corrupted, restored = sweep.run(variants)
    assert len(skipped) == 11 and (restored == corrupted).all()


def test_wrong_predictions_are_skipped_and_counted(tiny: km.Model) -> None:
    inputs = CASE["inputs"]
    fact = {"prompt": inputs["input_ids"], "subject": inputs["subject_range"], "answer": 7}
    result = km.causal_trace(tiny, [fact], window=2, samples=1)
    assert (result.n, result.n_skipped) == (0, 1)
    (row,) = result.table.rows()
    assert row["correct"] is False and row["kind"] is None and row["p_restored"] is None
    assert any("1 of 1 facts were skipped" in note for note in result.notes)
    assert len(result.effects) == 0 and result.evidence == []


def test_default_noise(tiny: km.Model) -> None:
    """numpy's RandomState(1), three standard deviations of the subjects' embeddings."""
    inputs = CASE["inputs"]
    fact = {"prompt": inputs["input_ids"], "subject": inputs["subject_range"]}
    own = km.causal_trace(tiny, [fact], window=2, kinds=("state",))
    embeddings = tensor("transformer.wte.weight").reshape(-1, 12)[inputs["input_ids"][3:5]]
    scale = 3 * embeddings.std(ddof=1, dtype=np.float64)
    assert own.parameters["noise"] == pytest.approx(scale, rel=1e-6)
    given = km.causal_trace(
        tiny,
        [fact],
        window=2,
        kinds=("state",),
        noise=own.parameters["noise"],
        noise_values=[np.random.RandomState(1).randn(10, 2, 12)],
    )
    assert own.table["p_restored"] == given.table["p_restored"]


def test_resumes_from_a_knowledge_base(tiny: km.Model, tmp_path: Path) -> None:
    inputs = CASE["inputs"]
    facts = [
        {"prompt": inputs["input_ids"], "subject": span, "fact": f"fact {i}"}
        for i, span in enumerate([(1, 2), (3, 5), (2, 4)])
    ]

    def stop(done: int, total: int, info: dict[str, Any]) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with km.KnowledgeBase(tmp_path / "kb.db") as kb:
        with pytest.raises(KeyboardInterrupt):
            km.causal_trace(tiny, facts, window=2, kb=kb, progress=stop)
        stored = kb.sql("SELECT count(*) AS n FROM chunks")["n"][0]
        assert stored == 2 and kb.runs()["status"] == ["cancelled"]
        result = km.causal_trace(tiny, facts, window=2, kb=kb)
        assert kb.sql("SELECT count(*) AS n FROM chunks")["n"][0] == 3
        again = km.CausalTrace.from_knowledge_base(kb, result.run or 0)
        assert again.table["p_restored"] == result.table["p_restored"]
        assert again.effects["aie"] == result.effects["aie"]
        nodes = kb.sql("SELECT DISTINCT node FROM evidence")["node"]
        assert nodes == ["causal-tracing"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("stat",)}, "kinds are"),
        ({"window": 3}, "window is 3; it must be even"),
        ({"layers": [3]}, "layers must lie"),
        ({"noise": 0.0}, "positive"),
        ({"noise_values": [np.zeros((4, 1, 12))]}, "noise of shape"),
    ],
)
def test_refusals(tiny: km.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(km.ArgumentError, match=message):
        trace(tiny, **options)
