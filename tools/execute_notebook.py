"""Execute a notebook in place: outputs are stored, paths of this machine are taken out.

Usage: python tools/execute_notebook.py examples/first_steps.ipynb
"""

from __future__ import annotations

import os
import site
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

TIMEOUT = 600  # seconds a cell


def execute(path: Path, folder: str) -> Any:
    """The notebook at `path` after running it with `folder` as its working directory."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": folder}},
    )
    return client.execute(env=os.environ | {"KM_PROGRESS": "0"})


def scrub(value: Any, paths: dict[str, str]) -> Any:
    """The value with every path in its texts replaced."""
    if isinstance(value, str):
        for path, name in paths.items():
            value = value.replace(path, name)
        return value
    if isinstance(value, list):
        return [scrub(item, paths) for item in value]
    if isinstance(value, dict):
        return {key: scrub(item, paths) for key, item in value.items()}
    return value


def main() -> None:
    """Execute the notebook named on the command line."""
    path = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(path, folder)
        places = dict.fromkeys(site.getsitepackages(), "site-packages")
        places |= {os.path.realpath(folder): ".", folder: ".", sys.prefix: "venv"}
        places |= {str(Path.home()): "~"}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        if cell.cell_type == "code":
            cell["outputs"] = [nbformat.from_dict(scrub(output, places)) for output in cell.outputs]
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook["metadata"] = nbformat.from_dict(about)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
