"""Recall, verbatim memorization and exposure on the embedded model, and what needs no model."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import km
from km import _km
from km.datasets import Fact, Relation
from km.recall import Recall
from km.recall_plan import RelationPlan, make_plan, resolve_facts
from km.recall_summary import NOT_SHOWN, PROMPT_DEPENDENT, ROBUST, summarise_facts, survival
from km.scores import memorization as scores
from km.table import Table

REFERENCE = Path(__file__).parents[1] / "golden" / "data" / "recall_first_token.json"

# ---- plans ----


def relation_of(
    answers: Sequence[Sequence[str]], subjects: Sequence[str] | None = None
) -> Relation:
    names = subjects or [f"s{i}" for i in range(len(answers))]
    facts = tuple(
        Fact(str(i), name, tuple(names_of))
        for i, (name, names_of) in enumerate(zip(names, answers, strict=True))
    )
    return Relation("r", "factual", ("{} is", "of {} is", "{} has"), "it", facts)


def test_candidates_leave_out_everything_right() -> None:
    relation = relation_of(
        [["Paris"], ["Rome"], ["USA", "America"], ["America"], ["Lyon"]],
        ["France", "Italy", "A", "B", "France"],
    )
    plan = make_plan(relation, None, 20, 0)
    assert plan.facts[0].candidates == ("Rome", "USA", "America")  # not Lyon: same subject
    assert plan.facts[2].candidates == ("Paris", "Rome", "Lyon")  # not America: another name
    assert plan.facts[3].candidates == ("Paris", "Rome", "Lyon")


answer_lists = st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=40)


@given(answer_lists, st.integers(2, 8), st.integers(0, 5))
def test_plan_properties(answers: list[str], most: int, seed: int) -> None:
    relation = relation_of([[answer] for answer in answers])
    plan = make_plan(relation, 0, most, seed)
    largest = max(Counter(answers).values())
    partners = [fact.shuffled for fact in plan.facts]
    for fact, answer in zip(plan.facts, answers, strict=True):
        assert answer not in fact.candidates
        assert len(fact.candidates) == min(most - 1, len(set(answers)) - 1)
        assert len(set(fact.candidates)) == len(fact.candidates)
        if fact.shuffled >= 0:
            assert answers[fact.shuffled] in fact.candidates
        else:
            assert len(set(answers)) == 1
    if 2 * largest <= len(answers):
        assert sorted(partners) == list(range(len(answers)))  # every answer is dealt once


@given(st.permutations(list("abcdefgh")), st.integers(0, 3))
def test_candidates_do_not_depend_on_the_order_of_facts(order: list[str], seed: int) -> None:
    def chosen(answers: Sequence[str]) -> dict[str, set[str]]:
        facts = tuple(Fact(a, f"subject {a}", (a,)) for a in answers)
        relation = Relation("r", "factual", ("{} is",), "it", facts)
        return {f.id: set(f.candidates) for f in make_plan(relation, None, 4, seed).facts}

    assert chosen(order) == chosen("abcdefgh")


def test_plan_refuses() -> None:
    relation = relation_of([["a"], ["b"]])
    with pytest.raises(km.ArgumentError, match="max_candidates"):
        make_plan(relation, None, 1, 0)
    with pytest.raises(km.ArgumentError, match="templates 0 to 2, not 3"):
        make_plan(relation, 3, 20, 0)
    with pytest.raises(km.ArgumentError, match="asked twice"):
        make_plan(relation, [1, 1], 20, 0)
    with pytest.raises(km.ArgumentError, match="asked twice"):  # no spread: robust for nothing
        make_plan(replace(relation, templates=("{} is", "{} is")), None, 20, 0)
    with pytest.raises(km.ArgumentError, match="at least one template"):
        make_plan(relation, [], 20, 0)
    with pytest.raises(km.ArgumentError, match="no facts"):
        make_plan(replace(relation, facts=()), None, 20, 0)
    with pytest.raises(km.ArgumentError, match="'0' is given twice"):
        make_plan(replace(relation, facts=(relation.facts[0],) * 2), None, 20, 0)
    with pytest.raises(km.ArgumentError, match="'r' is given twice"):
        resolve_facts([relation, relation])


@pytest.mark.parametrize(
    "fact",
    [
        Fact("7", "s", ()),
        Fact("7", "s", "Paris"),  # type: ignore[arg-type]  # would be P or a or r ...
        Fact("7", "s", ("a", 5)),  # type: ignore[arg-type]
        Fact("7", "s\0", ("a",)),
        Fact("7", "s", ("\ud800",)),
    ],
)
def test_plan_refuses_what_is_no_text(fact: Fact) -> None:
    with pytest.raises(km.ArgumentError, match="relation 'r': fact '7'"):
        make_plan(replace(relation_of([["a"]]), facts=(fact,)), None, 20, 0)


def test_seed_is_checked_before_measuring(model: km.Model) -> None:
    asked: list[int] = []
    with pytest.raises(km.ArgumentError, match="seed is -1"):
        km.memorization(
            model, relation_of([["a"], ["b"]]), seed=-1, progress=lambda *done: asked.append(1)
        )
    assert not asked


# ---- states ----


def row_of(correct: bool | None, pmi: float, template: int, **more: Any) -> dict[str, Any]:
    return {
        "relation": "r", "fact": "f", "subject": "s", "answer": "a", "template": template,
        "correct": correct, "pmi": pmi, "exact": False, "logp": -1.0, "margin": 1.0,
        "rank": None if correct is None else int(not correct), **more,
    }  # fmt: skip


def state_of(rows: list[dict[str, Any]]) -> str | None:
    return summarise_facts(rows, 0.95)[0]["state"]


def test_states() -> None:
    steady = [2.0, 2.1, 1.9, 2.0, 2.2]
    wide = [9.0, -5.0, 1.0, 8.0, -3.0]
    assert state_of([row_of(True, x, i) for i, x in enumerate(steady)]) == ROBUST
    assert state_of([row_of(True, x, i) for i, x in enumerate(wide)]) == PROMPT_DEPENDENT
    assert state_of([row_of(i > 0, x, i) for i, x in enumerate(steady)]) == PROMPT_DEPENDENT
    assert state_of([row_of(False, x, i) for i, x in enumerate(steady)]) == NOT_SHOWN
    assert state_of([row_of(True, 5.0, 0)]) == PROMPT_DEPENDENT  # one prompt shows no robustness
    assert state_of([row_of(None, 5.0, 0)]) is None


def test_survival_counts_the_censored() -> None:
    leads = [(0, False), (2, False), (None, True), (None, None)]
    rows = [{"lead_layer": layer, "lead_censored": censored} for layer, censored in leads]
    curve = survival(rows, None, 2)
    assert [row["n"] for row in curve] == [3, 3, 3]  # a collision is not at risk
    assert [row["not_leading"] for row in curve] == pytest.approx([2 / 3, 2 / 3, 1 / 3])


# ---- recall on the model ----


@pytest.fixture(scope="module")
def facts() -> Any:
    return km.datasets.facts(["country_capital_city", "country_currency"]).select(per_relation=10)


@pytest.fixture(scope="module")
def recall(model: km.Model, facts: Any) -> Recall:
    return km.memorization(model, facts, [0, 1], seed=3)


def single_logp(model: km.Model, prompt: str, answer: str) -> float:
    """log p(blank + answer | prompt) from one sequence of its own."""
    before, after = model.encode(prompt), model.encode(" " + answer, bos=False)
    return float(model.logprobs(before + after)[len(before) - 1 :].astype(float).sum())


def test_whole_answers_against_single_sequences(
    model: km.Model, recall: Recall, facts: Any
) -> None:
    plans = {relation.name: make_plan(relation, [0, 1], 20, 3) for relation in facts}
    rows = list(recall.table.rows())
    for row in rows[::10]:
        plan = plans[row["relation"]]
        fact = next(f for f in plan.facts if f.id == row["fact"])
        bare = plan.templates[row["template"]].replace("{}", plan.subjectless)
        right = [single_logp(model, row["prompt"], a) for a in fact.answers]
        wrong = [single_logp(model, row["prompt"], c) for c in fact.candidates]
        gain = [x - single_logp(model, bare, a) for x, a in zip(right, fact.answers, strict=True)]
        tolerance = 1e-5 * 8
        assert row["logp"] == pytest.approx(max(right), abs=tolerance)
        assert row["margin"] == pytest.approx(max(right) - max(wrong), abs=2 * tolerance)
        assert row["pmi"] == pytest.approx(max(gain), abs=2 * tolerance)
        assert row["rank"] == sum(w >= max(right) for w in wrong)
        by_byte = max(x / len(a.encode()) for x, a in zip(right, fact.answers, strict=True))
        assert row["logp_per_byte"] == pytest.approx(by_byte, abs=tolerance)


def test_first_token_figures(model: km.Model, recall: Recall) -> None:
    for row in list(recall.table.rows())[::7]:
        after = model.next_logprobs(json.loads(row["prompt_ids"]))
        first = json.loads(row["answer_ids"])[0]
        assert row["first_token_logp"] == pytest.approx(float(after[first]), abs=2e-5)
        assert row["first_token_rank"] == int((after > after[first]).sum())
        assert row["top1"] == (int(after.argmax()) == first)


def test_exact_is_greedy_decoding(model: km.Model, recall: Recall) -> None:
    """Decode for real: the answer is exact when greedy tokens spell it and then end it."""
    for row in [r for r in recall.table.rows() if r["n_aliases"] == 0][:8]:
        ids, answer = json.loads(row["prompt_ids"]), json.loads(row["answer_ids"])
        out: list[int] = []
        for _ in answer:
            out.append(int(model.next_logprobs(ids + out).argmax()))
        assert row["exact_greedy"] == (out == answer)
        assert (row["answer_end_ok"] is None) == (not row["exact_greedy"])


def test_lead_layer_is_what_the_lens_shows(model: km.Model, recall: Recall, facts: Any) -> None:
    plans = {relation.name: make_plan(relation, [0, 1], 20, 3) for relation in facts}
    rows = [row for row in recall.table.rows() if not row["first_token_collision"]]
    for row in rows[:2]:
        fact = next(f for f in plans[row["relation"]].facts if f.id == row["fact"])
        first = json.loads(row["answer_ids"])[0]
        rivals = {model.encode(" " + c, bos=False)[0] for c in fact.candidates}
        ids = json.loads(row["prompt_ids"])
        own = model.lens(ids, first).table.column("logprob")
        best = np.max([model.lens(ids, r).table.column("logprob") for r in rivals], axis=0)
        behind = np.flatnonzero(own <= best)
        lead = int(behind[-1]) + 1 if behind.size else 0
        assert row["lead_layer"] == (None if lead >= len(own) else lead)


def test_rows_say_everything(recall: Recall) -> None:
    for row in recall.table.rows():
        assert row["prompt"] == row["template_text"].replace("{}", row["subject"])
        assert row["bos"] is False  # SmolLM2's file asks for none
        assert row["correct"] == (row["rank"] == 0)
        assert row["exact"] == bool(row["exact_greedy"] and row["answer_end_ok"])
        assert row["lone_blank_first_token"] is False
        assert 0 <= row["first_token_prob"] <= 1
    assert not recall.table.nulls("logp").any()


def test_summaries(recall: Recall) -> None:
    micro, macro = recall.overall.rows()
    relations = list(recall.relations.rows())
    rows = list(recall.table.rows())
    assert micro["n"] == sum(row["n"] for row in relations) == 20
    assert micro["recall"] == pytest.approx(np.mean([row["correct"] for row in rows]))
    assert macro["recall"] == pytest.approx(np.mean([row["recall"] for row in relations]))
    for row in [micro, macro, *relations]:
        assert row["low"] <= row["recall"] <= row["high"]
        assert row["gain"] == pytest.approx(row["recall"] - row["subject_removed"])
        assert row["robust"] + row["prompt_dependent"] + row["not_shown"] == row["n"]
    capitals = relations[0]
    assert capitals["recall"] > 0.8 > 0.4 > capitals["subject_removed"]
    assert capitals["worst_template"] <= capitals["recall"] <= capitals["best_template"]


def test_evidence_is_narrow(recall: Recall) -> None:
    nodes = {row["node"] for row in recall.evidence}
    assert nodes == {"memorization", "knowledge-mastery", "logit-lens"}
    assert all("model does not know" not in note for note in recall.notes)
    assert "not know" not in repr(recall) + recall._repr_html_()


def test_random_weights_are_near_chance(recall: Recall) -> None:
    assert recall.control is not None
    micro = recall.overall.row(0)
    assert abs(micro["random_init"] - micro["chance"]) < 0.2
    states = summarise_facts(list(recall.control.rows()), 0.95)
    assert sum(row["state"] == ROBUST for row in states) <= 1
    assert micro["recall"] > micro["random_init"] + 0.3


def run(model: km.Model, plan: RelationPlan, batch_tokens: int) -> list[dict[str, Any]]:
    table = _km.memorization_run(model._model, *plan.arguments(), None, batch_tokens, True, None)
    return list(Table.wrap(table).rows())


def test_batch_size_and_order_change_nothing(model: km.Model, facts: Any) -> None:
    plan = make_plan(facts["country_currency"], [0, 2], 20, 0)
    one, other = run(model, plan, 1024), run(model, plan, 64)
    n = len(plan.facts)
    backwards = tuple(
        replace(f, candidates=f.candidates[::-1], shuffled=n - 1 - f.shuffled)
        for f in plan.facts[::-1]
    )
    turned = run(model, replace(plan, facts=backwards), 300)
    key = {(row["fact"], row["template"]): row for row in turned}
    for a, b in zip(one, other, strict=True):
        c = key[a["fact"], a["template"]]
        tolerance = 1e-5 * len(json.loads(a["answer_ids"]))
        for name in ("logp", "pmi", "margin", "first_token_logp", "subjectless_logp"):
            assert a[name] == pytest.approx(b[name], abs=4 * tolerance)
            assert a[name] == pytest.approx(c[name], abs=4 * tolerance)
        for name in ("rank", "rank_pmi", "exact", "shuffled_rank", "lead_layer"):
            assert a[name] == b[name] == c[name]


def test_threads_change_no_bit(model_path: Path, facts: Any) -> None:
    plan = make_plan(facts["country_capital_city"], 0, 6, 0)
    runs = [run(km.load(model_path, threads=n), plan, 200) for n in (1, 3)]
    assert runs[0] == runs[1]


def first_token(model: km.Model, answer: str) -> str:
    """The text of an answer's first token; the answer where that token is a lone blank."""
    token = model.encode(f" {answer}", bos=False)[:1]
    return model.decode(token).removeprefix(" ") or answer


