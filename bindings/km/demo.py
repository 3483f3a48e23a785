"""The demonstration: the embedded model's recall of shipped facts, stored, drawn and reported."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km import datasets
from km.kb import KnowledgeBase
from km.loading import load
from km.recall import Recall, memorization
from km.report import baseline_table, draw_taxonomy, require_renderer, write_report

if TYPE_CHECKING:
    from km.lens import LensResult
    from km.model import Model

RELATIONS = (
    "city_in_country",
    "company_hq",
    "country_capital_city",
    "country_currency",
    "country_language",
    "country_largest_city",
    "food_from_country",
    "landmark_in_country",
    "landmark_on_continent",
    "person_mother",
    "person_native_language",
    "person_occupation",
    "person_plays_instrument",
    "person_plays_pro_sport",
    "product_by_company",
    "object_superclass",
    "task_done_by_tool",
    "work_location",
    "adj_antonym",
    "verb_past_tense",
)
PER_RELATION = 16
SEED = 0
QUESTIONS = (
    "What was measured here about capital cities?",
    "What is knowledge overshadowing?",
    "Does it grow with model size?",
    "Which wine goes with salmon?",
)


def _followed(recall: Recall) -> list[dict[str, Any]]:
    """Up to three rows to follow: the widest and the narrowest lead, and the fact missed the most.

    Facts whose first token is shared or blank are left out: the lens follows first tokens.
    """
    rows = [
        row
        for row in recall.table.rows()
        if row["correct"] is not None
        and not row["first_token_collision"]
        and not row["lone_blank_first_token"]
    ]
    right = sorted((row for row in rows if row["correct"]), key=lambda row: row["margin"])
    wrong = sorted((row for row in rows if not row["correct"]), key=lambda row: row["margin"])
    return [*right[-1:], *right[:-1][:1], *wrong[:1]]


def _follow(model: Model, recall: Recall, kb: KnowledgeBase) -> list[LensResult]:
    followed = []
    for row in reversed(_followed(recall)):
        lens = model.lens(row["prompt"], " " + row["answer"])
        kb.record(lens)
        followed.append(lens)
    return followed[::-1]


def _talk(model: Model, kb: KnowledgeBase) -> None:
    """Ask the knowledge base a few questions, once."""
    from km.dialog.conversation import CONVERSATION_ID, chat

    sql = "SELECT count(*) AS n FROM runs WHERE measure = ? AND status = 'done'"
    if kb.sql(sql, [CONVERSATION_ID])["n"] == [0]:
        with chat(kb, model=model) as talk:
            for question in QUESTIONS:
                talk.ask(question)


def _draw(recall: Recall, lens: LensResult, kb: KnowledgeBase, out: Path) -> None:
    recall.draw().save(out / "recall.svg")
    lens.draw().save(out / "lens.svg")
    draw_taxonomy(kb.taxonomy, recall).save(out / "taxonomy.svg")


def _program() -> str:
    """How this user calls km: by its name where the shell finds it, else by its path."""
    called = Path(sys.argv[0])
    return "km" if called.name != "km" or shutil.which("km") else shlex.quote(str(called))


def next_commands(folder: Path) -> list[str]:
    """Three commands that go on from the demonstration in `folder`."""
    base, picture = (shlex.quote(str(folder / name)) for name in ("study.db", "tokyo.svg"))
    return [
        f"km kb ask contradicted-hypotheses --kb {base}",
        f"km measure memorization --facts country_capital_city --kb {base}",
        "km draw lens --prompt 'The capital of Japan is the city of' --answer ' Tokyo' "
        f"--out {picture}",
    ]


def run_demo(
    out: str | os.PathLike[str] = "demo",
    *,
    threads: int | None = None,
    relations: Sequence[str] = RELATIONS,
    per_relation: int = PER_RELATION,
) -> Recall:
    """Measure, record, draw and report into a folder.

    Parameters
    ----------
    out : path
        Gets study.db, taxonomy.svg, recall.svg, lens.svg and report.html. What study.db holds
        already is not measured again.
    threads : int, optional
    relations : sequence of str
        Shipped relations to ask about.
    per_relation : int
        Facts of each relation, the first ones.

    Returns
    -------
    Recall
    """
    require_renderer()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    print("km: loading SmolLM2-135M-Instruct", flush=True)
    model = load("smollm2", threads=threads)
    facts = datasets.facts(relations).select(per_relation=per_relation)
    print(
        f"km: asking {len(facts)} facts of {len(facts.relations)} relations, and the same of "
        "random weights",
        flush=True,
    )
    with KnowledgeBase(folder / "study.db") as kb:
        recall = memorization(model, facts, templates=0, seed=SEED, kb=kb)
        lenses = _follow(model, recall, kb)
        print(f"km: followed {len(lenses)} facts through the layers", flush=True)
        _talk(model, kb)
        print(f"km: asked the knowledge base {len(QUESTIONS)} questions (km dialog)", flush=True)
        print(f"km: drawing and writing the report into {folder}", flush=True)
        _draw(recall, lenses[0], kb, folder)
        write_report(kb, folder / "report.html")
    print()
    print(baseline_table([*recall.relations.rows(), *recall.overall.rows()]))
    print(f"\nDone in {time.perf_counter() - begin:.0f} s. Open {folder / 'report.html'}. Next:")
    for command in next_commands(folder):
        print(f"  {_program()}{command.removeprefix('km')}")
    return recall
