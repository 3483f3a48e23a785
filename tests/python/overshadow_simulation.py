"""Simulated counts of an overshadowing study, with the rows that trainings give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from km.result import make_provenance
from km.studies import OvershadowingDesign, OvershadowingStudy
from km.studies.overshadow_design import STUDY_ID, STUDY_VERSION, Training, trainings
from km.studies.overshadow_forecast import make_forecast
from km.studies.overshadow_train import COLUMNS
from km.table import Table

# Parameters of the default sizes.
SIZES = (104_688.0, 430_752.0, 1_435_040.0, 4_279_040.0, 10_491_200.0)
LOSS = {"at the end": 0.5, "on the way": 0.89}

Truth = Callable[[float, float, float], float]


def simulate(
    truth: Truth,
    seed: int,
    *,
    design: OvershadowingDesign | None = None,
    spread: float = 0.05,
    recall: float = 0.97,
    seeds: int = 3,
) -> OvershadowingStudy:
    """A study whose cells have R = truth(P, L, S) plus normal noise, at the end and on the way."""
    chosen = OvershadowingDesign() if design is None else design
    generator = np.random.Generator(np.random.PCG64(seed))
    tables = {
        own: _rows(chosen, own, truth, generator, spread, recall)
        for own in trainings(chosen, seeds, seed)
    }
    fitted = [list(t.rows()) for own, t in tables.items() if own.part == "fit"]
    forecast = make_forecast(fitted, chosen, SIZES, True)
    parameters = {
        "design": chosen.describe(), "seeds": seeds, "seed": seed, "confidence": 0.95,
        "forecast": "", "chunks": [],
    }  # fmt: skip
    provenance = make_provenance(STUDY_ID, STUDY_VERSION, None, parameters, seed)
    chunks = [(own.key(chosen), table) for own, table in tables.items()]
    return OvershadowingStudy(chunks, provenance, forecast)


def _rows(
    design: OvershadowingDesign,
    own: Training,
    truth: Truth,
    generator: np.random.Generator,
    spread: float,
    recall: float,
) -> Table:
    place = {"P": float(own.setting.P), "L": design.prompt / own.setting.d}
    place["S"] = SIZES[own.setting.size]
    n_b = design.groups * design.lines // (1 + own.setting.P)
    n_a = design.groups * design.lines - n_b
    rows = []
    for step, (name, loss) in enumerate(sorted(LOSS.items(), key=lambda item: -item[1])):
        mean = truth(place["P"], place["L"], place["S"]) + generator.normal(0, spread)
        ratio = min(max(mean, 0.0), 1.0)
        row: dict[str, Any] = dict(place)
        row |= {
            "part": own.part,
            "families": "".join(own.setting.families),
            "replicate": own.replicate,
            "seed": own.seed,
            "step": step,
            "tokens": step,
            "loss": loss,
            "moment": "end" if name == "at the end" else "rung",
            **_counts(generator, n_a, n_b, recall, ratio),
        }
        rows.append(row)
    return Table.from_rows(COLUMNS, rows)


def _counts(
    generator: np.random.Generator, n_a: int, n_b: int, recall: float, ratio: float
) -> Mapping[str, Any]:
    k_a, k_b = int(generator.binomial(n_a, recall)), int(generator.binomial(n_b, recall * ratio))
    return {
        "n_a": n_a,
        "n_a_correct": k_a,
        "n_b": n_b,
        "n_b_hallucinated": k_b,
        "n_b_right": n_b - k_b,
        "RR_probability": k_a / n_a,
        "HR_probability": k_b / n_b,
        "n_shared": 0,
        "n_shared_popular": 0,
    }


def log_linear(P: float, L: float, S: float) -> float:
    """A law with a rise of 0.4 over each factor's fitted values."""
    return (
        0.5
        + 0.4 / math.log(59 / 2) * math.log(P / 9)
        + 0.4 / math.log(8) * math.log(L / 4)
        + 0.4 / math.log(41) * math.log(S / 1.435e6)
    )


def constant(P: float, L: float, S: float) -> float:
    """No factor matters."""
    return 0.6
