"""km.diff: planted changes are found, nothing else is, and noise raises no alarm."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km
from km import _km, cli, diff_facts, diff_shares
from km.datasets import Fact, Relation
from km.diff_facts import Cells, Layout, fact_rows, make_floor, shift
from km.diff_layers import divergence
from km.diff_shares import share_rows

TINY = Path(__file__).parents[1] / "golden_data" / "tiny_llama"
LETTERS = "abcdefghijklmnopqrstuvwx"
ANSWERS = ["the", "in", "of", "to", "and", "re", "th", "a"]
TEMPLATES = (":{}", "({}", "-{}", "#{}", "+{}")
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

FACTS = tuple(
    Relation(
        f"r{r}",
        "factual",
        TEMPLATES,
        "z",
        tuple(Fact(str(i), LETTERS[8 * r + i], (ANSWERS[i],)) for i in range(8)),
    )
    for r in range(3)
)


# ---- a model with planted facts ----


def token(model: km.Model, text: str) -> int:
    (id,) = model.encode(text, bos=False)
    return id


@pytest.fixture(scope="module")
def planted() -> km.Model:
    """A tiny model that knows every fact of FACTS.

    Each subject has a direction of its own as embedding and its answer's row of the unembedding
    points there; attention and MLP still add a little that differs by template.
    """
    model = km.load(TINY)
    embedding, head = (np.array(model.weight(name)) for name in (EMBEDDING, HEAD))
    for i, letter in enumerate(LETTERS):
        embedding[token(model, letter)] = 0
        embedding[token(model, letter), i] = 1
    for i, answer in enumerate(ANSWERS):
        head[token(model, " " + answer)] = 0
        head[token(model, " " + answer), i::8] = 1.0
    quiet = {
        name: 0.01 * model.weight(name)
        for name in model.weights()["name"]
        if name.endswith(("o_proj.weight", "down_proj.weight"))
    }
    return model.edit({EMBEDDING: embedding, HEAD: head, **quiet})


@pytest.fixture(scope="module")
def swapped(planted: km.Model) -> km.Model:
    """The same with the rows of two answers exchanged: subjects of one now give the other."""
    head = np.array(planted.weight(HEAD))
    first, second = token(planted, " the"), token(planted, " of")
    head[[first, second]] = head[[second, first]]
    return planted.edit({HEAD: head})


def noisy(model: km.Model, scale: float, seed: int) -> km.Model:
    """Every matrix with relative normal noise."""
    rng = np.random.default_rng(seed)
    return model.edit(
        {
            row["name"]: model.weight(row["name"])
            * (1 + scale * rng.standard_normal(model.weight(row["name"]).shape, dtype=np.float32))
            for row in model.weights().rows()
            if " x " in row["shape"]
        }
    )


def verdicts(diff: km.Diff) -> dict[str, set[tuple[str, str]]]:
    out: dict[str, set[tuple[str, str]]] = {}
    for row in diff.facts.rows():
        out.setdefault(row["verdict"], set()).add((row["relation"], row["fact"]))
    return out


def test_the_planted_facts_are_held(planted: km.Model) -> None:
    """Without this, what follows would pass on a model in which nothing can change."""
    recall = km.memorization(planted, FACTS, baselines=False, lens=False)
    assert min(recall.table["correct"]) is True
    assert len(set(recall.table["logp"])) > 24  # templates do differ


# ---- nothing, and what was planted ----


def test_a_model_against_itself_is_empty(planted: km.Model) -> None:
    other = planted.edit({HEAD: planted.weight(HEAD)})
    diff = km.diff(planted, other, FACTS)
    assert not diff.alarm and len(diff.changes) == 0
    assert set(diff.facts["verdict"]) == {"kept"}
    assert set(diff.facts["change"]) == set(diff.facts["margin_change"]) == {0.0}
    for column in ("net", "low", "high"):
        assert {value for value in diff.shares[column] if value is not None} == {0.0}
    for column in ("distance", "angle", "kl"):
        assert {value for value in diff.layers[column] if value is not None} == {0.0}
    assert set(diff.relations["kl"]) == {0.0}
    assert diff.exceeds(["lost>0%", "learned>0%", "weakened>0%", "changed>0%"]) == []
    assert "same model" in diff.summary


def test_swapped_answers_are_changed(planted: km.Model, swapped: km.Model) -> None:
    diff = km.diff(planted, swapped, FACTS)
    expected = {(f"r{r}", fact) for r in range(3) for fact in ("0", "2")}
    found = verdicts(diff)
    assert found["changed"] == expected
    assert len(found["kept"]) == 18
    other = {"the": "of", "of": "the"}
    for row in diff.changes.rows():
        assert row["state_after"] == "not shown"
        assert (row["leading_before"], row["leading_after"]) == (
            row["answer"],
            other[row["answer"]],
        )
        assert row["p_leading_after"] == pytest.approx(row["p_before"], rel=1e-5)
        assert row["change_high"] < -row["floor"] and row["q_value"] <= 0.05
    assert diff.relations.row(0)["change"] == pytest.approx(-0.25)
    flows = {(row["before"], row["after"]): row["n"] for row in diff.flows.rows()}
    assert sum(flows.values()) == 24
    assert flows["robust", "not shown"] + flows.get(("prompt-dependent", "not shown"), 0) == 6


def test_the_reverse_edit_has_learned(planted: km.Model, swapped: km.Model) -> None:
    diff = km.diff(swapped, planted, FACTS)
    assert verdicts(diff)["learned"] == {(f"r{r}", fact) for r in range(3) for fact in ("0", "2")}
    assert diff.share("learned")["net"] == pytest.approx(1.0)
    assert diff.share("learned")["n_facts"] == 6


def test_targets_are_told_from_side_effects(planted: km.Model, swapped: km.Model) -> None:
    targets = ["r0/0", "r0/2", "r1/0", "r1/2", "r2/0"]
    diff = km.diff(planted, swapped, FACTS, targets=targets)
    unrelated = diff.share("lost", "unrelated")
    assert (unrelated["n_facts"], unrelated["net"]) == (19, pytest.approx(1 / 19))
    assert diff.share("changed", "unrelated")["listed"] == 1
    assert diff.share("changed", "targets")["listed"] == 5
    assert diff.evidence[0]["value"] == pytest.approx(1 / 19)
    assert diff.exceeds("lost>0%") == []  # one fact in one of three relations proves nothing
    assert "unrelated" in diff.summary


def test_a_smaller_unembedding_weakens(planted: km.Model) -> None:
    head = np.array(planted.weight(HEAD))
    rows = [token(planted, " " + answer) for answer in ANSWERS]
    head[rows, 16:] *= 0.6  # the directions of the last relation's subjects
    diff = km.diff(planted, planted.edit({HEAD: head}), FACTS)
    assert verdicts(diff) == {
        "weakened": {("r2", str(i)) for i in range(8)},
        "kept": {(f"r{r}", str(i)) for r in range(2) for i in range(8)},
    }
    assert set(diff.changes["state_after"]) == {"robust"}


# ---- noise ----


def test_noise_of_the_size_of_requantisation_raises_no_alarm(planted: km.Model) -> None:
    """Twenty null models, at most one alarm; 0.5 % is what Q8_0 does to a weight."""
    alarms = 0
    for seed in range(20):
        other = noisy(planted, 0.005, seed)
        diff = km.diff(planted, other, FACTS, requantise=False, probes=0)
        alarms += diff.alarm
        assert diff.exceeds(["lost>0%", "weakened>0%", "changed>0%"]) == []
    assert alarms <= 1


def test_null_models_set_the_floor(planted: km.Model) -> None:
    """Noise that would be an alarm by itself is none beside noise of the same kind."""
    nulls = [noisy(planted, 0.3, seed) for seed in range(5)]
    others = [noisy(planted, 0.3, seed) for seed in range(10, 20)]
    options: dict[str, Any] = {"requantise": False, "probes": 0}
    bare = [km.diff(planted, other, FACTS, **options) for other in others]
    assert sum(diff.alarm for diff in bare) > 5
    beside = [km.diff(planted, other, FACTS, null_models=nulls, **options) for other in others]
    assert sum(diff.alarm for diff in beside) == 0
    assert beside[0].facts["floor"][0] > diff_facts.LEAST
    assert beside[0].floors["name"] == ["least", "paraphrases", "retraining"]


NEUTRAL = [
    " ".join(words)
    for words in np.random.default_rng(0).choice(
        ["rain", "stone", "light", "over", "under", "green", "wheel", "song"], (40, 6)
    )
]


def test_twenty_null_retrainings_raise_at_most_one_alarm(planted: km.Model) -> None:
    recipe: dict[str, Any] = {"steps": 4, "batch_size": 4, "optimizer": km.AdamW(lr=3e-3)}
    ask: dict[str, Any] = {"baselines": False, "lens": False}
    nulls = [
        km.memorization(null, FACTS, **ask)
        for null in km.diff_nulls(planted, NEUTRAL, range(5), **recipe)
    ]
    alarms, bare, exceeded = 0, 0, 0
    for other in km.diff_nulls(planted, NEUTRAL, range(100, 120), **recipe):
        options: dict[str, Any] = {"requantise": False, "probes": 0}
        diff = km.diff(planted, other, FACTS, null_models=nulls, **options)
        assert diff.relations["logp_change"][0] != 0.0
        alarms += diff.alarm
        exceeded += bool(diff.exceeds(["lost>0%", "learned>0%", "weakened>0%", "changed>0%"]))
        bare += km.diff(planted, other, FACTS, **options).alarm
    assert alarms <= 1 and exceeded <= 1
    assert bare >= 10  # the training is strong enough to be an alarm without its kind beside it


def test_null_models_are_several(planted: km.Model) -> None:
    with pytest.raises(TypeError, match=r"null_models=\[model\]"):
        km.diff(planted, planted, FACTS, null_models=planted)


def test_null_models_are_those_of_the_recipe(planted: km.Model) -> None:
    first, second = km.diff_nulls(planted, NEUTRAL, (0, 1), steps=2)
    again = km.train(planted, NEUTRAL, steps=2, seed=1).model
    assert first.fingerprint != second.fingerprint == again.fingerprint
    with pytest.raises(km.ArgumentError, match="seed is not part of the recipe"):
        next(km.diff_nulls(planted, NEUTRAL, seed=3))


def simulated(rng: np.random.Generator, n_models: int) -> list[list[dict[str, Any]]]:
    """Rows of models that are equal but for noise of their own, in 20 relations."""
    shape = (20, 5, 8)
    truth = rng.normal(-0.5, 2.5, (20, 1, 8)) + rng.normal(0, 1, shape)
    return [
        [
            row_of(f"r{r}", str(f), t, float(margin[r, t, f]))
            for r in range(20)
            for t in range(5)
            for f in range(8)
        ]
        for margin in (
            truth + rng.normal(0, 1, (20, 1, 8)) + rng.normal(0, 0.5, shape)
            for _ in range(n_models)
        )
    ]


def row_of(
    relation: str, fact: str, template: int, margin: float, other: str = "other"
) -> dict[str, Any]:
    return {
        "relation": relation,
        "fact": fact,
        "subject": fact,
        "answer": f"answer {fact}",
        "template": template,
        "logp": margin - 4,
        "margin": margin,
        "correct": margin > 0,
        "rank": int(margin <= 0),
        "top_candidate": f"answer {fact}" if margin > 0 else other,
        "pmi": 1.0,
        "exact": False,
    }


def test_selected_facts_regress_to_the_mean() -> None:
    """Two models that differ by noise alone: many facts seem lost, none are beyond the floor."""
    rng = np.random.default_rng(5)
    apparent, net, false = [], [], 0
    for _ in range(20):
        rows = simulated(rng, 5)
        layout = Layout(rows[0])
        before, after, *nulls = map(Cells, rows)
        floors = [make_floor("retraining", "", layout, before, nulls, 0.05)]
        facts = fact_rows(layout, before, after, floors, None, 0.05, 0.95)
        shares = share_rows(layout, before, after, floors, facts, 0.95, 0)
        assert not any(row["verdict"] in diff_facts.LISTED for row in facts)
        false += any(row["low"] > 0 for row in shares)
        lost = next(row for row in shares if row["outcome"] == "lost")
        apparent.append(lost["apparent"])
        net.append(lost["net"])
    assert np.mean(apparent) > 0.15
    assert abs(np.mean(net)) < 0.02
    assert false <= 1


def test_loss_beyond_retraining_is_seen() -> None:
    """The same with two in five facts really lost: power against the floor."""
    rng = np.random.default_rng(6)
    seen = 0
    for _ in range(5):
        rows = simulated(rng, 7)
        gone = {(f"r{r}", str(f)) for r in range(20) for f in range(8) if rng.random() < 0.4}
        rows[1] = [
            row_of(row["relation"], row["fact"], row["template"], row["margin"] - 8)
            if (row["relation"], row["fact"]) in gone
            else row
            for row in rows[1]
        ]
        layout = Layout(rows[0])
        before, after, *nulls = map(Cells, rows)
        floors = [make_floor("retraining", "", layout, before, nulls, 0.05)]
        facts = fact_rows(layout, before, after, floors, None, 0.05, 0.95)
        listed = {(f["relation"], f["fact"]) for f in facts if f["verdict"] in diff_facts.LISTED}
        assert listed <= gone
        shares = share_rows(layout, before, after, floors, facts, 0.95, 0)
        lost = next(row for row in shares if row["outcome"] == "lost")
        seen += lost["low"] > 0.02
    assert seen >= 4


# ---- single facts ----


def judged(before: list[float], after: list[float], other: list[str] | None = None) -> Any:
    """The row of one fact from its margins under each prompt."""
    names = other or ["other"] * len(after)
    rows = [
        [row_of("r", "f", t, m, n) for t, (m, n) in enumerate(zip(ms, names, strict=True))]
        for ms in (before, after)
    ]
    layout = Layout(rows[0])
    return fact_rows(layout, Cells(rows[0]), Cells(rows[1]), [], None, 0.05, 0.95)[0]


def test_verdicts() -> None:
    known, flat = [4.0, 4.1, 4.2, 4.3, 4.4], ["a", "b", "c", "d", "e"]
    missed = [-3.0, -3.2, -2.8, -3.1, -2.9]
    assert judged(known, missed)["verdict"] == "changed"
    assert judged(known, missed, flat)["verdict"] == "lost"
    assert judged(missed, known)["verdict"] == "learned"
    assert judged(known, [x - 2 for x in known])["verdict"] == "weakened"
    assert judged(known, [x - 0.5 for x in known])["verdict"] == "kept"
    assert judged(missed, [x - 2 for x in missed])["verdict"] == "not held"
    near = [0.2, 0.3, 0.1, 0.2, 0.2]
    assert judged(near, [-x for x in near])["verdict"] == "unresolved"  # less than a factor of two
    assert judged(known, [-9.0, 9.0, -9.0, 9.0, -9.0])["verdict"] == "unresolved"  # no interval


def test_one_prompt_gives_no_verdict_of_change() -> None:
    row = judged([4.0], [-4.0])
    assert (row["verdict"], row["p_value"], row["change_low"]) == ("unresolved", None, None)


def test_shift_has_the_p_value_of_students_t() -> None:
    """With two values T is Cauchy: P(T > x) = 1/2 - atan(x) / pi."""
    found = shift([-1.0, -2.0], 0.5, 0.95)
    near, far = (1.5 - 0.5) / 0.5, (1.5 + 0.5) / 0.5
    expected = sum(0.5 - math.atan(x) / math.pi for x in (near, far))
    assert found.p == pytest.approx(expected, rel=1e-9)
    assert shift([0.0, 0.0], 0.5, 0.95).p == 1.0
    assert shift([2.0, 2.0], 0.5, 0.95).p == 0.0
    inside = shift([0.1, 0.3], 0.5, 0.95).p
    assert inside is not None and inside > 0.5


def test_the_bound_of_null_models_holds_one_more() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        *seen, new = np.exp(rng.normal(0, 0.4, 6))
        held += new <= diff_facts._bound(list(seen), 0.05)
    assert held / 400 > 0.94
    assert diff_facts._bound([0.3], 0.05) == 0.3


def test_divergence_is_that_of_numpy() -> None:
    rng = np.random.default_rng(0)
    p, q = (rng.dirichlet(np.ones(50)).astype(np.float32) for _ in range(2))
    expected = float((p * np.log(p / q)).sum(dtype=np.float64))
    assert divergence(np.log(p), np.log(q)) == pytest.approx(expected, rel=1e-4)
    assert divergence(np.log(p), np.log(p)) == 0.0


# ---- layers ----


def test_layers_part_where_the_edit_is(planted: km.Model) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    edited = planted.edit({name: planted.weight(name) * -4})
    diff = km.diff(planted, edited, FACTS, requantise=False)
    distance, kl = diff.layers["distance"], diff.layers["kl"]
    assert distance[0] == kl[0] == 0.0
    assert distance[1] > 0 and kl[1] > 0
    assert kl[2] == kl[3]  # the last block's state and the output say the same
    assert diff.layers["n"] == [24] * 4
    probe = km.diff(planted, edited, FACTS[:1], requantise=False, probes=1)
    prompt = ":" + LETTERS[int(_first_probe(planted))]
    p, q = (m.next_logprobs(m.encode(prompt)) for m in (planted, edited))
    assert probe.layers["kl"][-1] == pytest.approx(divergence(p, q))


def _first_probe(model: km.Model) -> str:
    from km.diff_layers import choose_probes
    from km.recall_plan import make_plan

    ((probe,),) = choose_probes([make_plan(FACTS[0], None, 20, 0)], 1, 0)
    return probe.fact


def test_what_cannot_be_compared_is_said(planted: km.Model) -> None:
    gemma = km.load(TINY.parent / "tiny_gemma3")
    diff = km.diff(planted, gemma, FACTS, requantise=False)
    assert len(diff.layers) == 0
    assert sum("tokenise differently" in note for note in diff.notes) == 2


def test_the_picture_has_the_flows(planted: km.Model, swapped: km.Model) -> None:
    svg = km.diff(planted, swapped, FACTS, requantise=False, probes=0).draw().svg
    assert "24 facts" in svg and "changed" in svg


# ---- sides ----


def test_trainable_models_and_snapshots(planted: km.Model, swapped: km.Model) -> None:
    model = planted.trainable()
    before = model.snapshot()
    model.parameter("output.weight")[:] = swapped.weight(HEAD)
    model.changed()
    diff = km.diff(before, model, FACTS, requantise=False, probes=1)
    assert len(verdicts(diff)["changed"]) == 6
    assert not km.diff(model, model.snapshot(), FACTS).alarm


@pytest.mark.parametrize("lora", [None, km.LoRA(rank=2, alpha=4)])
def test_checkpoints_are_sides(planted: km.Model, tmp_path: Path, lora: km.LoRA | None) -> None:
    options: dict[str, Any] = {"requantise": False, "probes": 1}
    training = km.train(
        planted, NEUTRAL, steps=4, batch_size=2, optimizer=km.AdamW(lr=3e-3), lora=lora,
        checkpoint=tmp_path / "run", save_every=2,
    )  # fmt: skip
    expected = km.diff(planted, training.model, FACTS, **options)
    found = km.diff(planted, tmp_path / "run", FACTS, **options)
    assert found.facts.to_jsonl() == expected.facts.to_jsonl()
    places = [str(tmp_path / "run" / f"step-{step}") for step in (2, 4)]
    later = km.diff(*places, FACTS, origin=planted, **options)
    assert later.parameters["after"]["fingerprint"] == training.model.fingerprint
    back = km.diff(tmp_path / "run", planted, FACTS, **options)
    assert back.facts["change"] == [-change for change in expected.facts["change"]]
    with pytest.raises(km.ArgumentError, match="give that one as origin"):
        km.diff(*places, FACTS)


def test_recorded_runs_need_no_models(
    planted: km.Model, swapped: km.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with km.KnowledgeBase(tmp_path / "kb.db") as kb:
        first = km.diff(planted, swapped, FACTS, kb=kb)
        runs = [first.parameters[side]["run"] for side in ("before", "after")]

        def fail(*_: object) -> Any:
            raise AssertionError("measured again")

        monkeypatch.setattr(_km, "memorization_run", fail)
        again = km.diff(planted, swapped, FACTS, kb=kb)
        assert again.run == first.run
        assert again.facts.to_jsonl() == first.facts.to_jsonl()
        recorded = km.diff(f"run:{runs[0]}", f"run:{runs[1]}", kb=kb, targets="r0")
        assert recorded.share("changed", "targets")["listed"] == 2
        assert len(recorded.layers) == 0
        assert any("Layers were not compared" in note for note in recorded.notes)
        assert first.run is not None
        stored = km.Diff.from_knowledge_base(kb, first.run)
        assert stored.summary == first.summary
        for name in ("facts", "shares", "relations", "layers"):
            assert getattr(stored, name).to_jsonl() == getattr(first, name).to_jsonl()
        assert len(kb.check(full=True)) == 0


def test_a_user_who_measured_recall_before_pays_nothing_again(
    planted: km.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of km.memorization with its own defaults serve."""
    with km.KnowledgeBase(tmp_path / "kb.db") as kb:
        km.memorization(planted, FACTS, baselines=False, kb=kb)
        monkeypatch.setattr(_km, "memorization_run", None)
        assert not km.diff(planted, planted, FACTS, kb=kb).alarm


