"""A model that came as a Hugging Face folder, written as GGUF: its metadata and tokenizer.

libkm renames and rearranges the weights; here the words around them are made. What was written is
read back and compared field by field before it appears, so that what one format cannot say is
refused by name.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from km import _km
from km.errors import ArgumentError, UnsupportedError

if TYPE_CHECKING:
    from km.model import Model
    from km.save import Dtype

_Pair: TypeAlias = tuple[str, int, int, int, bytes]

_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
# What the two formats say in different ways, or not at all, without changing a number.
_FREE = {"name", "rope_pairs", "norm_offset", "rope_original_context"}
_FREE |= {"rope_factor", "rope_low_freq_factor", "rope_high_freq_factor"}


# ---- GGUF ----


def _number(key: str, value: int) -> _Pair:
    return (key, _U32, 0, 1, struct.pack("<I", value))


def _real(key: str, value: float) -> _Pair:
    return (key, _F32, 0, 1, struct.pack("<f", value))


def _flag(key: str, value: bool) -> _Pair:
    return (key, _BOOL, 0, 1, struct.pack("?", value))


def _text(key: str, value: str) -> _Pair:
    return (key, _STRING, 0, 1, value.encode())


def _texts(key: str, values: Sequence[str]) -> _Pair:
    raw = [value.encode() for value in values]
    data = b"".join(struct.pack("<Q", len(one)) + one for one in raw)
    return (key, _ARRAY, _STRING, len(raw), data)


def config_pairs(config: dict[str, Any], dtype: str) -> list[_Pair]:
    """The keys llama.cpp reads of an architecture."""
    arch = config["arch"]
    norm = "layer_norm_epsilon" if config["norm"] == "layer" else "layer_norm_rms_epsilon"
    pairs = [_text("general.architecture", arch), _text("general.name", config["name"])]
    if dtype in _FILE_TYPES:
        pairs.append(_number("general.file_type", _FILE_TYPES[dtype]))
    if dtype == "Q8_0":
        pairs.append(_number("general.quantization_version", 2))
    pairs += [
        _number(f"{arch}.block_count", config["n_layers"]),
        _number(f"{arch}.context_length", config["context_length"]),
        _number(f"{arch}.embedding_length", config["d_model"]),
        _number(f"{arch}.feed_forward_length", config["d_ffn"]),
        _number(f"{arch}.attention.head_count", config["n_heads"]),
        _number(f"{arch}.attention.head_count_kv", config["n_kv_heads"]),
        _real(f"{arch}.attention.{norm}", config["norm_eps"]),
    ]
    if config["position"] == "rope":
        pairs += _rope_pairs(config)
    if config["attn_softcap"]:
        pairs.append(_real(f"{arch}.attn_logit_softcapping", config["attn_softcap"]))
    if config["final_softcap"]:
        pairs.append(_real(f"{arch}.final_logit_softcapping", config["final_softcap"]))
    if arch == "gptneox":
        pairs.append(_flag(f"{arch}.use_parallel_residual", config["parallel_residual"]))
    return pairs + _window_pairs(config)


def _rope_pairs(config: dict[str, Any]) -> list[_Pair]:
    """The rotary embedding."""
    arch = config["arch"]
    pairs = [
        _real(f"{arch}.rope.freq_base", config["rope_base"]),
        _number(f"{arch}.rope.dimension_count", config["rotary_dim"]),
    ]
    if arch != "gptneox":
        pairs.append(_number(f"{arch}.attention.key_length", config["head_dim"]))
        pairs.append(_number(f"{arch}.attention.value_length", config["head_dim"]))
    if config["rope_linear_scale"] != 1.0:
        pairs.append(_text(f"{arch}.rope.scaling.type", "linear"))
        pairs.append(_real(f"{arch}.rope.scaling.factor", config["rope_linear_scale"]))
    return pairs


def _window_pairs(config: dict[str, Any]) -> list[_Pair]:
    """The sliding window and the layers that have it."""
    arch, layers = config["arch"], set(config["windowed_layers"])
    if not layers:
        return []
    pairs = [_number(f"{arch}.attention.sliding_window", config["sliding_window"])]
    pattern = f"{arch}.attention.sliding_window_pattern"
    if arch == "gemma3":
        full = [i for i in range(config["n_layers"]) if i not in layers]
        pairs.append(_real(f"{arch}.rope.freq_base_swa", config["rope_base_local"]))
        pairs.append(_number(pattern, full[0] + 1 if full else config["n_layers"] + 1))
    elif arch.startswith("qwen"):
        flags = bytes(i in layers for i in range(config["n_layers"]))
        pairs.append((pattern, _ARRAY, _BOOL, len(flags), flags))
    return pairs


def _pre_name(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name of a byte-level tokenizer; what it stands for is compared later."""
    parts = json.dumps(tokenizer.get("pre_tokenizer"))
    nfc = "NFC" in json.dumps(tokenizer.get("normalizer"))
    if '"Digits"' in parts:
        return "smollm"
    if "{1,3}" in parts:
        return "llama-bpe" if tokenizer["model"].get("ignore_merges") else "dbrx"
    if '"Split"' in parts:
        return "qwen2"
    return "olmo" if nfc else "gpt-2"


