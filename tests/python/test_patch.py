"""Patches: where they work, how their values are broadcast, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km

ROOT = Path(__file__).parents[1] / "golden_data"
IDS = [12, 40, 7, 99, 3, 150, 21, 64]
N = len(IDS)
Floats = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def tiny() -> km.Model:
    """3 layers, 4 heads, 2 key heads."""
    return km.load(ROOT / "tiny_llama")


def read(model: km.Model, point: str, patches: Any, ids: Any = IDS) -> Floats:
    """One point everywhere in a patched run."""
    with model.trace(ids, point, patches=patches) as trace:
        array: Floats = trace[point]
    return array


def where_changed(model: km.Model, point: str, patch: km.Patch) -> np.ndarray[Any, Any]:
    """Elements of the point that a patch of itself changes."""
    return read(model, point, [patch]) != read(model, point, ())


# ---- where ----


def test_layers(tiny: km.Model) -> None:
    width = tiny.config["d_model"]
    for layer, layers in ((2, [2]), (-1, [2]), ([0, 2], [0, 2])):
        after = read(tiny, "resid_post", km.patch("resid_post", layer=layer).set(0.5))
        assert [i for i in range(3) if (after[i] == 0.5).all()] == layers
    rows = np.arange(3.0)[:, None, None] * np.ones((3, 1, width))
    after = read(tiny, "attn_out", km.patch("attn_out").set(rows))
    assert (after == np.arange(3.0)[:, None, None]).all()
    after = read(tiny, "attn_out", km.patch("attn_out", layer=[2, 0]).set(rows[:2]))
    assert (after[2] == 0.0).all() and (after[0] == 1.0).all()


def test_heads_and_elements(tiny: km.Model) -> None:
    changed = where_changed(
        tiny,
        "attn_head_out",
        km.patch("attn_head_out", layer=1, heads=[3, 0], positions=2, neurons=slice(2, 5)).scale(2),
    )
    expected = np.zeros_like(changed)
    expected[1, 2, [3, 0], 2:5] = True
    assert (changed[:2] == expected[:2]).all()

    neurons = [5, 6, 1, 30]
    after = read(
        tiny, "mlp_hidden", km.patch("mlp_hidden", layer=0, neurons=neurons).set([1, 2, 3, 4])
    )
    assert (after[0][:, neurons] == [1, 2, 3, 4]).all()
    same = np.delete(after[0], neurons, axis=1)
    assert same.tobytes() == np.delete(read(tiny, "mlp_hidden", ())[0], neurons, axis=1).tobytes()


def test_values_of_heads(tiny: km.Model) -> None:
    width = tiny.config["head_dim"]
    heads = np.arange(4.0)[:, None] * np.ones((4, width))
    after = read(tiny, "q", km.patch("q", layer=0).set(heads))
    assert (after[0] == np.arange(4.0)[:, None]).all()
    after = read(tiny, "q", km.patch("q", layer=0, heads=[3, 1]).set(heads[:2] + 7))
    assert (after[0][:, 3] == 7.0).all() and (after[0][:, 1] == 8.0).all()
    both = np.arange(N)[:, None, None] + heads[None]  # (positions, heads, elements)
    after = read(tiny, "q", km.patch("q", layer=0).set(both))
    assert (after[0] == both).all()
    after = read(tiny, "q", km.patch("q", layer=0).set(np.arange(N)[:, None, None]))
    assert (after[0] == np.arange(N)[:, None, None]).all()


def test_positions_and_texts(tiny: km.Model) -> None:
    values = np.arange(2.0)[:, None] + 5
    patch = km.patch("mlp_out", layer=1, positions=[-1, 3]).set(values)
    after = read(tiny, "mlp_out", patch)
    assert (after[1, -1] == 5.0).all() and (after[1, 3] == 6.0).all()
    texts = [IDS, IDS[:5], [1, 2, 3]]
    patches = [
        km.patch("embed", positions="last", text=1).set(2.0),
        km.patch("embed", positions=[[0], [1], "last"]).set(3.0),
        km.patch("embed", positions=2, text=[0, 2]).add(1.0),
    ]
    plain = [read(tiny, "embed", (), ids) for ids in texts]
    with tiny.trace(texts, "embed", patches=patches) as trace:
        found = [trace[i]["embed"] for i in range(3)]
    expected = [array.copy() for array in plain]
    expected[1][4] = 2.0
    expected[0][0] = expected[1][1] = expected[2][2] = 3.0
    expected[0][2] += 1.0
    expected[2][2] += 1.0
    for got, wanted in zip(found, expected, strict=True):
        assert got.tobytes() == wanted.tobytes()


def test_patches_of_one_point_are_applied_in_order(tiny: km.Model) -> None:
    site = km.patch("resid_mid", layer=0)
    after = read(tiny, "resid_mid", [site.set(1.0), site.add(2.0, 3.0), site.scale(0.5)])
    assert (after[0] == 3.5).all()
    after = read(tiny, "resid_mid", [site.scale(0.5), site.set(1.0)])
    assert (after[0] == 1.0).all()


# ---- texts in one forest ----


def test_texts_share_what_is_patched_alike(tiny: km.Model) -> None:
    at_five = km.patch("resid_pre", layer=1, positions=5, text=1).scale(2.0)
    everywhere = km.patch("mlp_out", layer=0).scale(0.5)
    plan = tiny.plan_trace([IDS, IDS], "embed", patches=[at_five, everywhere])
    assert plan.n_tokens == N + (N - 5)
    last = km.patch("resid_pre", layer=1, positions="last").scale(2.0)
    assert tiny.plan_trace([IDS, IDS[:5]], "embed", patches=last).n_tokens == N + 1
    assert tiny.plan_trace([IDS, IDS], "embed", patches=last).n_tokens == N


@pytest.mark.parametrize("seed", range(4))
def test_every_text_is_as_if_alone(tiny: km.Model, seed: int) -> None:
    """Random texts with common beginnings and random patches: in one forest, and one by one."""
    rng = np.random.default_rng(seed)
    stem = rng.integers(0, 300, 8).tolist()
    texts = [stem[: rng.integers(2, 8)] + rng.integers(0, 4, 3).tolist() for _ in range(6)]
    width = tiny.config["d_model"]

    def random_patch(text: int) -> km.Patch:
        site = km.patch(
            str(rng.choice(["resid_pre", "attn_out", "resid_post"])),
            layer=int(rng.integers(0, 3)),
            positions=[int(i) for i in rng.choice(5, 2, replace=False)],
            text=None if rng.random() < 0.3 else text,
        )
        vector = rng.normal(size=(2, width) if rng.random() < 0.5 else width)
        deeds = [site.set(vector), site.add(vector, 0.3), site.scale(1.5), site.project_out(vector)]
        return deeds[rng.integers(0, 4)]

    patches = [random_patch(int(rng.integers(0, 6))) for _ in range(5)]
    names = ["resid_post", "logits", "logprobs"]
    with tiny.trace(texts, names, patches=patches) as trace:
        for i, ids in enumerate(texts):
            own = [
                dataclasses.replace(patch, site=dataclasses.replace(patch.site, text=None))
                for patch in patches
                if patch.site.text in (None, i)
            ]
            with tiny.trace(ids, names, patches=own) as alone:
                for name in names:
                    assert trace[i][name].tobytes() == alone[name].tobytes()


# ---- from another run ----


def test_values_of_another_run(tiny: km.Model) -> None:
    other = [5, *IDS[1:]]
    source = tiny.trace([IDS, other], ["resid_post", "q", "attn_pattern"]).run()
    patch = km.patch("resid_post", layer=[0, 1], positions=[3, -1]).from_trace(source, text=1)
    after = read(tiny, "resid_post", patch)
    for layer in (0, 1):
        for position in (3, -1):
            wanted = source[1]["resid_post"][layer, position]
            assert after[layer, position].tobytes() == wanted.tobytes()
    patch = km.patch("q", layer=2, heads=[1], positions=4, neurons=slice(0, 3)).from_trace(
        source, text=1, positions=0
    )
    after = read(tiny, "q", patch)
    assert (after[2, 4, 1, :3] == source[1]["q"][2, 0, 1, :3]).all()
    source.close()
    assert (read(tiny, "q", patch)[2, 4, 1, :3] == after[2, 4, 1, :3]).all()  # a copy


def test_restoring_everything_restores_the_output(tiny: km.Model) -> None:
    """A run on other tokens with the first layer's stream of this one gives this one's output."""
    clean = tiny.trace(IDS, ["resid_post", "logits"]).run()
    corrupt = [3, 1, 4, 1, 5, 9, 2, 6]
    patch = km.patch("resid_post", layer=0).from_trace(clean)
    assert read(tiny, "logits", patch, corrupt).tobytes() == clean["logits"].tobytes()
    assert read(tiny, "logits", (), corrupt).tobytes() != clean["logits"].tobytes()


def test_what_another_run_has_not_read(tiny: km.Model) -> None:
    source = tiny.trace(IDS, "q", layers=[0, 1], heads=[2], positions=[1, 2]).run()
    for arguments, missing in (
        ({"layer": 2, "heads": 2, "positions": 1}, "layer 2"),
        ({"layer": 0, "heads": 1, "positions": 1}, "head 1"),
        ({"layer": 0, "heads": 2, "positions": 3}, "position 3"),
    ):
        with pytest.raises(km.ArgumentError, match=f"has not read q at {missing}"):
            km.patch("q", **arguments).from_trace(source)  # type: ignore[arg-type]
    with pytest.raises(km.NotFoundError, match="'k' was not read"):
        km.patch("k", layer=0).from_trace(source)


def test_attention_from_a_shorter_text(tiny: km.Model) -> None:
    with tiny.trace(IDS[:5], "attn_pattern") as short:
        patch = km.patch("attn_pattern", layer=1, positions=slice(0, 5)).from_trace(short)
        after = read(tiny, "attn_pattern", patch)
        assert after[1, :5, :, :5].tobytes() == short["attn_pattern"][1].tobytes()


def test_attention_knockout(tiny: km.Model) -> None:
    """Minus infinity in the scores: nothing flows from position 2 to position 6."""
    cut = km.patch("attn_scores", positions=6, neurons=2).set(-np.inf)
    pattern = read(tiny, "attn_pattern", cut)
    assert (pattern[:, 6, :, 2] == 0.0).all()
    assert pattern[:, 6].sum(-1) == pytest.approx(1.0, abs=1e-6)


# ---- log-probabilities ----


def test_log_probabilities_of_a_patched_run(tiny: km.Model) -> None:
    patch = km.patch("resid_post", layer=1).add(np.full(tiny.config["d_model"], 0.5))
    with tiny.trace(IDS, ["logprobs", "next_logprobs"], patches=[patch]) as trace:
        assert tiny.logprobs(IDS, patches=[patch]).tobytes() == trace["logprobs"].tobytes()
        following = trace["next_logprobs"][-1]
    assert tiny.next_logprobs(IDS, patches=patch).tobytes() == following.tobytes()
    assert tiny.logprobs(IDS, patches=[patch]).tobytes() != tiny.logprobs(IDS).tobytes()
    as_array = tiny.logprobs(np.array(IDS, np.int32), patches=[patch])
    assert as_array.tobytes() == tiny.logprobs(IDS, patches=[patch]).tobytes()


# ---- objects ----


def test_patches_never_change(tiny: km.Model) -> None:
    vector = np.ones(tiny.config["d_model"], np.float32)
    patch = km.patch("resid_post", layer=0).set(vector)
    vector[:] = 9.0
    assert (read(tiny, "resid_post", patch)[0] == 1.0).all()
    assert patch.values is not None
    with pytest.raises(ValueError, match="read-only"):
        patch.values[:] = 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        patch.factor = 2.0  # type: ignore[misc]
    assert repr(patch) == "<km.Patch set at 'resid_post', layer=0, positions='all'>"


# ---- refusals ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: km.patch("resid"), "resid_post"),
        (lambda: km.patch("logits", layer=0), "layer: logits has no layers"),
        (lambda: km.patch("mlp_out", heads=0), "heads: mlp_out has no axis of heads"),
        (lambda: km.patch("mlp_out").set(np.zeros((1, 1, 1, 1))), r"\(layers, positions, elements"),
        (lambda: km.patch("embed").set(np.zeros((1, 1, 1))), r"\(positions, elements\)"),
        (lambda: km.patch("mlp_out").set([]), "is empty"),
        (lambda: km.patch("mlp_out").set([1.0, np.nan]), "NaN or infinity"),
        (lambda: km.patch("mlp_out").add([-np.inf]), "NaN or infinity"),
        (lambda: km.patch("attn_scores").set(np.inf), "NaN or infinity"),
        (lambda: km.patch("mlp_out").scale(np.inf), "factor is inf"),
        (lambda: km.patch("mlp_out").add([1.0], np.nan), "factor is nan"),
        (lambda: km.patch("mlp_out").project_out([0.0, 0.0]), "direction is zero"),
        (lambda: km.patch("attn_pattern").project_out([1.0]), "set, add and scale only"),
        (lambda: km.patch("mlp_hidden", neurons=[1, 5]).project_out([1.0]), "must be a slice"),
    ],
)
def test_what_no_model_is_needed_for(make: Any, message: str) -> None:
    with pytest.raises(km.Error, match=message):
        make()


def test_types() -> None:
    with pytest.raises(TypeError, match="must be numbers"):
        km.patch("mlp_out").set(["a"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (km.patch("resid_post", layer=3).scale(0), "there is no layer 3"),
        (km.patch("q", heads=4).scale(0), "heads of q: there is no head 4; heads are 0 to 3"),
        (km.patch("k", heads=[2]).scale(0), "heads of k: there is no head 2; heads are 0 to 1"),
        (km.patch("mlp_hidden", neurons=4096).scale(0), "there is no element 4096"),
        (km.patch("mlp_hidden", neurons=[3, 3]).scale(0), "one element is named twice"),
        (km.patch("embed", positions=8).scale(0), "position 8 is outside a text of 8 tokens"),
        (km.patch("embed", text=1).scale(0), "text of a patch: there is no text 1"),
        (km.patch("resid_post").set(np.zeros(7)), "values have 7 elements; 24 are patched"),
        (km.patch("q", layer=0).set(np.zeros((3, 8))), "values have 3 heads; 4 are patched"),
        (
            km.patch("mlp_out", positions=[1, 2]).set(np.zeros((3, 24))),
            "values have 3 positions; 2 are patched",
        ),
        (km.patch("mlp_out").set(np.zeros((2, 1, 24))), "values have 2 layers; 3 are patched"),
    ],
)
def test_what_a_model_refuses(tiny: km.Model, patch: km.Patch, message: str) -> None:
    with pytest.raises(km.Error, match=message):
        tiny.trace(IDS, "embed", patches=[patch])


def test_a_site_is_no_patch(tiny: km.Model) -> None:
    with pytest.raises(TypeError, match="says where but not what"):
        tiny.trace(IDS, "embed", patches=[km.patch("embed")])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"km\.Patch objects, not int"):
        tiny.logprobs(IDS, patches=[3])  # type: ignore[list-item]


# ---- generation ----


def steering(model: km.Model) -> list[km.Patch]:
    """Patches of every token, with and without values."""
    rng = np.random.default_rng(3)
    return [
        km.patch("resid_post", layer=1).add(rng.normal(size=model.config["d_model"]), 1.5),
        km.patch("attn_head_out", heads=[2]).scale(0.5),
        km.patch("mlp_hidden", layer=[0, 2], neurons=slice(3, 9)).set(0.25),
    ]


def test_generation_is_steered_at_every_token(tiny: km.Model) -> None:
    """As token by token through patched runs over the whole text."""
    patches = steering(tiny)
    made = tiny.generate([IDS, IDS[:3]], max_tokens=6, eos=(), patches=patches)
    plain = tiny.generate([IDS, IDS[:3]], max_tokens=6, eos=())
    for prompt, generation, other in zip((IDS, IDS[:3]), made, plain, strict=True):
        ids = list(prompt)
        for token, logprob in zip(generation.ids, generation.logprobs, strict=True):
            following = tiny.next_logprobs(ids, patches=patches)
            assert token == int(following.argmax())
            assert logprob == pytest.approx(float(following[token]), abs=1e-6)
            ids.append(token)
        assert generation.ids != other.ids
        described = generation.provenance["parameters"]["patches"]
        assert [patch["deed"] for patch in described] == ["add", "scale", "set"]
        assert "patches" not in other.provenance["parameters"]
    streamed = tiny.stream(IDS, max_tokens=6, eos=(), patches=patches)
    assert [piece.id for piece in streamed] == made[0].ids


def test_a_patched_session(tiny: km.Model) -> None:
    patches = steering(tiny)
    session = tiny.session(20, patches=patches)
    first = session.append(IDS[:5], rows=[4])
    second = session.append(IDS[5:])
    with tiny.trace(IDS, "logits", patches=patches) as trace:
        assert first[0].tobytes() == trace["logits"][4].tobytes()
        assert second[0].tobytes() == trace["logits"][-1].tobytes()


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (km.patch("resid_post", positions="last").scale(0), "work on every token alike"),
        (km.patch("resid_post", text=0).scale(0), "work on every token alike"),
        (km.patch("resid_post").set(np.zeros((2, 24))), "work on every token alike"),
        (km.patch("attn_pattern").scale(0), "attn_pattern grows with the text"),
        (km.patch("resid_post", layer=9).scale(0), "there is no layer 9"),
    ],
)
def test_what_cannot_steer(tiny: km.Model, patch: km.Patch, message: str) -> None:
    with pytest.raises(km.ArgumentError, match=message):
        tiny.generate(IDS, max_tokens=2, patches=[patch])
    with pytest.raises(km.ArgumentError, match=message):
        tiny.session(5, patches=patch)
