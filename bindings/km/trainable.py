"""Models whose weights can change, and snapshots of them.

A parameter is one tensor as the forward pass uses it. It has its GGUF name ("blk.3.attn_q.weight")
whatever file the model came from; matrices are (out_features, in_features). What a file fuses,
transposes or interleaves is parted and put into order; gains of Gemma's norms keep their file's
convention (``config["norm_offset"]`` is added to them in the pass), and rows of q and k are in the
order that ``config["rope_pairs"]`` names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km import _km
from km.arguments import strings
from km.errors import ArgumentError, FormatError, NotFoundError
from km.model import Model
from km.table import Table

if TYPE_CHECKING:
    import numpy as np

Which: TypeAlias = str | Sequence[str]


class TrainableModel(Model):
    """A copy of a model with weights that can change; made by :meth:`km.Model.trainable`.

    Everything that works on a model works on it, on the values it has then. Nobody may change
    values while a pass over them runs, and sessions opened before a change hold keys and values of
    the old weights. Weights by their file's names, edits and files are those of an immutable copy,
    which each of :meth:`weights`, :meth:`weight`, :meth:`edit` and :meth:`save` makes anew.
    """

    def __init__(self, model: _km.Model, origin: Model) -> None:
        super().__init__(model, f"{origin.name} (trainable)")
        self._path = ""
        self._origin = origin
        self._lent = False

    @property
    def origin(self) -> Model:
        """The immutable model this one was made of."""
        return self._origin

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the present values: that of :meth:`frozen`.

        It is the origin's while nothing differs from it.
        """
        if self._lent:
            _km.trainable_changed(self._model)  # arrays may have been written through
        return self._model.fingerprint()

    def parameter(self, name: str) -> np.ndarray[Any, Any]:
        """The values of one parameter: the model's own memory, to be written through.

        Call :meth:`changed` after writing. A parameter that is not trainable comes as a read-only
        copy.
        """
        values = super().parameter(name)
        self._lent = self._lent or values.flags.writeable
        return values

    def changed(self) -> None:
        """Say that values were written through an array.

        They are checked before the next pass, which raises NumericError for one that is not finite,
        and the fingerprint is computed again.
        """
        _km.trainable_changed(self._model)

    def differing(self) -> list[str]:
        """Names of the parameters that differ in any bit from the origin's."""
        flags = _km.trainable_differs(self._model)
        return [row[0] for row, flag in zip(_rows(self), flags, strict=True) if flag]

    def snapshot(self) -> Snapshot:
        """The present values; only parameters that differ from the origin's are kept."""
        import numpy as np

        rows, values = _rows(self), {}
        for row, differs in zip(rows, _km.trainable_differs(self._model), strict=True):
            if differs:
                values[row[0]] = np.empty(_shape(row), dtype=np.float32)
        _km.parameters_into(self._model, [values.get(row[0]) for row in rows])
        return Snapshot(self._origin, values)

    def restore(self, snapshot: Snapshot) -> None:
        """Give every trainable parameter the snapshot's values, or the origin's.

        Raises
        ------
        ArgumentError
            The snapshot is of a model of another origin, or holds a parameter that is not trainable
            here.
        """
        _need_origin(snapshot, self._origin)
        rows = _rows(self)
        fixed = {row[0] for row in rows if not row[5]}.intersection(snapshot.names)
        if fixed:
            raise ArgumentError(f"the snapshot changes {min(fixed)!r}, which is not trainable here")
        _km.trainable_restore(self._model, [snapshot.values.get(row[0]) for row in rows])

    def frozen(self, name: str | None = None) -> Model:
        """An immutable model with the present values, which saves, edits and fingerprints as any.

        It has the names and layout of the file that the origin came from; parameters that differ
        from it are float32, the others stay as they are stored there.
        """
        frozen = Model(_km.parameters_replace(self._model), name or f"{self.origin.name} (trained)")
        frozen._path = ""
        return frozen

    def trainable(self, which: Which = "all") -> TrainableModel:
        """Another trainable copy, of the present values."""
        return self.frozen().trainable(which)

    def weights(self) -> Table:
        """Names, types and shapes of the weights as a file would have them."""
        return self.frozen().weights()

    def weight(self, name: str) -> np.ndarray[Any, Any]:
        """The present values of one weight by its file's name and in its layout, read-only."""
        return self.frozen().weight(name)

    def edit(self, changes: Mapping[str, Any]) -> Model:
        """An immutable model with other values in some weights; see :meth:`km.Model.edit`."""
        return self.frozen().edit(changes)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        format: Literal["gguf", "hf"] | None = None,
        dtype: Literal["keep", "F32", "F16", "BF16", "Q8_0"] = "keep",
        overwrite: bool = False,
    ) -> Path:
        """Write the present values to disk; see :meth:`km.Model.save`."""
        return self.frozen().save(path, format=format, dtype=dtype, overwrite=overwrite)


