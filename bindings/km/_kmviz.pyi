# The extension module _kmviz: pictures through Graphviz. Docstrings and parameter lists of the C
# sources are taken from here, as in _km.pyi.
from typing import Literal, TypeAlias, final

_Layout: TypeAlias = Literal["fixed", "down", "right", "spring", "radial"]
_Shape: TypeAlias = Literal[
    "plain", "box", "round", "ellipse", "diamond", "triangle", "invtriangle", "hexagon"
]
_Line: TypeAlias = Literal["solid", "dashed", "dotted"]

def text_width(text: str, size: float = 10.0, bold: bool = False) -> float:
    """Width in points of one line of text in the widest font a picture names.

    Parameters
    ----------
    text : str
    size : float
        Font size in points.
    bold : bool
    """

def paint_hex(name: str, dark: bool = False) -> str:
    """A colour of the pictures as "#rrggbb", or "none".

    Parameters
    ----------
    name : str
        As :class:`Graph` takes it, such as "blue".
    dark : bool
        The value for dark grounds.

    Raises
    ------
    ArgumentError
        No colour has this name.
    """

@final
class Graph:
    """A plain graph that Graphviz lays out and draws.

    Lengths are points (1/72 inch), x to the right, y downwards. Text is data: it is never parsed as
    markup or as a Graphviz escape. Colours are named by meaning ("ink", "muted", "line", "grid",
    "faint", "paper", "none") or by hue ("blue", "sky", "green", "orange", "vermilion", "purple",
    "yellow", "mid-blue", and "pale-" before blue, green, orange, vermilion, purple).

    Parameters
    ----------
    layout : {"fixed", "down", "right", "spring", "radial"}
        "fixed": nodes carry their positions; else an engine finds them.
    title, subtitle, description, footnote : str
        Text around the picture; the description is for readers who cannot see it.

    Raises
    ------
    ArgumentError
        A text holds a control character other than the line feed, or is longer than 8,192 bytes.
    """

    def __new__(
        cls,
        layout: _Layout | str = "fixed",
        title: str = "",
        subtitle: str = "",
        description: str = "",
        footnote: str = "",
    ) -> Graph: ...
    def add_node(
        self,
        label: str = "",
        *,
        title: str | None = None,
        shape: _Shape | str = "round",
        fill: str = "none",
        stroke: str = "line",
        text: str = "ink",
        align: Literal["centre", "left", "right"] | str = "centre",
        x: float = 0.0,
        y: float = 0.0,
        width: float = 0.0,
        height: float = 0.0,
        size: float = 0.0,
        pen: float = 0.0,
        bold: bool = False,
        line: _Line | str = "solid",
        cluster: int = -1,
    ) -> int:
        """Add a node and return its number.

        Parameters
        ----------
        label : str
            Text inside; a line feed separates lines.
        title : str, optional
            Shown on hovering; None: the label.
        shape, fill, stroke, text : str
            Shape, and colours of the inside, the outline and the label.
        align : {"centre", "left", "right"}
            Boxes and plain text only; other shapes are centred.
        x, y : float
            Centre, in a fixed layout.
        width, height : float
            Points; 0: as the label needs.
        size : float
            Font size in points; 0: 10.
        pen : float
            Width of the outline; 0: 1.
        bold : bool
        line : {"solid", "dashed", "dotted"}
            Style of the outline.
        cluster : int
            A number from add_cluster; -1: none.

        Raises
        ------
        ArgumentError
            A name or a text that is not allowed, or a length that is not between 0 and 20,000.
        UnsupportedError
            The picture would hold more than 5,000 nodes.
        """
    def add_edge(
        self,
        source: int,
        target: int,
        *,
        label: str | None = None,
        title: str | None = None,
        color: str = "line",
        width: float = 0.0,
        weight: float = 0.0,
        arrow: bool = False,
        line: _Line | str = "solid",
        route: Literal["line", "across", "down"] | str = "line",
    ) -> int:
        """Add an edge between two nodes and return its number.

        Parameters
        ----------
        source, target : int
            Numbers from add_node.
        label : str, optional
            Drawn where an engine finds the places.
        title : str, optional
            Shown on hovering.
        color : str
        width : float
            Points; 0: 1.
        weight : float
            Pull in an engine's layout; 0: 1.
        arrow : bool
        line : {"solid", "dashed", "dotted"}
        route : {"line", "across", "down"}
            In a fixed layout: straight, or smooth from side to side, or from bottom to top.
        """
    def add_cluster(self, label: str = "") -> int:
        """Add a labelled frame and return its number, which nodes name."""
    def add_legend(
        self,
        label: str,
        *,
        shape: _Shape | str = "round",
        fill: str = "none",
        stroke: str = "line",
        width: float = 0.0,
        height: float = 0.0,
        line: _Line | str = "solid",
    ) -> None:
        """Add a mark and its meaning to the legend."""
    def render(
        self,
        format: Literal["svg", "png", "pdf", "dot"] | str = "svg",
        *,
        theme: Literal["auto", "light", "dark"] | str = "auto",
        scale: float = 2.0,
    ) -> bytes:
        """Lay out and draw.

        Parameters
        ----------
        format : {"svg", "png", "pdf", "dot"}
            "dot" holds the graph alone, without title, legend and footnote.
        theme : {"auto", "light", "dark"}
            "auto" follows the reader's setting in SVG and is light elsewhere.
        scale : float
            PNG resolution in multiples of 72 dots an inch, 0.1 to 8.

        Raises
        ------
        UnsupportedError
            Graphviz was installed without the writer for this format.
        """
    @property
    def n_nodes(self) -> int:
        """Number of nodes added."""
    @property
    def n_edges(self) -> int:
        """Number of edges added."""
