"""The command ``km train``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km.cli_arguments import add_threads, names, open_knowledge_base

if TYPE_CHECKING:
    from km.examples import Example
    from km.optimizers import Optimizer
    from km.schedules import Schedule
    from km.training import Training

_ABOUT = """\
Train a copy of a model on texts and write it.

MODEL is smollm2, gemma3, a .gguf file or a Hugging Face folder. Weights of quantised files become
float32 first. The same command with the same --checkpoint goes on where it was stopped, and ends
with the same bits. Memory is estimated before anything is computed.
"""

_JSONL = """\
one JSON object a line: "text", or "prompt" and "completion", of which only the completion is
learned; optionally "weight"
"""

_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _bytes(text: str) -> int:
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    try:
        return int(float(text.removesuffix(text[-1:]) if unit else text) * _SIZES[unit])
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 5G or 800M") from None


def _read(path: Path) -> str:
    from km.errors import FormatError

    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from None


def _from_text(path: Path) -> list[Example]:
    """Texts parted by blank lines."""
    from km.examples import Example

    lines: list[str] = []
    texts: list[str] = []
    for line in [*_read(path).splitlines(), ""]:
        if line.strip():
            lines.append(line)
        elif lines:
            texts.append("\n".join(lines))
            lines = []
    return [Example(text) for text in texts]


def _from_jsonl(path: Path) -> list[Example]:
    lines = enumerate(_read(path).split("\n"), 1)
    return [_example(line, f"{path}, line {number}") for number, line in lines if line.strip()]


def _example(line: str, where: str) -> Example:
    from km.errors import FormatError
    from km.examples import Example

    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: is no JSON ({error})") from None
    if not isinstance(row, dict):
        raise FormatError(f"{where}: is no JSON object")
    text, prompt, completion = (row.get(name) for name in ("text", "prompt", "completion"))
    weight = row.get("weight", 1.0)
    unknown = sorted(row.keys() - {"text", "prompt", "completion", "weight"})
    if unknown:
        raise FormatError(f"{where}: unknown key {unknown[0]!r}")
    if not isinstance(weight, int | float):
        raise FormatError(f"{where}: weight is {weight!r}, not a number")
    if isinstance(text, str) and prompt is None and completion is None:
        return Example(text, weight=weight)
    if text is None and isinstance(prompt, str) and isinstance(completion, str):
        return Example(prompt + completion, targets=len(prompt.encode()), weight=weight)
    raise FormatError(f'{where}: a "text", or a "prompt" and a "completion" are needed')


def _optimizer(args: argparse.Namespace) -> Optimizer:
    from km.optimizers import SGD, AdamW

    if args.optimizer == "sgd":
        return SGD(lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay)
    return AdamW(lr=args.lr, weight_decay=args.weight_decay)


def _schedule(args: argparse.Namespace) -> Schedule:
    from km import schedules

    kinds = {
        "constant": schedules.Constant,
        "linear": schedules.Linear,
        "cosine": schedules.Cosine,
    }
    schedule: Schedule = kinds[args.schedule](args.warmup)
    return schedule


def _check_out(args: argparse.Namespace) -> None:
    from km.errors import ArgumentError

    for path in (args.out, args.adapters):
        if path is not None and path.exists():
            raise ArgumentError(f"{path}: is there already")
    if args.adapters is not None and args.lora is None:
        raise ArgumentError("--adapters needs --lora")


def run(args: argparse.Namespace) -> int:
    """Train, write, and say what came of it."""
    _check_out(args)
    training = _train(args)
    if training.interrupted:
        kept = "; the same command goes on from there" if args.checkpoint else ""
        print(f"\nkm: stopped after step {training.n_steps}{kept}", file=sys.stderr)
        return 130
    if args.adapters is not None and training.trainer is not None:
        training.trainer.save_adapters(args.adapters)
    training.model.save(args.out, dtype=args.dtype)
    if args.json:
        training.table.to_jsonl(sys.stdout)
    else:
        print(training)
        print(args.out)
    return 0


def _train(args: argparse.Namespace) -> Training:
    from km.loading import load
    from km.lora import DEFAULT_TARGETS, LoRA
    from km.training import train

    examples = _from_text(args.text) if args.text is not None else _from_jsonl(args.jsonl)
    lora = None
    if args.lora is not None:
        alpha = 2.0 * args.lora if args.alpha is None else args.alpha
        lora = LoRA(args.lora, alpha, args.targets or DEFAULT_TARGETS, args.seed)
    model = load(args.model, threads=args.threads)
    with open_knowledge_base(args.kb) as kb:
        return train(
            model,
            examples,
            steps=args.steps,
            epochs=args.epochs,
            batch_size=args.batch_size,
            optimizer=_optimizer(args),
            lora=lora,
            schedule=_schedule(args),
            clip=args.clip,
            accumulate=args.accumulate,
            length=args.length,
            pack=args.pack,
            seed=args.seed,
            checkpoint=args.checkpoint,
            save_every=args.save_every,
            keep=args.keep,
            quota=args.quota,
            kb=kb,
        )


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``km train`` to the command line."""
    parser = commands.add_parser(
        "train",
        help="train a copy of a model on texts",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="smollm2, gemma3, a file or a folder")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--text", type=Path, metavar="FILE", help="texts parted by blank lines")
    data.add_argument("--jsonl", type=Path, metavar="FILE", help=_JSONL)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, metavar="N", help="steps of the optimiser")
    length.add_argument("--epochs", type=int, metavar="N", help="how often each text is shown (1)")
    parser.add_argument(
        "--out", required=True, type=Path, help="a .gguf file or a folder to write the model to"
    )
    parser.add_argument(
        "--dtype",
        choices=("keep", "F32", "F16", "BF16", "Q8_0"),
        default="keep",
        help="type of the weights written (keep: trained ones as float32, others as they are)",
    )
    _add_learning(parser)
    _add_keeping(parser)
    parser.set_defaults(handler=run)