class Snapshot:
    """Values of a trainable model at one time: those that differ from its origin's.

    Made by :meth:`TrainableModel.snapshot` and :meth:`Snapshot.load`; immutable.
    """

    def __init__(self, origin: Model, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
        for array in values.values():
            array.flags.writeable = False
        self._origin = origin
        self._values = MappingProxyType(dict(values))

    @property
    def origin(self) -> Model:
        """The immutable model that the values are kept against."""
        return self._origin

    @property
    def values(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """The parameters kept, by name, float32 and read-only."""
        return self._values

    @property
    def names(self) -> list[str]:
        """Names of the parameters kept."""
        return list(self._values)

    @property
    def nbytes(self) -> int:
        """Memory the values take."""
        return sum(array.nbytes for array in self._values.values())

    def model(self, name: str | None = None) -> Model:
        """An immutable model with these values; the origin itself where nothing is kept."""
        if not self._values and name is None:
            return self._origin
        values = [self._values.get(row[0]) for row in _rows(self._origin)]
        replaced = _km.parameters_replace(self._origin._model, values)
        model = Model(replaced, name or f"{self._origin.name} (snapshot)")
        model._path = ""
        return model

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the values as safetensors; the file appears when it is whole."""
        from km.tensor_file import write_tensors

        facts = {
            "km": "snapshot",
            "origin": self._origin.fingerprint,
            "origin_name": self._origin.name,
        }
        return write_tensors(path, self._values, facts, overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], origin: Model) -> Snapshot:
        """Read a snapshot of a model made of `origin`.

        Raises
        ------
        ArgumentError
            It was made of another model.
        FormatError
            The file is no snapshot, is damaged, or does not fit the model.
        """
        from km.tensor_file import read_tensors

        if not isinstance(origin, Model):
            raise TypeError(f"origin must be a km.Model, not {type(origin).__name__}")
        values, facts = read_tensors(path, ours=True)
        if facts.get("km") != "snapshot":
            raise FormatError(f"{path}: is no snapshot")
        if isinstance(origin, TrainableModel):
            origin = origin.origin
        if facts.get("origin") != origin.fingerprint:
            raise ArgumentError(
                f"{path}: is a snapshot of {facts.get('origin_name', 'another model')} "
                f"({facts.get('origin', '')[:12]}), not of {origin.name} "
                f"({origin.fingerprint[:12]})"
            )
        shapes = {row[0]: _shape(row) for row in _rows(origin)}
        for name, array in values.items():
            if array.dtype != "float32" or array.shape != shapes.get(name):
                raise FormatError(f"{path}: {name!r} is no parameter of {origin.name}")
        return cls(origin, values)

    def __repr__(self) -> str:
        return (
            f"<km.Snapshot of {self._origin.name}: {len(self._values)} parameters, "
            f"{self.nbytes / 1e6:.0f} MB>"
        )


def trainable(model: Model, which: Which = "all") -> TrainableModel:
    """A copy with weights that can change; see :meth:`km.Model.trainable`."""
    rows = _rows(model)
    patterns = ["*"] if which == "all" else strings("which", which)
    flags = [False] * len(rows)
    for pattern in patterns:
        found = [fnmatchcase(row[0], pattern) for row in rows]
        if not any(found):
            middle = rows[len(rows) // 2][0]
            raise NotFoundError(f"no parameter {pattern!r}; one is {middle!r} (parameters())")
        flags = [a or b for a, b in zip(flags, found, strict=True)]
    if not any(flags):
        raise ArgumentError("which names no parameter")
    return TrainableModel(_km.trainable_new(model._model, flags), model)


def list_parameters(model: Model) -> Table:
    """The parameters of a model; see :meth:`km.Model.parameters`."""
    columns = [
        ("name", "text", "", "As GGUF names it; what parameter() and trainable() take."),
        ("kind", "text", "", '"matrix", "embedding", "gain" (of a norm) or "bias".'),
        ("layer", "int64", "", "Block it belongs to; empty outside the blocks."),
        ("rows", "int64", "", "Features out; 1 for a vector."),
        ("cols", "int64", "", "Features in; elements of a vector."),
        ("trainable", "bool", "", "Whether its values can change."),
    ]
    rows = _rows(model)
    layers = [row[2] if row[2] >= 0 else None for row in rows]
    names, kinds, _, n_rows, n_cols, flags = (list(c) for c in zip(*rows, strict=True))
    return Table(columns, [names, kinds, layers, n_rows, n_cols, flags])


def read_parameter(model: Model, name: str) -> np.ndarray[Any, Any]:
    """The values of one parameter; see :meth:`km.Model.parameter`."""
    import numpy as np

    values = np.asarray(_km.parameter(model._model, name))
    kinds = {row[0]: row[5] for row in _rows(model)}
    values.flags.writeable = kinds[name]
    return values


def _rows(model: Model) -> list[tuple[str, str, int, int, int, bool]]:
    return _km.parameters(model._model)


def _shape(row: tuple[str, str, int, int, int, bool]) -> tuple[int, ...]:
    return (row[4],) if row[1] in ("gain", "bias") else (row[3], row[4])


def _need_origin(snapshot: Snapshot, origin: Model) -> None:
    if not isinstance(snapshot, Snapshot):
        raise TypeError(f"restore takes a km.Snapshot, not {type(snapshot).__name__}")
    other = snapshot.origin
    if other is not origin and other.fingerprint != origin.fingerprint:
        raise ArgumentError(f"the snapshot is of a model made of {other.name}, not {origin.name}")
