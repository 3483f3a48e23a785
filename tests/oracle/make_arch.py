"""Write a tiny random model of every architecture and what transformers says of it.

usage: make_arch.py ORACLE_DIR OUT_DIR [NAME ...]
ORACLE_DIR holds the Hugging Face folders smollm2 and gemma3, whose tokenizer.json files are cut
down to a few hundred tokens. For each architecture OUT_DIR gets

    <name>/                    config.json, model.safetensors (matrices BF16, vectors F32),
                               tokenizer.json, tokenizer_config.json
    <name>.gguf                the same weights (matrices F16, vectors F32), as llama.cpp's
                               converter arranges them
    <name>.golden.safetensors  transformers' answers in float32 with eager attention:

        prompt<i>.ids       (T)     token ids, as float32
        prompt<i>.logprobs  (T, V)  log p(. | ids[..t]) in nats
        trace.ids           (T)     the prompt of what follows
        trace.<point>       activations at each point of km/points.h,
                            (L, T, heads, width), or (T, heads, width) for embed, final_norm, logits
        grad.<point>        derivative of sum over t < T - 1 of log p(ids[t + 1] | ids[..t])
                            with respect to them, for the points in arch_capture.GRADIENTS

Weights are rounded to what BF16 and F16 both hold, so that every file gives the same numbers. Each
feature is switched off in turn and has to move the log-probabilities by more than 0.01; llama.cpp
has to load each GGUF file and to agree. Needs torch, transformers, gguf and llama-cpp-python; the
test-suite needs none of them.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import arch_capture
import arch_gguf
import numpy as np
import torch
import transformers
from make_tiny import cut_tokenizer
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel

LENGTHS = (24, 9)  # prompts; several windows long, and hardly two
TRACE_LENGTH = 10
WINDOW = 4
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
SLIDING, FULL = "sliding_attention", "full_attention"
Change = dict[str, Any] | Callable[[Any], None]


def default_rope(base: float = 10000.0, **more: Any) -> dict[str, Any]:
    """Rotary parameters as transformers 5 writes them."""
    return {"rope_type": "default", "rope_theta": base, **more}


@dataclasses.dataclass(frozen=True)
class Case:
    """One model: its configuration, and how to do without each feature."""

    config: type
    settings: dict[str, Any]
    off: dict[str, Change]
    # llama.cpp agrees this far (nats); its GELU reads a table in half precision and for GPT-NeoX is
    # the tanh approximation
    llama_cpp: float = 1e-4
    # llama.cpp has no window for this architecture: compare the positions inside it
    window_unknown: bool = False


def zero_biases(part: str) -> Callable[[Any], None]:
    """Biases whose name contains `part` become 0."""

    def change(model: Any) -> None:
        found = [p for n, p in model.named_parameters() if part in n and n.endswith("bias")]
        assert found
        for parameter in found:
            parameter.data.zero_()

    return change


def without(*names: str) -> Callable[[Any], None]:
    """Modules of these names do nothing."""

    def change(model: Any) -> None:
        found = [n for n, _ in model.named_modules() if n.split(".")[-1] in names]
        assert found
        for name in found:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, torch.nn.Identity())

    return change


def no_positions(model: Any) -> None:
    """Learned positions become 0."""
    model.transformer.wpe.weight.data.zero_()


def unit_gains(model: Any) -> None:
    """Gains of norms that multiply by 1."""
    gemma = "Gemma" in type(model).__name__
    for name, parameter in model.named_parameters():
        if is_norm(name) and name.endswith("weight"):
            parameter.data.fill_(0.0 if gemma else 1.0)


def is_norm(name: str) -> bool:
    """Whether a parameter belongs to a norm."""
    return "norm" in name or ".ln_" in name


LLAMA3_ROPE = default_rope(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
GPT2_SIZES = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
NEOX_SIZES = {
    k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "num_hidden_layers")
} | {"hidden_size": 64, "num_hidden_layers": 2}

CASES = {
    "gpt2": Case(
        transformers.GPT2Config,
        {**GPT2_SIZES, "bos_token_id": 0, "eos_token_id": 0},
        {
            "learned positions": no_positions,
            "q, k, v biases": zero_biases("c_attn"),
            "attention output bias": zero_biases("attn.c_proj"),
            "MLP biases": zero_biases("mlp"),
            "LayerNorm biases": zero_biases("ln_"),
            "gains": unit_gains,
            "scaled attention": {"scale_attn_weights": False},
        },
        llama_cpp=2e-2,
    ),
    "llama3": Case(
        transformers.LlamaConfig,
        {**SIZES, "head_dim": 16, "rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False},
        {"Llama 3 rope scaling": {"rope_parameters": default_rope()}, "gains": unit_gains},
    ),
    "llama_bias": Case(
        transformers.LlamaConfig,
        {
            **SIZES,
            "rope_parameters": default_rope(500.0, rope_type="linear", factor=4.0),
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
        {
            "linear rope scaling": {"rope_parameters": default_rope(500.0)},
            "attention_bias": {"attention_bias": False},
            "attention output bias": zero_biases("o_proj"),
            "mlp_bias": {"mlp_bias": False},
            "MLP output bias": zero_biases("down_proj"),
        },
    ),
    "mistral": Case(
        transformers.MistralConfig,
        {
            **SIZES,
            "head_dim": 16,
            "num_hidden_layers": 2,
            "sliding_window": WINDOW,
            "rope_parameters": default_rope(),
            "tie_word_embeddings": False,
        },
        {"sliding_window": {"sliding_window": None}},
        window_unknown=True,
    ),
    "qwen2": Case(
        transformers.Qwen2Config,
        {**SIZES, "rope_parameters": default_rope(1000.0), "tie_word_embeddings": True},
        {"q biases": zero_biases("q_proj"), "v biases": zero_biases("v_proj")},
    ),
    "qwen2_window": Case(
        transformers.Qwen2Config,
        {
            **SIZES,
            "rope_parameters": default_rope(1000.0),
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
            "tie_word_embeddings": False,
        },
        {
            "use_sliding_window": {"use_sliding_window": False},
            "max_window_layers": {"max_window_layers": 0},
        },
        window_unknown=True,
    ),
    "qwen3": Case(
        transformers.Qwen3Config,
        {
            **SIZES,
            "head_dim": 16,
            "rope_parameters": default_rope(1e6),
            "tie_word_embeddings": True,
        },
        {"q and k norms": without("q_norm", "k_norm"), "gains": unit_gains},
    ),
    "gemma2": Case(
        transformers.Gemma2Config,
        {
            **SIZES,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 4.0,
            "rope_parameters": default_rope(),
        },
        {
            "attn_logit_softcapping": {"attn_logit_softcapping": None},
            "final_logit_softcapping": {"final_logit_softcapping": None},
            "sliding_window": {"layer_types": [FULL] * 3},
            "alternating windows": {"layer_types": [SLIDING] * 3},
            "query_pre_attn_scalar": {"query_pre_attn_scalar": 32},
            "post norms": without("post_attention_layernorm", "post_feedforward_layernorm"),
            "gains": unit_gains,
        },
        llama_cpp=2e-2,
    ),
    "gemma3": Case(
        transformers.Gemma3TextConfig,
        {
            **SIZES,
            "head_dim": 16,
            "num_hidden_layers": 4,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "layer_types": [SLIDING, SLIDING, FULL, SLIDING],
            "rope_parameters": {
                FULL: default_rope(1e6, rope_type="linear", factor=8.0),
                SLIDING: default_rope(100.0),
            },
        },
        {
            "sliding_window": {"layer_types": [FULL] * 4},
            "local rope base": {
                "rope_parameters": {
                    FULL: default_rope(1e6, rope_type="linear", factor=8.0),
                    SLIDING: default_rope(1e6),
                }
            },
            "global rope scaling": {
                "rope_parameters": {FULL: default_rope(1e6), SLIDING: default_rope(100.0)}
            },
            "q and k norms": without("q_norm", "k_norm"),
            "post norms": without("post_attention_layernorm", "post_feedforward_layernorm"),
        },
        llama_cpp=2e-2,
    ),
    "pythia": Case(
        transformers.GPTNeoXConfig,
        {
            **NEOX_SIZES,
            "rope_parameters": default_rope(100.0, partial_rotary_factor=0.25),
            "use_parallel_residual": True,
        },
        {
            "parallel residual": {"use_parallel_residual": False},
            "partial rotary": {"rope_parameters": default_rope(100.0, partial_rotary_factor=1.0)},
            "rotary": {"rope_parameters": default_rope(1e12, partial_rotary_factor=0.25)},
            "exact GELU": {"hidden_act": "gelu_new"},
            "fused biases": zero_biases("query_key_value"),
            "attention output bias": zero_biases("dense.bias"),
            "MLP biases": zero_biases("mlp"),
            "LayerNorm biases": zero_biases("norm"),
        },
        llama_cpp=5e-2,
    ),
    "neox_sequential": Case(
        transformers.GPTNeoXConfig,
        {
            **NEOX_SIZES,
            "hidden_size": 32,
            "rope_parameters": default_rope(partial_rotary_factor=0.5),
            "use_parallel_residual": False,
        },
        {
            "sequential residual": {"use_parallel_residual": True},
            "partial rotary": {"rope_parameters": default_rope(partial_rotary_factor=1.0)},
        },
        llama_cpp=5e-2,
    ),
}


# ---- models ----


def build(case: Case, vocab: int, changes: dict[str, Any] | None = None) -> Any:
    """A model of the case, some settings changed."""
    settings = copy.deepcopy({**case.settings, **(changes or {})})
    config = case.config(vocab_size=vocab, **settings)
    return transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def deviation(name: str, parameter: torch.Tensor, gemma: bool) -> tuple[float, float]:
    """Mean and standard deviation large enough that every part shows in the output."""
    if is_norm(name):
        return (0.0 if gemma or name.endswith("bias") else 1.0), 0.3
    if "dense_h_to_4h.bias" in name:
        return -2.0, 0.4  # there the two kinds of GELU differ by more than a hundredth of the value
    if parameter.ndim == 1:
        return 0.0, 0.4
    if "embed_tokens" in name or "wte" in name or "wpe" in name or "embed_in" in name:
        return 0.0, 0.4
    if "lm_head" in name or "embed_out" in name:
        return 0.0, 0.4
    if "dense_4h_to_h" in name:
        return 0.0, 1.5
    inner = parameter.shape[0] if ".h." in name else parameter.shape[1]
    strong = any(part in name for part in ("q_proj", "k_proj", "query_key", "c_attn"))
    return 0.0, (2.0 if strong else 1.2) / inner**0.5


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    """To what BF16 and F16 both hold."""
    tensor = tensor.bfloat16().float()
    return torch.where(tensor.abs() < 2.0**-14, 0.0, tensor)


def randomise(model: Any) -> None:
    """Fresh weights: matrices rounded to 16 bits, vectors in float32."""
    generator = torch.Generator().manual_seed(0)
    gemma = "Gemma" in type(model).__name__
    for name, parameter in model.named_parameters():
        mean, spread = deviation(name, parameter, gemma)
        values = mean + spread * torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(rounded(values) if parameter.ndim == 2 else values)


def logprobs(model: Any, ids: list[int]) -> torch.Tensor:
    """(T, V) in nats."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return torch.log_softmax(logits.double(), dim=-1).float()