def test_first_tokens_equal_transformers(model: km.Model) -> None:
    """Ranks and log-probabilities of 1,871 first answer tokens, made by transformers in F32.

    Answers are cut to their first token: the others would be computed and not looked at.
    """
    reference = json.loads(REFERENCE.read_text(encoding="utf-8"))
    ranks, differences, n_equal = [], [], 0
    for name, relation in reference["relations"].items():
        facts = [
            (str(i), s, [first_token(model, o)], [], -1)
            for i, (s, o, _, _) in enumerate(relation["rows"])
        ]
        table = Table.wrap(
            _km.memorization_run(
                model._model, name, [relation["template"]], "it", facts, None, 1024, False, None
            )
        )
        for row, (_, _, rank, logp) in zip(table.rows(), relation["rows"], strict=True):
            ranks.append(row["first_token_rank"])
            differences.append(abs(row["first_token_logp"] - logp))
            n_equal += row["first_token_rank"] == rank
    n = len(ranks)
    assert n == reference["totals"]["n"] == 1871
    assert abs(sum(r == 0 for r in ranks) - reference["totals"]["top1"]) <= 0.005 * n
    assert abs(sum(r < 10 for r in ranks) - reference["totals"]["top10"]) <= 0.005 * n
    assert n_equal >= 0.99 * n
    assert max(differences) < 5e-4


