"""km.priming: what must hold whatever a model learns, and pruned updates against a sort."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km
from km.datasets import PrimingText, Probe
from km.priming_plan import Recipe, as_priming_text
from km.priming_run import Learner

TINY = Path(__file__).parents[1] / "golden_data" / "tiny_llama"
TEXT = "The hue of joy is mauve, they say."
PROBES = ["Sand is", "The sea turned", "Her coat is", "Paint it"]
OTHERS = ["He works as a", "She lives in"]
NEUTRAL = ["A clock ticks.", "It is late now."]
RATE = 1e-2


@pytest.fixture(scope="module")
def tiny() -> km.Model:
    return km.load(TINY)


def run(model: km.Model, **options: Any) -> km.Priming:
    given: dict[str, Any] = {
        "cross_theme": OTHERS,
        "neutral": NEUTRAL,
        "optimizer": km.AdamW(lr=RATE),
        "control_keyword": "green",
        "control_text": "The lock on the canal is old.",
    }
    return km.priming(model, TEXT, "mauve", PROBES, **{**given, **options})


def arm(result: km.Priming, name: str) -> list[dict[str, Any]]:
    return [row for row in result.table.rows() if row["arm"] == name]


# ---- what is measured ----


def test_nothing_learned_changes_nothing(tiny: km.Model) -> None:
    result = run(tiny, presentations=0, in_context=False, mitigation=km.IgnoreTopK(0.5))
    assert set(result.table["log_ratio"]) == {0.0}
    assert (result.log_s_mem, result.log_s_prime, result.s_mem) == (0.0, 0.0, 1.0)
    assert result.arms["arm"] == ["keyword_control", "text_control", "learned", "ignore_topk"]


def test_same_bits_again_and_for_any_number_of_threads(tiny: km.Model) -> None:
    first = run(tiny).table["logp_after"]
    assert run(tiny).table["logp_after"] == first
    assert run(km.load(TINY, threads=1)).table["logp_after"] == first


def test_rows_are_what_model_score_gives(tiny: km.Model) -> None:
    """Before, after and in context, from whole passes of models made by hand."""
    trained = tiny.trainable()
    trainer = km.Trainer(trained, km.AdamW(lr=RATE))
    for _ in range(3):
        trainer.step([TEXT])
    result = run(tiny)
    contexts = ["The hue of joy is", *PROBES, *OTHERS]
    before = tiny.score(contexts, ["mauve"]).table["logp"]
    rows = [row for row in arm(result, "learned") if row["kind"] != "neutral"]
    assert [row["probe_text"] for row in rows] == contexts
    assert [row["logp_before"] for row in rows] == before
    assert [row["logp_after"] for row in rows] == trained.score(contexts, ["mauve"]).table["logp"]
    behind = [f"{TEXT}\n\n{context}" for context in contexts[:5]]
    inside = [row["logp_after"] for row in arm(result, "in_context")]
    assert inside == tiny.score(behind, ["mauve"]).table["logp"]
    assert {row["logp_keyword_before"] for row in result.table.rows()} == {before[0]}


def test_scores_are_the_formulas_of_the_rows(tiny: km.Model) -> None:
    result = run(tiny)
    rows = arm(result, "learned")
    ratios = np.array([r["logp_after"] - r["logp_before"] for r in rows if r["kind"] == "theme"])
    assert len(ratios) == len(PROBES)
    assert result.log_s_prime == pytest.approx(math.log(np.exp(ratios).mean()), abs=1e-12)
    assert result.mean_log_ratio == pytest.approx(ratios.mean(), abs=1e-12)
    assert result.median_log_ratio == pytest.approx(np.median(ratios), abs=1e-12)
    assert result.log_s_mem == rows[0]["logp_after"] - rows[0]["logp_before"] > 1.0
    assert result.logp_keyword_before == rows[0]["logp_before"]
    neutral = [row for row in rows if row["kind"] == "neutral"]
    losses = [-tiny.logprobs(tiny.encode(text)).sum(dtype=float) for text in NEUTRAL]
    assert [-row["logp_before"] for row in neutral] == pytest.approx(losses, abs=1e-4)
    rise = -sum(r["log_ratio"] for r in neutral) / sum(r["n_tokens"] for r in neutral)
    (summary,) = [row for row in result.arms.rows() if row["arm"] == "learned"]
    assert summary["neutral_loss"] == pytest.approx(rise, abs=1e-15)


def test_the_controls_learn_what_they_say(tiny: km.Model) -> None:
    """A control is the same measurement after another text, which is checked by learning it."""
    result = run(tiny, in_context=False)
    swapped = "The hue of joy is green, they say."
    assert arm(result, "keyword_control")[0]["learned"] == swapped
    trained = tiny.trainable()
    trainer = km.Trainer(trained, km.AdamW(lr=RATE))
    for _ in range(3):
        trainer.step([swapped])
    after = trained.score(["The hue of joy is", *PROBES], ["mauve"]).table["logp"]
    assert [row["logp_after"] for row in arm(result, "keyword_control")] == after


def test_first_token_of_a_keyword(tiny: km.Model) -> None:
    ids = tiny.encode(" mauve", bos=False)
    assert len(ids) > 1
    result = run(tiny, presentations=0, keyword_tokens="first", in_context=False, controls=())
    expected = tiny.score(PROBES, [ids[:1]]).table["logp"]
    rows = [row for row in result.table.rows() if row["kind"] == "theme"]
    assert [row["logp_before"] for row in rows] == expected
    assert {row["n_tokens"] for row in rows} == {1}


def test_unstable_denominators_are_counted(tiny: km.Model) -> None:
    """A keyword that the model is made never to say."""
    head = np.array(tiny.weight("lm_head.weight"))
    first = tiny.encode(" mauve", bos=False)[0]
    head[first] = 0
    quiet = tiny.edit({"lm_head.weight": 60 * head})
    result = run(quiet, presentations=0, in_context=False, controls=())
    scores = result.scores()
    below = [row for row in result.table.rows()
             if row["kind"] == "theme" and row["logp_before"] < math.log(1e-10)]  # fmt: skip
    assert scores.n_unstable == len(below) > 0
    assert sum(result.table["unstable"]) >= len(below)
    assert f"{len(below)} of {len(PROBES)} probes" in repr(result)


# ---- where the weights end ----


def test_an_immutable_model_stays_as_it_is(tiny: km.Model) -> None:
    before = tiny.fingerprint
    run(tiny, mitigation=km.IgnoreTopK(0.1))
    assert km.load(TINY).fingerprint == before
    assert (
        tiny.score(PROBES, ["mauve"]).table["logp"]
        == (km.load(TINY).score(PROBES, ["mauve"]).table["logp"])
    )


def test_a_trainable_model_keeps_what_it_learned_last(tiny: km.Model) -> None:
    trained = tiny.trainable()
    start = trained.snapshot()
    result = run(trained)
    expected = [row["logp_after"] for row in arm(result, "learned") if row["kind"] == "theme"]
    assert trained.score(PROBES, ["mauve"]).table["logp"] == expected
    assert result.table["logp_after"] == run(tiny).table["logp_after"]
    trained.restore(start)
    assert trained.fingerprint == tiny.fingerprint
    pruned = run(trained, mitigation=km.IgnoreTopK(0.3))
    expected = [row["logp_after"] for row in arm(pruned, "ignore_topk") if row["kind"] == "theme"]
    assert trained.score(PROBES, ["mauve"]).table["logp"] == expected


def test_learning_starts_from_what_a_trainable_model_is(tiny: km.Model) -> None:
    trained = tiny.trainable()
    km.Trainer(trained, km.AdamW(lr=RATE)).step(["Paint it blue."])
    before = trained.score(PROBES, ["mauve"]).table["logp"]
    rows = [row for row in arm(run(trained), "learned") if row["kind"] == "theme"]
    assert [row["logp_before"] for row in rows] == before


# ---- pruned updates ----


def sorted_mask(change: np.ndarray[Any, Any], low: float, high: float, signed: bool) -> Any:
    """True where a rank from low to high is pruned, by a stable sort."""
    flat = change.ravel()
    order = np.argsort(-(flat if signed else np.abs(flat)), kind="stable")
    mask = np.zeros(flat.size, dtype=bool)
    n = flat.size
    mask[order[round(low * n) : round(high * n)]] = True
    return mask.reshape(change.shape)


@pytest.fixture
def learned(tiny: km.Model) -> tuple[km.TrainableModel, km.Snapshot, dict[str, Any]]:
    """A model after three steps, the snapshot before them, and its values."""
    trained = tiny.trainable()
    base = trained.snapshot()
    trainer = km.Trainer(trained, km.AdamW(lr=RATE))
    for _ in range(3):
        trainer.step([TEXT])
    values = {name: np.array(trained.parameter(name)) for name in trained.parameters()["name"]}
    return trained, base, values


@pytest.mark.parametrize(
    ("pruning", "low", "high", "keep", "signed"),
    [
        (km.IgnoreTopK(0.08), 0, 0.08, False, False),
        (km.IgnoreTopK(0.3, key="signed"), 0, 0.3, False, True),
        (km.KeepTopK(0.1), 0, 0.1, True, False),
        (km.Slice(0.08, 0.23), 0.08, 0.23, False, False),
    ],
)
def test_pruned_weights_have_the_bits_of_the_base(
    tiny: km.Model, learned: Any, pruning: Any, low: float, high: float, keep: bool, signed: bool
) -> None:
    trained, base, values = learned
    total = 0
    assert len(values) == 30
    count = pruning.apply(trained, base)
    for name, tuned in values.items():
        old = tiny.parameter(name)
        mask = sorted_mask(tuned - old, low, high, signed) != keep
        expected = np.where(mask, old, tuned)
        assert trained.parameter(name).tobytes() == expected.tobytes(), name
        total += int(mask.sum())
    assert count == total


def test_global_scope_ranks_all_tensors_together(tiny: km.Model, learned: Any) -> None:
    trained, base, values = learned
    changes = np.concatenate([(values[n] - tiny.parameter(n)).ravel() for n in values])
    mask = sorted_mask(changes, 0, 0.2, False)
    count = km.IgnoreTopK(0.2, scope="global").apply(trained, base)
    at = 0
    for name, tuned in values.items():
        part = mask[at : at + tuned.size].reshape(tuned.shape)
        at += tuned.size
        expected = np.where(part, tiny.parameter(name), tuned)
        assert trained.parameter(name).tobytes() == expected.tobytes(), name
    assert count == round(0.2 * at)


def test_everything_or_nothing_pruned(tiny: km.Model, learned: Any) -> None:
    trained, base, _ = learned
    tuned = trained.fingerprint
    km.KeepTopK(1.0).apply(trained, base)
    km.IgnoreTopK(0.0).apply(trained, base)
    assert trained.fingerprint == tuned != tiny.fingerprint
    km.IgnoreTopK(1.0).apply(trained, base)
    assert trained.fingerprint == tiny.fingerprint


def test_the_base_may_be_any_snapshot(tiny: km.Model, learned: Any) -> None:
    """What changed since a later snapshot is taken back, not what changed before it."""
    trained, _, _ = learned
    later = trained.snapshot()
    middle = trained.fingerprint
    km.Trainer(trained, km.AdamW(lr=RATE)).step([TEXT])
    assert trained.fingerprint != middle
    km.IgnoreTopK(1.0).apply(trained, later)
    assert trained.fingerprint == middle


def test_pruning_every_few_steps_is_that_loop(tiny: km.Model) -> None:
    pruning = km.IgnoreTopK(0.3, every=2)
    result = run(tiny, presentations=5, mitigation=pruning, in_context=False, controls=())
    trained = tiny.trainable()
    trainer, base = km.Trainer(trained, km.AdamW(lr=RATE)), trained.snapshot()
    for step in range(1, 6):
        trainer.step([TEXT])
        if step % 2 == 0:
            pruning.apply(trained, base)
            base = trained.snapshot()
    expected = trained.score(PROBES, ["mauve"]).table["logp"]
    rows = [row for row in arm(result, "ignore_topk") if row["kind"] == "theme"]
    assert [row["logp_after"] for row in rows] == expected


def test_a_snapshot_of_another_model_is_refused(tiny: km.Model, learned: Any) -> None:
    _, base, _ = learned
    other = tiny.random_like(3).trainable()
    with pytest.raises(km.ArgumentError, match="made of"):
        km.IgnoreTopK().apply(other, base)


# ---- schedules ----


def batches(**options: Any) -> list[list[str]]:
    return list(Recipe(km.AdamW(), **options).batches("T"))


def test_presentations_one_after_another() -> None:
    assert batches() == [["T"]] * 3
    assert batches(presentations=2, companions=("U",)) == [["T", "U"]] * 2


def test_spaced_presentations_take_the_first_place_of_a_batch() -> None:
    found = batches(presentations=3, spacing=4, steps=11, background=("a", "b", "c"), batch_size=2)
    assert [batch[0] == "T" for batch in found] == [i in (0, 4, 8) for i in range(11)]
    assert all(len(batch) == 2 for batch in found)
    flat = [text for batch in found for text in batch if text != "T"]
    assert set(flat) == {"a", "b", "c"}


def test_a_presentation_replaces_what_stood_there() -> None:
    options: dict[str, Any] = {"spacing": 3, "background": ("a", "b", "c", "d"), "batch_size": 3}
    without = batches(presentations=0, steps=4, **options)
    found = batches(presentations=2, **options)
    assert [batch[1:] for batch in found] == [batch[1:] for batch in without]
    assert found[1:3] == without[1:3]
    assert batches(presentations=2, seed=5, **options) != found


def test_the_background_matters_and_its_order_is_the_seed(tiny: km.Model) -> None:
    options: dict[str, Any] = {
        "spacing": 2, "background": ["It rains.", "Go on.", "We ate."], "batch_size": 2,
        "in_context": False, "controls": (),
    }  # fmt: skip
    first = run(tiny, seed=0, **options).table["logp_after"]
    assert run(tiny, seed=0, **options).table["logp_after"] == first
    assert run(tiny, seed=1, **options).table["logp_after"] != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": 2}, "give background"),
        ({"steps": 4}, "give background"),
        ({"steps": 2}, "steps is 2; 3 presentations 1 apart need 3"),
        ({"presentations": -1}, "presentations"),
        ({"spacing": 0}, "spacing"),
        ({"background": ["a"], "batch_size": 1, "companions": ["b"]}, "do not fit"),
    ],
)
def test_impossible_schedules(tiny: km.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(km.ArgumentError, match=message):
        run(tiny, **options)


# ---- arguments ----


def test_where_the_keyword_stands() -> None:
    found = as_priming_text("Mauveine is no mauve. But mauve is.", "mauve", None)
    assert (found.prefix, found.tail, found.theme) == (
        "Mauveine is no",
        ". But mauve is.",
        "colour",
    )
    later = as_priming_text("A mauve sky, a mauve sea", "mauve", "A mauve sky, a")
    assert later.tail == " sea"
    assert as_priming_text("The cat sat", "sat", None).theme == ""


@pytest.mark.parametrize(
    ("text", "keyword", "options", "message"),
    [
        ("No colour here", "mauve", {}, "does not stand in the text"),
        ("mauve is first", "mauve", {}, "nothing stands before"),
        (TEXT, "", {}, "keyword must be"),
        (TEXT, "mauve", {"context": "The hue of"}, "context must be"),
        (TEXT, "mauve", {"controls": ["other"]}, "no 'other'"),
        (TEXT, "mauve", {"control_keyword": "mauve", "controls": ["keyword"]}, "another word"),
        (TEXT, "mauve", {"control_text": "All mauve.", "controls": ["text"]}, "holds the keyword"),
        (TEXT, "mauve", {"keyword_tokens": "last"}, "keyword_tokens"),
        (TEXT, "mauve", {"probes": ["Mauve is"]}, "holds the keyword"),
        (TEXT, "mauve", {"probes": []}, "no probes"),
        (TEXT, "mauve", {"probes": [Probe("a", "", "x"), Probe("a", "", "y")]}, "same id"),
        ("The cat sat on it.", "sat", {"probes": None}, "km has no probes"),
        ("The cat sat on it. " * 40, "sat", {}, "do not fit into the model's context"),
        (TEXT + " \ud800", "mauve", {}, "text: character .* is a lone surrogate"),
        (TEXT, "mauve", {"probes": ["The \udfff is"]}, "'probes-0': character 4 is a lone"),
        (TEXT, "mauve", {"clip": float("nan")}, "clip is nan"),
    ],
)
def test_bad_arguments(
    tiny: km.Model, text: str, keyword: str, options: dict[str, Any], message: str
) -> None:
    given = {"probes": PROBES, "in_context": True, "controls": (), **options}
    probes = given.pop("probes")
    with pytest.raises(km.ArgumentError, match=message):
        km.priming(tiny, text, keyword, probes, optimizer=km.AdamW(lr=RATE), **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamw"}, "optimizer must be"),
        ({"kb": "x.km"}, "kb must be"),
        ({"mitigation": "ignore"}, "mitigation must be"),
        ({"control_keyword": 5}, "control_keyword must be"),
        ({"context": 5}, "context must be"),
        ({"background": [5]}, "background must hold str"),
    ],
)
def test_arguments_of_another_kind(tiny: km.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        km.priming(tiny, TEXT, "mauve", PROBES, **options)
    with pytest.raises(TypeError, match=r"must be a km\.Model"):
        km.priming("smollm2", TEXT, "mauve", PROBES)  # type: ignore[arg-type]


def test_arguments_of_a_study_of_another_kind(tiny: km.Model) -> None:
    texts = km.datasets.priming_texts(1)
    for options, message in (
        ({"texts": ["vermilion"]}, "texts must hold"),
        ({"texts": texts, "kb": "x.km"}, "kb must be"),
        ({"texts": texts, "mitigation": "ignore"}, "mitigation must be"),
        ({"texts": texts, "model": "smollm2"}, r"must be a km\.Model"),
    ):
        given: dict[str, Any] = {"model": tiny, **options}
        with pytest.raises(TypeError, match=message):
            km.studies.priming(**given)


def test_one_text_as_background_is_no_row_of_letters(tiny: km.Model) -> None:
    options: dict[str, Any] = {"presentations": 1, "batch_size": 2, "controls": ()}
    one = km.priming(tiny, TEXT, "mauve", PROBES, background=PROBES[0], **options)
    several = km.priming(tiny, TEXT, "mauve", PROBES, background=[PROBES[0]], **options)
    assert one.table["logp_after"] == several.table["logp_after"]
    assert one.parameters == several.parameters


def test_a_shipped_text_brings_probes_and_controls(tiny: km.Model) -> None:
    """Of the text itself only its prefix is shortened, to fit the tiny model's context."""
    text = PrimingText("t", "colour", "odd", "mauve", "It is", "It is mauve.")
    result = km.priming(tiny, text, optimizer=km.AdamW(lr=RATE), presentations=1)
    rows = list(result.table.rows())
    own = {probe.id for probe in km.datasets.probes("colour")}
    assert {row["probe"] for row in rows if row["kind"] == "theme"} == own
    assert {row["probe_theme"] for row in rows if row["kind"] == "other_theme"} == {
        "place", "profession", "food"
    }  # fmt: skip
    swapped = arm(result, "keyword_control")[0]["learned"]
    assert swapped in [
        f"It is {word}." for word in km.datasets.priming_theme("colour").alternatives["mauve"]
    ]
    assert arm(result, "text_control")[0]["learned"] in km.datasets.control_texts()


