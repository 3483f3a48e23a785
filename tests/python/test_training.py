"""Training: against PyTorch, against itself, with adapters, stopped, killed and without room."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km
from km.cli import main
from km.tensor_file import read_tensors, write_tensors

DATA = Path(__file__).resolve().parent.parent / "golden_data"
TEXTS = ["The quick brown fox jumps.", "Paris is a city in France.", "One two three four five."]


@pytest.fixture(scope="module")
def tiny() -> km.Model:
    return km.load(DATA / "tiny_llama")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray[Any, Any]]:
    return read_tensors(DATA / "training_steps.safetensors")[0]


# ---- against PyTorch ----

LENGTHS = (17, 9, 23)  # of the sequences of each batch
ADAMW = km.AdamW(lr=2e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_adamw": (
        "tiny_llama",
        {"optimizer": ADAMW, "schedule": km.schedules.Cosine(2, 0.1), "steps": 10, "clip": 1.0},
    ),
    "gemma3_adamw": ("tiny_gemma3", {"optimizer": ADAMW}),
    "llama_sgd": (
        "tiny_llama",
        {"optimizer": km.SGD(lr=5e-2, momentum=0.9, weight_decay=0.1), "clip": 0.5},
    ),
    "llama_lora": (
        "tiny_llama",
        {"optimizer": ADAMW, "lora": km.LoRA(3, 6.0, ("attn_q", "attn_v", "ffn_down"))},
    ),
}


def pairs(row: Any, ends: Any, weights: Any) -> Any:
    return zip(np.split(row, ends[:-1]), weights, strict=True)


def batches(golden: dict[str, np.ndarray[Any, Any]], case: str) -> list[list[km.Example]]:
    """The batches of a case as examples of token ids."""
    ends = np.cumsum(LENGTHS)
    weights = np.split(golden[f"{case}/weights"], ends[:-1])
    return [
        [km.Example(ids, targets=list(w)) for ids, w in pairs(row, ends, weights)]
        for row in golden[f"{case}/ids"]
    ]


def take_lora(trainer: km.Trainer, golden: dict[str, np.ndarray[Any, Any]], case: str) -> None:
    """Give the adapters the first values that PyTorch had."""
    for name, values in golden.items():
        if name.startswith(f"{case}/start/"):
            layer, _, module = name.split("/")[2].split(".")[2:5]
            trainer.adapters()[f"blk.{layer}.{KM_NAMES[module]}.weight"][0][...] = values
    trainer.merged()


KM_NAMES = {"q_proj": "attn_q", "v_proj": "attn_v", "down_proj": "ffn_down"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_tokens", [None, 20])
def test_ten_steps_as_pytorch(
    golden: dict[str, np.ndarray[Any, Any]], case: str, batch_tokens: int | None
) -> None:
    folder, options = CASES[case]
    trainable = km.load(DATA / folder).trainable()
    trainer = km.Trainer(trainable, **options)
    if "lora" in options:
        take_lora(trainer, golden, case)
    steps = [trainer.step(batch, batch_tokens) for batch in batches(golden, case)]
    np.testing.assert_allclose([s.loss for s in steps], golden[f"{case}/losses"], rtol=1e-4)
    np.testing.assert_allclose([s.grad_norm for s in steps], golden[f"{case}/norms"], rtol=1e-4)
    compared = 0
    frozen = trainable.frozen()
    for name, values in golden.items():
        if name.startswith(f"{case}/model.") or name.startswith(f"{case}/lm_head."):
            key = name.split("/")[1]
            if "lora" in key:
                layer, _, module, kind = key.split(".")[2:6]
                pair = trainer.adapters()[f"blk.{layer}.{KM_NAMES[module]}.weight"]
                got = pair[0 if kind == "lora_A" else 1]
            else:
                got = frozen.weight(key)
            np.testing.assert_allclose(got, values, rtol=0, atol=2e-5, err_msg=key)
            compared += 1
    assert compared == (18 if "lora" in options else len(frozen.weights()))


# ---- what a step is ----


def losses(trainer: km.Trainer, n: int, batch: Any = TEXTS) -> list[float]:
    return [trainer.step(batch).loss for _ in range(n)]


def mean_loss(model: km.Model, text: str) -> float:
    """-log p of a text's tokens after the first, by the scoring of the measures."""
    ids = np.array(model.encode(text), dtype=np.int32)
    return float(-np.asarray(model._model.logprobs(ids), dtype=np.float64).mean())


def test_loss_is_that_of_scoring(tiny: km.Model) -> None:
    before = mean_loss(tiny, TEXTS[0])
    trainable = tiny.trainable()
    trainer = km.Trainer(trainable, km.SGD(lr=0.0))
    assert trainer.step(TEXTS[0]).loss == pytest.approx(before, rel=1e-6)
    assert trainable.fingerprint == tiny.fingerprint  # a learning rate of 0 changes no bit


def test_overfits_one_text(tiny: km.Model) -> None:
    trainable = tiny.trainable()
    found = losses(km.Trainer(trainable, km.AdamW(lr=1e-2)), 60, TEXTS[1])
    assert found[0] > 5.0
    assert found[-1] < 0.05
    assert mean_loss(trainable, TEXTS[1]) < 0.05
    assert mean_loss(tiny, TEXTS[1]) == pytest.approx(found[0], rel=1e-6)  # stays as it was


def test_same_bits_again_and_for_any_threads() -> None:
    prints = set()
    for threads in (1, 2):
        model = km.load(DATA / "tiny_llama", threads=threads)
        trainable = model.trainable()
        start = trainable.snapshot()
        trainer = km.Trainer(trainable, km.AdamW(lr=3e-3, weight_decay=0.1), clip=1.0)
        first = losses(trainer, 5)
        prints.add(trainable.fingerprint)
        trainable.restore(start)
        trainer.reset()
        assert trainer.n_steps == 0 and trainer.last is None
        assert losses(trainer, 5) == first
        prints.add(trainable.fingerprint)
    assert len(prints) == 1


