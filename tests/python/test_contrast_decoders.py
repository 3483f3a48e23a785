"""CoDa, CAD, AdaCAD, DoLa and contrastive decoding in the engine.

Each is walked through again without any of the engine's batching and caching: one pass of the whole
text for every context and step, the formulas written out on probabilities in numpy.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km
from km.token_forest import TokenForest, count_tokens

DATA = Path(__file__).resolve().parent.parent / "golden_data"
TINY = ("tiny_llama", "tiny_gemma3")
PROMPT = [2, 5, 7, 11, 3, 40]
SHORT = [7, 11, 3]
N = 7


@pytest.fixture(scope="module")
def tiny() -> dict[str, km.Model]:
    return {name: km.load(DATA / name, threads=2) for name in TINY}


def walk(model: km.Model, decoder: Any, prompt: list[int] = PROMPT, n: int = N) -> km.Generation:
    made = model.generate(prompt, max_tokens=n, eos=(), decoder=decoder)
    assert isinstance(made, km.Generation)
    return made


def several(model: km.Model, decoder: Any, eos: Any = ()) -> list[km.Generation]:
    made = model.generate(PROMPTS, max_tokens=N, eos=eos, decoder=decoder)
    assert isinstance(made, list)
    return made


def logp(model: km.Model, ids: list[int]) -> Any:
    return np.asarray(model.next_logprobs(ids), dtype=np.float64)


def normalised(logits: Any) -> Any:
    p = np.exp(logits - logits.max())
    return np.log(p / p.sum())


def check_best(scores: Any, token: int) -> None:
    """The token has the largest score, but for the rounding of float32 logits."""
    assert scores[token] == pytest.approx(scores.max(), abs=2e-4)


def check_logprobs(model: km.Model, made: km.Generation) -> None:
    """They are the model's own, whatever the decoder did."""
    expected = model.logprobs(made.prompt_ids + made.ids)[-len(made.ids) :]
    assert made.logprobs == pytest.approx(expected, abs=2e-5)


# ---- greedy where there is nothing to contrast ----


@pytest.mark.parametrize("name", TINY)
def test_without_contrast_each_is_greedy(tiny: dict[str, km.Model], name: str) -> None:
    model = tiny[name]
    greedy = walk(model, km.Greedy())
    for decoder in (
        km.CAD(SHORT, alpha=0),
        km.AdaCAD(PROMPT),
        km.DoLa(relative_top=1),
        km.ContrastiveDecoding(model.random_like(1), beta=0),
        km.ContrastiveDecoding(1, beta=0),
        km.ContrastiveDecoding(model, alpha=1),
    ):
        made = walk(model, decoder)
        assert (made.ids, made.logprobs) == (greedy.ids, greedy.logprobs), decoder
    one, plain = walk(model, km.CoDa(), [9]), walk(model, km.Greedy(), [9])
    assert (one.ids, one.logprobs) == (plain.ids, plain.logprobs)


def test_draws_without_contrast_are_those_of_sample(tiny: dict[str, km.Model]) -> None:
    model, sample = tiny["tiny_llama"], km.Sample(0.8, top_k=40, seed=3)
    plain = walk(model, sample)
    made = walk(model, km.CAD(SHORT, alpha=0, sample=sample))
    assert (made.ids, made.logprobs) == (plain.ids, plain.logprobs)
    assert made.provenance["seed"] == 3
    assert walk(model, km.CAD(SHORT, alpha=0, sample=km.Sample(0.8, 40, seed=4))).ids != plain.ids


# ---- CoDa ----


def coda_indicator(full: Any, masked: Any, alpha: float, floor: str) -> float:
    likely = {y for y in range(full.size) if full[y] >= full.max() + np.log(alpha)}
    other = {y for y in range(full.size) if masked[y] >= masked.max() + np.log(alpha)}
    negative = [y for y in likely & other if full[y] < masked[y]]
    total = sum(full[y] - masked[y] for y in negative)
    over = list(other) if floor == "vtop_min" else negative
    if not over:
        return float(total)
    least = min(masked[y] for y in over)
    return float(total + sum(full[y] - least for y in likely - other))


def coda_scores(full: Any, masked: Any, alpha: float, weight: float) -> Any:
    likely = full >= full.max() + np.log(alpha)
    other = masked >= masked.max() + np.log(alpha)
    against = np.where(other, masked, masked[other].min())
    return np.where(likely, full - weight * against, -np.inf)