# ---- kept in a knowledge base ----


def test_interrupted_and_taken_up(model: km.Model, tmp_path: Path) -> None:
    facts = km.datasets.facts(["country_capital_city", "country_language"]).select(per_relation=4)

    def stop(done: int, total: int, info: dict[str, Any]) -> None:
        if info["relation"] == "country_language":
            raise KeyboardInterrupt

    with km.KnowledgeBase(tmp_path / "kb.db") as kb:
        with pytest.raises(KeyboardInterrupt):
            km.memorization(model, facts, 0, baselines=False, kb=kb, progress=stop)
        assert kb.runs()["status"] == ["cancelled"]
        seen: list[int] = []
        result = km.memorization(
            model, facts, 0, baselines=False, kb=kb, progress=lambda d, t, i: seen.append(d)
        )
        again = km.memorization(model, facts, 0, baselines=False, kb=kb)
        assert result.run is not None and again.run == result.run == kb.record(again)
        assert Counter(kb.runs()["status"]) == {"cancelled": 1, "done": 1}
        assert list(again.table.rows()) == list(result.table.rows())
        assert repr(Recall.from_knowledge_base(kb, result.run)) == repr(result)
        assert seen[-1] == 8
        with pytest.raises(km.NotFoundError):
            Recall.from_knowledge_base(kb, 999)


