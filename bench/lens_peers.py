"""The logit lens with TransformerLens, in the environment that holds the peers.

Reads one JSON object from standard input: {"peer", "model", "threads", "prompts": [ids, ...],
"targets": [id, ...]}. Then, for every line "run", reads all prompts once and prints one JSON line:
{"seconds", "logprobs": [[log-probability of the target, nats, a layer and the output], ...]}.

As TransformerLens documents it: run_with_cache, accumulated_resid at the last position, ln_final,
unembed. Prompts of equal length share a batch, so that nothing is padded.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from common import serve

BATCH = 32


def main() -> None:
    """Answer one request from standard input."""
    job = json.loads(sys.stdin.readline())
    import torch
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(job["threads"])
    path = Path(job["model"])
    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    bridge = TransformerBridge.boot_transformers(
        str(path.parent),
        hf_model=model,
        tokenizer=AutoTokenizer.from_pretrained(**source),
        dtype=torch.float32,
        device="cpu",
    )
    batches: list[list[int]] = []
    for length in sorted({len(ids) for ids in job["prompts"]}):
        same = [i for i, ids in enumerate(job["prompts"]) if len(ids) == length]
        batches += [same[i : i + BATCH] for i in range(0, len(same), BATCH)]

    @torch.inference_mode()
    def read() -> list[list[float]]:
        found: list[list[float]] = [[] for _ in job["prompts"]]
        for batch in batches:
            ids = torch.tensor([job["prompts"][i] for i in batch])
            logits, cache = bridge.run_with_cache(ids)
            stream = cache.accumulated_resid(layer=-1, pos_slice=-1)[1:]
            logprobs = bridge.unembed(bridge.ln_final(stream)).log_softmax(-1)
            output = logits[:, -1].log_softmax(-1)
            for row, i in enumerate(batch):
                target = job["targets"][i]
                found[i] = [*logprobs[:, row, target].tolist(), output[row, target].item()]
        return found

    def run() -> dict[str, Any]:
        begin = time.perf_counter()
        logprobs = read()
        return {"seconds": time.perf_counter() - begin, "logprobs": logprobs}

    read()
    serve(run)


if __name__ == "__main__":
    main()
