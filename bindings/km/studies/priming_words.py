"""A priming study in plain words: what this model shows of the paper's findings, with numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km import stats
from km.ledger.record import sentences, words
from km.studies.priming_compare import KEPT, find

if TYPE_CHECKING:
    from km.studies.priming_result import PrimingStudy

ALPHA = 0.05

# The words of the ledger for the sign of what was found; "equivalent to none" needs a smallest
# effect of interest, which these comparisons have not.
WORDS = {1: "Consistent", 0: "Inconclusive", -1: "Inconsistent"}

# What a verdict says of a keyword's probability in other contexts.
RAISED = {
    "consistent": "raised",
    "inconsistent": "lowered",
    "equivalent to none": "changed by less than matters",
    "inconclusive": "was not shown to change",
    "not testable here": "was seen with too few keywords to say whether it changes",
}
SLOPE = {
    "consistent": "primed more where the keyword was less probable before",
    "inconsistent": "primed more where the keyword was more probable before",
    "equivalent to none": "primed as much whether the keyword was probable before or not",
    "inconclusive": "was not shown to prime more where the keyword was less probable before",
    "not testable here": "was seen with too few keywords to say whether improbable ones prime more",
}

# Below so many texts a correlation is not worth a line.
MIN_TEXTS = 4
PREDICTOR = ("logp_keyword_before", "mean_log_ratio")


def describe_findings(study: PrimingStudy) -> list[str]:
    """Lines, the smallest detectable differences first, then finding by finding."""
    rows = list(study.comparisons.rows())
    return [
        _unit(study),
        *_detectable(rows),
        *_memorisation(rows),
        *study.analysis.findings,
        *_ledger(study),
        *_in_context(rows),
        *_correlations(study),
        *_themes(rows),
        *_neutral(rows),
        *(line for arm in study.mitigations for line in _mitigation(rows, arm)),
        *_unstable(study),
    ]


def _unit(study: PrimingStudy) -> str:
    """What all that follows is about."""
    recipe = study.parameters["recipe"]
    model = study.provenance["model"]
    optimizer = recipe["optimizer"]
    learned = [row for row in study.texts.rows() if row["arm"] == "learned"]
    return (
        f"All figures are of {model['name']} ({model['precision']}), {len(learned)} texts with "
        f"{len({row['keyword'] for row in learned})} keywords, each learned by itself in "
        f"{recipe['presentations']} presentations over {recipe['steps']} steps of "
        f"{optimizer['name']} at a learning rate of {optimizer['lr']:g}; they say nothing of "
        "other models, texts or recipes."
    )


def _detectable(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    shown = [row for row in rows if row["detectable"] is not None]
    if not shown:
        yield "One keyword says nothing about others: there are no intervals."
        return
    parts = [
        f"{row['question']} {row['detectable']:.2g} {row['unit']}"
        for row in shown
        if not row["question"].startswith(("memorisation", "priming"))
    ]
    yield (
        "Smallest differences that would have been seen four times in five: "
        + "; ".join(parts)
        + "."
    )


def spoken(row: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    decimals = 4 if row["unit"] == "nats/token" else 2
    value = f"{row['difference']:+.{decimals}f} {row['unit']}"
    if row["low"] is None:
        return value
    interval = f"[{row['low']:+.{decimals}f}, {row['high']:+.{decimals}f}]"
    return f"{value} {interval}, p = {row['p_adjusted']:.2g}, n = {row['n']}"


def direction(row: Mapping[str, Any]) -> int:
    """1 or -1 where interval and adjusted test agree on a sign; 0 otherwise."""
    if row["low"] is None or row["p_adjusted"] > ALPHA:
        return 0
    return 1 if row["low"] > 0 else -1 if row["high"] < 0 else 0


def _memorisation(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    row = find(rows, "memorisation")
    if row is not None:
        word = WORDS[direction(row)]
        yield f"{word}: texts are memorised; log S_mem {spoken(row)}."


def _ledger(study: PrimingStudy) -> Iterator[str]:
    """The predictions that were fixed beforehand, by the rule that all measures share."""
    lines = sentences(study)
    if lines:
        yield "Predictions of the ledger, by its rule and after Holm over them:"
        yield from lines


def conclude(study: PrimingStudy) -> str:
    """Two sentences: what a reader may conclude, and what not."""
    said = words(study)
    model = study.provenance["model"]
    name = f"{model['name']} ({model['precision']})"
    if not said:
        return (
            f"The figures of {name} describe its texts alone: their intervals have another level "
            "than the predictions, so that there are no verdicts. Nothing follows for other "
            "models, texts or recipes."
        )
    text, keyword, slope = (
        said[f"priming-{end}"] for end in ("beyond-unrelated-text", "beyond-other-keyword", "slope")
    )
    return (
        f"In {name} learning one text by itself {RAISED[text[0]]} its keyword's probability in "
        f"other contexts of its theme, compared with learning an unrelated text ({text[1]}), "
        f"{RAISED[keyword[0]]} it compared with learning the text with another keyword "
        f"({keyword[1]}), and {SLOPE[slope[0]]} ({slope[1]}). Nothing follows for other models, "
        "texts or recipes, and the correlation of priming with the keyword's probability is no "
        "evidence of its own, since that probability is priming's denominator."
    )


def _in_context(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    row, gap = find(rows, "the text in the prompt"), find(rows, "learned beyond in the prompt")
    if row is None:
        return
    yield f"With the text in the prompt instead: {spoken(row)}."
    if gap is not None:
        words = {
            1: "learning primes more than the prompt does",
            0: "no difference between learning and prompt was found",
            -1: "the prompt primes more than learning does",
        }
        yield f"{words[direction(gap)].capitalize()}: {spoken(gap)}."


def _correlations(study: PrimingStudy) -> Iterator[str]:
    """What the paper also correlates; rows of a keyword are not independent, so without a test."""
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for row in study.texts.rows():
        by_arm.setdefault(row["arm"], []).append(row)
    parts = [
        f"{words} {rho:+.2f}"
        for words, arm, x, y in (
            ("log keyword probability and priming, learned", "learned", *PREDICTOR),
            ("the same with the text in the prompt", "in_context", *PREDICTOR),
            ("memorisation and priming, learned", "learned", "log_s_mem", "mean_log_ratio"),
        )
        for rho in [_spearman(by_arm.get(arm, ()), x, y)]
        if rho is not None
    ]
    if parts:
        yield "Description, Spearman's correlation over texts: " + "; ".join(parts) + "."


def _spearman(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> float | None:
    """None where there are too few texts or a variable is constant."""
    pairs = [(row[x], row[y]) for row in rows if row[x] is not None and row[y] is not None]
    if len(pairs) < MIN_TEXTS:
        return None
    first, second = zip(*pairs, strict=True)
    rho = stats.spearman(first, second).statistic
    return rho if math.isfinite(rho) else None


def _themes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    row, gap = find(rows, "priming of other themes"), find(rows, "own theme beyond others")
    if row is None or gap is None:
        return
    word = WORDS[direction(gap)]
    yield (
        f"{word}: other themes are primed less than the keyword's own; others {spoken(row)}, "
        f"own beyond others {spoken(gap)}."
    )


def _neutral(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    row = find(rows, "loss of neutral sentences")
    if row is not None:
        yield f"Loss of unrelated sentences after learning: {spoken(row)}."


def _mitigation(rows: Sequence[Mapping[str, Any]], arm: str) -> Iterator[str]:
    name = arm.replace("_", " ")
    prime, memory = find(rows, f"{name}: priming"), find(rows, f"{name}: memorisation")
    if prime is None or memory is None:
        return
    lowers = {-1: "lowers priming", 0: "was not found to lower priming", 1: "raises priming"}
    share = ""
    if prime["mean_against"] > 0:
        cut = 1 - prime["mean"] / prime["mean_against"]
        share = f" ({100 * cut:.0f} % of the mean log ratio)"
    yield (
        f"{name.capitalize()} {lowers[direction(prime)]}: {spoken(prime)}{share}. It "
        f"{_keeps(memory)}: {spoken(memory)}."
    )
    neutral = find(rows, f"{name}: loss of neutral sentences")
    if neutral is not None:
        yield f"{name.capitalize()}, loss of unrelated sentences: {spoken(neutral)}."


def _keeps(row: Mapping[str, Any]) -> str:
    """Whether memorisation is kept: an equivalence test with half the probability as margin."""
    if row["low"] is None:
        return "keeps or loses memorisation, which one keyword cannot say"
    if row["low"] > -KEPT:
        return "keeps memorisation (loses less than half of the keyword's probability)"
    if row["high"] < -KEPT:
        return "loses memorisation (more than half of the keyword's probability)"
    return "may lose memorisation (half of the keyword's probability is not excluded)"


def _unstable(study: PrimingStudy) -> Iterator[str]:
    learned = [row for row in study.texts.rows() if row["arm"] == "learned"]
    n, n_unstable = sum(r["n"] for r in learned), sum(r["n_unstable"] for r in learned)
    yield (
        f"{n_unstable} of {n} ratios have a probability below 1e-10 before; log S_prime is a mean "
        "of ratios, which such denominators rule, so the findings above use mean log ratios."
    )
    both = [
        (row["log_s_prime"], row["log_s_prime_stable"])
        for row in learned
        if row["log_s_prime_stable"] is not None and math.isfinite(row["log_s_prime"] or math.nan)
    ]
    if both and n_unstable:
        means = [sum(column) / len(both) for column in zip(*both, strict=True)]
        yield (
            f"Mean log S_prime is {means[0]:.2f} nats with them and {means[1]:.2f} without, over "
            f"{len(both)} texts."
        )
