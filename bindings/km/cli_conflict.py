"""The command ``km conflict``: a model's facts against passages that say otherwise."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from km.cli_arguments import add_threads, names

if TYPE_CHECKING:
    from km.datasets import QASet
    from km.model import Model

_ABOUT = """\
What does a model answer when a passage contradicts what it remembers?

Original, substitute and other answers with the memorization ratio, beside random weights. What is
finished is kept: the same command goes on after a stop, and measures nothing twice.
"""


def run(args: argparse.Namespace) -> int:
    """Measure, record and print."""
    from km.conflict_measure import conflict
    from km.kb import KnowledgeBase
    from km.loading import load

    model = load(args.model, threads=args.threads)
    examples = _examples(model, args)
    with KnowledgeBase(args.kb) as kb:
        measured = conflict(
            model,
            examples,
            by=args.by,
            match="exact" if args.by == "score" else args.match,
            max_tokens=args.max_tokens,
            baselines=not args.no_baselines,
            seed=args.seed,
            kb=kb,
        )
    if args.json:
        measured.ratios.to_jsonl(sys.stdout)
    else:
        print(measured)
        print(f"recorded as run {measured.run} in {args.kb}")
    return 0


def _examples(model: Model, args: argparse.Namespace) -> QASet:
    """Counterfactuals of facts, or what a file in the layout of NQ-Swap holds."""
    from km import datasets
    from km.cli import choose_facts

    if args.nq_swap is not None:
        return datasets.read_nq_swap(args.nq_swap)
    facts = choose_facts(args.facts).select(per_relation=args.per_relation)
    return datasets.counterfactuals(facts, model, positions=args.positions, seed=args.seed)


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``conflict`` to the command line."""
    parser = commands.add_parser(
        "conflict",
        help="what a model answers where a passage contradicts its memory",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        default="smollm2",
        help="smollm2, gemma3, a .gguf file or a Hugging Face folder (default: smollm2)",
    )
    add_threads(parser)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--facts",
        help="a file or folder of facts; or shipped ones: all, a kind, or relation names parted "
        "by commas; passages state another answer of the relation",
    )
    asked.add_argument("--nq-swap", type=Path, help="questions in the layout of NQ-Swap")
    parser.add_argument("--kb", required=True, type=Path, help="knowledge base to record into")
    parser.add_argument("--per-relation", type=int, help="only the first facts of each relation")
    parser.add_argument(
        "--positions",
        type=names,
        default=["only"],
        help="where the statement stands: only, start, middle, end, parted by commas (only)",
    )
    parser.add_argument(
        "--by", choices=("generate", "score"), default="generate", help="how it answers (generate)"
    )
    parser.add_argument(
        "--match",
        choices=("exact", "start", "contains"),
        default="start",
        help="how a generated text must give an answer (start)",
    )
    parser.add_argument("--max-tokens", type=int, default=10, help="of a generated text (10)")
    parser.add_argument(
        "--no-baselines", action="store_true", help="do not ask random weights (half the work)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of substitutes and controls (0)")
    parser.add_argument("--json", action="store_true", help="one JSON object a group")
    parser.set_defaults(handler=run)
