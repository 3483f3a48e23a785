"""PostKS: its loss is what its definition says, and answers alone teach it."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from km import _km, dialog
from km.errors import ArgumentError

SMALL: dict[str, Any] = {
    "embedding": 12, "hidden": 12, "dropout": 0.0, "learning_rate": 1e-2, "batch_size": 4,
    "threads": 1, "max_context": 6, "patience": None,
}  # fmt: skip
ASKED = ("red", "green", "blue", "white", "black", "pink")
TOLD = ("rose", "leaf", "sky", "snow", "coal", "pig")


# ---- the loss ----


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def last_states(w: dict[str, Any], name: str, rows: Any) -> Any:
    """Final vector of the two directions of a GRU over some rows."""
    found = []
    for direction, suffix in enumerate(("", "_reverse")):
        h = w[f"{name}.h_init"][direction, 0]
        for x in rows[:: -1 if direction else 1]:
            a = w[f"{name}.weight_ih_l0{suffix}"] @ x + w[f"{name}.bias_ih_l0{suffix}"]
            c = w[f"{name}.weight_hh_l0{suffix}"] @ h + w[f"{name}.bias_hh_l0{suffix}"]
            (ar, az, an), (cr, cz, cn) = np.split(a, 3), np.split(c, 3)
            z = sigmoid(az + cz)
            h = (1 - z) * np.tanh(an + sigmoid(ar + cr) * cn) + z * h
        found.append(h)
    return np.concatenate(found)


def softmax(x: Any) -> Any:
    found = np.exp(x - x.max())
    return found / found.sum()


def losses(w: dict[str, Any], turns: list[Any], supervision: float) -> tuple[float, float]:
    """(selection loss, word loss) of turns (context, candidates, response, gold), in float64."""
    selection, words = [], []
    for context, candidates, response, gold in turns:
        q = last_states(w, "ctx", w["E"][context])
        r = last_states(w, "sent", w["E"][response])
        s = np.array([last_states(w, "sent", w["E"][one]) for one in candidates])
        prior = softmax(s @ q)
        query = np.tanh(w["post.weight"] @ np.concatenate([q, r]) + w["post.bias"])
        posterior = softmax(s @ query)
        divergence = np.sum(posterior * np.log(posterior / prior))
        selection.append(divergence - supervision * math.log(posterior[gold]))
        chances = softmax(w["bow.weight"] @ (posterior @ s) + w["bow.bias"])
        words.append(-np.mean([math.log(chances[id]) for id in response if id > 3]))
    return float(np.mean(selection)), float(np.mean(words))


def test_the_loss_is_what_its_definition_says() -> None:
    draw = np.random.default_rng(4)
    sentences = [draw.integers(4, 11, n).tolist() for n in (1, 3, 2, 4)]
    turns = [
        ([2, 5, 3], sentences, [2, 6, 7, 3], 2),
        ([2, 9, 8, 10], sentences, [2, 10, 1, 10, 3], 1),
    ]
    model = _km.DiffKS(
        "posterior", 11, 4, 3, 1, np.ones(1), generate=False, supervision=0.3, seed=7, threads=1
    )
    for name, values in model.parameters().items():  # far from where training begins
        array = np.asarray(values)
        array[...] = draw.normal(size=array.shape) * (1.0 if name == "E" else 0.7)
    offsets = lambda listed: np.cumsum([0, *map(len, listed)], dtype=np.int64)  # noqa: E731
    flat = lambda listed: np.array([id for one in listed for id in one], np.int32)  # noqa: E731
    batch = {
        "sentence_tokens": flat(sentences), "sentence_offsets": offsets(sentences),
        "list_sentences": np.arange(4), "list_offsets": np.array([0, 4]),
        "dialogue_offsets": np.array([0, 2]), "turn_lists": np.zeros(2, np.int64),
        "context_tokens": flat([t[0] for t in turns]),
        "context_offsets": offsets([t[0] for t in turns]),
        "response_tokens": flat([t[2] for t in turns]),
        "response_offsets": offsets([t[2] for t in turns]), "gold": np.array([2, 1]),
    }  # fmt: skip
    found = model.loss(batch, word_weight=0.5)
    w = {name: np.array(values, np.float64) for name, values in model.parameters().items()}
    selection, words = losses(w, turns, 0.3)
    assert found["selection_loss"] == pytest.approx(selection, rel=1e-5)
    assert found["word_loss"] == pytest.approx(words, rel=1e-5)
    assert found["loss"] == pytest.approx(selection + 0.5 * words, rel=1e-5)


# ---- the selector ----


def answers(n: int, split: dialog.dialogues.Split, seed: int) -> dialog.DialogueSet:
    """The answer says a word of the sentence that the user's word stands for, one of three."""
    draw = random.Random(seed)
    dialogues = []
    for number in range(n):
        turns = []
        for _ in range(4):
            order = draw.sample(range(6), 3)
            sentences = tuple(dialog.Sentence(str(i), f"a {TOLD[i]} is there") for i in order)
            gold = draw.randrange(3)
            user, said = ASKED[order[gold]], f"the {TOLD[order[gold]]}"
            turns.append(dialog.DialogueTurn(user, sentences, gold + 1, said))
        dialogues.append(dialog.Dialogue(f"{split}{number}", "", split, tuple(turns)))
    return dialog.DialogueSet(dialogues, "answers")


