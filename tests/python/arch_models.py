"""The tiny models of every architecture and what transformers says of them (tests/oracle)."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

import km

ARCH = Path(__file__).parents[1] / "golden_data" / "arch"
FORMS = ("folder", "gguf")
NAMES = sorted(path.name for path in ARCH.iterdir() if path.is_dir())
# Points that are the stream as one reader sees it: they exist to be changed or differentiated.
INPUTS = frozenset({"q_input", "k_input", "v_input", "mlp_input"})

Floats = np.ndarray[Any, np.dtype[np.float32]]


@functools.lru_cache(maxsize=4)
def load(name: str, threads: int = 2) -> km.Model:
    """A tiny model: "gpt2" from its folder, "gpt2.gguf" from its file."""
    return km.load(ARCH / name, threads=threads)


def read_safetensors(path: Path) -> dict[str, Floats]:
    """All tensors of a file, BF16 widened."""
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    header: dict[str, Any] = json.loads(raw[8 : 8 + n])
    header.pop("__metadata__", None)
    tensors: dict[str, Floats] = {}
    for name, entry in header.items():
        begin, end = (8 + n + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            wide = np.frombuffer(raw[begin:end], np.uint16).astype(np.uint32) << 16
            values = wide.view(np.float32)
        else:
            assert entry["dtype"] == "F32"
            values = np.frombuffer(raw[begin:end], np.float32)
        tensors[name] = values.reshape(entry["shape"])
    return tensors


@functools.lru_cache(maxsize=2)
def golden(name: str) -> dict[str, Floats]:
    """transformers' answers for one architecture."""
    return read_safetensors(ARCH / f"{name}.golden.safetensors")


def model_path(name: str, form: str) -> Path:
    """The Hugging Face folder ("folder") or the GGUF file ("gguf") of a model."""
    return ARCH / name if form == "folder" else ARCH / f"{name}.gguf"


def prompts(name: str) -> list[tuple[list[int], Floats]]:
    """Token ids and log-probabilities (tokens, vocabulary) of each prompt."""
    tensors = golden(name)
    n = sum(key.endswith(".logprobs") for key in tensors)
    return [
        (tensors[f"prompt{i}.ids"].astype(int).tolist(), tensors[f"prompt{i}.logprobs"])
        for i in range(n)
    ]


def golden_ids(name: str) -> list[int]:
    """The prompt whose activations are known."""
    return [int(id) for id in golden(name)["trace.ids"]]


def golden_array(name: str, kind: str, point: str) -> Floats:
    """Activations ("trace") or derivatives ("grad"), shaped as a trace of one text has them."""
    values = golden(name)[f"{kind}.{point}"]
    with_heads = point in WITH_HEADS
    return values if with_heads else values[..., 0, :]


WITH_HEADS = frozenset(
    {"q", "k", "v", "attn_scores", "attn_pattern", "attn_head_out", "q_input", "k_input", "v_input"}
)


def points_of(name: str) -> list[str]:
    """Points transformers' hooks saw."""
    found = [key.removeprefix("trace.") for key in golden(name) if key.startswith("trace.")]
    return sorted(point for point in found if point != "ids")
