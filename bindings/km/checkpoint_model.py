"""Models from checkpoints of training runs (km.checkpoint writes them)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km.checkpoint import STATE, WEIGHTS, list_steps, read_state
from km.errors import ArgumentError, FormatError
from km.lora import LoRA
from km.optimizers import SGD
from km.tensor_file import read_tensors
from km.trainable import Snapshot
from km.trainer import Trainer

if TYPE_CHECKING:
    from km.model import Model


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a checkpoint, or a folder of them."""
    if not os.fspath(path):  # not the working directory
        return False
    folder = Path(path).expanduser()
    return (folder / STATE).is_file() or (folder.is_dir() and bool(list_steps(folder)))


def load_checkpoint(path: str | os.PathLike[str], origin: Model | None) -> Model:
    """The model a checkpoint holds; of a folder of them the newest.

    Parameters
    ----------
    path : path-like
    origin : Model, optional
        The model that was trained, since checkpoints hold only what was trained.

    Raises
    ------
    ArgumentError
        There is no origin, or it is not the model that was trained.
    FormatError
        The checkpoint is damaged.
    """
    place = Path(path).expanduser()
    if not (place / STATE).is_file():
        place = place / f"step-{list_steps(place)[-1]}"
    state = read_state(place)
    try:
        recipe, step = state["recipe"], int(state["step"])
        wanted, lora = str(recipe["model"]), recipe["lora"]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{place / STATE}: field {error} is missing or malformed") from None
    if origin is None or origin.fingerprint != wanted:
        given = "" if origin is None else f", not of {origin.name}"
        raise ArgumentError(
            f"{place} is a checkpoint of the model with fingerprint {wanted[:12]}…{given}; give "
            "that one as origin"
        )
    values, _ = read_tensors(place / WEIGHTS, ours=True)
    name = f"{origin.name} (step {step})"
    if lora is None:
        model = Snapshot(origin, values).model(name)
    else:
        model = _merge(origin, LoRA(**lora), values, step, place).frozen(name)
    if model.fingerprint != state["fingerprint"]:
        raise FormatError(f"{place}: the weights are not those that were written")
    return model


def _merge(origin: Model, lora: LoRA, values: dict[str, Any], step: int, place: Path) -> Any:
    """The trainable model with the adapters of a checkpoint written into it."""
    from km import _km

    names = lora.names(_km.parameters(origin._model))
    trainer = Trainer(origin.trainable(names), SGD(), lora=lora)
    for matrix, pair in trainer.adapters().items():
        for kind, array in zip(("lora_A", "lora_B"), pair, strict=True):
            found = values.get(f"{matrix}.{kind}")
            if found is None or found.shape != array.shape:
                raise FormatError(f"{place / WEIGHTS}: {matrix}.{kind} is missing or misshapen")
            array[...] = found
    trainer.restored(step)
    return trainer.model
