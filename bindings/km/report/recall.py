"""The page of a recall: whole answers beside their baselines, prompts, states, layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km.errors import NotFoundError
from km.recall import RECALL_ID, Recall
from km.recall_summary import floors

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.picture import Picture
    from km.report.pictures import Pictures
    from km.taxonomy import Taxonomy

BASELINES = (
    ("commonest", "commonest answer"),
    ("subject_removed", "subject removed"),
    ("shuffled", "subjects shuffled"),
    ("random_init", "random initialisation"),
)


def newest_recall(kb: KnowledgeBase, run: int | None = None) -> Recall:
    """The recall of a run, or of the newest finished one.

    Raises
    ------
    NotFoundError
        There is no such run.
    """
    if run is None:
        sql = "SELECT max(id) AS id FROM runs WHERE measure = ? AND status = 'done'"
        run = kb.sql(sql, [RECALL_ID])["id"][0]
    if run is None:
        raise NotFoundError(
            f"{kb.path} has no finished recall run; make one with: km measure memorization"
        )
    return Recall.from_knowledge_base(kb, int(run))


def share(value: float | None) -> str:
    """A share with two decimals, or a dash."""
    return "–" if value is None else f"{value:.2f}"


def clears_baselines(row: Mapping[str, Any]) -> bool:
    """Whether the lower end of the interval lies above every baseline that was measured."""
    beside = floors(row)
    return row["low"] is not None and bool(beside) and row["low"] > max(beside)


def _interval(row: Mapping[str, Any]) -> str:
    return "–" if row["low"] is None else f"{row['low']:.2f}–{row['high']:.2f}"


def _misleads(row: Mapping[str, Any]) -> bool:
    """Whether first tokens are shared with a wrong candidate, or blank, in some rows."""
    return bool(row["collision"] or row["lone_blank"])


def _table(
    heads: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    cells: Callable[[Mapping[str, Any]], Sequence[Any]],
    mark: Callable[[Mapping[str, Any]], bool] = lambda _: False,
) -> dict[str, Any]:
    """A table of the page; a star and a colour mark some rows."""
    return {
        "heads": ["relation", "n", *heads],
        "rows": [
            {
                "cells": [f"{row['relation']}{' *' * mark(row)}", row["n"], *cells(row)],
                "marked": mark(row),
            }
            for row in rows
        ],
    }


def _recall_table(rows: Iterable[Mapping[str, Any]], level: str) -> dict[str, Any]:
    return _table(
        ["recall", f"{level} interval", *(label for _, label in BASELINES), "first token"],
        rows,
        lambda row: [
            share(row["recall"]),
            _interval(row),
            *(share(row[name]) for name, _ in BASELINES),
            f"{share(row['top1'])}{' †' * _misleads(row)}",
        ],
        clears_baselines,
    )


def _judged_table(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return _table(
        ["by sum", "per byte", "by PMI", "exact greedy", "worst prompt", "best prompt", "chance"],
        rows,
        lambda row: [
            share(row[name])
            for name in (
                "recall", "recall_per_byte", "recall_pmi", "exact", "worst_template",
                "best_template", "chance",
            )
        ],
    )  # fmt: skip


def _first_token_table(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return _table(
        ["most likely", "among ten", "shared with a wrong candidate", "lone blank"],
        rows,
        lambda row: [share(row[name]) for name in ("top1", "top10", "collision", "lone_blank")],
    )


def _state_table(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Facts by state; None where one prompt a fact leaves nothing to tell states apart."""
    kept = [row for row in rows if row["n_templates"] > 1]
    names = ("robust", "prompt_dependent", "not_shown")
    if not kept:
        return None
    return _table(
        [name.replace("_", " ") for name in names], kept, lambda row: [row[name] for name in names]
    )


def _cards(recall: Recall) -> list[dict[str, str]]:
    micro, macro = recall.overall.rows()
    relations = list(recall.relations.rows())
    clear = sum(clears_baselines(row) for row in relations)

    def card(label: str, row: Mapping[str, Any]) -> dict[str, str]:
        note = "no interval" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
        return {"label": label, "value": share(row["recall"]), "note": f"{note}, n = {row['n']}"}

    cards = [
        card("recall, all facts alike", micro),
        card("recall, relations alike", macro),
        {
            "label": "relations above every baseline",
            "value": f"{clear} of {len(relations)}",
            "note": "by their own interval, not corrected for looking at several",
        },
    ]
    if micro["gain"] is not None:
        spread = (
            "no interval"
            if micro["gain_low"] is None
            else f"{micro['gain_low']:+.2f} to {micro['gain_high']:+.2f}, paired"
        )
        label = "gain over subject removed"
        cards.append({"label": label, "value": f"{micro['gain']:+.2f}", "note": spread})
    return cards


