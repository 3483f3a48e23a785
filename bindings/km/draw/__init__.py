"""Pictures of what was measured; each function returns a `km.Picture`.

Each takes plain Python data, or the km object that holds it. Every picture names its scale and its
n, uses colours that stay apart for colour-blind readers, and is legible on light and dark grounds.
"""

from __future__ import annotations

from km.draw._attribution import attribution
from km.draw._causal_trace import causal_trace
from km.draw._circuit import circuit
from km.draw._conflict import conflict
from km.draw._dialog import dialog
from km.draw._evolution import evolution
from km.draw._learning import learning
from km.draw._lens import lens
from km.draw._lineage import lineage
from km.draw._patching import patching
from km.draw._priming import priming
from km.draw._recall import recall
from km.draw._survival import survival
from km.draw._taxonomy import taxonomy

__all__ = [
    "attribution",
    "causal_trace",
    "circuit",
    "conflict",
    "dialog",
    "evolution",
    "learning",
    "lens",
    "lineage",
    "patching",
    "priming",
    "recall",
    "survival",
    "taxonomy",
]
