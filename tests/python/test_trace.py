"""Traces: what is kept, in which shapes, in whose memory, and what is refused."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arch_models import NAMES, load

import km
from km import _km
from km.prompts import read_prompt

ROOT = Path(__file__).parents[1] / "golden_data"
TEXT = "The tall tower stands near the old town."
OTHER = "The tall tower was red."


@pytest.fixture(scope="module")
def tiny() -> km.Model:
    """3 layers, 4 heads, 2 key heads."""
    return km.load(ROOT / "tiny_llama")


def sizes(model: km.Model) -> dict[str, int]:
    return {k: v for k, v in model.config.items() if isinstance(v, int)}


# ---- shapes ----


def test_shapes_of_one_text(tiny: km.Model) -> None:
    c, n = sizes(tiny), len(tiny.encode(TEXT))
    layers, heads, keys, width = c["n_layers"], c["n_heads"], c["n_kv_heads"], c["head_dim"]
    expected = {
        "embed": (n, c["d_model"]),
        "resid_post": (layers, n, c["d_model"]),
        "q": (layers, n, heads, width),
        "k": (layers, n, keys, width),
        "attn_pattern": (layers, n, heads, n),
        "mlp_hidden": (layers, n, c["d_ffn"]),
        "final_norm": (n, c["d_model"]),
        "logits": (n, c["vocab_size"]),
        "logprobs": (n - 1,),
        "next_logprobs": (n, c["vocab_size"]),
    }
    plan = tiny.plan_trace(TEXT, list(expected))
    assert plan.shapes == expected
    assert plan.nbytes == 4 * sum(int(np.prod(shape)) for shape in expected.values())
    with plan.run() as trace:
        for name, shape in expected.items():
            array = trace[name]
            assert array.shape == shape and array.dtype == np.float32
            assert getattr(trace, name).tobytes() == array.tobytes()
            assert trace[0][name].tobytes() == array.tobytes()


def test_only_what_is_asked_for_is_kept(tiny: km.Model) -> None:
    plan = tiny.plan_trace(
        TEXT, ["resid_post", "q"], layers=[2, 0], heads=[3], positions=[1, -1, 4]
    )
    c = sizes(tiny)
    assert plan.shapes == {"resid_post": (2, 3, c["d_model"]), "q": (2, 3, 1, c["head_dim"])}
    assert plan.nbytes == 4 * (2 * 3 * c["d_model"] + 2 * 3 * c["head_dim"])
    last = len(tiny.encode(TEXT)) - 1
    assert plan.layers == [2, 0] and plan.positions == [[1, last, 4]]
    with tiny.trace(TEXT, ["resid_post", "q"]) as whole, plan.run() as part:
        for layer, of in ((0, 2), (1, 0)):
            for position, at in ((0, 1), (1, last), (2, 4)):
                a, b = part["resid_post"][layer, position], whole["resid_post"][of, at]
                assert a.tobytes() == b.tobytes()
                a, b = part["q"][layer, position, 0], whole["q"][of, at, 3]
                assert a.tobytes() == b.tobytes()


def test_several_texts(tiny: km.Model) -> None:
    read = ["resid_mid", "attn_pattern", "k", "embed", "logprobs", "next_logprobs"]
    with tiny.trace([TEXT, OTHER], read) as trace:
        assert len(trace) == 2 and [text.index for text in trace] == [0, 1]
        for name in read:
            with pytest.raises(km.ShapeError, match=rf"take trace\[i\]\['{name}'\]"):
                trace[name]
        for i, text in enumerate((TEXT, OTHER)):
            with tiny.trace(text, read) as alone:
                assert trace[i].ids == tuple(tiny.encode(text))
                for name in read:
                    assert trace[i][name].shape == alone[name].shape
                    assert trace[i][name].tobytes() == alone[name].tobytes()


def test_texts_are_stacked_where_shapes_agree(tiny: km.Model) -> None:
    texts = [TEXT, OTHER, TEXT]
    for heads in (None, [2, 0]):
        read = ["resid_post", "q", "final_norm", "next_logprobs", "attn_pattern"]
        with tiny.trace(texts, read, heads=heads, positions="last") as trace:
            assert trace.plan.shapes["resid_post"] == (3, 3, 1, tiny.config["d_model"])
            for name in read:
                for i in range(3):
                    one = trace[i][name]
                    stacked = trace[name][i][..., : one.shape[-1]]
                    assert np.shares_memory(stacked, one), name
                    assert stacked.tobytes() == one.tobytes()
            longest = max(len(tiny.encode(text)) for text in texts)
            assert trace["attn_pattern"].shape[-1] == longest
            short = len(tiny.encode(OTHER))
            assert not trace["attn_pattern"][1][..., short:].any()
    one = tiny.plan_trace([TEXT], "resid_post")
    assert one.shapes["resid_post"] == (1, 3, len(tiny.encode(TEXT)), tiny.config["d_model"])


def test_shared_beginnings_are_computed_once(tiny: km.Model) -> None:
    ids = tiny.encode(TEXT)
    texts = [ids, ids[:5], [*ids[:4], 7, 8], [9]]
    plan = tiny.plan_trace(texts, "embed")
    assert plan.n_tokens == len(ids) + 2 + 1
    assert tiny.plan_trace([ids, ids, ids], "embed").n_tokens == len(ids)


def test_log_probabilities(tiny: km.Model) -> None:
    texts = [tiny.encode(TEXT), tiny.encode(OTHER)]
    with tiny.trace(texts, ["logprobs", "next_logprobs", "logits"]) as trace:
        for i, ids in enumerate(texts):
            assert trace[i].logprobs.tobytes() == tiny.logprobs(ids).tobytes()
            assert trace[i].next_logprobs[-1].tobytes() == tiny.next_logprobs(ids).tobytes()
            whole = trace[i].next_logprobs.astype(np.float64)
            assert np.exp(whole).sum(-1) == pytest.approx(1.0, abs=1e-5)
            picked = whole[np.arange(len(ids) - 1), ids[1:]]
            assert trace[i].logprobs == pytest.approx(picked, abs=1e-6)
            moved = whole - trace[i].logits
            assert np.ptp(moved, axis=-1).max() < 1e-5  # one constant a row


# ---- texts and positions ----


def test_texts_may_be_ids_of_any_kind(tiny: km.Model) -> None:
    ids = tiny.encode(TEXT)
    wanted = tiny.trace(TEXT, "embed").run()["embed"].tobytes()
    for text in (ids, tuple(ids), np.array(ids), np.array(ids, np.int32), tiny._model.encode(TEXT)):
        assert tiny.trace(text, "embed").run()["embed"].tobytes() == wanted
    assert tiny.trace(TEXT.encode(), "embed").run()["embed"].tobytes() == wanted
    with tiny.trace([TEXT, ids, TEXT.encode()], "embed") as trace:
        assert trace["embed"][1].tobytes() == wanted


@pytest.mark.parametrize(
    ("positions", "found"),
    [
        ("last", [9]),
        ("all", list(range(10))),
        (3, [3]),
        (-2, [8]),
        (np.int64(4), [4]),
        (slice(None, None, 3), [0, 3, 6, 9]),
        ([5, -1, 0], [5, 9, 0]),
        (np.array([2, 1]), [2, 1]),
    ],
)
def test_positions(tiny: km.Model, positions: Any, found: list[int]) -> None:
    plan = tiny.plan_trace(list(range(10, 20)), "embed", positions=positions)
    assert plan.positions == [found]


def test_positions_of_each_text(tiny: km.Model) -> None:
    texts = [list(range(10, 20)), [1, 2, 3]]
    plan = tiny.plan_trace(texts, "embed", positions=[[4, 5], "last"])
    assert plan.positions == [[4, 5], [2]]
    with pytest.raises(km.ArgumentError, match="3 entries for 2 texts"):
        tiny.plan_trace(texts, "embed", positions=[[1], [1], [1]])


@pytest.mark.parametrize("name", [*NAMES, "tiny"])
def test_spans_round_trip(name: str, tiny: km.Model) -> None:
    model = tiny if name == "tiny" else load(name)
    text = "Is the tall tower, or the old tower, near the town?"
    for wanted, occurrence in (("tall tower", None), ("tower", 0), ("tower", -1), ("town", None)):
        span = km.span(wanted, occurrence=occurrence)
        found = span.find(model, text)
        pieces = b"".join(
            read_prompt(model, text, None).text[a:b] for a, b in bounds(model, text, found)
        )  # type: ignore[index]
        assert pieces.decode().strip() == wanted
        assert span.first.find(model, text) == found[:1]
        assert span.last.find(model, text) == found[-1:]
    plan = model.plan_trace([text, "A tall tower"], "embed", positions=km.span("tall tower").last)
    assert plan.positions[1] == [len(model.encode("A tall tower")) - 1]


def bounds(model: km.Model, text: str, found: list[int]) -> list[tuple[int, int]]:
    return [read_prompt(model, text, None).bounds[i] for i in found]


def test_spans_that_cannot_be_found(tiny: km.Model) -> None:
    text = "the tower and the tower"
    with pytest.raises(km.ArgumentError, match="occurs 2 times"):
        km.span("tower").find(tiny, text)
    with pytest.raises(km.ArgumentError, match="there is no 2"):
        km.span("tower", occurrence=2).find(tiny, text)
    with pytest.raises(km.ArgumentError, match="does not occur in 'the tower and"):
        km.span("castle").find(tiny, text)
    with pytest.raises(km.ArgumentError, match="also hold other text: 'he'"):
        km.span("e", occurrence=0).find(tiny, text)
    with pytest.raises(km.ArgumentError, match="not token ids"):
        tiny.plan_trace([5, 6], "embed", positions=km.span("tower"))
    with pytest.raises(km.ArgumentError, match="empty"):
        km.span(" ")


# ---- memory ----


GIVEN_BACK = """
import gc, os, sys
import km

