"""``km cite``: km itself, works, measures and runs as BibTeX."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

_ABOUT = """\
Print BibTeX: of km without a TARGET, else of the works that a target rests on, with km. A target
is the key of a work, the id of a measure such as memorization.recall, or, with --kb, the number of
a run.
"""


def run(args: argparse.Namespace) -> int:
    """Print a citation, or with --methods a paragraph about a run."""
    from km import _km
    from km.bibtex import works_to_bibtex
    from km.citations import citation_cff, cited_works, km_work, known_works
    from km.errors import ArgumentError
    from km.kb import KnowledgeBase

    if args.target is None:
        if args.methods:
            raise ArgumentError("--methods needs the number of a run")
        work = km_work(_km.version())
        print(citation_cff(_km.version()) if args.cff else works_to_bibtex([work]), end="")
        return 0
    if args.cff:
        raise ArgumentError("--cff is about km itself and takes no target")
    with contextlib.ExitStack() as stack:
        kb = None
        if args.kb is not None:
            kb = stack.enter_context(KnowledgeBase(args.kb, read_only=True))
        if args.methods:
            if kb is None or not args.target.isdecimal():
                raise ArgumentError("--methods needs the number of a run and --kb")
            made = kb.methods(int(args.target))
            print(f"{made.latex if args.latex else made.text}\n\n{made.bibtex}", end="")
            return 0
        works = cited_works(args.target, kb)
        if args.target not in known_works(kb):
            works = [*works, km_work(_km.version())]
        print(works_to_bibtex(works), end="")
    return 0


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``cite`` to the command line."""
    parser = commands.add_parser(
        "cite",
        help="print citations: of km, of a work, of what a measure or run rests on",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", nargs="?", help="a work, a measure or the number of a run")
    parser.add_argument("--kb", type=Path, help="knowledge base with the run, or works of your own")
    parser.add_argument(
        "--methods", action="store_true", help="a Methods paragraph about the run, with BibTeX"
    )
    parser.add_argument("--latex", action="store_true", help="the paragraph for LaTeX and natbib")
    parser.add_argument("--cff", action="store_true", help="km in the Citation File Format")
    parser.set_defaults(handler=run)