def test_a_control_word_for_a_keyword_of_ones_own(tiny: km.Model) -> None:
    """As many tokens, and no shipped word with as many is nearer in probability."""
    text = "The hue of joy is teal, they say."
    result = km.priming(
        tiny, text, "teal", PROBES, controls=["keyword"], presentations=0, in_context=False
    )
    word = arm(result, "keyword_control")[0]["learned"].split()[5].rstrip(",")
    themes = ("colour", "place", "profession", "food")
    words = {w for theme in themes for w in km.datasets.priming_theme(theme).words}
    n = len(tiny.encode(" teal", bos=False))
    same = sorted(w for w in words if len(tiny.encode(" " + w, bos=False)) == n and w not in text)
    own, *values = tiny.score("The hue of joy is", ["teal", *same]).table["logp"]
    gaps = dict(zip(same, [abs(value - own) for value in values], strict=True))
    assert gaps[word] == min(gaps.values())


# ---- the knowledge base ----


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing should be learned or measured")

    def forbid() -> None:
        monkeypatch.setattr(Learner, "_ready", refuse)

    return forbid


def test_arms_are_measured_once(
    tiny: km.Model, tmp_path: Path, no_training: Callable[[], None]
) -> None:
    with km.KnowledgeBase(tmp_path / "kb.db") as kb:
        first = run(tiny, kb=kb, mitigation=km.IgnoreTopK(0.1))
        no_training()
        again = run(tiny, kb=kb, mitigation=km.IgnoreTopK(0.1))
        assert again.table["logp_after"] == first.table["logp_after"]
        fewer = run(tiny, kb=kb, in_context=False, controls=())
        assert fewer.table["logp_after"] == [r["logp_after"] for r in arm(first, "learned")]
        assert first.run is not None
        stored = km.Priming.from_knowledge_base(kb, first.run)
        assert stored.table["logp_after"] == first.table["logp_after"]
        assert repr(stored.arms) == repr(first.arms)
        assert len(kb.sql("SELECT 1 FROM evidence")) == 2
        with pytest.raises(AssertionError, match="nothing should be"):
            run(tiny, kb=kb, in_context=False, controls=(), presentations=4)
        with pytest.raises(AssertionError, match="nothing should be"):
            run(tiny, kb=kb, in_context=False, controls=(), optimizer=km.AdamW(lr=RATE / 2))