def test_accumulation_changes_rounding_only(tiny: km.Model) -> None:
    found = []
    for accumulate in (1, 2, 3):
        trainable = tiny.trainable()
        trainer = km.Trainer(trainable, km.SGD(lr=0.1), accumulate=accumulate)
        step = trainer.step(TEXTS)
        found.append((step.loss, step.grad_norm, np.array(trainable.parameter("output.weight"))))
    for loss, norm, weight in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-7)
        assert norm == pytest.approx(found[0][1], rel=1e-5)
        np.testing.assert_allclose(weight, found[0][2], rtol=0, atol=1e-7)


def test_weights_of_examples_and_targets(tiny: km.Model) -> None:
    """A batch's loss is the weighted mean over tokens, whoever they belong to."""
    ids = list(tiny.encode(TEXTS[0]))
    logprobs = np.asarray(tiny._model.logprobs(np.array(ids, np.int32)), dtype=np.float64)
    mask = [0.0, *np.linspace(0.5, 2.0, len(ids) - 1)]
    trainer = km.Trainer(tiny.trainable(), km.SGD(lr=0.0))
    step = trainer.step(km.Example(ids, targets=mask))
    expected = -np.average(logprobs, weights=mask[1:])
    assert step.loss == pytest.approx(expected, rel=1e-6)
    assert (step.n_tokens, step.n_targets) == (len(ids), len(ids) - 1)
    both = trainer.step([km.Example(TEXTS[0], weight=3.0), km.Example(TEXTS[1])])
    sums = [mean_loss(tiny, text) * (len(tiny.encode(text)) - 1) for text in TEXTS[:2]]
    counts = [len(tiny.encode(text)) - 1 for text in TEXTS[:2]]
    mean = (3 * sums[0] + sums[1]) / (3 * counts[0] + counts[1])
    assert both.loss == pytest.approx(mean, rel=1e-6)


def test_completions_alone(tiny: km.Model) -> None:
    text = "Paris is a city"
    whole = tiny.tokens(text)
    for n in (8, 9, 12):
        step = km.Trainer(tiny.trainable(), km.SGD(lr=0.0)).step(km.Example(text, targets=n))
        assert step.n_targets == sum(token.end > n for token in whole)
        logprobs = np.asarray(tiny._model.logprobs(np.array([t.id for t in whole], np.int32)))
        expected = -np.mean([v for v, t in zip(logprobs, whole[1:], strict=True) if t.end > n])
        assert step.loss == pytest.approx(expected, rel=1e-6)


def test_end_token_is_a_target(tiny: km.Model) -> None:
    plain = km.Example(TEXTS[0]).encode(tiny)
    ended = km.Example(TEXTS[0], eos=True).encode(tiny)
    assert list(ended.ids) == [*plain.ids, tiny.eos]
    assert ended.weights[-1] == 1.0 and ended.weights[0] == 0.0


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: km.Example("A", weight=-1.0), "weight"),
        (lambda: km.Example("Paris", targets=99), "ends at 5"),
        (lambda: km.Example("Paris", targets="some"), "'some'"),  # type: ignore[arg-type]
        (lambda: km.Example([5, 6, 7], targets=[0.0, 1.0]), "2 weights for the 3 tokens"),
        (lambda: km.Example([5, 6, 7], targets=[0.0, -1.0, 1.0]), "at least 0"),
        (lambda: km.Example([5]), "none of its 1 tokens"),
        (lambda: km.Example([5, 6], weight=0.0), "none of its 2 tokens"),
    ],
)
def test_examples_that_are_refused(tiny: km.Model, make: Any, part: str) -> None:
    with pytest.raises(km.ArgumentError, match=part):
        make().encode(tiny)


def test_decay_groups(tiny: km.Model) -> None:
    """With no gradient to speak of, only what decays moves."""
    shares = {}
    for decay in (None, ["output_norm.weight"]):
        trainable = tiny.trainable()
        before = {
            name: np.array(trainable.parameter(name)) for name in trainable.parameters()["name"]
        }
        optimizer = km.AdamW(lr=1e-9, weight_decay=1e6, decay=decay)
        km.Trainer(trainable, optimizer).step(TEXTS[0])
        shares[decay is None] = {
            name: float(np.median(trainable.parameter(name) / before[name])) for name in before
        }
    for name, share in shares[True].items():
        is_norm = "norm" in name
        assert share == pytest.approx(1.0 if is_norm else 0.999, abs=1e-5), name
    moved = [name for name, share in shares[False].items() if share < 0.9995]
    assert moved == ["output_norm.weight"]
    with pytest.raises(km.ArgumentError, match=r"'blk\.9'"):
        km.Trainer(tiny.trainable(), km.AdamW(decay=["blk.9"]))


def test_trains_from_a_quantised_file() -> None:
    """Weights become float32 as they are dequantised; others stay stored as they are."""
    model = km.load(DATA / "arch" / "llama3.gguf")
    trainable = model.trainable(["*ffn_down.weight"])
    trainer = km.Trainer(trainable, km.AdamW(lr=1e-2))
    found = losses(trainer, 12, [list(range(5, 25))])
    assert found[-1] < found[0] - 0.5
    assert all("ffn_down" in name for name in trainable.differing())


