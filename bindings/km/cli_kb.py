"""``km kb``: look into a knowledge base from the shell."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from typing import TYPE_CHECKING

from km.cli_taxonomy import add_commands as add_taxonomy_commands

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.table import Table


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``kb`` with its commands.

    Each sets ``handler`` on the parsed arguments, a function of them that returns the exit code.
    """
    kb = subparsers.add_parser("kb", help="look into a knowledge base")
    commands = kb.add_subparsers(dest="kb_command", metavar="COMMAND", required=True)

    info = _command(commands, "info", "what the file holds")
    info.set_defaults(handler=run_info)

    search = _command(commands, "search", "find nodes, works, facts and texts")
    search.add_argument("text", metavar="TEXT", nargs="+")
    search.add_argument("--kind", choices=("node", "work", "fact", "text"))
    search.add_argument("--limit", type=_positive, default=20)
    search.set_defaults(handler=run_search)

    query = _command(commands, "query", "run one SQL statement that reads")
    query.add_argument("sql", metavar="SQL", help="the statement; - reads standard input")
    query.add_argument("params", metavar="VALUE", nargs="*", help="values for ? in the statement")
    query.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    query.set_defaults(handler=run_query)

    ask = _command(commands, "ask", "answer a named question; --list shows them", needs_file=False)
    ask.add_argument("name", metavar="QUESTION", nargs="?")
    ask.add_argument("params", metavar="NAME=VALUE", nargs="*", type=_assignment)
    ask.add_argument("--list", action="store_true", help="list the questions")
    ask.set_defaults(handler=run_ask, usage=ask.error)

    ledger = _command(commands, "ledger", "a node's literature beside the verdicts of runs")
    ledger.add_argument("node", metavar="NODE", help="id of the taxonomy; root is all of it")
    ledger.set_defaults(handler=run_ledger)

    datasette = commands.add_parser(
        "datasette",
        help="write metadata for Datasette, with the named questions as canned queries",
        description="Write metadata for Datasette, with the named questions as canned queries.",
    )
    datasette.add_argument("--kb", metavar="FILE", required=True, help="the knowledge base")
    datasette.add_argument("-o", "--out", metavar="FILE", required=True, help="the .json file")
    datasette.set_defaults(handler=run_datasette)

    _add_file_commands(commands)
    add_taxonomy_commands(commands)


def _add_file_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """What concerns a whole file: check, export, merge, snapshot, upgrade."""
    check = _command(commands, "check", "whether the file is sound; exit code 1 when it is not")
    check.add_argument("--quick", action="store_true", help="leave indexes and digests out")
    check.set_defaults(handler=run_check)

    export = _command(commands, "export", "write every table to a file of its own")
    export.add_argument("--out", metavar="DIR", required=True, help="a folder that is not there")
    export.add_argument("--format", choices=("json", "parquet"), default="json")
    export.set_defaults(handler=run_export)

    merge = _command(commands, "merge", "bring in what another knowledge base holds")
    merge.add_argument("other", metavar="OTHER", help="the other file, which is only read")
    merge.set_defaults(handler=run_merge)

    snapshot = _command(commands, "snapshot", "copy the file, also while it is written to")
    snapshot.add_argument("out", metavar="OUT", help="where the copy goes")
    snapshot.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    snapshot.set_defaults(handler=run_snapshot)

    upgrade = commands.add_parser(
        "upgrade",
        help="bring a file of an older km up to date",
        description="Bring a file of an older km up to date: its schema and its taxonomy.",
    )
    upgrade.add_argument("--kb", metavar="FILE", required=True, help="the knowledge base")
    upgrade.set_defaults(handler=run_upgrade)


def run_info(args: argparse.Namespace) -> int:
    """``km kb info``."""
    with _open(args.kb) as kb:
        facts = kb.info()
    if args.json:
        print(json.dumps(facts, ensure_ascii=False))
    else:
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            print(f"{name:{width}}  {value}")
    return 0


def run_search(args: argparse.Namespace) -> int:
    """``km kb search``."""
    with _open(args.kb) as kb:
        _show(kb.search(" ".join(args.text), kind=args.kind, limit=args.limit), args.json)
    return 0


def run_query(args: argparse.Namespace) -> int:
    """``km kb query``."""
    sql = sys.stdin.read() if args.sql == "-" else args.sql
    with _open(args.kb) as kb:
        params = [_number_or_text(value) for value in args.params]
        _show(kb.sql(sql, params, timeout=args.timeout), args.json)
    return 0


