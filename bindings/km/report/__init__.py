"""Reports: one self-contained HTML page about a knowledge base, made from it alone.

What the page shows and how it is kept safe is in ``docs/report.md``.
"""

from __future__ import annotations

from km.report.page import render_report, require_renderer, write_report
from km.report.recall import BASELINES, baseline_table, draw_taxonomy, newest_recall, share

__all__ = [
    "BASELINES",
    "baseline_table",
    "draw_taxonomy",
    "newest_recall",
    "render_report",
    "require_renderer",
    "share",
    "write_report",
]
