"""The code on the documentation's pages runs as it stands there, block after block.

A block that is not run says why in the comment `<!-- not run: ... -->` above it. README.md and
docs/trace.md are run by test_readme.py and test_trace.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:<!-- not run: ([^>]+) -->\n+)?```python\n(.*?)```", re.DOTALL)
ELSEWHERE = {"docs/trace.md"}
TEXTS = ["The cat sat on the mat.", "Rivers run to the sea.", "Snow fell all night long."] * 3

Names = dict[str, Any]


def pages() -> list[str]:
    """Pages of docs/ that hold code, those that other tests run apart."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if "```python" in path.read_text(encoding="utf-8")
    }
    return sorted(found - ELSEWHERE)


@pytest.fixture(scope="module")
def tiny(model: km.Model) -> km.Model:
    """Random weights behind the embedded model's tokenizer."""
    sizes = {"n_layers": 6, "d_model": 24, "n_heads": 3, "n_kv_heads": 3, "context_length": 512}
    return km.Model.new(sizes, model, seed=1)


def files(tiny: km.Model) -> Names:
    rows, columns = tiny.weight("blk.5.ffn_down.weight").shape
    return {"model": tiny, "direction": np.ones((rows, columns), np.float32)}


def knowledge_base(tiny: km.Model) -> Names:
    facts = km.datasets.facts("country_capital_city").select(per_relation=4)
    with km.KnowledgeBase("colleague.db") as kb:
        km.memorization(tiny, facts, templates=1, baselines=False, kb=kb)
    return {"recall": km.memorization(tiny, facts, templates=0, baselines=False)}


def training(tiny: km.Model) -> Names:
    return {
        "model": tiny,
        "texts": [*TEXTS, *km.datasets.control_texts()[:6]],
        "loss_of": lambda model: -model.logprobs(model.encode(TEXTS[0])).mean(),
        "kb": km.KnowledgeBase("study.db"),
    }


def diff(tiny: km.Model) -> Names:
    weight = tiny.weight("blk.0.ffn_down.weight")
    return {
        "model": tiny,
        "edited": tiny.edit({"blk.0.ffn_down.weight": weight * 1.5}),
        "texts": TEXTS,
        "neutral_texts": TEXTS,
        "facts": km.datasets.facts("country_currency").select(per_relation=4),
        "kb": km.KnowledgeBase("study.db"),
    }


# What a page takes as given. Pages named here run on the tiny model, also where they load one.
GIVEN: dict[str, Callable[[km.Model], Names]] = {
    "docs/files.md": files,
    "docs/knowledge-base.md": knowledge_base,
    "docs/ledger.md": lambda tiny: {"model": tiny},
    "docs/training.md": training,
    "docs/measures/conflict.md": lambda tiny: {},
    "docs/measures/diff.md": diff,
}


@pytest.mark.parametrize("page", pages())
def test_code_runs(
    page: str,
    model: km.Model,
    tiny: km.Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names: Names = {"km": km}
    if page in GIVEN:
        monkeypatch.setattr(km, "load", lambda *_: tiny)
        names |= GIVEN[page](tiny)
    text = (ROOT / page).read_text(encoding="utf-8")
    for reason, block in BLOCK.findall(text):
        if not reason:
            exec(compile(block, page, "exec"), names)
    if isinstance(names.get("kb"), km.KnowledgeBase):
        names["kb"].close()


def test_blocks_are_found() -> None:
    """The pattern misses no block, and few blocks are left out."""
    left_out = []
    for page in pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = BLOCK.findall(text)
        assert len(blocks) == text.count("```python"), page
        left_out += [page for reason, _ in blocks if reason]
    assert left_out == ["docs/dialog.md"]
    assert set(GIVEN) <= set(pages())
