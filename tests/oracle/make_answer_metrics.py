"""Golden values of BLEU and ROUGE for generated answers: NLTK and the package rouge.

Writes tests/golden_data/answer_metrics.json. Run with nltk and rouge installed:
python tests/oracle/make_answer_metrics.py
"""

from __future__ import annotations

import importlib.metadata
import json
import random
from pathlib import Path

from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from rouge import Rouge


def case(seed: int, n: int, vocabulary: int, longest: int) -> dict[str, object]:
    """Answers that keep part of their reference, and what the two libraries say."""
    draw = random.Random(seed)
    references, answers = [], []
    for _ in range(n):
        words = [str(draw.randrange(4, vocabulary)) for _ in range(draw.randint(1, longest))]
        kept = [word for word in words if draw.random() < 0.6]
        kept += [str(draw.randrange(4, vocabulary)) for _ in range(draw.randint(1, 4))]
        draw.shuffle(kept) if draw.random() < 0.3 else None
        references.append(words)
        answers.append(kept)
    smooth = SmoothingFunction().method3
    bleu = [
        100
        * corpus_bleu(
            [[words] for words in references],
            answers,
            [1 / i] * i + [0.0] * (4 - i),
            smoothing_function=smooth,
        )
        for i in range(1, 5)
    ]
    scores = Rouge().get_scores(
        [" ".join(words) for words in answers], [" ".join(words) for words in references], avg=True
    )
    rouge = {name: 100 * found["r"] for name, found in scores.items()}
    return {"answers": answers, "references": references, "bleu": bleu, "rouge": rouge}


def main() -> None:
    """Write the file."""
    versions = {name: importlib.metadata.version(name) for name in ("nltk", "rouge")}
    cases = [case(1, 30, 60, 12), case(2, 6, 500, 9), case(3, 3, 5000, 3), case(4, 12, 20, 30)]
    path = Path(__file__).parents[1] / "golden_data" / "answer_metrics.json"
    path.write_text(json.dumps({"made_with": versions, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
