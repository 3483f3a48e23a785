#!/usr/bin/env python3
"""Write the hostile and the small valid files the parser targets start from.

usage: make_corpus.py [OUT_DIR]        default: the folder `corpus` beside this script

One folder a parser: gguf, safetensors, config, tokenizer. Files have no extension that any tool
would act on and are rebuilt byte for byte by running the script again.
"""

from __future__ import annotations

import json
import pathlib
import struct
import sys
from collections.abc import Iterator
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
COUNTS = {
    "0": 0,
    "1": 1,
    "1e6": 10**6,
    "1e6_plus_1": 10**6 + 1,
    "2_31_minus_1": 2**31 - 1,
    "2_31": 2**31,
    "2_32": 2**32,
    "2_62": 2**62,
    "2_63": 2**63,
    "2_64_minus_1": 2**64 - 1,
}
Pair = tuple[str, bytes]


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw)) + raw


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return string(name) + u32(kind) + value


def number(name: str, value: int) -> bytes:
    return key(name, U32, u32(value))


def real(name: str, value: float) -> bytes:
    return key(name, F32, struct.pack("<f", value))


def array(element: int, n: int, raw: bytes) -> bytes:
    return u32(element) + u64(n) + raw


def tensor(name: str | bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return string(name) + u32(len(dims)) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def gguf(
    keys: list[bytes],
    tensors: list[bytes],
    data: bytes = b"",
    *,
    version: int = 3,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    head = b"GGUF" + u32(version)
    head += u64(len(tensors) if n_tensors is None else n_tensors)
    head += u64(len(keys) if n_keys is None else n_keys)
    head += b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data


LLAMA_SIZES = {
    "llama.block_count": 1,
    "llama.embedding_length": 4,
    "llama.feed_forward_length": 8,
    "llama.context_length": 16,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
}


def llama_keys(**changes: int) -> list[bytes]:
    sizes = LLAMA_SIZES | {f"llama.{k}": v for k, v in changes.items()}
    keys = [key("general.architecture", STRING, string("llama"))]
    keys += [number(k, v) for k, v in sizes.items()]
    keys.append(real("llama.attention.layer_norm_rms_epsilon", 1e-5))
    keys.append(key("tokenizer.ggml.tokens", ARRAY, array(STRING, 3, b"".join(map(string, "abc")))))
    return keys


def gguf_counts() -> Iterator[Pair]:
    """Every count and length of a header set to every awkward number."""
    ones = [number("a", 1)]
    weight = [tensor("w", (8,), 0, 0)]
    for label, n in COUNTS.items():
        yield f"n_keys_{label}", gguf(ones, [], n_keys=n)
        yield f"n_tensors_{label}", gguf([], weight, bytes(32), n_tensors=n)
        yield f"array_length_{label}", gguf([key("a", ARRAY, array(U8, n, b"\1"))], [])
        yield f"array_strings_{label}", gguf([key("a", ARRAY, array(STRING, n, string("x")))], [])
        yield f"array_wide_{label}", gguf([key("a", ARRAY, array(U64, n, u64(7)))], [])
        yield f"string_length_{label}", gguf([string("a") + u32(STRING) + u64(n) + b"x"], [])
        yield f"key_length_{label}", gguf([u64(n) + b"a" + u32(U8) + b"\1"], [])
        yield f"name_length_{label}", gguf([], [u64(n) + b"w" + u32(1) + u64(8) + u32(0) + u64(0)])
        yield f"dimension_{label}", gguf([], [tensor("w", (n,), 0, 0)], bytes(32))
        yield f"product_{label}", gguf([], [tensor("w", (n, n), 0, 0)], bytes(32))
        yield f"offset_{label}", gguf([], [tensor("w", (8,), 0, n)], bytes(32))
        if n < 2**32:
            yield f"n_dims_{label}", gguf([], [string("w") + u32(n) + u64(8) + u32(0) + u64(0)])
            yield (
                f"alignment_{label}",
                gguf([number("general.alignment", n)], weight, bytes(64)),
            )


def gguf_rules() -> Iterator[Pair]:
    """Each further rule of the format broken once, and small valid files."""
    weight = tensor("w", (8,), 0, 0)
    data = bytes(64)
    # The 49 bytes that make other readers loop: one key, an array of 2^63 elements.
    yield (
        "array_2_63_in_49_bytes",
        gguf([key("a", ARRAY, array(U8, 2**63, b""))], [], alignment=1),
    )
    yield "empty", b""
    yield "magic_only", b"GGUF"
    yield "not_gguf", b"PK\3\4 something else entirely"
    yield "big_endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)
    for version in (0, 1, 4, 2**31):
        yield f"version_{version}", gguf([], [], version=version)
    yield "nothing_in_it", gguf([], [])
    yield "version_2", gguf([number("a", 1)], [weight], data, version=2)
    for alignment in (3, 4, 7, 8, 24, 64, 65536, 131072):
        keys = [number("general.alignment", alignment)]
        yield f"alignment_is_{alignment}", gguf(keys, [weight], data, alignment=alignment)
    yield "alignment_text", gguf([key("general.alignment", STRING, string("32"))], [weight], data)
    yield "alignment_negative", gguf([key("general.alignment", I32, u32(2**32 - 32))], [weight])
    yield "key_type_13", gguf([string("a") + u32(13) + u64(1)], [])
    yield "key_twice", gguf([number("a", 1), number("a", 2)], [])
    yield "key_empty", gguf([number("", 1)], [])
    yield "key_with_nul", gguf([number("a\0b", 1)], [])
    yield "key_not_utf8", gguf([key(b"\xff\xfe", U8, b"\1")], [])
    yield "value_not_utf8", gguf([key("a", STRING, string(b"\xed\xa0\x80"))], [])
    yield "bool_2", gguf([key("a", BOOL, b"\2")], [])
    yield "bools_3", gguf([key("a", ARRAY, array(BOOL, 2, b"\1\3"))], [])
    yield "array_of_arrays", gguf([key("a", ARRAY, array(ARRAY, 1, array(U8, 1, b"\1")))], [])
    yield "arrays_2000_deep", gguf([key("a", ARRAY, u32(ARRAY) * 2000)], [])
    yield "array_element_99", gguf([key("a", ARRAY, array(99, 1, b"\1"))], [])
    yield "tensor_twice", gguf([], [weight, tensor("w", (8,), 0, 32)], data)
    yield "tensors_overlap", gguf([], [weight, tensor("v", (8,), 0, 0)], data)
    yield "tensors_overlap_partly", gguf([], [tensor("w", (16,), 0, 0), tensor("v", (8,), 0, 32)])
    yield "tensor_misaligned", gguf([], [tensor("w", (8,), 0, 8)], data)
    yield "tensor_past_end", gguf([], [tensor("w", (64,), 0, 0)], data)
    yield "tensor_offset_wraps", gguf([], [tensor("w", (8,), 0, 2**64 - 32)], data)
    yield "tensor_name_long", gguf([], [tensor("w" * 300, (8,), 0, 0)], data)
    yield "tensor_name_nul", gguf([], [tensor("w\0", (8,), 0, 0)], data)
    yield "dims_product_wraps", gguf([], [tensor("w", (2**32, 2**32), 0, 0)], data)
    yield "dims_bytes_wrap", gguf([], [tensor("w", (2**62,), 0, 0)], data)
    yield "blocks_not_whole", gguf([], [tensor("w", (33,), 3, 0)], data)
    for kind in (4, 10, 17, 24, 31, 39, 41, 2**32 - 1):
        yield f"tensor_type_{kind}", gguf([], [tensor("w", (256,), kind, 0)], bytes(1024))
    for kind, size in ((1, 64), (2, 18), (3, 20), (6, 22), (7, 24), (8, 34), (30, 64)):
        yield f"valid_type_{kind}", gguf([], [tensor("w", (32,), kind, 0)], bytes(range(size)))
    for kind, size in ((12, 144), (13, 176), (14, 210)):
        yield f"valid_type_{kind}", gguf([], [tensor("w", (256,), kind, 0)], bytes(range(size)))
    scalars = [
        key(f"k{kind}", kind, raw)
        for kind, raw in (
            (U8, b"\xff"),
            (I8, b"\xff"),
            (U16, b"\xff\xff"),
            (I16, b"\xff\xff"),
            (U32, u32(2**32 - 1)),
            (I32, u32(2**32 - 1)),
            (F32, struct.pack("<f", float("nan"))),
            (BOOL, b"\1"),
            (STRING, string("é")),
            (U64, u64(2**64 - 1)),
            (I64, u64(2**63)),
            (F64, struct.pack("<d", float("inf"))),
            (ARRAY, array(I16, 3, b"\1\0\2\0\3\0")),
        )
    ]
    yield "valid_every_key_type", gguf(scalars, [weight, tensor("v", (2, 4), 0, 32)], data)


def gguf_configs() -> Iterator[Pair]:
    """Model headers: one right, others with one size wrong."""
    embed = [tensor("token_embd.weight", (4, 3), 0, 0)]
    data = bytes(64)
    yield "llama", gguf(llama_keys(), embed, data)
    yield "llama_no_embedding", gguf(llama_keys(), [], data)
    yield "llama_no_sizes", gguf(llama_keys()[:1], embed, data)
    for field in LLAMA_SIZES:
        short = field.removeprefix("llama.")
        for value in (0, 2**31 - 1, 2**32 - 1):
            yield f"llama_{short}_{value}", gguf(llama_keys(**{short: value}), embed, data)
    yield (
        "llama_heads_3_of_2",
        gguf(llama_keys(**{"attention.head_count": 2, "attention.head_count_kv": 3}), embed, data),
    )
    yield "llama_experts", gguf(llama_keys(expert_count=8), embed, data)
    rope = key("llama.rope.scaling.type", STRING, string("yarn"))
    yield "llama_yarn", gguf([*llama_keys(), rope], embed, data)
    for name in ("gpt2", "gemma2", "", "x" * 500):
        keys = [key("general.architecture", STRING, string(name))]
        yield f"architecture_{name[:8]}", gguf(keys, embed, data)
    gemma = [key("general.architecture", STRING, string("gemma3"))]
    gemma += [number(k.replace("llama", "gemma3"), v) for k, v in LLAMA_SIZES.items()]
    gemma.append(real("gemma3.attention.layer_norm_rms_epsilon", 1e-6))
    yield "gemma3_no_window", gguf(gemma, embed, data)
    gemma.append(number("gemma3.attention.sliding_window", 512))
    yield "gemma3", gguf(gemma, embed, data)
    flags = key("gemma3.attention.sliding_window_pattern", ARRAY, array(BOOL, 1, b"\1"))
    yield "gemma3_flags", gguf([*gemma, flags], embed, data)
    short = key("gemma3.attention.sliding_window_pattern", ARRAY, array(BOOL, 0, b""))
    yield "gemma3_no_flags", gguf([*gemma, short], embed, data)
    for name, epsilon in (
        ("gpt2", "layer_norm_epsilon"),
        ("gptneox", "layer_norm_epsilon"),
        ("qwen2", "layer_norm_rms_epsilon"),
        ("qwen3", "layer_norm_rms_epsilon"),
        ("gemma2", "layer_norm_rms_epsilon"),
    ):
        keys = [key("general.architecture", STRING, string(name))]
        keys += [number(k.replace("llama", name), v) for k, v in LLAMA_SIZES.items()]
        keys.append(real(f"{name}.attention.{epsilon}", 1e-6))
        yield f"{name}_short", gguf(keys, embed, data)
        keys.append(key(f"{name}.use_parallel_residual", BOOL, b"\1" if "neox" in name else b"\0"))
        keys.append(real(f"{name}.attn_logit_softcapping", 50.0))
        keys.append(real(f"{name}.attention.scale", 0.25))
        yield name, gguf(keys, embed, data)


def entry(dtype: str, shape: list[int], offsets: list[int]) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return u64(len(raw) if length is None else length) + raw + data


def safetensors_files() -> Iterator[Pair]:
    """Header lengths, offsets and shapes at their limits; JSON at its worst."""
    data = bytes(16)
    one = {"w": entry("F32", [4], [0, 16])}
    yield "valid", safetensors(one, data)
    yield "valid_metadata", safetensors({"__metadata__": {"format": "pt"}, **one}, data)
    yield "valid_padded", safetensors(json.dumps(one).encode() + b"   ", data)
    yield "valid_scalar", safetensors({"w": entry("F32", [], [0, 4])}, bytes(4))
    yield (
        "valid_empty_tensor",
        safetensors({"e": entry("F32", [0], [0, 0]), "w": entry("BF16", [2, 4], [0, 16])}, data),
    )
    yield (
        "valid_two",
        safetensors({"b": entry("F16", [2], [12, 16]), "a": entry("F32", [3], [0, 12])}, data),
    )
    yield (
        "valid_escapes",
        safetensors(rb'{"\u0041\ud83d\ude00\n":' + b"%s}" % (json.dumps(one["w"]).encode()), data),
    )
    yield "valid_no_tensors", safetensors({}, b"")
    yield "empty", b""
    yield "seven_bytes", bytes(7)
    for label, n in COUNTS.items():
        yield f"header_length_{label}", safetensors(one, data, length=n)
        yield f"dimension_{label}", safetensors({"w": entry("F32", [n], [0, 16])}, data)
        yield f"product_{label}", safetensors({"w": entry("F32", [n, n, n], [0, 16])}, data)
        yield f"begin_{label}", safetensors({"w": entry("F32", [4], [n, 16])}, data)
        yield f"end_{label}", safetensors({"w": entry("F32", [4], [0, n])}, data)
        yield f"both_{label}", safetensors({"w": entry("F32", [4], [n, n + 16])}, data)
    yield "dimension_negative", safetensors({"w": entry("F32", [-4], [0, 16])}, data)
    yield (
        "dimension_real",
        safetensors(b'{"w":{"dtype":"F32","shape":[4.0],"data_offsets":[0,16]}}'),
    )
    yield "five_dimensions", safetensors({"w": entry("F32", [1, 1, 1, 1, 4], [0, 16])}, data)
    yield (
        "overlap",
        safetensors({"a": entry("F32", [4], [0, 16]), "b": entry("F32", [2], [8, 16])}, data),
    )
    yield (
        "same_place",
        safetensors({"a": entry("F32", [4], [0, 16]), "b": entry("F32", [4], [0, 16])}, data),
    )
    yield "hole", safetensors({"a": entry("F32", [2], [8, 16])}, data)
    yield "trailing_bytes", safetensors(one, data + b"x")
    for dtype in ("I64", "BOOL", "F8_E4M3", "f32", "", "F64" * 100):
        yield f"dtype_{dtype[:8]}", safetensors({"w": entry(dtype, [4], [0, 16])}, data)
    text = json.dumps(one["w"]).encode()
    yield "name_twice", safetensors(b'{"w":%s,"w":%s}' % (text, text), data)
    yield "name_twice_escaped", safetensors(b'{"w":%s,"\\u0077":%s}' % (text, text), data)
    yield "name_nul", safetensors(b'{"w\\u0000":%s}' % text, data)
    yield "name_not_utf8", safetensors(b'{"\xff":%s}' % text, data)
    yield "name_lone_surrogate", safetensors(b'{"\\ud800":%s}' % text, data)
    yield (
        "field_twice",
        safetensors(b'{"w":{"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]}}', data),
    )
    yield "field_missing", safetensors({"w": {"dtype": "F32", "shape": [4]}}, data)
    yield "field_unknown", safetensors({"w": {**one["w"], "extra": 1}}, data)
    yield "metadata_twice", safetensors(b'{"__metadata__":{},"__metadata__":{}}')
    yield "metadata_number", safetensors(b'{"__metadata__":17,"w":%s}' % text, data)
    yield "not_an_object", safetensors(b"[1,2,3]")
    yield "no_colon", safetensors(b'{"w" 1}')
    yield "no_end", safetensors(b'{"w":')
    yield "string_no_end", safetensors(b'{"w')
    yield "comma_at_end", safetensors(b'{"w":%s,}' % text, data)
    yield "text_after_end", safetensors(b'{"w":%s} x' % text, data)
    yield "leading_zero", safetensors(b'{"w":{"dtype":"F32","shape":[04],"data_offsets":[0,16]}}')
    yield "nested_arrays_100000", safetensors(b'{"__metadata__":' + b"[" * 100000)
    yield "nested_objects_20000", safetensors(b'{"__metadata__":' + b'{"a":' * 20000)
    yield "nested_33", safetensors(b'{"__metadata__":' + b"[" * 33 + b"]" * 33 + b"}")
    yield "nested_32", safetensors(b'{"__metadata__":' + b"[" * 32 + b"]" * 32 + b"}")
    many = {f"t{i}": entry("F32", [0], [0, 0]) for i in range(300)}
    yield "valid_300_tensors", safetensors(many)
    mask = {"h.0.attn.bias": entry("BOOL", [2, 2], [16, 20]), "w": entry("F32", [4], [0, 16])}
    yield "valid_mask", safetensors(mask, bytes(20))
    yield "mask_too_long", safetensors({"attn.bias": entry("U8", [2**62, 8], [0, 16])}, data)


LLAMA_JSON: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 10,
}
GEMMA_JSON: dict[str, object] = {
    "model_type": "gemma3_text",
    "num_hidden_layers": 3,
    "hidden_size": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}


SIZED_JSON: dict[str, object] = {**LLAMA_JSON, "num_key_value_heads": 1, "num_hidden_layers": 3}
FAMILIES_JSON: dict[str, dict[str, object]] = {
    "mistral": {**SIZED_JSON, "sliding_window": 4, "head_dim": 8},
    "qwen2": {**SIZED_JSON, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {**SIZED_JSON, "attention_bias": True},
    "gemma2": {**GEMMA_JSON, "attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 8},
    "gpt_neox": {**SIZED_JSON, "rotary_pct": 0.5, "use_parallel_residual": False},
    "gpt2": {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 10, "n_inner": None},
}


def family_files() -> Iterator[Pair]:
    """Each further model_type: right, and with its fields of wrong types."""
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    llama3["original_max_position_embeddings"] = 8192
    yield "llama_llama3_whole", json.dumps(LLAMA_JSON | {"rope_scaling": llama3}).encode()
    for name, fields in FAMILIES_JSON.items():
        right = {**fields, "model_type": name}
        yield name, json.dumps(right).encode()
        for field in fields.keys() - LLAMA_JSON.keys():
            for label, value in (("null", None), ("text", "8"), ("negative", -1), ("2_31", 2**31)):
                yield f"{name}_{field}_{label}", json.dumps(right | {field: value}).encode()


def config_files() -> Iterator[Pair]:
    """Both generations of fields, every field of every wrong type, JSON at its worst."""
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    changes: dict[str, dict[str, object]] = {
        "old_rope": {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        "new_rope": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        "llama3_rope": {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        "nested_rope": {"rope_parameters": nested},
        "rope_list": {"rope_parameters": [1]},
        "rope_kind_number": {"rope_parameters": {"rope_type": 3}},
        "bias": {"attention_bias": True},
        "mlp_bias": {"mlp_bias": True},
        "soft_cap": {"final_logit_softcapping": 30.0},
        "quantised": {"quantization_config": {"bits": 4}},
        "activation": {"hidden_act": "gelu"},
        "activation_number": {"hidden_act": 3},
        "partial": {"partial_rotary_factor": 0.5},
        "nulls": {"rope_scaling": None, "head_dim": None, "num_key_value_heads": None},
    }
    yield from family_files()
    yield "llama", json.dumps(LLAMA_JSON).encode()
    yield "gemma3_text", json.dumps(GEMMA_JSON).encode()
    yield "gemma3", json.dumps({"model_type": "gemma3", "text_config": GEMMA_JSON}).encode()
    yield "gemma3_no_text", json.dumps({"model_type": "gemma3"}).encode()
    yield "gemma3_text_number", json.dumps({"model_type": "gemma3", "text_config": 1}).encode()
    for label, change in changes.items():
        yield f"llama_{label}", json.dumps(LLAMA_JSON | change).encode()
        yield f"gemma3_{label}", json.dumps(GEMMA_JSON | change).encode()
    for field in LLAMA_JSON:
        for label, value in (
            ("null", None),
            ("text", "8"),
            ("real", 8.5),
            ("negative", -1),
            ("zero", 0),
            ("list", []),
            ("2_31", 2**31),
            ("2_63", 2**63),
            ("2_64", 2**64),
        ):
            yield f"{field}_{label}", json.dumps(LLAMA_JSON | {field: value}).encode()
    for label, types in (
        ("short", ["full_attention"]),
        ("numbers", [1, 2, 3]),
        ("uneven", ["full_attention", "sliding_attention", "full_attention"]),
        ("unknown", ["chunked_attention"] * 3),
        ("none_full", ["sliding_attention"] * 3),
        ("object", {}),
    ):
        yield f"layer_types_{label}", json.dumps(GEMMA_JSON | {"layer_types": types}).encode()
    yield "empty", b""
    yield "blank", b"   "
    yield "number", b"17"
    yield "array", b"[]"
    yield "no_end", b'{"model_type": "lla'
    yield "not_utf8", b'{"model_type": "\xff\xfe"}'
    yield "nul_in_text", b'{"model_type": "llama\\u0000x"}'
    yield "key_twice", b'{"model_type": "llama", "model_type": "llama"}'
    yield "unknown_type", b'{"model_type": "mamba"}'
    yield "long_type", json.dumps({"model_type": "é" * 3000}).encode()
    yield "nested_100000", b'{"a":' + b"[" * 100000
    yield "nested_objects_20000", b'{"a":' * 20000
    yield "huge_real", b'{"model_type": "llama", "rope_theta": 1e999}'
    yield "nan", b'{"model_type": "llama", "rope_theta": NaN}'
    yield "text_after_end", json.dumps(LLAMA_JSON).encode() + b" x"


# ---- tokenizer ----

MARK = "\u2581"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level_file() -> dict[str, Any]:
    """Return a small tokenizer.json of the byte-level kind."""
    vocab = {c: i for i, c in enumerate("abcdefghijklmnop0123456789ĠĊ!'")}
    merges = ["a b", "ab c", "Ġ a", "1 2", "ab ab", "! !"]
    for merge in merges:
        vocab[merge.replace(" ", "")] = len(vocab)
    return {
        "added_tokens": [{"id": len(vocab), "content": "<s>", "special": True}],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def marked_file() -> dict[str, Any]:
    """Return a small tokenizer.json of the SentencePiece kind."""
    pieces = ["<unk>", "<s>", "a", "b", MARK, MARK + "a", "ab", MARK * 2, "<tag>"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    undo = {"type": "Replace", "pattern": {"String": MARK}, "content": " "}
    decoders = [undo, {"type": "ByteFallback"}, {"type": "Fuse"}]
    single = [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]
    return {
        "added_tokens": [
            {"id": 0, "content": "<unk>", "special": True},
            {"id": 1, "content": "<s>", "special": True},
            {"id": 8, "content": "<tag>", "special": False},
        ],
        "normalizer": replace,
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "special_tokens": {"<s>": {"ids": [1]}},
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "fuse_unk": True,
            "unk_token": "<unk>",
            "vocab": vocab,
            "merges": [[MARK, MARK], [MARK, "a"], ["a", "b"]],
        },
    }


def tokenizer_json() -> Iterator[Pair]:
    """Yield tokenizer.json files, good ones with text behind a zero byte."""
    good = {"bytes": byte_level_file(), "marked": marked_file()}
    digits = {"type": "Digits", "individual_digits": True}
    split = {"type": "Split", "pattern": {"Regex": LLAMA_SPLIT}, "behavior": "Isolated"}
    level = BYTE_LEVEL | {"use_regex": False}
    for name, parts in (("smollm", [digits, BYTE_LEVEL]), ("llama", [split, level])):
        sequence = {"type": "Sequence", "pretokenizers": parts}
        good[name] = byte_level_file() | {"pre_tokenizer": sequence}
    good["nfc"] = byte_level_file() | {"normalizer": {"type": "NFC"}}
    good["nfc"]["added_tokens"] = [
        {**token, "normalized": i % 2 == 0} for i, token in enumerate(good["nfc"]["added_tokens"])
    ]
    metaspace = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first"}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    steps = [s for s in marked_file()["decoder"]["decoders"] if s["type"] != "Strip"]
    good["metaspace"] = marked_file() | {
        "normalizer": None,
        "pre_tokenizer": metaspace | {"split": False},
        "decoder": {"type": "Sequence", "decoders": [*steps, strip]},
    }
    texts = [b"", b"abc ab  a12!!\n", bytes(range(256)), b"<s><s", b" \xff\xe2 \x96\x81 "]
    texts.append("ab\u0301\u0323 \u1100\u1161\u11a8<s>\u0338 \U0001d160a".encode())
    for name, file in good.items():
        raw = json.dumps(file, ensure_ascii=False).encode()
        for i, text in enumerate(texts):
            yield f"{name}_text_{i}", raw + b"\0" + text
        for key in file:
            yield f"{name}_without_{key}", json.dumps({**file, key: {}}).encode()
    yield "empty", b""
    yield "nested_100000", b"[" * 100000
    yield "not_utf8", b'{"model":{"type":"\xff"}}'
    yield "long_multibyte_type", json.dumps({"model": {"type": "é" * 400}}).encode()
    raw = json.dumps(byte_level_file(), ensure_ascii=False)
    for name, old, new in (
        ("id_huge", '"a": 0', '"a": 9223372036854775807'),
        ("id_negative", '"a": 0', '"a": -1'),
        ("id_twice", '"a": 0', '"a": 1'),
        ("id_real", '"a": 0', '"a": 0.5'),
        ("merge_unknown", '"a b"', '"a zz"'),
        ("merge_twice", '"ab c"', '"a b"'),
        ("merge_three", '"a b"', '"a b c"'),
        ("merge_number", '"a b"', "7"),
        ("added_empty", '"<s>"', '""'),
        ("added_nul", '"<s>"', '"\\u0000"'),
        ("added_long", '"<s>"', json.dumps("x" * 5000)),
    ):
        yield name, raw.replace(old, new, 1).encode()


def strings(name: str, texts: list[str]) -> bytes:
    """Return a GGUF key holding an array of strings."""
    return key(name, ARRAY, array(STRING, len(texts), b"".join(map(string, texts))))


def numbers(name: str, values: list[int]) -> bytes:
    """Return a GGUF key holding an array of int32."""
    return key(name, ARRAY, array(I32, len(values), struct.pack(f"<{len(values)}i", *values)))


def reals(name: str, values: list[float]) -> bytes:
    """Return a GGUF key holding an array of float32."""
    return key(name, ARRAY, array(F32, len(values), struct.pack(f"<{len(values)}f", *values)))


def tokenizer_gguf() -> Iterator[Pair]:
    """Yield GGUF files that hold nothing but a tokenizer, good ones and ones with one fault."""
    base = "tokenizer.ggml."
    byte_level = {
        "model": key(base + "model", STRING, string("gpt2")),
        "pre": key(base + "pre", STRING, string("smollm")),
        "tokens": strings(base + "tokens", ["<s>", "a", "b", "ab", "Ġ", "1"]),
        "types": numbers(base + "token_type", [3, 1, 1, 1, 1, 1]),
        "merges": strings(base + "merges", ["a b"]),
        "bos": number(base + "bos_token_id", 0),
    }
    marked = {
        "model": key(base + "model", STRING, string("llama")),
        "tokens": strings(base + "tokens", ["<unk>", "a", "b", "ab", MARK, "  ", "<0xFF>"]),
        "types": numbers(base + "token_type", [2, 1, 1, 1, 1, 4, 6]),
        "scores": reals(base + "scores", [0, -1, -2, -3, -4, -5, -6]),
        "bos": number(base + "bos_token_id", 1),
        "unk": number(base + "unknown_token_id", 0),
    }
    faults = {
        "pre_unknown": ("pre", key(base + "pre", STRING, string("tekken"))),
        "pre_nul": ("pre", key(base + "pre", STRING, string("smollm\0x"))),
        "pre_not_utf8": ("pre", key(base + "pre", STRING, string(b"\xff\xfe"))),
        "pre_number": ("pre", number(base + "pre", 1)),
        "model_unknown": ("model", key(base + "model", STRING, string("rwkv" * 40))),
        "types_short": ("types", numbers(base + "token_type", [1])),
        "types_wild": ("types", numbers(base + "token_type", [7] * 6)),
        "types_byte": ("types", numbers(base + "token_type", [6] * 6)),
        "merges_wild": ("merges", strings(base + "merges", ["a", "", " ", "a b c", "z z"])),
        "tokens_empty": ("tokens", strings(base + "tokens", [])),
        "tokens_equal": ("tokens", strings(base + "tokens", ["a"] * 6)),
        "tokens_blank": ("tokens", strings(base + "tokens", ["", "a", "b", "ab", "Ġ", "1"])),
        "bos_outside": ("bos", number(base + "bos_token_id", 6)),
        "bos_huge": ("bos", number(base + "bos_token_id", 2**32 - 1)),
    }
    yield "gguf_bytes", gguf(list(byte_level.values()), [])
    yield "gguf_marked", gguf(list(marked.values()), [])
    nan = reals(base + "scores", [float("nan")] * 7)
    yield "gguf_scores_nan", gguf(list((marked | {"scores": nan}).values()), [])
    short = reals(base + "scores", [0.0])
    yield "gguf_scores_short", gguf(list((marked | {"scores": short}).values()), [])
    for name, (part, fault) in faults.items():
        yield f"gguf_{name}", gguf(list((byte_level | {part: fault}).values()), [])
    for part in byte_level:
        rest = [value for name, value in byte_level.items() if name != part]
        yield f"gguf_without_{part}", gguf(rest, [])


def main() -> None:
    """Write every file, replacing the folders' former content."""
    out = (
        pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "corpus"
    )
    parsers = {
        "gguf": [*gguf_counts(), *gguf_rules(), *gguf_configs()],
        "safetensors": list(safetensors_files()),
        "config": list(config_files()),
        "tokenizer": [*tokenizer_json(), *tokenizer_gguf()],
    }
    for parser, files in parsers.items():
        folder = out / parser
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, content in files:
            path = folder / name
            if path.exists():
                raise SystemExit(f"two files are called {path}")
            path.write_bytes(content)
        size = sum(len(content) for _, content in files)
        print(f"{parser}: {len(files)} files, {size} bytes")


if __name__ == "__main__":
    main()
