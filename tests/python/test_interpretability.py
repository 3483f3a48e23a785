"""Logit attribution, patching sweeps, knowledge neurons and circuits: identities and controls."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km

DATA = Path(__file__).parent.parent / "golden_data"


@pytest.fixture(scope="module")
def gpt2() -> km.Model:
    return km.load(DATA / "tiny_gpt2_trace")


@pytest.fixture(scope="module")
def llama() -> km.Model:
    return km.load(DATA / "tiny_llama")


@pytest.fixture(scope="module")
def gemma3() -> km.Model:
    return km.load(DATA / "tiny_gemma3")


def tensors(folder: str) -> dict[str, Any]:
    """The float32 tensors of a model folder, read without km."""
    data = (DATA / folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, about in header.items():
        begin, end = about["data_offsets"]
        values = np.frombuffer(data[8 + length + begin : 8 + length + end], dtype=np.float32)
        found[name] = values.reshape(about["shape"])
    return found


IDS = [2, 3, 4, 11, 12, 6]
OTHER = [2, 3, 4, 9, 12, 6]


# ---- logit lens ----


def test_lens_of_many_is_the_lens_of_each(llama: km.Model) -> None:
    prompts = [[5, 6, 7, 8], [5, 6, 9], [5, 6, 7], [30]]
    targets = [9, 10, 11, 12]
    many = km.logit_lens(llama, prompts, targets, top_k=3, control=False)
    n = llama.config["n_layers"] + 1
    for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        one = llama.lens(prompt, target, top_k=3).table
        part = slice(i * n, (i + 1) * n)
        for column in ("rank", "logprob", "top_id", "top_ids"):
            assert many.table[column][part] == one[column], column
        texts = [
            [json.loads(cell) for cell in t]
            for t in (many.table["top_tokens"][part], one["top_tokens"])
        ]
        assert texts[0] == texts[1]
    for size in (1, 5):
        again = km.logit_lens(llama, prompts, targets, top_k=3, control=False, batch_tokens=size)
        assert again.table["logprob"] == many.table["logprob"]


def test_lens_at_the_output_is_the_model(llama: km.Model) -> None:
    lens = km.logit_lens(llama, [[5, 6, 7]], [9], control=False)
    expected = llama.next_logprobs([5, 6, 7])
    assert lens.table["logprob"][-1] == pytest.approx(float(expected[9]), abs=1e-6)
    assert lens.table["rank"][-1] == int((expected > expected[9]).sum())


def test_survival_counts_the_censored(llama: km.Model) -> None:
    ids = [[5, 6, 7], [8, 9], [10, 11]]
    best = [int(np.argmax(llama.next_logprobs(own))) for own in ids]
    worst = int(np.argmin(llama.next_logprobs(ids[2])))
    lens = km.logit_lens(llama, ids, [*best[:2], worst])
    n_layers = llama.config["n_layers"]
    ranks = lens.table.column("rank").reshape(3, n_layers + 1)
    rows = list(lens.survival.rows())
    assert [row["n"] for row in rows] == [3] * (n_layers + 1)
    for layer, row in enumerate(rows):
        leading = sum(bool((own[layer:] == 0).all()) for own in ranks)
        assert row["not_leading"] == pytest.approx(1 - leading / 3)
    assert rows[-1]["not_leading"] == pytest.approx(1 / 3)
    assert lens.lead[1] == pytest.approx(1 / 3) and rows[0]["n_random_init"] == 3


def test_lens_refusals(llama: km.Model) -> None:
    for prompts, targets, message in (
        ([[5]], [1, 2], "targets has 2 entries for 1 prompt"),
        ([[]], [1], "no tokens"),
        ([], [], "prompts is empty"),
        ([[5]], [10**6], "prompt 0: target"),
    ):
        with pytest.raises(km.ArgumentError, match=message):
            km.logit_lens(llama, prompts, targets, control=False)


# ---- direct logit attribution ----


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_parts_add_up_to_the_logit(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    prompts = [IDS, [5, 6, 7, 8, 9], [20]]
    result = km.logit_attribution(model, prompts, [7, 8, 9], [3, 4, 5])
    assert result.residual < 1e-4
    if not model.config.get("final_softcap"):
        for i, (prompt, good, bad) in enumerate(zip(prompts, (7, 8, 9), (3, 4, 5), strict=True)):
            logprobs = model.next_logprobs(prompt).astype(np.float64)
            assert result.logits[i] == pytest.approx(logprobs[good] - logprobs[bad], abs=1e-4)
    for row in result.means.rows():
        own = [r["logit"] for r in result.table.rows() if _same(r, row)]
        assert len(own) == 3 and row["mean"] == pytest.approx(np.mean(own), abs=1e-9)


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[key] == b[key] for key in ("part", "layer", "head"))


def test_a_head_is_what_its_matrix_writes(gpt2: km.Model) -> None:
    """Against numpy, from the weights in the file and the activations of a trace."""
    w = tensors("tiny_gpt2_trace")
    with gpt2.trace([IDS], read=["attn_head_out", "mlp_out", "resid_post"], positions="last") as t:
        z = np.asarray(t["attn_head_out"], dtype=np.float64).reshape(3, 3, 4)
        mlp = np.asarray(t["mlp_out"], dtype=np.float64).reshape(3, 12)
        x = np.asarray(t["resid_post"], dtype=np.float64).reshape(3, 12)[2]
    scale = np.sqrt(x.var() + 1e-5)
    u = w["transformer.wte.weight"][31].astype(np.float64)

    def read(vector: Any) -> float:
        centred = vector - vector.mean()
        return float((centred / scale * w["transformer.ln_f.weight"]) @ u)

    rows = list(km.logit_attribution(gpt2, [IDS], [31]).table.rows())
    for layer in range(3):
        out = w[f"transformer.h.{layer}.attn.c_proj.weight"].astype(np.float64).reshape(3, 4, 12)
        for head in range(3):
            got = next(
                r["logit"] for r in rows if _same(r, {"part": "head", "layer": layer, "head": head})
            )
            assert got == pytest.approx(read(z[layer, head] @ out[head]), abs=1e-5)
        got = next(
            r["logit"] for r in rows if _same(r, {"part": "mlp", "layer": layer, "head": None})
        )
        assert got == pytest.approx(read(mlp[layer]), abs=1e-5)
    bias = next(r["logit"] for r in rows if r["part"] == "final norm bias")
    assert bias == pytest.approx(float(u @ w["transformer.ln_f.bias"]), abs=1e-6)


def test_attribution_shuffles(gpt2: km.Model) -> None:
    prompts = [IDS, OTHER]
    own = km.logit_attribution(gpt2, prompts, [7, 8])
    turned = km.logit_attribution(gpt2, prompts, [8, 7], control=False)
    assert own.means["shuffled"] == pytest.approx(turned.means["mean"])
    assert any("shuffled control was not measured" in note for note in turned.notes)


# ---- activation patching ----


def test_patching_everything_or_nothing(gpt2: km.Model) -> None:
    result = km.activation_patching(
        gpt2, IDS, OTHER, 31, 7, points=["resid_pre", "attn_head_out", "mlp_out"]
    )
    rows = list(result.table.rows())
    (pair,) = result.pairs.rows()
    for i, ids in enumerate((IDS, OTHER)):
        logprobs = gpt2.next_logprobs(ids).astype(np.float64)
        key = ("clean_metric", "corrupted_metric")[i]
        assert pair[key] == pytest.approx(logprobs[31] - logprobs[7], abs=1e-6)
    first = {
        row["position"]: row["effect"]
        for row in rows
        if row["point"] == "resid_pre" and row["layer"] == 0 and row["direction"] == "denoising"
    }
    # only token 3 differs: its first state is the whole difference
    assert first[3] == pytest.approx(1.0, abs=1e-5)
    assert all(abs(effect) < 1e-6 for position, effect in first.items() if position != 3)
    assert len(rows) == 2 * (3 * 6 + 3 * 6 * 3 + 3 * 6)
    assert result.means is not None and len(result.means) == len(rows)


def test_patching_is_a_patched_run(gpt2: km.Model) -> None:
    """One cell by Model.trace and a patch, which share no code with the sweep above libkm."""
    result = km.activation_patching(gpt2, IDS, OTHER, 31, 7, points=["attn_head_out"])
    with gpt2.trace([IDS], read=["attn_head_out"]) as t:
        z = np.array(t["attn_head_out"]).reshape(3, 6, 3, 4)
    site = km.patch("attn_head_out", layer=1, heads=2, positions=4)
    with gpt2.trace(
        [OTHER], read=["logits"], positions="last", patches=[site.set(z[1, 4, 2])]
    ) as t:
        logits = np.array(t["logits"]).reshape(-1)
    got = next(
        row["metric"]
        for row in result.table.rows()
        if (row["direction"], row["layer"], row["head"], row["position"]) == ("denoising", 1, 2, 4)
    )
    assert got == pytest.approx(float(logits[31] - logits[7]), abs=1e-5)
    assert result.means is not None
    shown = repr(result).splitlines()
    assert shown[1] == f"largest of {len(result.means)} mean effects, chosen after looking:"


def test_patching_refusals(gpt2: km.Model) -> None:
    for clean, other, message in (
        (IDS, IDS, "must differ"),
        (IDS, IDS[:-1], "same number of tokens"),
    ):
        with pytest.raises(km.ArgumentError, match=message):
            km.activation_patching(gpt2, clean, other, 31, 7)
    with pytest.raises(km.ArgumentError, match="same token"):
        km.activation_patching(gpt2, IDS, OTHER, 31, 31)
    with pytest.raises(km.ArgumentError, match="cannot be patched"):
        km.activation_patching(gpt2, IDS, OTHER, 31, 7, points=["attn_pattern"])


# ---- knowledge circuits ----


def test_a_whole_circuit_is_the_clean_run(gpt2: km.Model) -> None:
    circuit = km.knowledge_circuit(gpt2, IDS, OTHER, 31, 7, n_edges=10**6, n_random=0)
    assert circuit.recovered == pytest.approx(1.0, abs=1e-4)
    small = km.knowledge_circuit(gpt2, IDS, OTHER, 31, 7, n_edges=12, n_random=3, method="eap")
    runs = small.runs["run"]
    assert runs == ["clean", "corrupted", "circuit", "random", "random", "random"]
    assert len(small) <= 12 and small.parameters["steps"] == 1
    scores = [abs(score) for score in small.table["score"]]
    assert scores == sorted(scores, reverse=True)
    again = small.test(gpt2, IDS, OTHER, 31, 7)
    assert again["metric"][2] == small.runs["metric"][2]


def test_circuit_picture_names_its_scale_and_n(gpt2: km.Model) -> None:
    circuit = km.knowledge_circuit(gpt2, IDS, OTHER, 31, 7, n_edges=20, n_random=1)
    svg = circuit.draw(max_edges=8).svg
    assert "n = 1 pair" in svg and "logits" in svg and "random circuits" in svg
    with pytest.raises(ValueError, match="no node"):
        km.draw.circuit([{"source": "x1", "target": "logits", "kind": "logits", "score": 1.0}])


# ---- steering ----


def test_steering_is_an_added_patch(model: km.Model) -> None:
    found = km.steering(
        model,
        ["I feel wonderful", "This is great"],
        ["I feel terrible", "This is awful"],
        ["The film was", "The weather is"],
        ["good", "very bad"],
        layer=12,
        coefficients=(0.5, 1.0),
        n_random=2,
    )
    assert len(found.table) == 2 * 3 * 2 and len(found.curve) == 2
    ids, tail = model.encode("The weather is"), model.encode(" very bad", bos=False)
    plain = model.logprobs([*ids, *tail])[-2:].astype(np.float64).sum()
    site = km.patch("resid_post", layer=12).add(found.vector, 0.5)
    with model.trace([[*ids, *tail]], read=["logits"], patches=[site]) as t:
        logits = np.array(t["logits"], dtype=np.float64).reshape(len(ids) + 2, -1)
    steered = sum(
        logits[len(ids) - 1 + j, token]
        - np.log(np.exp(logits[len(ids) - 1 + j] - logits.max()).sum())
        - logits.max()
        for j, token in enumerate(tail)
    )
    row = next(
        row
        for row in found.table.rows()
        if (row["prompt"], row["direction"], row["coefficient"]) == (1, 0, 0.5)
    )
    assert row["logprob"] == pytest.approx(steered, abs=1e-4)
    assert row["change"] == pytest.approx(steered - plain, abs=1e-4)
    for claim, dose in zip(found.evidence, found.curve.rows(), strict=True):
        assert claim["statistic"].endswith("_minus_random")
        assert claim["value"] == pytest.approx(dose["change"] - dose["random"], abs=1e-12)
        assert claim["low"] <= claim["value"] <= claim["high"]
        assert f"difference {claim['value']:+.3f} [" in repr(found)
    with pytest.raises(km.ArgumentError, match="was used to make"):
        km.steering(model, ["a b"], ["c d"], ["a b"], ["x"], layer=1)


# ---- knowledge neurons ----


@pytest.fixture(scope="module")
def capitals() -> km.datasets.Relation:
    relation = km.datasets.facts("country_capital_city").relations[0]
    return dataclasses.replace(relation, facts=relation.facts[:2])


@pytest.fixture(scope="module")
def neurons(model: km.Model, capitals: km.datasets.Relation) -> Any:
    """The neurons of two facts, and the knowledge base they are recorded in."""
    with km.KnowledgeBase(":memory:") as kb:
        options: dict[str, Any] = {"steps": 10, "n_random": 2, "rule": "midpoint"}
        yield km.knowledge_neurons(model, capitals, [0, 1, 2, 3], kb=kb, **options), kb


def test_neurons_beside_random_ones(neurons: Any) -> None:
    found, kb = neurons
    again = km.KnowledgeNeurons.from_knowledge_base(kb, found.run)
    assert again.effects["difference"] == found.effects["difference"]
    assert again.neurons["neuron"] == found.neurons["neuron"]
    assert kb.sql("SELECT DISTINCT node FROM evidence")["node"] == ["specialised-neurons"]
    suppress, enhance = found.effects.rows()
    assert suppress["n"] == 2 and suppress["change"] < -0.2 < suppress["random"]
    assert abs(suppress["random"]) < 0.1 and abs(enhance["random"]) < 0.1
    assert suppress["difference"] == pytest.approx(suppress["change"] - suppress["random"])
    assert all(row["n_neurons"] >= 1 for row in found.table.rows())


def test_suppressing_is_a_scaled_patch(neurons: Any, model: km.Model) -> None:
    """By Model.trace and patches, which share no code with the sweep above libkm."""
    found, _ = neurons
    row = next(found.table.rows())
    own = [(n["layer"], n["neuron"]) for n in found.neurons.rows() if n["fact"] == row["fact"]]
    patches = [
        km.patch("mlp_hidden", layer=layer, neurons=neuron, positions="last").scale(0.0)
        for layer, neuron in own
    ]
    target = model.encode(row["prompt"] + row["answer"])[len(model.encode(row["prompt"]))]
    with model.trace([row["prompt"]], read=["logits"], positions="last", patches=patches) as t:
        logits = np.array(t["logits"], dtype=np.float64).reshape(-1)
    p = np.exp(logits[target] - logits.max()) / np.exp(logits - logits.max()).sum()
    assert row["suppressed"] == pytest.approx(float(p), rel=1e-4)


def test_neurons_refusals(model: km.Model, capitals: km.datasets.Relation) -> None:
    with pytest.raises(km.ArgumentError, match="none is left"):
        km.knowledge_neurons(model, capitals, [0])
    with pytest.raises(km.ArgumentError, match="rule"):
        km.knowledge_neurons(model, capitals, rule="right")
