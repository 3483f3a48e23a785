"""The command ``km``: measurements, pictures, reports and the knowledge base from a shell.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 error,
2 wrong usage, 130 interrupted; of ``km diff``: 1 a limit is exceeded, 2 wrong usage or error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from km.cli_arguments import add_threads, names, numbers

if TYPE_CHECKING:
    from km.datasets import FactSet
    from km.model import Model
    from km.picture import Picture

KEEPING = ("conflict", "demo", "diff", "measure", "study")  # commands that store what they finish


def choose_facts(text: str) -> FactSet:
    """Facts from a file or folder, or shipped ones by name (several parted by commas)."""
    from km import datasets

    if os.path.exists(text):
        return datasets.read_facts(text)
    wanted = names(text)
    return datasets.facts(wanted[0] if len(wanted) == 1 else wanted)


def _load(args: argparse.Namespace) -> Model:
    from km.loading import load

    return load(args.model, threads=args.threads)


def _demo(args: argparse.Namespace) -> int:
    from km.demo import run_demo

    run_demo(args.out, threads=args.threads)
    return 0


def _measure_memorization(args: argparse.Namespace) -> int:
    from km.kb import KnowledgeBase
    from km.recall import memorization

    facts = choose_facts(args.facts).select(per_relation=args.per_relation)
    model = _load(args)
    with KnowledgeBase(args.kb) as kb:
        recall = memorization(
            model,
            facts,
            templates=args.templates,
            max_candidates=args.max_candidates,
            seed=args.seed,
            kb=kb,
        )
    if args.json:
        recall.relations.to_jsonl(sys.stdout)
    else:
        print(recall)
        print(f"recorded as run {recall.run} in {args.kb}")
    return 0


def _draw_taxonomy(args: argparse.Namespace) -> int:
    from km import draw
    from km.kb import KnowledgeBase

    with KnowledgeBase(args.kb, read_only=True) as kb:
        options = {"branch": args.branch, "layout": args.layout, "full": args.full}
        return _save(draw.taxonomy(kb, **options), args.out)


def _draw_recall(args: argparse.Namespace) -> int:
    from km.kb import KnowledgeBase
    from km.report import newest_recall

    with KnowledgeBase(args.kb, read_only=True) as kb:
        return _save(newest_recall(kb, args.run).draw(), args.out)


def _draw_lens(args: argparse.Namespace) -> int:
    return _save(_load(args).lens(args.prompt, args.answer).draw(), args.out)


def _save(picture: Picture, out: Path) -> int:
    picture.save(out)
    print(out)
    return 0


def _report(args: argparse.Namespace) -> int:
    from km.kb import KnowledgeBase
    from km.report import write_report

    with KnowledgeBase(args.kb, read_only=True) as kb:
        write_report(kb, args.out, runs=args.runs)
    print(args.out)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from km.kb import KnowledgeBase
    from km.verification import verify

    with KnowledgeBase(args.kb, read_only=True) as kb:
        verification = verify(kb, args.run, model=args.model, threads=args.threads)
    print(verification)
    return 0 if verification.agrees else 1


def _models(args: argparse.Namespace) -> int:
    from km.loading import models

    table = models()
    if args.json:
        table.to_jsonl(sys.stdout)
    else:
        print(table)
    return 0


def _completion(args: argparse.Namespace) -> int:
    from km.completion import script

    print(script(args.shell, make_parser()), end="")
    return 0


def _model_options(parser: argparse.ArgumentParser, default: str | None = "smollm2") -> None:
    parser.add_argument(
        "--model",
        default=default,
        help="smollm2, gemma3, a .gguf file or a Hugging Face folder"
        + (f" (default: {default})" if default else " (default: the file the run names)"),
    )
    add_threads(parser)


def _add_measure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    measure = commands.add_parser("measure", help="measure a model and record it")
    measures = measure.add_subparsers(dest="measure", required=True, metavar="MEASURE")
    parser = measures.add_parser(
        "memorization", help="rank whole answers among candidates, beside four baselines"
    )
    _model_options(parser)
    parser.add_argument(
        "--facts",
        required=True,
        help="a file or folder of facts; or shipped ones: all, a kind, or relation names "
        "parted by commas",
    )
    parser.add_argument("--kb", required=True, type=Path, help="knowledge base to record into")
    parser.add_argument(
        "--templates", type=numbers, help="templates of each relation, such as 0,1 (default: all)"
    )
    parser.add_argument("--per-relation", type=int, help="only the first facts of each relation")
    parser.add_argument("--max-candidates", type=int, default=20, help="answers ranked (20)")
    parser.add_argument("--seed", type=int, default=0, help="of candidates and controls (0)")
    parser.add_argument("--json", action="store_true", help="one JSON object a relation")
    parser.set_defaults(handler=_measure_memorization)


def _add_draw(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from km import cli_draw

    draw = commands.add_parser("draw", help="draw a picture")
    pictures = draw.add_subparsers(dest="picture", required=True, metavar="PICTURE")
    taxonomy = pictures.add_parser("taxonomy", help="the taxonomy with the evidence on its nodes")
    taxonomy.add_argument("--kb", required=True, type=Path, help="knowledge base")
    taxonomy.add_argument("--full", action="store_true", help="also branches without evidence")
    taxonomy.add_argument("--branch", metavar="NODE", help="only what is below this node")
    taxonomy.add_argument("--layout", choices=("tree", "radial"), default="tree")
    taxonomy.set_defaults(handler=_draw_taxonomy)
    recall = pictures.add_parser("recall", help="relations beside their baselines")
    recall.add_argument("--kb", required=True, type=Path, help="knowledge base")
    recall.add_argument("--run", type=int, help="a recall run (default: the newest)")
    recall.set_defaults(handler=_draw_recall)
    lens = pictures.add_parser("lens", help="what each layer would say after a prompt")
    lens.add_argument("--prompt", required=True, help="text that ends where the answer begins")
    lens.add_argument("--answer", required=True, help="the answer; its first token is followed")
    _model_options(lens)
    lens.set_defaults(handler=_draw_lens)
    for parser in (taxonomy, recall, lens, *cli_draw.add_pictures(pictures)):
        parser.add_argument(
            "--out", required=True, type=Path, help="a .svg, .png, .pdf or .dot file"
        )


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("report", help="write one HTML page about a knowledge base")
    parser.add_argument("kb", metavar="FILE", type=Path, help="the knowledge base")
    parser.add_argument(
        "--runs", type=numbers, help="runs with a page of their own, such as 3,5 (default: newest)"
    )
    parser.add_argument("-o", "--out", required=True, type=Path, help="the .html file")
    parser.set_defaults(handler=_report)


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("verify", help="measure a stored run again and compare")
    parser.add_argument("run", type=int, help="number of the run (km kb query lists them)")
    parser.add_argument("--kb", required=True, type=Path)
    _model_options(parser, default=None)
    parser.set_defaults(handler=_verify)


def make_parser() -> argparse.ArgumentParser:
    """The whole command line, also the source of the shell completions."""
    from km import (
        cli_cite,
        cli_conflict,
        cli_dialog,
        cli_diff,
        cli_forecast,
        cli_kb,
        cli_study,
        cli_train,
        completion,
    )

    parser = argparse.ArgumentParser(
        prog="km", description="Measure how language models hold and use knowledge."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    demo = commands.add_parser("demo", help="measure the embedded model and write a report")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: demo)")
    demo.add_argument("--threads", type=int, help="default: the CPUs this process may use")
    demo.set_defaults(handler=_demo)
    _add_measure(commands)
    cli_conflict.add_command(commands)
    cli_dialog.add_command(commands)
    cli_diff.add_command(commands)
    cli_forecast.add_command(commands)
    cli_study.add_command(commands)
    cli_train.add_command(commands)
    _add_draw(commands)
    _add_report(commands)
    cli_kb.add_commands(commands)
    cli_cite.add_command(commands)
    _add_verify(commands)
    models = commands.add_parser("models", help="list the models known by name")
    models.add_argument("--json", action="store_true", help="one JSON object a model")
    models.set_defaults(handler=_models)
    shells = commands.add_parser("completion", help="print a completion script for a shell")
    shells.add_argument("shell", choices=completion.SHELLS)
    shells.set_defaults(handler=_completion)
    return parser


class _Version(argparse.Action):
    """``--version``: km's version and what decides its speed here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import km

        context = km.Context()
        print(f"km {km.__version__} (CPU variant {context.cpu}, OpenBLAS core {context.blas_core})")
        parser.exit()


def _fail(error: object, code: int) -> int:
    """Say what went wrong in one line."""
    message = " ".join(str(error).split()) or type(error).__name__
    print("km:", message, file=sys.stderr)
    return code


def _run(args: argparse.Namespace) -> int:
    code = getattr(args, "failure", 1)
    try:
        return int(args.handler(args))
    except KeyboardInterrupt:
        kept = "; what was finished is kept, and the same command goes on from there"
        print(f"\nkm: stopped{kept if args.command in KEEPING else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except KeyError as error:
        return _fail(error.args[0] if error.args else error, code)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else error, code)
    except (RuntimeError, ValueError, MemoryError, ImportError) as error:
        return _fail(error, code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        try:
            args = make_parser().parse_args(argv)
            return _run(args)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