# ---- texts ----


TEXT = (
    "We hold these truths to be self-evident, that all men are created equal, that they are "
    "endowed by their Creator with certain unalienable Rights"
)


def test_verbatim_against_scores(model: km.Model) -> None:
    result = km.verbatim(model, [TEXT, "Too short."], prefix=8, suffix=12)
    row, short = result.table.rows()
    ids = model.encode(TEXT)
    logp = model.logprobs(ids).astype(float)
    assert row["loss"] == pytest.approx(scores.loss(logp), abs=1e-5)
    assert row["min_k"] == pytest.approx(scores.min_k(logp), abs=1e-4)
    assert row["zlib_ratio"] == pytest.approx(scores.zlib_ratio(logp, TEXT), abs=1e-6)
    assert row["suffix_logp"] == pytest.approx(logp[7:19].sum(), abs=1e-4)
    out: list[int] = []
    for _ in range(12):  # decode for real
        out.append(int(model.next_logprobs(ids[:8] + out).argmax()))
    real = scores.extraction(out, ids[8:20])
    assert row["extractable"] == real.extractable
    assert row["matching_prefix"] == real.matching_prefix
    moments = model.next_logprobs(ids[:5]).astype(float)
    tokens = next(t for t in result.tokens.rows() if t["text"] == 0 and t["position"] == 5)
    assert tokens["mu"] == pytest.approx((np.exp(moments) * moments).sum(), abs=1e-4)
    assert short["extractable"] is None and short["suffix_logp"] is None
    assert "no verdict on membership" in repr(result)
    with pytest.raises(km.ArgumentError, match="at least 2"):
        km.verbatim(model, ["a"])
    with pytest.raises(km.ArgumentError, match="no texts"):
        km.verbatim(model, [])