def drop(ids: list[int], gone: list[int], mask: int | None) -> list[int]:
    if mask is None:
        return [token for i, token in enumerate(ids) if i not in gone]
    return [mask if i in gone else token for i, token in enumerate(ids)]


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"detect": "each"},
        {"alpha": 0.3, "detect": "each"},
        {"floor": "neg_min", "select": "max"},
        {"floor": "neg_min", "select": "max", "detect": "each", "alpha": 0.2},
        {"remove": "all"},
        {"remove": "all", "detect": "each", "weight": 0.5},
        {"mask": 6, "detect": "each"},
    ],
    ids=str,
)
def test_coda(tiny: dict[str, km.Model], name: str, options: dict[str, Any]) -> None:
    model = tiny[name]
    decoder = km.CoDa(**options)
    made = walk(model, decoder)
    check_logprobs(model, made)
    places = [i for i, token in enumerate(PROMPT) if not model.is_special(token)]
    assert len(places) >= 4
    gone: list[int] | None = None
    contrasted = 0
    for n, token in enumerate(made.ids):
        done = made.ids[:n]
        full = logp(model, PROMPT + done)
        if gone is None or decoder.detect == "each":
            found = [
                coda_indicator(
                    full,
                    logp(model, drop(PROMPT, [i], decoder.mask) + done),
                    decoder.alpha,
                    decoder.floor,
                )
                for i in places
            ]
            if decoder.remove == "all":
                gone = [i for i, value in zip(places, found, strict=True) if value < 0]
            elif decoder.select == "max":
                gone = [places[int(np.argmax(found))]]
            else:
                gone = [places[int(np.argmin(found))]] if min(found) < 0 else []
        if gone and len(gone) < len(PROMPT):
            masked = logp(model, drop(PROMPT, gone, decoder.mask) + done)
            check_best(coda_scores(full, masked, decoder.alpha, decoder.weight), token)
            contrasted += 1
        else:
            check_best(full, token)
    assert contrasted > 0
    assert made.provenance["parameters"]["decoder"] == "CoDa"


def test_coda_looks_at_no_special_token(tiny: dict[str, km.Model]) -> None:
    model = tiny["tiny_gemma3"]
    special = next(t for t in range(model.config["vocab_size"]) if model.is_special(t))
    decoder = km.CoDa()
    assert decoder.candidates([special, 9, 8], model) == [1, 2]
    assert decoder.candidates([9], model) == []
    assert km.CoDa(mask=3).candidates([9], model) == [0]
    alone = walk(model, decoder, [special, special])
    assert alone.ids == walk(model, km.Greedy(), [special, special]).ids


# ---- CAD and AdaCAD ----


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_cad(tiny: dict[str, km.Model], name: str, alpha: float) -> None:
    model = tiny[name]
    made = walk(model, km.CAD(SHORT, alpha))
    check_logprobs(model, made)
    for n, token in enumerate(made.ids):
        context, prior = (logp(model, ids + made.ids[:n]) for ids in (PROMPT, SHORT))
        check_best((1 + alpha) * context - alpha * prior, token)


def test_cad_filters(tiny: dict[str, km.Model]) -> None:
    model = tiny["tiny_llama"]
    made = walk(model, km.CAD(SHORT, 1.0, top_p_context=0.3, top_p_prior=0.4))
    assert made.ids != walk(model, km.CAD(SHORT, 1.0)).ids
    for n, token in enumerate(made.ids):
        rows = []
        for ids, top_p, value in ((PROMPT, 0.3, -1000.0), (SHORT, 0.4, 1000.0)):
            # Constants do not move the largest score, so log-probabilities stand for logits.
            row = logp(model, ids + made.ids[:n])
            mass = 0.0
            for y in np.argsort(-row):
                p = np.exp(row[y])
                row[y] = row[y] if mass < top_p else value
                mass += p
            rows.append(row)
        check_best(2 * rows[0] - rows[1], token)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_adacad(tiny: dict[str, km.Model], name: str, threshold: float) -> None:
    model = tiny[name]
    made = walk(model, km.AdaCAD(SHORT, threshold))
    check_logprobs(model, made)
    for n, token in enumerate(made.ids):
        context, prior = (logp(model, ids + made.ids[:n]) for ids in (PROMPT, SHORT))
        p, q = np.exp(context), np.exp(prior)
        m = (p + q) / 2
        alpha = max(threshold, (p * np.log(p / m) + q * np.log(q / m)).sum() / 2)
        check_best((1 + alpha) * context - alpha * prior, token)


