"""The command ``km study``: many measurements of one kind, analysed together."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from km.cli_arguments import add_threads, names

_PRIMING = """\
Learn texts one at a time from the same weights and say what priming this model shows.

132 texts with both controls; --full: 396 texts, ignore-topk and stepping stones too. What is
finished is kept: the same command goes on after a stop, and measures nothing twice.
"""


_CONFLICT = """\
Ask what makes a model keep to its memory against a passage: popularity, size, fine-tuning.

Known facts of the model against changed passages, the model after two fine-tunings, and a family of
small models trained from scratch; --full: all facts and twice the seeds. What is finished is kept:
the same command goes on after a stop, and measures nothing twice.
"""


def run_conflict(args: argparse.Namespace) -> int:
    """Run, or go on with, the study and print its findings."""
    from km.kb import KnowledgeBase
    from km.loading import load
    from km.studies import conflict

    model = load(args.model, threads=args.threads)
    with KnowledgeBase(args.kb) as kb:
        study = conflict(model, full=args.full, seed=args.seed, kb=kb)
    if args.json:
        study.findings.to_jsonl(sys.stdout)
        return 0
    print(study)
    n = len(study.chunks)
    print(f"recorded as run {study.run} in {args.kb}: {n} parts, {study.n_measured} measured now")
    return 0


_OVERSHADOWING = """\
Train small transformers from scratch, one factor at a time, and say what R = HR / RR does.

68 models of 0.1M to 10M parameters; --full: 104. Curves are written down before the models they
are scored on are trained. What is finished is kept: the same command goes on after a stop.
"""


def run_overshadowing(args: argparse.Namespace) -> int:
    """Run, or go on with, the study and print its findings."""
    from km.kb import KnowledgeBase
    from km.studies import overshadowing

    def announce(estimate: object) -> None:
        print(f"overshadowing: {estimate}", file=sys.stderr, flush=True)

    with KnowledgeBase(args.kb) as kb:
        study = overshadowing(
            full=args.full, workers=args.workers, seed=args.seed, kb=kb, announce=announce
        )
    if args.json:
        study.findings.to_jsonl(sys.stdout)
        return 0
    print(study)
    n = len(study.chunks)
    print(f"recorded as run {study.run} in {args.kb}: {n} models, {study.n_measured} trained now")
    return 0


_DECODERS = """\
Choose each contrastive decoder's setting on validation items and compare it with greedy decoding.

Some hundred items of MemoTrap and NQ-Synth a model, about ten minutes each on two cores; --full:
every item, many hours. What is finished is kept: the same command goes on after a stop.
"""


def run_priming(args: argparse.Namespace) -> int:
    """Run, or go on with, the study and print its findings."""
    from km.datasets import priming_texts
    from km.kb import KnowledgeBase
    from km.loading import load
    from km.optimizers import AdamW
    from km.studies import priming

    texts = None
    if args.keywords is not None:
        texts = priming_texts(None if args.full else 1, keywords=args.keywords)
    model = load(args.model, threads=args.threads)
    with KnowledgeBase(args.kb) as kb:
        study = priming(
            model,
            texts=texts,
            full=args.full,
            presentations=args.presentations,
            optimizer=None if args.lr is None else AdamW(lr=args.lr),
            seed=args.seed,
            kb=kb,
        )
    if args.json:
        study.comparisons.to_jsonl(sys.stdout)
        return 0
    print(study)
    n = len(study.chunks)
    print(f"recorded as run {study.run} in {args.kb}: {n} arms, {study.n_measured} measured now")
    return 0


def run_decoders(args: argparse.Namespace) -> int:
    """Run, or go on with, the study of all models and print what it says."""
    from km.kb import KnowledgeBase
    from km.loading import load
    from km.studies import decoders

    named = args.models
    loaded = None if named is None else [load(name, threads=args.threads) for name in named]
    with KnowledgeBase(args.kb) as kb:
        study = decoders(loaded, full=args.full, seed=args.seed, kb=kb)
    if args.json:
        study.findings.to_jsonl(sys.stdout)
        return 0
    print(study)
    for one in study.of:
        n = len(one.chunks)
        print(f"recorded as run {one.run} in {args.kb}: {n} chunks, {one.n_measured} measured now")
    return 0


def _add_decoders(studies: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = studies.add_parser(
        "decoders",
        help="whether contrastive decoders answer better than greedy decoding",
        description=_DECODERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--models", type=names, help="parted by commas (default: smollm2 and gemma3 if installed)"
    )
    add_threads(parser)
    parser.add_argument("--kb", required=True, type=Path, help="knowledge base to record into")
    parser.add_argument("--full", action="store_true", help="every item of all four files")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the order and draws (0)")
    parser.add_argument("--json", action="store_true", help="one JSON object a finding")
    parser.set_defaults(handler=run_decoders)


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``study`` to the command line."""
    study = commands.add_parser("study", help="run a whole study and say what it found")
    studies = study.add_subparsers(dest="study", required=True, metavar="STUDY")
    _add_decoders(studies)
    parser = studies.add_parser(
        "priming",
        help="what learning one text does to unrelated contexts",
        description=_PRIMING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        default="smollm2",
        help="smollm2, gemma3, a .gguf file or a Hugging Face folder (default: smollm2)",
    )
    add_threads(parser)
    parser.add_argument("--kb", required=True, type=Path, help="knowledge base to record into")
    parser.add_argument(
        "--full", action="store_true", help="all texts and both mitigations (about five times)"
    )
    parser.add_argument(
        "--keywords", type=names, help="only these, parted by commas (default: all twelve)"
    )
    parser.add_argument(
        "--presentations", type=int, default=3, help="steps that learn each text (3)"
    )
    parser.add_argument("--lr", type=float, help="learning rate of AdamW (1e-4)")
    parser.add_argument("--seed", type=int, default=0, help="of draws and simulations (0)")
    parser.add_argument("--json", action="store_true", help="one JSON object a comparison")
    parser.set_defaults(handler=run_priming)
    _add_conflict(studies)
    _add_overshadowing(studies)


def _add_conflict(studies: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = studies.add_parser(
        "conflict",
        help="memory against a contradicting passage, by popularity, size and training",
        description=_CONFLICT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        default="smollm2",
        help="smollm2, gemma3, a .gguf file or a Hugging Face folder (default: smollm2)",
    )
    add_threads(parser)
    parser.add_argument("--kb", required=True, type=Path, help="knowledge base to record into")
    parser.add_argument("--full", action="store_true", help="all facts and more seeds")
    parser.add_argument("--seed", type=int, default=0, help="of substitutes, split and draws (0)")
    parser.add_argument("--json", action="store_true", help="one JSON object a finding")
    parser.set_defaults(handler=run_conflict)


def _add_overshadowing(studies: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = studies.add_parser(
        "overshadowing",
        help="whether rare conditions are answered as popular ones, by popularity, length and size",
        description=_OVERSHADOWING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kb", required=True, type=Path, help="knowledge base to record into")
    parser.add_argument("--full", action="store_true", help="five seeds a setting instead of three")
    parser.add_argument(
        "--workers", type=int, default=2, help="models trained at once, a thread each (2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of corpora, weights and orders (0)")
    parser.add_argument("--json", action="store_true", help="one JSON object a finding")
    parser.set_defaults(handler=run_overshadowing)
