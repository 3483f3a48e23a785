"""Every architecture against transformers in F32, from Hugging Face folders and from GGUF.

Goldens: tests/oracle/make_arch.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arch_models import ARCH, FORMS, NAMES, model_path, prompts

import km

TOLERANCE = 5e-4  # nats; expected below 5e-5
PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


def every_logprob(model: km.Model, ids: list[int]) -> np.ndarray[Any, Any]:
    """(tokens, vocabulary)"""
    return np.array([np.asarray(model.next_logprobs(ids[: t + 1])) for t in range(len(ids))])


def check_model(model: km.Model, name: str) -> None:
    """Every token at every position of every prompt."""
    for ids, expected in prompts(name):
        got = every_logprob(model, ids)
        assert np.abs(got - expected).max() < TOLERANCE
        following = np.asarray(model.logprobs(ids))
        assert np.abs(following - expected[np.arange(len(ids) - 1), ids[1:]]).max() < TOLERANCE


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_logprobs(name: str, form: str) -> None:
    check_model(km.load(model_path(name, form)), name)


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_mean_the_same(name: str) -> None:
    """Apart from the order of rotary pairs, where Gemma's 1 is, and Llama 3's factors, which GGUF
    holds as a tensor."""
    folder, gguf = (km.load(model_path(name, form)) for form in FORMS)
    assert folder.n_parameters == gguf.n_parameters
    differ = {
        "name",
        "rope_pairs",
        "norm_offset",
        *(k for k in folder.config if k.startswith("rope_")),
    }
    common = folder.config.keys() - differ
    single = {
        key: np.float32(value) if isinstance(value, float) else value
        for key, value in gguf.config.items()
    }
    for key in common:
        value = folder.config[key]
        assert single[key] == (np.float32(value) if isinstance(value, float) else value), key


@pytest.mark.parametrize("name", NAMES)
def test_random_control(name: str) -> None:
    """Fresh weights of every shape: finite, near the uniform distribution, the same for a seed."""
    for form in FORMS:
        model = km.load(model_path(name, form))
        ids = prompts(name)[1][0]
        first, again, other = (model.random_like(seed=seed) for seed in (3, 3, 4))
        logprobs = np.asarray(first.next_logprobs(ids))
        assert np.isfinite(logprobs).all()
        assert np.abs(logprobs + np.log(len(logprobs))).max() < 2.0
        assert np.asarray(again.next_logprobs(ids)).tobytes() == logprobs.tobytes()
        assert np.asarray(other.next_logprobs(ids)).tobytes() != logprobs.tobytes()
        assert first.n_parameters == model.n_parameters
        assert len({model.fingerprint, first.fingerprint, other.fingerprint}) == 3


# ---- folders written differently ----

Rename = Callable[[str], str]


def rewrite(
    source: Path, target: Path, rename: Rename, config: dict[str, Any], extra: bytes
) -> Path:
    """The model with tensors renamed, another config.json, and one tensor of bytes more."""
    raw = (source / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    header = {rename(name): entry for name, entry in header.items()}
    if extra:
        n = len(raw) - start
        header["h.0.attn.bias"] = {
            "dtype": "BOOL",
            "shape": [1, 1, 1, len(extra)],
            "data_offsets": [n, n + len(extra)],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    target.mkdir(exist_ok=True)
    (target / "model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + raw[start:] + extra
    )
    (target / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((source / name).read_bytes())
    return target


def read_config(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((ARCH / name / "config.json").read_text())
    return config


def keep(name: str) -> str:
    return name


def old_config(name: str) -> dict[str, Any]:
    """config.json as transformers 4 writes it."""
    config = read_config(name)
    types = config.pop("layer_types", None)
    rope = config.pop("rope_parameters", None)
    config["torch_dtype"] = config.pop("dtype")
    if name == "gemma3":
        full, local = rope["full_attention"], rope["sliding_attention"]
        config["sliding_window_pattern"] = types.index("full_attention") + 1
        config["rope_local_base_freq"] = local["rope_theta"]
        rope = full
    if name in ("pythia", "neox_sequential"):
        config["rotary_emb_base"] = rope.pop("rope_theta")
        config["rotary_pct"] = rope.pop("partial_rotary_factor")
    elif rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return config


@pytest.mark.parametrize("name", NAMES)
def test_names_of_transformers_4(name: str, tmp_path: Path) -> None:
    """Both generations of config.json are one model: the fingerprint covers every field."""
    old = rewrite(ARCH / name, tmp_path / "old", keep, old_config(name), b"")
    assert km.load(old).fingerprint == km.load(ARCH / name).fingerprint


@pytest.mark.parametrize(
    ("body", "head"),
    [("language_model.model.", "language_model.lm_head."), ("model.language_model.", "lm_head.")],
)
def test_gemma3_inside_a_model_with_images(body: str, head: str, tmp_path: Path) -> None:
    config = {"model_type": "gemma3", "text_config": read_config("gemma3"), "vision_config": {}}

    def rename(name: str) -> str:
        return name.replace("model.", body, 1).replace("lm_head.", head, 1)

    check_model(km.load(rewrite(ARCH / "gemma3", tmp_path, rename, config, b"")), "gemma3")


def test_gpt2_without_prefix_and_with_a_mask(tmp_path: Path) -> None:
    """As the oldest files on the hub are."""

    def rename(name: str) -> str:
        return name.removeprefix("transformer.")

    folder = rewrite(ARCH / "gpt2", tmp_path, rename, read_config("gpt2"), b"\1\0\1")
    check_model(km.load(folder), "gpt2")


def test_gpt_neox_before_transformers_5(tmp_path: Path) -> None:
    def rename(name: str) -> str:
        return name.replace("lm_head.weight", "embed_out.weight")

    folder = rewrite(ARCH / "pythia", tmp_path, rename, read_config("pythia"), b"\1")
    check_model(km.load(folder), "pythia")


# ---- what would change the numbers ----


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("llama3", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters"),
        ("llama3", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama3", {"attention_bias": True}, "self_attn.q_proj.bias"),
        ("llama_bias", {"mlp_bias": False}, "mlp.*bias"),
        ("qwen2_window", {"layer_types": ["linear_attention"] * 3}, "layer_types"),
        ("qwen3", {"hidden_act": "relu2"}, "hidden_act"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"n_inner": 96}, "h.0.mlp.c_fc.weight.*shape"),
        ("pythia", {"attention_bias": False}, "bias"),
        ("pythia", {"model_type": "gptj"}, "model_type"),
    ],
)
def test_refusals_name_the_field(
    name: str, change: dict[str, Any], field: str, tmp_path: Path
) -> None:
    folder = rewrite(ARCH / name, tmp_path, keep, read_config(name) | change, b"")
    with pytest.raises((km.UnsupportedError, km.FormatError)) as caught:
        km.load(folder)
    assert re.search(field, str(caught.value)), caught.value


# ---- the page ----


def test_the_page_has_every_model() -> None:
    """docs/architectures.md holds the table that tools/parity_table.py writes."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.e-]+) \| ([\d.e-]+) \|$", PAGE.read_text(), re.M)
    assert [name for name, _, _ in rows] == list(NAMES)
    assert all(float(mean) < float(largest) < TOLERANCE for _, largest, mean in rows)