# ---- layers and models ----


def layer_logp(model: km.Model, ids: list[int], layer: int, norm: bool) -> Any:
    """What a layer says, from a trace and the raw weights."""
    config = model.config
    last = layer == config["n_layers"]
    point = "resid_post" if last else "resid_pre"
    with model.trace(ids, read=[point], layers=[layer - last]) as t:
        x = np.asarray(t[point], dtype=np.float64)[0, -1]
    if norm:
        gain = np.asarray(model.weight("model.norm.weight"), dtype=np.float64)
        gain += config["norm_offset"]
        x = x / np.sqrt((x * x).mean() + config["norm_eps"]) * gain
    head = "model.embed_tokens.weight" if config["tied_embeddings"] else "lm_head.weight"
    return normalised(np.asarray(model.weight(head), dtype=np.float64) @ x)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("js", ["reference", "standard"])
def test_dola(tiny: dict[str, km.Model], name: str, norm: bool, js: Any) -> None:
    model = tiny[name]
    n_layers = model.config["n_layers"]
    layers = list(range(n_layers))
    made = walk(model, km.DoLa(layers, js=js, final_norm=norm))
    check_logprobs(model, made)
    for n, token in enumerate(made.ids):
        ids = PROMPT + made.ids[:n]
        final = logp(model, ids)
        p, rows, found = np.exp(final), [], []
        for layer in layers:
            rows.append(layer_logp(model, ids, layer, norm))
            q = np.exp(rows[-1])
            m = (p + q) / 2
            if js == "standard":
                found.append((p * np.log(p / m) + q * np.log(q / m)).sum() / 2)
            else:
                found.append((m * np.log(m / p)).mean() / 2 + (m * np.log(m / q)).mean() / 2)
        scores = final - rows[int(np.argmax(found))]
        scores[p < 0.1 * p.max()] = -np.inf
        check_best(scores, token)


def test_dola_buckets(tiny: dict[str, km.Model]) -> None:
    model = tiny["tiny_llama"]
    assert model.config["n_layers"] == 3
    assert list(km.DoLa("low").lens(model)[0]) == [0]
    assert list(km.DoLa("high").lens(model)[0]) == [2]
    assert walk(model, km.DoLa("low")).ids == walk(model, km.DoLa([0])).ids
    with pytest.raises(km.ArgumentError, match="layer is 4"):
        walk(model, km.DoLa([4]))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("norm", [False, True])
def test_contrast_of_layers(tiny: dict[str, km.Model], name: str, norm: bool) -> None:
    model = tiny[name]
    decoder = km.ContrastiveDecoding(1, 0.05, beta=0.8, temperature=0.7, final_norm=norm)
    made = walk(model, decoder)
    check_logprobs(model, made)
    for n, token in enumerate(made.ids):
        ids = PROMPT + made.ids[:n]
        final, early = logp(model, ids), layer_logp(model, ids, 1, norm)
        scores = final - 0.8 * normalised(early / 0.7)
        scores[final < final.max() + np.log(0.05)] = -np.inf
        check_best(scores, token)


@pytest.mark.parametrize("ignore_prefix", [False, True])
def test_contrast_of_models(tiny: dict[str, km.Model], ignore_prefix: bool) -> None:
    model = tiny["tiny_llama"]
    amateur = model.random_like(3)
    decoder = km.ContrastiveDecoding(amateur, temperature=0.5, ignore_prefix=ignore_prefix)
    made = walk(model, decoder)
    check_logprobs(model, made)
    start = PROMPT[-1:] if ignore_prefix else PROMPT
    for n, token in enumerate(made.ids):
        final = logp(model, PROMPT + made.ids[:n])
        scores = final - normalised(logp(amateur, start + made.ids[:n]) / 0.5)
        scores[final < final.max() + np.log(0.1)] = -np.inf
        check_best(scores, token)
    shown = made.provenance["parameters"]["amateur"]
    assert shown == {"name": amateur.name, "fingerprint": amateur.fingerprint}


