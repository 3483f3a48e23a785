"""The command ``km``: measurements, pictures, reports and the knowledge base from a shell.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 error,
2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from km.datasets import FactSet
    from km.model import Model

PICTURES = ("taxonomy", "recall", "lens")


def _facts(text: str) -> FactSet:
    """Facts from a file or folder, or shipped ones by name (several parted by commas)."""
    from km import datasets

    if os.path.exists(text):
        return datasets.read_facts(text)
    names = [name.strip() for name in text.split(",")]
    return datasets.facts(names[0] if len(names) == 1 else names)


def _load(args: argparse.Namespace) -> Model:
    from km.model import load

    return load(args.model, threads=args.threads)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 0,2,5") from None


def _demo(args: argparse.Namespace) -> int:
    from km.demo import run_demo

    run_demo(args.out, threads=args.threads)
    return 0


def _measure_memorization(args: argparse.Namespace) -> int:
    from km.kb import KnowledgeBase
    from km.memorization import memorization

    facts = _facts(args.facts).select(per_relation=args.per_relation)
    with KnowledgeBase(args.kb) as kb:
        recall = memorization(
            _load(args),
            facts,
            templates=args.templates,
            max_candidates=args.max_candidates,
            seed=args.seed,
            kb=kb,
        )
        run = kb.record(recall)
    if args.json:
        recall.relations.to_jsonl(sys.stdout)
    else:
        print(recall)
        print(f"recorded as run {run} in {args.kb}")
    return 0


def _draw(args: argparse.Namespace) -> int:
    from km import draw
    from km.kb import KnowledgeBase
    from km.report import newest_recall

    if args.picture == "lens":
        if args.prompt is None or args.answer is None:
            raise argparse.ArgumentError(None, "km draw lens needs --prompt and --answer")
        picture = draw.lens(_load(args).lens(args.prompt, args.answer))
    else:
        if args.kb is None:
            raise argparse.ArgumentError(None, f"km draw {args.picture} needs --kb")
        with KnowledgeBase(args.kb, read_only=True) as kb:
            picture = (
                kb.taxonomy.draw()
                if args.picture == "taxonomy"
                else draw.recall(newest_recall(kb, args.run))
            )
    picture.save(args.out)
    print(args.out)
    return 0


def _report(args: argparse.Namespace) -> int:
    from km.kb import KnowledgeBase
    from km.report import write_report

    with KnowledgeBase(args.kb, read_only=True) as kb:
        write_report(kb, args.out, run=args.run)
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
    from km.model import models

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
    parser.add_argument(
        "--threads", type=int, help="default: the CPUs this process may use; results do not change"
    )


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
        "--templates", type=_numbers, help="templates of each relation, such as 0,1 (default: all)"
    )
    parser.add_argument("--per-relation", type=int, help="only the first facts of each relation")
    parser.add_argument("--max-candidates", type=int, default=20, help="answers ranked (20)")
    parser.add_argument("--seed", type=int, default=0, help="of candidates and controls (0)")
    parser.add_argument("--json", action="store_true", help="one JSON object a relation")
    parser.set_defaults(handler=_measure_memorization)


def _add_draw(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("draw", help="draw a picture")
    parser.add_argument("picture", choices=PICTURES)
    parser.add_argument("--kb", type=Path, help="knowledge base (taxonomy, recall)")
    parser.add_argument("--run", type=int, help="run to draw (default: the newest)")
    parser.add_argument("--prompt", help="what the lens follows")
    parser.add_argument("--answer", help="the answer, with its blank: ' Paris'")
    parser.add_argument("--out", required=True, type=Path, help="a .svg, .png, .pdf or .dot file")
    _model_options(parser)
    parser.set_defaults(handler=_draw)


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("report", help="write one HTML page about a recorded run")
    parser.add_argument("--kb", required=True, type=Path)
    parser.add_argument("--run", type=int, help="default: the newest recall run")
    parser.add_argument("--out", required=True, type=Path, help="the .html file")
    parser.set_defaults(handler=_report)


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("verify", help="measure a stored run again and compare")
    parser.add_argument("run", type=int, help="number of the run (km kb query lists them)")
    parser.add_argument("--kb", required=True, type=Path)
    _model_options(parser, default=None)
    parser.set_defaults(handler=_verify)


def make_parser() -> argparse.ArgumentParser:
    """The whole command line, also the source of the shell completions."""
    from km import cli_kb, completion

    parser = argparse.ArgumentParser(
        prog="km", description="Measure how language models hold and use knowledge."
    )
    parser.add_argument("--version", action="store_true", help="print versions and leave")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    demo = commands.add_parser("demo", help="measure the embedded model and write a report")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: demo)")
    demo.add_argument("--threads", type=int, help="default: the CPUs this process may use")
    demo.set_defaults(handler=_demo)
    _add_measure(commands)
    _add_draw(commands)
    _add_report(commands)
    cli_kb.add_commands(commands)
    _add_verify(commands)
    models = commands.add_parser("models", help="list the models known by name")
    models.add_argument("--json", action="store_true", help="one JSON object a model")
    models.set_defaults(handler=_models)
    shells = commands.add_parser("completion", help="print a completion script for a shell")
    shells.add_argument("shell", choices=completion.SHELLS)
    shells.set_defaults(handler=_completion)
    return parser


def _print_versions() -> int:
    import sqlite3

    import km

    context = km.Context()
    print(
        f"km {km.__version__} (CPU variant {context.cpu}, OpenBLAS core {context.blas_core}, "
        f"SQLite {sqlite3.sqlite_version})"
    )
    return 0


def _run(command: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    try:
        return command(args)
    except KeyboardInterrupt:
        print("km: stopped; what was finished is recorded", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except argparse.ArgumentError as error:
        print(f"km: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, ValueError, OSError, KeyError, MemoryError, ImportError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"km: {message}", file=sys.stderr)
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.version:
        return _print_versions()
    if args.command is None:
        parser.print_help()
        return 2
    return _run(args.handler, args)


if __name__ == "__main__":
    sys.exit(main())