def _findings(recall: Recall) -> list[str]:
    micro = next(iter(recall.overall.rows()))
    baselines = [(micro[name], label) for name, label in BASELINES if micro[name] is not None]
    if micro["recall"] is None or not baselines:
        return ["No answer had a wrong candidate to be ranked against, so there is no recall."]
    beside = ", ".join(f"{label} {share(value)}" for value, label in baselines)
    lines = [f"Over all facts, recall is {share(micro['recall'])}; beside it stand: {beside}."]
    value, label = max(baselines)
    if micro["low"] is not None:
        side = "above" if micro["low"] > value else "not clearly above"
        lines.append(
            f"The interval, clustered by relation and subject, lies {side} the strongest baseline "
            f"({label}, {share(value)})."
        )
    return lines


def _prompts(recall: Recall) -> list[dict[str, Any]]:
    first: dict[str, dict[str, Any]] = {}
    for row in recall.table.rows():
        first.setdefault(row["relation"], row)
    return [
        {
            "relation": row["relation"],
            "prompt": f"{first[row['relation']]['prompt']} …",
            "n": row["n"],
            "templates": row["n_templates"],
            "candidates": "–" if row["n_candidates"] is None else f"{row['n_candidates']:.0f}",
        }
        for row in recall.relations.rows()
    ]


def _survival(recall: Recall, pictures: Pictures) -> dict[str, Any] | None:
    from km import draw

    rows = list(recall.survival.rows())
    if not rows or rows[0]["not_leading"] is None:
        return None
    return {
        "svg": pictures.take(draw.survival(recall).svg),
        "rows": [
            (
                "output" if i == len(rows) - 1 else row["layer"],
                share(row["not_leading"]),
                share(row["random_init"]),
            )
            for i, row in enumerate(rows)
        ],
    }


def draw_taxonomy(taxonomy: Taxonomy, recall: Recall) -> Picture:
    """The taxonomy with the evidence of one run, whatever else its knowledge base holds."""
    from km import draw
    from km.draw._common import footnote

    about = recall.provenance["model"]
    origin = {"model": about["name"], "precision": about["precision"]}
    evidence = [row | origin for row in recall.evidence]
    return draw.taxonomy(taxonomy, evidence, provenance=footnote(recall, None))


def recall_parts(kb: KnowledgeBase, recall: Recall, pictures: Pictures) -> dict[str, Any]:
    """What the template of a recall's page needs."""
    from km import draw

    confidence = float(recall.parameters["confidence"])
    level = f"{100 * confidence:g} %"
    rows = [*recall.overall.rows(), *recall.relations.rows()]
    model = recall.provenance["model"]
    return {
        "question": f"{rows[0]['n']} facts of {len(recall.relations)} relations were asked of "
        f"{model['name']} ({model['precision']}).",
        "cards": _cards(recall),
        "findings": _findings(recall),
        "max_candidates": recall.parameters["max_candidates"],
        "prompts": _prompts(recall),
        "svg": pictures.take(draw.recall(recall, level=confidence).svg),
        "table": _recall_table(rows, level),
        "level": level,
        "judged_table": _judged_table(rows),
        "first_token_table": _first_token_table(rows),
        "state_table": _state_table(rows),
        "notes": recall.notes,
        "survival": _survival(recall, pictures),
        "taxonomy_svg": pictures.take(draw_taxonomy(kb.taxonomy, recall).svg),
    }


def baseline_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Relations against their baselines as plain text; a star marks those above all of them."""
    lines = [
        f"{'relation':<30} {'n':>4} {'recall':>6} {'95 % interval':>14} {'common.':>8} "
        f"{'no subj.':>8} {'shuffled':>8} {'random':>7}"
    ]
    for row in rows:
        mark = "*" if clears_baselines(row) else " "
        lines.append(
            f"{row['relation'][:29]:<29}{mark} {row['n']:>4} {share(row['recall']):>6} "
            f"{_interval(row):>14} {share(row['commonest']):>8} {share(row['subject_removed']):>8} "
            f"{share(row['shuffled']):>8} {share(row['random_init']):>7}"
        )
    return "\n".join([*lines, "* the lower end of the interval lies above every baseline"])
