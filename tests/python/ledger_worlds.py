"""Tiny models of which it is known what they hold, and facts to ask them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import km
from km.datasets import Fact, FactSet, Relation

TINY = Path(__file__).parents[1] / "golden_data" / "tiny_llama"
LETTERS = "abcdefghijklmnopqrstuvwx"
ANSWERS = ["the", "in", "of", "to", "and", "re", "th", "a"]
TEMPLATES = (":{}", "({}", "-{}", "#{}", "+{}")
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
N_RELATIONS = 8


def facts(n_templates: int = 3) -> FactSet:
    """Eight relations of three subjects; no answer is commonest, every subject is asked once."""
    relations = []
    for r in range(N_RELATIONS):
        own = tuple(Fact(str(i), LETTERS[3 * r + i], (ANSWERS[(r + 3 * i) % 8],)) for i in range(3))
        relations.append(Relation(f"r{r}", "factual", TEMPLATES[:n_templates], "z", own))
    return FactSet(tuple(relations))


def permuted(asked: FactSet, seed: int) -> FactSet:
    """Every relation's answers dealt out anew among its subjects."""
    rng = np.random.default_rng(seed)

    def deal(relation: Relation) -> Relation:
        order = rng.permutation(len(relation.facts))
        moved = (relation.facts[i].answers for i in order)
        pairs = zip(relation.facts, moved, strict=True)
        return replace(relation, facts=tuple(replace(fact, answers=a) for fact, a in pairs))

    return replace(asked, relations=tuple(map(deal, asked.relations)))


def planted(seed: int, share: float = 1.0) -> km.Model:
    """A tiny model that holds a share of the facts, and of the others nothing.

    Each subject held has a direction of its own as embedding, and its answer's row of the
    unembedding points there; the rest is random.
    """
    rng = np.random.default_rng(seed)
    model = km.load(TINY)
    drawn: dict[str, Any] = {
        row["name"]: rng.normal(0, 0.02, np.shape(model.weight(row["name"]))).astype(np.float32)
        for row in model.weights().rows()
        if " x " in row["shape"]
    }
    embedding, head = drawn[EMBEDDING], drawn[HEAD]
    held = [fact for relation in facts().relations for fact in relation.facts]
    for i, fact in enumerate(held):
        if rng.random() < share:
            (subject,) = model.encode(fact.subject, bos=False)
            (answer,) = model.encode(" " + fact.answers[0], bos=False)
            embedding[subject] = 0
            embedding[subject, i] = 1
            head[answer, i] += 1.0
    return model.edit(drawn)


def shuffled(model: km.Model, seed: int) -> km.Model:
    """Every matrix with its elements in another order."""
    rng = np.random.default_rng(seed)
    changed: dict[str, Any] = {}
    for row in model.weights().rows():
        if " x " in row["shape"]:
            weight = np.array(model.weight(row["name"]))
            changed[row["name"]] = rng.permutation(weight.ravel()).reshape(weight.shape)
    return model.edit(changed)


def chance_of_at_most(k: int, n: int, share: float) -> float:
    """Of a binomial variable of n draws."""
    return math.fsum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(k + 1))


def shown_below(shares: list[float], bound: float) -> bool:
    """Whether the mean of independent shares is shown to lie below a bound, at the level of 5 %.

    The exact binomial test, one-sided: Clopper and Pearson's upper bound of 95 % lies below it.
    Each replicate is one draw, whatever number of verdicts its share is of, since these rest on
    the same rows; their sum counts as rounded up. No case in 59 replicates is enough for 5 %, and
    one needs 93.
    """
    return chance_of_at_most(math.ceil(math.fsum(shares) - 1e-9), len(shares), bound) < 0.05


def shown_above(shares: list[float], bound: float) -> bool:
    """Whether the mean of independent shares is shown to lie above a bound, at the level of 5 %."""
    return shown_below([1 - share for share in shares], 1 - bound)