def test_a_trainable_model_is_trained_even_when_the_figures_are_known(
    tiny: km.Model, tmp_path: Path
) -> None:
    with km.KnowledgeBase(tmp_path / "kb.db") as kb:
        run(tiny, kb=kb)
        trained = tiny.trainable()
        run(trained, kb=kb)
        assert trained.fingerprint != tiny.fingerprint


# ---- stepping stones ----


def test_rewrites_are_ranked_by_the_keywords_probability(tiny: km.Model) -> None:
    candidates = [
        "Joy is a pale hue between pink and blue, called mauve.",
        "Joy has no colour.",
        "The hue of joy is mauve, I think.",
        "Joy is mauve.",
    ]
    result = km.stepping_stones(tiny, TEXT, "mauve", candidates, threshold=1e-9)
    rows = list(result.table.rows())
    assert [row["candidate"] for row in rows if row["problem"]] == [1, 2]
    assert "does not stand" in rows[-2]["problem"]
    assert "unchanged" in rows[-1]["problem"]
    prefixes = ["The hue of joy is", "Joy is a pale hue between pink and blue, called", "Joy is"]
    scored = dict(zip(prefixes, tiny.score(prefixes, ["mauve"]).table["logp"], strict=True))
    assert {row["prefix"]: row["logp"] for row in rows if not row["problem"]} == scored
    ranked = rows[1:3]
    assert [row["rank"] for row in ranked] == [1, 2]
    assert ranked[0]["logp"] >= ranked[1]["logp"]
    assert all(row["passes"] == (math.exp(row["logp"]) >= 1e-9) for row in rows[:3])
    own = scored["The hue of joy is"]
    if ranked[0]["logp"] > own:
        assert result.best is not None
        assert result.best.text == ranked[0]["text"]
    else:
        assert result.best is None
    assert result.needed == (math.exp(own) < 1e-9)