@pytest.fixture(scope="module")
def data() -> tuple[dialog.DialogueSet, dialog.DialogueSet, dialog.DialogueSet]:
    return answers(40, "train", 1), answers(8, "valid", 2), answers(16, "test_seen", 3)


@pytest.fixture(scope="module")
def trained(data: Any) -> dialog.PostKS:
    return dialog.PostKS(**SMALL, epochs=30, seed=1).fit(data[0], data[1])


def test_answers_teach_it_without_gold_sentences(trained: dialog.PostKS, data: Any) -> None:
    found = trained.evaluate(data[2])
    assert found.accuracy("own", "grounded") > 0.9  # chance: a third
    assert found.accuracy("own", "grounded") == found.accuracy("gold", "grounded")
    rows = list(trained.curve.rows())
    assert rows[-1]["word_loss"] < 0.5 * rows[0]["word_loss"]


def test_gold_sentences_teach_it_too(data: Any) -> None:
    told = dialog.PostKS(**SMALL, epochs=12, supervision=1.0, seed=1).fit(data[0], data[1])
    assert told.evaluate(data[2]).accuracy("own", "grounded") > 0.9


def test_it_is_kept_and_goes_on(data: Any, tmp_path: Path) -> None:
    settings = SMALL | {"temperature": 0.4, "supervision": 0.2, "match": True, "seed": 3}
    whole = dialog.PostKS(**settings, epochs=3).fit(*data[:2])
    dialog.PostKS(**settings, epochs=2).fit(*data[:2], checkpoint=tmp_path / "run")
    longer = dialog.PostKS(**settings, epochs=3).fit(*data[:2], checkpoint=tmp_path / "run")
    assert longer.curve["loss"] == whole.curve["loss"]
    again = dialog.PostKS.load(whole.save(tmp_path / "selector"))
    assert isinstance(again, dialog.PostKS)
    assert (again.temperature, again.supervision, again.match) == (0.4, 0.2, True)
    assert again.choose(data[2], "own").chosen == whole.choose(data[2], "own").chosen


def test_one_turn_and_why(trained: dialog.PostKS, data: Any) -> None:
    texts = [f"a {word} is there" for word in TOLD]
    found = trained.select("blue", texts, history=[texts[2]])
    assert found.index == 2 == trained.select("blue", texts).index  # history does not count
    table = trained.explain("blue", texts, [texts[2]])
    assert table["candidate"][0] == 2 and set(table["difference"]) == {0.0}


def test_arguments_are_checked(trained: dialog.PostKS) -> None:
    for change, message in (
        ({"temperature": -1}, "temperature is -1"),
        ({"supervision": float("nan")}, "supervision is nan"),
        ({"embeddings": "states"}, "needs model"),
    ):
        with pytest.raises(ArgumentError, match=message):
            dialog.PostKS(**change)
    with pytest.raises(ArgumentError, match="no decoder"):
        trained.respond("blue", ["a"])
    with pytest.raises(ArgumentError, match="has not learned"):
        dialog.PostKS().select("a", ["b"])
    found = dialog.PostKS(temperature=0.5)
    assert found.get_params()["temperature"] == 0.5
    assert found.set_params(supervision=2).get_params()["supervision"] == 2
    assert "temperature=0.5" in repr(found) and "variant" not in repr(found)