def test_a_loss_that_is_not_finite(tiny: km.Model) -> None:
    trainable = tiny.trainable()
    trainer = km.Trainer(trainable, km.SGD(lr=1e-3))
    trainer.step(TEXTS)
    good = trainable.fingerprint
    weight = trainable.parameter("output.weight")
    kept = weight[3, 5]
    weight[3, 5] = 3e38  # finite, but its products are not
    weight[4, 5] = 3e38
    trainable.changed()
    with pytest.raises(km.NumericError, match="step 2"):
        trainer.step([[3, 3, 4, 4, 3]])
    assert trainer.n_steps == 1
    weight[3, 5] = weight[4, 5] = kept
    other = tiny.trainable()
    again = km.Trainer(other, km.SGD(lr=1e-3))
    again.step(TEXTS)
    weight[4, 5] = other.parameter("output.weight")[4, 5]
    trainable.changed()
    assert trainable.fingerprint == good
    assert trainer.step(TEXTS) == again.step(TEXTS)  # nothing of the failed step is left


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"optimizer": {"lr": -1.0}}, "lr"),
        ({"optimizer": {"lr": math.nan}}, "lr"),
        ({"optimizer": {"betas": (0.9, 1.0)}}, "betas"),
        ({"optimizer": {"eps": 0.0}}, "eps"),
        ({"clip": 0.0}, "clip"),
        ({"accumulate": 0}, "accumulate"),
        ({"schedule": km.schedules.Cosine()}, "steps="),
        ({"lora": {"rank": 0}}, "rank"),
        ({"lora": {"alpha": 0.0}}, "alpha"),
        ({"lora": {"targets": ["attn_z"]}}, "attn_z.*ffn_down"),
    ],
)
def test_options_that_are_refused(tiny: km.Model, options: dict[str, Any], part: str) -> None:
    kinds = {"optimizer": km.AdamW, "lora": km.LoRA}

    def make() -> None:
        made = {k: kinds[k](**v) if k in kinds else v for k, v in options.items()}
        km.Trainer(tiny.trainable(), **made)

    with pytest.raises(km.ArgumentError, match=part):
        make()


def test_models_that_are_refused(tiny: km.Model) -> None:
    with pytest.raises(TypeError, match="trainable"):
        km.Trainer(tiny)  # type: ignore[arg-type]
    part = tiny.trainable(["output.weight"])
    with pytest.raises(km.ArgumentError, match=r"'blk\.0\.attn_q\.weight' cannot be changed"):
        km.Trainer(part, lora=km.LoRA(2))
    with pytest.raises(km.ArgumentError, match="rank 99"):
        km.Trainer(tiny.trainable(), lora=km.LoRA(99))


def test_one_thread_at_a_time(tiny: km.Model) -> None:
    """A second thread is told that the trainer is busy; never do two step at once."""
    trainable = tiny.trainable()
    trainer = km.Trainer(trainable, km.SGD(lr=1e-3))
    outcomes: list[Any] = []

    def work() -> None:
        for _ in range(20):
            try:
                outcomes.append(trainer.step(TEXTS).step)
            except km.BusyError:
                outcomes.append(None)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [step for step in outcomes if step is not None]
    assert sorted(done) == list(range(1, len(done) + 1)) and trainer.n_steps == len(done)


# ---- schedules ----


def test_schedules() -> None:
    linear = km.schedules.Linear(warmup=4, end=0.5)
    assert [linear.factor(s, 12) for s in (0, 3, 4, 8, 12, 99)] == [0.25, 1.0, 1.0, 0.75, 0.5, 0.5]
    cosine = km.schedules.Cosine(end=0.2)
    assert cosine.factor(0, 10) == 1.0
    assert cosine.factor(5, 10) == pytest.approx(0.6)
    assert cosine.factor(10, 10) == pytest.approx(0.2)
    assert km.schedules.Constant(warmup=2).factor(1, None) == 1.0


# ---- adapters ----


def test_adapters_are_full_training_restricted(tiny: km.Model) -> None:
    """One step of SGD moves W by -lr scale^2 dL/dW A^T A, and B by -lr scale dL/dW A^T."""
    name = "blk.1.ffn_up.weight"
    whole = tiny.trainable([name])
    before = np.array(whole.parameter(name), dtype=np.float64)
    km.Trainer(whole, km.SGD(lr=1.0)).step(TEXTS)
    slope = before - whole.parameter(name)
    adapted = tiny.trainable([name])
    trainer = km.Trainer(adapted, km.SGD(lr=1.0), lora=km.LoRA(3, 6.0, [name], seed=4))
    a, b = trainer.adapters()[name]
    assert not b.any() and abs(a).max() <= 1 / math.sqrt(a.shape[1]) and a.std() > 0.05
    start = np.array(a, dtype=np.float64)
    trainer.step(TEXTS)
    np.testing.assert_allclose(b, -2.0 * slope @ start.T, atol=1e-6)
    np.testing.assert_array_equal(a, start)  # B was 0, so A had no gradient
    moved = before - 4.0 * slope @ start.T @ start
    np.testing.assert_allclose(adapted.parameter(name), moved, atol=1e-6)
    assert adapted.differing() == [name]


def test_adapters_begin_at_the_present_weights(tiny: km.Model) -> None:
    """Also where those are no longer the origin's; after a reset they begin anew."""
    trainable = tiny.trainable()
    km.Trainer(trainable, km.SGD(lr=0.1)).step(TEXTS)
    name = "blk.0.attn_q.weight"
    present = np.array(trainable.parameter(name))
    trainer = km.Trainer(trainable, km.SGD(lr=0.1), lora=km.LoRA(2, targets=[name]))
    losses(trainer, 3)
    a, b = trainer.adapters()[name]
    np.testing.assert_allclose(trainable.parameter(name), present + 8.0 * b @ a, atol=1e-6)
    first = np.array(trainable.parameter(name))
    trainer.reset()
    assert not trainer.adapters()[name][1].any()
    np.testing.assert_array_equal(trainable.parameter(name), first)
    losses(trainer, 1)
    np.testing.assert_allclose(trainable.parameter(name), first + 8.0 * b @ a, atol=1e-6)


