"""Check that tests/c/test_allocation.c fails each allocation of every public function of libkm.

A function belongs there when it can fail and is given something that holds a context: a context, a
model, a tokenizer, a table, a session, a selection model.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOLDERS = ("km_ctx", "km_model", "km_tokenizer", "km_table", "km_session", "km_diffks")
# What is given such an object and still has nothing to allocate.
ALLOCATES_NOTHING = {
    "km_model_metadata",
    "km_model_weight_at",
    "km_model_weight_find",
    "km_model_weight_into",
    "km_rows_argmax",
    "km_rows_at",
    "km_rows_logprobs_into",
    "km_rows_top",
    "km_trainer_estimate",
}
DECLARATION = re.compile(r"km_status\s+(km_\w+)\(([^;{]*)\);", re.DOTALL)


def main() -> int:
    """Print what is missing; 1 when something is."""
    tested = (ROOT / "tests" / "c" / "test_allocation.c").read_text()
    missing = []
    for header in sorted((ROOT / "libkm" / "include" / "km").glob("*.h")):
        for name, parameters in DECLARATION.findall(header.read_text()):
            holds = any(re.search(rf"\b{holder}\b", parameters) for holder in HOLDERS)
            if holds and name not in ALLOCATES_NOTHING and f"{name}(" not in tested:
                missing.append(f"{header.name}: {name}")
    for line in missing:
        print(f"tests/c/test_allocation.c does not fail the allocations of {line}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
