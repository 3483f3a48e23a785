"""Pictures inside a page: one set of colours for all of them, which the page's switch can turn."""

from __future__ import annotations

import re
from dataclasses import dataclass

PAGE_BYTES = 1_300_000  # of all pictures together

_STYLE = re.compile(r"<style>(.*?)</style>\n?", re.DOTALL)
_DARK = re.compile(r"@media \(prefers-color-scheme:dark\)\{((?:[^{}]*\{[^{}]*\})*)\}")
_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")


@dataclass
class Pictures:
    """Takes pictures into a page as long as there is room.

    Attributes
    ----------
    left : int
        Bytes left.
    dark : str
        The rules that turn them dark, of the first picture.
    """

    left: int = PAGE_BYTES
    dark: str = ""

    def take(self, svg: str) -> str | None:
        """The picture without its own style sheet; None where there is no room for it.

        km's pictures follow the reader's setting through a style sheet of their own. In a page
        with a switch of its own their rules stand in the page's sheet.
        """
        found = _STYLE.search(svg)
        plain = _STYLE.sub("", svg)
        if len(plain) > self.left:
            return None
        self.left -= len(plain)
        if found and not self.dark:
            inner = _DARK.search(found[1])
            self.dark = inner[1] if inner else ""
        return plain

    def sheet(self) -> str:
        """Rules for the reader's setting and for the page's own switch, on screens alone."""
        if not self.dark:
            return ""
        auto = _RULE.sub(r":root:not([data-theme=light]) \1{\2}", self.dark)
        fixed = _RULE.sub(r":root[data-theme=dark] \1{\2}", self.dark)
        return (
            f"@media screen and (prefers-color-scheme:dark){{{auto}}}\n@media screen{{{fixed}}}\n"
        )
