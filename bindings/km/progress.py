"""Progress of long calls: a tqdm bar, the user's own function, or nothing.

``progress=None`` shows a bar when standard error is a terminal or the code runs in a notebook;
True and False decide; a callable gets ``(done, total, info)``. The environment variable
``KM_PROGRESS=0`` turns bars off (but not a callable).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeAlias

ProgressFunction: TypeAlias = Callable[[int, int, dict[str, Any]], object]
Progress: TypeAlias = bool | ProgressFunction | None


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process; that ipykernel was imported does not say so."""
    application = sys.modules.get("ipykernel.kernelapp")
    return application is not None and bool(application.IPKernelApp.initialized())


def _wants_bar(progress: bool | None) -> bool:
    if os.environ.get("KM_PROGRESS") == "0":
        return False
    if progress is not None:
        return progress
    return in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


class ProgressReporter:
    """Carries progress from C and Python code to the user; use it as a context manager.

    Parameters
    ----------
    progress : bool, callable or None
    description : str
        Shown beside the bar.
    unit : str
        What is counted.
    total : int
        0: not known yet.

    Examples
    --------
    >>> seen = []
    >>> with ProgressReporter(lambda done, total, info: seen.append((done, total))) as report:
    ...     report(1, 2)
    ...     report(2, 2)
    >>> seen
    [(1, 2), (2, 2)]
    """

    def __init__(
        self, progress: Progress = None, description: str = "", unit: str = "it", total: int = 0
    ) -> None:
        self._call = progress if callable(progress) else None
        self._bar: Any = None
        self._base = 0
        self._total = total
        self._info: dict[str, Any] = {"description": description, "unit": unit}
        if self._call is None and _wants_bar(progress):  # type: ignore[arg-type]
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total or None, desc=description or None, unit=unit)

    def __enter__(self) -> ProgressReporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def start_part(self, base: int, **info: Any) -> None:
        """Count what follows from `base`: for work made of several C calls over one total."""
        self._base = base
        self._info.update(info)
        if self._bar is not None and "relation" in info:
            self._bar.set_postfix_str(str(info["relation"]))

    def tell(self, text: str, **info: Any) -> None:
        """Show figures of the moment beside the bar; a callable finds `info` in its own."""
        self._info.update(info)
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def __call__(self, done: int, total: int = 0) -> None:
        """Report `done` units of the current part; fits the callback of ``km._km`` functions."""
        at = self._base + done
        whole = self._total or total
        if self._call is not None:
            self._call(at, whole, dict(self._info))
        elif self._bar is not None:
            if whole and self._bar.total != whole:
                self._bar.total = whole
            self._bar.update(at - self._bar.n)