@pytest.mark.parametrize("source", ["llama3.gguf", "llama3", "gemma3", "qwen2.gguf", "mistral"])
def test_adapters_in_files(tmp_path: Path, source: str) -> None:
    """What was trained on a GGUF file fits the Hugging Face folder of the same model."""
    path = DATA / "arch" / source
    targets = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    model = km.load(path)
    trainable = model.trainable([f"*{target}.weight" for target in targets])
    trainer = km.Trainer(trainable, km.AdamW(lr=2e-2), lora=km.LoRA(2, 3.0, targets))
    ids = list(range(4, 20))
    losses(trainer, 4, [ids])
    folder = trainer.save_adapters(tmp_path / "adapters")
    merged = km.merge_adapters(model, folder)
    expected = np.asarray(trainable._model.next_logprobs(np.array(ids, np.int32)))
    got = np.asarray(merged._model.next_logprobs(np.array(ids, np.int32)))
    np.testing.assert_allclose(got, expected, atol=5e-5)
    tensors, _ = read_tensors(folder / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert tensors[key].shape == (2, model.config["d_model"])
    if source.endswith(".gguf"):
        other = km.merge_adapters(km.load(path.with_suffix("")), folder)
        got = np.asarray(other._model.next_logprobs(np.array(ids, np.int32)))
        np.testing.assert_allclose(got, expected, atol=2e-3)
    with pytest.raises(km.ArgumentError, match="overwrite"):
        trainer.save_adapters(folder)
    again = km.Trainer(
        model.trainable([f"*{target}.weight" for target in targets]),
        km.AdamW(lr=2e-2),
        lora=km.LoRA(2, 3.0, targets),
    )
    again.load_adapters(folder)
    got = np.asarray(again.model._model.next_logprobs(np.array(ids, np.int32)))
    np.testing.assert_allclose(got, expected, atol=5e-5)


@pytest.mark.parametrize("source", ["llama3", "llama3.gguf"])
def test_adapters_that_peft_wrote(source: str) -> None:
    """tests/oracle/make_adapters.py; the GGUF file has other rows of q and k."""
    folder = DATA / "adapters_llama3"
    merged = km.merge_adapters(km.load(DATA / "arch" / source), folder)
    got = np.asarray(merged._model.next_logprobs(np.arange(4, 20, dtype=np.int32)))
    expected = np.fromfile(folder / "logprobs.bin", dtype="<f4")
    np.testing.assert_allclose(got, expected, atol=2e-3 if source.endswith("gguf") else 1e-4)


def test_adapters_that_files_cannot_hold(tmp_path: Path) -> None:
    model = km.load(DATA / "arch" / "gpt2")
    trainer = km.Trainer(model.trainable(), lora=km.LoRA(2))
    with pytest.raises(km.UnsupportedError, match="one matrix"):
        trainer.save_adapters(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    targets = ["attn_output", "ffn_up", "ffn_down"]
    trainer = km.Trainer(model.trainable(), km.AdamW(lr=1e-2), lora=km.LoRA(2, targets=targets))
    losses(trainer, 2, [[5, 6, 7, 8]])
    merged = km.merge_adapters(model, trainer.save_adapters(tmp_path / "b"))
    ids = np.array([5, 6, 7], np.int32)
    np.testing.assert_allclose(
        np.asarray(merged._model.next_logprobs(ids)),
        np.asarray(trainer.model._model.next_logprobs(ids)),
        atol=1e-5,
    )
    with pytest.raises(km.FormatError, match="adapter_config"):
        km.merge_adapters(model, tmp_path / "c")
    other = km.load(DATA / "arch" / "llama3")
    with pytest.raises(km.FormatError):
        km.merge_adapters(other, tmp_path / "b")


# ---- runs ----

SETTINGS: dict[str, Any] = {
    "steps": 12,
    "batch_size": 2,
    "optimizer": km.AdamW(lr=3e-3, weight_decay=0.01),
    "schedule": km.schedules.Cosine(warmup=2),
    "clip": 1.0,
}


def test_a_run_is_its_steps(tiny: km.Model) -> None:
    training = km.train(tiny, TEXTS, **SETTINGS)
    assert training.table["step"] == list(range(1, 13))
    assert training.table.names[:4] == ["step", "loss", "lr", "grad_norm"]
    assert not training.interrupted and len(training.seconds) == 12
    assert training.model.fingerprint == training.trainer.model.fingerprint  # type: ignore[union-attr]
    assert tiny.fingerprint != training.model.fingerprint
    assert training.table["loss"][-1] < training.table["loss"][0] - 2.0
    lr = [3e-3 * SETTINGS["schedule"].factor(step, 12) for step in range(12)]
    assert training.table["lr"] == lr
    again = km.train(tiny, TEXTS, **SETTINGS)
    assert again.table["loss"] == training.table["loss"]
    assert km.train(tiny, TEXTS, **SETTINGS, seed=1).table["loss"] != training.table["loss"]


def test_every_example_once_an_epoch(tiny: km.Model) -> None:
    """Without learning, an epoch's losses are the texts' own, in the order of the seed."""
    texts = [f"Example number {i}." for i in range(7)]
    training = km.train(
        tiny, texts, epochs=2, batch_size=1, optimizer=km.SGD(lr=0.0), batch_tokens=64
    )
    own = sorted(round(mean_loss(tiny, text), 5) for text in texts)
    found = [round(loss, 5) for loss in training.table["loss"]]
    assert sorted(found[:7]) == own == sorted(found[7:])
    assert found[:7] != found[7:]
    uneven = km.train(tiny, texts, epochs=1, batch_size=3, optimizer=km.SGD(lr=0.0))
    assert len(uneven.table) == 3
    assert sum(uneven.table["n_tokens"]) == sum(len(tiny.encode(text)) for text in texts)


def test_batches_of_accumulated_passes(tiny: km.Model) -> None:
    one = km.train(tiny, TEXTS[:2], steps=3, batch_size=2, optimizer=km.SGD(lr=0.05))
    two = km.train(tiny, TEXTS[:2], steps=3, batch_size=1, accumulate=2, optimizer=km.SGD(lr=0.05))
    np.testing.assert_allclose(two.table["loss"], one.table["loss"], rtol=1e-6)


def test_long_examples(tiny: km.Model) -> None:
    context = tiny.config["context_length"]
    ids = [3 + i % 50 for i in range(2 * context)]
    with pytest.raises(km.ArgumentError, match=rf"example 1 has {2 * context} tokens"):
        km.train(tiny, [[5, 6], ids], steps=1)
    cut = km.train(tiny, [[5, 6], ids], epochs=1, length=50, optimizer=km.SGD(lr=0.0))
    assert cut.n_cut == 1
    assert sum(cut.table["n_targets"]) == 1 + len(ids) - 1  # no target is lost
    packed = km.train(tiny, TEXTS, epochs=1, length=20, pack=True, optimizer=km.SGD(lr=0.0))
    n_targets = sum(len(tiny.encode(text)) - 1 for text in TEXTS)
    assert n_targets - 3 <= sum(packed.table["n_targets"]) <= n_targets


def test_callbacks_measure_on_the_way(tiny: km.Model) -> None:
    seen: list[tuple[int, int]] = []

    def measure(state: km.TrainingState) -> dict[str, Any]:
        seen.append((state.step, state.steps))
        assert (state.last is None) == (state.step == 0)
        return {"held_out": mean_loss(state.model, TEXTS[0]), "whole": state.step}

    training = km.train(
        tiny, TEXTS[1:], **SETTINGS, every=5, callbacks=[measure, lambda state: None]
    )
    assert seen == [(0, 12), (5, 12), (10, 12), (12, 12)]
    held_out = training.table["held_out"]
    assert [step for step, v in zip(training.table["step"], held_out, strict=True) if v] == [
        0,
        5,
        10,
        12,
    ]
    assert held_out[0] == pytest.approx(mean_loss(tiny, TEXTS[0]))
    assert held_out[-1] == pytest.approx(mean_loss(training.model, TEXTS[0]))
    kinds = {column.name: column.type for column in training.table.columns}
    assert kinds["held_out"] == "double" and kinds["whole"] == "int64"
    plain = km.train(tiny, TEXTS[1:], **SETTINGS)
    assert plain.model.fingerprint == training.model.fingerprint  # measuring changes nothing
    with pytest.raises(km.ArgumentError, match="'loss'"):
        km.train(tiny, TEXTS, steps=1, callbacks=lambda state: {"loss": 1.0})


def test_training_in_place(tiny: km.Model) -> None:
    trainable = tiny.trainable()
    training = km.train(trainable, TEXTS, **SETTINGS)
    assert training.model is trainable
    assert trainable.fingerprint == km.train(tiny, TEXTS, **SETTINGS).model.fingerprint


def test_only_chosen_parameters(tiny: km.Model) -> None:
    training = km.train(tiny, TEXTS, steps=2, which="*ffn_up.weight")
    assert training.trainer is not None
    names = training.trainer.model.differing()
    assert len(names) == 3 and all("ffn_up" in name for name in names)
    with pytest.raises(km.ArgumentError, match="which"):
        km.train(tiny, TEXTS, steps=1, which="output.weight", lora=km.LoRA(2))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"steps": 1, "epochs": 1}, "not both"),
        ({"steps": 0}, "steps"),
        ({"steps": 1, "batch_size": 0}, "batch_size"),
        ({"steps": 1, "length": 1}, "length"),
        ({"steps": 1, "every": 0}, "every"),
        ({"steps": 1, "which": ["blk.77.*"]}, "blk.77"),
    ],
)
def test_runs_that_are_refused(tiny: km.Model, options: dict[str, Any], part: str) -> None:
    with pytest.raises(km.ArgumentError, match=part):
        km.train(tiny, TEXTS, **options)
    with pytest.raises(km.ArgumentError, match="empty"):
        km.train(tiny, [], steps=1)