def prompts(vocab: int) -> list[list[int]]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, vocab, (n,), generator=generator).tolist() for n in LENGTHS]


# ---- checks ----


def check_features(case: Case, model: Any, ids: list[int]) -> dict[str, float]:
    """How far the log-probabilities move without each feature; more than 0.01."""
    expected = logprobs(model, ids)
    moved = {}
    for feature, change in case.off.items():
        changes = change if isinstance(change, dict) else None
        other = build(case, model.config.vocab_size, changes)
        other.load_state_dict(model.state_dict(), strict=False)
        if callable(change):
            change(other)
        moved[feature] = (logprobs(other, ids) - expected).abs().max().item()
        assert moved[feature] > 0.01, (feature, moved[feature])
    return moved


def check_folder(folder: pathlib.Path, ids: list[int], expected: torch.Tensor) -> None:
    """The folder gives the same numbers when transformers loads it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    assert (logprobs(model, ids) - expected).abs().max() < 1e-5


def check_llama_cpp(case: Case, model: Any, tokenizer: dict[str, Any]) -> float:
    """llama.cpp on an F32 file of the same tensors: largest difference in nats."""
    vocab = model.config.vocab_size
    every = prompts(vocab)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.gguf"
        arch_gguf.write(path, model, tokenizer, np.float32)
        answers = arch_gguf.llama_cpp_logits(path, every, vocab)
    worst = 0.0
    for ids, logits in zip(every, answers, strict=True):
        n = WINDOW if case.window_unknown else len(ids)
        got = torch.log_softmax(torch.tensor(logits[:n]).double(), dim=-1)
        worst = max(worst, (got - logprobs(model, ids)[:n]).abs().max().item())
    assert worst < case.llama_cpp, worst
    return worst


# ---- files ----


def write_folder(
    folder: pathlib.Path, model: Any, tokenizer: dict[str, Any], source: pathlib.Path
) -> None:
    """config.json, weights and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    tensors = {
        key: (value.bfloat16() if value.ndim == 2 else value).contiguous()
        for key, value in model.state_dict().items()
        if not (model.config.tie_word_embeddings and key == "lm_head.weight")
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    text = json.dumps(tokenizer, ensure_ascii=False, indent=0) + "\n"
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    (folder / "tokenizer_config.json").write_bytes((source / "tokenizer_config.json").read_bytes())


def write_golden(path: pathlib.Path, model: Any) -> None:
    """Log-probabilities of the prompts, activations and gradients of a shorter one."""
    golden = {}
    every = prompts(model.config.vocab_size)
    for i, ids in enumerate(every):
        golden[f"prompt{i}.ids"] = torch.tensor(ids, dtype=torch.float32)
        golden[f"prompt{i}.logprobs"] = logprobs(model, ids)
    golden |= arch_capture.trace(model, torch.tensor(every[0][:TRACE_LENGTH]))
    save_file(golden, path)
    path.chmod(0o644)


def cut_tokenizers(oracle: pathlib.Path) -> dict[bool, tuple[dict[str, Any], pathlib.Path]]:
    """A byte-level tokenizer, and for Gemma (True) a SentencePiece-style one."""
    text = [chr(code) for code in range(33, 127)]
    cuts = {
        "smollm2": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], sorted(ByteLevel.alphabet())),
        "gemma3": (
            ["<pad>", "<eos>", "<bos>", "<unk>"],
            [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *text],
        ),
    }
    out = {}
    for name, (specials, alphabet) in cuts.items():
        data = json.loads((oracle / name / "tokenizer.json").read_text(encoding="utf-8"))
        out[name == "gemma3"] = (cut_tokenizer(data, specials, alphabet), oracle / name)
    return out


def main() -> None:
    """Write every case, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oracle", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizers = cut_tokenizers(args.oracle)
    for name in args.names or CASES:
        case = CASES[name]
        tokenizer, source = tokenizers[name.startswith("gemma")]
        vocab = len(tokenizer["model"]["vocab"])
        model = build(case, vocab)
        randomise(model)
        ids = prompts(vocab)[0]
        moved = check_features(case, model, ids)
        folder = args.out / name
        write_folder(folder, model, tokenizer, source)
        check_folder(folder, ids, logprobs(model, ids))
        arch_gguf.write(args.out / f"{name}.gguf", model, tokenizer, np.float16)
        write_golden(args.out / f"{name}.golden.safetensors", model)
        print(name, "llama.cpp", f"{check_llama_cpp(case, model, tokenizer):.1e}", flush=True)
        print("   without", {k: round(v, 3) for k, v in moved.items()})


if __name__ == "__main__":
    main()
