"""The command ``km dialog``: a conversation about mechanisms, works and one's own measurements."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from km.cli_arguments import add_threads

if TYPE_CHECKING:
    from km.dialog.conversation import Conversation
    from km.table import Table

_DESCRIPTION = """\
Ask about knowledge mechanisms, the literature, and what the knowledge base has measured.

Each answer rests on one sentence, which is cited; where nothing fits, it says so. Commands:
:why (scores of the last choice, and what earlier choices changed), :candidates, :graph FILE (the
path so far through the taxonomy), :help, :quit. Reads lines from a pipe too.
"""
_HELP = ":why  :candidates  :graph FILE.svg  :help  :quit"
_SHOWN = 8


def run_dialog(args: argparse.Namespace) -> int:
    """Talk until the input ends."""
    from km.dialog.conversation import chat
    from km.kb import KnowledgeBase
    from km.loading import load

    model = None if args.model == "none" else load(args.model, threads=args.threads)
    with (
        KnowledgeBase(args.kb, read_only=args.no_store) as kb,
        chat(kb, model=model, decoder=args.decoder) as talk,
    ):
        if sys.stdin.isatty():
            print(f"Ask about knowledge mechanisms or the measurements in {args.kb}. {_HELP}")
        for line in _lines():
            if line in (":quit", ":q"):
                break
            _answer(talk, line)
    return 0


def _lines() -> Iterator[str]:
    """What is typed or piped, without blank lines; a terminal has a history of its own."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    import readline  # noqa: F401  (input() edits lines with it)

    while True:
        try:
            line = input("you> ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line


def _answer(talk: Conversation, line: str) -> None:
    """Carry out a command, or answer; what goes wrong with one line does not end the talk."""
    try:
        if line.startswith(":"):
            print(_command(talk, line))
        else:
            reply = talk.ask(line)
            print(f"km>  {reply}")
    except (ValueError, LookupError, OSError) as error:
        print(f"km: {error}", file=sys.stderr)
    sys.stdout.flush()


def _command(talk: Conversation, line: str) -> str:
    name, _, rest = line.partition(" ")
    if name == ":help":
        return _HELP
    if name == ":why":
        table = talk.why()
        return _shown(table, [name for name in table.names if name not in ("candidate", "text")])
    if name == ":candidates":
        if not talk.replies:
            raise ValueError("nothing was asked yet")
        return _shown(talk.replies[-1].candidates, ["score"])
    if name == ":graph":
        path = Path(rest.strip() or "dialog.svg")
        talk.draw().save(path)
        return str(path)
    raise ValueError(f"there is no command {name}; there are {_HELP}")


def _shown(table: Table, names: Sequence[str]) -> str:
    """The first rows of a table, some figures each and the text."""
    lines = ["  ".join(f"{name:>9}" for name in names)]
    for row in itertools.islice(table.rows(), _SHOWN):
        figures = "  ".join(f"{row[name]:>9.2f}" for name in names)
        lines.append(f"{figures}  {row['text']}")
    if len(table) > _SHOWN:
        lines.append(f"... and {len(table) - _SHOWN} more")
    return "\n".join(lines)


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``dialog`` to the command line."""
    from km.dialog.conversation import DECODERS

    parser = commands.add_parser(
        "dialog",
        help="ask about mechanisms, works and measurements",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kb", metavar="KB", type=Path, help="knowledge base")
    parser.add_argument(
        "--model",
        default="smollm2",
        help="says the answers: smollm2, gemma3, a .gguf file, a Hugging Face folder, or none: "
        "the chosen sentences as they stand (default: smollm2)",
    )
    parser.add_argument("--decoder", choices=DECODERS, default="greedy", help="of the model")
    parser.add_argument(
        "--no-store", action="store_true", help="keep nothing in the knowledge base"
    )
    add_threads(parser)
    parser.set_defaults(handler=run_dialog)
