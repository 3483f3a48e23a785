"""Trains the selector that ships with km, on the training part of "ask the survey".

    python grounded-dialog/train_selector.py

Writes grounded-dialog/selector/; the same bits on every machine of one CPU variant. Prints its
accuracy on the test parts beside BM25's.
"""

from __future__ import annotations

from pathlib import Path

from km.dialog import BM25, DiffKS, read_dialogues

HERE = Path(__file__).parent
WEIGHTS = (0.5, 0.2, 0.1, 0.1, 0.05, 0.05)  # most conversations are not longer than this


def main() -> None:
    """Train, save, evaluate."""
    data = read_dialogues(HERE / "data" / "ask_the_survey")
    test = data.split("test_seen", "test_unseen")
    selector = DiffKS(
        embedding=32,
        hidden=32,
        decoder=32,
        dropout=0.5,
        weights=WEIGHTS,
        match=True,
        learning_rate=2e-3,
        epochs=14,
        patience=None,
        seed=0,
    )
    selector.fit(data.split("train"), data.split("valid"))
    selector.save(HERE / "selector", overwrite=True)
    for one in (BM25(), selector):
        print(one.evaluate(test))


if __name__ == "__main__":
    main()
