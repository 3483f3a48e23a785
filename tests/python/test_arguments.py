"""What a hurried user gives the functions for text, tokens and numbers is taken or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import arch_models
import pytest

import km

PROMPT = "The capital of France is"
OTHER = "The capital of Spain is"
FACT = {"prompt": PROMPT, "subject": "France"}


@pytest.fixture(scope="module")
def model() -> km.Model:
    return arch_models.load("gemma2.gguf")


def run_trace(model: km.Model, **options: Any) -> Any:
    return km.causal_trace(model, [FACT], **{"samples": 1, "kinds": ["state"], **options})


def run_patching(model: km.Model, **options: Any) -> Any:
    return km.activation_patching(model, [5, 6, 7], [5, 9, 7], 3, 4, **options)


def run_circuit(model: km.Model, **options: Any) -> Any:
    return km.knowledge_circuit(model, [5, 6, 7], [5, 9, 7], 3, 4, **options)


def run_steering(model: km.Model, **options: Any) -> Any:
    return km.steering(model, "good", "bad", "zz", "a", **{"layer": 0, "n_random": 2, **options})


def run_neurons(model: km.Model, **options: Any) -> Any:
    return km.knowledge_neurons(model, "country_capital_city", **options)


def run_lens(model: km.Model, **options: Any) -> Any:
    return km.logit_lens(model, [PROMPT], [3], **options)


def run_attribution(model: km.Model, **options: Any) -> Any:
    return km.logit_attribution(model, [PROMPT, OTHER], [3, 4], **options)


# ---- one prompt instead of a list ----


def test_one_prompt_needs_no_list(model: km.Model) -> None:
    ids = model.encode(PROMPT)
    for measure in (km.logit_lens, km.logit_attribution):
        expected = list(measure(model, [PROMPT], [3]).table.rows())
        assert list(measure(model, PROMPT, 3).table.rows()) == expected
        assert list(measure(model, ids, 3).table.rows()) == expected
        assert list(measure(model, PROMPT.encode(), [3]).table.rows()) == expected
    both = km.logit_attribution(model, PROMPT, 3, 4)
    assert both.logits == km.logit_attribution(model, [PROMPT], [3], [4]).logits
    one = run_steering(model)
    many = km.steering(model, ["good"], ["bad"], ["zz"], ["a"], layer=0, n_random=2)
    assert list(one.table.rows()) == list(many.table.rows())


def test_lists_of_other_lengths(model: km.Model) -> None:
    for measure in (km.logit_lens, km.logit_attribution):
        with pytest.raises(km.ArgumentError, match=r"targets has 2 entries for 1 prompt; "):
            measure(model, PROMPT, [3, 4])
        with pytest.raises(km.ArgumentError, match="prompts is empty"):
            measure(model, [], [])
    with pytest.raises(km.ArgumentError, match="contrasts has 1 entries for 2 prompts"):
        km.logit_attribution(model, [PROMPT, OTHER], [3, 4], 5)
    with pytest.raises(km.ArgumentError, match="2 prompts and 1 answers"):
        km.steering(model, "good", "bad", ["zz", "yy"], "a", layer=0)
    with pytest.raises(km.ArgumentError, match="positive is empty, or one of its prompts"):
        km.steering(model, [[]], "bad", "zz", "a", layer=0)


# ---- numbers ----

NUMBERS: list[tuple[Callable[..., Any], str, list[Any], list[Any]]] = [
    # function, argument, out of bounds, of another type
    (run_lens, "top_k", [0, -1, 10**12], ["1", None, 1.5]),
    (run_lens, "batch_tokens", [0, 2**70], [float("nan"), [1]]),
    (run_lens, "seed", [-1, 2**70], [0.5]),
    (run_attribution, "confidence", [0, 1, -1, float("nan"), float("inf")], ["0.9", None]),
    (run_attribution, "batch_tokens", [0, 2**70], [None]),
    (run_trace, "samples", [0, 10**12], [1.5, "1"]),
    (run_trace, "window", [0, 3, -2], [2.0]),
    (run_trace, "seed", [-1, 2**70], [None]),
    (run_trace, "noise", [0, -1, float("nan"), float("inf")], ["1"]),
    (run_trace, "noise_factor", [-1, float("nan")], [None]),
    (run_trace, "confidence", [0, 2], [None]),
    (run_trace, "batch_tokens", [0, -5], [float("inf")]),
    (run_trace, "template", [-1], ["0"]),
    (run_trace, "layers", [[99], [-1]], [[0.5], "0"]),
    (run_patching, "confidence", [0, -1, 1e300], [None]),
    (run_patching, "batch_tokens", [0, -1], [float("nan")]),
    (run_circuit, "n_edges", [0, -1], [1.5, None]),
    (run_circuit, "steps", [0, 10**12], ["5"]),
    (run_circuit, "n_random", [-1, 10**12], [0.5]),
    (run_circuit, "seed", [-1], [None]),
    (run_steering, "layer", [-1, 99], ["0", 0.5]),
    (run_steering, "n_random", [0, 2**70], [None]),
    (run_steering, "seed", [-1], [1.5]),
    (run_steering, "confidence", [0, 1e300], [None]),
    (run_steering, "batch_tokens", [0, -1], [float("nan")]),
    (run_steering, "coefficients", [[float("nan")], [1e300], []], [["1"], [None]]),
    (run_neurons, "steps", [0, 10**12], [None]),
    (run_neurons, "held_out", [0], [0.5]),
    (run_neurons, "n_random", [0, 10**12], [None]),
    (run_neurons, "confidence", [0, 7], [None]),
    (run_neurons, "batch_tokens", [0], [None]),
]


@pytest.mark.parametrize(("call", "name", "outside", "other"), NUMBERS)
def test_numbers_are_checked_by_name(
    model: km.Model,
    call: Callable[..., Any],
    name: str,
    outside: list[Any],
    other: list[Any],
) -> None:
    for value in outside:
        with pytest.raises(km.ArgumentError, match=name.rstrip("s")):
            call(model, **{name: value})
    for value in other:
        with pytest.raises(TypeError, match=name):
            call(model, **{name: value})


# ---- tokens ----


@pytest.mark.parametrize("token", [-1, 415, 2**40])
def test_tokens_outside_the_vocabulary(model: km.Model, token: int) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: km.logit_lens(model, PROMPT, token),
        lambda: km.logit_attribution(model, PROMPT, token),
        lambda: km.logit_attribution(model, PROMPT, 3, token),
        lambda: km.activation_patching(model, [5, 6, 7], [5, 9, 7], token, 4),
        lambda: km.knowledge_circuit(model, [5, 6, 7], [5, 9, 7], 3, token),
        lambda: km.causal_trace(model, [{**FACT, "answer": token}]),
        lambda: model.lens(PROMPT, token),
        lambda: model.trace([token], "q").run(),
    ]
    for call in calls:
        with pytest.raises(km.ArgumentError, match=r"0 to 414|vocabulary|32 bits"):
            call()


@pytest.mark.parametrize("token", [1.5, None, b"x", float("nan")])
def test_tokens_of_another_type(model: km.Model, token: Any) -> None:
    with pytest.raises(TypeError, match="must be an integer"):
        km.logit_attribution(model, PROMPT, [token])
    with pytest.raises(TypeError, match="must be an integer"):
        km.knowledge_circuit(model, [5, 6, 7], [5, 9, 7], token, 4)


def test_subjects_and_followers(model: km.Model) -> None:
    for subject in ([1], 3, (1, 2, 3), None):
        with pytest.raises(km.ArgumentError, match=r"subject is .*; give its text"):
            km.causal_trace(model, [{"prompt": PROMPT, "subject": subject}])
    with pytest.raises(km.ArgumentError, match="no token follows the last one"):
        model.gradients(PROMPT, km.loss.logprob(None), "mlp_hidden")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="span must be str, not int"):
        km.span(3)  # type: ignore[arg-type]


# ---- generation ----


def test_decoders_refuse_what_leaves_float(model: km.Model) -> None:
    with pytest.raises(km.ArgumentError, match=r"temperature is 1e-300; it must be at least 1e-06"):
        km.Sample(temperature=1e-300)
    least = km.Sample(temperature=1e-6)
    greedy = model.generate(PROMPT, max_tokens=4)
    assert model.generate(PROMPT, max_tokens=4, decoder=least).ids == greedy.ids
    for penalty in (float("nan"), float("inf"), 1e300, 2**70):
        with pytest.raises(km.ArgumentError, match=r"length_penalty is .*-16 to 16"):
            km.Beam(2, length_penalty=penalty)
    for make in (lambda: km.Beam(1.5), lambda: km.Sample(top_k=0.5), lambda: km.Sample(seed=0.5)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be an integer, not float"):
            make()
    with pytest.raises(km.ArgumentError, match="n is 1000000000; it must be 1 to"):
        km.Beam(10**9)
    with pytest.raises(TypeError, match="stop must hold str, not int"):
        model.generate(PROMPT, max_tokens=2, stop=[5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="max_tokens must be an integer"):
        model.generate(PROMPT, max_tokens=1.5)  # type: ignore[arg-type]
