"""The reference figures of docs/cards: small runs of each measure on the embedded model.

    python bench/reference_figures.py [MEASURE ...]

Prints one block a measure with its figures and its seconds of processor time. A figure that
differs from a card's by more than the last digit shown is news: km, the model's file or the CPU
variant differs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import km

CAPITALS = "country_capital_city"
PROMPTS = [
    "The capital of France is the city of",
    "The capital of Italy is the city of",
    "The capital of Japan is the city of",
    "The capital of Egypt is the city of",
]
ANSWERS = [" Paris", " Rome", " Tokyo", " Cairo"]
TEXT = (
    "We hold these truths to be self-evident, that all men are created equal, that they are "
    "endowed by their Creator with certain unalienable Rights, that among these are Life, Liberty "
    "and the pursuit of Happiness."
)


def recall(model: km.Model) -> None:
    """Eight capitals under two templates, without the random control."""
    facts = km.datasets.facts(CAPITALS).select(per_relation=8)
    result = km.memorization(model, facts, templates=[0, 1], baselines=False)
    print(next(result.relations.rows()))


def verbatim(model: km.Model) -> None:
    """The famous sentence of the Declaration of Independence."""
    print(next(km.verbatim(model, [TEXT], prefix=16, suffix=16).table.rows()))


def exposure(model: km.Model) -> None:
    """A canary that was never trained on, among 99 others."""
    numbers = [str(281_000_000 + 7919 * i) for i in range(100)]
    result = km.exposure(model, numbers[0], numbers[1:], prefix="The random number is ")
    print(next(result.table.rows()))


def logit_lens(model: km.Model) -> None:
    """Four capitals, with random weights beside them."""
    print(km.logit_lens(model, PROMPTS, ANSWERS))


def affine_lens(model: km.Model) -> None:
    """Fitted on shipped sentences, judged on others."""
    texts = km.datasets.control_texts()
    lens = km.AffineLens.fit(model, texts[:16])
    print(lens.evaluate(texts[16:], control=False))


def logit_attribution(model: km.Model) -> None:
    """What adds to the capital's logit over London's."""
    print(km.logit_attribution(model, PROMPTS, ANSWERS, [" London"] * 4))


def causal_trace(model: km.Model) -> None:
    """Two facts, the residual stream alone."""
    facts = [
        {"prompt": PROMPTS[0], "subject": "France", "answer": " Paris"},
        {"prompt": PROMPTS[1], "subject": "Italy", "answer": " Rome"},
    ]
    print(km.causal_trace(model, facts, kinds=["state"], samples=5))


def activation_patching(model: km.Model) -> None:
    """France into Italy and back."""
    print(
        km.activation_patching(model, PROMPTS[0], PROMPTS[1], " Paris", " Rome", points="resid_pre")
    )


def steering(model: km.Model) -> None:
    """A direction from love to hate, added to other sentences."""
    print(
        km.steering(
            model,
            ["I love this", "What a wonderful day"],
            ["I hate this", "What a terrible day"],
            ["The film was", "The food tasted"],
            ["great", "great"],
            layer=12,
        )
    )


def knowledge_neurons(model: km.Model) -> None:
    """Four capitals under four wordings, one of them held out."""
    facts = km.datasets.facts(CAPITALS).select(per_relation=4)
    result = km.knowledge_neurons(model, facts, templates=[0, 1, 2, 3], progress=False)
    print(result)
    print(result.effects)


def knowledge_circuit(model: km.Model) -> None:
    """France against Italy, and the same circuit on other countries."""
    circuit = km.knowledge_circuit(model, PROMPTS[0], PROMPTS[1], " Paris", " Rome")
    print(circuit)
    pairs = [
        {
            "relation": "capital",
            "clean": PROMPTS[2],
            "corrupted": PROMPTS[3],
            "answer": " Tokyo",
            "wrong": " Cairo",
        }
    ]
    print(km.circuit_transfer(model, circuit, pairs))


def overshadow(model: km.Model) -> None:
    """A prompt with a rare condition, token by token."""
    print(km.overshadow.find(model, "The most famous singer of North Korea is"))


MEASURES: tuple[Callable[[km.Model], None], ...] = (
    recall,
    verbatim,
    exposure,
    logit_lens,
    affine_lens,
    logit_attribution,
    causal_trace,
    activation_patching,
    steering,
    knowledge_neurons,
    knowledge_circuit,
    overshadow,
)


def main() -> None:
    """Run the measures that are named, or all."""
    model = km.load("smollm2")
    for measure in MEASURES:
        if len(sys.argv) > 1 and measure.__name__ not in sys.argv[1:]:
            continue
        print(f"== {measure.__name__}: {measure.__doc__}", flush=True)
        start = time.process_time()
        measure(model)
        print(f"-- {time.process_time() - start:.1f} CPU seconds\n", flush=True)


if __name__ == "__main__":
    main()