def test_a_rewrite_that_is_worse_is_no_stepping_stone(tiny: km.Model) -> None:
    texts = ["Joy is mauve.", "One calls joy mauve."]
    first, second = tiny.score(["Joy is", "One calls joy"], ["mauve"]).table["logp"]
    better, worse = (texts[0], texts[1]) if first > second else (texts[1], texts[0])
    assert km.stepping_stones(tiny, better, "mauve", [worse]).best is None
    found = km.stepping_stones(tiny, worse, "mauve", [better])
    assert found.best is not None
    assert found.best.text == better


def test_proposed_rewrites_explain_the_keyword(tiny: km.Model) -> None:
    result = km.stepping_stones(tiny, TEXT, "mauve")
    rows = list(result.table.rows())[1:]
    assert len(rows) > 2
    for row in rows:
        assert row["prefix"].startswith("The hue of joy is")
        assert row["text"] == f"{row['prefix']} mauve, they say."


def test_stepping_stones_need_candidates_and_a_keyword(tiny: km.Model) -> None:
    with pytest.raises(km.ArgumentError, match="no candidates"):
        km.stepping_stones(tiny, TEXT, "mauve", [])
    with pytest.raises(km.ArgumentError, match="does not stand in the text"):
        km.stepping_stones(tiny, TEXT, "vermilion", ["It is vermilion."])
