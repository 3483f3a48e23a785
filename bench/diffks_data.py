"""Batches for bench/diffks.py: dialogues of a JSONL file, or made up in the shape of FloDial."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
PAD, UNK, GO, EOS = range(4)
CONTEXT, SENTENCE = 100, 40


@dataclass
class Dialogue:
    """Word ids of a dialogue: candidates that its turns share, contexts, answers, gold indices."""

    candidates: list[list[int]]
    contexts: list[list[int]]
    responses: list[list[int]]
    gold: list[int]


def words(text: str) -> list[str]:
    """Lower-case words."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def from_file(path: Path, vocabulary: int = 3000) -> tuple[list[Dialogue], int]:
    """Dialogues {"turns": [{"context", "knowledge", "gold", "response"}]}, and their vocabulary."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    counts: Counter[str] = Counter()
    for row in rows:
        for turn in row["turns"]:
            counts.update(words(turn["response"]))
            counts.update(words(turn["context"][-1]))
        for sentence in row["turns"][0]["knowledge"]:
            counts.update(words(sentence))
    ids = {word: i + 4 for i, (word, _) in enumerate(counts.most_common(vocabulary - 4))}

    def encode(text: str) -> list[int]:
        return [ids.get(word, UNK) for word in words(text)]

    out = []
    for row in rows:
        turns = row["turns"]
        context = [[i for u in t["context"] for i in [GO, *encode(u)[:38], EOS]] for t in turns]
        out.append(
            Dialogue(
                [encode(s)[:SENTENCE] for s in turns[0]["knowledge"]],
                [c[-CONTEXT:] for c in context],
                [[GO, *encode(t["response"])[:38], EOS] for t in turns],
                [t["gold"] for t in turns],
            )
        )
    return out, len(ids) + 4


def made_up(n: int, seed: int, vocabulary: int = 2000) -> tuple[list[Dialogue], int]:
    """Dialogues of random words with FloDial's lengths: 7 turns, 40 candidates from 10 topics."""
    rng = np.random.default_rng(seed)

    def text(low: int, high: int) -> list[int]:
        return [int(i) for i in rng.integers(4, vocabulary, rng.integers(low, high))]

    topics = [[text(5, 40) for _ in range(40)] for _ in range(10)]
    out = []
    for i in range(n):
        candidates = [topics[i % 10][j] for j in rng.permutation(40)]
        turns = int(rng.integers(4, 11))
        history: list[int] = []
        dialogue = Dialogue(candidates, [], [], [])
        for _ in range(turns):
            gold = int(rng.integers(0, 40))
            history = [*history, GO, *text(5, 30), EOS]
            response = [GO, *candidates[gold][:20], EOS]
            dialogue.contexts.append(history[-CONTEXT:])
            dialogue.responses.append(response)
            dialogue.gold.append(gold)
            history = history + response
        out.append(dialogue)
    return out, vocabulary


def offsets(lengths: list[int]) -> Array:
    """Where things of these lengths begin, and where the last ends."""
    return np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)


def flat(lists: list[list[int]]) -> Array:
    """All ids, one list after the other."""
    return np.array([i for ids in lists for i in ids], np.int32)


def batch(dialogues: list[Dialogue], responses: bool) -> dict[str, Array]:
    """The arrays that km reads: each sentence and each list once."""
    sentences: dict[tuple[int, ...], int] = {}
    lists: dict[tuple[int, ...], int] = {}
    turn_lists = []
    for d in dialogues:
        places = [sentences.setdefault(tuple(s), len(sentences)) for s in d.candidates]
        number = lists.setdefault(tuple(places), len(lists))
        turn_lists += [number] * len(d.gold)
    contexts = [c for d in dialogues for c in d.contexts]
    out = {
        "sentence_tokens": flat([list(s) for s in sentences]),
        "sentence_offsets": offsets([len(s) for s in sentences]),
        "list_sentences": np.array([i for places in lists for i in places], np.int64),
        "list_offsets": offsets([len(places) for places in lists]),
        "dialogue_offsets": offsets([len(d.gold) for d in dialogues]),
        "turn_lists": np.array(turn_lists, np.int64),
        "context_tokens": flat(contexts),
        "context_offsets": offsets([len(c) for c in contexts]),
        "gold": np.array([g for d in dialogues for g in d.gold], np.int64),
    }
    if responses:
        answers = [r for d in dialogues for r in d.responses]
        out["response_tokens"] = flat(answers)
        out["response_offsets"] = offsets([len(a) for a in answers])
    return out