def test_memory_is_refused_with_figures(tiny: km.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("km.training._km.memory_available", lambda: 1 << 16)
    with pytest.raises(MemoryError, match=r"for weights.*for gradients.*for the optimiser.*pass"):
        km.train(tiny, TEXTS, steps=1)


def test_progress_and_ctrl_c(tiny: km.Model, tmp_path: Path) -> None:
    """Ctrl-C keeps the last finished step; the same call goes on from there with the same bits."""
    reported: list[dict[str, Any]] = []

    def stop(done: int, total: int, info: dict[str, Any]) -> None:
        reported.append(dict(info))
        if done == 5:
            raise KeyboardInterrupt

    whole = km.train(tiny, TEXTS, **SETTINGS)
    part = km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path / "run", progress=stop)
    assert part.interrupted and part.n_steps == 5
    assert reported[3]["loss"] == part.table["loss"][2] and reported[3]["tokens_per_second"] > 0
    assert part.table["loss"] == whole.table["loss"][:5]
    rest = km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path / "run")
    assert not rest.interrupted and len(rest.seconds) == 7
    assert rest.table["loss"] == whole.table["loss"]
    assert rest.model.fingerprint == whole.model.fingerprint


@pytest.mark.parametrize("after", [0.02, 0.05, 0.11, 0.17])
def test_a_signal_at_any_moment(tiny: km.Model, after: float) -> None:
    """The model is that of a whole step, wherever the signal falls."""
    settings: dict[str, Any] = {"optimizer": km.AdamW(lr=1e-3), "batch_size": 3}
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))

    def begin(state: km.TrainingState) -> None:
        timer.start()

    part = km.train(tiny, TEXTS, steps=100_000, **settings, callbacks=begin)
    timer.join()
    assert part.interrupted
    assert part.table["step"] == list(range(1, part.n_steps + 1))
    assert part.trainer is not None and part.trainer.n_steps == part.n_steps
    if part.n_steps:
        whole = km.train(tiny, TEXTS, steps=part.n_steps, **settings)
        assert part.model.fingerprint == whole.model.fingerprint
        assert part.table["loss"] == whole.table["loss"]


# ---- checkpoints ----


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


