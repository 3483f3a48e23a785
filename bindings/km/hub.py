"""Models in the Hugging Face cache on this machine. Nothing is ever downloaded."""

from __future__ import annotations

import os
import re
from pathlib import Path

from km.errors import ArgumentError, FormatError, NotFoundError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_name(name: str) -> bool:
    """Whether a text has the form "org/name"."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def hub_cache() -> Path:
    """The folder the Hugging Face tools keep models in, as their environment variables say."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(variable):
            return Path(value).expanduser()
    if value := os.environ.get("HF_HOME"):
        return Path(value).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def find_snapshot(name: str, revision: str | None = None) -> Path:
    """The snapshot of a model: a folder, or the one GGUF file in it.

    Parameters
    ----------
    name : str
        "org/name".
    revision : str, optional
        A branch, a tag or a commit; default "main".

    Raises
    ------
    NotFoundError
        It is not in the cache; the message says where it was looked for and which command gets it.
    """
    revision = "main" if revision is None else revision
    if not revision or revision.startswith("/") or ".." in revision.split("/"):
        raise ArgumentError(f"revision is {revision!r}; it must be a branch, a tag or a commit")
    folder = hub_cache() / f"models--{name.replace('/', '--')}"
    command = f"hf download {name}" + ("" if revision == "main" else f" --revision {revision}")
    if not folder.is_dir():
        raise NotFoundError(
            f"no model {name!r}: neither a file or folder nor in the Hugging Face cache (there is "
            f"no {folder}); km downloads nothing: get it with: {command}"
        )
    commit = _commit(folder, revision)
    snapshot = folder / "snapshots" / commit
    if commit == "" or not snapshot.is_dir():
        known = sorted(path.name for path in folder.glob("snapshots/*") if path.is_dir())
        there = f"; there are {', '.join(known)}" if known else ""
        raise NotFoundError(
            f"the Hugging Face cache has {name!r}, but not its revision {revision!r} (looked in "
            f"{folder}{there}); get it with: {command}"
        )
    return _model_in(snapshot, name, command)


def _commit(folder: Path, revision: str) -> str:
    """The commit a revision stands for; "" when the cache does not know it."""
    reference = folder / "refs" / revision
    if reference.is_file():
        commit = reference.read_text(encoding="utf-8", errors="replace").strip()
        if _COMMIT.fullmatch(commit) is None:
            raise FormatError(f"{reference}: holds no commit")
        return commit
    return revision if _COMMIT.fullmatch(revision) else ""


def _model_in(snapshot: Path, name: str, command: str) -> Path:
    """The snapshot itself, or its GGUF file when it has no safetensors."""
    if any(snapshot.glob("*.safetensors")):
        return snapshot
    files = sorted(snapshot.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if files:
        listed = "\n  ".join(str(file) for file in files)
        raise ArgumentError(
            f"{name!r} has {len(files)} GGUF files; give the path of one:\n  {listed}"
        )
    raise NotFoundError(
        f"{snapshot}: holds neither safetensors nor GGUF files (an unfinished download, or weights "
        f"as pickles, which km does not open); get them with: {command}"
    )
