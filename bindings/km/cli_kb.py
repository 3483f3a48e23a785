"""``km kb``: look into a knowledge base from the shell."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.table import Table


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``kb`` with its commands.

    Each sets ``handler`` on the parsed arguments, a function of them that returns the exit code.
    """
    kb = subparsers.add_parser("kb", help="look into a knowledge base")
    commands = kb.add_subparsers(dest="kb_command", metavar="COMMAND", required=True)

    info = _command(commands, "info", "what the file holds, and whether it is sound")
    info.add_argument("--check", action="store_true", help="check pages, references and digests")
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

    upgrade = commands.add_parser(
        "upgrade",
        help="bring a file of an older km up to date",
        description="Bring a file of an older km up to date: its schema and its taxonomy.",
    )
    upgrade.add_argument("--kb", metavar="FILE", required=True, help="the knowledge base")
    upgrade.set_defaults(handler=run_upgrade)


def run_info(args: argparse.Namespace) -> int:
    """``km kb info``; exit code 1 when --check finds a problem."""
    with _open(args.kb) as kb:
        facts: dict[str, Any] = dict(kb.info())
        problems = list(kb.check(full=True).rows()) if args.check else []
    if args.check:
        facts["problems"] = len(problems)
    if args.json:
        print(json.dumps(facts, ensure_ascii=False))
    else:
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            print(f"{name:{width}}  {value}")
    for problem in problems:
        print(f"km: {problem['what']}: {problem['problem']}", file=sys.stderr)
    return 1 if problems else 0


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
        _show(kb.query(sql, params, timeout=args.timeout), args.json)
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


def run_upgrade(args: argparse.Namespace) -> int:
    """``km kb upgrade``; a file that is not there is not made."""
    from km.errors import NotFoundError
    from km.kb import KnowledgeBase

    if not os.path.isfile(args.kb):
        raise NotFoundError(f"{args.kb}: there is no such file")
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
