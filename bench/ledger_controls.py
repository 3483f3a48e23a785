"""How often the ledger's words are false on the embedded model, beside what they say of itself.

Usage: python bench/ledger_controls.py [--full] [--model NAME]

Asks whole-answer recall of the model itself, of random weights, of the model with every matrix's
elements in another order, and of the model with answers dealt out anew within each relation. Of the
last three every "consistent" is false; exit code 1 when more than 5 % of their verdicts are. Beside
it is printed what so few models can show: Clopper and Pearson's upper bound of 95 % for the share,
a model being one replicate. --full asks all relations of 60 such models, where none that is false
is shown to be below 5 %; it takes about two hours of processor time.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import km
from km import ledger
from km.datasets import FactSet, Relation

# Of several kinds: factual, linguistic, commonsense.
RELATIONS = (
    "country_capital_city", "country_currency", "country_language", "adj_antonym",
    "adj_comparative", "adj_superlative", "verb_past_tense", "fruit_inside_color",
    "fruit_outside_color", "word_first_letter",
)  # fmt: skip


def asked(full: bool) -> FactSet:
    """Ten relations, or with `full` all of them."""
    known = [relation.name for relation in km.datasets.facts("all").relations]
    names = known if full else [name for name in known if name in RELATIONS]
    return km.datasets.facts(tuple(names)).select(per_relation=6)


def permuted(facts: FactSet, seed: int) -> FactSet:
    """Every relation's answers dealt out anew among its subjects."""
    draw = random.Random(seed)

    def deal(relation: Relation) -> Relation:
        answers = [fact.answers for fact in relation.facts]
        draw.shuffle(answers)
        pairs = zip(relation.facts, answers, strict=True)
        return replace(relation, facts=tuple(replace(fact, answers=to) for fact, to in pairs))

    return replace(facts, relations=tuple(deal(relation) for relation in facts.relations))


def shuffled(model: km.Model, seed: int) -> km.Model:
    """Every matrix with its elements in another order."""
    import numpy as np

    rng = np.random.default_rng(seed)
    changed = {}
    for row in model.weights().rows():
        if " x " in row["shape"]:
            weight = np.array(model.weight(row["name"]), dtype=np.float32)
            changed[row["name"]] = rng.permutation(weight.ravel()).reshape(weight.shape)
    return model.edit(changed)


def worlds(model: km.Model, facts: FactSet, n: int) -> Iterator[tuple[str, km.Model, FactSet, int]]:
    """The model itself, and what should know nothing; the control of each has another seed."""
    yield "the model itself", model, facts, 0
    for seed in range(n):
        yield "random weights", model.random_like(seed), facts, 1000 + seed
        yield "permuted answers", model, permuted(facts, seed), seed
    for seed in range(max(1, n // 3)):
        yield "shuffled weights", shuffled(model, seed), facts, seed


def upper_bound(shares: list[float]) -> float:
    """The largest share at which as few false verdicts, rounded up, have a chance of 5 %."""
    n, k = len(shares), math.ceil(math.fsum(shares) - 1e-9)
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        p = 0.5 * (low + high)
        chance = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
        low, high = (p, high) if chance > 0.05 and k < n else (low, p)
    return high if k < n else 1.0


def main() -> int:
    """Ask, judge, count."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="all relations, 60 models")
    parser.add_argument("--model", help="default: the embedded one")
    args = parser.parse_args()
    model, facts = km.load(args.model) if args.model else km.load(), asked(args.full)
    shares: list[float] = []
    n_verdicts = 0
    for kind, own, questions, seed in worlds(model, facts, 26 if args.full else 3):
        start = time.perf_counter()
        recall = km.memorization(
            own, questions, range(5), max_candidates=8, lens=False, seed=seed, progress=False
        )
        verdicts = ledger.judge_result(None, recall)
        if kind != "the model itself":
            false = [verdict.word == "consistent" for verdict in verdicts]
            n_verdicts += len(false)
            shares.append(sum(false) / len(false))
        print(f"{kind}, seed {seed} ({time.perf_counter() - start:.0f} s)")
        for verdict in verdicts:
            print(f"  {verdict.word}: {verdict.prediction.id} {verdict.figures()}")
    share = math.fsum(shares) / len(shares)
    print(
        f"false verdicts of controls: {share:.1%} of {n_verdicts} in {len(shares)} models; "
        f"upper bound {upper_bound(shares):.1%}"
    )
    return 1 if share > 0.05 else 0


if __name__ == "__main__":
    sys.exit(main())
