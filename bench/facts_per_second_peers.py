"""Score candidate answers with one peer library, in the environment that holds the peers.

Reads one JSON object from standard input: {"peer", "model", "facts": [{"prompt": ids,
"candidates": [ids, ...]}], "threads"}. Then, for every line "run", scores all facts once and prints
one JSON line: {"seconds", "scores": [[sum of log-probabilities, nats, a candidate], ...]}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from common import serve

Scores = list[list[float]]


def transformers_scorer(model_path: str, threads: int) -> Callable[[list[Any]], Scores]:
    """One padded batch a fact: the usual way with transformers; float32, eager."""
    import pathlib

    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    path = pathlib.Path(model_path)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()

    @torch.inference_mode()
    def score(facts: list[Any]) -> Scores:
        result = []
        for fact in facts:
            prompt, candidates = fact["prompt"], fact["candidates"]
            width = len(prompt) + max(map(len, candidates))
            ids = torch.zeros((len(candidates), width), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, candidate in enumerate(candidates):
                tokens = torch.tensor(prompt + candidate)
                ids[row, : len(tokens)] = tokens
                mask[row, : len(tokens)] = 1
            logits = model(input_ids=ids, attention_mask=mask).logits[:, len(prompt) - 1 : -1]
            logprobs = logits.log_softmax(-1)
            picked = logprobs.gather(-1, ids[:, len(prompt) :, None])[..., 0]
            picked = picked * mask[:, len(prompt) :]
            result.append(picked.sum(-1).tolist())
        return result

    return score


def llama_scorer(model_path: str, threads: int) -> Callable[[list[Any]], Scores]:
    """The prompt once a fact, its cache kept while the candidates take turns."""
    import numpy as np
    from llama_cpp import Llama

    llama = Llama(
        model_path,
        n_ctx=512,
        n_batch=512,
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=True,
        verbose=False,
    )

    def logprobs(begin: int, end: int) -> Any:
        rows = llama.scores[begin:end].astype(np.float64)
        top = rows.max(-1, keepdims=True)
        return rows - top - np.log(np.exp(rows - top).sum(-1, keepdims=True))

    def score(facts: list[Any]) -> Scores:
        result = []
        for fact in facts:
            prompt, n = fact["prompt"], len(fact["prompt"])
            llama.reset()
            llama.eval(prompt)
            first = logprobs(n - 1, n)[0]
            sums = []
            for candidate in fact["candidates"]:
                total = first[candidate[0]]
                if len(candidate) > 1:
                    llama.n_tokens = n
                    llama._ctx.kv_cache_seq_rm(-1, n, -1)
                    llama.eval(candidate[:-1])
                    rows = logprobs(n, n + len(candidate) - 1)
                    total += sum(row[token] for row, token in zip(rows, candidate[1:], strict=True))
                sums.append(float(total))
            result.append(sums)
        return result

    return score


PEERS = {"transformers": transformers_scorer, "llama-cpp-python": llama_scorer}


def main() -> None:
    """Answer one request from standard input."""
    job = json.loads(sys.stdin.readline())
    score = PEERS[job["peer"]](job["model"], job["threads"])
    score(job["facts"][:2])

    def run() -> dict[str, Any]:
        begin = time.perf_counter()
        scores = score(job["facts"])
        return {"seconds": time.perf_counter() - begin, "scores": scores}

    serve(run)


if __name__ == "__main__":
    main()
