"""The extension module: errors, buffers, references, threads, signals, interpreters."""

from __future__ import annotations

import errno
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import km
from km import _km

PROMPT = "The capital of France is"


# ---- errors ----


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("Error", (RuntimeError,)),
        ("ArgumentError", (km.Error, ValueError)),
        ("ShapeError", (km.Error, ValueError)),
        ("FormatError", (km.Error, ValueError)),
        ("UnsupportedError", (km.Error,)),
        ("NotFoundError", (km.Error, KeyError)),
        ("NumericError", (km.Error,)),
        ("BusyError", (km.Error,)),
        ("CancelledError", (km.Error,)),
    ],
)
def test_error_classes(name: str, bases: tuple[type, ...]) -> None:
    error = getattr(km, name)
    assert error.__module__ == "km"
    assert error.__bases__ == bases
    assert error.__doc__
    assert error.status.startswith("KM_E")
    assert error("it's so").where is None
    assert str(error("it's so")) == "it's so"  # KeyError alone would show a repr


def test_errors_from_c_say_where() -> None:
    with pytest.raises(km.ArgumentError, match="v9") as caught:
        km.Context(cpu="v9")
    assert caught.value.status == "KM_EINVAL"
    assert caught.value.where is not None
    function, line = caught.value.where.split(":")
    assert function
    assert int(line) > 0


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises((km.NotFoundError, FileNotFoundError), match=r"absent\.gguf"):
        _km.Model(tmp_path / "absent.gguf", km.Context(1))


def test_refusal_by_the_system_is_an_os_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop.gguf"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match=r"loop\.gguf") as caught:
        _km.Model(loop, km.Context(1))
    assert caught.value.errno == errno.ELOOP
    assert caught.value.filename == loop


def test_broken_file_names_the_offset(tmp_path: Path, model_path: Path) -> None:
    short = tmp_path / "short.gguf"
    with model_path.open("rb") as file:
        short.write_bytes(file.read(1000))
    with pytest.raises(km.FormatError, match=r"short\.gguf.*offset"):
        km.load(short)


# ---- arguments ----


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: km.Context("x"), "parameter 'threads' must be int, not str"),
        (lambda: km.Context(True), "must be int, not bool"),
        (lambda: km.Context(1.0), "must be int, not float"),
        (lambda: km.Context(cpu=3), "parameter 'cpu' must be str, not int"),
        (lambda: km.Context(1, "v1", 2), "at most 2 positional"),
        (lambda: km.Context(1, threads=2), "multiple values for parameter 'threads'"),
        (lambda: km.Context(thread=2), "unexpected keyword argument 'thread'"),
        (lambda: _km.Table([]), "missing required parameter 'columns'"),
        (
            lambda: _km.Table([("a", "bool", "", "")], [[]]).append(3),
            "parameter 'other' must be Table, not int",
        ),
        (lambda: _km.Model("x", 3), "parameter 'context' must be Context, not int"),
        (lambda: _km.Model(3, km.Context(1)), "must be str, bytes or os.PathLike, not int"),
        (lambda: _km.version(1), "at most 0 positional"),
        (lambda: _km.Array(), "cannot create"),
    ],
)
def test_type_errors_name_the_parameter(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_out_of_range_integers() -> None:
    for bad in (2**31, -(2**31) - 1, 2**64):
        with pytest.raises(km.ArgumentError, match="'threads' is out of range"):
            km.Context(bad)


def test_none_is_the_default_where_the_stub_says_so() -> None:
    assert km.Context(1, None).cpu == km.Context(1).cpu
    with pytest.raises(TypeError):
        km.Context(None)  # type: ignore[arg-type]


def test_signatures_come_from_the_stub() -> None:
    assert str(inspect.signature(_km.Table.cells)) == "(self, /, column, start=0, stop=None)"
    assert str(inspect.signature(km.Context)) == "(threads=0, cpu=None)"
    assert (
        _km.Table.cells.__doc__
        == "Cells start..stop-1 of a column as Python objects, None where null."
    )


def test_types_are_closed() -> None:
    for closed in (_km.Array, _km.Table, _km.Context, _km.Model):
        with pytest.raises(TypeError):
            type("Sub", (closed,), {})
        with pytest.raises(TypeError):
            closed.extra = 1


# ---- buffers ----


def test_array_shares_its_memory() -> None:
    made = _km.Table([("a", "double", "", "")], [[1.0, None, 3.0]]).values("a")
    first, second = np.asarray(made), np.asarray(made)
    assert made.shape == (3,)
    assert made.dtype == "float64"
    assert len(made) == 3
    assert first.flags.writeable
    first[0] = 7.0
    assert second[0] == 7.0
    assert made.tolist()[0] == 7.0
    del made
    gc.collect()
    assert first[2] == 3.0  # the view keeps the memory
    assert repr(_km.Table([("a", "bool", "", "")], [[True]]).values(0)) == "<km array (1,) bool>"


def test_model_takes_int32_buffers_without_copy(model: km.Model) -> None:
    ids = model.encode(PROMPT)
    expected = model.logprobs(ids)
    frozen = np.array(ids, np.int32)
    frozen.flags.writeable = False
    for same in (array("i", ids), np.array(ids, np.int32), frozen, tuple(ids), np.array(ids)):
        assert np.array_equal(model.logprobs(same), expected)
    assert expected.dtype == np.float32
    assert expected.shape == (len(ids) - 1,)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros(3, np.int64), "'ids' must hold int32, not format 'l'"),
        (np.zeros(3, np.float32), "'ids' must hold int32, not format 'f'"),
        (np.zeros(3, ">i4"), "'ids' must hold int32, not format '>i'"),
        (np.zeros((3, 2), np.int32), "not one of 2 dimensions"),
        (np.zeros(6, np.int32)[::2], "C-contiguous"),
        (b"\0\0\0\0", "must hold int32"),
    ],
)
def test_wrong_buffers(model: km.Model, ids: object, message: str) -> None:
    with pytest.raises(km.ShapeError, match=message) as caught:
        model._model.logprobs(ids)
    assert "Model.logprobs()" in str(caught.value)