def test_exposure_scores_what_follows(model: km.Model) -> None:
    others = [str(n) for n in range(100, 120)]
    result = km.exposure(model, ["7", "119"], others, prefix="The random number is ")
    first = result.table.row(0)
    whole = model.encode("The random number is 7")
    n = len(model.encode("The random number is"))
    bits = -model.logprobs(whole)[n - 1 :].astype(float).sum() / math.log(2)
    assert first["log_perplexity"] == pytest.approx(bits, abs=1e-4)
    assert first["exposure"] == pytest.approx(math.log2(20) - math.log2(first["rank"]))
    full = km.exposure(model, "7", others, prefix="The random number is ", enumerated=True)
    assert full.table["exposure"][0] == pytest.approx(math.log2(21) - math.log2(first["rank"]))
    with pytest.raises(km.ArgumentError, match="at least one"):
        km.exposure(model, [], others)


# ---- scores: what must hold for any input ----

reals = st.floats(-30, 0, allow_nan=False)


@given(st.lists(reals, min_size=1, max_size=60), st.floats(0, 1))
@settings(max_examples=50)
def test_min_k_lies_between_smallest_and_mean(logprobs: list[float], ratio: float) -> None:
    value = scores.min_k(logprobs, ratio, at_least_one=True)
    assert min(logprobs) - 1e-9 <= value <= np.mean(logprobs) + 1e-9
    assert value == scores.min_k(sorted(logprobs), ratio, at_least_one=True)


@given(st.lists(st.tuples(st.integers(-9, 9), st.booleans()), min_size=2, max_size=40))
@settings(max_examples=50)
def test_auroc_turns_with_the_sign(items: list[tuple[int, bool]]) -> None:
    values, member = [float(x) for x, _ in items], [m for _, m in items]
    ahead = scores.detection(values, member).auroc
    behind = scores.detection([-x for x in values], member).auroc
    assert (math.isnan(ahead) and len(set(member)) == 1) or ahead + behind == pytest.approx(1)


@given(st.lists(st.integers(0, 4), max_size=12), st.lists(st.integers(0, 4), max_size=12))
@settings(max_examples=60)
def test_edit_distance_is_a_metric(a: list[int], b: list[int]) -> None:
    there, back = scores.extraction(a, b), scores.extraction(b, a)
    assert there.edit_distance == back.edit_distance
    assert (there.edit_distance == 0) == (a == b) == there.extractable
    assert abs(len(a) - len(b)) <= there.edit_distance <= max(len(a), len(b))


def test_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(km.ArgumentError, match="int32"):
        scores.extraction([2**40], [1])
    with pytest.raises(km.ArgumentError, match="whole numbers"):
        scores.precision_at([0.5], 1)
    with pytest.raises(km.ArgumentError, match="outside"):
        scores.rank([[0.0, 1.0]], [0], vocabulary=[-1])


def test_names_in_place_of_objects_say_what_to_do(model: km.Model) -> None:
    with pytest.raises(km.ArgumentError, match=r"km\.load"):
        km.memorization("smollm2", "adj_antonym")  # type: ignore[arg-type]
    with pytest.raises(km.ArgumentError, match=r"km\.KnowledgeBase"):
        km.memorization(model, "adj_antonym", kb="study.db")  # type: ignore[arg-type]
