"""CoDa as a loop over transformers' forward pass, for bench/decoders.py.

Reads one JSON object from standard input: {"peer", "model", "threads", "n", "alpha", "prompts",
"candidates"}, then decodes once for every line "run" and prints one JSON line with "seconds" and
the tokens.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

from common import serve
from engine_peers import hf_model


def next_token(full: Any, masked: Any, log_alpha: float) -> int:
    """CoDa's choice from log-probabilities (V) with and (N, V) without each candidate."""
    likely = full >= full.max() + log_alpha
    others = masked >= masked.max(-1, keepdim=True).values + log_alpha
    floors = masked.masked_fill(~others, math.inf).min(-1, keepdim=True).values
    r_pmi = (full - masked).clamp(max=0).where(likely & others, 0.0).sum(-1)
    erm = (full - floors).where(likely & ~others, 0.0).sum(-1)
    indicator = r_pmi + erm
    i = int(indicator.argmin())
    if indicator[i] >= 0:
        return int(full.argmax())
    scores = full - masked[i].where(others[i], floors[i])
    return int(scores.masked_fill(~likely, -math.inf).argmax())


def main() -> None:
    """Load, say ready, decode when asked."""
    job = json.loads(sys.stdin.readline())
    import torch

    model = hf_model(job, "float32")

    def logprobs(sequences: list[list[int]]) -> Any:
        rows = model(input_ids=torch.tensor(sequences)).logits[:, -1]
        return rows.double().log_softmax(-1)

    def decode(prompt: list[int], candidates: list[int]) -> list[int]:
        made: list[int] = []
        while len(made) < job["n"]:
            full = logprobs([prompt + made])[0]
            variants = [prompt[:i] + prompt[i + 1 :] + made for i in candidates]
            if job["peer"] == "one batch":
                masked = logprobs(variants)
            else:
                masked = torch.cat([logprobs([variant]) for variant in variants])
            made.append(next_token(full, masked, math.log(job["alpha"])))
        return made

    @torch.inference_mode()
    def run() -> dict[str, Any]:
        begin = time.perf_counter()
        pairs = zip(job["prompts"], job["candidates"], strict=True)
        values = [decode(prompt, candidates) for prompt, candidates in pairs]
        return {"seconds": time.perf_counter() - begin, "values": values}

    serve(run)


if __name__ == "__main__":
    main()
