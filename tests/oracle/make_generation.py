"""Write goldens of generation: greedy, beam search and filtered distributions, by transformers.

usage: make_generation.py GOLDEN_DATA SMOLLM2 OUT.json.gz
GOLDEN_DATA is the folder with the tiny models, SMOLLM2 the F32 Hugging Face folder dequantised from
the GGUF file that km loads. Needs torch and transformers; the test-suite needs neither.

greedy: 64 tokens after each prompt, without end tokens, and `gap`, the smallest difference in nats
between the two most likely tokens on the way: two right programs may part only where it is tiny.
beams: generate(num_beams=n, early_stopping=False) with some token declared the end token, and the
score transformers gives the best sequence. filters: which tokens of a row of logits the warpers
keep, and the probabilities after them, for chains in the order transformers applies them. Logits
are given as whole numbers of 1/64, no two the same.
"""

from __future__ import annotations

import gzip
import json
import pathlib
import sys
from typing import Any

import torch
import transformers
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

TEXTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def mean(values):\n",
)
N_TOKENS = 64
BEAMS = [(2, 1.0), (4, 1.0), (3, 0.0), (4, 2.0), (5, -1.0)]
# (temperature, top_k, top_p, min_p)
CHAINS = [
    (1.0, 0, 1.0, 0.0),
    (0.7, 0, 1.0, 0.0),
    (1.0, 5, 1.0, 0.0),
    (1.0, 0, 0.9, 0.0),
    (1.0, 0, 0.3, 0.0),
    (1.0, 0, 1.0, 0.1),
    (0.8, 40, 0.95, 0.0),
    (1.5, 20, 0.8, 0.05),
    (0.25, 3, 0.5, 0.2),
    (2.0, 100, 0.99, 0.01),
]


def load(folder: pathlib.Path) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model.generation_config = GenerationConfig()  # its end tokens would stand in for none
    return model


def row_without_ties(n: int, generator: torch.Generator) -> list[int]:
    seen: set[int] = set()
    for x in (torch.randn(n, generator=generator) * 160).round().int().tolist():
        while x in seen:
            x += 1
        seen.add(x)
    return [list(seen)[i] for i in torch.randperm(n, generator=generator).tolist()]


@torch.inference_mode()
def greedy(model: Any, ids: list[int]) -> dict[str, Any]:
    config = GenerationConfig(
        do_sample=False, max_new_tokens=N_TOKENS, eos_token_id=None, pad_token_id=0,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    out = model.generate(torch.tensor([ids]), generation_config=config)
    best = torch.cat(out.logits).topk(2).values
    logprobs = torch.cat(out.logits).double().log_softmax(-1)
    made = out.sequences[0, len(ids) :]
    return {
        "prompt": ids,
        "ids": made.tolist(),
        "logprobs": [round(x, 6) for x in logprobs.gather(1, made[:, None])[:, 0].tolist()],
        "gap": float((best[:, 0] - best[:, 1]).min()),
    }


@torch.inference_mode()
def beams(model: Any, ids: list[int], n: int, penalty: float, eos: int | None) -> dict[str, Any]:
    config = GenerationConfig(
        do_sample=False, num_beams=n, length_penalty=penalty, early_stopping=False,
        max_new_tokens=12, eos_token_id=eos, pad_token_id=0,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    out = model.generate(torch.tensor([ids]), generation_config=config)
    made = out.sequences[0, len(ids) :].tolist()
    if eos is not None and eos in made:
        made = made[: made.index(eos) + 1]
    return {
        "prompt": ids, "n": n, "length_penalty": penalty, "eos": eos, "ids": made,
        "score": float(out.sequences_scores[0]),
    }  # fmt: skip


def filters() -> list[dict[str, Any]]:
    cases = []
    generator = torch.Generator().manual_seed(5)
    for i, (temperature, top_k, top_p, min_p) in enumerate(CHAINS * 2):
        whole = row_without_ties(60 if i < len(CHAINS) else 300, generator)
        row = torch.tensor([whole]) / 64
        chain = LogitsProcessorList()
        if temperature != 1.0:
            chain.append(TemperatureLogitsWarper(temperature))
        if top_k:
            chain.append(TopKLogitsWarper(top_k))
        if top_p < 1.0:
            chain.append(TopPLogitsWarper(top_p))
        if min_p:
            chain.append(MinPLogitsWarper(min_p))
        out = chain(None, row)[0]
        probs = out.double().softmax(-1)
        kept = torch.isfinite(out).nonzero()[:, 0].tolist()
        cases.append({
            "logits": whole, "temperature": temperature,
            "top_k": top_k, "top_p": top_p, "min_p": min_p, "kept": kept,
            "probs": [round(probs[k].item(), 9) for k in kept],
        })  # fmt: skip
    return cases


def main() -> None:
    data, smollm2, out = map(pathlib.Path, sys.argv[1:])
    result: dict[str, Any] = {
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
        "filters": filters(),
        "models": {},
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    model = load(smollm2)
    prompts = [tokenizer.encode(text) for text in TEXTS]
    result["models"]["smollm2"] = {
        "greedy": [greedy(model, ids) for ids in prompts],
        "beams": [beams(model, prompts[0], 3, 1.0, tokenizer.eos_token_id)],
    }
    for name in ("tiny_llama", "tiny_gemma3"):
        model = load(data / name)
        vocab = model.config.vocab_size
        prompts = [[2, 5, 7], [3, 11, 4, 9, 20], [1, 30, 31, 30]]
        prompts = [[t % vocab for t in ids] for ids in prompts]
        made = [greedy(model, ids) for ids in prompts]
        searches = []
        for i, ids in enumerate(prompts):
            for n, penalty in BEAMS:
                # End tokens that come early and late in what the model would say, and none.
                for eos in (made[i]["ids"][2], made[i]["ids"][6], None):
                    searches.append(beams(model, ids, n, penalty, eos))
        result["models"][name] = {"greedy": made, "beams": searches}
    for name, entry in result["models"].items():
        print(name, [round(g["gap"], 5) for g in entry["greedy"]])
    with gzip.GzipFile(out, "wb", mtime=0) as file:
        file.write(json.dumps(result, separators=(",", ":")).encode())


if __name__ == "__main__":
    main()
