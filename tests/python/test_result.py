"""Provenance, canonical JSON, content keys, progress."""

from __future__ import annotations

import hashlib
import json
import sys
import types

import numpy as np
import pytest

import km
from km.progress import ProgressReporter
from km.result import canonical_json, content_key, make_provenance

TABLE = km.Table([("n", "int64")], [[1, 2]])


def test_canonical_json() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"é": "x"}, "c": ()}
    assert canonical_json(value) == '{"a":{"\\u00e9":"x"},"b":[1,2.5,null,true],"c":[]}'
    reordered = dict(reversed(list(value.items())))
    assert canonical_json(reordered) == canonical_json(value)
    assert canonical_json([np.int32(3), np.float64(0.1), np.arange(2)]) == "[3,0.1,[0,1]]"
    assert json.loads(canonical_json(0.1 + 0.2)) == 0.1 + 0.2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {1: 2}, object(), {"a": b"x"}])
def test_what_has_no_canonical_json(bad: object) -> None:
    with pytest.raises(km.ArgumentError, match="canonical JSON"):
        canonical_json(bad)


def test_content_key() -> None:
    key = content_key("memorization.recall", 1, {"k": 3}, "f" * 64, [[1, 2], [3]])
    text = (
        '{"measure":"memorization.recall","model":"' + "f" * 64 + '","parameters":{"k":3},'
        '"tokens":[[1,2],[3]],"version":1}'
    )
    assert key == hashlib.sha256(text.encode()).hexdigest()
    assert key == content_key(
        "memorization.recall", 1, {"k": 3}, "f" * 64, (np.array([1, 2], np.int32), (3,))
    )
    for other in (
        content_key("memorization.recall", 2, {"k": 3}, "f" * 64, [[1, 2], [3]]),
        content_key("memorization.recall", 1, {"k": 4}, "f" * 64, [[1, 2], [3]]),
        content_key("memorization.recall", 1, {"k": 3}, "e" * 64, [[1, 2], [3]]),
        content_key("memorization.recall", 1, {"k": 3}, "f" * 64, [[1], [2, 3]]),
    ):
        assert other != key


def test_provenance_and_result(model: km.Model) -> None:
    provenance = make_provenance("test.measure", 2, model, {"k": 3}, seed=7)
    result = km.Result(TABLE, provenance)
    assert (result.measure, result.parameters, len(result)) == ("test.measure", {"k": 3}, 2)
    assert set(provenance) == {
        "measure", "version", "parameters", "seed", "model", "km_version", "cpu", "blas_core",
        "time", "command",
    }  # fmt: skip
    assert provenance["model"]["fingerprint"] == model.fingerprint
    assert provenance["km_version"] == km.__version__
    assert json.loads(json.dumps(provenance)) == provenance
    assert "test.measure v2 of SmolLM2-135M-Instruct (Q4_1)" in repr(result)
    page = result._repr_html_()
    assert model.fingerprint in page
    with pytest.raises(km.ArgumentError):
        make_provenance("test.measure", 2, None, {"k": float("nan")})


def test_result_html_is_escaped() -> None:
    provenance = make_provenance("<b>", 1, None, {"text": "<script>"})
    page = km.Result(TABLE, provenance)._repr_html_()
    assert "<script>" not in page
    assert "<b>&lt;b&gt; v1</b>" in page


# ---- progress ----


def test_progress_callable_sees_the_whole_work() -> None:
    seen: list[tuple[int, int, str]] = []
    with ProgressReporter(
        lambda done, total, info: seen.append((done, total, info["relation"])),
        "measuring",
        "facts",
        10,
    ) as report:
        report.start_part(0, relation="a")
        report(4, 4)
        report.start_part(4, relation="b")
        report(1, 6)
        report(6, 6)
    assert seen == [(4, 10, "a"), (5, 10, "b"), (10, 10, "b")]


class FakeBar:
    """Stands in for tqdm's bar."""

    def __init__(self, **options: object) -> None:
        self.total = options["total"]
        self.n = 0
        self.closed = False

    def update(self, step: int) -> None:
        self.n += step

    def set_postfix_str(self, text: str) -> None:
        self.text = text

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[FakeBar]:
    made: list[FakeBar] = []
    module = types.ModuleType("tqdm.auto")

    def tqdm(**options: object) -> FakeBar:
        made.append(FakeBar(**options))
        return made[-1]

    module.tqdm = tqdm  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    monkeypatch.delenv("KM_PROGRESS", raising=False)
    return made


def test_a_bar_counts_and_closes_on_errors(bars: list[FakeBar]) -> None:
    def fail_halfway() -> None:
        with ProgressReporter(True) as report:
            report(3, 10)
            report(5, 10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    (bar,) = bars
    assert (bar.n, bar.total, bar.closed) == (5, 10, True)


def test_no_bar_when_nobody_looks(bars: list[FakeBar], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(isatty=lambda: False))
    ProgressReporter(None)(1, 2)
    ProgressReporter(False)(1, 2)
    monkeypatch.setattr(sys, "stderr", None)
    ProgressReporter(None)(1, 2)
    # A program may have imported ipykernel without being a notebook.
    application = types.SimpleNamespace(initialized=lambda: False)
    kernel = types.SimpleNamespace(IPKernelApp=application)
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", kernel)
    ProgressReporter(None)(1, 2)
    assert bars == []
    application.initialized = lambda: True
    ProgressReporter(None)(1, 2)
    assert len(bars) == 1
    bars.clear()
    application.initialized = lambda: False
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(isatty=lambda: True))
    ProgressReporter(None)(1, 2)
    assert len(bars) == 1


def test_environment_turns_bars_off(bars: list[FakeBar], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KM_PROGRESS", "0")
    seen: list[int] = []
    ProgressReporter(True)(1, 2)
    ProgressReporter(lambda done, total, info: seen.append(done))(1, 2)
    assert bars == []
    assert seen == [1]
