"""A conflict study in plain words: detectable effects, findings, a conclusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from km.conflict_plan import CLOSED
from km.studies.conflict_analysis import changed, known_share
from km.studies.conflict_family import READING
from km.studies.conflict_rows import FAMILY, PLAIN, RANDOM, REAL, Row

Judged = Mapping[str, Any]


def describe(
    rows: Sequence[Row], found: Sequence[Judged], provenance: Mapping[str, Any]
) -> list[str]:
    """Lines, the smallest detectable effects first."""
    return [
        _unit(rows, provenance),
        _detectable(found),
        *(_line(one) for one in found),
        *_baselines(rows),
        *_reading(rows),
        _limits(),
    ]


def _unit(rows: Sequence[Row], provenance: Mapping[str, Any]) -> str:
    """What all that follows is about."""
    model = provenance.get("model") or {}
    right, asked = known_share(rows)
    seeds = {row["seed"] for row in rows if row["part"] == FAMILY}
    sizes = sorted({row["size"] for row in rows if row["part"] == FAMILY})
    span = f"{sizes[0]:,.0f} to {sizes[-1]:,.0f} parameters" if sizes else "no sizes"
    return (
        f"All figures are of {model.get('name')} ({model.get('precision')}), which answers {right} "
        f"of {asked} facts rightly without a passage, and of a family of {len(sizes)} sizes "
        f"({span}) with {len(seeds)} seeds; they say nothing of other models, facts or recipes."
    )


def _detectable(found: Sequence[Judged]) -> str:
    parts = [
        f"{one['quantity']} {one['detectable']:.2g} {one['unit']}"
        for one in found
        if one["detectable"] is not None
    ]
    if not parts:
        return "Nothing could be estimated with an interval."
    return (
        "Smallest effects that would have been seen four times in five: " + "; ".join(parts) + "."
    )


def _line(one: Judged) -> str:
    word = one["word"].capitalize() if one["word"] else "Described"
    beside = f" ({one['beside']})" if one["beside"] else ""
    return f"{word}: {one['quantity']}: {spoken(one)}{beside}."


def spoken(one: Judged) -> str:
    """A figure with its interval."""
    if one["estimate"] is None:
        return f"not estimable with {one['n']} {one['n_unit']}"
    interval = "without an interval"
    if one["low"] is not None:
        interval = f"[{one['low']:+.3f}, {one['high']:+.3f}]"
    text = f"{one['estimate']:+.3f} {one['unit']} {interval}"
    p = one["p_adjusted"] if one["p_adjusted"] is not None else one["p"]
    p_text = "" if p is None else f", p = {p:.2g}"
    return f"{text}{p_text}, n = {one['n']} {one['n_unit']}, {one['n_items']} items"


def _baselines(rows: Sequence[Row]) -> list[str]:
    """What random weights do on the same prompts."""
    out = []
    for part, name in ((REAL, "The same architecture"), (FAMILY, "The family")):
        mine = [
            row
            for row in rows
            if row["part"] == part and row["arm"] == RANDOM and row["condition"] == "substitute"
        ]
        if mine:
            shares = ", ".join(
                f"{bucket} {sum(r['bucket'] == bucket for r in mine) / len(mine):.3f}"
                for bucket in ("original", "substitute", "other")
            )
            out.append(f"{name} with random weights answers the same prompts: {shares}.")
    return out


def _reading(rows: Sequence[Row]) -> list[str]:
    """How well each size of the family reads and knows, beside its memorization ratio."""
    out = []
    mine = [row for row in rows if row["part"] == FAMILY and row["arm"] == PLAIN]
    for size in sorted({row["size"] for row in mine}):
        own = [row for row in mine if row["size"] == size]
        read = [row["bucket"] == "substitute" for row in own if row["condition"] == READING]
        known = [bool(row["known"]) for row in own if row["condition"] == CLOSED]
        told = changed(own, FAMILY)
        kept = sum(row["bucket"] == "original" for row in told)
        followed = sum(row["bucket"] == "substitute" for row in told)
        if not known or not told or not kept + followed:
            continue
        reading = f"reads {sum(read) / len(read):.3f} of new passages rightly, " if read else ""
        out.append(
            f"Family, {size:,.0f} parameters: {reading}knows {sum(known) / len(known):.3f} of the "
            f"facts; memorization ratio {kept / (kept + followed):.3f}, original "
            f"{kept / len(told):.3f}, substitute {followed / len(told):.3f}, other "
            f"{1 - (kept + followed) / len(told):.3f}."
        )
    return out


def _limits() -> str:
    return (
        "Size is compared within the family alone: two unrelated models differ in much besides "
        "size and show no effect of it."
    )


def conclude(found: Sequence[Judged], provenance: Mapping[str, Any]) -> str:
    """What a reader may conclude, and what not: two sentences."""
    model = (provenance.get("model") or {}).get("name")
    by_id = {one["prediction"]: one for one in found if one["prediction"]}
    parts = [
        f"{words} {_said(by_id[name]['word'])}"
        for name, words in _QUESTIONS.items()
        if name in by_id
    ]
    return (
        f"For {model} with these facts, and for small models trained from scratch on this corpus, "
        + "; ".join(parts)
        + ". These verdicts are of these models, prompts and recipes alone: they do not say how "
        "larger or other models weigh passages against memory, and an effect of size on real "
        "models, or of page views where none were given, was not tested."
    )


_QUESTIONS = {
    "conflict-memory-persists": "that memory persists against a passage",
    "conflict-popularity-familiarity": "that it does so more for familiar subjects",
    "conflict-count-family": "that it does so more for facts seen more often in training",
    "conflict-size-family": "that it does so more in larger models",
    "conflict-mitigation-ratio": "that mixed fine-tuning lowers it beyond unsubstituted",
    "conflict-mitigation-cost": "that this costs accuracy without a passage",
}


def _said(word: str | None) -> str:
    return {
        "consistent": "was found",
        "inconsistent": "was contradicted",
        "equivalent to none": "was excluded at the size of interest",
        "not testable here": "could not be tested",
    }.get(word or "", "was left undecided")
