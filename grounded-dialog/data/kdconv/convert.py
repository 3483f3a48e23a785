"""Make the files of this folder from the unified files described in README.md.

python grounded-dialog/data/kdconv/convert.py FOLDER, with kdconv.{train,valid,test}.jsonl in FOLDER
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from km import dialog


def main(folder: str) -> None:
    """Read, name the domain of each dialogue as its topic, write compressed."""
    source = Path(folder)
    found = dialog.read_unified_dialogues(
        {
            "train": source / "kdconv.train.jsonl",
            "valid": source / "kdconv.valid.jsonl",
            "test_seen": source / "kdconv.test.jsonl",
        }
    )
    named = [replace(one, topic=one.id.split("-")[1]) for one in found]
    here = Path(__file__).parent
    dialog.write_dialogues(dialog.DialogueSet(named), here, compress=True, overwrite=True)


if __name__ == "__main__":
    main(sys.argv[1])
