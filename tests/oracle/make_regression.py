"""Write tests/golden_data/regression.json: statsmodels' fits of small data with crossed groupings.

Usage: python tests/oracle/make_regression.py (needs numpy, scipy, pandas, statsmodels)
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels
import statsmodels.formula.api as smf

OUT = Path(__file__).resolve().parents[1] / "golden_data" / "regression.json"


def data(seed: int, spread: tuple[float, float, float]) -> pd.DataFrame:
    """Texts of eight keywords crossed with five probes a theme, with spread of each."""
    rng = np.random.default_rng(seed)
    rows = []
    probes = rng.normal(size=10) * spread[1]
    for keyword in range(8):
        own = rng.normal() * spread[0]
        before = rng.normal(-10, 2) + rng.normal(size=10)
        for text in range(4):
            x = round(rng.uniform(-15, -1), 3)
            shift = rng.normal() * spread[2]
            for probe in range(5):
                probe_id = probe + 5 * (keyword % 2)
                b = round(float(before[probe_id]), 3)
                y = -2 - 0.15 * x + 0.8 * b + own + probes[probe_id] + shift + rng.normal() * 0.5
                rows.append((keyword, 4 * keyword + text, probe_id, x, b, round(float(y), 4)))
    return pd.DataFrame(rows, columns=["keyword", "text", "probe", "x", "b", "y"])


def mixed(frame: pd.DataFrame) -> dict[str, Any]:
    """REML with three random intercepts; the whole frame is one group of MixedLM."""
    frame = frame.assign(all=1)
    model = smf.mixedlm(
        "y ~ x + b",
        frame,
        groups="all",
        vc_formula={name: f"0 + C({name})" for name in ("keyword", "probe", "text")},
    )
    best = min(
        (model.fit(reml=True, method=method, maxiter=2000) for method in ("lbfgs", "powell")),
        key=lambda fit: -fit.llf,
    )
    return {
        "coefficients": best.fe_params.tolist(),
        "se": best.bse_fe.tolist(),
        "variances": dict(zip(model.exog_vc.names, best.vcomp.tolist(), strict=True)),
        "residual": float(best.scale),
    }


def within(frame: pd.DataFrame) -> float:
    """Slope of text means on x with an intercept for each keyword."""
    means = frame.groupby(["keyword", "text"], as_index=False)[["x", "y"]].mean()
    return float(smf.ols("y ~ x + C(keyword)", means).fit().params["x"])


def main() -> None:
    """Fit and write."""
    cases = []
    for seed, spread in [(1, (1.0, 0.6, 0.3)), (2, (0.3, 0.0, 0.5)), (3, (2.0, 1.0, 0.0))]:
        frame = data(seed, spread)
        columns = {name: frame[name].tolist() for name in frame.columns}
        cases.append({"data": columns, "mixed": mixed(frame), "within_slope": within(frame)})
    out = {
        "made_by": "tests/oracle/make_regression.py",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "statsmodels": statsmodels.__version__,
        },
        "cases": cases,
    }
    OUT.write_text(json.dumps(out, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases -> {OUT.name}")


if __name__ == "__main__":
    main()
