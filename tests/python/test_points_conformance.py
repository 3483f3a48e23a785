"""Every named point of every architecture: read, replaced, added to, scaled, projected out.

Activations and derivatives are those of transformers' own hooks in float32
(tests/oracle/make_arch.py); what a patch does is computed again with numpy.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from arch_models import (
    ARCH,
    INPUTS,
    NAMES,
    WITH_HEADS,
    Floats,
    golden,
    golden_array,
    golden_ids,
    load,
    points_of,
    read_safetensors,
)

import km
from km.points import Points

TOLERANCE = 3e-5  # of a point's largest value; float32 sums in another order
POSITION = 6  # what is patched in these tests, inside the prompt
PAIRS = [(name, point) for name in NAMES for point in points_of(name)]


def names(model: km.Model) -> list[str]:
    """Points of a model that can be read on their own."""
    return [name for name in Points(model).names() if name not in INPUTS]


def read_all(model: km.Model, ids: list[int], patches: Any = ()) -> dict[str, Floats]:
    """Every point everywhere."""
    with model.trace(ids, names(model), patches=patches) as trace:
        return {name: trace[name] for name in names(model)}


def close(got: Floats, expected: Floats, tolerance: float = TOLERANCE) -> None:
    """Equal up to rounding, and infinite in the same places."""
    assert got.shape == expected.shape
    seen = np.isfinite(expected)
    assert (np.isfinite(got) == seen).all()
    assert (got[~seen] == expected[~seen]).all()
    scale = np.abs(expected[seen]).max()
    assert np.abs(got[seen] - expected[seen]).max() <= tolerance * scale


def last_layer(model: km.Model) -> int:
    return int(model.config["n_layers"]) - 1


# ---- reading ----


@pytest.mark.parametrize("name", NAMES)
def test_the_points_are_those_of_the_oracle(name: str) -> None:
    assert sorted(names(load(name))) == points_of(name)


@pytest.mark.parametrize("source", ["", ".gguf"])
@pytest.mark.parametrize("name", NAMES)
def test_reading_equals_the_oracle(name: str, source: str) -> None:
    model = load(name + source)
    found = read_all(model, golden_ids(name))
    for point, values in found.items():
        expected = golden_array(name, "trace", point)
        if point in ("q", "k") and model.config["rope_pairs"] == "interleaved":
            # GGUF's llama files keep the halves of a head in turn
            halves = expected.reshape(*expected.shape[:-1], 2, -1)
            expected = halves.swapaxes(-1, -2).reshape(expected.shape)
        close(values, expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_head_layer_and_position_is_read_alone(name: str) -> None:
    model, ids = load(name), golden_ids(name)
    whole = read_all(model, ids)
    layer, positions = last_layer(model), [5, 0, 9]
    for point, values in whole.items():
        layered = Points(model).find(point).has_layer
        chosen = values[layer : layer + 1, positions] if layered else values[positions]
        heads = None
        if point in WITH_HEADS:
            heads = [values.shape[-2] - 1, 0][: values.shape[-2]]
            chosen = chosen[..., heads, :]
        with model.trace(ids, point, layers=layer, heads=heads, positions=positions) as trace:
            assert trace[point].tobytes() == chosen.tobytes(), point


@pytest.mark.parametrize("name", NAMES)
def test_reading_changes_no_bit(name: str) -> None:
    model, ids = load(name), golden_ids(name)
    plain = model.logprobs(ids).tobytes()
    with model.trace(ids, [*names(model), "logprobs"]) as trace:
        assert trace["logprobs"].tobytes() == plain
    with model.trace(ids, "next_logprobs") as trace:
        close(trace["next_logprobs"], golden(name)["prompt0.logprobs"][: len(ids)])


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_for_any_number_of_threads(name: str) -> None:
    ids = golden_ids(name)
    first = read_all(load(name), ids)
    for threads in (1, 5):
        again = read_all(load(name, threads), ids)
        assert all(again[point].tobytes() == first[point].tobytes() for point in first)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_in_any_company(name: str) -> None:
    model, ids = load(name), golden_ids(name)
    alone = read_all(model, ids)
    texts = [ids[:4] + ids[:3], ids, ids[2:9], ids[:7]]
    with model.trace(texts, names(model)) as trace:
        assert trace.plan.n_tokens == 7 + 6 + 7
        for point, values in alone.items():
            assert trace[1][point].tobytes() == values.tobytes(), point
            short = values[..., :7, :] if point not in WITH_HEADS else values[..., :7, :, :]
            if point in ("attn_scores", "attn_pattern"):
                short = short[..., :7]
            assert trace[3][point].tobytes() == short.tobytes(), point


# ---- patching ----


def site(model: km.Model, point: str, layer: int, **more: Any) -> Any:
    """Where to patch: one layer, where the point has layers."""
    layered = point in INPUTS or Points(model).find(point).has_layer
    return km.patch(point, layer=layer if layered else None, **more)


@pytest.mark.parametrize(("name", "point"), PAIRS)
def test_the_value_already_there_changes_no_bit(name: str, point: str) -> None:
    model, ids = load(name), golden_ids(name)
    plain = model.trace(ids, [*names(model), "logprobs"]).run()
    more: list[dict[str, Any]] = [{}, {"positions": [POSITION]}]
    if point in WITH_HEADS:
        more += [{"heads": [1], "positions": slice(2, 8)}]
    elif point != "logits":
        more += [{"neurons": slice(3, 9)}, {"neurons": [0, 7, 5], "positions": "last"}]
    for where in more:
        patch = km.patch(point, **where).from_trace(plain)
        with model.trace(ids, plain.plan.points, patches=[patch]) as patched:
            for other in plain.plan.points:
                assert patched[other].tobytes() == plain[other].tobytes(), (where, other)
    for layer in range(last_layer(model) + 1):
        patch = site(model, point, layer).from_trace(plain)
        assert model.logprobs(ids, patches=[patch]).tobytes() == plain["logprobs"].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_stream_as_one_reader_sees_it(name: str) -> None:
    model, ids = load(name), golden_ids(name)
    before = read_all(model, ids)
    stream = before.get("resid_mid", before["resid_pre"])
    layer = last_layer(model)
    for point in sorted(INPUTS):
        values = (stream if point == "mlp_input" else before["resid_pre"])[layer]
        same = values if point == "mlp_input" else values[:, None]
        patch = km.patch(point, layer=layer).set(same)
        after = read_all(model, ids, [patch])
        assert all(after[other].tobytes() == before[other].tobytes() for other in before)
        moved = read_all(model, ids, [km.patch(point, layer=layer).set(same[::-1])])
        own = {"q_input": "q", "k_input": "k", "v_input": "v", "mlp_input": "mlp_pre"}[point]
        for other in ("q", "k", "v", "mlp_pre"):
            changed = moved[other][layer].tobytes() != before[other][layer].tobytes()
            later = other == "mlp_pre" and "resid_mid" in before
            assert changed == (other == own or later), (point, other)
        close(moved[own][layer], before[own][layer][::-1])  # nothing but norm and product between


DEEDS = ("set", "add", "scale", "project_out")


def deed(where: Any, kind: str, values: Floats) -> km.Patch:
    """The patch of one kind."""
    if kind == "scale":
        patch: km.Patch = where.scale(-1.5)
    elif kind == "add":
        patch = where.add(values, 0.5)
    else:
        patch = getattr(where, kind)(values)
    return patch


def expected_of(kind: str, before: Floats, values: Floats) -> Floats:
    """What the patch leaves, in float64."""
    a, v = before.astype(np.float64), values.astype(np.float64)
    if kind == "set":
        return np.broadcast_to(values, before.shape)
    if kind == "add":
        return (a + 0.5 * v).astype(np.float32)
    if kind == "scale":
        return (-1.5 * a).astype(np.float32)
    along = (a * v).sum(-1, keepdims=True) / (v * v).sum(-1, keepdims=True)
    return (a - along * v).astype(np.float32)


@pytest.mark.parametrize(("name", "point"), PAIRS)
def test_patches_do_what_numpy_says(name: str, point: str) -> None:
    """At the point itself; nothing before it changes, and earlier positions nowhere."""
    model, ids = load(name), golden_ids(name)
    before = read_all(model, ids)
    layer = last_layer(model)
    layered = Points(model).find(point).has_layer
    over = point in ("attn_scores", "attn_pattern")
    at = (layer, POSITION) if layered else (POSITION,)
    values = np.linspace(-1.0, 2.0, before[point].shape[-1], dtype=np.float32)
    seen = np.ones(before[point][at].shape, bool)
    if over:  # what a token does not see stays 0 or minus infinity
        seen = np.isfinite(golden(name)["trace.attn_scores"][at])
    for kind in DEEDS[:3] if over else DEEDS:
        where = site(model, point, layer, positions=POSITION)
        after = read_all(model, ids, [deed(where, kind, values)])
        got, had = after[point][at], before[point][at]
        with np.errstate(invalid="ignore"):
            wanted = expected_of(kind, had, values)
        close(got[seen], wanted[seen], 0.0 if kind in ("set", "scale") else 1e-6)
        assert got[~seen].tobytes() == had[~seen].tobytes()
        check_what_stays(before, after, point, layer, model)


def check_what_stays(
    before: dict[str, Floats], after: dict[str, Floats], point: str, layer: int, model: km.Model
) -> None:
    """Points of earlier layers and of earlier positions have their bits; the rest is moved."""
    points = Points(model)
    for other, values in before.items():
        if not points.find(other).has_layer:
            assert after[other][:POSITION].tobytes() == values[:POSITION].tobytes()
            continue
        assert after[other][:, :POSITION].tobytes() == values[:, :POSITION].tobytes()
        if points.find(point).has_layer:
            assert after[other][:layer].tobytes() == values[:layer].tobytes()
    assert after["logits"][POSITION:].tobytes() != before["logits"][POSITION:].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_sums_hold_under_patches(name: str) -> None:
    """The stream is the sum of what is added to it, and heads are pattern times values (grouped
    queries: head h reads key head h * K / H), also where they are patched."""
    model, ids = load(name), golden_ids(name)
    rng = np.random.default_rng(0)
    layer = last_layer(model)
    d = model.config["d_model"]
    patches = [
        km.patch("attn_out", layer=layer, positions=[3, 7]).add(rng.normal(size=(2, d))),
        km.patch("mlp_out", layer=layer, positions="last").scale(0.25),
        km.patch("attn_pattern", layer=layer, positions=8, heads=[2], neurons=slice(6, 9)).set(0.2),
        km.patch("v", layer=layer, heads=[1], positions=2).scale(3.0),
    ]
    x = {k: v.astype(np.float64) for k, v in read_all(model, ids, patches).items()}
    middle = x["resid_pre"] + x["attn_out"]
    if "resid_mid" in x:
        close(x["resid_mid"].astype(np.float32), middle.astype(np.float32), 1e-6)
    close(x["resid_post"].astype(np.float32), (middle + x["mlp_out"]).astype(np.float32), 1e-6)
    group = x["q"].shape[2] // x["v"].shape[2]
    values = np.repeat(x["v"], group, axis=2)
    heads = np.einsum("lthp,lphd->lthd", x["attn_pattern"], values)
    close(x["attn_head_out"].astype(np.float32), heads.astype(np.float32), 1e-5)
    assert (x["attn_pattern"][layer, 8, 2, 6:9] == np.float32(0.2)).all()


# ---- closed form ----

FINAL_NORM = {
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
}


def norm(model_type: str, tensors: dict[str, Floats], x: Floats, eps: float) -> Floats:
    """The model's last norm, in float64."""
    where = FINAL_NORM.get(model_type, "model.norm")
    gain = tensors[f"{where}.weight"].astype(np.float64)
    a = x.astype(np.float64)
    if f"{where}.bias" in tensors:
        a = (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + eps)
        return (a * gain + tensors[f"{where}.bias"]).astype(np.float32)
    gain = gain + 1.0 if model_type.startswith("gemma") else gain
    return (a / np.sqrt((a * a).mean(-1, keepdims=True) + eps) * gain).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_the_end_of_the_model_in_closed_form(name: str) -> None:
    """resid_post of the last layer and final_norm set to given values: logits by numpy."""
    model, ids = load(name), golden_ids(name)
    config = json.loads((ARCH / name / "config.json").read_text(encoding="utf-8"))
    tensors = read_safetensors(ARCH / name / "model.safetensors")
    unembed = next(
        tensors[key]
        for key in (
            "lm_head.weight",
            "embed_out.weight",
            "model.embed_tokens.weight",
            "transformer.wte.weight",
        )
        if key in tensors
    )
    cap = config.get("final_logit_softcapping")
    x = np.random.default_rng(1).normal(size=(len(ids), model.config["d_model"]))
    x = x.astype(np.float32)

    def logits_of(hidden: Floats) -> Floats:
        logits = hidden.astype(np.float64) @ unembed.astype(np.float64).T
        logits = np.tanh(logits / cap) * cap if cap else logits
        return logits.astype(np.float32)

    after = read_all(model, ids, [km.patch("final_norm").set(x)])
    close(after["logits"], logits_of(x), 1e-5)
    after = read_all(model, ids, [km.patch("resid_post", layer=-1).set(x)])
    hidden = norm(config["model_type"], tensors, x, model.config["norm_eps"])
    close(after["final_norm"], hidden, 1e-5)
    close(after["logits"], logits_of(hidden), 1e-5)
    bent = x[:, :1] * np.ones(unembed.shape[0], np.float32)
    after = read_all(model, ids, [km.patch("logits").set(bent)])
    assert after["logits"].tobytes() == bent.tobytes()
    with model.trace(ids, "next_logprobs", patches=[km.patch("logits").set(bent)]) as trace:
        close(trace["next_logprobs"], np.full_like(bent, -np.log(bent.shape[1])), 1e-6)


