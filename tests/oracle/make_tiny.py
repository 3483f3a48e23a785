"""Write two tiny Hugging Face models with random weights and what transformers says of them.

usage: make_tiny.py ORACLE_DIR OUT_DIR
ORACLE_DIR holds the Hugging Face folders smollm2 and gemma3, whose tokenizer.json files are cut
down to a few hundred tokens. OUT_DIR/tiny_llama and OUT_DIR/tiny_gemma3 get config.json,
model.safetensors (F32), tokenizer.json, tokenizer_config.json, ids.bin (int32 token ids) and
logprobs.bin (float32 (tokens, vocabulary), nats; transformers, F32, eager attention). Needs torch
and transformers; the test-suite needs neither.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel

N_TOKENS = 40  # several sliding windows long
N_MERGES = 60


def cut_tokenizer(data: dict[str, Any], specials: list[str], alphabet: list[str]) -> dict[str, Any]:
    """The tokenizer with these special tokens, this alphabet and its first possible merges."""
    vocab = {token: i for i, token in enumerate([*specials, *alphabet])}
    merges = []
    for merge in data["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if left in vocab and right in vocab and left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append([left, right])
        if len(merges) == N_MERGES:
            break
    kept = [dict(token) for token in data["added_tokens"] if token["content"] in specials]
    for token in kept:
        token["id"] = vocab[token["content"]]
    data["model"].update(vocab=vocab, merges=merges)
    return {**data, "added_tokens": sorted(kept, key=lambda token: token["id"])}


def llama(vocab_size: int) -> transformers.PretrainedConfig:
    """Grouped heads, width unlike heads x head width, untied embeddings."""
    return transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )


def gemma3(vocab_size: int) -> transformers.PretrainedConfig:
    """A sliding window of 8 tokens, every third layer full."""
    return transformers.Gemma3TextConfig(
        vocab_size=vocab_size,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        query_pre_attn_scalar=20,
        max_position_embeddings=128,
        sliding_window=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        rms_norm_eps=1e-6,
        _sliding_window_pattern=3,
    )


def randomise(model: torch.nn.Module) -> None:
    """Weights large enough that every part of the network shows in the output."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        is_norm = "norm" in name
        centre = 1.0 if is_norm and "Llama" in type(model).__name__ else 0.0
        noise = torch.randn(parameter.shape, generator=generator) * (0.3 if is_norm else 0.2)
        parameter.data.copy_(centre + noise)


def write(out: pathlib.Path, name: str, config: transformers.PretrainedConfig) -> None:
    """One model's folder, weights and log-probabilities."""
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    randomise(model)
    ids = torch.randint(0, config.vocab_size, (N_TOKENS,), generator=torch.manual_seed(1))
    with torch.no_grad():
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
    logprobs = torch.log_softmax(logits.double(), dim=-1).float()
    config.save_pretrained(out)
    tied = config.tie_word_embeddings
    tensors = {
        key: value.clone().contiguous()
        for key, value in model.state_dict().items()
        if not (tied and key == "lm_head.weight")
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    (out / "ids.bin").write_bytes(ids.int().numpy().astype("<i4").tobytes())
    (out / "logprobs.bin").write_bytes(logprobs.numpy().astype("<f4").tobytes())
    print(name, config.vocab_size, sum(file.stat().st_size for file in out.iterdir()))


def main() -> None:
    """Write both models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oracle", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    text = [chr(code) for code in range(33, 127)]
    cuts = {
        "smollm2": (
            llama,
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            sorted(ByteLevel.alphabet()),
        ),
        "gemma3": (
            gemma3,
            ["<pad>", "<eos>", "<bos>", "<unk>"],
            [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *text],
        ),
    }
    for source, (config, specials, alphabet) in cuts.items():
        folder = args.oracle / source
        data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        tokenizer = cut_tokenizer(data, specials, alphabet)
        name = f"tiny_{config.__name__}"
        out = args.out / name
        out.mkdir(parents=True, exist_ok=True)
        (out / "tokenizer.json").write_text(
            json.dumps(tokenizer, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
        )
        (out / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
        write(out, name, config(len(tokenizer["model"]["vocab"])))


if __name__ == "__main__":
    main()
