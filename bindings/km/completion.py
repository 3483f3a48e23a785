"""Completion scripts for bash, zsh and fish, made from the argument parser itself."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _words(parser: argparse.ArgumentParser) -> list[str]:
    words = list(_subparsers(parser))
    for action in parser._actions:
        words += action.option_strings
        if not action.option_strings and action.choices and not _subparsers(parser):
            words += [str(choice) for choice in action.choices]
    return words


def _walk(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command, as the words that lead to it, with its parser."""
    yield path, parser
    for name, child in _subparsers(parser).items():
        yield from _walk(child, (*path, name))


def _bash(parser: argparse.ArgumentParser) -> str:
    cases = {shlex.quote(" ".join(path)): " ".join(_words(at)) for path, at in _walk(parser)}
    known = "|".join(path for path in cases if path != "''")
    words = "".join(
        f"        {path}) words={shlex.quote(text)} ;;\n" for path, text in cases.items()
    )
    return (
        "_km_complete() {\n"
        '    local path="" words="" word\n'
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do\n'
        '        case "${path:+$path }$word" in\n'
        f'        {known}) path="${{path:+$path }}$word" ;;\n'
        "        esac\n    done\n"
        f'    case "$path" in\n{words}    esac\n'
        '    COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))\n'
        "}\ncomplete -o default -F _km_complete km\n"
    )


def _fish(parser: argparse.ArgumentParser) -> str:
    lines = []
    for path, at in _walk(parser):
        seen = [f"__fish_seen_subcommand_from {name}" for name in path]
        if _subparsers(at):
            seen.append(f"not __fish_seen_subcommand_from {' '.join(_subparsers(at))}")
        for word in _words(at):
            flag = f"-l {word[2:]}" if word.startswith("--") else f"-a {shlex.quote(word)}"
            if not word.startswith("-") or word.startswith("--"):
                lines.append(f"complete -c km -n {shlex.quote('; and '.join(seen))} {flag}")
    return "\n".join(lines) + "\n"


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The completion script; load it with ``source <(km completion bash)`` and the like."""
    if shell == "fish":
        return _fish(parser)
    head = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"
    return (head if shell == "zsh" else "") + _bash(parser)
