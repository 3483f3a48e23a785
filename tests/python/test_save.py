"""Weights by name, edited copies, and models written to disk and read again."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km

DATA = Path(__file__).parent.parent / "golden_data"
ARCH = sorted(path.stem for path in (DATA / "arch").glob("*.gguf"))
TEXT = "The lighthouse keeper counted ships and wrote the number down twice."
DTYPES = ["F32", "F16", "BF16", "Q8_0"]


def sources() -> list[Path]:
    """Every small model of the tests, as folder and as file."""
    files = [DATA / "arch" / f"{name}.gguf" for name in ARCH]
    folders = [DATA / "arch" / name for name in ARCH if (DATA / "arch" / name).is_dir()]
    return [*files, *folders, DATA / "tiny_llama", DATA / "tiny_gemma3"]


def ids_of(model: km.Model) -> list[int]:
    return model.encode(TEXT)[:20]


def target(source: Path, folder: Path, name: str = "saved") -> Path:
    return folder / (f"{name}.gguf" if source.suffix == ".gguf" else name)


# ---- rounding, against numpy and against the gguf package's own words ----


def hard_floats() -> np.ndarray[Any, Any]:
    """Ties, subnormals and limits of the small types, and random numbers of every size."""
    rng = np.random.default_rng(5)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2
    near = np.concatenate([np.nextafter(ties, 0), np.nextafter(ties, np.float32(9e9))])
    wide = rng.normal(size=20000).astype(np.float32) * np.float32(10) ** rng.integers(-12, 4, 20000)
    bits = rng.integers(0, 0x47000000, 20000, dtype=np.uint32).view(np.float32)
    x = np.concatenate([halves, ties, near, wide.astype(np.float32), bits]).astype(np.float32)
    x = np.concatenate([x, -x])
    return x[np.abs(x) < 65504][: len(x) // 256 * 256 - 256 * 64]


def as_bf16(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def as_q8_0(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Blocks of 32: d in F16, then round-half-away of x / d, as the gguf package has it."""
    blocks = x.reshape(-1, 32)
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
    scaled = blocks * inverse
    size = np.abs(scaled)
    whole = np.floor(size)
    q = (np.sign(scaled) * (whole + np.floor(2 * (size - whole)))).astype(np.int8)
    return np.concatenate([d.astype(np.float16).view(np.uint8), q.view(np.uint8)], axis=1)