def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

tiny = km.load(sys.argv[1], threads=2)
texts = [[(7 * i + j) % 300 for j in range(64)] for i in range(512)]
with tiny.trace(texts, "logits") as trace:
    before = resident()
    kept = trace[3]["logits"]
    copy = kept.copy()
    assert trace.plan.nbytes > 30 << 20
assert resident() > before - (8 << 20), "`kept` still views the block"
assert kept.tobytes() == copy.tobytes()
del kept
gc.collect()
assert resident() < before - (24 << 20), (before, resident())
"""


def test_memory_is_given_back(tiny: km.Model) -> None:
    """In a process of its own: one that has freed much keeps what it is given back."""
    done = subprocess.run(
        [sys.executable, "-c", GIVEN_BACK, tiny.path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_arrays_outlive_their_trace(tiny: km.Model) -> None:
    def views() -> list[np.ndarray[Any, Any]]:
        with tiny.trace([TEXT, TEXT], ["resid_post", "q"], heads=[1, 0]) as trace:
            return [trace["resid_post"], trace["q"], trace[1]["q"], trace[0]["resid_post"]]

    first, second = views(), views()
    gc.collect()
    for a, b in zip(first, second, strict=True):
        assert a.tobytes() == b.tobytes() and a.any()
    first[0][:] = 0.0  # writable, and nobody else's
    assert second[0].any()


def test_a_trace_that_does_not_fit_is_refused(
    tiny: km.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny.plan_trace(TEXT, ["resid_post", "logits"])
    monkeypatch.setattr(_km, "memory_available", lambda: plan.nbytes - 1)
    with pytest.raises(MemoryError, match=r"arrays of this trace need .* MiB; .* read fewer"):
        plan.run()
    monkeypatch.setattr(_km, "memory_available", lambda: plan.nbytes)
    plan.run()


def test_before_and_after_the_run(tiny: km.Model) -> None:
    trace = tiny.trace(TEXT, "embed")
    assert trace.plan.nbytes > 0 and "not run" in repr(trace)
    with pytest.raises(km.ArgumentError, match="has not run"):
        trace["embed"]
    with trace:
        assert trace.run() is trace and "embed" in trace and "embed" in dir(trace)
        assert "(" in repr(trace[0])
    with pytest.raises(km.ArgumentError, match="closed"):
        trace["embed"]
    with pytest.raises(km.ArgumentError, match="closed"):
        trace.run()


# ---- refusals ----


def test_unknown_names_list_what_there_is(tiny: km.Model) -> None:
    with pytest.raises(km.NotFoundError, match=r"no point 'residual'; .*resid_post.*logprobs"):
        tiny.trace(TEXT, "residual")
    with pytest.raises(km.NotFoundError, match=r"gptneox.* no point 'resid_mid'.*resid_post"):
        load("pythia").trace([1, 2], "resid_mid")
    with tiny.trace(TEXT, "embed") as trace:
        with pytest.raises(km.NotFoundError, match="'q' was not read; this trace has embed"):
            trace["q"]
        with pytest.raises(AttributeError, match="no attribute 'q'"):
            trace.q  # noqa: B018
        with pytest.raises(IndexError, match="the trace has 1"):
            trace[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 3}, "there is no layer 3; layers are 0 to 2"),
        ({"layers": []}, "layers chooses no layer"),
        ({"layers": [0, 0]}, "one layer is named twice"),
        ({"heads": [4], "read": "q"}, "heads of q: there is no head 4; heads are 0 to 3"),
        ({"heads": [2], "read": "k"}, "heads of k: there is no head 2; heads are 0 to 1"),
        ({"heads": [0]}, "none of resid_post has an axis of heads"),
        ({"read": []}, "read is empty"),
        ({"read": ["embed", "embed"]}, "names a point twice"),
        ({"positions": 99}, "position 99 is outside a text of"),
        ({"positions": "first"}, "positions is 'first'"),
        ({"positions": [1, 1]}, "one of them twice"),
        ({"texts": []}, "texts is empty"),
        ({"texts": [[]]}, "a text has no tokens"),
    ],
)
def test_wrong_arguments(tiny: km.Model, arguments: dict[str, Any], message: str) -> None:
    given = {"texts": TEXT, "read": "resid_post"} | arguments
    with pytest.raises(km.ArgumentError, match=message):
        tiny.trace(**given)


def test_what_libkm_refuses(tiny: km.Model) -> None:
    with pytest.raises(km.ArgumentError, match="vocabulary"):
        tiny.trace([1, 100000], "embed").run()
    with pytest.raises(km.ArgumentError, match="context"):
        tiny.trace([1] * 1000, "embed").run()


def packed(**changes: Any) -> dict[str, Any]:
    """Arguments of one small pass of the extension."""
    empty: dict[str, Any] = {
        "ids": np.array([5, 6, 7], np.int32),
        "parent": np.array([-1, 0, 1], np.int64),
        "nodes": np.array([0, 2], np.int64),
        "reads": np.array([[13, 1, -1, 0, 2, 0]], np.int64),
        "patches": np.array([[0, 13, 0, -1, 0, 2, 0, 0, 0, 0, 1]], np.int64),
        "factors": np.ones(1, np.float32),
        "values": np.zeros(24, np.float32),
        "rows": np.zeros((0, 2), np.int64),
        "targets": np.zeros((0, 3), np.int64),
        "n_out": 48,
    }
    return empty | changes


def changed(table: str, column: int, value: int) -> dict[str, Any]:
    array = packed()[table].copy()
    array[0, column] = value
    return {table: array}


@pytest.mark.parametrize(
    "changes",
    [
        {"parent": np.array([-1, 1, 0], np.int64)},
        {"parent": np.array([-1, 0], np.int64)},
        {"n_out": 47},
        {"n_out": -1},
        {"values": np.zeros(23, np.float32)},
        {"factors": np.ones(2, np.float32)},
        {"rows": np.array([[0, 48]], np.int64)},
        {"rows": np.array([[9, -1]], np.int64)},
        {"targets": np.array([[0, 1, 0]], np.int64)},
        {"rows": np.array([[0, -1]], np.int64), "targets": np.array([[0, 1, 48]], np.int64)},
        {"rows": np.array([[0, -1]], np.int64), "targets": np.array([[0, 999, 0]], np.int64)},
        {"reads": np.zeros((1, 5), np.int64)},
        {"nodes": np.array([0, 3], np.int64)},
        *(changed("reads", column, value) for column in range(6) for value in (-7, 1 << 40)),
        *(changed("patches", column, value) for column in range(8) for value in (-7, 1 << 40)),
        *(changed("patches", column, 1 << 40) for column in (8, 9)),
        changed("patches", 8, -1),
    ],
)
def test_the_extension_checks_every_index(tiny: km.Model, changes: dict[str, Any]) -> None:
    _km.trace_run(tiny._model, **packed())
    with pytest.raises((km.Error, ValueError, MemoryError)):
        _km.trace_run(tiny._model, **packed(**changes))


# ---- documentation ----


def test_the_page_runs_as_it_stands(model: km.Model) -> None:
    page = Path(__file__).parents[2] / "docs" / "trace.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "trace.md", "exec"), names)