def test_recalls_that_were_asked_otherwise_are_refused(planted: km.Model) -> None:
    a = km.memorization(planted, FACTS, baselines=False, lens=False)
    b = km.memorization(planted, FACTS, baselines=False, lens=False, max_candidates=4)
    with pytest.raises(km.ArgumentError, match="max_candidates 20 and 4"):
        km.diff(a, b)
    with pytest.raises(km.ArgumentError, match="facts is missing"):
        km.diff(a, planted)
    assert set(km.diff(a, planted, FACTS).facts["verdict"]) == {"kept"}


def test_wrong_arguments_are_named(planted: km.Model) -> None:
    with pytest.raises(km.ArgumentError, match="b is a int"):
        km.diff(planted, 3, FACTS)
    with pytest.raises(km.ArgumentError, match="needs its knowledge base"):
        km.diff("run:1", planted, FACTS)
    with pytest.raises(km.ArgumentError, match="'r9' is no relation or fact"):
        km.diff(planted, planted, FACTS, targets=["r9"])
    with pytest.raises(km.ArgumentError, match="in several relations; write r0/3"):
        km.diff(planted, planted, FACTS, targets=["3"])
    for text in ("lost", "lost<2%", "found>2%", "lost>120%", "lost>..%"):
        with pytest.raises(km.ArgumentError, match="is no limit"):
            diff_shares.parse_limit(text)
    assert diff_shares.parse_limit(" weakened > 0.05") == diff_shares.Limit("weakened", 0.05)


