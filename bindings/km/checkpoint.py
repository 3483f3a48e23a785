"""Checkpoints of a training run: everything it needs to go on with the same bits.

A folder holds ``step-N/`` for some finished steps N, each with

weights.safetensors
    The values of what is trained: parameters, or A and B of adapters.
optimizer.safetensors
    The optimiser's averages.
state.json
    Step, recipe, learning curve, fingerprint of the weights. The order of the data is a function of
    the recipe's seed and the step, so no state of a random generator is needed.

``step-N`` appears under its name when all of it is on the disk. Each file says of what step it is
and has a sum over its bytes. A second run into the same folder waits for nobody: it is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from km import _km
from km.arguments import whole_number
from km.cache import atomic_write
from km.errors import ArgumentError, FormatError
from km.folder_lock import FolderLock
from km.result import canonical_json
from km.tensor_file import read_tensors, write_tensors

if TYPE_CHECKING:
    import numpy as np

    from km.trainer import Trainer

FORMAT = 1
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
_ADVICE = "delete this checkpoint to go on from the one before"
SLACK = 1 << 20  # bytes of headers and of state.json, about


@dataclass
class Progress:
    """How far a run is.

    Attributes
    ----------
    rows : list of dict
        Of the learning curve.
    evaluated : int
        The last step that callbacks have seen; -1: none.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    evaluated: int = -1


