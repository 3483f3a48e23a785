"""Knowledge neurons and circuits against PyTorch's autograd (tests/oracle/make_attribution.py)."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from arch_models import Floats, load, read_safetensors

from km import _km

GOLDEN = Path(__file__).parents[1] / "golden_data" / "attribution.safetensors"
STEPS = {"eap": 1, "eap_ig": 5}


@functools.lru_cache
def golden() -> dict[str, Floats]:
    """All arrays, by "model.array"."""
    return read_safetensors(GOLDEN)


NAMES = sorted({key.split(".")[0] for key in golden()})


def task(name: str) -> tuple[Floats, Floats, int, int]:
    """Clean and corrupted ids, good and bad answer."""
    found = golden()
    good, bad = (int(token) for token in found[f"{name}.tokens"])
    clean, corrupted = (
        found[f"{name}.{which}"].astype(np.int32) for which in ("clean", "corrupted")
    )
    return clean, corrupted, good, bad


def close(got: np.ndarray, expected: Floats, tolerance: float = 2e-4) -> None:
    """Equal up to rounding, measured by the largest value."""
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_neurons_equal_the_oracle(name: str) -> None:
    clean, _, good, _ = task(name)
    attribution, _, without, open_, probability = _km.neurons_run(load(name)._model, clean, good)
    close(np.asarray(attribution), golden()[f"{name}.neurons"])
    close(np.append(without, probability), golden()[f"{name}.probability"], 1e-5)
    total = np.asarray(attribution).sum(axis=1)
    assert np.allclose(open_, probability - np.asarray(without) - total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", STEPS)
@pytest.mark.parametrize("name", NAMES)
def test_edges_equal_the_oracle(name: str, method: str) -> None:
    clean, corrupted, good, bad = task(name)
    table = _km.circuit_run(
        load(name)._model, clean, corrupted, good, bad, steps=STEPS[method], top=0
    )
    columns = {key: np.asarray(table.values(key)) for key in ("target_id", "source_id", "score")}
    order = np.lexsort((columns["source_id"], columns["target_id"]))
    close(columns["score"][order], golden()[f"{name}.{method}"])


@pytest.mark.parametrize("name", NAMES)
def test_all_edges_are_the_clean_run_and_none_the_corrupted_one(name: str) -> None:
    clean, corrupted, good, bad = task(name)
    model = load(name)._model
    edges = _km.circuit_run(model, clean, corrupted, good, bad, steps=1, top=0)
    sources, targets = (
        np.asarray(edges.values(key)).astype(np.int32) for key in ("source_id", "target_id")
    )
    for n in (len(sources), 0):
        table = _km.circuit_evaluate(
            model, clean, corrupted, good, bad, sources[:n].copy(), targets[:n].copy()
        )
        metric = np.asarray(table.values("metric"))
        logprob = np.asarray(table.values("logprob"))
        assert abs(metric[2] - metric[0 if n else 1]) < 1e-4
        assert abs(logprob[2] - logprob[0 if n else 1]) < 1e-4
