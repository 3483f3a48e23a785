"""Pictures: what `km.draw` returns, shown by notebooks as SVG and saved as SVG, PNG, PDF or DOT."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from km._kmviz import Graph

FORMATS = ("svg", "png", "pdf", "dot")


class Picture:
    """A drawn graph.

    Parameters
    ----------
    graph : Graph
        What is drawn.
    title : str
        Shown by `repr`.
    theme : {"auto", "light", "dark"}
        "auto" follows the reader's setting in SVG and is light in every other format.
    """

    def __init__(self, graph: Graph, title: str = "", theme: str = "auto") -> None:
        self._graph = graph
        self.title = title
        self.theme = theme
        self._svg: str | None = None

    def render(self, format: str = "svg", *, theme: str | None = None, scale: float = 2.0) -> bytes:
        """Draw in one format.

        Parameters
        ----------
        format : {"svg", "png", "pdf", "dot"}
        theme : {"auto", "light", "dark"}, optional
            None: the picture's own.
        scale : float
            PNG resolution in multiples of 72 dots an inch, 0.1 to 8.

        Returns
        -------
        bytes
        """
        return self._graph.render(format, theme=theme or self.theme, scale=scale)

    @property
    def svg(self) -> str:
        """The picture as an SVG document that can also stand inside an HTML page."""
        if self._svg is None:
            self._svg = self.render("svg").decode("utf-8")
        return self._svg

    @property
    def png(self) -> bytes:
        """The picture as PNG at 144 dots an inch."""
        return self.render("png")

    @property
    def pdf(self) -> bytes:
        """The picture as PDF."""
        return self.render("pdf")

    @property
    def dot(self) -> str:
        """The graph in Graphviz's language, with positions, without title and legend."""
        return self.render("dot").decode("utf-8")

    def save(
        self, path: str | os.PathLike[str], *, theme: str | None = None, scale: float = 2.0
    ) -> Path:
        """Write the picture; the suffix of the file name gives the format.

        Parameters
        ----------
        path : path-like
            Ends in .svg, .png, .pdf or .dot.
        theme : {"auto", "light", "dark"}, optional
            None: the picture's own.
        scale : float
            PNG resolution in multiples of 72 dots an inch.

        Returns
        -------
        pathlib.Path
            Where it was written.

        Raises
        ------
        ValueError
            The suffix names no format.
        """
        target = Path(path)
        format = target.suffix.lower().removeprefix(".")
        if format not in FORMATS:
            known = ", ".join(f".{f}" for f in FORMATS)
            raise ValueError(f"{target}: a picture is saved as one of {known}")
        target.write_bytes(self.render(format, theme=theme, scale=scale))
        return target

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        size = f"{self._graph.n_nodes} nodes, {self._graph.n_edges} edges"
        return f"<km.Picture {self.title!r}: {size}; .save('x.svg'), .png, .svg>"
