"""``km draw``: the pictures that need a knowledge base alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from km.cli_arguments import names, numbers

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.picture import Picture


def add_pictures(
    pictures: argparse._SubParsersAction[argparse.ArgumentParser],
) -> list[argparse.ArgumentParser]:
    """Add ``evolution``, ``priming``, ``learning``, ``lineage``, ``dialog`` and ``conflict``.

    Each sets ``handler`` on the parsed arguments, a function of them that returns the exit code.
    """
    evolution = pictures.add_parser(
        "evolution", help="how the states of facts change from model to model"
    )
    evolution.add_argument(
        "--models", type=names, help="names or fingerprints parted by commas, in their order"
    )
    evolution.add_argument("--run", type=int, help="a run of km diff instead")
    evolution.set_defaults(handler=_run, draw=_evolution)

    priming = pictures.add_parser("priming", help="where a learned text's keyword leaked to")
    priming.add_argument("--run", type=int, help="a priming run (default: the newest)")
    priming.set_defaults(handler=_run, draw=_priming)

    learning = pictures.add_parser("learning", help="learning curves of training runs")
    learning.add_argument("--runs", type=numbers, help="such as 3,5 (default: the newest 8)")
    learning.set_defaults(handler=_run, draw=_learning)

    lineage = pictures.add_parser("lineage", help="which model came from which")
    lineage.add_argument("--model", help="only this model's ancestors and descendants")
    lineage.set_defaults(handler=_run, draw=_lineage)

    dialog = pictures.add_parser("dialog", help="a conversation's path through the taxonomy")
    dialog.add_argument("--run", type=int, help="a conversation (default: the newest)")
    dialog.set_defaults(handler=_run, draw=_dialog)

    conflict = pictures.add_parser("conflict", help="memory against a contradicting passage")
    conflict.add_argument("--run", type=int, help="a conflict run (default: the newest)")
    conflict.set_defaults(handler=_run, draw=_conflict)

    parsers = [evolution, priming, learning, lineage, dialog, conflict]
    for parser in parsers:
        parser.add_argument("--kb", required=True, type=Path, help="knowledge base")
    return parsers


def _run(args: argparse.Namespace) -> int:
    from km.kb import KnowledgeBase

    with KnowledgeBase(args.kb, read_only=True) as kb:
        picture: Picture = args.draw(kb, args)
    picture.save(args.out)
    print(args.out)
    return 0


def _evolution(kb: KnowledgeBase, args: argparse.Namespace) -> Picture:
    from km import draw

    return draw.evolution(kb, args.models, run=args.run)


def _priming(kb: KnowledgeBase, args: argparse.Namespace) -> Picture:
    from km import draw

    return draw.priming(kb, args.run)


def _learning(kb: KnowledgeBase, args: argparse.Namespace) -> Picture:
    from km import draw

    return draw.learning(kb, args.runs)


def _lineage(kb: KnowledgeBase, args: argparse.Namespace) -> Picture:
    from km import draw

    return draw.lineage(kb, args.model)


def _dialog(kb: KnowledgeBase, args: argparse.Namespace) -> Picture:
    from km import draw

    return draw.dialog(kb, run=args.run)


def _conflict(kb: KnowledgeBase, args: argparse.Namespace) -> Picture:
    from km import draw

    return draw.conflict(kb, run=args.run)
