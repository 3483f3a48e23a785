"""One training to a folder: an advisory lock that ends with its process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from km.errors import ArgumentError, BusyError


class FolderLock:
    """A folder that one training at a time writes into; a context manager.

    Parameters
    ----------
    folder : path-like
        Made when it is not there.

    Raises
    ------
    ArgumentError
        The name is empty.
    BusyError
        On entering: another process is training into the folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not os.fspath(folder):
            raise ArgumentError("checkpoint is empty; it must name a folder")
        self.folder = Path(folder).expanduser()
        self._file = -1

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self.folder / ".lock", flags, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.__exit__()
            raise BusyError(f"{self.folder}: another process is training into it") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
