"""km's log-probabilities against transformers in F32, from GGUF and from a Hugging Face folder.

The goldens come from ``tests/oracle/make_forward.py``. The folder is written here from the GGUF
file, so that both containers hold the same weights.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km

DATA = Path(__file__).parents[1] / "golden_data"
TOLERANCE = 1e-4  # nats
# Where PyTorch's own float32 is this far from float64, its noise is added to the tolerance.
NOISY = 1e-4


def read_golden(name: str) -> dict[str, Any]:
    """The prompts of one model's golden file."""
    with gzip.open(DATA / f"forward_{name}.json.gz", "rt", encoding="utf-8") as file:
        prompts: dict[str, Any] = json.load(file)["prompts"]
    return prompts


def tolerance(noise: float) -> float:
    """Allowed difference at a position where PyTorch's float32 has this noise."""
    return TOLERANCE + (noise if noise > NOISY else 0.0)


def noise_at(prompt: dict[str, Any], position: int) -> float:
    """The noise of the last measured position up to this one."""
    measured = [i for i, p in enumerate(prompt["positions"]) if p <= position]
    return float(prompt["noise"][measured[-1]])


def check_next(model: km.Model, prompt: dict[str, Any]) -> None:
    """The next prompt token, at every position."""
    got = np.asarray(model.logprobs(prompt["ids"]), dtype=np.float64)
    difference = np.abs(got - np.array(prompt["next"]))
    allowed = [tolerance(noise_at(prompt, i)) for i in range(len(difference))]
    assert (difference < allowed).all(), float(difference.max())


def check_top(model: km.Model, prompt: dict[str, Any], stride: int) -> None:
    """The 100 most likely tokens, at every `stride`-th measured position and the last."""
    measured = len(prompt["positions"])
    for i in sorted({*range(0, measured, stride), measured - 1}):
        ids = prompt["ids"][: prompt["positions"][i] + 1]
        got = np.asarray(model.next_logprobs(ids), dtype=np.float64)
        difference = np.abs(got[prompt["top_ids"][i]] - np.array(prompt["top_logprobs"][i]))
        assert difference.max() < tolerance(prompt["noise"][i]), (len(ids), difference.max())
        # Nothing outside the hundred is likelier than the least of them.
        others = np.delete(got, prompt["top_ids"][i])
        assert others.max() <= got[prompt["top_ids"][i]].min() + 2 * TOLERANCE


def check_model(model: km.Model, name: str, stride: int) -> None:
    """Every prompt of a golden file; long ones at few of their measured positions."""
    for prompt in read_golden(name).values():
        check_next(model, prompt)
        check_top(model, prompt, stride if len(prompt["ids"]) < 200 else 24)


# ---- the same weights as a Hugging Face folder ----

LLAMA_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GEMMA_NAMES = {
    **LLAMA_NAMES,
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}


def hf_name(name: str, names: dict[str, str]) -> str:
    """blk.3.ffn_up.weight -> model.layers.3.mlp.up_proj.weight"""
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{names[part]}.weight"


def unpermute(matrix: np.ndarray[Any, Any], n_heads: int) -> np.ndarray[Any, Any]:
    """From GGUF's interleaved rotary pairs back to Hugging Face's halves."""
    rows, columns = matrix.shape
    pairs = matrix.reshape(n_heads, rows // n_heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)


Tensor = tuple[str, tuple[int, ...], Callable[[], np.ndarray[Any, Any]]]


def gguf_tensors(model: km.Model) -> Iterator[Tensor]:
    """Name, shape and float32 values of every tensor under Hugging Face's names."""
    gguf = pytest.importorskip("gguf")
    config = model.config
    is_gemma = config["arch"] == "gemma3"
    names = GEMMA_NAMES if is_gemma else LLAMA_NAMES
    heads = {"attn_q": config["n_heads"], "attn_k": config["n_kv_heads"]}

    def values(tensor: Any) -> np.ndarray[Any, Any]:
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = tensor.name.split(".")[-2]
        if is_gemma and tensor.name.endswith("norm.weight"):
            return array - np.float32(1.0)  # GGUF holds 1 + weight
        return array if is_gemma or part not in heads else unpermute(array, heads[part])

    for tensor in gguf.GGUFReader(model.path).tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        yield hf_name(tensor.name, names), shape, lambda tensor=tensor: values(tensor)


def write_safetensors(path: Path, tensors: list[Tensor]) -> None:
    """One tensor in memory at a time."""
    header, offset = {}, 0
    for name, shape, _ in tensors:
        end = offset + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape, values in tensors:
            file.write(np.ascontiguousarray(values()).reshape(shape).tobytes())


def hf_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json with the key names of transformers 4."""
    out = {
        "model_type": "gemma3_text" if config["arch"] == "gemma3" else "llama",
        "num_hidden_layers": config["n_layers"],
        "hidden_size": config["d_model"],
        "num_attention_heads": config["n_heads"],
        "num_key_value_heads": config["n_kv_heads"],
        "head_dim": config["head_dim"],
        "intermediate_size": config["d_ffn"],
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": config["context_length"],
        "rms_norm_eps": config["norm_eps"],
        "rope_theta": config["rope_base"],
        "tie_word_embeddings": True,
    }
    if config["arch"] == "gemma3":
        out |= {
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": config["head_dim"],
            "rope_local_base_freq": config["rope_base_local"],
            "sliding_window": config["sliding_window"],
            "layer_types": [
                "sliding_attention" if i in config["windowed_layers"] else "full_attention"
                for i in range(config["n_layers"])
            ],
        }
    else:
        out["hidden_act"] = "silu"
    return out


def byte_tokenizer(n_tokens: int) -> dict[str, Any]:
    """A byte-level tokenizer.json with the right number of ids; no text is read here."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [256 + i for i in range(256 - len(kept))]
    alphabet = [chr(code) for code in [*kept, *shifted]]
    vocab = {token: i for i, token in enumerate(alphabet)}
    vocab |= {f"unused{i}": i for i in range(256, n_tokens)}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }


def write_folder(folder: Path, model: km.Model) -> None:
    """The model's weights and shape as a Hugging Face folder."""
    write_safetensors(folder / "model.safetensors", list(gguf_tensors(model)))
    config = json.dumps(hf_config(model.config))
    (folder / "config.json").write_text(config, encoding="utf-8")
    tokenizer = json.dumps(byte_tokenizer(model.config["vocab_size"]))
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")


# ---- tests ----


def test_smollm2_from_gguf(model: km.Model) -> None:
    check_model(model, "smollm2", stride=8)


def test_gemma3_from_gguf(gemma: km.Model) -> None:
    check_model(gemma, "gemma3", stride=16)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_from_a_hugging_face_folder(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: km.Model = request.getfixturevalue("model" if name == "smollm2" else "gemma")
    write_folder(tmp_path, source)
    try:
        model = km.load(tmp_path)
        assert model.precision == "F32"
        assert model.n_parameters == source.n_parameters
        check_model(model, name, stride=24)
    finally:
        (tmp_path / "model.safetensors").unlink()


def test_threads_give_the_same_bits(model: km.Model) -> None:
    ids = read_golden("smollm2")["paragraph"]["ids"]
    expected = np.asarray(model.logprobs(ids)).tobytes()
    for threads in (1, 7):
        other = km.load(model.path, threads=threads)
        assert np.asarray(other.logprobs(ids)).tobytes() == expected
