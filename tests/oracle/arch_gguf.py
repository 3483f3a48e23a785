"""A transformers model as GGUF, as llama.cpp's converter writes it, and llama.cpp's answer.

Keys and tensor names are those of the `gguf` package. What the converter changes on the way: rows
of llama's q and k are reordered so that a rotary pair is two neighbours; Gemma's gains are stored
with their 1 added; GPT-2's matrices are transposed; GPT-NeoX's fused rows are sorted into all of q,
all of k, all of v; Llama 3's scaling becomes the tensor rope_freqs.weight.
"""

from __future__ import annotations

import ctypes
import math
import pathlib
from typing import Any

import gguf
import numpy as np
import torch
from llama_cpp import llama_cpp

ARCHITECTURES = {
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
}
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any]) -> None:
    """Byte-level BPE with merges, or SentencePiece-style with the merges' ranks as scores."""
    vocab = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocab]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    merges = [tuple(merge) for merge in tokenizer["model"]["merges"]]
    types = [CONTROL if token in special else NORMAL for token in tokens]
    if "<unk>" in special:
        ranks = {left + right: i for i, (left, right) in enumerate(merges)}
        types = [
            BYTE if token.startswith("<0x") else t for token, t in zip(tokens, types, strict=True)
        ]
        types[tokens.index("<unk>")] = UNKNOWN
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(ranks.get(token, 10000)) for token in tokens])
        writer.add_add_space_prefix(False)
        writer.add_bos_token_id(tokens.index("<bos>"))
        writer.add_eos_token_id(tokens.index("<eos>"))
        writer.add_unk_token_id(tokens.index("<unk>"))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)
        writer.add_add_bos_token(False)
    writer.add_token_list(tokens)
    writer.add_token_types(types)


def rope(config: Any) -> dict[str, Any]:
    """The rotary parameters of layers that see everything."""
    parameters: dict[str, Any] = config.rope_parameters
    return parameters.get("full_attention", parameters)


def add_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    """Sizes every architecture has."""
    heads = config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    inner = config.n_inner or 4 * config.n_embd if config.model_type == "gpt2" else None
    writer.add_feed_forward_length(inner or config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)


def add_attention(writer: gguf.GGUFWriter, config: Any) -> None:
    """Norms, head width, rotary embedding, windows and soft caps, as far as they exist."""
    kind = config.model_type
    if kind == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_freq_base(rope(config)["rope_theta"])
    if kind == "gpt_neox":
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_rope_dimension_count(int(width * rope(config)["partial_rotary_factor"]))
        writer.add_parallel_residual(config.use_parallel_residual)
        return
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(width)
    writer.add_key_length(width)
    writer.add_value_length(width)
    if rope(config)["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope(config)["factor"])
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    add_windows(writer, config)


def add_windows(writer: gguf.GGUFWriter, config: Any) -> None:
    """The sliding window and, where the architecture does not fix them, its layers. llama.cpp reads
    both for Gemma alone."""
    window = getattr(config, "sliding_window", None)
    if window is None:
        return
    writer.add_sliding_window(window)
    if config.model_type == "gemma3_text":
        writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
        writer.add_sliding_window_pattern(config.layer_types.index("full_attention") + 1)
    elif config.model_type == "qwen2":
        writer.add_sliding_window_pattern([t == "sliding_attention" for t in config.layer_types])


def interleave(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from halves to neighbours."""
    rows = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return rows.swapaxes(1, 2).reshape(tensor.shape)


def converted(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """One tensor as the converter changes it."""
    kind = config.model_type
    heads = config.num_attention_heads
    if kind in ("llama", "mistral") and "q_proj" in name:
        return interleave(tensor, heads)
    if kind in ("llama", "mistral") and "k_proj" in name:
        return interleave(tensor, config.num_key_value_heads)
    if kind.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1.0
    if kind == "gpt2" and tensor.ndim == 2 and ".h." in name:
        return tensor.T
    if kind == "gpt_neox" and "query_key_value" in name:
        width = config.hidden_size // heads
        return tensor.reshape(heads, 3, width, -1).swapaxes(0, 1).reshape(tensor.shape)
    return tensor


def rope_factors(config: Any) -> np.ndarray[Any, Any]:
    """What Llama 3 divides each rotary frequency by."""
    p = rope(config)
    frequency = p["rope_theta"] ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    turns = p["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = p["low_freq_factor"], p["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / p["factor"] + smooth)).astype(np.float32)


def write(path: pathlib.Path, model: Any, tokenizer: dict[str, Any], matrices: Any) -> None:
    """The model at `path`, its matrices in a numpy float type, vectors in float32."""
    config = model.config
    arch = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_name(path.stem)
    add_sizes(writer, config)
    add_attention(writer, config)
    add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    if config.model_type == "llama" and rope(config)["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_factors(config))
    for name, tensor in model.state_dict().items():
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        array = converted(name, tensor, config).contiguous().numpy()
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target is not None, name
        writer.add_tensor(target, array.astype(matrices if array.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp_logits(path: pathlib.Path, prompts: list[list[int]], vocab: int) -> list[Any]:
    """llama.cpp's logits at every position, keys and values in float32."""
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    assert model, path
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = 64
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = 0  # F32
    params.flash_attn_type = 0
    out = []
    for ids in prompts:
        context = llama_cpp.llama_init_from_model(model, params)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        batch.n_tokens = len(ids)
        assert llama_cpp.llama_decode(context, batch) == 0
        logits = llama_cpp.llama_get_logits(context)
        shape = (len(ids), vocab)
        out.append(np.ctypeslib.as_array(logits, shape=(len(ids) * vocab,)).reshape(shape).copy())
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return out
