"""DiffKS: learns what history decides, and keeps, explains and resumes what it learned."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km
from km import dialog
from km.errors import ArgumentError, BusyError, FormatError

TINY = Path(__file__).parents[1] / "golden_data" / "tiny_llama"
SMALL: dict[str, Any] = {
    "embedding": 12, "hidden": 12, "decoder": 16, "dropout": 0.0, "learning_rate": 1e-2,
    "batch_size": 4, "threads": 1, "max_context": 6,
}  # fmt: skip
WORDS = ("ash", "birch", "cedar", "fir", "oak", "pine")


def chains(n: int, split: dialog.dialogues.Split, seed: int = 0) -> dialog.DialogueSet:
    """Dialogues where "next" asks for the tree after the one before: history alone decides."""
    draw = random.Random(seed)
    dialogues = []
    for number in range(n):
        order = list(range(len(WORDS)))
        draw.shuffle(order)
        sentences = tuple(
            dialog.Sentence(str(i), f"{WORDS[i]} comes before {WORDS[(i + 1) % 6]}") for i in order
        )
        at = draw.randrange(6)
        turns = []
        for turn in range(4):
            user = f"tell {WORDS[at]}" if not turn else "next"
            gold = order.index(at) + 1
            turns.append(dialog.DialogueTurn(user, sentences, gold, "yes"))
            at = (at + 1) % 6
        turns.append(dialog.DialogueTurn("bye", sentences, 0, "bye"))
        dialogues.append(dialog.Dialogue(f"{split}{number}", "trees", split, tuple(turns)))
    return dialog.DialogueSet(dialogues, "chains")


@pytest.fixture(scope="module")
def data() -> tuple[dialog.DialogueSet, dialog.DialogueSet, dialog.DialogueSet]:
    return chains(48, "train", 1), chains(8, "valid", 2), chains(16, "test_seen", 3)


@pytest.fixture(scope="module")
def trained(data: Any) -> dialog.DiffKS:
    return dialog.DiffKS(**SMALL, epochs=25, patience=None, seed=1).fit(data[0], data[1])


def weights(selector: dialog.DiffKS) -> dict[str, Any]:
    return {name: np.array(v) for name, v in selector._need_network().parameters().items()}


def same(a: dialog.DiffKS, b: dialog.DiffKS) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all((first[n] == second[n]).all() for n in first)


def test_it_learns_what_only_history_tells(trained: dialog.DiffKS, data: Any) -> None:
    found = trained.evaluate(data[2])
    without = dialog.DiffKS("context", **SMALL, epochs=25, patience=None, seed=1)
    context = without.fit(data[0], data[1]).evaluate(data[2])
    # Six words of context hold no tree after the first turn: without history a sixth is chance.
    assert found.accuracy("gold", "later") > 0.8
    assert context.accuracy("gold", "later") < 0.5
    assert context.accuracy("own", "later") == context.accuracy("gold", "later")
    assert found.minus(context, "gold", "later").low > 0


def test_slot_0_is_chosen_only_where_allowed(trained: dialog.DiffKS, data: Any) -> None:
    assert 0 not in trained.choose(data[2], "own").chosen
    free = dialog.DiffKS(**SMALL, epochs=1, allow_none=True).fit(data[0])
    assert free.allow_none and len(free.choose(data[2], "own").chosen) == data[2].n_turns


def test_select_and_explain_agree_with_choosing(trained: dialog.DiffKS, data: Any) -> None:
    chosen = iter(trained.choose(data[2], "gold").chosen)
    for one in data[2][:4]:
        used: list[str] = []
        for number, turn in enumerate(one.turns):
            texts = [sentence.text for sentence in turn.candidates]
            found = trained.select(one.utterances(number), texts, used)
            assert found.index == next(chosen) - 1
            table = trained.explain(one.utterances(number), texts, used)
            assert table["candidate"][0] == found.index
            for i, score, context, change in zip(
                *(table[c] for c in ("candidate", "score", "context", "difference")), strict=True
            ):
                assert score == pytest.approx(found.scores[i])
                assert change == pytest.approx(score - context, abs=1e-5)
            if not used:
                assert set(table["earlier_1"]) == {0.0} and set(table["difference"]) == {0.0}
            used.append(turn.candidates[turn.gold - 1].text if turn.gold else data[2].none_text)


def test_a_single_earlier_choice_is_the_whole_difference(trained: dialog.DiffKS, data: Any) -> None:
    turn = data[2][0].turns[1]
    texts = [sentence.text for sentence in turn.candidates]
    table = trained.explain(["next"], texts, [texts[0]])
    by_choice = np.array(table["earlier_1"])
    assert np.abs(by_choice).max() > 0 and set(table["earlier_2"]) == {0.0}


def test_the_same_bits_for_any_threads_and_again(data: Any) -> None:
    one = dialog.DiffKS(**SMALL, epochs=2, seed=3).fit(*data[:2])
    again = dialog.DiffKS(**SMALL | {"threads": 3}, epochs=2, seed=3).fit(*data[:2])
    other = dialog.DiffKS(**SMALL, epochs=2, seed=4).fit(*data[:2])
    assert same(one, again) and not same(one, other)


def test_saved_and_loaded(trained: dialog.DiffKS, data: Any, tmp_path: Path) -> None:
    place = trained.save(tmp_path / "selector")
    found = dialog.DiffKS.load(place)
    assert same(found, trained) and found.best_epoch == trained.best_epoch
    assert found.curve["loss"] == trained.curve["loss"]
    assert found.choose(data[2], "own").chosen == trained.choose(data[2], "own").chosen
    with pytest.raises(ArgumentError, match="overwrite=True"):
        trained.save(place)
    trained.save(place, overwrite=True)


@pytest.mark.parametrize("name", ["model.safetensors", "diffks.json"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_selector_is_refused(
    trained: dialog.DiffKS, tmp_path: Path, name: str, place: float
) -> None:
    file = trained.save(tmp_path / "selector") / name
    whole = file.read_bytes()
    at = int(len(whole) * place)
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(FormatError, match=name.replace(".", r"\.")):
        dialog.DiffKS.load(tmp_path / "selector")
    file.write_bytes(whole[:at])
    with pytest.raises(FormatError):
        dialog.DiffKS.load(tmp_path / "selector")
    file.unlink()
    with pytest.raises(FormatError):
        dialog.DiffKS.load(tmp_path / "selector")


def test_matching_is_kept_and_explained(data: Any, tmp_path: Path) -> None:
    found = dialog.DiffKS(**SMALL, match=True, epochs=2, seed=1).fit(*data[:2])
    again = dialog.DiffKS.load(found.save(tmp_path / "s"))
    assert again.match and same(again, found)
    assert again.choose(data[2], "own").chosen == found.choose(data[2], "own").chosen
    texts = [f"{WORDS[i]} comes before {WORDS[(i + 1) % 6]}" for i in range(6)]
    asked = ["tell ash", "yes", "tell oak"]
    table = again.explain(asked, texts, [texts[0]])
    assert list(table.rows()) == list(found.explain(asked, texts, [texts[0]]).rows())
    assert table["candidate"][0] == again.select(asked, texts, [texts[0]]).index
    # What was chosen before loses by it, whatever else it has; the rule begins with -12.
    used = table["candidate"].index(0)
    assert table["earlier_1"][used] == min(table["earlier_1"]) < -3
    # "oak" is a word of two candidates, which the network need not learn.
    context = dict(zip(table["candidate"], table["context"], strict=True))
    assert {i for i, _ in sorted(context.items(), key=lambda pair: -pair[1])[:2]} == {3, 4}


def stop_after(batches: int) -> Callable[[int, int, dict[str, Any]], None]:
    def report(done: int, total: int, info: dict[str, Any]) -> None:
        if done == batches:
            raise KeyboardInterrupt

    return report


def test_ctrl_c_keeps_the_best_so_far(data: Any) -> None:
    unfinished = dialog.DiffKS(**SMALL, epochs=6, seed=5)
    unfinished.fit(*data[:2], progress=stop_after(3 * 12 + 5))
    assert unfinished.interrupted and len(unfinished.curve) == 3
    whole = dialog.DiffKS(**SMALL, epochs=3, seed=5).fit(*data[:2])
    assert same(unfinished, whole) and not whole.interrupted
    with pytest.raises(KeyboardInterrupt):
        dialog.DiffKS(**SMALL).fit(*data[:2], progress=stop_after(1))


@pytest.mark.parametrize("history", ["gold", "scheduled"])
def test_a_stopped_training_goes_on_with_the_same_bits(
    data: Any, tmp_path: Path, history: Any
) -> None:
    settings = SMALL | {"dropout": 0.2, "history": history, "seed": 6, "patience": None}
    settings["sampling"] = dialog.Sampling(1, 3, 0.5)
    whole = dialog.DiffKS(**settings, epochs=4).fit(*data[:2])
    folder = tmp_path / "run"
    first = dialog.DiffKS(**settings, epochs=4)
    first.fit(*data[:2], checkpoint=folder, progress=stop_after(2 * 12 + 3))
    assert first.interrupted
    second = dialog.DiffKS(**settings, epochs=4).fit(*data[:2], checkpoint=folder)
    assert same(second, whole) and second.curve["loss"] == whole.curve["loss"]
    longer = dialog.DiffKS(**settings, epochs=5).fit(*data[:2], checkpoint=folder)
    assert len(longer.curve) == 5
    with pytest.raises(ArgumentError, match="hidden is 12 there and 13 here"):
        dialog.DiffKS(**settings | {"hidden": 13}).fit(*data[:2], checkpoint=folder)
    with pytest.raises(ArgumentError, match="holds another training"):
        dialog.DiffKS(**settings).fit(data[1], checkpoint=folder)


def test_a_damaged_checkpoint_is_refused(data: Any, tmp_path: Path) -> None:
    dialog.DiffKS(**SMALL, epochs=1).fit(*data[:2], checkpoint=tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 4
    file.write_bytes(whole)
    with pytest.raises(FormatError, match=r"checkpoint\.safetensors: is damaged"):
        dialog.DiffKS(**SMALL, epochs=2).fit(*data[:2], checkpoint=tmp_path)


def test_two_trainings_do_not_share_a_checkpoint(data: Any, tmp_path: Path) -> None:
    def inner(done: int, total: int, info: dict[str, Any]) -> None:
        if done == 1:
            with pytest.raises(BusyError, match="another process"):
                dialog.DiffKS(**SMALL, epochs=1).fit(*data[:2], checkpoint=tmp_path)

    dialog.DiffKS(**SMALL, epochs=1).fit(*data[:2], checkpoint=tmp_path, progress=inner)


def test_patience_and_the_best_epoch(data: Any) -> None:
    found = dialog.DiffKS(**SMALL | {"learning_rate": 0.0}, epochs=9, patience=2).fit(*data[:2])
    assert len(found.curve) == 3 and found.best_epoch == 1  # no better, no better, stop
    last = dialog.DiffKS(**SMALL, epochs=2).fit(data[0])
    assert last.best_epoch == 2 and last.curve["valid_own"] == [None, None]


def test_scheduled_sampling_rises() -> None:
    plan = dialog.Sampling(2, 4, 0.5)
    assert [plan.share(epoch) for epoch in range(6)] == [0, 0, 0.25, 0.5, 0.5, 0.5]
    assert dialog.Sampling(1, 1, 1).share(1) == 1
    with pytest.raises(ArgumentError, match=r"sampling\.full"):
        dialog.Sampling(5, 4)


def test_a_decoder_answers(data: Any, tmp_path: Path) -> None:
    found = dialog.DiffKS(**SMALL, epochs=6, generate=True, seed=2).fit(*data[:2])
    assert found.respond("next", ["ash comes before birch"]) in ("yes", "bye")
    evaluation = found.evaluate(data[2])
    assert evaluation.answers is not None
    values = dict(zip(evaluation.answers["measure"], evaluation.answers["value"], strict=True))
    assert values["rouge-1"] > 50
    again = dialog.DiffKS.load(found.save(tmp_path / "s"))
    assert again.answer_turns(data[2]) == found.answer_turns(data[2])
    plain = dialog.DiffKS(**SMALL, epochs=1).fit(data[0])
    with pytest.raises(ArgumentError, match="generate=True"):
        plain.respond("next", ["a"])


@pytest.mark.parametrize("embeddings", ["model", "states"])
def test_a_language_model_lends_its_embeddings(data: Any, tmp_path: Path, embeddings: Any) -> None:
    model = km.load(TINY)
    width = {"embedding": min(8, int(model.config["d_model"]))}
    found = dialog.DiffKS(**SMALL | width, embeddings=embeddings, model=model, epochs=2, seed=1)
    found.fit(data[0], data[1])
    before = found.choose(data[2], "own").chosen
    folder = found.save(tmp_path / "s")
    again = dialog.DiffKS.load(folder, model=model)
    assert again.choose(data[2], "own").chosen == before
    with pytest.raises(ArgumentError, match="needs the language model"):
        dialog.DiffKS.load(folder)
    with pytest.raises(ArgumentError, match="another language model"):
        dialog.DiffKS.load(folder, model=model.random_like(1))
    if embeddings == "model":
        rows = weights(found)["E"][4:]
        assert rows.shape == (model.config["vocab_size"], width["embedding"])
        assert np.abs(rows.mean(axis=0)).max() < 1e-3
        assert np.mean(rows**2) == pytest.approx(1, rel=1e-3)
        assert "E" not in km.tensor_file.read_tensors(folder / "model.safetensors")[0]  # type: ignore[attr-defined]


def test_arguments_are_checked(data: Any) -> None:
    for change, message in (
        ({"variant": "both"}, "variant is 'both'"),
        ({"weights": ()}, "weights must hold"),
        ({"weights": (0, 0)}, "weights must hold"),
        ({"embeddings": "model"}, r"embeddings='model' needs model=km.load\(\)"),
        ({"history": "own"}, "history is 'own'"),
        ({"dropout": 1}, "dropout is 1"),
        ({"epochs": 0}, "epochs is 0"),
    ):
        with pytest.raises(ArgumentError, match=message):
            dialog.DiffKS(**change)
    with pytest.raises(ArgumentError, match="has not learned anything"):
        dialog.DiffKS().select("a", ["b"])
    with pytest.raises(TypeError, match=r"train must be a km.dialog.DialogueSet"):
        dialog.DiffKS().fit([])  # type: ignore[arg-type]
    silent = data[0].where(lambda one: False)
    with pytest.raises(ArgumentError, match="nothing to learn"):
        dialog.DiffKS().fit(silent)
    found = dialog.DiffKS(hidden=5)
    assert found.get_params()["hidden"] == 5
    assert found.set_params(hidden=6).hidden == 6
    assert "hidden=6" in repr(found)
