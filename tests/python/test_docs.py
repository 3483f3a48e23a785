"""What the documentation says: links resolve, commands and names exist, examples run."""

from __future__ import annotations

import argparse
import ast
import doctest
import importlib
import pkgutil
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import km
from km.cli import make_parser

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {"build", "demo", "node_modules"}
TEXTS = {".c", ".h", ".py", ".pyi", ".md", ".sh", ".toml", ".txt", ".cmake", ".sql", ".in", ".html"}

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# A path of one machine, another checkout, a package registry, an unfinished thought. Classes such
# as [k] keep this file from matching itself.
FOREIGN = re.compile(
    r"(?<![\w.}])/(wor[k]|hom[e]|roo[t])/|\.\./share[d]\b|\b(pyp[i]|test\.pyp[i])\.org"
    r"|download\.pytorc[h]\.org|pythonhoste[d]|\b(TOD[O]|FIXM[E]|XX[X])\b"
)
SCRATCH = re.compile(r"(?<![\w.}])/tm[p]/")


def sources(*suffixes: str) -> list[Path]:
    """Files of the repository, without what is built or hidden."""
    found = []
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") or part.endswith(".egg-info") for part in parts)
        if path.suffix in suffixes and not hidden and parts[0] not in SKIPPED:
            found.append(path)
    return found


PAGES = sources(".md")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        there = page.parent / target if target else page
        if re.match(r"https?://", link):
            continue
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(link)
    assert not broken


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    numbers = [path.name[:4] for path in folder.glob("[0-9]*.md")]
    assert len(set(numbers)) == len(numbers)
    for path in folder.glob("[0-9]*.md"):
        title = path.read_text(encoding="utf-8").split("\n", 1)[0]
        number = int(path.name[:4])
        assert title.startswith(f"# {number}. "), f"{path.name} begins with {title!r}"
        assert f"({path.name})" in index, f"{path.name} is not in the index"


def test_the_repository_speaks_of_the_project_alone() -> None:
    found = []
    for path in sources(*TEXTS):
        text = path.read_text(encoding="utf-8")
        found += [f"{name(path)}: {match[0]}" for match in FOREIGN.finditer(text)]
        if path.relative_to(ROOT).parts[0] != "tests":  # tests make folders of their own there
            found += [f"{name(path)}: {match[0]}" for match in SCRATCH.finditer(text)]
    assert not found


# ---- commands ----


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def commands(text: str) -> Iterator[list[str]]:
    """The words after `km` in code spans and in lines of code blocks."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for code in [*spans, *(line for block in blocks for line in block.split("\n"))]:
        words = code.split()
        if len(words) > 1 and words[0] == "km":
            yield words[1:]


def check_command(words: list[str], where: str) -> None:
    """Each word that names a command, and each option, is one the parser knows."""
    parser = make_parser()
    known = subparsers(parser)
    while words and known and re.fullmatch(r"[a-z|]+", words[0]):
        first, *words = words
        for choice in first.split("|"):
            assert choice in known, f"{where}: km has no command {choice!r}"
        parser = known[first.split("|")[0]]
        known = subparsers(parser)
    for word in words:
        if word.startswith("-"):
            assert word in parser._option_string_actions, f"{where}: {parser.prog} {word}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        check_command(words, name(page))


def test_the_readme_and_the_changelog_name_every_command() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for command in subparsers(make_parser()):
        assert re.search(rf"`(km )?{command}\b", changes), f"CHANGELOG.md: {command}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8")):
            assert target in targets, f"{name(page)}: make {target}"


# ---- C ----


@pytest.mark.parametrize("header", sorted(ROOT.glob("*/include/km/*.h")), ids=name)
def test_exported_declarations_have_a_comment(header: Path) -> None:
    before, bare = "", []
    for line in header.read_text(encoding="utf-8").split("\n"):
        if line.startswith("KM_API ") and not before.endswith("*/"):
            bare.append(line)
        before = line
    assert not bare


def test_columns_of_recall_are_documented() -> None:
    page = (ROOT / "docs" / "measures" / "memorization.md").read_text(encoding="utf-8")
    table = page[page.index("### Columns") : page.index("**Answer end.**")]
    rows = re.findall(r"^\| ([\w, ]+) \|", table, re.MULTILINE)
    named = {column for row in rows[1:] for column in row.split(", ")}
    source = (ROOT / "libkm" / "measure" / "recall_table.c").read_text(encoding="utf-8")
    assert named == set(re.findall(r'_COLUMN\("(\w+)"', source))


# ---- Python ----


def attribute_chain(node: ast.AST) -> list[str]:
    """["km", "draw", "recall"] of km.draw.recall; [] for anything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        before = attribute_chain(node.value)
        return [*before, node.attr] if before else []
    return []


def resolve(chain: list[str], where: str) -> None:
    here: object = km
    for i, attribute in enumerate(chain[1:], 2):
        if not hasattr(here, attribute):
            try:
                here = importlib.import_module(".".join(chain[:i]))
                continue
            except ImportError:
                pytest.fail(f"{where}: there is no {'.'.join(chain[:i])}")
        here = getattr(here, attribute)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            chain = attribute_chain(node)
            if chain[:1] == ["km"]:
                resolve(chain, name(page))
    for span in re.findall(r"`(km(?:\.\w+)+)\(?", text):
        resolve(span.split("."), name(page))


def modules() -> list[str]:
    """Modules of km, without those whose optional package is not installed."""
    missing = {"km.lm_eval"} if find_spec("lm_eval") is None else set()
    found = {module.name for module in pkgutil.walk_packages(km.__path__, "km.")}
    return ["km", *sorted(found - missing - {"km.__main__"})]


@pytest.mark.parametrize("module", modules())
def test_doctests(module: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(module), extraglobs={"km": km})
    assert failed == 0


def test_doctests_are_found() -> None:
    finder = doctest.DocTestFinder()
    tests = [test for module in modules() for test in finder.find(importlib.import_module(module))]
    assert sum(bool(test.examples) for test in tests) >= 25


def test_file_names_are_unique() -> None:
    """pytest imports the test files by their basename."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
