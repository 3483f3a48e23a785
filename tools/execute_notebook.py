"""Execute notebooks: store what they show, or compare it with what is stored.

Usage: python tools/execute_notebook.py [--check] [--jobs N] examples/*.ipynb

Each notebook runs in a scratch folder that looks like the source tree (`../grounded-dialog` is
there), so that nothing it writes stays. Without --check its outputs are stored in place, with
times and the paths of this machine taken out. With --check nothing is written, and the exit code
is 1 when a cell raises or shows something else than what is stored: other kinds of output, other
text, or a number that differs by more than rounding. Pictures are compared by their kind alone,
and so are cells with the tag "varies", which show what the taxonomy holds today.

Weights that were trained have the same bits on every machine that runs the same kernels, so all
notebooks run with those of AVX2, km's and OpenBLAS's, where the processor has it. Where it has
not, --check compares kinds only, and says so.
"""

from __future__ import annotations

import argparse
import os
import re
import site
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import km

TIMEOUT = 600  # seconds a cell
KERNELS = {"KM_CPU": "v3", "OPENBLAS_CORETYPE": "Haswell"}  # km's and OpenBLAS's for AVX2
ROUNDING = 1e-3  # relative; BLAS libraries add up in orders of their own
MAX_BYTES = 400_000
ROOT = Path(__file__).resolve().parents[1]
NEIGHBOURS = ("grounded-dialog",)

PICTURE_ID = re.compile(r"\bkm[0-9a-f]{16}(?=[td]\b)")  # a digest of all that is drawn, dates too
NUMBER = re.compile(r"[-−+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[-+]\d\d:\d\d)?")
MACHINE = {
    "a path of a machine": re.compile(r"(?<![\w.])/(tmp|home|root|work|usr|opt|var)/"),
    "a time": TIME,
    "an address in memory": re.compile(r" at 0x[0-9a-f]{6,}"),
}


# ---- running ----


def has_kernels() -> bool:
    """Whether this processor runs the kernels that stored outputs were made with."""
    try:
        km.Context(1, KERNELS["KM_CPU"])
    except km.Error:
        return False
    return True


def execute(path: Path, threads: int) -> Any:
    """The notebook at `path` with the outputs of a run of its own."""
    days = {today(): "(date)"}
    notebook = nbformat.read(path, as_version=4)
    env = os.environ | {"KM_PROGRESS": "0", "KM_THREADS": str(threads), "PYTHONHASHSEED": "0"}
    if has_kernels():
        env |= KERNELS
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "examples"
        folder.mkdir()
        for name in NEIGHBOURS:
            (Path(scratch) / name).symlink_to(ROOT / name)
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT,
            kernel_name="python3",
            record_timing=False,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(env=env)
        places = dict.fromkeys(site.getsitepackages(), "site-packages")
        places |= {os.path.realpath(folder): ".", str(folder): ".", scratch: ".."}
        places |= {str(ROOT): "..", sys.prefix: "venv", str(Path.home()): "~"}
        places |= days | {today(): "(date)"}
    return normalised(notebook, places)


def today() -> str:
    """The date, as pictures and provenance say it."""
    return datetime.now(UTC).date().isoformat()


def normalised(notebook: Any, places: dict[str, str]) -> Any:
    """The notebook without what differs from run to run or from machine to machine."""
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        if cell.cell_type == "code":
            outputs = [steady(output, f"picture-{number}-") for output in whole(cell.outputs)]
            cell["outputs"] = [nbformat.from_dict(scrub(output, places)) for output in outputs]
            cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k == "tags"}
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook["metadata"] = nbformat.from_dict(about)
    nbformat.validate(notebook)
    return notebook


def whole(outputs: list[Any]) -> list[Any]:
    """Outputs in which a stream that came in parts is one."""
    found: list[Any] = []
    for output in outputs:
        last = found[-1] if found else {}
        if output["output_type"] == "stream" and output["name"] == last.get("name"):
            last["text"] += output["text"]
        else:
            found.append(output)
    return found


def steady(output: Any, name: str) -> Any:
    """The output with `name` in place of a picture's own id."""
    data = output.get("data", {})
    if "image/svg+xml" in data:
        data["image/svg+xml"] = PICTURE_ID.sub(name, data["image/svg+xml"])
    return output


def scrub(value: Any, paths: dict[str, str]) -> Any:
    """The value with every time and every one of these paths (and dates) in its texts replaced."""
    if isinstance(value, str):
        value = TIME.sub("(time)", value)
        for path, name in paths.items():
            value = value.replace(path, name)
        return value
    if isinstance(value, list):
        return [scrub(item, paths) for item in value]
    if isinstance(value, dict):
        return {key: scrub(item, paths) for key, item in value.items()}
    return value