@pytest.mark.parametrize("lora", [None, km.LoRA(2, targets=["attn_q", "ffn_up"])])
def test_checkpoints(tiny: km.Model, tmp_path: Path, lora: km.LoRA | None) -> None:
    whole = km.train(tiny, TEXTS, **SETTINGS, lora=lora)
    folder = tmp_path / "run"

    def fail(state: km.TrainingState) -> None:
        if state.step == 8:
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        km.train(
            tiny, TEXTS, **SETTINGS, lora=lora, checkpoint=folder, save_every=3, every=1,
            callbacks=fail,
        )  # fmt: skip
    assert steps_in(folder) == ["step-3", "step-6"]
    rest = km.train(tiny, TEXTS, **SETTINGS, lora=lora, checkpoint=folder, save_every=3)
    assert len(rest.seconds) == 6
    assert rest.table["loss"] == whole.table["loss"]
    assert rest.model.fingerprint == whole.model.fingerprint
    assert steps_in(folder) == ["step-12", "step-9"]
    done = km.train(tiny, TEXTS, **SETTINGS, lora=lora, checkpoint=folder)
    assert done.seconds == [] and done.model.fingerprint == whole.model.fingerprint


def test_another_recipe_is_refused(tiny: km.Model, tmp_path: Path) -> None:
    km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path)
    for change, part in (
        ({"clip": 2.0}, r"clip is 1\.0 there and 2\.0 here"),
        ({"optimizer": km.SGD(lr=3e-3)}, r"optimizer\.\w+ is"),
        ({"seed": 3}, "seed is 0 there and 3 here"),
    ):
        with pytest.raises(km.ArgumentError, match=part):
            km.train(tiny, TEXTS, **(SETTINGS | change), checkpoint=tmp_path)
    with pytest.raises(km.ArgumentError, match="data is"):
        km.train(tiny, TEXTS[:2], **SETTINGS, checkpoint=tmp_path)
    other = km.load(DATA / "arch" / "llama3")
    with pytest.raises(km.ArgumentError, match="holds a run of another recipe"):
        km.train(other, [[5, 6, 7]], **SETTINGS, checkpoint=tmp_path)


def test_damaged_checkpoints(tiny: km.Model, tmp_path: Path) -> None:
    km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path, keep=1)
    weights = tmp_path / "step-12" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(km.FormatError, match="not those that were written"):
        km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path)
    (tmp_path / "step-12" / "state.json").write_text("{}")
    with pytest.raises(km.FormatError, match="no checkpoint"):
        km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_any_flipped_bit_of_a_checkpoint_is_found(
    tiny: km.Model, tmp_path: Path, name: str
) -> None:
    km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path, keep=1)
    file = tmp_path / "step-12" / name
    data = file.read_bytes()
    model = tiny.trainable()
    for at in [*range(0, len(data), len(data) // 9), len(data) - 1]:
        flipped = bytearray(data)
        flipped[at] ^= 1
        file.write_bytes(flipped)
        try:
            km.train(model, TEXTS, **SETTINGS, checkpoint=tmp_path)
        except (km.FormatError, km.ArgumentError):
            pass
        else:
            assert json.loads(flipped) == json.loads(data)  # white space
            model.restore(tiny.snapshot())
        assert model.fingerprint == tiny.fingerprint  # trained in place: nothing of it is written


def test_checkpoints_are_not_mixed_up(tiny: km.Model, tmp_path: Path) -> None:
    km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path / "a", save_every=6)
    (tmp_path / "a" / "step-12" / "optimizer.safetensors").write_bytes(
        (tmp_path / "a" / "step-6" / "optimizer.safetensors").read_bytes()
    )
    with pytest.raises(km.FormatError, match=r"optimizer\.safetensors: is of step 6"):
        km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path / "a")
    (tmp_path / "a" / "step-12").rename(tmp_path / "a" / "step-15")
    with pytest.raises(km.FormatError, match=r"step-15: is of step 12; delete this checkpoint"):
        km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path / "a")


def test_a_link_in_the_folder_is_not_followed(tiny: km.Model, tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    km.train(tiny, TEXTS, **SETTINGS, checkpoint=outside, keep=1)
    run.mkdir()
    (run / "step-1").symlink_to(outside, target_is_directory=True)
    with pytest.raises(km.FormatError, match="no checkpoint"):
        km.train(tiny, TEXTS, **SETTINGS, checkpoint=run)
    (run / "step-1").unlink()
    (run / "step-12").symlink_to(outside / "step-12", target_is_directory=True)
    done = km.train(tiny, TEXTS, **SETTINGS, checkpoint=run)
    assert done.seconds == [] and steps_in(outside) == ["step-12"]
    (run / "step-12").rename(run / "step-0")
    (run / "step-6").mkdir()
    (run / "step-6" / "state.json").write_text("{}")
    with pytest.raises(km.FormatError, match="no checkpoint"):
        km.train(tiny, TEXTS, **SETTINGS, checkpoint=run)
    (run / "step-6" / "state.json").unlink()
    (run / "step-6").rmdir()
    (run / "step-0").rename(run / ".step-12.old")  # killed between two renames
    assert km.train(tiny, TEXTS, **SETTINGS, checkpoint=run).seconds == []
    assert steps_in(run) == ["step-12"]


def test_what_callbacks_return_is_checked_at_once(tiny: km.Model) -> None:
    for found, part in (
        (5, "returned int"),
        ({5: 1}, "mapping of str"),
        ({"a": [1]}, "'a' holds list"),
        ({"a": np.zeros(3)}, "'a' holds ndarray"),
        ({"a\0b": 1}, "NUL"),
    ):
        with pytest.raises((TypeError, km.ArgumentError), match=part):
            km.train(tiny, TEXTS, **SETTINGS, callbacks=lambda _, found=found: found)
    kinds = iter([1, "text"])
    trainable = tiny.trainable()
    with pytest.raises(km.ArgumentError, match="'a' holds int, str"):
        km.train(trainable, TEXTS, **SETTINGS, every=1, callbacks=lambda _: {"a": next(kinds)})
    first = km.train(tiny, TEXTS, **(SETTINGS | {"steps": 1}))
    assert trainable.fingerprint == first.model.fingerprint


def test_token_ids_are_never_cut_to_fit(tiny: km.Model) -> None:
    for ids, error in (
        (np.array([1.5, 2.7]), TypeError),
        (np.array([2**32 + 5, 2**32 + 6]), km.ArgumentError),
        (np.array([float("nan"), 1.0]), TypeError),
        ([2**40, 1], km.ArgumentError),
        (np.array([[1, 2]]), TypeError),
    ):
        with pytest.raises(error, match=r"token ids|sequence of int"):
            km.Example(ids).encode(tiny)
    with pytest.raises(km.ArgumentError, match="lone surrogate"):
        km.train(tiny, ["half \ud800 pair"], steps=1)


@pytest.mark.parametrize(
    "options",
    [{"kb": "x.km"}, {"optimizer": "adamw"}, {"lora": 8}, {"schedule": "cosine"}, {"quota": "1G"}],
)
def test_arguments_of_another_kind(tiny: km.Model, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(options))} must be"):
        km.train(tiny, TEXTS, steps=1, checkpoint=tmp_path / "c", **options)
    with pytest.raises(km.ArgumentError, match="checkpoint is empty"):
        km.train(tiny, TEXTS, steps=1, checkpoint="")
    with pytest.raises(TypeError, match=r"must be a km\.Model"):
        km.train("model.gguf", TEXTS, steps=1)  # type: ignore[arg-type]