def _implied(tokens: Sequence[str], order: dict[str, float]) -> list[list[str]]:
    """Every way to join two pieces into a third, by the order of what is made."""
    known = set(tokens)
    found = []
    for token in tokens:
        for cut in range(1, len(token)):
            if token[:cut] in known and token[cut:] in known:
                found.append(((order[token], -cut, cut - len(token)), [token[:cut], token[cut:]]))
    return [pair for _, pair in sorted(found)]


def _tokenizer_pairs(model: Model, tokenizer: dict[str, Any]) -> list[_Pair]:
    """A tokenizer.json as GGUF has it."""
    from km.chat import chat_template, special_tokens

    vocab = dict(tokenizer["model"]["vocab"])
    added = {token["content"]: token for token in tokenizer.get("added_tokens", [])}
    ids = vocab | {text: token["id"] for text, token in added.items()}
    tokens = sorted(ids, key=ids.__getitem__)
    marked = bool(tokenizer["model"].get("byte_fallback"))
    base = "tokenizer.ggml."

    def kind(token: str) -> int:
        if token in added:
            return 2 if token == "<unk>" and marked else 3 if added[token]["special"] else 4
        return 6 if marked and len(token) == 6 and token.startswith("<0x") else 1

    kinds = [kind(token) for token in tokens]
    pairs = [
        _text(f"{base}model", "llama" if marked else "gpt2"),
        _texts(f"{base}tokens", tokens),
        (f"{base}token_type", _ARRAY, _I32, len(kinds), struct.pack(f"<{len(kinds)}i", *kinds)),
        _flag(f"{base}add_bos_token", model.adds_bos),
    ]
    merges = [m.split(" ") if isinstance(m, str) else m for m in tokenizer["model"]["merges"]]
    if marked:
        pairs += _marked_pairs(tokenizer, tokens, merges)
    else:
        pairs.append(_text(f"{base}pre", _pre_name(tokenizer)))
        pairs.append(_texts(f"{base}merges", [" ".join(pair) for pair in merges]))
    unknown = tokenizer["model"]["unk_token"] if marked else special_tokens(model).get("unk_token")
    names = {"bos": model.bos, "eos": model.eos, "unknown": ids.get(unknown or "")}
    pairs += [_number(f"{base}{n}_token_id", i) for n, i in names.items() if i is not None]
    template = chat_template(model)
    return pairs + ([_text("tokenizer.chat_template", template)] if template else [])


def _marked_pairs(
    tokenizer: dict[str, Any], tokens: list[str], merges: list[list[str]]
) -> list[_Pair]:
    """Scores in place of merges: they have to say the same."""
    order: dict[str, float] = {}
    for i, (left, right) in enumerate(merges):
        order.setdefault(left + right, float(i))
    if _implied([t for t in tokens if t in order or len(t) == 1], dict(order)) != merges:
        raise UnsupportedError(
            "tokenizer.json: its merges are not those that scores of whole tokens imply, and GGUF "
            "has no others for a tokenizer of this kind"
        )
    parts = json.dumps([tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")])
    if "Metaspace" in parts and '"never"' not in parts:
        raise UnsupportedError(
            "tokenizer.json: Metaspace puts a blank first only where none is; GGUF cannot say that"
        )
    last = float(len(merges))
    scores = [-order.get(token, last) for token in tokens]
    base = "tokenizer.ggml."
    return [
        (f"{base}scores", _ARRAY, _F32, len(scores), struct.pack(f"<{len(scores)}f", *scores)),
        _flag(f"{base}add_space_prefix", "Prepend" in parts),
    ]


# ---- writing ----


def _check(model: Model, path: Path, marked: bool) -> None:
    """Read what was written and compare; UnsupportedError names the first field that differs."""
    other = _km.Model(path, model.context)
    for name, value in model.config.items():
        got = other.config[name]
        same = got == value
        if isinstance(value, float):
            same = math.isclose(got, value, rel_tol=1e-6)  # GGUF keeps them as float32
        if name not in _FREE and not same:
            raise UnsupportedError(
                f"{model.name}: GGUF cannot say that {name} is {value!r}: it would be "
                f"read as {got!r}"
            )
    if not marked and other.tokenizer_hash != model.tokenizer_hash:
        raise UnsupportedError(f"{model.name}: GGUF cannot say what its tokenizer does")


def to_gguf(model: Model, path: Path, dtype: Dtype, overwrite: bool) -> None:
    """Write a model that came as a folder as a GGUF file."""
    if path.exists() and not overwrite:
        raise ArgumentError(f"{path}: is there already; overwrite replaces it")
    config = model.config
    default = 1 / math.sqrt(config["head_dim"])
    if not math.isclose(config["attn_scale"], default, rel_tol=1e-6):
        raise UnsupportedError(
            f"{model.name}: its attention scale is {config['attn_scale']:g}; llama.cpp uses "
            f"{default:g} whatever a file says"
        )
    file = Path(model._model.path) / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    marked = bool(tokenizer["model"].get("byte_fallback"))
    pairs = config_pairs(config, dtype) + _tokenizer_pairs(model, tokenizer)
    part = path.with_name(f"{path.name}.{os.getpid()}.check")
    try:
        model._model.export_gguf(part, dtype, pairs)
        _check(model, part, marked)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