def test_objects_without_a_buffer(model: km.Model) -> None:
    with pytest.raises(TypeError, match="'ids' must be an array"):
        model._model.logprobs([1, 2])


@pytest.mark.parametrize("bad", [[2**31], [-(2**40)], [10**6], [-1, 5], []])
def test_bad_ids(model: km.Model, bad: list[int]) -> None:
    with pytest.raises(km.ArgumentError):
        model.next_logprobs(bad)


def test_a_released_buffer_can_grow_again(model: km.Model) -> None:
    ids = array("i", model.encode(PROMPT))
    model.logprobs(ids)
    ids.append(1)  # BufferError if the call had kept its view
    with pytest.raises(km.ArgumentError):
        model.logprobs(array("i", [-1]))
    bad = array("i", [-1])
    with pytest.raises(km.ArgumentError):
        model._model.decode(bad)
    bad.append(1)


# ---- references and memory ----


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def exercise(count: int) -> None:
    specs = [("a", "int64", "", ""), ("s", "text", "", "")]
    columns = [[*range(100)], ["text " * 10] * 100]
    for _ in range(count):
        table = _km.Table(specs, columns)
        table.append(_km.Table(specs, columns))
        table.values("a").tolist()
        table.cells("s")
        table.__arrow_c_stream__()
        with pytest.raises(km.NotFoundError):
            table.cells("x")
        with pytest.raises(TypeError):
            _km.Table(specs, [[1], [2]])


def test_nothing_leaks() -> None:
    exercise(50)
    gc.collect()
    objects = len(gc.get_objects())
    counts = [sys.getrefcount(t) for t in (_km.Table, _km.Array, km.ShapeError)]
    before = resident_bytes()
    exercise(500)  # about 30 MB if each round leaked its tables
    gc.collect()
    assert resident_bytes() - before < 8 << 20
    assert [sys.getrefcount(t) for t in (_km.Table, _km.Array, km.ShapeError)] == counts
    assert len(gc.get_objects()) - objects < 100


def test_model_calls_do_not_leak_references(model: km.Model) -> None:
    ids = array("i", model.encode(PROMPT))
    references = sys.getrefcount(ids), sys.getrefcount(model._model), sys.getrefcount(None)
    for _ in range(5):
        model.logprobs(ids)
        model.next_logprobs(ids)
        model._model.decode(ids)
    after = sys.getrefcount(ids), sys.getrefcount(model._model), sys.getrefcount(None)
    assert after[:2] == references[:2]
    assert abs(after[2] - references[2]) < 50


