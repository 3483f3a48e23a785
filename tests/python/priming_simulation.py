"""Simulated priming studies with known truth, for the tests of the analysis and the forecast."""

from __future__ import annotations

from typing import Any

import numpy as np

KEYWORDS = [f"k{i:02d}" for i in range(12)]
THEMES = ["colour", "food", "place", "work"]
Columns = dict[str, list[Any]]


def simulate(
    seed: int,
    *,
    priming: float = 0.0,
    slope: float = 0.0,
    step: float = 0.0,
    independent: bool = False,
    n_texts: int = 11,
    n_probes: int = 8,
    controls: tuple[str, ...] = ("text_control",),
    mitigation: float | None = None,
    noise: float = 0.3,
    coupling: float = 0.5,
) -> Columns:
    """Rows of a study of twelve keywords in four themes.

    Learning raises log P_after of the probes by `priming` + `slope` (x - mean x) + `step` where the
    keyword's probability is below 1e-3, with x its log-probability in the text; every training,
    controls too, moves each keyword by an amount of its own. `independent`: P_after has nothing to
    do with P_before.
    """
    rng = np.random.default_rng(seed)
    out: Columns = {name: [] for name in NAMES}
    probe_effect = rng.normal(size=(4, n_probes))
    for i, keyword in enumerate(KEYWORDS):
        theme = i % 4
        level = rng.normal(-10, 2)
        before = level + probe_effect[theme] + rng.normal(size=n_probes) * 0.7
        drift = rng.normal() * 0.3
        specific = rng.normal() * 0.1  # keywords differ in how much they are primed
        for text in range(n_texts):
            x = float(np.clip(coupling * level + rng.normal(-1, 2.5), -18, -0.05))
            raised = priming + slope * (x + 6) + step * (x < np.log(1e-3))
            raised += specific * (priming != 0) + rng.normal() * noise / 2
            base = rng.normal(-9, 2.2, n_probes) if independent else before
            for arm in ("learned", *controls, *(["ignore_topk"] if mitigation is not None else [])):
                own = raised if arm == "learned" else 0.0
                if arm == "ignore_topk":
                    own = raised * (1 - mitigation)
                after = base + drift + own + rng.normal(size=n_probes) * noise
                row = (f"{keyword}-{text}", keyword, THEMES[theme], arm, x)
                for j in range(n_probes):
                    values = (*row, f"{THEMES[theme]}-{j}", THEMES[theme], True)
                    for name, value in zip(NAMES, (*values, before[j], after[j]), strict=True):
                        out[name].append(value)
    return out


NAMES = (
    "text",
    "keyword",
    "theme",
    "arm",
    "logp_keyword_before",
    "probe",
    "probe_theme",
    "same_theme",
    "logp_before",
    "logp_after",
)
