"""A model's weights by name, edited copies, and models written to disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from km.errors import ArgumentError, ShapeError
from km.table import Table

if TYPE_CHECKING:
    import numpy as np

    from km.model import Model

Format: TypeAlias = Literal["gguf", "hf"]
Dtype: TypeAlias = Literal["keep", "F32", "F16", "BF16", "Q8_0"]


def list_weights(model: Model) -> Table:
    """The weights of a model's file; see :meth:`km.Model.weights`."""
    rows = model._model.weights()
    columns = [
        ("name", "text", "", "As the file calls it; what weight() and edit() take."),
        ("dtype", "text", "", "Type it is stored in."),
        ("shape", "text", "", "Sizes, outermost first."),
        ("n", "int64", "", "Number of values."),
    ]
    names, dtypes, shapes, counts = [], [], [], []
    for name, dtype, shape in rows:
        n = 1
        for size in shape:
            n *= size
        names.append(name)
        dtypes.append(dtype)
        shapes.append(" x ".join(map(str, shape)))
        counts.append(n)
    return Table(columns, [names, dtypes, shapes, counts])


def read_weight(model: Model, name: str) -> np.ndarray[Any, Any]:
    """The values of one weight; see :meth:`km.Model.weight`."""
    import numpy as np

    values = np.asarray(model._model.weight(name))
    values.flags.writeable = False
    return values


def edit(model: Model, changes: Mapping[str, Any]) -> Model:
    """A copy with other values in some weights; see :meth:`km.Model.edit`."""
    import numpy as np

    from km.model import Model

    if not isinstance(changes, Mapping):
        raise TypeError(f"edit() takes a dictionary of weights, not {type(changes).__name__}")
    shapes = {name: shape for name, _, shape in model._model.weights()}
    values = []
    for name, value in changes.items():
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise ShapeError(f"the values of {name!r} are {array.dtype}, not numbers")
        if name in shapes and array.shape != shapes[name]:
            raise ShapeError(f"weight {name!r} has shape {shapes[name]}, not {array.shape}")
        values.append(np.ascontiguousarray(array, dtype=np.float32))
    edited = Model(model._model.with_weights(list(changes), values), f"{model.name} (edited)")
    edited._path = ""
    return edited


def save(
    model: Model,
    path: str | os.PathLike[str],
    format: Format | None = None,
    dtype: Dtype = "keep",
    overwrite: bool = False,
) -> Path:
    """Write a model; see :meth:`km.Model.save`."""
    target = Path(path).expanduser()
    if format is None:
        format = "gguf" if target.suffix == ".gguf" else "hf"
    for name, value, known in (("format", format, Format), ("dtype", dtype, Dtype)):
        if value not in get_args(known):
            choices = ", ".join(get_args(known))
            raise ArgumentError(f"{name} is {value!r}; it must be one of {choices}")
    if format == "gguf" and Path(model._model.path).is_dir():
        from km.convert import to_gguf

        to_gguf(model, target, dtype, overwrite)
    else:
        model._model.save(target, format, dtype, overwrite)
    return target
