"""Fixtures shared by the Python tests. The tests run against the installed package."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import km

# Before km is imported anywhere: no bars.
os.environ["KM_PROGRESS"] = "0"


def _load(name: str) -> km.Model:
    import km

    try:
        return km.load(name)
    except km.NotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A shell that starts the tests in the background leaves SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model() -> km.Model:
    """The embedded model, loaded once."""
    return _load("smollm2")


@pytest.fixture(scope="session")
def gemma() -> km.Model:
    """The second test model, loaded once."""
    return _load("gemma3")


@pytest.fixture(scope="session")
def model_path(model: km.Model) -> Path:
    """The embedded model's file."""
    return Path(model.path)


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    home = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home
