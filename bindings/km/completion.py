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
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    yield path, _words(parser)
    for name, child in _subparsers(parser).items():
        yield from _walk(child, (*path, name))


def _bash(parser: argparse.ArgumentParser) -> str:
    cases = "".join(
        f"        {shlex.quote(' '.join(path))}) words={shlex.quote(' '.join(words))} ;;\n"
        for path, words in _walk(parser)
    )
    return (
        "_km_complete() {\n"
        '    local path="" words="" word\n'
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do\n'
        '        [[ $word == -* ]] && break\n        path="${path:+$path }$word"\n    done\n'
        f'    case "$path" in\n{cases}    esac\n'
        '    COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))\n'
        "}\ncomplete -o default -F _km_complete km\n"
    )


def _fish(parser: argparse.ArgumentParser) -> str:
    lines = []
    for path, words in _walk(parser):
        seen = " ".join(path)
        condition = (
            "; and ".join(f"__fish_seen_subcommand_from {name}" for name in path)
            if seen
            else "__fish_use_subcommand"
        )
        for word in words:
            flag = f"-l {word[2:]}" if word.startswith("--") else f"-a {shlex.quote(word)}"
            if not word.startswith("-") or word.startswith("--"):
                lines.append(f"complete -c km -n {shlex.quote(condition)} {flag}")
    return "\n".join(lines) + "\n"


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The completion script; load it with ``source <(km completion bash)`` and the like."""
    if shell == "fish":
        return _fish(parser)
    head = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return head + _bash(parser)
