"""Training: against PyTorch, against itself, with adapters, stopped, killed and without room."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km
from km.tensor_file import read_tensors

DATA = Path(__file__).resolve().parent.parent / "golden_data"
TEXTS = ["The quick brown fox jumps.", "Paris is a city in France.", "One two three four five."]


@pytest.fixture(scope="module")
def tiny() -> km.Model:
    return km.load(DATA / "tiny_llama")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray[Any, Any]]:
    return read_tensors(DATA / "training_steps.safetensors")[0]


# ---- against PyTorch ----

LENGTHS = (17, 9, 23)  # of the sequences of each batch
ADAMW = km.AdamW(lr=2e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_adamw": (
        "tiny_llama",
        {"optimizer": ADAMW, "schedule": km.schedules.Cosine(2, 0.1), "steps": 10, "clip": 1.0},
    ),
    "gemma3_adamw": ("tiny_gemma3", {"optimizer": ADAMW}),
    "llama_sgd": (
        "tiny_llama",
        {"optimizer": km.SGD(lr=5e-2, momentum=0.9, weight_decay=0.1), "clip": 0.5},
    ),
    "llama_lora": (
        "tiny_llama",
        {"optimizer": ADAMW, "lora": km.LoRA(3, 6.0, ("attn_q", "attn_v", "ffn_down"))},
    ),
}


def batches(golden: dict[str, np.ndarray[Any, Any]], case: str) -> list[list[km.Example]]:
    """The batches of a case as examples of token ids."""
    ends = np.cumsum(LENGTHS)
    weights = np.split(golden[f"{case}/weights"], ends[:-1])
    return [
        [km.Example(ids, targets=list(w)) for ids, w in zip(np.split(row, ends[:-1]), weights)]
        for row in golden[f"{case}/ids"]
    ]


def take_lora(trainer: km.Trainer, golden: dict[str, np.ndarray[Any, Any]], case: str) -> None:
    """Give the adapters the first values that PyTorch had."""
    for name, values in golden.items():
        if name.startswith(f"{case}/start/"):
            layer, _, module = name.split("/")[2].split(".")[2:5]
            trainer.adapters()[f"blk.{layer}.{KM_NAMES[module]}.weight"][0][...] = values
    trainer.merged()


KM_NAMES = {"q_proj": "attn_q", "v_proj": "attn_v", "down_proj": "ffn_down"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_tokens", [None, 20])
def test_ten_steps_as_pytorch(
    golden: dict[str, np.ndarray[Any, Any]], case: str, batch_tokens: int | None
) -> None:
    folder, options = CASES[case]
    trainable = km.load(DATA / folder).trainable()
    trainer = km.Trainer(trainable, **options)
    if "lora" in options:
        take_lora(trainer, golden, case)
    steps = [trainer.step(batch, batch_tokens) for batch in batches(golden, case)]
    np.testing.assert_allclose([s.loss for s in steps], golden[f"{case}/losses"], rtol=1e-4)
    np.testing.assert_allclose([s.grad_norm for s in steps], golden[f"{case}/norms"], rtol=1e-4)
    compared = 0
    frozen = trainable.frozen()
    for name, values in golden.items():
        if name.startswith(f"{case}/model.") or name.startswith(f"{case}/lm_head."):
            key = name.split("/")[1]
            if "lora" in key:
                layer, _, module, kind = key.split(".")[2:6]
                pair = trainer.adapters()[f"blk.{layer}.{KM_NAMES[module]}.weight"]
                got = pair[0 if kind == "lora_A" else 1]
            else:
                got = frozen.weight(key)
            np.testing.assert_allclose(got, values, rtol=0, atol=2e-5, err_msg=key)
            compared += 1
    assert compared == (18 if "lora" in options else len(frozen.weights()))
