"""The command ``km forecast``."""

from __future__ import annotations

import argparse
from pathlib import Path

from km.cli_arguments import add_threads, open_knowledge_base

_ABOUT = """\
Say before any training how probable words of a text will be elsewhere once it is learned.

It needs a calibration: what a priming study of the same model and recipe found. One for the
embedded model may come with km; otherwise
    km study priming --full --kb study.db
    km forecast --calibrate study.db -o calibration.json
"""


def run(args: argparse.Namespace) -> int:
    """Forecast, or make a calibration."""
    return _calibrate(args) if args.calibrate is not None else _forecast(args)


def _calibrate(args: argparse.Namespace) -> int:
    from km.errors import ArgumentError
    from km.kb import KnowledgeBase
    from km.priming_forecast import calibrate_study

    if args.text is not None:
        raise ArgumentError("--calibrate takes no text")
    with KnowledgeBase(args.calibrate) as kb:
        found = calibrate_study(kb, args.run)
    if args.output is not None:
        found.to_json(args.output)
    print("\n".join(found.describe()))
    return 0


def _forecast(args: argparse.Namespace) -> int:
    from km.errors import ArgumentError
    from km.loading import load
    from km.priming_forecast import forecast

    if args.text is None:
        raise ArgumentError("give a text, or --calibrate and a knowledge base")
    if args.output is not None:
        raise ArgumentError("-o belongs to --calibrate")
    with open_knowledge_base(args.kb) as kb:
        result = forecast(
            load(args.model, threads=args.threads),
            args.text,
            args.keyword or None,
            theme=args.theme,
            probes=args.probe or None,
            calibration=args.calibration,
            top=args.top,
            verify=args.verify,
            kb=kb,
        )
    print(result.to_json() if args.json else result)
    return 0


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``forecast`` to the command line."""
    parser = commands.add_parser(
        "forecast",
        help="what learning a text will do to its words elsewhere",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", nargs="?", help="the text that is to be learned")
    parser.add_argument("--model", default="smollm2", help="a file, a folder or a name (smollm2)")
    parser.add_argument(
        "--keyword",
        action="append",
        help="a word of the text; may be given several times (default: its least probable words)",
    )
    parser.add_argument("--top", type=int, default=5, help="words, where none is given (5)")
    parser.add_argument("--theme", help="theme of the contexts looked at: colour, place, ...")
    parser.add_argument(
        "--probe", action="append", help="a context of your own; may be given several times"
    )
    parser.add_argument("--calibration", type=Path, help="a file that --calibrate wrote")
    parser.add_argument("--kb", type=Path, help="knowledge base with a calibration; records too")
    parser.add_argument(
        "--verify", action="store_true", help="also learn the text with a copy of the model"
    )
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    add_threads(parser)
    parser.add_argument(
        "--calibrate", type=Path, metavar="KB", help="make a calibration from a stored study"
    )
    parser.add_argument("--run", type=int, help="the study's run (default: the newest)")
    parser.add_argument("-o", "--output", type=Path, help="write the calibration to this file")
    parser.set_defaults(handler=run)
