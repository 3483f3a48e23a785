"""The command ``km diff``.

As with diff(1): 0 done, 1 a limit is exceeded, 2 wrong usage or trouble.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from km.cli_arguments import add_threads, names, numbers, open_knowledge_base

if TYPE_CHECKING:
    from km.diff_models import Diff

TROUBLE = 2

_ABOUT = """\
What facts B learned, kept, weakened, lost or changed against A, beyond the noise floor.

A and B are a .gguf file, a folder, a checkpoint of km.train, a name that km knows, or run:12 for a
recall recorded in --kb.
Exit codes: 0 done, 1 a limit of --fail-on is exceeded, 2 wrong usage or trouble.
"""

_LIMITS = """\
fail (exit code 1) when a share surely exceeds this, such as 'lost>2%%'; may be given several times.
Outcomes: learned, weakened, lost, changed. What counts is the lower end of the interval of the
share above the floor: of recall on facts held before (for learned: not held before), of the
unrelated facts where --targets are given
"""


def _limit(text: str) -> str:
    from km.diff_shares import parse_limit
    from km.errors import ArgumentError

    try:
        parse_limit(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def run(args: argparse.Namespace) -> int:
    """Measure, print, and say whether a limit is exceeded."""
    diff = _measure(args)
    exceeded = diff.exceeds(args.fail_on)
    if args.table is not None:
        diff.facts.to_csv(args.table)
    if args.json:
        print(diff.to_json())
    else:
        print(diff.summary)
        if diff.run is not None:
            print(f"recorded as run {diff.run} in {args.kb}")
    for line in exceeded:
        print("km:", line, file=sys.stderr)
    return 1 if exceeded else 0


def _measure(args: argparse.Namespace) -> Diff:
    from km.cli import choose_facts
    from km.diff_models import diff

    facts = None
    if args.facts is not None:
        facts = choose_facts(args.facts).select(per_relation=args.per_relation)
    with open_knowledge_base(args.kb) as kb:
        return diff(
            args.a,
            args.b,
            facts,
            targets=args.targets,
            null_models=args.nulls,
            requantise=not args.no_requantise,
            templates=args.templates,
            max_candidates=args.max_candidates,
            probes=args.probes,
            seed=args.seed,
            threads=args.threads,
            origin=args.origin,
            kb=kb,
        )


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``diff`` to the command line."""
    parser = commands.add_parser(
        "diff",
        help="what changed from one model to another, beyond the noise",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A", help="the model before")
    parser.add_argument("b", metavar="B", help="the model after")
    parser.add_argument(
        "--facts",
        help="a file or folder of facts; or shipped ones: all, a kind, or relation names parted by "
        "commas (may be left out for two recorded runs)",
    )
    parser.add_argument("--kb", type=Path, help="knowledge base to look up and record in")
    parser.add_argument(
        "--targets",
        type=names,
        help="relations, or relation/fact, that were meant to change, parted by commas",
    )
    parser.add_argument(
        "--fail-on", metavar="LIMIT", type=_limit, action="append", default=[], help=_LIMITS
    )
    parser.add_argument(
        "--nulls",
        metavar="MODEL",
        nargs="+",
        default=[],
        help="models that differ from A by what means nothing, such as other seeds",
    )
    parser.add_argument(
        "--origin", help="the model that checkpoints were trained from (default: the other side)"
    )
    parser.add_argument(
        "--no-requantise",
        action="store_true",
        help="do not measure A with coarser weights, which takes as long as measuring A and about "
        "a byte a parameter of temporary disk",
    )
    parser.add_argument(
        "--templates", type=numbers, help="templates of each relation, such as 0,1 (default: all)"
    )
    parser.add_argument("--per-relation", type=int, help="only the first facts of each relation")
    parser.add_argument("--max-candidates", type=int, default=20, help="answers ranked (20)")
    parser.add_argument(
        "--probes", type=int, default=8, help="prompts a relation for layers; 0: none (8)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of candidates and intervals (0)")
    add_threads(parser)
    parser.add_argument("--table", type=Path, help="also write the facts to this CSV file")
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    parser.set_defaults(handler=run, failure=TROUBLE)