# ---- judging ----


def code_cells(notebook: Any) -> list[Any]:
    """Cells that run."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def problems(text: str) -> list[str]:
    """What must not be in a stored notebook, given as the text of its file."""
    found = [f"it holds {name}" for name, pattern in MACHINE.items() if pattern.search(text)]
    if len(text.encode()) > MAX_BYTES:
        found.append(f"it has {len(text.encode()):,} bytes; the most is {MAX_BYTES:,}")
    cells = code_cells(nbformat.reads(text, as_version=4))
    if [cell["execution_count"] for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("its cells were not run one after another")
    if any(output["output_type"] == "error" for cell in cells for output in cell["outputs"]):
        found.append("a cell raised")
    return found


def kinds(cell: Any) -> list[str]:
    """What sorts of output a cell has; streams that follow each other are one."""
    found: list[str] = []
    for output in cell["outputs"]:
        names = " ".join(sorted(output.get("data", {})))
        kind = f"{output['output_type']} {output.get('name', '')}{names}"
        if not found or found[-1] != kind or output["output_type"] != "stream":
            found.append(kind)
    return found


def shown(cell: Any) -> str:
    """The text of a cell's outputs, blanks made single; what stands beside a picture left out."""
    parts = []
    for output in cell["outputs"]:
        data = output.get("data", {})
        if not any(mime.startswith("image/") for mime in data):
            parts.append("".join(output.get("text") or data.get("text/plain", "")))
    lines = "".join(parts).splitlines()
    return "\n".join(" ".join(line.split()) for line in lines)


def same(then: str, now: str) -> bool:
    """Whether two texts are the same but for rounding of their numbers."""
    if then == now:
        return True
    if NUMBER.split(then) != NUMBER.split(now):
        return False
    pairs = zip(NUMBER.findall(then), NUMBER.findall(now), strict=True)
    return all(_close(*(float(text.replace("−", "-")) for text in pair)) for pair in pairs)


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= ROUNDING * max(abs(a), abs(b)) + 1e-12


def differences(stored: Any, now: Any, texts: bool = True) -> Iterator[str]:
    """What a run shows otherwise than the stored notebook, one cell after another."""
    if [cell["source"] for cell in code_cells(stored)] != [c["source"] for c in code_cells(now)]:
        yield "it has other cells"
        return
    for number, (then, cell) in enumerate(zip(code_cells(stored), code_cells(now), strict=True), 1):
        if kinds(then) != kinds(cell):
            yield f"cell [{number}] shows {kinds(cell)}, stored are {kinds(then)}"
        elif texts and "varies" not in cell["metadata"].get("tags", []):
            lines = (shown(each).splitlines() for each in (then, cell))
            old, new = (list(each) for each in lines)
            for i in range(max(len(old), len(new))):
                a, b = ("".join(each[i : i + 1]) for each in (old, new))
                if not same(a, b):
                    yield f"cell [{number}], line {i + 1}\n    stored: {a}\n    now:    {b}"
                    break


# ---- the command ----


def run(path: Path, threads: int, check: bool) -> list[str]:
    """Execute one notebook; what is wrong with it."""
    started = time.monotonic()
    try:
        notebook = execute(path, threads)
    except CellExecutionError as error:
        return [f"a cell raised\n{error}"]
    if check:
        stored = nbformat.read(path, as_version=4)
        found = problems(path.read_text("utf-8"))
        found += differences(stored, notebook, texts=has_kernels())
    else:
        found = problems(nbformat.writes(notebook))
        nbformat.write(notebook, path)
    print(f"km: {path.name} ran in {time.monotonic() - started:.0f} s", flush=True)
    return found


def main() -> None:
    """Execute the notebooks named on the command line."""
    parser = argparse.ArgumentParser(description="Execute notebooks; store or compare outputs.")
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at the same time")
    asked = parser.parse_args()
    if not has_kernels():
        print("km: without the kernels of AVX2 only kinds of outputs can be compared")
    threads = max(1, len(os.sched_getaffinity(0)) // asked.jobs)
    with ThreadPoolExecutor(asked.jobs) as pool:
        found = list(pool.map(lambda path: run(path, threads, asked.check), asked.notebooks))
    wrong = False
    for path, own in zip(asked.notebooks, found, strict=True):
        for problem in own:
            wrong = True
            print(f"km: {path}: {problem}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