def stored(path: Path, name: str) -> tuple[bytes, int]:
    """Raw bytes and type number of one tensor of a GGUF file, read without km."""
    data = path.read_bytes()
    n_tensors, n_keys = struct.unpack_from("<QQ", data, 8)
    at = 24
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def text() -> str:
        nonlocal at
        (n,) = struct.unpack_from("<Q", data, at)
        at += 8 + n
        return data[at - n : at].decode()

    def skip(kind: int) -> None:
        nonlocal at
        if kind == 8:
            text()
        elif kind == 9:
            element, n = struct.unpack_from("<IQ", data, at)
            at += 12
            for _ in range(n):
                skip(element)
        else:
            at += sizes[kind]

    for _ in range(n_keys):
        text()
        (kind,) = struct.unpack_from("<I", data, at)
        at += 4
        skip(kind)
    found = {}
    for _ in range(n_tensors):
        key = text()
        (n_dims,) = struct.unpack_from("<I", data, at)
        dims = struct.unpack_from(f"<{n_dims}Q", data, at + 4)
        kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * n_dims)
        at += 16 + 8 * n_dims
        found[key] = (int(np.prod(dims)), kind, offset)
    start = at + -at % 32
    n, kind, offset = found[name]
    size = {0: 4 * n, 1: 2 * n, 30: 2 * n, 8: n // 32 * 34}[kind]
    return data[start + offset : start + offset + size], kind


@pytest.mark.parametrize(
    ("dtype", "number", "expected"),
    [
        ("F32", 0, lambda x: x),
        ("F16", 1, lambda x: x.astype(np.float16)),
        ("BF16", 30, as_bf16),
        ("Q8_0", 8, as_q8_0),
    ],
)
def test_rounding(
    tmp_path: Path, dtype: Any, number: int, expected: Callable[[Any], np.ndarray[Any, Any]]
) -> None:
    model = km.load(DATA / "arch" / "llama3.gguf")
    name = "token_embd.weight"
    shape = model.weight(name).shape
    values = hard_floats()
    n = shape[0] * shape[1]
    for start in range(0, len(values) - n, n):
        part = values[start : start + n].reshape(shape)
        path = tmp_path / f"{start}.gguf"
        model.edit({name: part}).save(path, dtype=dtype)
        raw, kind = stored(path, name)
        assert kind == number
        assert raw == expected(part.ravel()).tobytes()


def test_f16_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    model = km.load(DATA / "arch" / "llama3.gguf")
    values = model.weight("token_embd.weight").copy()
    values[3, 4] = 70000
    edited = model.edit({"token_embd.weight": values})
    with pytest.raises(km.Error, match=r"tensor 'token_embd.weight': row 3.*70000.*F16"):
        edited.save(tmp_path / "x.gguf", dtype="F16")
    assert list(tmp_path.iterdir()) == []
    edited.save(tmp_path / "x.gguf", dtype="BF16")


# ---- there and back ----


@pytest.mark.parametrize("source", sources(), ids=lambda p: p.name)
def test_keep_is_the_same_model(source: Path, tmp_path: Path) -> None:
    model = km.load(source)
    path = target(source, tmp_path)
    assert model.save(path) == path
    again = km.load(path)
    assert again.fingerprint == model.fingerprint
    assert again.tokenizer_hash == model.tokenizer_hash
    assert (again.logprobs(ids_of(model)) == model.logprobs(ids_of(model))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", sources(), ids=lambda p: p.name)
def test_types(source: Path, dtype: Any, tmp_path: Path) -> None:
    model = km.load(source)
    path = target(source, tmp_path)
    if dtype == "Q8_0" and source.suffix != ".gguf":
        with pytest.raises(km.UnsupportedError, match="safetensors cannot hold Q8_0"):
            model.save(path, dtype=dtype)
        assert not path.exists()
        return
    model.save(path, dtype=dtype)
    again = km.load(path)
    bound = {"F32": 0, "F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 254 + 2**-11}[dtype]
    for name, _, _ in model._model.weights():
        before, after = model.weight(name), again.weight(name)
        assert np.abs(before - after).max() <= bound * np.abs(before).max()
    if dtype == "F32":
        assert (model.logprobs(ids_of(model)) == again.logprobs(ids_of(model))).all()
    kinds = {name: kind for name, kind, shape in again._model.weights() if len(shape) > 1}
    assert dtype in kinds.values()
    if source.suffix == ".gguf":
        vectors = {kind for _, kind, shape in again._model.weights() if len(shape) < 2}
        assert vectors <= {"F32"}
    else:
        config = json.loads((path / "config.json").read_text())
        names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
        assert config.get("torch_dtype", config.get("dtype")) == names[dtype]


def test_a_quantised_file_is_copied_byte_for_byte(model: km.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "copy.gguf")
    assert (tmp_path / "copy.gguf").read_bytes() == Path(model.path).read_bytes()


def test_other_readers(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    safetensors = pytest.importorskip("safetensors.numpy")
    for dtype in DTYPES:
        model = km.load(DATA / "arch" / "qwen3.gguf")
        path = tmp_path / f"{dtype}.gguf"
        model.save(path, dtype=dtype)
        reader = gguf.GGUFReader(path)
        again = km.load(path)
        for tensor in reader.tensors:
            values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
            assert (values == again.weight(tensor.name)).all()
    model = km.load(DATA / "arch" / "qwen3")
    model.save(tmp_path / "folder", dtype="F32")
    for name, values in safetensors.load_file(tmp_path / "folder" / "model.safetensors").items():
        assert (values == model.weight(name)).all()


# ---- transformers and llama.cpp read what km wrote ----


def edited(source: Path) -> km.Model:
    """A model with every element of one matrix changed."""
    model = km.load(source)
    name = next(n for n, _, shape in model._model.weights() if "down" in n or "mlp" in n)
    values = model.weight(name)
    return model.edit({name: values * np.float32(1.25) + np.float32(0.01)})


@pytest.mark.parametrize("name", ARCH)
def test_transformers_agrees(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch and transformers")
    transformers = pytest.importorskip("transformers")
    model = edited(DATA / "arch" / name)
    model.save(tmp_path / "model")
    other = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, attn_implementation="eager"
    )
    ids = ids_of(model)
    with torch.no_grad():
        logits = other(torch.tensor([ids])).logits[0].double()
    want = torch.log_softmax(logits, -1)[range(len(ids) - 1), ids[1:]].numpy()
    assert np.abs(model.logprobs(ids) - want).max() < 5e-4


# llama.cpp has no window for these architectures: the positions inside it are compared. Its GELU
# reads a table in half precision, and is the tanh approximation for GPT-NeoX.
NO_WINDOW = ["mistral", "qwen2_window"]
TABLE_GELU = ["gpt2", "gemma2", "gemma3", "pythia", "neox_sequential"]


def llama_cpp_logprobs(llama_cpp: Any, path: Path, ids: list[int]) -> np.ndarray[Any, Any]:
    """log p(ids[t] | ids[:t]) with keys and values in float32."""
    other = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, type_k=0, type_v=0)
    other.eval(ids)
    logits = np.array(other.scores[: len(ids)], np.float64)
    logits -= logits.max(-1, keepdims=True)
    rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return rows[range(len(ids) - 1), ids[1:]]


@pytest.mark.parametrize("name", ARCH)
def test_llama_cpp_agrees(name: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    model = edited(DATA / "arch" / f"{name}.gguf")
    path = tmp_path / "model.gguf"
    model.save(path, dtype="F32")
    ids = ids_of(model)[: 4 if name in NO_WINDOW else None]
    bound = 5e-2 if name in TABLE_GELU else 1e-3
    assert np.abs(model.logprobs(ids) - llama_cpp_logprobs(llama_cpp, path, ids)).max() < bound


# ---- from a folder to GGUF ----

IMPLIED = [name for name in ARCH if not name.startswith("gemma")]  # merges that scores can say


@pytest.mark.parametrize("name", IMPLIED)
def test_a_folder_as_gguf(name: str, tmp_path: Path) -> None:
    model = km.load(DATA / "arch" / name)
    path = tmp_path / "model.gguf"
    model.save(path)
    again, reference = km.load(path), km.load(DATA / "arch" / f"{name}.gguf")
    assert again.tokenizer_hash == model.tokenizer_hash
    ids = ids_of(model)
    assert np.abs(again.logprobs(ids) - model.logprobs(ids)).max() < 2e-5
    # the reference was arranged by the gguf package's own names and rules
    names = [weight for weight, _, _ in reference._model.weights()]
    assert {weight for weight, _, _ in again._model.weights()} == set(names)
    for weight in names:
        assert (again.weight(weight) == reference.weight(weight)).all()
    with pytest.raises(km.ArgumentError, match="overwrite"):
        model.save(path)
    edited(DATA / "arch" / name).save(path, dtype="F16", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize("name", IMPLIED)
def test_llama_cpp_opens_what_was_a_folder(name: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    model = edited(DATA / "arch" / name)
    path = tmp_path / "model.gguf"
    model.save(path, dtype="F32")
    ids = ids_of(model)[: 4 if name in NO_WINDOW else None]
    bound = 5e-2 if name in TABLE_GELU else 1e-3
    assert np.abs(model.logprobs(ids) - llama_cpp_logprobs(llama_cpp, path, ids)).max() < bound


def test_what_gguf_cannot_say(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(km.UnsupportedError, match="its merges are not those that scores"):
        km.load(DATA / "arch" / "gemma2").save(path)
    with pytest.raises(km.UnsupportedError, match="its attention scale"):
        km.load(DATA / "tiny_gemma3").save(path)
    with pytest.raises(km.UnsupportedError, match="saved as GGUF only"):
        km.load(DATA / "arch" / "llama3.gguf").save(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


# ---- weights and edits ----


def test_weights(model: km.Model) -> None:
    table = model.weights()
    assert len(table) == 272
    gain = model.weight("blk.0.attn_norm.weight")
    assert gain.dtype == np.float32 and not gain.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        gain[0] = 1
    assert model.weight("blk.0.attn_norm.weight").ctypes.data == gain.ctypes.data
    assert model.weight("blk.0.ffn_down.weight").shape == (576, 1536)
    with pytest.raises(km.NotFoundError, match=r"no weight 'nothing'; its first is 'token_embd"):
        model.weight("nothing")
    assert len(model.random_like(1).weights()) == 0
    with pytest.raises(km.ArgumentError, match="random control"):
        model.random_like(1).weight("token_embd.weight")


def test_lent_memory_outlives_the_model() -> None:
    model = km.load(DATA / "arch" / "llama3.gguf")
    gain = model.weight("output_norm.weight")
    before = gain.copy()
    del model
    assert (gain == before).all()


@pytest.mark.parametrize("source", sources(), ids=lambda p: p.name)
def test_an_edit_changes_what_it_names_alone(source: Path, tmp_path: Path) -> None:
    model = km.load(source)
    ids = ids_of(model)
    before = model.logprobs(ids)
    same = {name: model.weight(name) for name, _, _ in model._model.weights()}
    twin = model.edit(same)
    assert np.abs(twin.logprobs(ids) - before).max() < 1e-5
    other = edited(source)
    assert other.fingerprint != model.fingerprint and other.path == ""
    assert (model.logprobs(ids) == before).all() and (other.logprobs(ids) != before).any()
    path = target(source, tmp_path)
    other.save(path)
    again = km.load(path)
    assert again.fingerprint == other.fingerprint
    assert (again.logprobs(ids) == other.logprobs(ids)).all()
    back = {
        name: model.weight(name)
        for name, _, _ in model._model.weights()
        if (other.weight(name) != model.weight(name)).any()
    }
    assert len(back) == 1
    assert np.abs(other.edit(back).logprobs(ids) - before).max() < 1e-5


def test_edits_that_are_refused(model: km.Model) -> None:
    gain = model.weight("output_norm.weight")
    with pytest.raises(km.NotFoundError, match="no weight 'x'"):
        model.edit({"x": gain})
    with pytest.raises(km.ShapeError, match=r"output_norm.weight.*\(576,\)"):
        model.edit({"output_norm.weight": gain[:10]})
    with pytest.raises(km.ShapeError, match="not numbers"):
        model.edit({"output_norm.weight": np.array(["a"])})
    bad = gain.copy()
    bad[7] = np.nan
    with pytest.raises(km.NumericError, match=r"'output_norm.weight': element 7"):
        model.edit({"output_norm.weight": bad})
    with pytest.raises(TypeError, match="dictionary"):
        model.edit([gain])  # type: ignore[arg-type]


# ---- nothing is ever half written ----


def test_what_is_there_stays(tmp_path: Path) -> None:
    model = km.load(DATA / "arch" / "llama3.gguf")
    path = tmp_path / "a.gguf"
    path.write_text("mine")
    with pytest.raises(km.ArgumentError, match="is there already; overwrite"):
        model.save(path)
    assert path.read_text() == "mine"
    model.save(path, overwrite=True)
    km.load(path).save(path, overwrite=True)  # over the file it is mapped from
    assert km.load(path).fingerprint == model.fingerprint
    with pytest.raises(km.ArgumentError, match="a folder is never replaced"):
        km.load(DATA / "tiny_llama").save(tmp_path, overwrite=True)
    with pytest.raises(km.ArgumentError, match="is a folder"):
        model.save(tmp_path, format="gguf", overwrite=True)
    with pytest.raises(OSError):
        model.save(tmp_path / "absent" / "a.gguf")
    with pytest.raises(km.ArgumentError, match="dtype is 'F64'"):
        model.save(tmp_path / "b.gguf", dtype="F64")  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["a.gguf"]


LIMITED = """
import resource, signal, sys
import km
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = km.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    model.save(sys.argv[2], dtype="F32")
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.parametrize("name", ["llama3.gguf", "llama3"])
@pytest.mark.parametrize("size", [0, 1000, 70000])
def test_a_full_disk_leaves_nothing(name: str, size: int, tmp_path: Path) -> None:
    source = DATA / "arch" / name
    path = target(source, tmp_path)
    command = [sys.executable, "-c", LIMITED, str(source), str(path), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("27 ") and str(path) in done.stdout
    assert list(tmp_path.iterdir()) == []


INTERRUPTED = """
import sys
import km
model = km.load()
print("ready", flush=True)
try:
    while True:
        model.save(sys.argv[1], dtype="F32", overwrite=True)
        print("written", flush=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_ctrl_c_leaves_the_old_file_or_the_new(model: km.Model, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 0 and "stopped" in rest
    left = [p.name for p in tmp_path.iterdir()]
    assert left in ([], ["a.gguf"])
    if left:
        assert km.load(path).n_parameters == model.n_parameters
