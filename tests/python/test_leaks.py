"""Memory after a thousand rounds of loading, scoring and closing a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parent.parent / "golden_data"
ROUNDS = 1000
MIB = 1 << 20

# A process of its own, so that other tests' memory is not in the figure. Rounds before the first
# figure let the allocator, the caches and the interpreter reach their size.
MEASURED = f"""
import gc, os, sys
import km

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def once(path):
    model = km.load(path, threads=2)
    ids = model.encode("The quick brown fox jumps over the lazy dog.")
    model.logprobs(ids)
    model.score(["The quick"], [[" brown fox", " dog"]])
    model.edit({{}})
    name = model._model.weights()[1][0]
    model.weight(name)
    model.tokenizer_hash, model.fingerprint

for _ in range(100):
    once(sys.argv[1])
before = resident()
for _ in range({ROUNDS}):
    once(sys.argv[1])
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("source", ["tiny_llama", "arch/llama3.gguf", "arch/gpt2"])
def test_load_score_close(source: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(DATA / source)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MIB
