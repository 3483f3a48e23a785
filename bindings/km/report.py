"""One self-contained HTML page about a recorded run, made from the knowledge base alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km import _km
from km.errors import NotFoundError
from km.lens import LENS_ID, LensResult
from km.recall import RECALL_ID, Recall

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

BASELINES = (
    ("commonest", "commonest answer"),
    ("subject_removed", "subject removed"),
    ("shuffled", "subjects shuffled"),
    ("random_init", "random initialisation"),
)


def _newest_run(kb: KnowledgeBase, measure: str) -> int | None:
    rows = kb.query(
        "SELECT max(id) AS id FROM runs WHERE measure = ? AND status = 'done'", [measure]
    )
    value = rows["id"][0]
    return None if value is None else int(value)


def newest_recall(kb: KnowledgeBase, run: int | None = None) -> Recall:
    """The recall of a run, or of the newest finished one.

    Raises
    ------
    NotFoundError
        There is no such run.
    """
    chosen = run if run is not None else _newest_run(kb, RECALL_ID)
    if chosen is None:
        raise NotFoundError(f"{kb.path} has no finished recall run; make one with: km measure")
    return Recall.from_knowledge_base(kb, chosen)


def share(value: float | None) -> str:
    """A share with two decimals, or a dash."""
    return "–" if value is None else f"{value:.2f}"


def clears_baselines(row: Mapping[str, Any]) -> bool:
    """Whether the lower end of the interval lies above every baseline that was measured."""
    floors = [row[name] for name, _ in BASELINES if row[name] is not None]
    return row["low"] is not None and bool(floors) and row["low"] > max(floors)


def _relation_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    interval = "–" if row["low"] is None else f"{row['low']:.2f}–{row['high']:.2f}"
    cells = [row["relation"], row["n"], share(row["recall"]), interval]
    cells += [share(row[name]) for name, _ in BASELINES]
    cells += [share(row["chance"]), share(row["exact"]), share(row["top1"])]
    return {"cells": cells, "above": clears_baselines(row)}


def _cards(recall: Recall) -> list[dict[str, str]]:
    micro, macro = recall.overall.rows()
    relations = list(recall.relations.rows())
    clear = sum(clears_baselines(row) for row in relations)

    def card(label: str, row: Mapping[str, Any]) -> dict[str, str]:
        note = "no interval" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
        return {"label": label, "value": share(row["recall"]), "note": f"{note}, n = {row['n']}"}

    return [
        card("recall, all facts alike", micro),
        card("recall, relations alike", macro),
        {
            "label": "relations above every baseline",
            "value": f"{clear} of {len(relations)}",
            "note": "by the lower end of the interval",
        },
        {
            "label": "gain over subject removed",
            "value": f"{micro['gain']:+.2f}",
            "note": "no interval"
            if micro["gain_low"] is None
            else f"{micro['gain_low']:+.2f} to {micro['gain_high']:+.2f}, paired",
        },
    ]


def _findings(recall: Recall) -> list[str]:
    micro = next(iter(recall.overall.rows()))
    beside = ", ".join(
        f"{label} {share(micro[name])}" for name, label in BASELINES if micro[name] is not None
    )
    lines = [f"Over all facts, recall is {share(micro['recall'])}; beside it stand: {beside}."]
    strongest = max(
        (micro[name], label) for name, label in BASELINES if micro[name] is not None
    )
    if micro["low"] is not None:
        side = "above" if micro["low"] > strongest[0] else "not clearly above"
        lines.append(
            f"The interval, clustered by relation and subject, lies {side} the strongest baseline "
            f"({strongest[1]}, {share(strongest[0])})."
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


def _survival(recall: Recall) -> tuple[list[dict[str, str]], str]:
    rows = list(recall.survival.rows())
    shown = [
        {
            "layer": "output" if i == len(rows) - 1 else str(row["layer"]),
            "model": share(row["not_leading"]),
            "random": share(row["random_init"]),
        }
        for i, row in enumerate(rows)
        if i % 3 == 2 or i == len(rows) - 1
    ]
    if not rows:
        return [], ""
    n, n_random = rows[0]["n"], rows[0]["n_random_init"]
    control = f"; n = {n_random} for random weights" if n_random is not None else ""
    return shown, (
        f"n = {n} rows whose first token no wrong candidate shares{control}. Every third block is "
        "shown. The logit lens describes; it does not test where knowledge sits."
    )


def _evidence(kb: KnowledgeBase) -> list[dict[str, Any]]:
    taxonomy = kb.taxonomy
    names = {node["id"]: node["name"] for node in taxonomy.nodes}
    return [
        {
            "node": names[row["node"]],
            "measure": f"{row['measure']}: {row['statistic'].replace('_', ' ')}",
            "value": "–" if row["value"] is None else f"{row['value']:.3g}",
            "interval": "–" if row["low"] is None else f"{row['low']:.3g} to {row['high']:.3g}",
            "n": row["n"],
            "note": row["note"] or "",
        }
        for row in taxonomy.evidence
    ]


def _lens(kb: KnowledgeBase) -> tuple[str, str]:
    """The first lens of the newest runs as SVG, and its caption; empty without one."""
    run = _newest_run(kb, LENS_ID)
    if run is None:
        return "", "No fact has been followed yet: km draw lens."
    lens = LensResult.from_knowledge_base(kb, run)
    return lens.draw().svg, (
        f"“{lens.prompt}” → “{lens.answer.strip()}”: what each block would say next, read through "
        "the model's final norm."
    )


def _provenance(recall: Recall, run_label: str) -> list[tuple[str, Any]]:
    about = recall.provenance
    model = about["model"]
    parameters = recall.parameters
    rows = [
        ("run", run_label),
        ("measure", f"{about['measure']} version {about['version']}"),
        ("model", f"{model['name']}, {model['architecture']}, {model['precision']}"),
        ("model file", Path(model["path"]).name),
        ("model fingerprint", model["fingerprint"]),
        ("tokenizer hash", model["tokenizer_hash"]),
        ("parameters", f"{model['n_parameters']:,}"),
        ("seed", about["seed"]),
        ("candidates", f"up to {parameters['max_candidates']}"),
        ("measured", about["time"]),
        ("km", about["km_version"]),
        ("CPU variant", about["cpu"]),
        ("OpenBLAS core", about["blas_core"]),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise ImportError("reports need Jinja2; install it with: pip install 'km[report]'") from None
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)


def render_report(kb: KnowledgeBase, run: int | None = None) -> str:
    """The page as text.

    Parameters
    ----------
    kb : KnowledgeBase
    run : int, optional
        A recall run; None: the newest finished one.

    Raises
    ------
    ImportError
        Jinja2 is missing (the extra ``report``).
    NotFoundError
        There is no such run.
    """
    from km import draw

    recall = newest_recall(kb, run)
    lens_svg, lens_caption = _lens(kb)
    survival_rows, survival_note = _survival(recall)
    model = recall.provenance["model"]
    micro = next(iter(recall.overall.rows()))
    n_relations = len(recall.relations)
    heads = ["relation", "n", "recall", "95 % interval", *(label for _, label in BASELINES)]
    template = resources.files("km").joinpath("templates", "report.html").read_text("utf-8")
    page = _environment().from_string(template)
    return str(
        page.render(
            km_version=_km.version(),
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            title=f"What {model['name']} recalls",
            question=f"{micro['n']} facts of {n_relations} relations were asked of "
            f"{model['name']} ({model['precision']}).",
            cards=_cards(recall),
            findings=_findings(recall),
            asked=f"Each fact is a prompt that ends where the answer begins. The model never "
            f"writes: every candidate answer is scored whole, up to "
            f"{recall.parameters['max_candidates']} a fact.",
            prompts=_prompts(recall),
            recall_svg=draw.recall(recall).svg,
            relation_heads=[*heads, "chance", "exact greedy", "first token"],
            relation_rows=[
                _relation_cells(row)
                for row in (*recall.overall.rows(), *recall.relations.rows())
            ],
            notes=recall.notes,
            lens_svg=lens_svg,
            lens_caption=lens_caption,
            survival_rows=survival_rows,
            survival_note=survival_note,
            taxonomy_svg=kb.taxonomy.draw().svg,
            evidence=_evidence(kb),
            provenance=_provenance(recall, str(recall.run)),
            command=recall.provenance.get("command") or "km demo",
        )
    )


def write_report(
    kb: KnowledgeBase, path: str | os.PathLike[str], *, run: int | None = None
) -> None:
    """Write :func:`render_report` to a file; the old file stays until the new one is whole."""
    where = Path(path)
    scratch = where.with_name(where.name + ".part")
    scratch.write_text(render_report(kb, run), encoding="utf-8")
    os.replace(scratch, where)


def baseline_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Relations against their baselines as plain text; a star marks those above all of them."""
    lines = [
        f"{'relation':<30} {'n':>4} {'recall':>6} {'95 % interval':>14} {'common.':>8} "
        f"{'no subj.':>8} {'shuffled':>8} {'random':>7}"
    ]
    for row in rows:
        interval = "–" if row["low"] is None else f"{row['low']:.2f}–{row['high']:.2f}"
        mark = "*" if clears_baselines(row) else " "
        lines.append(
            f"{row['relation'][:29]:<29}{mark} {row['n']:>4} {share(row['recall']):>6} "
            f"{interval:>14} {share(row['commonest']):>8} {share(row['subject_removed']):>8} "
            f"{share(row['shuffled']):>8} {share(row['random_init']):>7}"
        )
    return "\n".join([*lines, "* the lower end of the interval lies above every baseline"])
