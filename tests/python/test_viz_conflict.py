"""The picture of a conflict: shares as wide as they are, ratios where they belong, n and model."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from test_viz import HOSTILE, SVG, groups, parse

import km


def row(group: str, value: str, n: int, shares: tuple[float, float, float], **more: Any) -> Any:
    names = ("p_original", "p_substitute", "p_other")
    kept = shares[0] + shares[1]
    ratio = shares[0] / kept if kept else None
    made = {"group": group, "value": value, "condition": "substitute", "n": n, "ratio": ratio}
    ends = {"low": None, "high": None, "random_original": None, "n_excluded": 0}
    return made | ends | dict(zip(names, shares, strict=True)) | more


RANDOM = {"random_original": 0.05, "random_substitute": 0.15, "random_other": 0.8}
ROWS = [
    row("all", "all", 120, (0.3, 0.5, 0.2), low=0.25, high=0.5, n_excluded=7, **RANDOM),
    row("relation", "capital <b>", 100, (0.2, 0.6, 0.2), low=0.1, high=0.4),
    row("relation", HOSTILE[0], 20, (0.0, 0.0, 1.0)),
    row("all", "all", 60, (0.5, 0.25, 0.25), condition="original_then_substitute"),
]


def words(root: ET.Element) -> list[str]:
    return [(text.text or "").replace("\u00a0", " ") for text in root.iter(f"{SVG}text")]


def bars(root: ET.Element, colour: str) -> list[tuple[float, float]]:
    """Left and right ends of the boxes of a colour within the picture, in its order."""
    found = []
    for group in groups(root, "node"):
        for shape in group.findall(f"{SVG}polygon"):
            if shape.get("fill") == colour:
                xs = [float(p.split(",")[0]) for p in shape.attrib["points"].split()]
                found.append((min(xs), max(xs)))
    return found


def test_shares_are_as_wide_as_they_are() -> None:
    root = parse(km.draw.conflict(ROWS, model="M", theme="light").svg)
    texts = root.iter(f"{SVG}text")
    scale = {t.text: float(t.attrib["x"]) for t in texts if t.text in ("0.0", "1.0")}
    left, unit = scale["0.0"], scale["1.0"] - scale["0.0"]
    blue = [((a - left) / unit, (b - left) / unit) for a, b in bars(root, "#0072b2")]
    wanted = [(0.0, 0.3), (0.0, 0.05), (0.0, 0.2), (0.0, 0.5)]
    assert blue == [pytest.approx(ends, abs=2e-3) for ends in wanted]
    orange = [((a - left) / unit, (b - left) / unit) for a, b in bars(root, "#e69f00")]
    wanted = [(0.3, 0.8), (0.05, 0.2), (0.2, 0.8), (0.5, 0.75)]
    assert orange == [pytest.approx(ends, abs=2e-3) for ends in wanted]


def test_the_picture_says_what_it_shows() -> None:
    root = parse(km.draw.conflict(ROWS, model="M").svg)
    assert root[0].text == "Memory against context, M, n = 120 examples"
    said = words(root)
    text = " ".join(said)
    assert "7 that it does not know are left out" in text and "0.20 of answers are neither" in text
    assert {"0.37 [0.25, 0.50]", "capital <b>", "random weights", HOSTILE[0]} <= set(said)
    assert "all: original then substitute" in said
    assert "random weights: as remembered 0.05" in (root[1].text or "")
    hovers = [title.text for title in root.iter(f"{SVG}title")]
    assert any("n = 20" in (t or "") and "memorization ratio –" in (t or "") for t in hovers)


def test_the_largest_groups_are_kept_and_the_rest_is_counted() -> None:
    many = [ROWS[0], *(row("relation", f"r{i}", 1 + i, (0.5, 0.5, 0.0)) for i in range(100))]
    said = words(parse(km.draw.conflict(many).svg))
    assert "Drawn: the 60 of 101 groups with most examples." in " ".join(said)
    assert "all" in said and "r99" in said and "r41" in said and "r40" not in said


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ratio is missing"):
        km.draw.conflict([{k: v for k, v in ROWS[0].items() if k != "ratio"}])
    with pytest.raises(ValueError, match="no example"):
        km.draw.conflict([{**ROWS[0], "p_original": None}])
    with (
        km.KnowledgeBase(tmp_path / "empty.db") as kb,
        pytest.raises(km.NotFoundError, match=r"no finished run of conflict\.memorization_ratio"),
    ):
        km.draw.conflict(kb)
