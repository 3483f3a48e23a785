"""What mkdocs.yml cannot say: pages made from sources, and links to files outside docs/.

Pages of the C API come from the headers, and the lists of decisions and measures
from their folders. A link that leaves docs/ leads to a copy of
that file in the site (one to a public header, to its page), so that every link of the repository
works offline and a broken one still fails the strict build.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import c_api  # noqa: E402

LINK = re.compile(r"(?<!`)(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):(?=<code>|<span><code>|`)")
LANGUAGES = {
    ".c": "c", ".h": "c", ".py": "python", ".pyi": "python", ".sql": "sql", ".sh": "bash",
    ".json": "json", ".toml": "toml", ".txt": "text", ".yml": "yaml",
}  # fmt: skip
LARGEST = 300_000  # bytes of a text that is shown as a page


def on_config(config: Any) -> Any:
    """Fill the entries of the navigation that list a folder; add pages that none names."""
    docs = Path(config.docs_dir)
    nav = [filled(entry, docs) for entry in config.nav]
    named = set(places(nav))
    others = sorted(path.name for path in docs.glob("*.md") if path.name not in named)
    config.nav = nav + ([{"More": others}] if others else [])
    return config


def places(entry: Any) -> list[str]:
    """All pages that a part of the navigation names."""
    if isinstance(entry, dict):
        entry = list(entry.values())
    return [entry] if isinstance(entry, str) else [place for one in entry for place in places(one)]


def filled(entry: Any, docs: Path) -> Any:
    """An entry of the navigation; {"Title": "folder/*"} becomes the pages of that folder."""
    if not isinstance(entry, dict):
        return entry
    [(title, value)] = entry.items()
    if isinstance(value, list):
        return {title: [filled(one, docs) for one in value]}
    if not value.endswith("/*"):
        return entry
    folder = value[:-2]
    if folder == "c":
        names = ["index.md", *(path.stem + ".md" for path in c_api.headers())]
    else:
        names = sorted(path.name for path in (docs / folder).glob("*.md"))
        names = [n for n in ("README.md", "index.md") if n in names] + [
            n for n in names if n not in ("README.md", "index.md")
        ]
    return {title: [entry_of(f"{folder}/{name}", docs) for name in names]}


def entry_of(place: str, docs: Path) -> Any:
    """The entry of a page, its title without the names in brackets that a measure has."""
    path = docs / place
    title = path.read_text(encoding="utf-8").split("\n", 1)[0] if path.exists() else ""
    short = re.match(r"# (.+?) \(`.*\)$", title)
    return {short[1]: place} if short else place


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are made, then every file that some page links to."""
    for name, text in c_api.pages().items():
        add(files, config, f"c/{name}", text)
    seen = {*c_api.headers(), *(ROOT / folder for folder in c_api.FOLDERS)}
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        uri, text = waiting.pop()
        for target in outside(uri, text) - seen:
            seen.add(target)
            place, copy = copied(target)
            if place.endswith(".md"):
                add(files, config, place, copy, InclusionLevel.NOT_IN_NAV)
                if target.suffix == ".md" or target.is_dir():
                    waiting.append((place, copy))
            else:
                files.append(File.generated(config, place, abs_src_path=str(target)))
    return files


def add(
    files: Files,
    config: Any,
    place: str,
    text: str,
    inclusion: InclusionLevel = InclusionLevel.UNDEFINED,
) -> None:
    """A page whose text is made here."""
    files.append(File.generated(config, place, content=text, inclusion=inclusion))


def origin(uri: str) -> str:
    """Where in the repository a page of the site comes from."""
    if uri.startswith("source/"):
        return uri.removeprefix("source/")
    return "docs/" + uri


def aim(uri: str, link: str) -> Path | None:
    """What a link of a page leads to, when that is a file or folder outside docs/."""
    if re.match(r"[a-z]+:", link) or link.startswith("/"):
        return None
    there = posixpath.normpath(posixpath.join(posixpath.dirname(origin(uri)), link))
    target = ROOT / there
    if there.startswith("..") or not target.exists():
        return None
    return None if there == "docs" or there.startswith("docs/") else target


def outside(uri: str, text: str) -> set[Path]:
    """Files of the repository outside docs/ that a page links to."""
    targets = {aim(uri, match[2]) for match in LINK.finditer(text)}
    return {target for target in targets if target is not None}


def copied(target: Path) -> tuple[str, str]:
    """The place of a copy in the site, and its text where it is a page."""
    if target in c_api.headers():
        return f"c/{target.stem}.md", ""
    place = "source/" + target.relative_to(ROOT).as_posix()
    if target in {ROOT / folder for folder in c_api.FOLDERS}:
        return "c/index.md", ""
    if target.is_dir():
        rows = [f"- [{one.name}]({one.name})" for one in sorted(target.iterdir()) if shown(one)]
        return f"{place}/index.md", f"# {target.relative_to(ROOT)}\n\n" + "\n".join(rows) + "\n"
    if target.suffix == ".md":
        return place, target.read_text(encoding="utf-8")
    if (target.suffix in LANGUAGES or not target.suffix) and target.stat().st_size <= LARGEST:
        text = target.read_text(encoding="utf-8")
        fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text) or [""]))
        language = LANGUAGES.get(target.suffix, "text")
        name = target.relative_to(ROOT)
        return f"{place}.md", f"# {name}\n\n{fence}{language}\n{text}\n{fence}\n"
    return place, ""


def shown(path: Path) -> bool:
    """Files that a listing of a folder leads to."""
    return path.is_file() and path.suffix in LANGUAGES


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name things as Sphinx wants them; what is left of that goes."""
    return ROLE.sub("", html)


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Turn links that leave docs/ into links to the copies, and links back into plain ones."""
    uri = page.file.src_uri

    def turned(match: re.Match[str]) -> str:
        link = match[2]
        target = aim(uri, link)
        if target is not None:
            place = copied(target)[0]
        elif uri.startswith("source/") and not re.match(r"[a-z]+:", link):
            there = posixpath.normpath(posixpath.join(posixpath.dirname(origin(uri)), link))
            if not there.startswith("docs/"):
                return match[0]
            place = there.removeprefix("docs/")
        else:
            return match[0]
        away = posixpath.relpath(place, posixpath.dirname(uri) or ".")
        return f"{match[1]}{away}{match[3] or ''}{match[4]}"

    return LINK.sub(turned, markdown)
