#!/usr/bin/env python3
"""Write blocks of every storage type and their float32 values as the `gguf` package gives them.

usage: make_dequant.py OUT_FILE        needs: numpy, gguf (the version is printed)

The file is read by tests/c/test_dtype.c. All numbers are little-endian. After the magic `KMDQ` and
the number of types come, for each type: its name in 8 bytes, the number of elements, the number of
stored bytes, the stored bytes, the float32 values.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

N_BLOCKS = 40
# Where the half-precision scales of a block lie, in bytes.
SCALES = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
# Zero, the smallest and largest subnormal, the smallest normal, one, the largest; both signs.
EXTREMES = (0x0000, 0x0001, 0x03FF, 0x0400, 0x3C00, 0x7BFF)


def scale_bits(rng: np.random.Generator, n: int) -> np.ndarray:
    """Half-precision bit patterns: the extremes first, then finite ones at random."""
    extremes = np.array([e | s for e in EXTREMES for s in (0, 0x8000)], dtype=np.uint16)
    free = rng.integers(0, 0x7C00, n, dtype=np.uint16) | (
        rng.integers(0, 2, n, dtype=np.uint16) << 15
    )
    return np.concatenate([extremes, free.astype(np.uint16)])[:n]


def blocks_of(name: str, rng: np.random.Generator) -> np.ndarray:
    """Stored bytes (n_blocks, block_bytes) uint8 of one type."""
    if name == "F32":
        return rng.standard_normal(64).astype("<f4").view(np.uint8).reshape(-1, 4)
    if name in ("F16", "BF16"):
        bits = np.arange(0, 0x10000, 1 if name == "F16" else 7, dtype=np.uint32)
        infinity = 0x7C00 if name == "F16" else 0x7F80
        finite = bits[(bits & infinity) != infinity]
        special = np.array([infinity, infinity | 0x8000], dtype=np.uint32)
        return np.concatenate([finite, special]).astype("<u2").view(np.uint8).reshape(-1, 2)
    _, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (N_BLOCKS, block_bytes), dtype=np.uint8)
    for k, at in enumerate(SCALES[name]):
        bits = scale_bits(rng, N_BLOCKS)
        bits = bits if k == 0 else rng.permutation(bits)
        blocks[:, at : at + 2] = bits.astype("<u2").view(np.uint8).reshape(-1, 2)
    blocks[-1, 2:] = 255 if not name.startswith("Q6") else blocks[-1, 2:]
    for at in SCALES[name]:
        blocks[-1, at : at + 2] = (0x01, 0x3C)
    return blocks


def main() -> None:
    """Write the file named on the command line."""
    rng = np.random.default_rng(20240607)
    names = ["F32", "F16", "BF16", *SCALES]
    out = [b"KMDQ", struct.pack("<I", len(names))]
    for name in names:
        blocks = blocks_of(name, rng)
        kind = GGMLQuantizationType[name]
        values = quants.dequantize(blocks.reshape(-1), kind).astype("<f4", copy=False)
        out += [
            name.encode().ljust(8, b"\0"),
            struct.pack("<II", values.size, blocks.size),
            blocks.tobytes(),
            values.tobytes(),
        ]
    pathlib.Path(sys.argv[1]).write_bytes(b"".join(out))
    print("gguf", importlib.metadata.version("gguf"), "numpy", np.__version__)


if __name__ == "__main__":
    main()
