"""The binding of the selection network: arrays in and out, errors, threads, Ctrl-C, resuming."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy as np
import pytest

from km import CancelledError, _km

Batch = dict[str, Any]


def offsets(*lengths: int) -> Any:
    """Where things of these lengths begin."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def make_batch() -> Batch:
    """Two dialogues of two turns and one, over one list of three sentences."""
    return {
        "sentence_tokens": np.array([4, 5, 6, 7, 8, 9], np.int32),
        "sentence_offsets": offsets(1, 3, 2),
        "list_sentences": np.array([0, 1, 2], np.int64),
        "list_offsets": offsets(3),
        "dialogue_offsets": offsets(2, 1),
        "turn_lists": np.zeros(3, np.int64),
        "context_tokens": np.array([2, 5, 3, 2, 9, 3, 2, 7, 3], np.int32),
        "context_offsets": offsets(3, 3, 3),
        "gold": np.array([1, 2, 2], np.int64),
        "response_tokens": np.array([2, 5, 3, 2, 9, 3, 2, 8, 3], np.int32),
        "response_offsets": offsets(3, 3, 3),
    }


def make_model(**changes: Any) -> _km.DiffKS:
    """A small model."""
    settings: dict[str, Any] = {
        "variant": "disentangled",
        "vocabulary": 10,
        "embedding": 4,
        "hidden": 3,
        "decoder": 5,
        "weights": np.array([0.7, 0.3]),
        "dropout": 0.3,
        "seed": 2,
        "threads": 2,
    }
    return _km.DiffKS(**{**settings, **changes})


def values(model: _km.DiffKS) -> dict[str, Any]:
    """Copies of all weights."""
    return {name: np.array(array) for name, array in model.parameters().items()}


def test_parameters_are_the_models_own_memory() -> None:
    """Writing into them changes scores; loading them elsewhere gives the same model."""
    model, other = make_model(), make_model(seed=9)
    before = np.array(model.select(make_batch())[1])
    assert not np.array_equal(before, np.array(other.select(make_batch())[1]))
    other.load_parameters(values(model))
    assert np.array_equal(before, np.array(other.select(make_batch())[1]))
    np.asarray(model.parameters()["E"])[...] *= 2.0
    assert not np.array_equal(before, np.array(model.select(make_batch())[1]))
    assert np.asarray(model.parameters()["ctx.h_init"]).shape == (2, 1, 3)


def test_load_parameters_is_all_or_nothing() -> None:
    """A missing weight or another shape is named, and nothing has changed."""
    model = make_model()
    before = values(model)
    wrong = {name: array + 1.0 for name, array in before.items()}
    missing = {name: array for name, array in wrong.items() if name != "copy.bias"}
    with pytest.raises(_km.NotFoundError, match=r"copy\.bias"):
        model.load_parameters(missing)
    with pytest.raises(_km.ShapeError, match=r"out\.bias"):
        model.load_parameters({**wrong, "out.bias": np.zeros(11, np.float32)})
    with pytest.raises(TypeError, match="dict"):
        model.load_parameters([1])  # type: ignore[arg-type]
    assert all(np.array_equal(a, before[name]) for name, a in values(model).items())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"gold": None}, _km.ArgumentError, "gold"),
        ({"gold": np.array([1, 2], np.int64)}, _km.ShapeError, "gold"),
        ({"gold": np.array([1, 2, 3], np.int64)}, _km.ArgumentError, r"gold\[2\]"),
        ({"turn_lists": None}, _km.ArgumentError, "turn_lists"),
        ({"context_tokens": np.zeros(9)}, _km.ShapeError, "context_tokens"),
        ({"context_offsets": offsets(3, 3)}, _km.ArgumentError, "context_offsets"),
        ({"sentence_offsets": offsets(1, 3, 3)}, _km.ArgumentError, "sentence_offsets"),
        ({"response_offsets": None}, _km.ArgumentError, "response_offsets"),
        ({"history_offsets": offsets(0, 0, 0)}, _km.ArgumentError, "history_offsets"),
        ({"sentence_tokens": np.full(6, 10, np.int32)}, _km.ArgumentError, "vocabulary"),
    ],
)
def test_bad_batches_are_named(changes: Batch, error: type[Exception], message: str) -> None:
    """The message says which array is wrong."""
    with pytest.raises(error, match=message):
        make_model().loss({**make_batch(), **changes})