def test_limits_hold_by_the_lower_bound(planted: km.Model, swapped: km.Model) -> None:
    diff = km.diff(planted, swapped, FACTS, requantise=False, probes=0)
    row = diff.share("lost")
    assert 0 < row["low"] < row["net"] == pytest.approx(0.25)
    assert diff.exceeds(f"lost>{row['low'] - 1e-3}") and not diff.exceeds(f"lost>{row['low']}")


# ---- the command ----


@pytest.fixture(scope="module")
def files(planted: km.Model, swapped: km.Model, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("diff")
    planted.save(folder / "a.gguf")
    swapped.save(folder / "b.gguf")
    facts = [
        {
            "name": relation.name,
            "kind": relation.kind,
            "templates": list(relation.templates),
            "subjectless": relation.subjectless,
            "facts": [
                {"id": f.id, "subject": f.subject, "answers": list(f.answers)}
                for f in relation.facts
            ],
        }
        for relation in FACTS
    ]
    (folder / "facts.json").write_text(json.dumps(facts))
    return {"a": folder / "a.gguf", "b": folder / "b.gguf", "facts": folder / "facts.json"}


def command(files: Mapping[str, Path], *more: str, b: str = "b") -> list[str]:
    return ["diff", str(files["a"]), str(files[b]), "--facts", str(files["facts"]), *more]


def test_command_exit_codes(files: Mapping[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("--no-requantise", "--probes", "0")
    assert cli.main(command(files, *quick)) == 0
    assert "changed" in capsys.readouterr().out
    assert cli.main(command(files, *quick, "--fail-on", "lost>1%", "--fail-on", "learned>1%")) == 1
    assert "lost > 1 %" in capsys.readouterr().err
    assert cli.main(command(files, *quick, "--fail-on", "lost>99%")) == 0
    assert cli.main(command(files, *quick, "--fail-on", "lost>0%", b="a")) == 0
    assert cli.main(["diff", "no-such-file", str(files["b"]), "--facts", "all"]) == 2
    with pytest.raises(SystemExit) as stopped:
        cli.main(command(files, "--fail-on", "lost"))
    assert stopped.value.code == 2


def test_command_json_and_table(
    files: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, base = tmp_path / "facts.csv", tmp_path / "kb.db"
    more = ("--json", "--table", str(table), "--kb", str(base), "--targets", "r0,r1/2")
    assert cli.main(command(files, *more)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["alarm"] is True and found["run"] is not None
    assert {row["verdict"] for row in found["facts"]} == {"kept", "changed"}
    assert {row["group"] for row in found["shares"]} == {"all", "targets", "unrelated"}
    assert len(table.read_text().splitlines()) == 25
    runs = [found["provenance"]["parameters"][side]["run"] for side in ("before", "after")]
    again = ["diff", f"run:{runs[0]}", f"run:{runs[1]}", "--kb", str(base)]
    assert cli.main(again) == 0
    assert "recorded as run" in capsys.readouterr().out
