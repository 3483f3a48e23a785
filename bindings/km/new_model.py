"""Models from scratch: a configuration and a tokenizer of one's own, fresh weights from a seed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from km import _km
from km.arguments import whole_number
from km.errors import ArgumentError, NotFoundError
from km.model import Model

Tokenizer: TypeAlias = "Model | str | os.PathLike[str]"

# transformers' model_type and class, and what an architecture has beside the common fields.
_FAMILIES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gpt2": ("gpt2", "GPT2LMHeadModel"),
    "gptneox": ("gpt_neox", "GPTNeoXForCausalLM"),
}
_REQUIRED = ("n_layers", "d_model", "n_heads")
_SIZES = (*_REQUIRED, "n_kv_heads", "head_dim", "d_ffn", "context_length", "vocab_size")
_REALS = ("rope_base", "norm_eps")
_KNOWN = ("arch", "name", *_SIZES, *_REALS, "tied_embeddings")
_PARTIAL = 0.25  # of a head turns in GPT-NeoX, as in Pythia


def new(
    config: Mapping[str, Any], tokenizer: Tokenizer, seed: int = 0, threads: int | None = None
) -> Model:
    """A model with fresh weights; see :meth:`km.Model.new`."""
    if threads is not None:
        whole_number("threads", threads, 1)
    fields = _complete(config)
    source = tokenizer if isinstance(tokenizer, Model) else None
    folder = None if source is not None else _folder(tokenizer)  # type: ignore[arg-type]
    if "vocab_size" not in fields:
        fields["vocab_size"] = _vocab_size(source, folder)
    text = json.dumps(_config_json(fields, source), indent=2)
    pairs = []
    if source is not None and source._model.metadata("tokenizer.ggml.model") is not None:
        from km.convert import config_pairs

        known = _km.config_from_json(text)
        pairs = config_pairs(known | {"name": str(fields["name"])}, "F32")
    shared = source is not None and threads is None
    context = source.context if shared else _km.Context(threads or 0, None)  # type: ignore[union-attr]
    owner = source._model if source is not None else None
    made = Model(_km.model_new(context, text, folder, owner, pairs, seed), str(fields["name"]))
    made._path = ""
    return made


def _complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with its defaults; ArgumentError names the field."""
    if not isinstance(config, Mapping):
        raise TypeError(f"a configuration is a dictionary, not {type(config).__name__}")
    unknown = [key for key in config if key not in _KNOWN]
    if unknown:
        raise ArgumentError(f"no field {unknown[0]!r}; there are {', '.join(_KNOWN)}")
    missing = [key for key in _REQUIRED if key not in config]
    if missing:
        raise ArgumentError(f"the configuration needs {missing[0]!r}")
    fields = {"arch": "llama", "name": "new model", **config}
    if fields["arch"] not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise ArgumentError(f"arch is {fields['arch']!r}; new models can be {known}")
    fields.setdefault("tied_embeddings", fields["arch"] != "gptneox")
    _check(fields)
    heads = fields["n_heads"]
    if "head_dim" not in fields and fields["d_model"] % heads:
        raise ArgumentError(f"d_model {fields['d_model']} is no multiple of n_heads {heads}")
    gated = fields["arch"] not in ("gpt2", "gptneox")
    width = fields["d_model"]
    fields.setdefault("n_kv_heads", heads)
    fields.setdefault("head_dim", width // heads)
    fields.setdefault("d_ffn", (8 * width // 3 + 63) // 64 * 64 if gated else 4 * width)
    fields.setdefault("context_length", 512)
    fields.setdefault("rope_base", 10000.0)
    fields.setdefault("norm_eps", 1e-5)
    _check_arch(fields)
    return fields


def _check(fields: Mapping[str, Any]) -> None:
    for key in _SIZES:
        value = fields.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{key} is {value!r}; it must be a whole number above 0")
    for key in _REALS:
        value = fields.get(key, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ArgumentError(f"{key} is {value!r}; it must be a number above 0")
    if not isinstance(fields["tied_embeddings"], bool):
        raise ArgumentError(
            f"tied_embeddings is {fields['tied_embeddings']!r}; it is True or False"
        )
    if not isinstance(fields["name"], str):
        raise ArgumentError(f"name is {fields['name']!r}; it must be a text")


def _check_arch(fields: Mapping[str, Any]) -> None:
    """What an architecture has no room for."""
    if fields["n_heads"] % fields["n_kv_heads"]:
        raise ArgumentError(
            f"n_heads {fields['n_heads']} is no multiple of n_kv_heads {fields['n_kv_heads']}"
        )
    if fields["arch"] in ("gpt2", "gptneox"):
        plain = {"n_kv_heads": fields["n_heads"], "head_dim": fields["d_model"] / fields["n_heads"]}
        for key, value in plain.items():
            if fields[key] != value:
                raise ArgumentError(f"{key} is {fields[key]}; {fields['arch']} has {value:g}")

    if fields["arch"] == "gptneox" and fields["tied_embeddings"]:
        raise ArgumentError("tied_embeddings is True; llama.cpp has no tied gptneox")


def _config_json(fields: Mapping[str, Any], source: Model | None) -> dict[str, Any]:
    """The configuration as transformers writes it."""
    model_type, name = _FAMILIES[fields["arch"]]
    common = {
        "architectures": [name],
        "model_type": model_type,
        "vocab_size": fields["vocab_size"],
        "tie_word_embeddings": fields["tied_embeddings"],
        "initializer_range": 0.02,
        "dtype": "float32",
        "bos_token_id": source.bos if source is not None else None,
        "eos_token_id": source.eos if source is not None else None,
    }
    if fields["arch"] == "gpt2":
        return common | {
            "n_layer": fields["n_layers"],
            "n_embd": fields["d_model"],
            "n_head": fields["n_heads"],
            "n_inner": fields["d_ffn"],
            "n_positions": fields["context_length"],
            "activation_function": "gelu_new",
            "layer_norm_epsilon": fields["norm_eps"],
        }
    sizes = {
        "num_hidden_layers": fields["n_layers"],
        "hidden_size": fields["d_model"],
        "intermediate_size": fields["d_ffn"],
        "num_attention_heads": fields["n_heads"],
        "max_position_embeddings": fields["context_length"],
    }
    rope = {"rope_type": "default", "rope_theta": fields["rope_base"]}
    if fields["arch"] == "gptneox":
        return common | sizes | _neox(fields, rope)
    return (
        common
        | sizes
        | {
            "num_key_value_heads": fields["n_kv_heads"],
            "head_dim": fields["head_dim"],
            "hidden_act": "silu",
            "rms_norm_eps": fields["norm_eps"],
            "rope_theta": fields["rope_base"],
            "rope_parameters": rope,
        }
    )


def _neox(fields: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hidden_act": "gelu",
        "layer_norm_eps": fields["norm_eps"],
        "use_parallel_residual": True,
        "rotary_pct": _PARTIAL,
        "rotary_emb_base": fields["rope_base"],
        "rope_parameters": {**rope, "partial_rotary_factor": _PARTIAL},
    }


def _folder(tokenizer: str | os.PathLike[str]) -> Path:
    """The folder of a tokenizer.json, or the folder itself."""
    path = Path(tokenizer).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise NotFoundError(f"no tokenizer {file}; give a tokenizer.json, its folder or a model")
    if file.name != "tokenizer.json":
        raise ArgumentError(f"{file}: a tokenizer's file is called tokenizer.json")
    return file.parent


def _vocab_size(source: Model | None, folder: Path | None) -> int:
    """The rows that the tokenizer's ids need."""
    if source is not None:
        return int(source.config["vocab_size"])
    file = Path(folder or ".") / "tokenizer.json"
    try:
        described = json.loads(file.read_bytes())
        ids = [*described["model"]["vocab"].values()]
        ids += [token["id"] for token in described.get("added_tokens", [])]
        return int(max(ids)) + 1
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ArgumentError(f"{file}: has no vocabulary that km reads") from None
