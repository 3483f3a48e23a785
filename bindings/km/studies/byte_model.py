"""Models with fresh weights for studies that give all they learn as token ids."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from km.model import Model


def new_byte_model(config: dict[str, Any], seed: int, threads: int = 1) -> Model:
    """An untrained model whose tokenizer knows bytes alone: :func:`km.Model.new`."""
    from km.new_model import new

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(json.dumps(_tokenizer()), encoding="utf-8")
        return new(config, folder, seed, threads=threads)


def _tokenizer() -> dict[str, Any]:
    """A tokenizer.json of the 256 bytes, named as byte-level BPE names them."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    names = {chr(byte): byte for byte in kept}
    names |= {chr(256 + i): byte for i, byte in enumerate(moved)}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": names, "merges": []},
    }
