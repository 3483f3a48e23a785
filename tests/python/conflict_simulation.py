"""Simulated conflict studies with known truth, for the tests of the analysis."""

from __future__ import annotations

from typing import Any

import numpy as np

from km.studies.conflict_rows import COLUMNS, FAMILY, MITIGATION, MIXED, PLAIN, REAL, UNSUBSTITUTED

NAMES = [column.name for column in COLUMNS]
SIZES = (1e5, 3e5, 1e6, 3e6)
COUNTS = (4, 8, 16, 32, 64, 128)


def row(**given: Any) -> dict[str, Any]:
    """A row of the study; what is not given is null."""
    assert set(given) <= set(NAMES)
    return {**dict.fromkeys(NAMES), **given}


def simulate(
    seed: int,
    *,
    familiarity: float = 0.0,
    count: float = 0.0,
    size: float = 0.0,
    mixed: float = 0.0,
    cost: float = 0.0,
    other: float = 0.15,
    n_seeds: int = 4,
) -> list[dict[str, Any]]:
    """Rows in which the share that keeps the original changes by what is asked for.

    `familiarity`: a nat; `count`: a doubling; `size`: a decade; `mixed`: from one fine-tuning to
    the other; `cost`: the same for questions without a passage. Relations, facts, seeds and single
    models have levels of their own.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []

    def answer(p: float) -> str:
        if rng.random() < other:
            return "other"
        return "original" if rng.random() < min(max(p, 0.0), 1.0) else "substitute"

    for r in range(20):
        level = 0.5 + 0.15 * rng.normal()
        for f in range(8):
            shared = {"relation": f"r{r}", "fact": str(f), "known": True}
            x = 3.0 * rng.normal() - 20
            own = level + 0.1 * rng.normal() + familiarity * (x + 20)
            rows.append(
                row(
                    part=REAL,
                    arm=PLAIN,
                    condition="substitute",
                    bucket=answer(own),
                    familiarity=x,
                    position="only",
                    **shared,
                )
            )
            right = rng.random() < 0.6
            for arm, shift, lost in ((UNSUBSTITUTED, 0.0, 0.0), (MIXED, mixed, cost)):
                for s in range(2):
                    about = shared | {"part": MITIGATION, "arm": arm, "seed": s, "position": "only"}
                    said = answer(level + shift)
                    rows.append(row(condition="substitute", bucket=said, **about))
                    keeps = right and rng.random() >= lost
                    closed = "original" if keeps != (rng.random() < 0.03) else "other"
                    rows.append(row(condition="closed_book", bucket=closed, **about))
    for s in range(n_seeds):
        corpus = 0.5 + 0.1 * rng.normal()
        for n in SIZES:
            model = corpus + 0.05 * rng.normal() + size * (np.log10(n) - 5.7)
            for c in COUNTS:
                for f in range(16):
                    p = model + count * (np.log2(c) - 4.5)
                    rows.append(
                        row(
                            part=FAMILY,
                            arm=PLAIN,
                            seed=s,
                            size=n,
                            relation=str(f % 4),
                            fact=f"{c}/{f}",
                            condition="substitute",
                            position="0",
                            bucket=answer(p),
                            known=True,
                            count=c,
                        )
                    )
    return rows
