"""Losses of gradients: which tokens they mean, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km

ROOT = Path(__file__).parents[1] / "golden_data"
TEXT = "The tall tower stands near the old"


@pytest.fixture(scope="module")
def tiny() -> km.Model:
    return km.load(ROOT / "tiny_llama")


def test_values(tiny: km.Model) -> None:
    ids = tiny.encode(TEXT)
    with tiny.trace(TEXT, ["next_logprobs", "logits", "logprobs"]) as trace:
        following, logits = trace["next_logprobs"].copy(), trace["logits"].copy()
        total = float(trace["logprobs"].sum(dtype=np.float64))
    town = tiny.encode(TEXT + " town")[len(ids)]
    expected = [
        (km.loss.logprob(" town"), following[-1, town]),
        (km.loss.logprob("town"), following[-1, town]),
        (km.loss.prob(town), np.exp(following[-1, town])),
        (km.loss.logit(9, positions=[2, 0]), logits[0, 9] + logits[2, 9]),
        (km.loss.logit_difference(9, " town"), logits[-1, 9] - logits[-1, town]),
        (km.loss.nll(), -total),
    ]
    for loss, value in expected:
        found = tiny.gradients(TEXT, loss, "embed", positions="last").loss
        assert found.shape == (1,) and found[0] == pytest.approx(float(value), rel=1e-5), loss


def test_texts_have_their_own_targets(tiny: km.Model) -> None:
    texts = [TEXT, "A tower"]
    result = tiny.gradients(texts, km.loss.logprob([" town", 9]), "final_norm", positions="last")
    following = [tiny.next_logprobs(tiny.encode(text)) for text in texts]
    town = tiny.encode(TEXT + " town")[len(tiny.encode(TEXT))]
    assert result.loss == pytest.approx([following[0][town], following[1][9]], abs=1e-6)
    assert result["final_norm"].shape == (2, 1, tiny.config["d_model"])


def test_only_what_comes_before_has_a_derivative(tiny: km.Model) -> None:
    result = tiny.gradients(TEXT, km.loss.logprob(5, positions=3), ["resid_post", "k"])
    assert result["resid_post"][:, :4].any() and not result["resid_post"][:, 4:].any()
    assert not result["resid_post"][2, :3].any()  # of the last layer, position 3 alone
    assert result["k"][2, :4].any() and not result["k"][:, 4:].any()


@pytest.mark.parametrize(
    ("loss", "texts", "message"),
    [
        (km.loss.logprob(319), TEXT, "token 319 is outside the vocabulary of 319"),
        (km.loss.logprob([1, 2]), TEXT, "target has 2 entries for 1 texts"),
        (km.loss.logprob("x"), [1, 2], "give a token's id for token ids"),
        (km.loss.logprob("x", positions=0), TEXT, "for positions inside a text"),
        (km.loss.logprob(1, positions=99), TEXT, "position 99 is outside a text"),
        (km.loss.nll(), [4], "none, or one of them twice"),
    ],
)
def test_refusals(tiny: km.Model, loss: Any, texts: Any, message: str) -> None:
    with pytest.raises(km.ArgumentError, match=message):
        tiny.gradients(texts, loss, "embed")


def test_what_is_no_loss_and_has_no_derivative(tiny: km.Model) -> None:
    with pytest.raises(TypeError, match=r"made by km\.loss"):
        tiny.gradients(TEXT, "nll", "embed")  # type: ignore[arg-type]
    with pytest.raises(km.ArgumentError, match="logprobs is not a point"):
        tiny.gradients(TEXT, km.loss.nll(), "logprobs")
    with pytest.raises(km.NotFoundError, match="there is no point 'x'"):
        tiny.gradients(TEXT, km.loss.nll(), "x")
