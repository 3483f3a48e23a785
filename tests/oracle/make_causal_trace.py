"""Write the tiny GPT-2 on which the authors' causal tracing was run, as a Hugging Face folder.

usage: make_causal_trace.py WEIGHTS.json TRACE.json OUT_DIR
WEIGHTS.json holds the weights (rome_end2end_gpt2.json: `inputs.config`, `inputs.weights`, to
which the attention biases, all zero, are added), TRACE.json what `calculate_hidden_flow` gave on
them (tests/golden/data/memorization/causal_trace_gpt2.json). OUT_DIR gets config.json,
model.safetensors (F32) and a tokenizer.json of 40 single characters, which the loader asks for.
The clean probability is checked with transformers first. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file


def main() -> None:
    """Read, check, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("weights", "trace", "out"):
        parser.add_argument(name, type=pathlib.Path)
    args = parser.parse_args()
    given = json.loads(args.weights.read_text())["cases"][0]["inputs"]
    trace = json.loads(args.trace.read_text())["cases"][0]
    config = transformers.GPT2Config(**given["config"], attn_implementation="eager")
    weights = {name: torch.tensor(value) for name, value in given["weights"].items()}
    for layer in range(config.n_layer):
        weights[f"transformer.h.{layer}.attn.c_attn.bias"] = torch.zeros(3 * config.n_embd)
    model = transformers.GPT2LMHeadModel(config).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    with torch.no_grad():
        logits = model(torch.tensor([trace["inputs"]["input_ids"]])).logits[0, -1]
    expected = trace["expected"]["rows_are_tokens_cols_are_layers"]["state"]["high"]
    p = logits.softmax(-1)[trace["params"]["answer_id"]].item()
    assert abs(p - expected) < 1e-6, (p, expected)

    args.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, args.out / "model.safetensors", {"format": "pt"})
    fields = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **given["config"]}
    (args.out / "config.json").write_text(json.dumps(fields, indent=1) + "\n")
    vocab = {chr(ord("!") + i): i for i in range(config.vocab_size)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    (args.out / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1) + "\n")


if __name__ == "__main__":
    main()
