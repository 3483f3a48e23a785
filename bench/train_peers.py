"""One side of bench/train.py: km, PyTorch, or the products alone.

Reads one JSON object from standard input: {"peer", "model", "threads", "steps", "batches", "small",
"tokenizer", "shapes", "n_tokens"}; for every line "run" it takes the steps and prints one JSON line
with "seconds" a step, the "losses" of the steps and the process's "peak" of memory in bytes.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from common import serve

Step = Callable[[list[list[int]]], float]


def km_step(job: dict[str, Any]) -> Step:
    """A step of km's AdamW."""
    import km

    if job["small"] is None:
        model = km.load(job["model"], threads=job["threads"])
    else:
        tokenizer = km.load(job["tokenizer"], threads=job["threads"])
        model = km.Model.new(job["small"], tokenizer, seed=1)
    trainer = km.Trainer(model.trainable(), km.AdamW(lr=1e-4))
    return lambda batch: float(trainer.step(batch).loss)


def torch_model(job: dict[str, Any], attention: str) -> Any:
    """transformers' model in float32: of the file, or fresh."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(job["threads"])
    if job["small"] is None:
        path = pathlib.Path(job["model"])
        return AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation=attention
        )
    small = job["small"]
    config = LlamaConfig(
        hidden_size=small["d_model"],
        intermediate_size=small["d_ffn"],
        num_hidden_layers=small["n_layers"],
        num_attention_heads=small["n_heads"],
        num_key_value_heads=small["n_kv_heads"],
        vocab_size=small["vocab_size"],
        max_position_embeddings=small["context_length"],
        tie_word_embeddings=True,
    )
    config._attn_implementation = attention
    return LlamaForCausalLM(config)


def torch_step(job: dict[str, Any], attention: str) -> Step:
    """A step of PyTorch's AdamW."""
    import torch

    model = torch_model(job, attention).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

    def step(batch: list[list[int]]) -> float:
        ids = torch.tensor(batch)
        optimizer.zero_grad(set_to_none=False)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


def sgemm_step(job: dict[str, Any]) -> Step:
    """The products of every matrix; those of the unembedding for 256 rows at a time."""
    import numpy as np

    m = job["n_tokens"]
    cases = []
    for n, k, times in job["shapes"]:
        rows = 256 if times == 1 else m
        arrays = [np.ones(shape, np.float32) for shape in ((rows, k), (n, k), (rows, n))]
        cases.append((*arrays, times * m // rows))

    def step(_batch: list[list[int]]) -> float:
        for x, w, y, times in cases:
            for _ in range(times):
                np.matmul(x, w.T, out=y)
                np.matmul(y, w, out=x)
                np.matmul(y.T, x, out=w)
            for array in (x, w, y):
                array.fill(1.0)  # so that nothing grows without end
        return 0.0

    return step


def main() -> int:
    """Serve runs."""
    job = json.loads(sys.stdin.readline())
    peer = job["peer"]
    makers: dict[str, Callable[[], Step]] = {
        "km": lambda: km_step(job),
        "sgemm": lambda: sgemm_step(job),
        "transformers sdpa": lambda: torch_step(job, "sdpa"),
        "transformers eager": lambda: torch_step(job, "eager"),
    }
    step = makers[peer]()
    batches: Iterator[Any] = itertools.cycle(job["batches"])
    first = [step(next(batches))]  # memory is there from now on

    def run() -> dict[str, Any]:
        begin = time.perf_counter()
        losses = [step(next(batches)) for _ in range(job["steps"])]
        seconds = (time.perf_counter() - begin) / job["steps"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        shown = [] if peer == "sgemm" else first + losses
        return {"seconds": seconds, "losses": shown, "peak": peak}

    serve(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
