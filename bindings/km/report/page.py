"""The page itself: what goes into the template, the policy that keeps it inert, writing it."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km import _km
from km.errors import NotFoundError
from km.report.atlas import MARKS, atlas
from km.report.grids import Grid, Grids, Head, embed
from km.report.pictures import Pictures
from km.report.runs import RunPage, chosen_runs, run_page, runs_grid, word_class
from km.report.verdicts import read_verdicts

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

MAX_CONCLUSIONS = 12  # of runs, in the overview
WORDS = {
    "consistent": "the whole interval lies on the predicted side",
    "inconsistent": "the whole interval lies on the other side",
    "equivalent to none": "the whole interval is nearer to no effect than is of interest",
    "inconclusive": "neither",
    "not testable here": "too few, or nothing here can test it",
}


def require_renderer() -> Any:
    """The module that renders pages; call it before long work that ends in a report.

    Raises
    ------
    ImportError
        Jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError:
        raise ImportError("reports need Jinja2; install it with: pip install jinja2") from None
    return jinja2


def _environment() -> Any:
    jinja2 = require_renderer()
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["word_class"] = word_class
    made.filters["figure"] = _figure
    return made


def _template(name: str) -> str:
    return resources.files("km").joinpath("templates", "report", name).read_text("utf-8")


def _figure(value: object) -> str:
    """A number with three significant digits, or a dash."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """A Content-Security-Policy that loads nothing and runs these scripts and styles alone."""
    return (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hashes(texts: Iterable[str]) -> str:
    digests = (hashlib.sha256(text.encode("utf-8")).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests)


def render_report(kb: KnowledgeBase, runs: Iterable[int] | None = None) -> str:
    """The page as text.

    Parameters
    ----------
    kb : KnowledgeBase
    runs : iterable of int, optional
        Runs that get a page of their own; None: the newest ones.

    Raises
    ------
    ImportError
        Jinja2 is missing (the extra ``report``).
    NotFoundError
        There is no such finished run.
    """
    made = _environment()
    known = list(kb.runs().rows())
    only = None if runs is None else [int(run) for run in runs]
    chosen = chosen_runs(known, only)
    missing = sorted(set(only or ()) - set(chosen))
    if missing:
        raise NotFoundError(f"{kb.path} has no finished run {missing[0]}")
    grids, pictures = Grids(), Pictures()
    by_run = {row["run"]: row for row in known}
    taxonomy = kb.taxonomy
    verdicts = read_verdicts(kb)
    pages = [run_page(kb, by_run[run], grids, pictures) for run in chosen]
    for page in pages:
        page.verdicts = verdicts.by_run.get(page.run, [])
    styles = _template("report.css") + pictures.sheet()
    first, script = _template("theme.js"), _template("report.js")
    n_done = sum(row["status"] == "done" for row in known)
    return str(
        made.get_template("report.html").render(
            policy=policy([styles], [first, script]),
            styles=styles,
            first=first,
            script=script,
            km_version=_km.version(),
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            title=_title(kb),
            cards=_cards(kb.info()),
            concluding=[page for page in pages if page.conclusion][:MAX_CONCLUSIONS],
            models=_models(kb, grids),
            lineage=_lineage(kb, pictures),
            conflicts=int(kb.info()["conflicts"]),
            runs=runs_grid(kb, known, grids),
            left_out=n_done - len(pages),
            shown_runs=set(chosen),
            pages=pages,
            verdicts=verdicts,
            open=_open_grid(verdicts.open, grids),
            words=WORDS,
            marks=MARKS,
            atlas=embed(atlas(kb, taxonomy, verdicts)),
            static_taxonomy=_static_taxonomy(taxonomy, pictures),
            n_nodes=len(taxonomy.nodes),
            file=kb.info(),
            file_name=Path(kb.path).name,
        )
    )


def _title(kb: KnowledgeBase) -> str:
    names = list(dict.fromkeys(kb.sql("SELECT name FROM models ORDER BY id")["name"]))
    if not names:
        return "A knowledge base without measured models"
    if len(names) == 1:
        return f"What {names[0]} holds and uses"
    whose = " and ".join(names) if len(names) == 2 else f"{len(names)} models"
    return f"What {whose} hold and use"


def _cards(info: Mapping[str, str]) -> list[dict[str, str]]:
    """What the file holds, kinds of which there is nothing left out."""
    labels = {
        "models": ("model", "models"),
        "runs": ("run", "runs"),
        "facts": ("fact asked", "facts asked"),
        "measurements": ("measured row", "measured rows"),
        "evidence": ("statistic on nodes", "statistics on nodes"),
    }
    counts = {name: int(info[name]) for name in labels}
    return [{"label": labels[name][n != 1], "value": f"{n:,}"} for name, n in counts.items() if n]


def _models(kb: KnowledgeBase, grids: Grids) -> Grid:
    names = ("model", "precision", "architecture", "parameters", "fingerprint", "recorded")
    heads = [Head(name, number=name == "parameters") for name in names]
    rows = kb.sql(
        "SELECT name, precision, architecture, n_parameters, substr(fingerprint, 1, 12),"
        " substr(recorded, 1, 10) FROM models ORDER BY id"
    )
    return grids.of_rows("Models", heads, [list(row.values()) for row in rows.rows()])


def _lineage(kb: KnowledgeBase, pictures: Pictures) -> str | None:
    from km import draw

    if not len(kb.sql("SELECT 1 FROM lineage LIMIT 1")):
        return None
    return pictures.take(draw.lineage(kb).svg)


def _static_taxonomy(taxonomy: Any, pictures: Pictures) -> str | None:
    """The picture for readers without scripts."""
    from km import draw

    return pictures.take(draw.taxonomy(taxonomy).svg)


def _open_grid(found: Sequence[tuple[Any, list[str]]], grids: Grids) -> Grid:
    heads = [Head("prediction"), Head("statement"), Head("bears on"), Head("measure"),
             Head("least n", number=True), Head("state")]  # fmt: skip
    rows = [
        [p.id, p.statement, ", ".join(names), p.measure or "–",
         None if p.not_testable else p.minimum_n,
         f"not testable here: {p.not_testable}" if p.not_testable else "not judged"]
        for p, names in found
    ]  # fmt: skip
    return grids.of_rows("Predictions without a verdict", heads, rows)


def write_report(
    kb: KnowledgeBase, path: str | os.PathLike[str], *, runs: Iterable[int] | None = None
) -> None:
    """Write :func:`render_report` to a file; the old file stays until the new one is whole."""
    where = Path(path)
    scratch = where.with_name(where.name + ".part")
    scratch.write_text(render_report(kb, runs), encoding="utf-8")
    os.replace(scratch, where)


__all__ = ["RunPage", "policy", "render_report", "require_renderer", "write_report"]