def test_a_context_outlives_its_name(model_path: Path) -> None:
    model = _km.Model(model_path, km.Context(1))
    gc.collect()
    assert model.context.threads == 1
    assert model.encode("x").tolist()


# ---- threads ----


def test_threads_share_a_model(model: km.Model) -> None:
    texts = [f"{PROMPT} {word}" for word in ("Paris", "Rome", "Oslo", "Bern")]
    expected = [model.logprobs(model.encode(text)) for text in texts]
    failures: list[str] = []

    def work(index: int) -> None:
        for _ in range(3):
            if not np.array_equal(model.logprobs(model.encode(texts[index])), expected[index]):
                failures.append(texts[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []


def test_the_gil_is_free_during_long_work(model: km.Model) -> None:
    ids = model.encode("word " * 300)
    finished = threading.Event()

    def work() -> None:
        model.logprobs(ids)
        finished.set()

    thread = threading.Thread(target=work)
    thread.start()
    turns = 0
    while not finished.is_set():
        turns += 1
        time.sleep(0.001)
    thread.join()
    assert turns > 20


def test_cancel_from_another_thread(model: km.Model) -> None:
    ids = model.encode("word " * 3000)
    expected = model.logprobs(ids[:20])
    timer = threading.Timer(0.2, model.context.cancel)
    timer.start()
    started = time.monotonic()
    with pytest.raises(km.CancelledError):
        model.logprobs(ids)
    assert time.monotonic() - started < 30
    timer.join()
    assert np.array_equal(model.logprobs(ids[:20]), expected)


def test_a_cancellation_with_nothing_to_stop_is_forgotten(model: km.Model) -> None:
    model.context.cancel()
    assert model.logprobs(model.encode(PROMPT)).shape == (4,)


# ---- signals ----


def test_ctrl_c_stops_long_work_and_leaves_a_clean_state(model: km.Model) -> None:
    ids = model.encode("word " * 3000)
    expected = model.logprobs(ids[:20])
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        model.logprobs(ids)
    assert time.monotonic() - started < 30
    timer.join()
    assert np.array_equal(model.logprobs(ids[:20]), expected)


def test_a_signal_whose_handler_returns_does_not_stop_the_work(model: km.Model) -> None:
    seen: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        assert model.logprobs(model.encode("word " * 300)).shape == (300,)
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert seen == [signal.SIGUSR1]


def small_facts() -> km.datasets.FactSet:
    return km.datasets.facts("country_capital_city")


def test_ctrl_c_during_work_that_ticks(model: km.Model) -> None:
    def interrupt(done: int, total: int, info: dict[str, object]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    expected = model.logprobs(model.encode(PROMPT))
    with pytest.raises(KeyboardInterrupt):
        km.memorization(model, small_facts(), progress=interrupt)
    assert np.array_equal(model.logprobs(model.encode(PROMPT)), expected)


def test_an_exception_from_progress_reaches_the_caller(model: km.Model) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int, info: dict[str, object]) -> None:
        assert 0 < done <= total
        raise Stop(info["description"])

    with pytest.raises(Stop, match="memorization"):
        km.memorization(model, small_facts(), progress=stop)


# ---- interpreters ----


def test_subinterpreters() -> None:
    code = (
        "import km._km as m\n"
        "t = m.Table([('a', 'int64', '', '')], [[1, None]])\n"
        "assert t.cells('a') == [1, None]\n"
        "try:\n    t.cells('b')\n"
        "except m.NotFoundError as e:\n    assert e.status == 'KM_ENOTFOUND'\n"
        "else:\n    raise AssertionError\n"
    )
    program = (
        "try:\n    import _xxsubinterpreters as s\n"
        "except ImportError:\n    import _interpreters as s\n"
        "import km._km\n"
        "for _ in range(3):\n"
        f"    i = s.create(); failed = s.run_string(i, {code!r}); s.destroy(i)\n"
        "    assert not failed, failed\n"
        "t = km._km.Table([('a', 'int64', '', '')], [[1]]); assert t.cells(0) == [1]\n"
        "print('ok')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("ok", 0), done.stderr


def test_after_fork_the_child_works(model: km.Model) -> None:
    ids = model.encode(PROMPT)
    expected = float(model.logprobs(ids)[0])
    pid = os.fork()
    if pid == 0:
        os._exit(0 if float(model.logprobs(ids)[0]) == expected else 1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child hangs")
