"""``km kb taxonomy``: change the taxonomy of a knowledge base from the shell."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.table import Table

_KINDS = ("aspect", "mechanism", "phenomenon", "hypothesis", "analysis_method", "open_question")
_RELATIONS = ("proposes", "supports", "contradicts", "measures", "surveys")
_MARKS = ("paper", "seed", "known", "guess")
_Parsers = argparse._SubParsersAction


def add_commands(commands: _Parsers[argparse.ArgumentParser]) -> None:
    """Add ``taxonomy`` with its commands to those of ``km kb``."""
    about = "change the taxonomy: add, work, link, move, import, export, conflicts"
    taxonomy = commands.add_parser("taxonomy", help=about, description=about.capitalize() + ".")
    below = taxonomy.add_subparsers(dest="taxonomy_command", metavar="COMMAND", required=True)

    add = _command(below, "add", "add a node")
    add.add_argument("id", metavar="ID")
    add.add_argument("--parent", metavar="NODE", required=True, help="the node it lies below")
    add.add_argument("--name", required=True)
    add.add_argument("--kind", choices=_KINDS, required=True)
    add.add_argument("--summary", default="")
    add.add_argument("--evidence", choices=_MARKS, default="guess", help="how one knows of it")
    add.set_defaults(handler=run_add)

    work = _command(below, "work", "add a publication")
    work.add_argument("key", metavar="KEY")
    work.add_argument("--title", required=True)
    work.add_argument("--authors", required=True, help='"Last, F." parted by "; "')
    work.add_argument("--year", type=int)
    for name in ("venue", "arxiv", "note"):
        work.add_argument(f"--{name}")
    work.set_defaults(handler=run_work)

    link = _command(below, "link", "say what a work does with a node")
    link.add_argument("work", metavar="WORK")
    link.add_argument("relation", metavar="RELATION", choices=_RELATIONS, help=_list(_RELATIONS))
    link.add_argument("node", metavar="NODE")
    link.add_argument("--evidence", choices=_MARKS, default="guess", help="how one knows it")
    link.add_argument("--note")
    link.set_defaults(handler=run_link)

    move = _command(below, "move", "put a node, with all below it, below another one")
    move.add_argument("id", metavar="ID")
    move.add_argument("parent", metavar="PARENT")
    move.set_defaults(handler=run_move)
    _add_file_commands(below)


def _add_file_commands(below: _Parsers[argparse.ArgumentParser]) -> None:
    read = _command(below, "import", "add what a file holds; exit code 1 when something differs")
    read.add_argument("file", metavar="FILE", help="- is standard input")
    read.add_argument("--format", choices=("json", "bibtex"), help="default: as the name ends")
    read.add_argument("--node", help="link each work of a BibTeX file to this node")
    read.add_argument("--relation", choices=_RELATIONS, help="what the works do with NODE")
    read.add_argument("--evidence", choices=_MARKS, default="guess", help="how one knows it")
    read.set_defaults(handler=run_import, usage=read.error)

    write = _command(below, "export", "write the taxonomy, or its works as BibTeX")
    write.add_argument("-o", "--out", metavar="FILE", help="default: standard output")
    write.add_argument("--format", choices=("json", "bibtex"), help="default: as the name ends")
    write.add_argument("--own", action="store_true", help="only what was added or moved here")
    write.add_argument("--node", default="root", help="works of this node and those below it")
    write.set_defaults(handler=run_export, usage=write.error)

    conflicts = _command(below, "conflicts", "where it says something else than km's newest")
    conflicts.set_defaults(handler=run_conflicts)


def run_add(args: argparse.Namespace) -> int:
    """``km kb taxonomy add``."""
    with _open(args.kb) as kb:
        new = kb.taxonomy.add(
            args.id,
            parent=args.parent,
            name=args.name,
            kind=args.kind,
            summary=args.summary,
            evidence=args.evidence,
        )
    return _say("added", new, args.json)


def run_work(args: argparse.Namespace) -> int:
    """``km kb taxonomy work``."""
    with _open(args.kb) as kb:
        new = kb.taxonomy.add_work(
            args.key,
            title=args.title,
            authors=args.authors,
            year=args.year,
            venue=args.venue,
            arxiv=args.arxiv,
            note=args.note,
        )
    return _say("added", new, args.json)


def run_link(args: argparse.Namespace) -> int:
    """``km kb taxonomy link``."""
    with _open(args.kb) as kb:
        new = kb.taxonomy.link(
            args.work, args.node, args.relation, evidence=args.evidence, note=args.note
        )
    return _say("linked", new, args.json)


def run_move(args: argparse.Namespace) -> int:
    """``km kb taxonomy move``."""
    with _open(args.kb) as kb:
        new = kb.taxonomy.move(args.id, args.parent)
    return _say("moved", new, args.json)


def run_import(args: argparse.Namespace) -> int:
    """``km kb taxonomy import``; exit code 1 when something differs."""
    format = args.format or _format_of(args.file, args.usage)
    if format == "json" and (args.node or args.relation):
        args.usage("--node and --relation are for BibTeX files")
    source = sys.stdin if args.file == "-" else args.file
    with _open(args.kb) as kb:
        if format == "json":
            happened = kb.taxonomy.from_json(source)
        else:
            happened = kb.taxonomy.from_bibtex(
                source, node=args.node, relation=args.relation, evidence=args.evidence
            )
    _show(happened, args.json)
    return 1 if "differs" in happened["outcome"] else 0


def run_export(args: argparse.Namespace) -> int:
    """``km kb taxonomy export``."""
    from km.kb import KnowledgeBase

    format = args.format or ("json" if args.out is None else _format_of(args.out, args.usage))
    with KnowledgeBase(args.kb, read_only=True) as kb:
        if format == "json":
            text = kb.taxonomy.to_json(args.out, own=args.own)
        else:
            text = kb.taxonomy.to_bibtex(args.out, node=args.node, own=args.own)
    if args.out is None:
        sys.stdout.write(text)
    return 0


def run_conflicts(args: argparse.Namespace) -> int:
    """``km kb taxonomy conflicts``."""
    from km.kb import KnowledgeBase

    with KnowledgeBase(args.kb, read_only=True) as kb:
        rows = kb.taxonomy.conflicts()
    if args.json:
        sys.stdout.write(rows.to_jsonl() or "")
        return 0
    for row in rows.rows():
        print(f"{row['what']}: {row['key']} {row['problem']} ({row['source']})")
        print(f"    ours: {row['ours']}\n    theirs: {row['theirs']}")
    if not len(rows):
        print("no conflicts")
    return 0


def _command(
    below: _Parsers[argparse.ArgumentParser], name: str, help: str
) -> argparse.ArgumentParser:
    parser = below.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.add_argument("--kb", metavar="FILE", required=True, help="the knowledge base")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _open(path: str) -> KnowledgeBase:
    """A file that is there, for writing."""
    from km.errors import NotFoundError
    from km.kb import KnowledgeBase

    if not os.path.isfile(path):
        raise NotFoundError(f"{path}: there is no such file")
    return KnowledgeBase(path)


def _format_of(name: str, usage: object) -> str:
    ending = os.path.splitext(name)[1].lower()
    found = {".json": "json", ".bib": "bibtex"}.get(ending)
    if found is None and callable(usage):
        usage(f"{name}: say --format json or --format bibtex")
    return str(found)


def _say(done: str, new: bool, as_json: bool) -> int:
    print(json.dumps({done: new}) if as_json else done if new else "nothing new")
    return 0


def _show(happened: Table, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(happened.to_jsonl() or "")
        return
    for row in happened.rows():
        about = "" if row["key"] is None else f" {row['key']}"
        print(f"{row['what']}: {row['n']} {row['outcome']}{about}")
        for side in ("ours", "theirs"):
            if row[side] is not None:
                print(f"    {side}: {row[side]}")
    if not len(happened):
        print("nothing new")


def _list(words: tuple[str, ...]) -> str:
    return ", ".join(words[:-1]) + f" or {words[-1]}"
