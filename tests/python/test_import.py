"""What `import km` costs and what it promises."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import km


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_import_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.process_time(); import km;"
        "print(time.process_time() - start);"
        "print([m for m in ('numpy', 'tqdm', 'pandas', 'km._kmviz') if m in sys.modules])"
    )
    outputs = [run_python(code).splitlines() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in outputs) < 0.050
    assert outputs[0][1] == "[]"


def test_tables_need_neither_numpy_nor_graphviz() -> None:
    code = (
        "import sys, km; t = km.Table([('a', 'int64')], [[1]]); repr(t); t._repr_html_();"
        "print([m for m in ('numpy', 'tqdm', 'km._kmviz') if m in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize("name", km.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(km, name) is not None
    assert name in dir(km)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'knowledge'"):
        km.knowledge  # noqa: B018


def test_version_is_the_distribution_s() -> None:
    assert km.__version__ == importlib.metadata.version("km") == km._km.version()


def test_package_is_typed() -> None:
    files = {str(path) for path in importlib.metadata.files("km") or []}
    assert {"km/py.typed", "km/_km.pyi", "km/_kmviz.pyi"} <= files
    assert "km/data/taxonomy.json" in files
