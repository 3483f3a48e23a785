#!/usr/bin/env python3
"""Measure km against transformers on the tiny model of every architecture.

usage: parity_table.py [PAGE]

Prints the table of docs/architectures.md; with PAGE it is written into that file between its two
marks. Needs km installed and the goldens under tests/golden_data/arch.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))

from arch_models import FORMS, NAMES, model_path, prompts

import km

FEATURES = {
    "gemma2": "soft caps, alternating windows, post norms, grouped heads",
    "gemma3": "local and global rope bases, linear scaling, windows, q/k norm",
    "gpt2": "learned positions, LayerNorm, fused and transposed matrices, tanh GELU, tied",
    "llama3": "Llama 3 rope scaling, grouped heads, own head width, untied",
    "llama_bias": "linear rope scaling, attention and MLP biases, tied",
    "mistral": "sliding window in every layer, own head width",
    "neox_sequential": "sequential residual, half of a head rotated, exact GELU",
    "pythia": "parallel residual, a quarter of a head rotated, exact GELU, LayerNorm, untied",
    "qwen2": "q, k, v biases, tied",
    "qwen2_window": "q, k, v biases, windows from the second layer on",
    "qwen3": "q/k norm, own head width, tied",
}
MARKS = ("<!-- table -->", "<!-- end of table -->")


def errors(name: str) -> tuple[float, float]:
    """Largest and mean absolute difference in nats, all tokens, all positions, both forms."""
    found = []
    for form in FORMS:
        model = km.load(model_path(name, form))
        for ids, expected in prompts(name):
            got = [np.asarray(model.next_logprobs(ids[: t + 1])) for t in range(len(ids))]
            found.append(np.abs(np.array(got, dtype=np.float64) - expected).ravel())
    every = np.concatenate(found)
    return float(every.max()), float(every.mean())


def table() -> str:
    """One row a model."""
    lines = [
        "| model | architecture | what it exercises | largest error (nats) | mean error |",
        "|---|---|---|---|---|",
    ]
    for name in NAMES:
        arch = km.load(model_path(name, "folder")).config["arch"]
        largest, mean = errors(name)
        lines.append(f"| `{name}` | {arch} | {FEATURES[name]} | {largest:.1e} | {mean:.1e} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or write it into the page."""
    text = table()
    if len(sys.argv) < 2:
        print(text)
        return
    page = Path(sys.argv[1])
    start, end = MARKS
    old = page.read_text(encoding="utf-8")
    between = re.compile(re.escape(start) + ".*" + re.escape(end), re.S)
    page.write_text(between.sub(f"{start}\n{text}\n{end}", old), encoding="utf-8")


if __name__ == "__main__":
    main()