def _add_learning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("learning")
    group.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw", help="(adamw)")
    group.add_argument("--lr", type=float, default=5e-5, help="learning rate (5e-5)")
    group.add_argument("--momentum", type=float, default=0.0, help="of sgd (0)")
    group.add_argument(
        "--weight-decay", type=float, default=0.0, help="of matrices and embeddings (0)"
    )
    group.add_argument(
        "--schedule",
        choices=("constant", "linear", "cosine"),
        default="constant",
        help="(constant)",
    )
    group.add_argument("--warmup", type=int, default=0, help="steps in which the rate rises (0)")
    group.add_argument("--clip", type=float, help="longest norm of all gradients (any)")
    group.add_argument("--batch-size", type=int, default=8, help="texts of a pass (8)")
    group.add_argument("--accumulate", type=int, default=1, help="passes of a step (1)")
    group.add_argument(
        "--length", type=int, help="cut longer texts into sequences of so many tokens"
    )
    group.add_argument("--pack", action="store_true", help="join all texts before they are cut")
    group.add_argument("--lora", type=int, metavar="RANK", help="train adapters of this rank")
    group.add_argument("--alpha", type=float, help="of adapters (twice the rank)")
    group.add_argument(
        "--targets",
        type=names,
        help="linear layers with adapters, such as attn_q,ffn_up (attn_q,attn_v)",
    )
    group.add_argument("--seed", type=int, default=0, help="of the order, and of adapters (0)")
    add_threads(group)


def _add_keeping(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("keeping")
    group.add_argument("--checkpoint", metavar="DIR", help="folder of checkpoints")
    group.add_argument("--save-every", type=int, metavar="N", help="steps between them (a tenth)")
    group.add_argument("--keep", type=int, default=2, metavar="N", help="newest that stay (2)")
    group.add_argument("--quota", type=_bytes, metavar="SIZE", help="most bytes, such as 5G")
    group.add_argument(
        "--adapters", type=Path, metavar="DIR", help="also write the adapters, as PEFT does"
    )
    group.add_argument("--kb", type=Path, help="knowledge base to record the learning curve into")
    group.add_argument("--json", action="store_true", help="print the learning curve as JSON lines")