# ---- derivatives ----


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_equal_the_oracle(name: str) -> None:
    """Of the sum of the log-probabilities of the text's tokens."""
    model, ids = load(name), golden_ids(name)
    points = sorted(key.removeprefix("grad.") for key in golden(name) if key.startswith("grad."))
    gradients = model.gradients(ids, km.loss.nll(), points)
    assert gradients.loss[0] == pytest.approx(-float(model.logprobs(ids).sum()), rel=1e-6)
    for point in points:
        expected = golden_array(name, "grad", point)
        if point == "attn_pattern":  # what is not seen takes no part; torch differentiates its 0
            expected = np.where(np.isfinite(golden(name)["trace.attn_scores"]), expected, 0.0)
        close(-gradients[point], expected, 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_of_parts_and_of_several_texts(name: str) -> None:
    """Heads, layers and positions alone; every text has the derivative of its own loss."""
    model, ids = load(name), golden_ids(name)
    whole = model.gradients(ids, km.loss.logprob(7), ["q", "resid_pre"])
    layer = last_layer(model)
    part = model.gradients(
        ids, km.loss.logprob(7), ["q", "resid_pre"], layers=layer, heads=[1], positions=[4, 2]
    )
    assert part["q"].tobytes() == whole["q"][layer, [4, 2]][None, :, 1:2].tobytes()
    assert part["resid_pre"].tobytes() == whole["resid_pre"][layer : layer + 1, [4, 2]].tobytes()
    several = model.gradients([ids, ids[:6], ids], km.loss.logprob([7, 8, 9]), "resid_pre")
    for i, (text, target) in enumerate(((ids, 7), (ids[:6], 8), (ids, 9))):
        alone = model.gradients(text, km.loss.logprob(target), "resid_pre")
        close(several[i]["resid_pre"], alone["resid_pre"], 1e-5)
        assert several.loss[i] == pytest.approx(alone.loss[0], rel=1e-7)
        following = model.next_logprobs(text)
        assert alone.loss[0] == pytest.approx(float(following[target]), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_slopes(name: str) -> None:
    """Along a random direction at resid_mid or attn_out: central differences of the loss."""
    model, ids = load(name), golden_ids(name)
    rng = np.random.default_rng(2)
    direction = rng.normal(size=model.config["d_model"])
    where = km.patch("attn_out", layer=0, positions=3)
    for loss in (
        km.loss.logit(5),
        km.loss.logit_difference(5, 6),
        km.loss.prob(11, positions=[4, -1]),
        km.loss.nll(),
    ):

        def value(step: float, loss: km.loss.Loss = loss) -> float:
            patch = where.add(direction, step)
            return float(model.gradients(ids, loss, "embed", patches=[patch]).loss[0])

        at = model.gradients(ids, loss, "attn_out", layers=0, positions=3)["attn_out"][0, 0]
        step = 2e-3
        slope = (value(step) - value(-step)) / (2 * step)
        expected = float(at.astype(np.float64) @ direction)
        assert slope == pytest.approx(expected, rel=2e-2, abs=2e-3)
