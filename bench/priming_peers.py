"""The PyTorch side of bench/priming.py.

Reads one JSON object from standard input: {"model", "threads", "presentations", "lr", "texts":
[{"ids", "items": [[given ids, scored ids]]}]}; for every line "run" it learns and measures each
text and prints one JSON line with "seconds" and the log ratios of its items.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
from typing import Any

from common import serve


def main() -> int:
    """Serve runs."""
    import torch
    from transformers import AutoModelForCausalLM

    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    path = pathlib.Path(job["model"])
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    start = [p.detach().clone() for p in model.parameters()]

    @torch.inference_mode()
    def score(items: list[Any]) -> list[float]:
        """Sums of log-probabilities, nats, of the scored ids: one padded batch."""
        whole = [given + scored for given, scored in items]
        longest = max(map(len, whole))
        ids = torch.tensor([w + [0] * (longest - len(w)) for w in whole])
        mask = torch.tensor([[1] * len(w) + [0] * (longest - len(w)) for w in whole])
        hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        values = []
        for row, (given, scored) in zip(hidden, items, strict=True):
            logits = model.lm_head(row[len(given) - 1 : len(given) + len(scored) - 1])
            logprobs = logits.log_softmax(-1)
            values.append(float(logprobs.gather(-1, torch.tensor(scored)[:, None]).sum()))
        return values

    def restore() -> None:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), start, strict=True):
                parameter.copy_(value)

    def learn(ids: list[int]) -> None:
        batch = torch.tensor([ids])
        optimizer = torch.optim.AdamW(model.parameters(), lr=job["lr"], weight_decay=0.0)
        for _ in range(job["presentations"]):
            optimizer.zero_grad()
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()

    def run() -> dict[str, Any]:
        begin = time.perf_counter()
        known: dict[str, float] = {}
        values = []
        for text in job["texts"]:
            restore()
            keys = [json.dumps(item) for item in text["items"]]
            new = [i for i, key in enumerate(keys) if key not in known]
            found = score([text["items"][i] for i in new])
            known.update(zip([keys[i] for i in new], found, strict=True))
            learn(text["ids"])
            after = score(text["items"])
            values.append([b - known[key] for key, b in zip(keys, after, strict=True)])
        restore()
        return {"seconds": time.perf_counter() - begin, "values": values}

    serve(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
