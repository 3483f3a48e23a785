"""A decoder study in plain words: what was gained over greedy decoding, with numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km.studies.decoders_compare import ALL, ALPHA, METRICS, TASKS
from km.studies.decoders_settings import GREEDY, GRID

if TYPE_CHECKING:
    from km.studies.decoders_result import ModelDecoders

FILE_NAMES = {
    "proverb_ending": "proverb endings",
    "proverb_translation": "proverb translations",
    "history_of_science": "history of science",
    "nq_synth": "NQ-Synth",
}


def describe_findings(study: ModelDecoders) -> list[str]:
    """Lines, the smallest detectable differences first, then task by task."""
    rows = list(study.comparisons.rows())
    return [
        *_detectable(rows),
        _unit(study),
        *_chosen(study),
        *_scope(study),
        *(line for task in TASKS for metric in METRICS for line in _task(rows, task, metric)),
        *_files(rows),
        *_verdicts(study),
    ]


def _detectable(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for task, name in TASKS.items():
        parts = [
            f"{row['decoder']} {_points(row['detectable'])} (n = {row['n']})"
            for row in rows
            if row["task"] == task and row["file"] == ALL and row["metric"] == "match"
        ]
        if not parts:
            continue
        yield (
            f"Smallest differences from greedy decoding shown four times in five, exact match on "
            f"{name}, with Holm's correction over all ten comparisons: {'; '.join(parts)}."
        )


def _points(value: float | None) -> str:
    return "none, were all disagreements gains" if value is None else f"{100 * value:.1f} points"


def _unit(study: ModelDecoders) -> str:
    model = study.provenance["model"]
    return (
        f"All figures are of {model['name']} ({model['precision']}) on these items; they say "
        "nothing of other models, prompts or data."
    )


def _chosen(study: ModelDecoders) -> Iterator[str]:
    n = len(next(iter(GRID.values())))
    for task, name in TASKS.items():
        rows = [row for row in study.selection.rows() if row["task"] == task]
        parts = [
            f"{row['decoder']} {_options(row['setting'])}"
            for row in rows
            if row["chosen"] and row["decoder"] != GREEDY
        ]
        if not rows:
            continue
        items = max(row["n"] for row in rows)
        yield (
            f"{n} settings of each decoder were tried on the same {items} validation items of "
            f"{name}, none of which is tested (greedy decoding has nothing to choose): "
            f"{'; '.join(parts)}."
        )


def _options(setting: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in json.loads(setting).items())


def _scope(study: ModelDecoders) -> Iterator[str]:
    counts = [
        f"{_named_file(file)} {n[GREEDY]} (CoDa {n.get('CoDa', 0)})"
        for file in dict.fromkeys(study.shares["file"])
        if (n := _counts(study, file))
    ]
    yield f"Test items: {', '.join(counts)}."
    longest = ((study.parameters["sizes"] or {}).get("nq_synth") or {}).get("longest")
    if longest is not None:
        yield f"Of NQ-Synth only passages of at most {longest} words are taken."


def _named_file(file: str) -> str:
    return FILE_NAMES.get(file, file)


def _counts(study: ModelDecoders, file: str) -> dict[str, int]:
    rows = study.shares.rows()
    return {r["decoder"]: r["n"] for r in rows if r["file"] == file and r["metric"] == "match"}


def _task(rows: Sequence[Mapping[str, Any]], task: str, metric: str) -> Iterator[str]:
    own = [r for r in rows if (r["task"], r["file"], r["metric"]) == (task, ALL, metric)]
    if not own:
        return
    kind = "predicted" if own[0]["family"] == "confirmatory" else "exploratory"
    yield f"{TASKS[task]}, {METRICS[metric]} ({kind}):"
    for row in own:
        yield f"  {spoken(row)}"


def spoken(row: Mapping[str, Any]) -> str:
    """A difference with its interval, and whether it is one."""
    words = {1: "raises it", 0: "no difference shown", -1: "lowers it"}
    return (
        f"{row['decoder']} {row['share']:.3f} [{row['low']:.3f}, {row['high']:.3f}], greedy "
        f"{row['greedy']:.3f} on the same {row['n']} items: {row['difference']:+.3f} "
        f"[{row['difference_low']:+.3f}, {row['difference_high']:+.3f}], {row['gained']} gained, "
        f"{row['lost']} lost, adjusted p = {row['p_adjusted']:.2g}: {words[direction(row)]}."
    )


def direction(row: Mapping[str, Any]) -> int:
    """1 or -1 where interval and adjusted test agree on a sign; 0 otherwise."""
    if not row["p_adjusted"] <= ALPHA:
        return 0
    return 1 if row["difference_low"] > 0 else -1 if row["difference_high"] < 0 else 0


def _files(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Files of MemoTrap alone: only what differs."""
    own = [row for row in rows if row["file"] != ALL]
    shown = [row for row in own if direction(row)]
    if own and not shown:
        yield "In no single file of MemoTrap was a difference shown (exploratory)."
    for row in shown:
        yield f"{_named_file(row['file'])}, {METRICS[row['metric']]} (exploratory): {spoken(row)}"


def _verdicts(study: ModelDecoders) -> Iterator[str]:
    by_word: dict[str, list[str]] = {}
    for id, word in study.words.items():
        by_word.setdefault(word, []).append(id)
    parts = [f"{word}: {', '.join(ids)}" for word, ids in by_word.items()]
    yield f"Verdicts on the predictions: {'; '.join(parts)}."


def conclude(studies: Sequence[ModelDecoders]) -> str:
    """Two sentences: what a reader may conclude, and what not."""
    return f"{_may(studies)} {_may_not(studies)}"


def _may(studies: Sequence[ModelDecoders]) -> str:
    parts = []
    for study in studies:
        model = study.provenance["model"]
        rows = [r for r in study.comparisons.rows() if r["family"] == "confirmatory"]
        gains = [_named(r) for r in rows if direction(r) > 0]
        losses = [_named(r) for r in rows if direction(r) < 0]
        said = f"raised by {', '.join(gains)}" if gains else "raised by none of the five decoders"
        if losses:
            said += f", lowered by {', '.join(losses)}"
        others = len(rows) - len(gains) - len(losses)
        if others:
            said += f" and not shown to differ in the other {others} comparisons"
        parts.append(f"in {model['name']} ({model['precision']}) exact match was {said}")
    text = "; ".join(parts)
    return (
        f"With settings chosen on validation items and compared with greedy decoding on the same "
        f"test items, {text}."
    )


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['decoder']} on {TASKS[row['task']]} ({row['difference']:+.3f})"


def _may_not(studies: Sequence[ModelDecoders]) -> str:
    values = [
        row["detectable"]
        for study in studies
        for row in study.comparisons.rows()
        if row["family"] == "confirmatory" and row["detectable"] is not None
    ]
    unseen = (
        f"a gain below {100 * min(values):.0f} to {100 * max(values):.0f} points may have been "
        "missed"
        if values
        else "so few items show nothing"
    )
    return (
        f"Where no difference was shown {unseen}, so that none of the decoders is shown to be "
        "useless, and nothing follows for larger models, other prompts or the gains their authors "
        "report."
    )
