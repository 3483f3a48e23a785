"""The tiny models of every architecture and what transformers says of them.

Made by tests/oracle/make_arch.py, which says what is in the golden files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1] / "golden_data" / "arch"
NAMES = sorted(path.name for path in ROOT.iterdir() if path.is_dir())
FORMS = ("folder", "gguf")


def model_path(name: str, form: str) -> Path:
    """The Hugging Face folder or the GGUF file of a model."""
    return ROOT / name if form == "folder" else ROOT / f"{name}.gguf"


def read_safetensors(path: Path) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Every tensor of a float32 safetensors file."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(raw[begin:end], dtype="<f4").reshape(entry["shape"])
    return tensors


def read_golden(name: str) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Prompts, log-probabilities, activations and gradients of a model."""
    return read_safetensors(ROOT / f"{name}.golden.safetensors")


def prompts(
    golden: dict[str, np.ndarray[Any, Any]],
) -> list[tuple[list[int], np.ndarray[Any, Any]]]:
    """Token ids and log-probabilities (tokens, vocabulary) of each prompt."""
    n = sum(key.endswith(".logprobs") for key in golden)
    return [
        (golden[f"prompt{i}.ids"].astype(int).tolist(), golden[f"prompt{i}.logprobs"])
        for i in range(n)
    ]
