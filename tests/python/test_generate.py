"""Generation: goldens from transformers, stop strings, streaming, seeds, user-written decoders."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km
from km import _km
from km.generate import Step

DATA = Path(__file__).resolve().parent.parent / "golden_data"
GOLDEN = json.loads(gzip.decompress((DATA / "generation.json.gz").read_bytes()))
TINY = ("tiny_llama", "tiny_gemma3")


@pytest.fixture(scope="module")
def tiny() -> dict[str, km.Model]:
    return {name: km.load(DATA / name, threads=2) for name in TINY}


# ---- goldens ----


@pytest.mark.parametrize("name", TINY)
def test_greedy_tiny(tiny: dict[str, km.Model], name: str) -> None:
    for case in GOLDEN["models"][name]["greedy"]:
        made = tiny[name].generate(case["prompt"], max_tokens=len(case["ids"]), eos=())
        assert isinstance(made, km.Generation)
        assert made.ids == case["ids"]
        assert made.logprobs == pytest.approx(case["logprobs"], abs=2e-4)
        assert made.finish_reason == "length"


def test_greedy_smollm2(model: km.Model) -> None:
    cases = GOLDEN["models"]["smollm2"]["greedy"]
    made = model.generate([case["prompt"] for case in cases], max_tokens=64, eos=())
    for case, generation in zip(cases, made, strict=True):  # type: ignore[arg-type]
        assert generation.ids == case["ids"]
        assert generation.logprobs == pytest.approx(case["logprobs"], abs=1e-4)


@pytest.mark.parametrize("name", [*TINY, "smollm2"])
def test_beams(tiny: dict[str, km.Model], name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue("model") if name == "smollm2" else tiny[name]
    for case in GOLDEN["models"][name]["beams"]:
        beam = km.Beam(case["n"], case["length_penalty"])
        eos = () if case["eos"] is None else case["eos"]
        made = model.generate(case["prompt"], max_tokens=12, decoder=beam, eos=eos)
        assert made.ids == case["ids"], case
        assert made.score == pytest.approx(case["score"], abs=2e-4)
        assert made.logp / len(made.ids) ** case["length_penalty"] == pytest.approx(made.score)


def test_filters(tiny: dict[str, km.Model]) -> None:
    for case in GOLDEN["filters"]:
        row = np.array(case["logits"], dtype=np.float32) / 64
        parameters = (case["temperature"], case["top_k"], case["top_p"], case["min_p"])
        out = np.asarray(_km.sampling_filter(tiny["tiny_llama"]._model, row, *parameters))
        kept = np.flatnonzero(np.isfinite(out)).tolist()
        assert kept == case["kept"], parameters
        p = np.exp(out.astype(np.float64))
        assert (p / p.sum())[kept] == pytest.approx(case["probs"], abs=1e-6)


# ---- sampling ----


def test_draws_do_not_depend_on_company(model: km.Model) -> None:
    sample = km.Sample(temperature=0.9, top_k=50, top_p=0.95, min_p=0.01, seed=7)
    prompts = ["The capital of France is", "Once", "A lighthouse keeper", "Once"]
    together = model.generate(prompts, max_tokens=8, decoder=sample)
    alone = [model.generate(p, max_tokens=8, decoder=sample) for p in prompts[:3]]
    assert [g.ids for g in together[:3]] == [g.ids for g in alone]
    assert [g.logprobs for g in together[:3]] == [g.logprobs for g in alone]
    assert together[3].ids != together[1].ids  # the same prompt again draws anew
    assert model.generate(prompts[::-1], max_tokens=8, decoder=sample)[0].ids == alone[1].ids
    other = km.Sample(temperature=0.9, top_k=50, top_p=0.95, min_p=0.01, seed=8)
    assert model.generate(prompts[1], max_tokens=8, decoder=other).ids != alone[1].ids


def test_draws_follow_the_distribution(tiny: dict[str, km.Model]) -> None:
    model = tiny["tiny_llama"]
    n = 3000
    sample = km.Sample(temperature=0.5, top_k=4)
    made = model.generate([[2, 5, 7]] * n, max_tokens=1, decoder=sample, eos=())
    logits = np.asarray(model.next_logprobs([2, 5, 7]), dtype=np.float64)
    best = np.argsort(-logits)[:4]
    p = np.exp(logits[best] / 0.5)
    p /= p.sum()
    counts = np.array([sum(g.ids[0] == t for g in made) for t in best])  # type: ignore[union-attr]
    assert counts.sum() == n
    # Pearson's statistic with 3 degrees of freedom exceeds 21.1 once in 10,000 times.
    assert ((counts - n * p) ** 2 / (n * p)).sum() < 21.1


def test_logprobs_are_the_models_own(model: km.Model) -> None:
    made = model.generate("Once upon", max_tokens=6, decoder=km.Sample(0.7, 20, seed=1))
    expected = model.logprobs(made.prompt_ids + made.ids)[-6:]
    assert made.logprobs == pytest.approx(expected, abs=2e-5)
    scored = model.score(made.prompt_ids, [made.ids])
    assert scored.token_logprobs[0].tolist() == made.logprobs  # the same bits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "Greedy"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"seed": -1}, "seed"),
    ],
)
def test_sample_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(km.ArgumentError, match=message):
        km.Sample(**arguments)


# ---- ends ----


def test_greedy_and_score_agree(model: km.Model) -> None:
    made = model.generate("The capital of Norway is", max_tokens=5, eos=())
    assert model.score(made.prompt_ids, [made.ids]).table["greedy"] == [True]


def test_end_token(tiny: dict[str, km.Model]) -> None:
    model = tiny["tiny_llama"]
    free = model.generate([2, 5, 7], max_tokens=10, eos=())
    eos = free.ids[4]
    first = free.ids.index(eos)
    made = model.generate([2, 5, 7], max_tokens=10, eos=eos)
    assert made.ids == free.ids[: first + 1] and made.finish_reason == "eos"
    assert made.text == model.decode_bytes(made.ids[:-1], special=False).decode("utf-8", "replace")


def test_stop_strings_across_tokens(model: km.Model) -> None:
    whole = model.generate("Count: one, two, three,", max_tokens=16, eos=())
    assert "six, se" in whole.text
    made = model.generate("Count: one, two, three,", max_tokens=16, eos=(), stop=["never", "x, se"])
    assert made.text == whole.text[: whole.text.index("x, se")]
    assert made.finish_reason == "stop"
    assert len(made.ids) < 16 and made.ids == whole.ids[: len(made.ids)]
    # The earliest stop string counts, not the one given first.
    both = model.generate("Count: one, two, three,", max_tokens=16, eos=(), stop=["six", "five"])
    assert both.text == whole.text[: whole.text.index("five")]


# ---- streaming ----


@pytest.mark.parametrize("stop", [(), ("x, se",), (", seven, eight",)])
def test_stream_gives_the_same(model: km.Model, stop: Sequence[str]) -> None:
    prompts = ["Count: one, two, three,", "Once upon a time"]
    made = model.generate(prompts, max_tokens=12, eos=(), stop=stop)
    stream = model.stream(prompts, max_tokens=12, eos=(), stop=stop)
    pieces = list(stream)
    for i, generation in enumerate(made):
        own = [piece for piece in pieces if piece.prompt == i]
        assert [piece.id for piece in own] == generation.ids
        assert [piece.logprob for piece in own] == generation.logprobs
        assert "".join(piece.text for piece in own) == generation.text
        assert [piece.finish_reason for piece in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason == generation.finish_reason
    assert [g.ids for g in stream.generations] == [g.ids for g in made]


class Say:
    """A decoder that says given tokens."""

    branches = 1

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def describe(self) -> dict[str, Any]:
        return {"decoder": "Say", "ids": self.ids}

    def choose(self, step: Step) -> list[km.Choice]:
        token = self.ids[step.number]
        logprob = float(step.logprobs()[0][token])
        return [km.Choice(0, token, logprob, done=step.number + 1 == len(self.ids))]


def test_characters_are_never_broken(model: km.Model) -> None:
    text = "日本語 🙂 é! ￿"
    ids = model.encode(text, bos=False)
    assert len(ids) > len(text)  # characters are made of several tokens
    stream = model.stream("Say:", max_tokens=100, decoder=Say(ids))
    pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == text
    assert all("\ufffd" not in piece.text for piece in pieces)
    assert stream.generations[0].finish_reason == "decoder"
    broken = model.stream("Say:", max_tokens=100, decoder=Say(ids[:1]))
    assert "".join(piece.text for piece in broken) == broken.generations[0].text == "\ufffd"


def test_leaving_a_stream_keeps_what_is_done(model: km.Model) -> None:
    stream = model.stream(["Once upon a time", "Count: one, two,"], max_tokens=50, eos=())
    for i, _ in enumerate(stream):
        if i == 5:
            break
    first, second = stream.generations
    assert len(first.ids) == len(second.ids) == 3
    assert first.finish_reason == second.finish_reason == "interrupted"
    assert model.decode(first.ids) == first.text


def test_interrupt_keeps_what_is_done(model: km.Model) -> None:
    class Interrupted(Say):
        def choose(self, step: Step) -> list[km.Choice]:
            if step.number == 3:
                raise KeyboardInterrupt
            return super().choose(step)

    ids = model.encode(" a b c d e f")
    made = model.generate("Say:", max_tokens=9, decoder=Interrupted(ids))
    assert made.ids == ids[:3] and made.finish_reason == "interrupted"
    assert made.text == model.decode(ids[:3])


def test_a_signal_keeps_what_is_done(model: km.Model) -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))

    class Timed(km.Greedy):
        def choose(self, step: Step) -> list[km.Choice]:
            if step.number == 2:
                timer.start()
            return super().choose(step)

    made = model.generate("Once upon a time", max_tokens=3000, eos=(), decoder=Timed())
    timer.join()
    assert made.finish_reason == "interrupted"
    assert 0 < len(made.ids) < 3000 and len(made.ids) == len(made.logprobs)
    # The model works on.
    again = model.generate("Once upon a time", max_tokens=2, eos=())
    assert again.ids == made.ids[:2]


def test_beams_are_not_streamed(model: km.Model) -> None:
    with pytest.raises(km.ArgumentError, match="cannot be streamed"):
        model.stream("a", max_tokens=2, decoder=km.Beam(2))


# ---- the interface for decoders ----


class Contrast:
    """Away from what the model would say without the first half of the prompt."""

    branches = 1

    def describe(self) -> dict[str, Any]:
        return {"decoder": "Contrast"}

    def choose(self, step: Step) -> list[km.Choice]:
        without = [b.prompt_ids[len(b.prompt_ids) // 2 :] + b.ids for b in step.branches]
        scores = step.logits - 0.5 * step.forward(without)
        own = step.logprobs()
        best = scores.argmax(axis=1)
        return [km.Choice(i, int(t), float(own[i, t])) for i, t in enumerate(best)]


def test_a_second_context(model: km.Model) -> None:
    prompts = ["The capital of France is", "Two and two makes"]
    made = model.generate(prompts, max_tokens=5, decoder=Contrast(), eos=())
    for prompt, generation in zip(prompts, made, strict=True):
        ids = model.encode(prompt)
        half = ids[len(ids) // 2 :]
        for token in generation.ids:
            score = model.next_logprobs(ids) - 0.5 * model.next_logprobs(half)
            assert score[token] == pytest.approx(score.max(), abs=1e-4)
            ids.append(token)
            half.append(token)


def test_a_wrong_decoder_is_told_so(model: km.Model) -> None:
    with pytest.raises(TypeError, match="choose"):
        model.generate("a", max_tokens=2, decoder=object())  # type: ignore[call-overload]
    with pytest.raises(km.ArgumentError, match="chose token -1"):
        model.generate("a", max_tokens=2, decoder=Say([-1]))


# ---- sessions ----


@pytest.mark.parametrize("name", TINY)
def test_session_gives_the_bits_of_one_pass(tiny: dict[str, km.Model], name: str) -> None:
    model = tiny[name]
    ids = [3, 11, 4, 9, 20, 7, 1, 5]
    whole = model.session(8).append(ids, rows=range(8))
    session = model.session(20)
    parts = [session.append(ids[:3], rows=[0, 1, 2]), *(session.append([t]) for t in ids[3:])]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert len(session) == 8
    # Another branch from the third token, computed beside a repetition of the fourth.
    both = session.append([13, ids[3]], parents=[2, 2], rows=[1, 0])
    assert both[0].tobytes() == whole[3].tobytes()
    other = model.session(8).append([*ids[:3], 13])
    assert both[1].tobytes() == other[0].tobytes()
    session.truncate(3)
    assert session.append([13])[0].tobytes() == other[0].tobytes()
    session.keep([0, 1, 2])
    assert len(session) == 3 and session.append([13])[0].tobytes() == other[0].tobytes()


def test_session_refuses(tiny: dict[str, km.Model]) -> None:
    session = tiny["tiny_llama"].session(3)
    with pytest.raises(km.ArgumentError, match="at least one"):
        session.append([])
    session.append([1, 2])
    with pytest.raises((km.ArgumentError, km.Error)):
        session.append([1, 2])
    with pytest.raises(km.ArgumentError):
        session.append([1], parents=[5])
    with pytest.raises(km.ArgumentError):
        session.truncate(9)


# ---- refusals and threads ----


def test_refusals(model: km.Model) -> None:
    with pytest.raises(km.ArgumentError, match="max_tokens is 0"):
        model.generate("a", max_tokens=0)
    with pytest.raises(km.ArgumentError, match="does not fit into the model's context"):
        model.generate(["a", [1] * 8000], max_tokens=500)
    with pytest.raises(km.ArgumentError, match="prompt 1 has no tokens"):
        model.generate(["a", ""], max_tokens=5, bos=False)
    with pytest.raises(km.ArgumentError, match="stop string is empty"):
        model.generate("a", max_tokens=5, stop="")
    with pytest.raises(km.ArgumentError, match="n is 0; it must be 1 to"):
        km.Beam(0)


def test_long_prompts_are_computed_in_parts(tiny: dict[str, km.Model]) -> None:
    model = tiny["tiny_llama"]
    vocab, context = model.config["vocab_size"], model.config["context_length"]
    prompts = [[(i * i + k) % vocab for i in range(context - 4)] for k in range(40)]
    assert sum(map(len, prompts)) > 1024
    made = model.generate(prompts, max_tokens=3, eos=())
    for i in (0, 17, 39):
        assert model.generate(prompts[i], max_tokens=3, eos=()) == made[i]


def test_threads_share_a_model(tiny: dict[str, km.Model]) -> None:
    model = tiny["tiny_llama"]
    expected = model.generate([2, 5, 7], max_tokens=20, eos=())
    results: list[Any] = [None] * 4

    def work(i: int) -> None:
        results[i] = model.generate([2, 5, 7], max_tokens=20, eos=())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def test_provenance(model: km.Model) -> None:
    made = model.generate("Once", max_tokens=2, decoder=km.Sample(0.5, seed=4), stop="x")
    provenance = made.provenance
    assert provenance["measure"] == "generation" and provenance["seed"] == 4
    assert provenance["parameters"]["temperature"] == 0.5
    assert provenance["parameters"]["stop"] == ["x"]
    assert provenance["model"]["fingerprint"] == model.fingerprint
