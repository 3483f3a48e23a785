"""Write the golden log-probabilities of the forward pass: transformers, F32, eager attention.

usage: make_forward.py MODEL FOLDER OUT.json.gz
MODEL is smollm2 or gemma3, FOLDER its Hugging Face folder with F32 weights (dequantised from the
GGUF file that km loads). Needs torch and transformers; the test-suite needs neither.

For each prompt the file holds the token ids, the log-probability of every next prompt token, and,
at every `stride`-th position and the last, the ids and log-probabilities of the 100 most likely
tokens, and `noise`: the largest difference between these and the same model in float64. It is
about 3e-5, but ten times that at the rare first tokens whose activations grow to 20,000 after
nearly cancelling: there float32 itself decides no better, whoever computes it. Natural logarithms,
rounded to 1e-6.
"""

from __future__ import annotations

import argparse
import gzip
import json
import pathlib
import platform
from typing import Any

import torch
import transformers

TOP = 100

PARAGRAPH = (
    "The lighthouse keeper counted the ships twice, once at dusk and once before dawn, and wrote "
    "both numbers into a ledger that nobody had asked him to keep. When the harbour master finally "
    "read it, forty years later, he found that one ship had been arriving every evening and had "
    "never left. He closed the book, put on his coat and walked down to the water to see for "
    "himself what the old man had been waiting for."
)
CODE = (
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n\n\nprint(mean([1, 2, 3, 4.5]))\n"
)
SCRIPTS = (
    "Die Brücke über den Fluß ist gesperrt. Le café ferme à minuit. 東京は日本の首都です。 "
    "Москва — столица России. مرحبا بالعالم 🙂 1,024 × 3 = 3,072"
)
PROMPTS = {
    "capital": ("The capital of France is", 1),
    "numbers": ("1, 1, 2, 3, 5, 8, 13, 21, 34, 55,", 1),
    "code": (CODE, 1),
    "scripts": (SCRIPTS, 1),
    "paragraph": (PARAGRAPH, 1),
}
LONG_TOKENS = 700  # beyond Gemma's sliding window of 512
LONG_STRIDE = 10


def long_text() -> str:
    """Text of more than LONG_TOKENS tokens that refers back to its beginning."""
    people = ["Ada", "Boris", "Chloe", "Dmitri", "Esther", "Farid", "Greta"]
    places = ["Lisbon", "Oslo", "Quito", "Hanoi", "Nairobi"]
    goods = ["copper wire", "dried figs", "sheet music", "lamp oil"]
    lines = ["A merchant's diary, kept so that every debt can be settled at the end."]
    for day in range(1, 61):
        lines.append(
            f"Day {day}: {people[day % 7]} in {places[day % 5]} bought {3 * day % 17 + 1} crates "
            f"of {goods[day % 4]} and still owes {7 * day % 23 + 2} coins."
        )
    return "\n".join(lines)


def prompt_ids(tokenizer: transformers.PreTrainedTokenizerBase) -> dict[str, tuple[list[int], int]]:
    """Token ids and stride of every prompt, as the model's tokenizer begins a text."""
    prompts = {
        name: (list(tokenizer(text)["input_ids"]), stride)
        for name, (text, stride) in PROMPTS.items()
    }
    prompts["long"] = (list(tokenizer(long_text())["input_ids"])[:LONG_TOKENS], LONG_STRIDE)
    assert len(prompts["long"][0]) == LONG_TOKENS
    return prompts


def exact_norms(model: torch.nn.Module) -> torch.nn.Module:
    """The model in float64, RMSNorms included (transformers computes them in float32)."""

    def patch(norm: torch.nn.Module) -> None:
        offset = 1.0 if "Gemma" in type(norm).__name__ else 0.0
        eps = getattr(norm, "variance_epsilon", None) or norm.eps

        def forward(x: torch.Tensor) -> torch.Tensor:
            return (norm.weight + offset) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))

        norm.forward = forward

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            patch(module)
    return model.double()


def logprobs(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """Log-probabilities after every token, (tokens, vocabulary)."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return torch.log_softmax(logits.double(), dim=-1)


def measure(model: torch.nn.Module, ids: list[int], stride: int) -> dict[str, Any]:
    """One prompt in the layout of the golden file, without its noise."""
    every = logprobs(model, ids)
    following = torch.tensor(ids[1:])
    positions = sorted({*range(0, len(ids), stride), len(ids) - 1})
    top = torch.topk(every[positions], TOP, dim=-1)
    return {
        "ids": ids,
        "next": [round(x, 6) for x in every[:-1].gather(1, following[:, None])[:, 0].tolist()],
        "positions": positions,
        "top_ids": top.indices.tolist(),
        "top_logprobs": [[round(x, 6) for x in row] for row in top.values.tolist()],
    }


def noise(model: torch.nn.Module, prompt: dict[str, Any]) -> list[float]:
    """Largest distance of the prompt's top log-probabilities from the float64 model's."""
    every = logprobs(model, prompt["ids"])[prompt["positions"]]
    exact = every.gather(1, torch.tensor(prompt["top_ids"]))
    distance = (exact - torch.tensor(prompt["top_logprobs"], dtype=torch.float64)).abs()
    return [round(x, 6) for x in distance.max(dim=-1).values.tolist()]


def main() -> None:
    """Measure every prompt and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["smollm2", "gemma3"])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    prompts = {name: measure(model, *spec) for name, spec in prompt_ids(tokenizer).items()}
    exact = exact_norms(model)
    for prompt in prompts.values():
        prompt["noise"] = noise(exact, prompt)
    golden = {
        "model": args.model,
        "source": "transformers, float32, eager attention, log-softmax in float64",
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "unit": "nats",
        "prompts": prompts,
    }
    text = json.dumps(golden, separators=(",", ":"))
    args.out.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    sizes = {name: len(prompt["ids"]) for name, prompt in prompts.items()}
    print(args.out.name, args.out.stat().st_size, sizes)
    print({name: max(prompt["noise"]) for name, prompt in prompts.items()})


if __name__ == "__main__":
    main()