class Checkpoints(FolderLock):
    """The checkpoints of one run in a folder; a context manager that keeps other runs out.

    Parameters
    ----------
    folder : path-like
        Made when it is not there.
    recipe : dict
        Everything that decides what the run computes.
    keep : int
        Newest checkpoints that stay.
    quota : int, optional
        Most bytes that the checkpoints may take, the one being written included.

    Raises
    ------
    ArgumentError
        The folder holds a run of another recipe; the message names what differs.
    BusyError
        Another process is writing there.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        recipe: Mapping[str, Any],
        keep: int,
        quota: int | None,
    ) -> None:
        super().__init__(folder)
        self.recipe = json.loads(canonical_json(recipe))
        self.keep = keep
        self.quota = None if quota is None else whole_number("quota", quota, 0)

    def __enter__(self) -> Self:
        super().__enter__()
        for left in self.folder.glob(".step-*.part"):  # of a run that was killed while writing
            shutil.rmtree(left, ignore_errors=True)
        for left in self.folder.glob(".step-*.old"):  # or while a new one took its place
            place = self.folder / left.stem[1:]
            _delete(left) if place.exists() else left.rename(place)
        return self

    def steps(self) -> list[int]:
        """The finished steps there are checkpoints of, rising."""
        return list_steps(self.folder)

    # ---- reading ----

    def resume(self, trainer: Trainer) -> Progress | None:
        """Put the newest checkpoint into a trainer; None when there is none.

        Raises
        ------
        FormatError
            The checkpoint is damaged, or of another version of km.
        """
        steps = self.steps()
        if not steps:
            return None
        place = self.folder / f"step-{steps[-1]}"
        state = read_state(place)
        if state["step"] != steps[-1]:
            raise FormatError(f"{place}: is of step {state['step']}; {_ADVICE}")
        changed = list(differences(state["recipe"], self.recipe))
        if changed:
            raise ArgumentError(
                f"{self.folder}: holds a run of another recipe ({'; '.join(changed[:4])}); "
                "give another folder, or delete this one"
            )
        weights, averages = _arrays(trainer)
        read = [
            (weights, _read_for(place / WEIGHTS, steps[-1], weights)),
            (averages, _read_for(place / OPTIMIZER, steps[-1], averages)),
        ]
        for arrays, found in read:  # nothing changes before all of it is known to be good
            for name, values in found.items():
                arrays[name][...] = values
        trainer.restored(steps[-1])
        if trainer.model.fingerprint != state["fingerprint"]:
            raise FormatError(f"{place}: the weights are not those that were written")
        return Progress(state["curve"], state["evaluated"])

    # ---- writing ----

    def check_quota(self, trainer: Trainer) -> None:
        """Refuse a quota that cannot hold a checkpoint and its successor.

        Raises
        ------
        ArgumentError
            With both figures.
        """
        needed = 2 * self._bytes(trainer)
        if self.quota is not None and self.quota < needed:
            raise ArgumentError(
                f"quota is {self.quota:,} bytes; one checkpoint and the one that takes its place "
                f"need {needed:,}"
            )

    def save(self, trainer: Trainer, progress: Progress) -> None:
        """Write the present state; older checkpoints stay until it is on the disk.

        Raises
        ------
        OSError
            There is no room; what was there before is still there.
        """
        step = trainer.n_steps
        place = self.folder / f"step-{step}"
        if place.exists() and read_state(place)["evaluated"] == progress.evaluated:
            return
        self._make_room(self._bytes(trainer))
        part = self.folder / f".step-{step}.{os.getpid()}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            self._write(part, trainer, progress)
            before = self.folder / f".step-{step}.old"
            if place.exists():  # the same step, before callbacks had seen it
                place.rename(before)
            part.rename(place)
            if before.exists():
                _delete(before)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        _sync(self.folder)
        for old in self.steps()[: -self.keep]:
            _delete(self.folder / f"step-{old}")

    def _write(self, part: Path, trainer: Trainer, progress: Progress) -> None:
        part.mkdir()
        weights, averages = _arrays(trainer)
        facts = {"km": "training checkpoint", "step": str(trainer.n_steps)}
        write_tensors(part / WEIGHTS, weights, facts)
        write_tensors(part / OPTIMIZER, averages, facts)
        state = {
            "km": "training checkpoint",
            "format": FORMAT,
            "km_version": _km.version(),
            "cpu": trainer.model.context.cpu,
            "blas_core": trainer.model.context.blas_core,
            "step": trainer.n_steps,
            "recipe": self.recipe,
            "fingerprint": trainer.model.fingerprint,
            "evaluated": progress.evaluated,
            "curve": progress.rows,
        }
        state["sum"] = _sum(state)
        with atomic_write(part / STATE) as file:
            file.write(json.dumps(state, indent=1).encode())
        _sync(part)

    def _bytes(self, trainer: Trainer) -> int:
        return sum(values.nbytes for _, values in trainer.arrays()) + SLACK

    def _make_room(self, needed: int) -> None:
        """Delete the oldest while the quota asks for it, but never the newest."""
        if self.quota is None:
            return
        steps = self.steps()
        sizes = {step: folder_bytes(self.folder / f"step-{step}") for step in steps}
        while len(steps) > 1 and sum(sizes[step] for step in steps) + needed > self.quota:
            _delete(self.folder / f"step-{steps.pop(0)}")


def list_steps(folder: Path) -> list[int]:
    """The steps that a folder holds whole checkpoints of, rising."""
    names = [place.name[5:] for place in folder.glob("step-*") if place.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def read_state(place: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises
    ------
    FormatError
        It is no checkpoint, damaged, or of another format.
    """
    try:
        if (place / STATE).exists() and not (place / STATE).is_file():
            raise OSError(f"{STATE} is no file")
        state = json.loads((place / STATE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{place}: is no checkpoint of km ({error})") from None
    if not isinstance(state, dict) or state.get("km") != "training checkpoint":
        raise FormatError(f"{place}: is no checkpoint of km")
    if state.get("format") != FORMAT:
        raise FormatError(f"{place}: has format {state.get('format')}; this km reads {FORMAT}")
    written = state.pop("sum", None)
    if written != _sum(state):
        raise FormatError(f"{place / STATE}: is not what was written; {_ADVICE}")
    return state


def _sum(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _delete(place: Path) -> None:
    """A checkpoint; of a link only the link."""
    if place.is_symlink():
        place.unlink()
    else:
        shutil.rmtree(place)


def folder_bytes(place: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in place.iterdir() if file.is_file())


Arrays = dict[str, "np.ndarray[Any, Any]"]


def _arrays(trainer: Trainer) -> tuple[Arrays, Arrays]:
    """The trainer's memory by name: what is trained, and averages."""
    names = [row[0] for row in _km.parameters(trainer.model._model)]
    weights: Arrays = {}
    averages: Arrays = {}
    for (parameter, kind, of), values in trainer.arrays():
        whole = names[parameter] if of == "values" else f"{names[parameter]}.{of}"
        if kind == of:
            weights[whole] = values
        else:
            averages[f"{whole}.{kind}"] = values
    return weights, averages


def _read_for(path: Path, step: int, arrays: Arrays) -> Arrays:
    """Values for arrays, of the given step; a mapping with the same names and shapes."""
    found, facts = read_tensors(path, ours=True)
    if facts.get("step") != str(step):
        raise FormatError(f"{path}: is of step {facts.get('step')}; {_ADVICE}")
    if found.keys() != arrays.keys():
        name = min(found.keys() ^ arrays.keys())
        raise FormatError(f"{path}: {name!r} is not in both the checkpoint and the model")
    for name, values in found.items():
        if values.shape != arrays[name].shape or values.dtype != arrays[name].dtype:
            raise FormatError(f"{path}: {name!r} has another shape or type than the model's")
    return found


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """What two recipes do not have in common, in words."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name} is {json.dumps(there)} there and {json.dumps(here)} here"
