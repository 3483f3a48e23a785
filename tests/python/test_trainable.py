"""Trainable models, snapshots, models from scratch and tokenizers learned from texts."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import km
from km.tensor_file import read_tensors, write_tensors

DATA = Path(__file__).parent.parent / "golden_data" / "arch"
ARCH = sorted(path.stem for path in DATA.glob("*.gguf"))
TEXT = "The lighthouse keeper counted ships and wrote the number down twice."
SIZES = {"n_layers": 2, "d_model": 32, "n_heads": 4}


def logprobs(model: km.Model) -> np.ndarray:
    return model.next_logprobs(model.encode(TEXT)[:20])


def disturb(model: km.TrainableModel, names: list[str] | None = None, seed: int = 1) -> None:
    rng = np.random.default_rng(seed)
    for name in names or model.parameters()["name"]:
        values = model.parameter(name)
        values += 0.02 * rng.normal(size=values.shape).astype(np.float32)
    model.changed()


@pytest.fixture
def small() -> km.Model:
    return km.load(DATA / "qwen2")


# ---- parameters ----


def test_parameters_have_the_same_names_in_both_formats() -> None:
    for name in ARCH:
        folder, file = km.load(DATA / name), km.load(DATA / f"{name}.gguf")
        assert folder.parameters().to_csv() == file.parameters().to_csv()
        assert not any(folder.parameters()["trainable"])


def test_parameter_is_what_the_file_holds_put_into_order() -> None:
    model = km.load(DATA / "gpt2")
    fused = model.weight("transformer.h.1.attn.c_attn.weight")
    width = fused.shape[0]
    for part, name in enumerate(["attn_q", "attn_k", "attn_v"]):
        values = model.parameter(f"blk.1.{name}.weight")
        np.testing.assert_array_equal(values, fused[:, part * width : (part + 1) * width].T)
    with pytest.raises(ValueError, match="read-only"):
        values[0, 0] = 1.0
    with pytest.raises(km.NotFoundError, match="blk"):
        model.parameter("transformer.wte.weight")


def test_dequantised_parameters_are_those_of_the_weights() -> None:
    model = km.load()
    name = "blk.7.ffn_down.weight"
    np.testing.assert_array_equal(model.parameter(name), model.weight(name))


# ---- trainable models ----


def test_trainable_values_are_the_models_memory(small: km.Model) -> None:
    trainable = small.trainable()
    assert isinstance(trainable, km.Model)
    assert trainable.origin is small
    before = logprobs(trainable)
    np.testing.assert_array_equal(before, logprobs(small))
    values = trainable.parameter("blk.0.ffn_up.weight")
    values *= 2
    trainable.changed()
    assert np.shares_memory(values, trainable.parameter("blk.0.ffn_up.weight"))
    assert (logprobs(trainable) != before).any()
    np.testing.assert_array_equal(logprobs(small), before)
    assert trainable.differing() == ["blk.0.ffn_up.weight"]
    kept = values.copy()
    del trainable
    np.testing.assert_array_equal(values, kept)  # the memory lives on with the array


def test_which_chooses_by_name_and_pattern(small: km.Model) -> None:
    trainable = small.trainable(["blk.*.attn_q.weight", "output_norm.weight"])
    table = trainable.parameters()
    chosen = [n for n, t in zip(table["name"], table["trainable"], strict=True) if t]
    layers = small.config["n_layers"]
    assert chosen == ["output_norm.weight", *(f"blk.{i}.attn_q.weight" for i in range(layers))]
    assert not trainable.parameter("token_embd.weight").flags.writeable
    with pytest.raises(km.NotFoundError, match="no parameter 'lm_head'"):
        small.trainable("lm_head")
    with pytest.raises(km.ArgumentError, match="names no parameter"):
        small.trainable([])


def test_a_value_that_is_not_finite_is_named(small: km.Model) -> None:
    trainable = small.trainable()
    trainable.parameter("blk.1.ffn_gate.weight")[3, 4] = np.nan
    trainable.changed()
    with pytest.raises(km.NumericError, match=r"blk\.1\.ffn_gate\.weight"):
        logprobs(trainable)


def test_fingerprints_follow_the_values(small: km.Model) -> None:
    trainable = small.trainable()
    assert trainable.fingerprint == small.fingerprint
    values = trainable.parameter("blk.0.attn_norm.weight")
    values[0] += 1
    changed = trainable.fingerprint  # also without changed(): an array is out
    assert changed != small.fingerprint
    assert trainable.frozen().fingerprint == changed
    values[0] += 1
    assert trainable.fingerprint != changed
    trainable.restore(small.snapshot())
    assert trainable.fingerprint == small.fingerprint


@pytest.mark.parametrize("name", ARCH)
@pytest.mark.parametrize("suffix", ["", ".gguf"])
def test_frozen_models_come_back_from_disk(name: str, suffix: str, tmp_path: Path) -> None:
    trainable = km.load(DATA / f"{name}{suffix}").trainable()
    disturb(trainable)
    wanted, fingerprint = logprobs(trainable), trainable.fingerprint
    frozen = trainable.frozen("mine")
    assert frozen.name == "mine"
    same = km.load(frozen.save(tmp_path / f"same{suffix}"))
    np.testing.assert_array_equal(logprobs(same), wanted)
    assert same.fingerprint == fingerprint
    if suffix == "" and not name.startswith("gemma"):  # a tokenizer GGUF cannot hold
        other = km.load(trainable.save(tmp_path / "other.gguf"))
        # llama's pairs of rotated elements are neighbours there: other sums, rounded otherwise
        np.testing.assert_allclose(logprobs(other), wanted, atol=2e-5)


def test_trainable_models_edit_and_describe_as_immutable_copies(small: km.Model) -> None:
    trainable = small.trainable()
    disturb(trainable)
    name = "model.layers.0.mlp.up_proj.weight"
    np.testing.assert_array_equal(
        trainable.weight(name), trainable.parameter("blk.0.ffn_up.weight")
    )
    assert name in trainable.weights()["name"]
    edited = trainable.edit({name: small.weight(name)})
    assert edited.fingerprint not in (small.fingerprint, trainable.fingerprint)
    again = trainable.trainable("blk.0.*")
    np.testing.assert_array_equal(logprobs(again), logprobs(trainable))
    assert again.origin is not small


def test_a_random_control_can_be_trained_and_saved(small: km.Model, tmp_path: Path) -> None:
    trainable = small.random_like(3).trainable()
    disturb(trainable)
    saved = km.load(trainable.save(tmp_path / "control"))
    np.testing.assert_array_equal(logprobs(saved), logprobs(trainable))


def test_a_repeated_tied_embedding_follows(tmp_path: Path) -> None:
    """Some folders hold a tied embedding a second time, as lm_head."""
    folder = tmp_path / "twice"
    km.load(DATA / "qwen3").save(folder, dtype="F32")
    tensors, facts = read_tensors(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    write_tensors(folder / "model.safetensors", tensors, facts, overwrite=True)
    model = km.load(folder)
    assert model.config["tied_embeddings"]
    trainable = model.trainable("token_embd.weight")
    disturb(trainable, ["token_embd.weight"])
    saved = km.load(trainable.save(tmp_path / "saved"))
    np.testing.assert_array_equal(logprobs(saved), logprobs(trainable))
    values = trainable.parameter("token_embd.weight")
    np.testing.assert_array_equal(saved.weight("lm_head.weight"), values)


# ---- snapshots ----


def test_snapshot_keeps_what_differs_and_restores_bits(small: km.Model) -> None:
    trainable = small.trainable()
    assert trainable.snapshot().names == []
    names = ["blk.0.attn_k.bias", "token_embd.weight"]
    disturb(trainable, names)
    first, wanted = trainable.snapshot(), logprobs(trainable)
    assert sorted(first.names) == names
    assert first.nbytes == sum(trainable.parameter(name).nbytes for name in names)
    with pytest.raises(ValueError, match="read-only"):
        first.values[names[0]][0] = 1
    disturb(trainable, seed=2)
    second = trainable.snapshot()
    assert len(second.names) == len(trainable.parameters())
    trainable.restore(first)
    np.testing.assert_array_equal(logprobs(trainable), wanted)
    assert trainable.differing() == first.names
    model = first.model()
    np.testing.assert_array_equal(logprobs(model), wanted)
    assert model.fingerprint == trainable.fingerprint
    trainable.restore(second)
    assert trainable.fingerprint == second.model().fingerprint
    trainable.restore(small.snapshot())
    np.testing.assert_array_equal(logprobs(trainable), logprobs(small))
    assert small.snapshot().model() is small


def test_snapshots_of_a_quantised_model() -> None:
    model = km.load()
    trainable = model.trainable("blk.3.attn_*")
    assert trainable.fingerprint == model.fingerprint
    disturb(trainable, ["blk.3.attn_v.weight"])
    snapshot, wanted = trainable.snapshot(), logprobs(trainable)
    assert snapshot.names == ["blk.3.attn_v.weight"]
    trainable.restore(model.snapshot())
    np.testing.assert_array_equal(logprobs(trainable), logprobs(model))
    np.testing.assert_array_equal(logprobs(snapshot.model()), wanted)


def test_snapshots_are_written_and_read(small: km.Model, tmp_path: Path) -> None:
    trainable = small.trainable()
    disturb(trainable, ["blk.1.ffn_down.weight", "output_norm.weight"])
    snapshot = trainable.snapshot()
    path = snapshot.save(tmp_path / "one.safetensors")
    read = km.Snapshot.load(path, small)
    assert read.names == snapshot.names
    for name in read.names:
        np.testing.assert_array_equal(read.values[name], snapshot.values[name])
    assert km.Snapshot.load(path, trainable).origin is small
    with pytest.raises(km.ArgumentError, match="there already"):
        snapshot.save(path)
    snapshot.save(path, overwrite=True)
    with pytest.raises(km.ArgumentError, match="is a snapshot of"):
        km.Snapshot.load(path, km.load(DATA / "qwen3"))
    write_tensors(tmp_path / "other.safetensors", {}, {})
    with pytest.raises(km.FormatError, match="is no snapshot"):
        km.Snapshot.load(tmp_path / "other.safetensors", small)
    facts = {"km": "snapshot", "origin": small.fingerprint}
    write_tensors(tmp_path / "odd.safetensors", {"x": np.zeros(3, np.float32)}, facts)
    with pytest.raises(km.FormatError, match="'x' is no parameter"):
        km.Snapshot.load(tmp_path / "odd.safetensors", small)
    with pytest.raises(km.ArgumentError, match="made of"):
        km.load(DATA / "qwen3").trainable().restore(snapshot)
    with pytest.raises(km.ArgumentError, match="not trainable here"):
        small.trainable("blk.0.*").restore(snapshot)
    with pytest.raises(TypeError, match=r"takes a km\.Snapshot"):
        trainable.restore(small)  # type: ignore[arg-type]


def test_any_flipped_bit_of_a_snapshot_is_found(small: km.Model, tmp_path: Path) -> None:
    trainable = small.trainable()
    disturb(trainable, ["blk.1.ffn_down.weight", "output_norm.weight"])
    path = trainable.snapshot().save(tmp_path / "one.safetensors")
    data = path.read_bytes()
    for at in [*range(0, len(data), 97), len(data) - 1]:
        flipped = bytearray(data)
        flipped[at] ^= 1
        path.write_bytes(flipped)
        with pytest.raises((km.FormatError, km.ArgumentError)):
            km.Snapshot.load(path, small)
    for n in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:n])
        with pytest.raises(km.FormatError):
            km.Snapshot.load(path, small)


def test_lies_in_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lie.safetensors"
    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for lie in (
        {"shape": [0, 2**62]}, {"shape": [1] * 100}, {"dtype": []}, {"shape": [2**40, 2**40]},
        {"data_offsets": [0, 2**70]}, {"shape": [2.0]}, {"data_offsets": [4, 8]},
    ):  # fmt: skip
        text = json.dumps({"x": good | lie}).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        with pytest.raises(km.FormatError, match="tensor 'x'"):
            read_tensors(path)


def test_tensor_files_read_what_safetensors_writes(tmp_path: Path) -> None:
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "none": np.zeros((0, 4), np.int64),
        "scalar": np.array(2.5),
        "flags": np.array([True, False, True]),
    }
    path = write_tensors(tmp_path / "t.safetensors", tensors, {"k": "v"})
    read, facts = read_tensors(path)
    assert facts["k"] == "v"
    for name, values in tensors.items():
        assert read[name].dtype == values.dtype
        np.testing.assert_array_equal(read[name], values)
    whole = path.read_bytes()
    for size in [0, 4, 8, 30, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(km.FormatError, match=r"t\.safetensors"):
            read_tensors(path)
    path.write_bytes(whole.replace(b'"F32"', b'"F99"'))
    with pytest.raises(km.FormatError, match="F99"):
        read_tensors(path)
    with pytest.raises(km.ArgumentError, match="complex"):
        write_tensors(tmp_path / "c", {"c": np.zeros(1, complex)}, {})


def test_threads_read_a_trainable_model(small: km.Model) -> None:
    trainable = small.trainable()
    disturb(trainable)
    wanted, results = logprobs(trainable), []

    def read() -> None:
        results.append((logprobs(trainable) == wanted).all() and trainable.snapshot().nbytes > 0)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8


# ---- models from scratch ----


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "gpt2", "gptneox"])
@pytest.mark.parametrize("gguf", [False, True])
def test_new_models_train_save_and_load(arch: str, gguf: bool, tmp_path: Path) -> None:
    source = km.load(DATA / f"qwen2{'.gguf' if gguf else ''}")
    tokenizer = source if gguf else DATA / "qwen2" / "tokenizer.json"
    model = km.Model.new(SIZES | {"arch": arch, "name": "Mine"}, tokenizer, 5)
    assert model.name == "Mine"
    assert model.config["arch"] == arch
    assert model.tokenizer_hash == source.tokenizer_hash
    twin = km.Model.new(SIZES | {"arch": arch, "name": "Mine"}, tokenizer, 5)
    assert twin.fingerprint == model.fingerprint
    other = km.Model.new(SIZES | {"arch": arch, "name": "Mine"}, tokenizer, 6)
    assert other.fingerprint != model.fingerprint
    gains = [model.parameter(n) for n in model.parameters()["name"] if n.endswith("norm.weight")]
    assert all((gain == 1).all() for gain in gains)
    assert abs(model.parameter("blk.0.ffn_up.weight").std() - 0.02) < 0.002
    trainable = model.trainable()
    disturb(trainable)
    saved = km.load(trainable.save(tmp_path / ("a.gguf" if gguf else "a")))
    np.testing.assert_array_equal(logprobs(saved), logprobs(trainable))
    assert saved.fingerprint == trainable.fingerprint
    if not gguf:
        file = km.load(trainable.save(tmp_path / "b.gguf"))
        np.testing.assert_allclose(logprobs(file), logprobs(trainable), atol=2e-5)
        assert (tmp_path / "a" / "tokenizer.json").is_file()


def test_new_models_of_given_sizes() -> None:
    sizes = {"n_kv_heads": 2, "head_dim": 16, "d_ffn": 48, "context_length": 40, "norm_eps": 1e-6}
    sizes |= {"tied_embeddings": False, "rope_base": 500.0, "vocab_size": 400}
    config = km.Model.new(SIZES | sizes, km.load(DATA / "qwen2")).config
    for key, value in (SIZES | sizes).items():
        assert config[key] == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 33}, "d_model 33 is no multiple of n_heads 4"),
        ({"n_kv_heads": 3}, "n_heads 4 is no multiple of n_kv_heads 3"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"n_heads": True}, "n_heads is True"),
        ({"d_ffn": -4}, "d_ffn is -4"),
        ({"norm_eps": "x"}, "norm_eps is 'x'"),
        ({"tied_embeddings": 1}, "tied_embeddings is 1"),
        ({"arch": "gemma2"}, "arch is 'gemma2'; new models can be llama"),
        ({"arch": "gpt2", "n_kv_heads": 2}, "n_kv_heads is 2; gpt2 has 4"),
        ({"arch": "gptneox", "tied_embeddings": True}, "no tied gptneox"),
        ({"layers": 3}, "no field 'layers'"),
        ({"head_dim": 7}, "head width 7 is odd"),
        ({"vocab_size": 10}, "vocab_size is 10, the tokenizer has"),
    ],
)
def test_new_models_are_refused_by_field(change: dict[str, object], message: str) -> None:
    with pytest.raises((km.ArgumentError, km.FormatError), match=message):
        km.Model.new(SIZES | change, km.load(DATA / "qwen2"))


def test_new_models_need_their_fields_and_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(km.ArgumentError, match="needs 'n_heads'"):
        km.Model.new({"n_layers": 1, "d_model": 8}, km.load(DATA / "qwen2"))
    with pytest.raises(km.NotFoundError, match=r"tokenizer\.json"):
        km.Model.new(SIZES, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(km.ArgumentError, match="no vocabulary"):
        km.Model.new(SIZES, tmp_path)
    big = SIZES | {"n_layers": 1000, "d_model": 100_000, "n_heads": 1000}
    with pytest.raises(MemoryError, match="MiB"):
        km.Model.new(big, km.load(DATA / "qwen2"))


# ---- other programs read what was trained ----


def trained(source: str, *, gguf: bool) -> km.TrainableModel:
    """A golden model, or a new one with a golden tokenizer, with every parameter changed."""
    kind, name = source.split("-")
    if kind == "new":
        origin = km.Model.new(SIZES | {"arch": name}, DATA / "qwen2" / "tokenizer.json", 2)
    else:
        origin = km.load(DATA / f"{name}{'.gguf' if gguf else ''}")
    trainable = origin.trainable()
    disturb(trainable)
    return trainable


NEW = [f"new-{arch}" for arch in ("llama", "qwen2", "qwen3", "gpt2", "gptneox")]
GOLDEN = [f"golden-{name}" for name in ARCH]


@pytest.mark.parametrize("source", [*GOLDEN, *NEW])
def test_transformers_agrees_with_trained_models(source: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch and transformers")
    transformers = pytest.importorskip("transformers")
    trainable = trained(source, gguf=False)
    trainable.save(tmp_path / "model")
    other = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, attn_implementation="eager"
    )
    ids = trainable.encode(TEXT)[:20]
    with torch.no_grad():
        logits = other(torch.tensor([ids])).logits[0].double()
    want = torch.log_softmax(logits, -1)[-1].numpy()
    assert np.abs(trainable.next_logprobs(ids) - want).max() < 1e-4


# llama.cpp has no window for these; its GELU reads a table in half precision.
NO_WINDOW = ["golden-mistral", "golden-qwen2_window"]
TABLE_GELU = ["golden-gpt2", "golden-gemma2", "golden-gemma3", "golden-pythia"]
TABLE_GELU += ["golden-neox_sequential", "new-gpt2", "new-gptneox"]


@pytest.mark.parametrize("source", [*GOLDEN, *NEW])
def test_llama_cpp_agrees_with_trained_models(source: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    trainable = trained(source, gguf=True)
    path = trainable.save(tmp_path / "model.gguf")
    ids = trainable.encode(TEXT)[: 4 if source in NO_WINDOW else 20]
    other = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, type_k=0, type_v=0)
    other.eval(ids)
    logits = np.array(other.scores[len(ids) - 1], np.float64)
    want = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    bound = 5e-2 if source in TABLE_GELU else 1e-3
    assert np.abs(trainable.next_logprobs(ids) - want).max() < bound


# ---- tokenizers ----

TEXTS = ["The keeper counted ships. ", "Sixteen ships, 1234 crates — naïve façades!\n"] * 30


def test_trained_tokenizers_give_the_same_ids(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path = km.train_tokenizer(iter(TEXTS), 300, tmp_path)
    assert path == tmp_path / "tokenizer.json"
    reference = tokenizers.Tokenizer.from_file(str(path))
    model = km.Model.new(SIZES, path)
    assert model.config["vocab_size"] == reference.get_vocab_size() == 300
    for text in [*TEXTS[:2], TEXT, " two  blanks\tand\r\n", "日本語 Ω 🦊", "'s 12345"]:
        assert model.encode(text, bos=False) == reference.encode(text).ids
        assert model.decode(model.encode(text, bos=False)) == text
    assert model.encode("<|endoftext|>", bos=False, special=True) == [0]
    assert model.eos == 0
    first = path.read_bytes()
    assert km.train_tokenizer(TEXTS, 300, path).read_bytes() == first


def test_tokenizers_are_optional(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'km\[train\]'"):
        km.train_tokenizer(TEXTS, 300, tmp_path)


def test_bad_arguments_of_tokenizers(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(TypeError, match="several texts"):
        km.train_tokenizer("one text", 300, tmp_path)
    with pytest.raises(km.ArgumentError, match="257 or more"):
        km.train_tokenizer(TEXTS, 100, tmp_path)
