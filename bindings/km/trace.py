"""Traces: what one forward pass computed on the way, as arrays that share km's memory.

A :class:`TracePlan` says which points, layers, heads and positions are kept, in what shapes and in
how many bytes; a :class:`Trace` runs it and holds the one block of memory all arrays are views of.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from km import _km
from km.errors import ArgumentError, NotFoundError, ShapeError
from km.forest import Forest, Packed
from km.patching import Patches, Site, as_patches
from km.points import OVER_POSITIONS, WITH_HEADS, Choice, Point, Points, choose
from km.prompts import Positions, Prompt, Text, each_text, read_prompts, resolve

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np

    from km.model import Ids, Model

    Floats = np.ndarray[Any, np.dtype[np.float32]]

# What a run can be asked for besides the points.
OUTPUTS = ("logprobs", "next_logprobs")


@dataclass(frozen=True)
class Entry:
    """Where one point (or output) is in the block of results.

    Attributes
    ----------
    offset, size : int
        Floats.
    point : Point or None
        None for an output.
    layers : list of int
    heads : list of int or None
        Chosen heads; None: all, or no axis of heads.
    """

    offset: int
    size: int
    point: Point | None
    layers: list[int]
    heads: list[int] | None


class Selection:
    """The layers, heads and positions wanted of a forest, and how their arrays lie in memory.

    The block holds a point as (layers, [chosen heads,] positions of all texts, [heads,] width), so
    that one text, or all of them stacked, is a view.
    """

    def __init__(
        self,
        model: Model,
        prompts: list[Prompt],
        layers: Choice,
        heads: Choice,
        positions: Positions,
    ) -> None:
        self.points = Points(model)
        self.prompts = prompts
        self.vocab: int = model.config["vocab_size"]
        self.layers = choose(layers, self.points.n_layers, "layers", "layer")
        self.heads = heads
        wanted = each_text(positions, len(prompts))
        self.positions = [resolve(p, prompt) for p, prompt in zip(wanted, prompts, strict=True)]
        self.starts = [0]
        for found in self.positions:
            self.starts.append(self.starts[-1] + len(found))
        self.n_columns = max(len(prompt.ids) for prompt in prompts)

    def entry(self, name: str, offset: int) -> Entry:
        """Lay one point or output out."""
        if name in OUTPUTS:
            tokens = sum(len(prompt.ids) - 1 for prompt in self.prompts)
            size = tokens if name == "logprobs" else self.starts[-1] * self.vocab
            return Entry(offset, size, None, [0], None)
        point = self.points.find(name, OUTPUTS)
        heads = None
        if self.heads is not None and name in WITH_HEADS:
            heads = choose(self.heads, point.heads, f"heads of {name}", "head")
        layers = self.layers if point.has_layer else [0]
        n_heads = point.heads if heads is None else len(heads)
        size = len(layers) * n_heads * self.starts[-1] * self.width(point)
        return Entry(offset, size, point, layers, heads)

    def width(self, point: Point) -> int:
        """Elements of one head of one token."""
        return self.n_columns if point.name in OVER_POSITIONS else point.width

    # ---- views ----

    def one(self, block: Floats, name: str, entry: Entry, text: int) -> Floats:
        """The array of one text."""
        flat = block[entry.offset : entry.offset + entry.size]
        if name == "logprobs":
            begin = sum(len(prompt.ids) - 1 for prompt in self.prompts[:text])
            return flat[begin : begin + len(self.prompts[text].ids) - 1]
        where = slice(self.starts[text], self.starts[text + 1])
        if entry.point is None:
            return flat.reshape(-1, self.vocab)[where]
        view = self._with_layers(flat, entry, (self.starts[-1],))[:, where]
        if name in OVER_POSITIONS:
            view = view[..., : len(self.prompts[text].ids)]
        return view if entry.point.has_layer else view[0]

    def stacked(self, block: Floats, name: str, entry: Entry) -> Floats:
        """The arrays of all texts with a first axis of texts; ShapeError where they differ."""
        n = len(self.prompts)
        lengths = {len(prompt.ids) for prompt in self.prompts}
        counts = lengths if name == "logprobs" else {len(found) for found in self.positions}
        if len(counts) > 1:
            raise ShapeError(
                f"{name}: the texts have different numbers of positions ({min(counts)} to "
                f"{max(counts)}); take trace[i][{name!r}]"
            )
        flat = block[entry.offset : entry.offset + entry.size]
        if name == "logprobs":
            return flat.reshape(n, -1)
        count = counts.pop()
        if entry.point is None:
            return flat.reshape(n, count, self.vocab)
        view = self._with_layers(flat, entry, (n, count)).swapaxes(0, 1)
        return view if entry.point.has_layer else view[:, 0]

    def _with_layers(self, flat: Floats, entry: Entry, places: tuple[int, ...]) -> Floats:
        """A view (layers, *places, [heads,] width)."""
        import numpy as np

        assert entry.point is not None
        width = self.width(entry.point)
        layers = len(entry.layers)
        if entry.heads is not None:
            view = flat.reshape(layers, len(entry.heads), *places, width)
            return np.moveaxis(view, 1, -2)
        if entry.point.name in WITH_HEADS:
            return flat.reshape(layers, *places, entry.point.heads, width)
        return flat.reshape(layers, *places, width)

    # ---- what the extension takes ----

    def reads(self, packed: Packed, entries: Sequence[Entry]) -> array[int]:
        """Rows of the table of reads: one a layer and chosen head."""
        nodes = [
            packed.forest.nodes[i][position]
            for i, found in enumerate(self.positions)
            for position in found
        ]
        first, count = packed.add_nodes(nodes)
        rows = array("q")
        for entry in entries:
            if entry.point is None:
                continue
            offset = entry.offset
            heads = [-1] if entry.heads is None else entry.heads
            step = entry.size // (len(entry.layers) * len(heads))
            for layer in entry.layers:
                for head in heads:
                    rows.extend((entry.point.number, layer, head, first, count, offset))
                    offset += step
        return rows


class TracePlan:
    """What a trace will keep, known before it runs; made by :meth:`km.Model.plan_trace`.

    Attributes
    ----------
    points : tuple of str
        Points and outputs asked for.
    layers : list of int
    positions : list of list of int
        Of each text.
    n_tokens : int
        Distinct tokens that are computed.
    nbytes : int
        Memory of the arrays.
    """

    def __init__(
        self,
        model: Model,
        texts: Text | Sequence[Text],
        read: str | Sequence[str],
        layers: Choice,
        heads: Choice,
        positions: Positions,
        patches: Patches,
        bos: bool | None,
        share: bool = True,
    ) -> None:
        self.model = model
        self.points = _names(read, heads)
        self.prompts, self.single = read_prompts(model, texts, bos)
        self.patches = as_patches(patches)
        self.selection = Selection(model, self.prompts, layers, heads, positions)
        self.entries: dict[str, Entry] = {}
        size = 0
        for name in self.points:
            self.entries[name] = self.selection.entry(name, size)
            size += self.entries[name].size
        self.nbytes = 4 * size
        forest = Forest(self.prompts, self.patches, share)
        self.packed = Packed(forest, self.patches, self.selection.points)

    @property
    def layers(self) -> list[int]:
        """The layers read."""
        return self.selection.layers

    @property
    def positions(self) -> list[list[int]]:
        """The positions read of each text."""
        return self.selection.positions

    @property
    def n_tokens(self) -> int:
        """Distinct tokens that are computed."""
        return len(self.packed.forest.ids)

    @property
    def shapes(self) -> dict[str, tuple[int, ...] | list[tuple[int, ...]]]:
        """Shape of ``trace[name]``, or those of each text where they differ."""
        import numpy as np

        empty = np.lib.stride_tricks.as_strided(
            np.zeros(1, np.float32), (self.nbytes // 4,), (0,), writeable=False
        )
        shapes: dict[str, tuple[int, ...] | list[tuple[int, ...]]] = {}
        for name in self.points:
            try:
                shapes[name] = self.view(empty, name).shape
            except ShapeError:
                shapes[name] = [self.view(empty, name, i).shape for i in range(len(self.prompts))]
        return shapes

    def view(self, block: Floats, name: str, text: int | None = None) -> Floats:
        """The part of a block of results that a point is in."""
        entry = self.entries.get(name)
        if entry is None:
            raise NotFoundError(f"{name!r} was not read; this trace has {', '.join(self.points)}")
        if text is None and not self.single:
            return self.selection.stacked(block, name, entry)
        return self.selection.one(block, name, entry, text or 0)

    def run(self) -> Trace:
        """Run the plan."""
        return Trace(self).run()

    def compute(self) -> Floats:
        """The block of results of one forward pass."""
        import numpy as np

        self.check_memory()
        reads = self.selection.reads(self.packed, list(self.entries.values()))
        rows, targets = self._outputs()
        block = _km.trace_run(
            self.model._model,
            reads=np.asarray(reads, np.int64).reshape(-1, 6),
            rows=np.asarray(rows, np.int64).reshape(-1, 2),
            targets=np.asarray(targets, np.int64).reshape(-1, 3),
            n_out=self.nbytes // 4,
            **self.packed.arrays(),
        )
        return np.asarray(block)

    def check_memory(self) -> None:
        """MemoryError when the arrays do not fit into what is available."""
        available = _km.memory_available()
        if self.nbytes > available:
            raise MemoryError(
                f"the arrays of this trace need {self.nbytes / 2**20:,.0f} MiB; "
                f"{available / 2**20:,.0f} MiB are available: read fewer points, layers, heads or "
                "positions"
            )

    def _outputs(self) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]]]:
        """Rows of logits that are needed, and the single log-probabilities read off them."""
        nodes = self.packed.forest.nodes
        rows: list[tuple[int, int]] = []
        found: dict[int, int] = {}
        if "next_logprobs" in self.entries:
            offset = self.entries["next_logprobs"].offset
            for i, positions in enumerate(self.positions):
                for position in positions:
                    found.setdefault(nodes[i][position], len(rows))
                    rows.append((nodes[i][position], offset))
                    offset += self.selection.vocab
        targets: list[tuple[int, int, int]] = []
        if "logprobs" in self.entries:
            offset = self.entries["logprobs"].offset
            for i, prompt in enumerate(self.prompts):
                for node, id in zip(nodes[i], prompt.ids[1:], strict=False):
                    row = found.setdefault(node, len(rows))
                    if row == len(rows):
                        rows.append((node, -1))
                    targets.append((row, id, offset))
                    offset += 1
        return rows, sorted(targets)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {shape}" for name, shape in self.shapes.items())
        n = len(self.prompts)
        return (
            f"<km.TracePlan: {n} text{'s' if n != 1 else ''}, {self.n_tokens} distinct tokens, "
            f"{self.nbytes / 2**20:,.1f} MiB: {shown}>"
        )


class Trace:
    """The activations of one forward pass; made by :meth:`km.Model.trace`, run on entering `with`.

    ``trace["resid_post"]`` and ``trace.resid_post`` are float32 arrays that share km's memory:
    (layers, positions, D), with an axis of heads before the last one where the point has heads, and
    without the axis of layers where there are none. Of a list of texts they have a first axis of
    texts; where the texts' shapes differ, ``trace[i]`` is the i-th text's. Leaving the block gives
    the memory back as soon as no array is left that views it.

    Attributes
    ----------
    plan : TracePlan
    """

    def __init__(self, plan: TracePlan) -> None:
        self.plan = plan
        self._block: Floats | None = None
        self._closed = False

    def run(self) -> Trace:
        """Run the forward pass; `with` does this."""
        if self._closed:
            raise ArgumentError("this trace is closed; make a new one")
        if self._block is None:
            self._block = self.plan.compute()
        return self

    def close(self) -> None:
        """Let go of the memory; arrays taken before stay valid."""
        self._block = None
        self._closed = True

    def __enter__(self) -> Trace:
        return self.run()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def array(self, name: str, text: int | None = None) -> Floats:
        """The array of a point: of one text, or of all."""
        if self._closed:
            raise ArgumentError("this trace is closed; take the arrays inside its `with` block")
        if self._block is None:
            raise ArgumentError("this trace has not run; use it as `with model.trace(...) as t:`")
        return self.plan.view(self._block, name, text)

    def __len__(self) -> int:
        return len(self.plan.prompts)

    def __iter__(self) -> Iterator[TextTrace]:
        return (TextTrace(self, i) for i in range(len(self)))

    def __contains__(self, name: object) -> bool:
        return name in self.plan.points

    @overload
    def __getitem__(self, key: str) -> Floats: ...
    @overload
    def __getitem__(self, key: int) -> TextTrace: ...
    def __getitem__(self, key: str | int) -> Floats | TextTrace:
        if isinstance(key, str):
            return self.array(key)
        if not -len(self) <= key < len(self):
            raise IndexError(f"there is no text {key}; the trace has {len(self)}")
        return TextTrace(self, key % len(self))

    def __getattr__(self, name: str) -> Floats:
        if name.startswith("_") or name == "plan" or name not in self.plan.points:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self.array(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.plan.points})

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not run" if self._block is None else "run"
        return f"<km.Trace, {state}: {repr(self.plan)[1:-1]}>"


class TextTrace:
    """One text of a trace.

    Attributes
    ----------
    index : int
    ids : tuple of int
    positions, layers : list of int
        What the axes of positions and layers stand for.
    """

    def __init__(self, trace: Trace, index: int) -> None:
        self._trace = trace
        self.index = index
        self.ids = trace.plan.prompts[index].ids
        self.positions = trace.plan.positions[index]
        self.layers = trace.plan.layers

    def __getitem__(self, name: str) -> Floats:
        return self._trace.array(name, self.index)

    def __contains__(self, name: object) -> bool:
        return name in self._trace

    def __getattr__(self, name: str) -> Floats:
        if name.startswith("_") or name not in self._trace.plan.points:
            raise AttributeError(f"a text of this trace has no attribute {name!r}")
        return self[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._trace.plan.points})

    def __repr__(self) -> str:
        return f"<text {self.index} of {self._trace!r}: {len(self.ids)} tokens>"


def _names(read: str | Sequence[str], heads: Choice) -> tuple[str, ...]:
    """The points and outputs asked for, each once."""
    names = (read,) if isinstance(read, str) else tuple(read)
    if not names:
        raise ArgumentError("read is empty: name at least one point")
    if len(set(names)) < len(names):
        raise ArgumentError(f"read names a point twice: {', '.join(names)}")
    if heads is not None and not WITH_HEADS.intersection(names):
        raise ArgumentError(
            f"heads is given, but none of {', '.join(names)} has an axis of heads; those that have "
            f"are {', '.join(sorted(WITH_HEADS))}"
        )
    return names


def values_for(site: Site, trace: Trace, text: int, positions: Positions) -> Floats:
    """What a trace has at the layers, positions, heads and elements of a site."""
    import numpy as np

    plan, name = trace.plan, site.point
    values = trace[text][name]
    axes: list[tuple[list[int], list[int], str]] = []
    points = plan.selection.points
    point = points.find(name)
    if point.has_layer:
        axes.append((points.layers(point, site.layer), plan.layers, "layer"))
    found = resolve(each_text(positions, len(trace))[text], plan.prompts[text])
    axes.append((found, plan.positions[text], "position"))
    if name in WITH_HEADS:
        have = plan.entries[name].heads or list(range(point.heads))
        axes.append((choose(site.heads, point.heads, "heads", "head"), have, "head"))
    for axis, (wanted, have, what) in enumerate(axes):
        missing = [i for i in wanted if i not in have]
        if missing:
            raise ArgumentError(f"from_trace: the trace has not read {name} at {what} {missing[0]}")
        values = np.take(values, [have.index(i) for i in wanted], axis)
    if site.neurons is not None:
        chosen = choose(site.neurons, values.shape[-1], f"neurons of {name}", "element")
        values = values[..., chosen]
    return values


def run_logprobs(model: Model, ids: Ids, output: str, patches: Patches) -> Floats:
    """One of the outputs of a patched run over token ids."""
    from km.model import as_ids

    known = memoryview(as_ids(ids)).tolist()
    values = TracePlan(model, known, output, None, None, "last", patches, None).run().array(output)
    return values if output == "logprobs" else values[0]