# ---- company, ends, streams ----

PROMPTS = [PROMPT, [9, 8, 30, 31, 32, 33, 60], SHORT, PROMPT]
EVERY = [
    km.CoDa(),
    km.CoDa(detect="each"),
    km.CoDa(remove="all"),
    km.CoDa(remove="all", detect="each"),
    km.CAD([SHORT, [30, 60], [3], SHORT]),
    km.AdaCAD([SHORT, [30, 60], [3], SHORT]),
    km.DoLa([0, 1, 2]),
    km.ContrastiveDecoding(2),
]


def of_prompt(decoder: Any, i: int) -> Any:
    """The decoder for one of PROMPTS alone."""
    if isinstance(decoder, km.CAD | km.AdaCAD):
        without: Any = decoder.without
        return type(decoder)(without[i])
    return decoder


@pytest.mark.parametrize("decoder", EVERY, ids=lambda d: str(d)[:40])
def test_prompts_do_not_depend_on_company(tiny: dict[str, km.Model], decoder: Any) -> None:
    model = tiny["tiny_llama"]
    together = several(model, decoder)
    for i, prompt in enumerate(PROMPTS):
        alone = walk(model, of_prompt(decoder, i), prompt)
        assert together[i].ids == alone.ids
        assert together[i].logprobs == alone.logprobs
    assert together[0].ids == together[3].ids


@pytest.mark.parametrize("decoder", EVERY, ids=lambda d: str(d)[:40])
def test_streams_and_ends(tiny: dict[str, km.Model], decoder: Any) -> None:
    model = tiny["tiny_llama"]
    made = several(model, decoder)
    stream = model.stream(PROMPTS, max_tokens=N, eos=(), decoder=decoder)
    pieces = list(stream)
    for i, generation in enumerate(made):
        assert [p.id for p in pieces if p.prompt == i] == generation.ids
        assert [p.logprob for p in pieces if p.prompt == i] == generation.logprobs
    eos = made[1].ids[3]
    ended = several(model, decoder, eos)
    for free, short in zip(made, ended, strict=True):
        n = free.ids.index(eos) + 1 if eos in free.ids else N
        assert short.ids == free.ids[:n]  # others go on when one has ended


def test_a_stop_string(tiny: dict[str, km.Model]) -> None:
    model = tiny["tiny_llama"]
    free = walk(model, km.CoDa(), n=20)
    found = re.search("[!-~]{2}", free.text)
    assert found is not None
    stop = found[0]
    made = model.generate(PROMPT, max_tokens=20, eos=(), stop=stop, decoder=km.CoDa())
    assert isinstance(made, km.Generation)
    assert made.finish_reason == "stop"
    assert made.text == free.text[: free.text.index(stop)]
    assert made.ids == free.ids[: len(made.ids)] and len(made.ids) < 20


def test_contexts_may_be_text(tiny: dict[str, km.Model]) -> None:
    model = tiny["tiny_llama"]
    text = model.generate("one two three", max_tokens=N, eos=(), decoder=km.CAD("two three"))
    assert isinstance(text, km.Generation)
    ids = model.encode("two three")
    assert text.ids == walk(model, km.CAD(ids), model.encode("one two three")).ids


def test_patches_reach_contexts(tiny: dict[str, km.Model]) -> None:
    model = tiny["tiny_llama"]
    halved = [km.patch("mlp_out", layer=1).scale(0.5)]
    made = model.generate(PROMPT, max_tokens=N, eos=(), decoder=km.CAD(SHORT), patches=halved)
    assert isinstance(made, km.Generation)
    assert made.ids != walk(model, km.CAD(SHORT)).ids
    for n, token in enumerate(made.ids):
        rows = [
            np.asarray(model.next_logprobs(ids + made.ids[:n], patches=halved), dtype=np.float64)
            for ids in (PROMPT, SHORT)
        ]
        check_best(2 * rows[0] - rows[1], token)


# ---- the forest of tokens ----


