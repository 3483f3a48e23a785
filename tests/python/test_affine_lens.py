"""Affine lenses: the closed form, held-out evaluation beside the logit lens, files, prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km

ARCH = Path(__file__).parent.parent / "golden_data" / "arch"


def make_texts(n: int, seed: int, length: int = 40) -> list[list[int]]:
    return np.random.default_rng(seed).integers(3, 319, size=(n, length)).tolist()


@pytest.fixture(scope="module", params=["llama3", "gpt2", "pythia"])
def model(request: pytest.FixtureRequest) -> km.Model:
    return km.load(ARCH / request.param)


@pytest.fixture(scope="module")
def llama() -> km.Model:
    return km.load(ARCH / "llama3")


@pytest.fixture(scope="module")
def lens(llama: km.Model) -> km.AffineLens:
    return km.AffineLens.fit(llama, make_texts(12, 1))


def streams(model: km.Model, texts: list[list[int]]) -> np.ndarray[Any, Any]:
    """resid_post of every token but the first of each text, (L, N, D)."""
    parts = []
    for text in texts:
        with model.trace(text, "resid_post") as trace:
            parts.append(np.array(trace["resid_post"]))
    return np.concatenate([part[:, 1:] for part in parts], axis=1).astype(np.float64)


def test_closed_form_is_least_squares_with_penalty_rows(model: km.Model) -> None:
    texts, ridge = make_texts(8, 2), 0.05
    lens = km.AffineLens.fit(model, texts, ridge=ridge)
    x = streams(model, texts)
    last, width = x[-1], x.shape[2]
    for layer, own in enumerate(x):
        centre = own - own.mean(0)
        penalty = np.sqrt(ridge * (centre**2).sum() / width)
        left = np.block(
            [[own, np.ones((len(own), 1))], [penalty * np.eye(width), np.zeros((width, 1))]]
        )
        right = np.concatenate([last - own, np.zeros((width, width))])
        solution = np.linalg.lstsq(left, right, rcond=None)[0]
        np.testing.assert_allclose(
            lens.weights[layer], np.eye(width) + solution[:-1].T, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(lens.biases[layer], solution[-1], rtol=1e-4, atol=1e-5)


def test_last_layer_is_the_identity(model: km.Model) -> None:
    lens = km.AffineLens.fit(model, make_texts(4, 3))
    assert np.array_equal(lens.weights[-1], np.eye(lens.weights.shape[1]))
    assert not lens.biases[-1].any()
    last = lens.evaluate(make_texts(2, 4), control=False).table.row(-1 + len(lens.weights))
    assert last["kl_affine"] == last["kl_logit_lens"] == 0.0
    assert last["agreement_affine"] == last["agreement_logit_lens"] == 1.0


def test_evaluation_against_numpy(llama: km.Model, lens: km.AffineLens) -> None:
    held_out = make_texts(3, 5)
    evaluation = lens.evaluate(held_out, control=False)
    x = streams(llama, held_out)
    unembed = np.asarray(llama.weight("lm_head.weight"), dtype=np.float64)
    gain = np.asarray(llama.weight("model.norm.weight"), dtype=np.float64)
    eps = llama.config["norm_eps"]

    def logprobs(stream: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        normed = stream / np.sqrt((stream**2).mean(-1, keepdims=True) + eps) * gain
        logits = normed @ unembed.T
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    own = logprobs(x[-1])
    for layer, row in enumerate(evaluation.table.rows()):
        mapped = logprobs(x[layer] @ lens.weights[layer].T + lens.biases[layer])
        plain = logprobs(x[layer])
        for name, lp in (("affine", mapped), ("logit_lens", plain)):
            kl = (np.exp(own) * (own - lp)).sum(-1)
            assert row[f"kl_{name}"] == pytest.approx(kl.mean(), abs=2e-5)
            agreement = (own.argmax(-1) == lp.argmax(-1)).mean()
            assert row[f"agreement_{name}"] == pytest.approx(agreement, abs=0.01)
        assert row["n"] == len(own) and row["n_texts"] == 3
        difference = row["kl_affine"] - row["kl_logit_lens"]
        assert row["kl_difference"] == pytest.approx(difference, abs=1e-12)
        assert row["kl_affine_low"] <= row["kl_affine"] <= row["kl_affine_high"]


def test_lens_is_closer_than_the_logit_lens_on_held_out_texts(
    llama: km.Model, lens: km.AffineLens
) -> None:
    evaluation = lens.evaluate(make_texts(6, 6))
    first = evaluation.table.row(0)
    assert first["kl_difference_high"] < 0.0
    assert evaluation.control is not None
    assert len(evaluation.control) == len(evaluation.table) == llama.config["n_layers"]
    assert "not the KL-trained tuned lens" in repr(evaluation)
    (evidence,) = evaluation.evidence
    assert evidence["value"] == evaluation.table.row(1)["kl_difference"]
    assert evaluation.provenance["measure"] == "interpretability.affine_lens"


def test_control_is_a_lens_of_random_weights(llama: km.Model, lens: km.AffineLens) -> None:
    held_out = make_texts(2, 7)
    control = lens.evaluate(held_out, seed=3).control
    random = km.AffineLens.fit(llama.random_like(3), lens.texts)
    direct = random.evaluate(held_out, control=False).table
    assert control is not None
    for name in ("kl_affine", "kl_logit_lens", "agreement_affine", "agreement_logit_lens"):
        assert list(control[name]) == list(direct[name])


def test_batches_change_no_figure(llama: km.Model, lens: km.AffineLens) -> None:
    again = km.AffineLens.fit(llama, lens.texts, batch_tokens=1)
    assert np.array_equal(again.weights, lens.weights)
    assert np.array_equal(again.biases, lens.biases)
    tables = [
        lens.evaluate(make_texts(3, 8), control=False, batch_tokens=n).table for n in (1, 4096)
    ]
    assert list(tables[0].rows()) == list(tables[1].rows())


def test_prompt_reads_each_layer_through_its_map(llama: km.Model, lens: km.AffineLens) -> None:
    prompt = make_texts(1, 9)[0]
    got, plain = lens(prompt, 7, top_k=3), llama.lens(prompt, 7, top_k=3)
    assert [c.name for c in got.table.columns] == [c.name for c in plain.table.columns]
    n_layers = llama.config["n_layers"]
    # The output, and the last layer, whose map is the identity.
    for layer in (n_layers - 1, n_layers):
        for name, value in plain.table.row(layer).items():
            assert got.table.row(layer)[name] == (
                pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            )
    assert got.table.row(0)["logprob"] != plain.table.row(0)["logprob"]
    assert got.layers()[-1]["layer"] == "output"
    # A patch that sets the last layer's stream to the mapped one gives the same distribution.
    mapped = lens.weights[0] @ streams(llama, [prompt])[0, -1] + lens.biases[0]
    site = km.patch("resid_post", layer=n_layers - 1, positions="last")
    patch = site.set(mapped.astype(np.float32))
    logprobs = np.asarray(llama.next_logprobs(prompt, patches=[patch]))
    assert got.table.row(0)["logprob"] == pytest.approx(float(logprobs[7]), abs=1e-4)


def test_files(llama: km.Model, lens: km.AffineLens, tmp_path: Path) -> None:
    path = lens.save(tmp_path / "lens")
    loaded = km.AffineLens.load(path, llama)
    assert np.array_equal(loaded.weights, lens.weights)
    assert np.array_equal(loaded.biases, lens.biases)
    assert loaded.texts == lens.texts and loaded.ridge == lens.ridge
    assert [p.name for p in tmp_path.iterdir()] == ["lens"]
    with pytest.raises(km.ArgumentError, match="are not those of"):
        km.AffineLens.load(path, km.load(ARCH / "mistral"))
    (tmp_path / "bad").write_bytes(b"nothing of the kind")
    with pytest.raises(km.FormatError, match="not a lens"):
        km.AffineLens.load(tmp_path / "bad", llama)
    with pytest.raises(FileNotFoundError):
        km.AffineLens.load(tmp_path / "absent", llama)


def test_refuses_texts_it_was_fitted_on(lens: km.AffineLens) -> None:
    fitted = lens.texts[3]
    with pytest.raises(km.ArgumentError, match="text 1 shares 32 tokens"):
        lens.evaluate([make_texts(1, 10)[0], [5, *fitted[:35]]])
    with pytest.raises(km.ArgumentError, match="text 0 shares 4 tokens"):
        lens.evaluate([fitted[10:14]])


def test_bad_arguments(llama: km.Model) -> None:
    texts = make_texts(2, 11)
    with pytest.raises(km.ArgumentError, match="put a single one into a list"):
        km.AffineLens.fit(llama, "one text")
    with pytest.raises(km.ArgumentError, match="texts is empty"):
        km.AffineLens.fit(llama, [])
    with pytest.raises(km.ArgumentError, match="text 1 has 1 tokens"):
        km.AffineLens.fit(llama, [texts[0], [5]])
    with pytest.raises(km.ArgumentError, match="cut it up"):
        km.AffineLens.fit(llama, [texts[0] * 2])
    with pytest.raises(km.ArgumentError, match="ridge is 0"):
        km.AffineLens.fit(llama, texts, ridge=0.0)
    with pytest.raises(km.ArgumentError, match="confidence is 1"):
        km.AffineLens.fit(llama, texts).evaluate(make_texts(1, 12), confidence=1.0)
    with pytest.raises(km.ArgumentError, match="top_k is 0"):
        km.AffineLens.fit(llama, texts)(texts[0], 5, top_k=0)


def test_progress_counts_texts(llama: km.Model) -> None:
    seen: list[tuple[int, int]] = []
    lens = km.AffineLens.fit(
        llama, make_texts(4, 12), progress=lambda done, total, info: seen.append((done, total))
    )
    assert seen[-1] == (4, 4)
    seen.clear()
    lens.evaluate(make_texts(2, 13), progress=lambda done, total, info: seen.append((done, total)))
    assert seen[-1] == (8, 8)
