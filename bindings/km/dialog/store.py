"""Trained selectors and unfinished trainings on the disk; damage is an error, never a number.

A selector is a folder with ``model.safetensors`` (weights) and ``diffks.json`` (arguments,
vocabulary, learning curve, and the SHA-256 of the weights' file). A training keeps one file,
``checkpoint.safetensors``: weights, the optimiser's averages, the best weights, and the state as
JSON in its header.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km import _km
from km.cache import atomic_write
from km.dialog.diffks import DiffKS, Progression, Sampling
from km.dialog.encoding import WordReader
from km.dialog.language_model import HiddenStates, Projection, StateReader, TokenReader
from km.dialog.matching import Matcher
from km.dialog.postks import PostKS
from km.dialog.vocabulary import SPECIAL, Vocabulary
from km.errors import ArgumentError, FormatError
from km.folder_lock import FolderLock
from km.result import canonical_json
from km.tensor_file import read_tensors, write_tensors

if TYPE_CHECKING:
    import numpy as np

    from km.model import Model

    Array = np.ndarray[Any, Any]

FORMAT = 1
WEIGHTS, FACTS, CHECKPOINT = "model.safetensors", "diffks.json", "checkpoint.safetensors"
_KIND = "knowledge selector"
_PROJECTION = "projection."  # prefix of the arrays of a projection of hidden states


# ---- selectors ----


def save_selector(selector: DiffKS, folder: str | os.PathLike[str], overwrite: bool) -> Path:
    """See :meth:`DiffKS.save`."""
    import numpy as np

    if not os.fspath(folder):
        raise ArgumentError("folder is empty; it must name a folder")
    place = Path(folder).expanduser()
    if (place / FACTS).exists() and not overwrite:
        raise ArgumentError(f"{place}: holds a selector already; overwrite=True replaces it")
    place.mkdir(parents=True, exist_ok=True)
    weights = _copies(selector._need_network().parameters())
    if selector.embeddings == "model":
        del weights["E"]  # the language model has them
    reader = selector._reader
    if isinstance(reader, StateReader):
        weights[f"{_PROJECTION}mean"] = np.ascontiguousarray(reader.projection.mean)
        weights[f"{_PROJECTION}axes"] = np.ascontiguousarray(reader.projection.axes)
    (place / FACTS).unlink(missing_ok=True)  # weights of one and facts of another are no selector
    write_tensors(place / WEIGHTS, weights, {"km": _KIND}, overwrite=True)
    facts: dict[str, Any] = {
        "km": _KIND,
        "format": FORMAT,
        "km_version": _km.version(),
        "parameters": selector.describe(),
        "none_text": selector._none_text,
        "vocabulary": _words(reader),
        "match": None if selector._matcher is None else selector._matcher.weights,
        "curve": selector._progression.curve,
        "best_epoch": selector.best_epoch,
        "weights_sha256": _file_digest(place / WEIGHTS),
    }
    facts["sum"] = _sum(facts)
    with atomic_write(place / FACTS) as file:
        file.write(json.dumps(facts, ensure_ascii=False, indent=1).encode())
    return place


def _words(reader: Any) -> list[str] | None:
    return list(reader.vocabulary.words[len(SPECIAL) :]) if isinstance(reader, WordReader) else None


def load_selector(folder: str | os.PathLike[str], model: Model | None) -> DiffKS:
    """See :meth:`DiffKS.load`."""
    place = Path(folder).expanduser()
    facts = _read_facts(place / FACTS)
    if not (place / WEIGHTS).is_file() or _file_digest(place / WEIGHTS) != facts["weights_sha256"]:
        raise FormatError(f"{place / WEIGHTS}: is not the file that {FACTS} was written with")
    weights, _ = read_tensors(place / WEIGHTS, ours=True)
    try:
        parameters = dict(facts["parameters"])
        if parameters.get("sampling") is not None:
            parameters["sampling"] = Sampling(**parameters["sampling"])
        parameters["model"] = _same_model(place, parameters["model"], model)
        selector = _make(parameters)
        selector._none_text = str(facts["none_text"])
        selector._progression = Progression(list(facts["curve"]), int(facts["best_epoch"]))
    except (TypeError, KeyError) as error:
        raise FormatError(f"{place / FACTS}: does not describe a selector ({error})") from None
    _restore(place, selector, facts["vocabulary"], weights)
    if selector.match:
        selector._matcher = Matcher.from_facts(facts["match"], str(place / FACTS))
    return selector


def _make(parameters: dict[str, Any]) -> DiffKS:
    variant = parameters.pop("variant")
    if variant == "posterior":
        return PostKS(**parameters)
    return DiffKS(variant, **parameters)


def _restore(place: Path, selector: DiffKS, vocabulary: Any, weights: dict[str, Array]) -> None:
    """Put words and weights into a selector that was made of its arguments."""
    import numpy as np

    projection = [weights.pop(f"{_PROJECTION}{name}", None) for name in ("mean", "axes")]
    if selector.embeddings == "random":
        if not isinstance(vocabulary, list) or not all(isinstance(w, str) for w in vocabulary):
            raise FormatError(f"{place / FACTS}: vocabulary is no list of words")
        selector._reader = WordReader(Vocabulary(vocabulary), selector.max_words)
    elif selector.embeddings == "model":
        assert selector.model is not None
        selector._reader = TokenReader(selector.model, selector.max_words)
    else:
        mean, axes = projection
        if mean is None or axes is None or axes.shape != (len(mean), selector.embedding):
            raise FormatError(f"{place / WEIGHTS}: has no projection of hidden states")
        assert selector.model is not None
        selector._reader = StateReader(
            HiddenStates(selector.model), Projection(mean, axes), selector.max_words
        )
    selector._network = selector._make_network()
    if selector.embeddings == "model":
        weights["E"] = np.array(selector._network.parameters()["E"])
    _check_names(place / WEIGHTS, weights, selector._network)
    selector._load_weights(weights)


def _same_model(place: Path, fingerprint: str | None, model: Model | None) -> Model | None:
    if fingerprint is None:
        return None
    if model is None:
        raise ArgumentError(f"{place}: needs the language model it was trained with: model=")
    if model.fingerprint != fingerprint:
        raise ArgumentError(
            f"{place}: was trained with another language model than {model.name} "
            f"(fingerprint {fingerprint[:12]})"
        )
    return model


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is no selector of km ({error})") from None
    if not isinstance(facts, dict) or facts.get("km") != _KIND:
        raise FormatError(f"{path}: is no selector of km")
    if facts.get("format") != FORMAT:
        raise FormatError(f"{path}: has format {facts.get('format')}; this km reads {FORMAT}")
    if facts.pop("sum", None) != _sum(facts):
        raise FormatError(f"{path}: is damaged; it is not what was written")
    return facts


def _sum(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copies(arrays: Mapping[str, Any]) -> dict[str, Array]:
    import numpy as np

    return {name: np.array(values) for name, values in arrays.items()}


def _check_names(path: Path, found: Mapping[str, Any], network: _km.DiffKS) -> None:
    own = {name: tuple(values.shape) for name, values in _copies(network.parameters()).items()}
    if found.keys() != own.keys():
        name = min(found.keys() ^ own.keys())
        raise FormatError(f"{path}: {name!r} is not in both the file and the selector")
    for name, values in found.items():
        if values.shape != own[name] or str(values.dtype) != "float32":
            raise FormatError(f"{path}: {name!r} has another shape or type than the selector's")


# ---- unfinished trainings ----


class Checkpoint(FolderLock):
    """The checkpoint of one training in a folder; a context manager that keeps others out.

    Parameters
    ----------
    folder : path-like
    recipe : dict
        Everything that decides what the training computes.

    Raises
    ------
    BusyError
        Another process is training into the folder.
    """

    def __init__(self, folder: str | os.PathLike[str], recipe: Mapping[str, Any]) -> None:
        super().__init__(folder)
        self.recipe = json.loads(canonical_json(recipe))

    def save(self, network: _km.DiffKS, done: Progression) -> None:
        """Everything after an epoch, in place of what was there."""
        arrays = {f"now.{name}": values for name, values in _copies(network.parameters()).items()}
        for name, (first, second) in network.averages().items():
            arrays |= _copies({f"first.{name}": first, f"second.{name}": second})
        arrays |= {f"best.{name}": values for name, values in done.best_weights.items()}
        state = {
            "format": FORMAT,
            "recipe": self.recipe,
            "steps": network.steps,
            "curve": done.curve,
            "best": done.best,
            "best_accuracy": done.best_accuracy,
        }
        facts = {"km": "selector checkpoint", "state": json.dumps(state)}
        write_tensors(self.folder / CHECKPOINT, arrays, facts, overwrite=True)

    def resume(self, network: _km.DiffKS) -> Progression | None:
        """Put what was kept into a fresh network; None when there is nothing.

        Raises
        ------
        FormatError
            The checkpoint is damaged.
        ArgumentError
            It is of another training; the message names what differs.
        """
        from km.checkpoint import differences

        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        arrays, facts = read_tensors(path, ours=True)
        state = _state_of(path, facts)
        found = list(differences(state["recipe"], self.recipe))
        if found:
            raise ArgumentError(
                f"{self.folder}: holds another training ({'; '.join(found[:4])}); give another "
                "folder, or delete this one"
            )
        groups: dict[str, dict[str, Array]] = {}
        for name, values in arrays.items():
            kind, _, rest = name.partition(".")
            groups.setdefault(kind, {})[rest] = values
        for kind in ("now", *(["best"] if "best" in groups else [])):
            _check_names(path, groups.get(kind, {}), network)
        self._restore(path, network, groups, int(state["steps"]))
        best = groups.get("best", {})
        return Progression(state["curve"], state["best"], state["best_accuracy"], best)

    def _restore(
        self, path: Path, network: _km.DiffKS, groups: dict[str, dict[str, Array]], steps: int
    ) -> None:
        import numpy as np

        averages = network.averages()
        for kind in ("first", "second"):
            if groups.get(kind, {}).keys() != averages.keys():
                raise FormatError(f"{path}: has not the averages of this training")
        network.load_parameters(groups["now"])
        for name, (first, second) in averages.items():
            np.asarray(first)[...] = groups["first"][name]
            np.asarray(second)[...] = groups["second"][name]
        network.set_steps(steps)


def _state_of(path: Path, facts: Mapping[str, str]) -> dict[str, Any]:
    try:
        state = json.loads(facts["state"])
        if facts["km"] != "selector checkpoint" or state["format"] != FORMAT:
            raise KeyError("km")
    except (KeyError, TypeError, ValueError):
        raise FormatError(f"{path}: is no checkpoint of a selector") from None
    assert isinstance(state, dict)
    return state
