"""km's folder of things that can be made again: fingerprints and assembled models."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/km`` (default ``~/.cache/km``); not created."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~")) / ".cache"
    return root / "km"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes its name only when it has been written completely."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o666 & ~_umask())  # mkstemp makes files nobody else may read
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    return mask


def file_key(path: str | os.PathLike[str]) -> str | None:
    """Identity of a file, or of the files directly in a folder: path, size, time and inode."""
    try:
        real = Path(path).resolve(strict=True)
        files = sorted(p for p in real.iterdir() if p.is_file()) if real.is_dir() else [real]
        stats = [(str(p), p.stat()) for p in files]
    except OSError:
        return None
    facts = [[name, s.st_size, s.st_mtime_ns, s.st_dev, s.st_ino] for name, s in stats]
    return json.dumps(facts, ensure_ascii=True, separators=(",", ":"))


def read_fingerprint(key: str) -> str | None:
    """The fingerprint remembered for a file identity; None when there is none."""
    value = _read_fingerprints().get(key)
    is_hash = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    return value if is_hash else None


def write_fingerprint(key: str, fingerprint: str) -> None:
    """Remember a fingerprint; a cache that cannot be written is left alone."""
    known = _read_fingerprints()
    known[key] = fingerprint
    newest = dict(list(known.items())[-1000:])
    with contextlib.suppress(OSError), atomic_write(_fingerprints_path()) as file:
        file.write(json.dumps(newest).encode())


def _fingerprints_path() -> Path:
    return cache_dir() / "fingerprints-1.json"


def _read_fingerprints() -> dict[str, Any]:
    try:
        known = json.loads(_fingerprints_path().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
