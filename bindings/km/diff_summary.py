"""A diff in a few lines that a person reads in ten seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from km import diff_facts, diff_shares
from km.diff_shares import ALL, UNRELATED

if TYPE_CHECKING:
    from km.diff_models import Diff


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _points(row: Mapping[str, Any], value: str, low: str, high: str) -> str:
    if row[low] is None:
        return f"{100 * row[value]:+.1f} points"
    return f"{100 * row[value]:+.1f} points [{100 * row[low]:+.1f}, {100 * row[high]:+.1f}]"


def side_name(side: Mapping[str, Any]) -> str:
    """A side of a diff as a line of text has it."""
    return f"{side['name']} ({side['precision']})" if side.get("name") else "a recorded recall"


def summarise(diff: Diff) -> list[str]:
    """The lines: who, recall, facts by verdict, the floor, the largest changes, what to beware."""
    parameters = diff.parameters
    whole = diff.relations.row(0)
    names = (side_name(parameters["before"]), side_name(parameters["after"]))
    relations = len(diff.relations) - 1
    lines = [
        f"{names[0]} → {names[1]}: {whole['n']} facts of {relations} relation"
        f"{'s' if relations != 1 else ''}, {whole['n_rows']} prompts"
    ]
    if whole["change"] is not None:
        detectable = whole["detectable"]
        shown = "" if detectable is None else f" (smallest detectable: {100 * detectable:.1f})"
        lines.append(
            f"recall {_percent(whole['recall_before'])} → {_percent(whole['recall_after'])}: "
            f"{_points(whole, 'change', 'low', 'high')}{shown}"
        )
    lines += _counts(diff)
    lines.append(f"Floor: {'; '.join(map(_floor, diff.floors.rows()))}.")
    for row in list(diff.changes.rows())[:5]:
        lines.append(f"  {_change_line(row)}")
    if len(diff.changes) > 5:
        lines.append(f"  … and {len(diff.changes) - 5} more")
    if not diff.alarm:
        lines.append("No fact changed by more than the floor.")
    return [*lines, *diff.notes]


def _counts(diff: Diff) -> list[str]:
    """Facts by verdict, those that were to change apart; beside them the shares of the others."""
    groups: dict[str, Any] = {"facts": None}
    if diff.targeted:
        groups = {"targets": True, "unrelated": False}
    of = "" if not diff.targeted else " of unrelated facts"
    spread = f"{100 * diff.parameters['confidence']:g} %"
    head = "".join(f"{name:>11}" for name in groups)
    lines = [f"{'':<12}{head}   net share{of} above the floor [{spread}]"]
    rows = list(diff.facts.rows())
    for verdict in diff_facts.VERDICTS:
        counts = [
            sum(row["verdict"] == verdict and row["target"] is wanted for row in rows)
            for wanted in groups.values()
        ]
        shown = "".join(f"{count:>11}" for count in counts)
        lines.append(f"  {verdict:<10}{shown}   {_beside(diff, verdict)}".rstrip())
    return lines


def _beside(diff: Diff, verdict: str) -> str:
    """The net share with its interval, or what the verdict means."""
    if verdict == diff_facts.UNRESOLVED:
        return "flips that do not exceed the floor"
    if verdict not in diff_shares.OUTCOMES:
        return ""
    row = diff.share(verdict, UNRELATED if diff.targeted else ALL)
    if row["net"] is None:
        return "–"
    if row["net"] == 0 and str(row["interval"]).startswith("wilson"):
        bound = f"{100 * row['high']:.1f} %"
        return f"no prompt differs; {row['n_clusters']} clusters bound it at {bound}"
    spread = "" if row["low"] is None else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{100 * row['net']:.1f} %{spread} of what was {row['of']}"


def _floor(row: Mapping[str, Any]) -> str:
    if row["name"] == "paraphrases":
        return f"paraphrases (miss {_percent(row['share'])} of what the others hold)"
    if row["name"] == "least":
        return f"{row['detail']} ({row['logp']:.2f} nats)"
    return f"{row['name']} {row['detail']} (moves facts by up to {row['logp']:.2g})"


def _change_line(row: Mapping[str, Any]) -> str:
    spread = f"[{row['change_low']:+.1f}, {row['change_high']:+.1f}]"
    return (
        f"{row['verdict']}: {row['subject']} ({row['relation']}): "
        f"{row['leading_before']!r} {row['p_leading_before']:.2g} → "
        f"{row['leading_after']!r} {row['p_leading_after']:.2g}; "
        f"log p of {row['answer']!r} {row['change']:+.1f} {spread}"
    )
