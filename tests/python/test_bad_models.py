"""Broken and hostile model files: one clear exception each, in little memory and little time."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import km

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
# What a message says beside the file: where in it, or which part of it.
PLACE = re.compile(r"offset \d|key '|tensors? '|field '|configuration: |pickles")

LLAMA = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 10,
}


def safetensors(header: object, data: bytes = b"") -> bytes:
    """Bytes of a safetensors file with this header."""
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def refused(path: Path, *kinds: type[Exception]) -> str:
    """Load what must not load; the message, which names the file."""
    with pytest.raises(km.Error) as caught:
        km.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert type(caught.value) is not km.Error  # that would be a bug in km
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    if kinds:
        assert isinstance(caught.value, kinds)
    return message


def corpus(parser: str) -> list[Path]:
    """The hostile files of one parser."""
    files = sorted((CORPUS / parser).iterdir())
    assert len(files) >= 30
    return files


def test_hostile_gguf(tmp_path: Path) -> None:
    for source in corpus("gguf"):
        path = tmp_path / f"{source.name}.gguf"
        path.write_bytes(source.read_bytes())
        message = refused(path, km.FormatError, km.UnsupportedError)
        assert PLACE.search(message.removeprefix(str(path))), message


def test_hostile_safetensors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "tokenizer.json").write_text("{}")
    for source in corpus("safetensors"):
        (tmp_path / "model.safetensors").write_bytes(source.read_bytes())
        refused(tmp_path)


def test_hostile_config(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors({}))
    (tmp_path / "tokenizer.json").write_text("{}")
    for source in corpus("config"):
        (tmp_path / "config.json").write_bytes(source.read_bytes())
        refused(tmp_path)


def test_hostile_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors").write_bytes(safetensors({}))
    for source in sorted((CORPUS / "tokenizer").iterdir()):
        (tmp_path / "tokenizer.json").write_bytes(source.read_bytes())
        refused(tmp_path)


def test_nested_json_100000_deep(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors({}))
    (tmp_path / "config.json").write_text('{"a":' * 100_000)
    assert "depth" in refused(tmp_path, km.FormatError)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "tokenizer.json").write_text("[" * 100_000)
    assert "depth" in refused(tmp_path, km.FormatError)


def test_the_49_bytes(tmp_path: Path) -> None:
    """An array of 2^63 elements in a file of 49 bytes makes other readers loop."""
    path = tmp_path / "small.gguf"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    path.write_bytes(head + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**63))
    assert path.stat().st_size == 49
    message = refused(path, km.FormatError)
    assert "key 'a': offset 41: array of 9223372036854775808 elements" in message


@pytest.mark.parametrize("size", [0, 3, 4, 24, 100, 5_000, 900_000, 1_700_000, 50_000_000])
def test_truncated_model(tmp_path: Path, model_path: Path, size: int) -> None:
    path = tmp_path / "cut.gguf"
    with model_path.open("rb") as file:
        path.write_bytes(file.read(min(size, 4_000_000)))
    os.truncate(path, size)
    message = refused(path, km.FormatError)
    assert "offset" in message


def test_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"PK\3\4" + bytes(64))
    assert "convert to safetensors" in refused(path, km.UnsupportedError)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert "convert to safetensors" in refused(tmp_path, km.UnsupportedError)


def test_what_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    assert "not a regular file" in refused(pipe)  # and it does not wait for a writer
    empty = tmp_path / "empty.gguf"
    empty.touch()
    refused(empty, km.FormatError)
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "config.json" in refused(folder, km.NotFoundError)


def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(PermissionError):
        km.load(path)


def test_shard_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    index = tmp_path / "model.safetensors.index.json"
    for name in ("../other.safetensors", "/etc/passwd", "a/b", "..", "a\0b", ""):
        index.write_text(json.dumps({"weight_map": {"w": name}}))
        assert "index.json" in refused(tmp_path, km.FormatError)


def test_names_cannot_drive_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "escape.gguf"
    key = b"\x1b[2J\r\n" + b"x" * 70
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    path.write_bytes(head + struct.pack("<Q", len(key)) + key + struct.pack("<I", 99))
    assert refused(path, km.FormatError).isprintable()


MEASURE = """
import resource, sys
import km
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def attempt(path):
    try:
        km.load(path)
    except km.Error:
        return
    sys.exit(f"{path} was loaded")
paths = sys.argv[1:]
attempt(paths[0])
before = peak()
for path in paths:
    attempt(path)
print((peak() - before) // 1024)
"""


def test_memory_stays_small(tmp_path: Path) -> None:
    """All hostile GGUF files together raise the peak by less than 32 MiB."""
    paths = []
    for source in corpus("gguf"):
        path = tmp_path / f"{source.name}.gguf"
        path.write_bytes(source.read_bytes())
        paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32