def test_a_small_forest_makes_room(tiny: dict[str, km.Model]) -> None:
    """Whatever is forgotten in between, rows have the bits of a pass of their own."""
    model = tiny["tiny_llama"]
    small = TokenForest(model, 12, {}, [0, 3], norm=True)
    rng = np.random.default_rng(4)
    base = [int(t) for t in rng.integers(3, 90, 5)]
    sizes = set()
    for step in range(12):
        tails = [[int(t) for t in rng.integers(3, 90, 1 + step % 3)] for _ in range(3)]
        sequences = [base + tail for tail in tails] + [base[1:], tails[0]]
        rows = np.asarray(small.place(sequences)[1])
        for i, sequence in enumerate(sequences):
            alone = np.asarray(TokenForest(model, 20, {}, [0, 3]).place([sequence])[1])
            for kind in range(3):
                assert rows[kind * len(sequences) + i].tobytes() == alone[kind].tobytes()
        sizes.add(len(small))
        base = sequences[step % 3][-7:]
    assert len(sizes) > 2


def test_the_last_layer_is_the_output(tiny: dict[str, km.Model]) -> None:
    for name in TINY:
        model = tiny[name]
        n = model.config["n_layers"]
        rows = np.asarray(TokenForest(model, 9, {}, [n], norm=True).place([PROMPT])[1])
        assert rows[0].tobytes() == rows[1].tobytes()


def test_long_contexts_are_computed_in_parts(tiny: dict[str, km.Model]) -> None:
    model = tiny["tiny_llama"]
    prompt = [(i * i + 3) % 250 + 5 for i in range(60)]
    variants = [prompt[:i] + prompt[i + 1 :] for i in range(60)]
    assert count_tokens([prompt, *variants]) > 1024
    made = walk(model, km.CoDa(detect="each"), prompt, 3)
    check_logprobs(model, made)
    sequences = [prompt, *variants]
    rows = np.asarray(TokenForest(model, 4000, {}, [1]).place(sequences)[1])
    for i in (0, 1, 30, 60):
        alone = np.asarray(TokenForest(model, 100, {}, [1]).place([sequences[i]])[1])
        assert rows[i].tobytes() == alone[0].tobytes()
        assert rows[61 + i].tobytes() == alone[1].tobytes()


# ---- refusals ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: km.CoDa(alpha=0), "alpha is 0"),
        (lambda: km.CoDa(alpha=1.5), "alpha is 1.5"),
        (lambda: km.CoDa(floor="least"), "floor is 'least'"),  # type: ignore[arg-type]
        (lambda: km.CoDa(remove="all", select="max"), 'select must be "min"'),
        (lambda: km.CoDa(mask=-1), "mask is -1"),
        (lambda: km.CAD(SHORT, alpha=-1), "alpha is -1"),
        (lambda: km.CAD(SHORT, top_p_prior=0), "top_p_prior is 0"),
        (lambda: km.CAD([]), "no prompts"),
        (lambda: km.AdaCAD(SHORT, threshold=float("nan")), "threshold is nan"),
        (lambda: km.DoLa([]), "layers is empty"),
        (lambda: km.DoLa("middle"), "layers is 'middle'"),
        (lambda: km.DoLa(js="other"), "js is 'other'"),  # type: ignore[arg-type]
        (lambda: km.ContrastiveDecoding(-1), "amateur is -1"),
        (lambda: km.ContrastiveDecoding(1, temperature=0), "temperature is 0"),
        (lambda: km.ContrastiveDecoding(1, ignore_prefix=True), "needs an amateur model"),
    ],
)
def test_refused_parameters(make: Any, message: str) -> None:
    with pytest.raises(km.ArgumentError, match=message):
        make()


def test_refused_calls(tiny: dict[str, km.Model]) -> None:
    model = tiny["tiny_llama"]
    with pytest.raises(km.ArgumentError, match="without has 1 prompts for 2"):
        model.generate([PROMPT, SHORT], max_tokens=2, decoder=km.CAD(SHORT))
    with pytest.raises(km.ArgumentError, match="without has 2 prompts for 1"):
        walk(model, km.CAD([SHORT, SHORT]))
    with pytest.raises(km.ArgumentError, match="context 0 of prompt 0 has 200 tokens"):
        walk(model, km.AdaCAD([5] * 200))
    with pytest.raises(km.ArgumentError, match="another tokenizer"):
        walk(model, km.ContrastiveDecoding(tiny["tiny_gemma3"]))
    with pytest.raises(TypeError, match="amateur must be an integer"):
        km.ContrastiveDecoding("gpt2")  # type: ignore[arg-type]