def run_ask(args: argparse.Namespace) -> int:
    """``km kb ask``; ``km kb ask --list`` needs no file."""
    from km.kb import KnowledgeBase

    if args.list:
        _show_questions(KnowledgeBase.questions(), args.json)
        return 0
    if args.kb is None or args.name is None:
        args.usage("QUESTION and --kb FILE are needed; --list shows the questions")
    with _open(args.kb) as kb:
        _show(kb.ask(args.name, **dict(args.params)), args.json)
    return 0


def run_ledger(args: argparse.Namespace) -> int:
    """``km kb ledger``."""
    with _open(args.kb) as kb:
        page = kb.ledger(args.node)
    if args.json:
        sys.stdout.write(page.table.to_jsonl() or "")
    else:
        print(page)
    return 0


def run_datasette(args: argparse.Namespace) -> int:
    """``km kb datasette``."""
    from km.datasette import write_metadata

    with _open(args.kb) as kb:
        write_metadata(kb, args.out)
    print(args.out)
    return 0


def run_check(args: argparse.Namespace) -> int:
    """``km kb check``; exit code 1 when there is a problem."""
    with _open(args.kb) as kb:
        problems = kb.check(full=not args.quick)
    if args.json:
        sys.stdout.write(problems.to_jsonl() or "")
    elif len(problems):
        for problem in problems.rows():
            print(f"{problem['what']}: {problem['problem']}")
    else:
        print(f"{args.kb}: sound")
    return 1 if len(problems) else 0


def run_export(args: argparse.Namespace) -> int:
    """``km kb export``."""
    with _open(args.kb) as kb:
        rows = kb.export(args.out, args.format)
    if args.json:
        print(json.dumps(rows))
    else:
        print(f"{args.out}: {len(rows)} tables, {sum(rows.values())} rows")
    return 0


def run_merge(args: argparse.Namespace) -> int:
    """``km kb merge``; exit code 1 when something differs or was refused."""
    from km.kb import KnowledgeBase

    _check_file(args.kb)
    with KnowledgeBase(args.kb) as kb:
        happened = kb.merge(args.other)
    rows = list(happened.rows())
    if args.json:
        sys.stdout.write(happened.to_jsonl() or "")
    for row in rows if not args.json else ():
        about = "" if row["key"] is None else f" {row['key']}"
        print(f"{row['what']}: {row['n']} {row['outcome']}{about}")
        for side in ("ours", "theirs"):
            if row[side] is not None:
                print(f"    {side}: {row[side]}")
    if not rows and not args.json:
        print("nothing new")
    return 1 if any(row["outcome"] in ("differs", "refused") for row in rows) else 0


def run_snapshot(args: argparse.Namespace) -> int:
    """``km kb snapshot``."""
    with _open(args.kb) as kb:
        kb.snapshot(args.out, overwrite=args.overwrite)
    if args.json:
        print(json.dumps({"path": args.out, "bytes": os.path.getsize(args.out)}))
    else:
        print(f"{args.out}: {os.path.getsize(args.out)} bytes")
    return 0


def _check_file(path: str) -> None:
    """Refuse a file that is not there, which opening for writing would make."""
    from km.errors import NotFoundError

    if not os.path.isfile(path):
        raise NotFoundError(f"{path}: there is no such file")


def run_upgrade(args: argparse.Namespace) -> int:
    """``km kb upgrade``; a file that is not there is not made."""
    from km.kb import KnowledgeBase

    _check_file(args.kb)
    with KnowledgeBase(args.kb) as kb:
        facts = kb.info()
    print(f"{args.kb}: schema version {facts['schema_version']}")
    return 0


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    help: str,
    needs_file: bool = True,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.add_argument("--kb", metavar="FILE", required=needs_file, help="the knowledge base")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _open(path: str) -> KnowledgeBase:
    from km.kb import KnowledgeBase

    return KnowledgeBase(path, read_only=True)


def _show(table: Table, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(table.to_jsonl() or "")
    elif len(table):
        for row in table.rows():
            print(
                "\n".join(f"{k}: {_cell(v)}" for k, v in row.items() if v is not None), end="\n\n"
            )
        print(f"{len(table)} row{'s' if len(table) != 1 else ''}")
    else:
        print("no rows")


def _show_questions(table: Table, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(table.to_jsonl() or "")
        return
    for row in table.rows():
        names = f" [{row['parameters']}]" if row["parameters"] else ""
        print(f"{row['name']}{names}\n    {row['title']}")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else f"{value:.6g}"
    return str(value)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    return text