def test_bad_settings_are_named() -> None:
    """Constructor and options."""
    with pytest.raises(_km.ArgumentError, match="variant"):
        make_model(variant="none")
    with pytest.raises(_km.ArgumentError, match="vocabulary"):
        make_model(vocabulary=2)
    with pytest.raises(_km.ArgumentError, match="weights"):
        make_model(weights=np.zeros(0))
    with pytest.raises(_km.ArgumentError, match="history"):
        make_model().loss(make_batch(), history="none")  # type: ignore[arg-type]
    with pytest.raises(_km.BusyError, match="optimize"):
        make_model().step(make_batch(), 0.01)
    batch = {**make_batch(), "sentence_vectors": np.zeros((5, 2), np.float32)}
    with pytest.raises(_km.ShapeError, match="sentence_vectors"):
        make_model(vectors=2).loss(batch)


def test_resumed_training_has_the_same_bits() -> None:
    """Weights, averages and the count of steps are all there is."""
    model, other = make_model(), make_model(seed=2, threads=1)
    model.optimize()
    for _ in range(3):
        model.step(make_batch(), 0.01, history="sampled", probability=0.5)
    other.optimize()
    other.load_parameters(values(model))
    for name, averages in other.averages().items():
        for mine, theirs in zip(averages, model.averages()[name], strict=True):
            np.asarray(mine)[...] = np.asarray(theirs)
    other.set_steps(model.steps)
    for one in (model, other):
        one.step(make_batch(), 0.01, history="sampled", probability=0.5)
    assert model.steps == other.steps == 4
    expected = values(model)
    assert all(np.array_equal(a, expected[name]) for name, a in values(other).items())


def test_selection_says_why() -> None:
    """Shapes, and the first turn without contributions."""
    chosen, scores, context, parts = make_model().select(make_batch(), explain=True)
    assert np.asarray(chosen).shape == (3,) and np.asarray(scores).shape == (9,)
    assert np.asarray(parts).shape == (9, 2)
    assert np.array_equal(np.asarray(context)[:3], np.asarray(scores)[:3])
    assert not np.asarray(parts)[:3].any() and np.asarray(parts)[3:6, 0].all()
    assert make_model().select(make_batch())[2:] == (None, None)


def test_answers_end() -> None:
    """Zeros stand after the end."""
    tokens, lengths = make_model().respond(make_batch(), np.array([1, 1, 2], np.int64), 7)
    words, ends = np.asarray(tokens), np.asarray(lengths)
    assert words.shape == (3, 7) and words.dtype == np.int32
    for row, end in zip(words, ends, strict=True):
        assert (row[:end] >= 2).all() and not row[end:].any()
        assert end == 7 or row[end - 1] == 3


def large_batch() -> Batch:
    """Half a second of work or more."""
    random = np.random.default_rng(1)
    n, words = 1200, 90
    return {
        "sentence_tokens": random.integers(4, 10, 40 * words).astype(np.int32),
        "sentence_offsets": offsets(*[words] * 40),
        "list_sentences": np.arange(40),
        "list_offsets": offsets(40),
        "dialogue_offsets": offsets(*[4] * (n // 4)),
        "turn_lists": np.zeros(n, np.int64),
        "context_tokens": random.integers(4, 10, n * words).astype(np.int32),
        "context_offsets": offsets(*[words] * n),
        "gold": random.integers(1, 40, n),
    }


def gradients(model: _km.DiffKS, batch: Batch, n: int) -> None:
    """Some seconds of work."""
    for _ in range(n):
        model.gradient(batch)


def test_interrupt_leaves_the_model_as_it_was() -> None:
    """Ctrl-C in the middle of a gradient; the next step works."""
    model = make_model(hidden=64, generate=False)
    model.optimize()
    before, batch = values(model), large_batch()
    timer = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises((KeyboardInterrupt, CancelledError)):
        gradients(model, batch, 50)
    timer.cancel()
    assert all(np.array_equal(a, before[name]) for name, a in values(model).items())
    assert model.steps == 0
    small = {k: v for k, v in make_batch().items() if not k.startswith("response")}
    model.step(small, 0.01)
    assert model.steps == 1


def test_second_thread_is_turned_away() -> None:
    """While a pass runs, another call is BusyError at once."""
    model = make_model(hidden=64, generate=False)
    batch, done, busy = large_batch(), threading.Event(), 0

    def work() -> None:
        gradients(model, batch, 3)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        try:
            model.pass_bytes(batch)
        except _km.BusyError:
            busy += 1
    thread.join()
    assert busy > 0
    assert model.pass_bytes(batch) > model.pass_bytes(batch, training=False) > 0