def test_keep_and_quota(tiny: km.Model, tmp_path: Path) -> None:
    km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path / "a", save_every=1, keep=3)
    assert steps_in(tmp_path / "a") == ["step-10", "step-11", "step-12"]
    size = sum(file.stat().st_size for file in (tmp_path / "a" / "step-12").iterdir())
    quota = 2 * (size + (1 << 20)) + size // 2
    km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path / "b", save_every=1, keep=9, quota=quota)
    assert steps_in(tmp_path / "b")[-1] == "step-9" or len(steps_in(tmp_path / "b")) <= 4
    total = sum(file.stat().st_size for file in (tmp_path / "b").rglob("*") if file.is_file())
    assert total <= quota
    with pytest.raises(km.ArgumentError, match="quota is 1,000 bytes"):
        km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path / "c", quota=1000)


def test_two_runs_into_one_folder(tiny: km.Model, tmp_path: Path) -> None:
    def other(state: km.TrainingState) -> None:
        if state.step == 0:
            with pytest.raises(km.BusyError, match="another process"):
                km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path)

    km.train(tiny, TEXTS, **SETTINGS, checkpoint=tmp_path, callbacks=other)


# A run that is killed again and again, at any moment, in another process.
CHILD = """
import sys
import km

km_texts = sys.argv[3:]
tiny = km.load(sys.argv[1])
print("begun", flush=True)
training = km.train(
    tiny, km_texts, steps=40, batch_size=2, optimizer=km.AdamW(lr=3e-3), checkpoint=sys.argv[2],
    save_every=1, every=7, callbacks=lambda state: {"seen": state.step},
)
print(training.model.fingerprint, training.table.to_jsonl())
"""


def run_child(folder: Path, after: float | None) -> str | None:
    """What a finished child printed; None when it was killed so many seconds after it began."""
    command = [sys.executable, "-c", CHILD, str(DATA / "tiny_llama"), str(folder), *TEXTS]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    try:
        out, _ = child.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return None
    assert child.returncode == 0
    return out


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    unbroken = run_child(tmp_path / "unbroken", None)
    folder = tmp_path / "broken"
    seeded = random.Random(4)
    kills, ended = 0, None
    while ended is None and (kills < 8 or not (folder.exists() and steps_in(folder))):
        ended = run_child(folder, 0.05 * (kills + 1) * seeded.random())
        kills += ended is None
    ended = ended or run_child(folder, None)
    assert kills >= 2
    assert ended == unbroken
    assert steps_in(folder) == ["step-39", "step-40"]


FULL_DISK = """
import resource, signal, sys
import km

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tiny = km.load(sys.argv[1])
limit = int(sys.argv[3])

def fill(state):
    if state.step == 5:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

try:
    km.train(tiny, sys.argv[4:], steps=12, batch_size=2, optimizer=km.AdamW(lr=3e-3),
             checkpoint=sys.argv[2], save_every=2, every=1, callbacks=fill)
except OSError as error:
    print("refused:", error.errno)
"""


@pytest.mark.parametrize("limit", [0, 50_000, 150_000])
def test_a_full_disk_loses_nothing(tiny: km.Model, tmp_path: Path, limit: int) -> None:
    """Files may grow to `limit` bytes from step 5 on: step 6 cannot be written, step 4 stays."""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", FULL_DISK, str(DATA / "tiny_llama"), str(folder), str(limit)]
    done = subprocess.run([*command, *TEXTS], capture_output=True, text=True, check=True)
    assert f"refused: {errno.EFBIG}" in done.stdout
    assert steps_in(folder) == ["step-2", "step-4"]
    settings: dict[str, Any] = {"steps": 12, "batch_size": 2, "optimizer": km.AdamW(lr=3e-3)}
    rest = km.train(tiny, TEXTS, **settings, checkpoint=folder)
    assert len(rest.seconds) == 8
    assert rest.model.fingerprint == km.train(tiny, TEXTS, **settings).model.fingerprint


# ---- the knowledge base ----


def test_learning_curves_are_recorded(tiny: km.Model, tmp_path: Path) -> None:
    with km.KnowledgeBase(tmp_path / "a.db") as kb:
        training = km.train(tiny, TEXTS, **SETTINGS, kb=kb, every=6, callbacks=lambda s: {"x": 1.5})
        assert training.run is not None
        stored = km.Training.from_knowledge_base(kb, training.run)
        assert list(stored.table.rows()) == list(training.table.rows())
        assert stored.parameters["optimizer"]["name"] == "AdamW"
        assert stored.provenance["model"]["fingerprint"] == tiny.fingerprint
        with pytest.raises(km.ArgumentError, match="not trained models"):
            _ = stored.model
        lineage = kb.sql("SELECT count(*) AS n FROM lineage")
        assert lineage["n"] == [1]

        def stop(done: int, total: int, info: dict[str, Any]) -> None:
            if done == 3:
                raise KeyboardInterrupt

        km.train(tiny, TEXTS, **SETTINGS, kb=kb, progress=stop)
        with pytest.raises(km.ArgumentError):
            km.train(tiny, TEXTS, **SETTINGS, kb=kb, callbacks=lambda state: {"loss": 1.0})
        assert kb.runs()["status"] == ["failed", "cancelled", "done"]


