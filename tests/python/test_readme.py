"""The README's lines of Python run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import km

README = Path(__file__).parents[2] / "README.md"


def test_ten_lines(
    model: km.Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 1
    assert len([line for line in blocks[0].splitlines() if line.strip()]) == 10
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks[0], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "country_capital_city" in printed and "Paris" in printed
    assert {path.name for path in tmp_path.iterdir()} >= {"study.db", "recall.svg", "taxonomy.svg"}
    with km.KnowledgeBase("study.db", read_only=True) as kb:
        assert kb.sql("SELECT status FROM runs")["status"] == ["done"]
