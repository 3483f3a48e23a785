"""km.compare and km.power: pairing, what is left out, detectable differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import km
from km import comparison as module
from km import stats
from km.errors import ArgumentError
from km.result import Result, make_provenance
from km.table import Table

COLUMNS = [("relation", "text"), ("subject", "text"), ("exact", "bool"), ("score", "double")]


def facts(p: float, seed: int, n_relations: int = 8, n_subjects: int = 30) -> Table:
    """Facts that are exact with probability p; the same subjects for every seed."""
    rng = np.random.default_rng(seed)
    rows = []
    for r in range(n_relations):
        for s in range(n_subjects):
            hit = bool(rng.random() < p)
            score = hit + rng.normal()
            rows.append({"relation": f"r{r}", "subject": f"s{s}", "exact": hit, "score": score})
    return Table.from_rows(COLUMNS, rows)


def result(table: Table, name: str) -> Result:
    """A result as a measure returns it, with a model in its provenance."""
    provenance: dict[str, Any] = make_provenance("test", 1, None, {})
    provenance["model"] = {"name": name, "precision": "F32"}
    return Result(table, provenance)


def test_difference_and_order() -> None:
    a, b = facts(0.8, 1), facts(0.3, 2)
    found = module.compare(result(a, "big"), result(b, "small"))
    x, y = (np.array(t["exact"], dtype=float) for t in (a, b))
    assert found.outcome == "exact"
    assert found.difference.estimate == pytest.approx((x - y).mean())
    assert found.difference.method == "CR2 t"
    assert found.difference.low > 0.3
    assert found.test.exact and found.test.p == pytest.approx(2 / 2**8)
    assert found.mcnemar == stats.mcnemar(int((x > y).sum()), int((x < y).sum()))
    lines = repr(found).splitlines()
    assert lines[0] == "<Comparison of big (F32) and small (F32)>"
    assert lines[1].startswith("Smallest detectable difference: 0.")
    assert found.table["quantity"][0] == "smallest detectable difference"
    assert "Smallest detectable" in found._repr_html_()
    assert found.provenance["a"]["model"]["name"] == "big"


def test_detectable_is_detected_with_the_stated_power() -> None:
    rng = np.random.default_rng(5)
    shown, detectable = 0, []
    names = [(f"r{r}", f"s{s}") for r in range(25) for s in range(6)]
    columns = [("relation", "text"), ("subject", "text"), ("score", "double")]
    relations, subjects = zip(*names, strict=True)
    zero = Table(columns, [relations, subjects, [0.0] * len(names)])
    for _ in range(300):
        effect = np.repeat(rng.normal(size=25), 6)
        noise = effect + rng.normal(size=len(names)) + 0.6364
        other = Table(columns, [relations, subjects, noise.tolist()])
        found = module.compare(other, zero, outcome="score", draws=100, replicates=100)
        assert found.detectable is not None
        detectable.append(found.detectable)
        shown += found.difference.low > 0
    # The true standard error is sqrt((1 + 1/6) / 25) = 0.216; 0.6364 is what 24 df detect.
    assert np.mean(detectable) == pytest.approx(0.6364, rel=0.03)
    assert 0.72 < shown / 300 < 0.88


def test_left_out_items_are_counted() -> None:
    rows = list(facts(0.5, 1).rows())
    missing = Table.from_rows(COLUMNS, rows[10:])
    rows[40]["exact"] = None
    found = module.compare(Table.from_rows(COLUMNS, rows), missing, outcome="exact")
    assert found.left_out == {"only in a": 10, "only in b": 0, "null": 1}
    assert found.difference.n == len(rows) - 11
    assert "Items left out: 10 only in a, 1 null." in repr(found)
    assert "not evidence" in repr(found)


def test_same_result_twice() -> None:
    table = facts(0.5, 1)
    found = module.compare(table, table)
    assert found.difference.estimate == 0
    assert found.difference.low < 0 < found.difference.high
    assert found.detectable is None
    assert found.test.p == 1
    assert found.mcnemar is not None and found.mcnemar.p == 1


def test_facts_of_one_id_about_two_subjects_are_no_pairs() -> None:
    columns = [("relation", "text"), ("fact", "text"), ("subject", "text"), ("exact", "bool")]
    cells = [["r"] * 3, ["0", "1", "2"]]
    a = Table(columns, [*cells, ["x", "y", "z"], [True, False, True]])
    b = Table(columns, [*cells, ["x", "v", "w"], [True, True, False]])
    with pytest.raises(km.ArgumentError, match="'1' is about 'y' in one result and 'v'"):
        km.compare(a, b)


def test_text_outcome() -> None:
    columns = [("relation", "text"), ("subject", "text"), ("state", "text")]
    places = [["r1"] * 4 + ["r2"] * 4, list("abcdefgh")]
    a = Table(columns, [*places, ["robust"] * 6 + ["not shown"] * 2])
    b = Table(columns, [*places, ["robust"] * 2 + ["not shown"] * 6])
    found = module.compare(a, b)
    assert found.outcome == "state"
    assert found.difference.estimate == pytest.approx(0.5)


def test_recall_is_the_share_of_templates() -> None:
    columns = [("relation", "text"), ("fact", "text"), ("subject", "text")]
    columns += [("n_correct", "int64"), ("n_templates", "int64")]
    ids = [["r1"] * 3 + ["r2"] * 3, list("abcdef"), ["same"] * 6]
    a = Table(columns, [*ids, [5, 4, 3, 2, 1, None], [5] * 6])
    b = Table(columns, [*ids, [0, 0, 0, 0, 1, 1], [5] * 6])
    found = module.compare(a, b)
    assert found.outcome == "recall"
    assert found.difference.estimate == pytest.approx((5 + 4 + 3 + 2 + 0) / 25)
    assert found.left_out["null"] == 1


def test_unpaired() -> None:
    a, b = facts(0.9, 1), facts(0.2, 2, n_relations=6)
    found = module.compare(a, b, paired=False)
    assert found.mcnemar is None
    assert found.difference.method == "CR2 Welch t"
    assert found.difference.n == len(a) + len(b)
    assert found.difference.low > 0.5
    assert found.test.exact
    assert found.test.p < 0.01


def test_one_relation() -> None:
    found = module.compare(facts(0.9, 1, n_relations=1), facts(0.2, 2, n_relations=1))
    assert found.difference.n_clusters == 30
    assert found.test.n == 30


def test_refusals() -> None:
    a = facts(0.5, 1)
    with pytest.raises(ArgumentError, match="no column 'rank'"):
        module.compare(a, a, outcome="rank")
    bare = Table([("subject", "text"), ("exact", "bool")], [["x", "y"], [True, False]])
    with pytest.raises(ArgumentError, match="'relation'"):
        module.compare(bare, bare)
    with pytest.raises(ArgumentError, match="occurs twice"):
        module.compare(Table.concat([a, a]), a)
    rows = [{**row, "subject": f"other {row['subject']}"} for row in a.rows()]
    other = Table.from_rows(COLUMNS, rows)
    with pytest.raises(ArgumentError, match="only 0 facts"):
        module.compare(a, other)
    with pytest.raises(ArgumentError, match="alpha"):
        module.compare(a, facts(0.4, 2), alpha=1.5)


def test_public_names() -> None:
    assert km.compare is module.compare
    assert km.power is module.power
    assert km.stats is stats


def test_power() -> None:
    plan = module.power(300, discordance=0.1)
    assert plan.difference == pytest.approx(0.051, abs=0.001)
    assert module.power(difference=plan.difference, discordance=0.1).n == 300
    assert module.power(60, discordance=0.1).difference is None
    assert "show no difference" in str(module.power(60, discordance=0.1))
    assert module.power(difference=0.05, discordance=0.1, design_effect=3).n > 900
    groups = module.power(difference=0.1, baseline=0.3)
    assert not groups.paired
    assert module.power(groups.n, baseline=0.3).difference == pytest.approx(0.1, rel=0.01)
    with pytest.raises(ArgumentError, match="n or difference"):
        module.power(discordance=0.1)
    with pytest.raises(ArgumentError, match="discordance or baseline"):
        module.power(100)
    assert math.isfinite(module.power(50, baseline=0.5).difference or math.nan)