# ---- the command ----


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "a.txt").write_text("One text\nof two lines.\n\n\nAnother text.\n")
    rows = [{"text": TEXTS[0]}, {"prompt": "Paris is", "completion": " a city", "weight": 2}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return {name: str(tmp_path / name) for name in ("a.txt", "a.jsonl", "out", "run", "lora", "kb")}


def test_command(tiny: km.Model, files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", tiny.path, "--steps", "3", "--lr", "1e-3", "--out", files["out"]]
    assert main([*command, "--text", files["a.txt"], "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = km.train(
        tiny, ["One text\nof two lines.", "Another text."], steps=3, optimizer=km.AdamW(lr=1e-3)
    )
    assert [row["loss"] for row in rows] == expected.table["loss"]
    ids = np.array([5, 9, 12], np.int32)
    got = np.asarray(km.load(files["out"])._model.next_logprobs(ids))
    np.testing.assert_array_equal(got, np.asarray(expected.model._model.next_logprobs(ids)))
    assert main([*command, "--text", files["a.txt"]]) == 1
    assert "is there already" in capsys.readouterr().err


def test_command_with_adapters(
    tiny: km.Model, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "train", tiny.path, "--jsonl", files["a.jsonl"], "--epochs", "2", "--lora", "2", "--lr",
        "0.01", "--targets", "attn_q,ffn_down", "--checkpoint", files["run"], "--quota", "1G",
        "--kb", files["kb"],
    ]  # fmt: skip
    assert main([*command, "--out", files["out"], "--adapters", files["lora"]]) == 0
    examples = [
        km.Example(TEXTS[0]),
        km.Example("Paris is a city", targets=len("Paris is"), weight=2.0),
    ]
    expected = km.train(
        tiny, examples, epochs=2, optimizer=km.AdamW(lr=0.01),
        lora=km.LoRA(2, 4.0, ["attn_q", "ffn_down"]),
    )  # fmt: skip
    merged = km.merge_adapters(tiny, files["lora"])
    ids = np.array([5, 9, 12], np.int32)
    want = np.asarray(expected.model._model.next_logprobs(ids))
    np.testing.assert_array_equal(np.asarray(km.load(files["out"])._model.next_logprobs(ids)), want)
    np.testing.assert_allclose(np.asarray(merged._model.next_logprobs(ids)), want, atol=1e-5)
    assert steps_in(Path(files["run"])) == ["step-1", "step-2"]
    assert "2 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "line 1: is no JSON"),
        ("[]", "no JSON object"),
        ('{"txt": "a"}', "unknown key 'txt'"),
        ('{"prompt": "a"}', '"completion" are needed'),
        ('{"text": "a b", "weight": "x"}', "not a number"),
    ],
)
def test_bad_lines(
    tiny: km.Model, files: dict[str, str], line: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(files["a.jsonl"]).write_text(line)
    command = ["train", tiny.path, "--jsonl", files["a.jsonl"], "--steps", "1"]
    assert main([*command, "--out", files["out"]]) == 1
    assert part in capsys.readouterr().err
    assert not Path(files["out"]).exists()


def test_files_and_options_that_name_nothing_usable(
    tiny: km.Model, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", tiny.path, "--steps", "1", "--out", files["out"]]
    assert main([*command, "--text", files["a.txt"], "--checkpoint", ""]) == 1
    assert "checkpoint is empty" in capsys.readouterr().err
    for name, option in (("a.txt", "--text"), ("a.jsonl", "--jsonl")):
        Path(files[name]).write_bytes(b"ab\xff")
        assert main([*command, option, files[name]]) == 1
        assert f"{files[name]}: byte 2 is not UTF-8" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--text", files["a.txt"], "--quota", "infG"])
    assert "is not a size" in capsys.readouterr().err


def test_damaged_adapters(tiny: km.Model, tmp_path: Path) -> None:
    trainer = km.Trainer(tiny.trainable(), km.AdamW(lr=1e-2), lora=km.LoRA(2))
    trainer.step(TEXTS)
    trainer.save_adapters(tmp_path)
    before = trainer.model.fingerprint
    tensors, _ = read_tensors(tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    a = min(name for name in tensors if "lora_A" in name)
    b = a.replace("lora_A", "lora_B")
    for change, part in (
        ({a: tensors[a] * np.float32("nan")}, "not finite"),
        ({a: tensors[a] * np.float32(1e38), b: np.full_like(tensors[b], 1e38)}, "too large"),
        ({b: tensors[b].ravel()}, "does not fit"),
        ({a: tensors[a][:1], b: tensors[b][:, :1]}, "at rank 2"),
        ({a: tensors[a][:0], b: tensors[b][:, :0]}, "at rank 2"),
    ):
        write_tensors(
            tmp_path / "adapter_model.safetensors", tensors | change, {}, overwrite=True
        )  # fmt: skip
        with pytest.raises(km.FormatError, match=part):
            km.merge_adapters(tiny, tmp_path)
        with pytest.raises(km.FormatError, match=part):
            trainer.load_adapters(tmp_path)
        assert trainer.model.fingerprint == before
    write_tensors(tmp_path / "adapter_model.safetensors", tensors, {}, overwrite=True)
    for change in ({"r": 3}, {"r": 10**400}, {"r": 1.5}, {"lora_alpha": math.nan}):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(km.FormatError):
            km.merge_adapters(tiny, tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    os.rename(tmp_path / "adapter_model.safetensors", tmp_path / "moved")
    os.mkfifo(tmp_path / "adapter_model.safetensors")
    with pytest.raises(km.FormatError, match="is no file"):
        km.merge_adapters(tiny, tmp_path)
    trainer.step(TEXTS)
