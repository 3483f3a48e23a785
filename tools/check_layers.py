"""Check that #include lines point down only, as docs/ARCHITECTURE.md draws the layers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What each part may include besides itself.
ALLOWED = {
    "base": set(),
    "tensor": {"base"},
    "io": {"base", "tensor"},
    "text": {"base", "tensor"},
    "model": {"base", "tensor", "io", "text"},
    "select": {"base", "tensor", "model"},  # of model, the optimiser
    "measure": {"base", "tensor", "io", "text", "model", "select"},
    "kb": {"base"},
    "viz": {"base"},
}
# Public headers belong to the part that implements them.
PUBLIC = {
    "error.h": "base",
    "ctx.h": "base",
    "table.h": "base",
    "arrow.h": "base",
    "stats.h": "base",
    "text.h": "text",
    "model.h": "model",
    "points.h": "model",
    "save.h": "model",
    "gradient.h": "model",
    "training.h": "model",
    "optimizer.h": "model",
    "trainer.h": "model",
    "select.h": "select",
    "affine_lens.h": "measure",
    "neurons.h": "measure",
    "circuit.h": "measure",
    "memorization.h": "measure",
    "memorization_scores.h": "measure",
    "priming_scores.h": "measure",
    "interpretability.h": "measure",
    "score.h": "measure",
    "km.h": "measure",
    "kb.h": "kb",
    "viz.h": "viz",
}
# Outside headers with a single home; Python's belong to bindings/, which is not checked here.
FOREIGN_HOME = {
    "Python.h": "",
    "sqlite3.h": "kb",
    "gvc.h": "viz",
    "cgraph.h": "viz",
    "graphviz/gvc.h": "viz",
    "graphviz/cgraph.h": "viz",
}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]', re.MULTILINE)


def layer_of(path: Path) -> str:
    """The part a file of ours belongs to."""
    parts = path.relative_to(ROOT).parts
    if parts[:3] == ("libkm", "include", "km"):
        return PUBLIC[parts[3]]
    if parts[0] == "libkm":
        return parts[1]
    return parts[0]


def target_layer(path: Path, name: str) -> str | None:
    """The layer an include belongs to; None for the C library and outside libraries."""
    if name.startswith("km/"):
        return PUBLIC[name.removeprefix("km/")]
    head = name.split("/")[0]
    if head in ALLOWED and "/" in name:
        return head
    return layer_of(path) if (path.parent / name).exists() else None


def problems() -> list[str]:
    """One line for each include that points up or reaches for another part's library."""
    found = []
    for part in ("libkm", "kb", "viz"):
        for path in sorted((ROOT / part).rglob("*.[ch]")):
            layer = layer_of(path)
            for name in INCLUDE.findall(path.read_text(encoding="utf-8")):
                where = f"{path.relative_to(ROOT)} includes {name}"
                if FOREIGN_HOME.get(name, layer) != layer:
                    found.append(f"{where}: {layer} may not use it")
                target = target_layer(path, name)
                if target is not None and target != layer and target not in ALLOWED[layer]:
                    found.append(f"{where}: {layer} may not depend on {target}")
    return found


def main() -> int:
    """Print the problems; 1 when there are any."""
    found = problems()
    print("\n".join(found) if found else "layers: every include points down")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
