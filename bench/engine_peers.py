"""One peer library doing what bench/text_logprobs.py, decoding.py and scoring.py measure.

Reads one JSON object from standard input: {"peer", "task", "model", "threads", ...}, then does the
task once for every line "run" and prints one JSON line with "seconds" and the values it computed.
Tasks: "text" ("ids"), "decode" ("ids", "n"), "score" ("facts": [{"prompt", "candidates"}]) and
"sgemm" ("shapes": [[rows, columns, times]], "m").
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from common import serve

Job = dict[str, Any]
Run = Callable[[], Any]


# ---- transformers ----


def hf_model(job: Job, dtype: str) -> Any:
    """A model dequantised by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(job["threads"])
    path = pathlib.Path(job["model"])
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=getattr(torch, dtype)
    ).eval()


def transformers_task(job: Job, dtype: str) -> Run:
    """The task with transformers."""
    import torch

    model = hf_model(job, dtype)
    ids = torch.tensor([job["ids"]])

    @torch.inference_mode()
    def text() -> list[float]:
        logprobs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        return logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def decode() -> list[int]:
        n = job["n"]
        made = model.generate(
            ids, do_sample=False, max_new_tokens=n, min_new_tokens=n, pad_token_id=0
        )
        return made[0, len(job["ids"]) :].tolist()  # type: ignore[no-any-return]

    return {"text": text, "decode": decode}[job["task"]]


def lm_eval_task(job: Job, batch_size: int) -> Run:
    """Scoring with lm-evaluation-harness and its hf model."""
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(job["threads"])
    path = pathlib.Path(job["model"])
    model = HFLM(
        pretrained=str(path.parent), gguf_file=path.name, dtype="float32", device="cpu",
        batch_size=batch_size,
    )  # fmt: skip

    def score() -> list[list[float]]:
        requests = [(None, f["prompt"], c) for f in job["facts"] for c in f["candidates"]]
        flat = iter(model._loglikelihood_tokens(requests, disable_tqdm=True))
        return [[next(flat)[0] for _ in fact["candidates"]] for fact in job["facts"]]

    return score


# ---- llama-cpp-python ----


def llama_model(job: Job, logits_all: bool) -> Any:
    """A model of llama-cpp-python."""
    from llama_cpp import Llama

    threads = job["threads"]
    return Llama(
        job["model"], n_ctx=1024, n_batch=512, n_threads=threads, n_threads_batch=threads,
        logits_all=logits_all, verbose=False,
    )  # fmt: skip


def log_softmax(rows: Any) -> Any:
    """Of each row, in double precision."""
    import numpy as np

    rows = rows.astype(np.float64)
    top = rows.max(-1, keepdims=True)
    return rows - top - np.log(np.exp(rows - top).sum(-1, keepdims=True))


def llama_text(job: Job) -> Run:
    """Every token's log-probability."""
    llama, ids = llama_model(job, True), job["ids"]

    def text() -> list[float]:
        llama.reset()
        llama.eval(ids)
        rows = log_softmax(llama.scores[: len(ids) - 1])
        return [float(row[token]) for row, token in zip(rows, ids[1:], strict=True)]

    return text


def llama_decode(job: Job) -> Run:
    """Greedy decoding."""
    llama = llama_model(job, False)

    def decode() -> list[int]:
        made: list[int] = []
        for token in llama.generate(job["ids"], top_k=1, temp=0.0, reset=True):
            made.append(int(token))
            if len(made) == job["n"]:
                break
        return made

    return decode


def llama_score(job: Job) -> Run:
    """Candidates one after another, the prompt's cache kept."""
    llama = llama_model(job, True)

    def of_fact(prompt: list[int], candidates: list[list[int]]) -> list[float]:
        n = len(prompt)
        llama.reset()
        llama.eval(prompt)
        first = log_softmax(llama.scores[n - 1 : n])[0]
        sums = []
        for candidate in candidates:
            total = first[candidate[0]]
            if len(candidate) > 1:
                llama.n_tokens = n
                llama._ctx.kv_cache_seq_rm(-1, n, -1)
                llama.eval(candidate[:-1])
                rows = log_softmax(llama.scores[n : n + len(candidate) - 1])
                total += sum(row[t] for row, t in zip(rows, candidate[1:], strict=True))
            sums.append(float(total))
        return sums

    return lambda: [of_fact(fact["prompt"], fact["candidates"]) for fact in job["facts"]]


def llama_task(job: Job) -> Run:
    """The task with llama-cpp-python."""
    tasks = {"text": llama_text, "decode": llama_decode, "score": llama_score}
    return tasks[job["task"]](job)


# ---- the products alone ----


def sgemm_task(job: Job) -> Run:
    """All products of m tokens through numpy's OpenBLAS: what the machine can do."""
    import numpy as np

    m = job["m"]
    ones, empty = np.ones, np.empty
    cases = [
        (ones((m, k), np.float32), ones((n, k), np.float32), empty((m, n), np.float32), times)
        for n, k, times in job["shapes"]
    ]

    def products() -> list[float]:
        seconds = []
        for a, b, out, times in cases:
            begin = time.perf_counter()
            for _ in range(times):
                np.matmul(a, b.T, out=out)
            seconds.append(time.perf_counter() - begin)
        return seconds

    return products


def make(job: Job) -> Run:
    """What to run for each round."""
    peer = job["peer"]
    if peer.startswith("transformers "):
        return transformers_task(job, peer.removeprefix("transformers "))
    if peer.startswith("lm-eval hf, batch "):
        return lm_eval_task(job, int(peer.removeprefix("lm-eval hf, batch ")))
    return sgemm_task(job) if peer == "sgemm" else llama_task(job)


def main() -> None:
    """Answer one request from standard input."""
    job = json.loads(sys.stdin.readline())
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(job["threads"])
    facts = job.get("facts", [])
    job["facts"] = facts[:2]  # a first round that only warms up
    run = make(job)
    run()
    job["facts"] = facts

    def timed() -> dict[str, Any]:
        begin = time.perf_counter()
        values = run()
        return {"seconds": time.perf_counter() - begin, "values": values}

    serve(timed)


if __name__ == "__main__":
    main()
