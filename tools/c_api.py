"""Pages of the C interface, made from the comments of the public headers.

    python tools/c_api.py OUT      write one Markdown file a header, and index.md, into OUT

The documentation site calls `pages` itself. What a header says is what its page says: a banner
comment becomes the introduction, `/* ---- x ---- */` a section, a comment and the declaration under
it an entry, and lines that are indented in a comment are shown as they stand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("libkm/include/km", "kb/include/km", "viz/include/km")
NAME = re.compile(r"\b(?:km|KM)_\w*\w\b")
SECTION = re.compile(r"^-{3,}\s*(.*?)\s*-{3,}$", re.DOTALL)
IGNORED = re.compile(r"#(include|if|ifdef|ifndef|endif|else)\b|extern \"C\"|\}$|#define KM_\w+_H$")


class Item(NamedTuple):
    """A comment, the declarations right under it, and the name these are found by."""

    comment: str
    code: str
    name: str


def headers() -> list[Path]:
    """The public headers in the order of the pages."""
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.h"))]


def comment_text(lines: list[str]) -> str:
    """What a comment says, without its stars."""
    text = "\n".join(lines).strip().removeprefix("/*").removesuffix("*/")
    return "\n".join(re.sub(r"^ ?\* ?", "", line) for line in text.split("\n")).strip()


def take(lines: list[str], start: int) -> int:
    """The line behind the comment, macro or declaration that begins at `start`."""
    end = start
    if lines[start].startswith("/*"):
        while "*/" not in lines[end]:
            end += 1
    elif lines[start].startswith("#"):
        while lines[end].endswith("\\"):
            end += 1
    else:
        depth = 0
        while True:
            bare = re.sub(r"/\*.*?(\*/|$)", "", lines[end])
            depth += bare.count("{") - bare.count("}")
            if depth == 0 and bare.rstrip().endswith(";"):
                break
            end += 1
    return end + 1


def declared(code: str) -> str:
    """The name of a function, type or macro; that of the first value of a nameless enum."""
    bare = re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL)
    patterns = (
        r"^KM_API\b.*?\b(km_\w+)\(",
        r"^typedef .*?\(\*(km_\w+)\)\(",
        r"^typedef .*?\b(km_\w+);\s*$",
        r"^#define (\w+)",
        r"^enum \{\s*(\w+)",
        r"^(?:struct|enum) (km_\w+)",
        r"\b(km_\w+)\(",
    )
    for pattern in patterns:
        found = re.search(pattern, bare, re.DOTALL)
        if found:
            return found[1]
    return ""


def items(text: str) -> list[Item]:
    """What a header says, piece by piece; pieces without code are prose."""
    lines = text.split("\n")
    found: list[Item] = []
    comment, i = "", 0
    while i < len(lines):
        if not lines[i].strip() or IGNORED.match(lines[i]):
            if comment:
                found.append(Item(comment, "", ""))
            comment, i = "", i + 1
            continue
        end = take(lines, i)
        if lines[i].startswith("/*"):
            if comment:
                found.append(Item(comment, "", ""))
            comment = comment_text(lines[i:end])
        else:
            code = "\n".join(lines[i:end])
            found.append(Item(comment, code, declared(code)))
            comment = ""
        i = end
    return found


def prose(text: str, places: dict[str, str], here: str) -> str:
    """A comment as Markdown: paragraphs, indented blocks as code, known names as links."""
    made: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        run: list[str] = []
        for line in paragraph.split("\n"):
            if line.startswith("  "):
                if run:
                    made.append(words(" ".join(run), places, here))
                    run = []
                shown = "    " + line.removeprefix("  ")
                if made and made[-1].startswith("    "):
                    made[-1] += "\n" + shown
                else:
                    made.append(shown)
            else:
                run.append(line.strip())
        if run:
            made.append(words(" ".join(run), places, here))
    return "\n\n".join(made)


def words(text: str, places: dict[str, str], here: str) -> str:
    """Text without any markup but links of names and code between backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else plain(p, places, here) for p in parts)


def plain(text: str, places: dict[str, str], here: str) -> str:
    """Text in which nothing is markup, and names of the interface are links."""
    made, last = [], 0
    for match in NAME.finditer(text):
        made.append(escaped(text[last : match.start()]))
        place = places.get(match[0])
        link = f"{'' if place == here else place}#{match[0].lower()}" if place else ""
        made.append(f"[`{match[0]}`]({link})" if link else f"`{match[0]}`")
        last = match.end()
    return "".join([*made, escaped(text[last:])])


def escaped(text: str) -> str:
    """Characters that Markdown or HTML would take for something else."""
    text = re.sub(r"([\\*_\[\]#|])", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def page(path: Path, places: dict[str, str]) -> str:
    """The page of one header."""
    found = items(path.read_text(encoding="utf-8"))
    here = path.stem + ".md"
    title, _, banner = found[0].comment.partition(": ")
    made = [f"# `{title}`", prose(banner[:1].upper() + banner[1:], places, here)]
    seen: set[str] = set()
    for item in found[1:]:
        section = SECTION.match(item.comment)
        if section and not item.code:
            head, _, rest = section[1].partition(": ")
            made.append(f"## {head[:1].upper()}{head[1:]}")
            made += [prose(rest, places, here)] if rest else []
            continue
        macro = item.code.startswith("#define")
        if item.name and item.name not in seen and not (macro and not item.comment):
            made.append(f"### {item.name}")
            seen.add(item.name)
        made += [prose(item.comment, places, here)] if item.comment else []
        made += [f"```c\n{item.code}\n```"] if item.code else []
    return "\n\n".join(made) + "\n"


def pages() -> dict[str, str]:
    """File name to Markdown, index.md among them."""
    places: dict[str, str] = {}
    for path in headers():
        for item in items(path.read_text(encoding="utf-8"))[1:]:
            if item.name and not (item.code.startswith("#define") and not item.comment):
                places.setdefault(item.name, path.stem + ".md")
    made = {path.stem + ".md": page(path, places) for path in headers()}
    rows = []
    for path in headers():
        first = items(path.read_text(encoding="utf-8"))[0].comment.partition(": ")[2]
        summary = re.split(r"[.:]\s|[.:]$| \(|\n\n", first)[0].replace("\n", " ")
        rows.append(f"| [`km/{path.name}`]({path.stem}.md) | {plain(summary, {}, '')} |")
    made["index.md"] = INDEX + "\n".join(rows) + "\n"
    return made


INDEX = """# C API

km is a C11 library; what Python does goes through it. `pkg-config km`, `km-kb` and `km-viz` give
the flags, and [examples/c/capitals.c](../../examples/c/capitals.c) is a whole program. Every
function that can fail returns a [`km_status`](error.md#km_status) and fills the caller's
[`km_error`](error.md#km_error); results come first among the arguments and the error last. All
memory comes from a [`km_ctx`](ctx.md), and there is no global state.

These pages are made from the comments of the headers.

| header | what it is for |
|---|---|
"""


def main() -> None:
    """Write the pages into the folder of the first argument."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: c_api.py OUT")
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
