"""Model.score: boundaries, tables, refusals, and the same bits in any company."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import km

DATA = Path(__file__).resolve().parent.parent / "golden_data"


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_gemma3"])
def tiny(request: pytest.FixtureRequest) -> km.Model:
    return km.load(DATA / request.param, threads=2)


@pytest.fixture(scope="module")
def llama() -> km.Model:
    return km.load(DATA / "tiny_llama", threads=2)


# ---- values ----


def test_there_is_no_inexact_mode(llama: km.Model) -> None:
    stated = llama.score("a b", ["c"], exact=True).table["logp"]
    assert stated == llama.score("a b", ["c"]).table["logp"]
    with pytest.raises(km.ArgumentError, match="exact must be True"):
        llama.score("a b", ["c"], exact=False)  # type: ignore[arg-type]


def test_ctrl_c_does_not_wait_for_the_pass(model: km.Model) -> None:
    """The whole work is one pass, which reports only its end."""
    reports: list[int] = []
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.score(
            "word " * 1900,
            ["Paris"],
            batch_tokens=4096,
            progress=lambda done, total, info: reports.append(done),
        )
    timer.join()
    assert reports == []
    assert model.score("The capital of France is", ["Paris"]).table["greedy"] == [True]


def test_sums_of_the_models_own_logprobs(model: km.Model) -> None:
    result = model.score(["The capital of France is", "Two plus two is"], ["Paris", "four, not 5"])
    assert len(result) == 4
    for row, tokens in zip(result.table.rows(), result.token_logprobs, strict=True):
        ids = json.loads(row["ids"])
        prompt = model.encode(row["prompt_text"])
        expected = model.logprobs(prompt + ids)[-len(ids) :]
        assert tokens == pytest.approx(expected, abs=2e-5)
        assert row["logp"] == pytest.approx(sum(tokens), abs=1e-12)
        assert json.loads(row["logprobs"]) == tokens.tolist()
        assert row["n_tokens"] == len(ids) and row["n_prompt_tokens"] == len(prompt)
        assert row["logp_per_token"] == row["logp"] / len(ids)
        assert row["logp_per_byte"] == row["logp"] / row["n_bytes"]
        assert model.decode(ids) == row["continuation"]
    assert result.matrix().shape == (2, 2)
    assert result.table["greedy"][0] is True  # " Paris" is the most likely next token
    assert result.provenance["parameters"]["n_pairs"] == 4


def test_greedy_agrees_with_the_argmax(tiny: km.Model) -> None:
    prompt = tiny.encode("a b c", bos=True)
    ids = list(prompt)
    for _ in range(4):
        ids.append(int(np.argmax(tiny.next_logprobs(ids))))
    best = ids[len(prompt) :]
    other = [*best[:-1], (best[-1] + 1) % tiny.config["vocab_size"]]
    assert tiny.score(prompt, [best, best[:2], other]).table["greedy"] == [True, True, False]


def test_recall_takes_the_same_path(model: km.Model) -> None:
    facts = km.datasets.facts("country_capital_city").select(per_relation=3)
    recall = km.memorization(model, facts, baselines=False, lens=False, progress=False)
    prompts = recall.table["prompt"]
    answers = [[answer] for answer in recall.table["scored_answer"]]
    scored = model.score(prompts, answers, progress=False)
    assert scored.table["logp"] == recall.table["logp"]


# ---- the same bits ----


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_bits_do_not_depend_on_company(llama: km.Model, data: st.DataObject) -> None:
    vocab = llama.config["vocab_size"]
    token = st.integers(0, min(vocab, 12) - 1)
    text = st.lists(token, min_size=1, max_size=9)
    pairs = data.draw(st.lists(st.tuples(text, text), min_size=1, max_size=12))
    batch = data.draw(st.integers(1, 60))
    order = data.draw(st.permutations(range(len(pairs))))
    alone = [llama.score(p, [c], batch_tokens=1).token_logprobs[0].tobytes() for p, c in pairs]
    together = llama.score(
        [pairs[i][0] for i in order], [[pairs[i][1]] for i in order], batch_tokens=batch
    )
    assert [t.tobytes() for t in together.token_logprobs] == [alone[i] for i in order]


def test_bits_do_not_depend_on_threads() -> None:
    prompts, candidates = ["a b c", "a b d", "x"], ["y z", "w", "y y y y"]
    bits = {
        np.concatenate(
            km.load(DATA / "tiny_gemma3", threads=n).score(prompts, candidates).token_logprobs
        ).tobytes()
        for n in (1, 2, 5)
    }
    assert len(bits) == 1


def test_bits_on_the_real_model(model: km.Model) -> None:
    prompts = [f"The capital of {c} is" for c in ("France", "Italy", "Norway", "Peru")]
    candidates = ["Paris", "Rome", "Oslo, of course", "Lima", "a city by the sea"]
    whole = model.score(prompts, candidates)
    cut = model.score(prompts[::-1], candidates, batch_tokens=7)
    assert np.array_equal(whole.matrix(), cut.matrix()[::-1])
    one = model.score(prompts[1], [candidates[2]])
    assert one.table["logp"][0] == whole.matrix()[1, 2]


# ---- boundaries ----


def test_blank_is_put_where_texts_would_run_together(model: km.Model) -> None:
    shown = model.score("It is", ["so", " so", "\nso"]).table["continuation"]
    assert shown == [" so", " so", "\nso"]
    assert model.score("It is ", ["so"]).table["continuation"] == ["so"]
    ids = model.encode("It is")
    assert model.score(ids, ["so"]).table["continuation"] == [" so"]
    assert model.score("It is", ["so"], boundary="none").table["continuation"] == ["so"]


def test_bytes_are_those_of_the_candidate(model: km.Model) -> None:
    assert model.score("It is", ["é", " so"]).table["n_bytes"] == [2, 3]
    assert model.score("It is", [model.encode(" so")]).table["n_bytes"] == [3]


def test_boundary_ok(model: km.Model) -> None:
    result = model.score("It is", ["so"], boundary="none")
    joined = model.encode("It isso")
    apart = model.encode("It is") + model.encode("so", bos=False)
    assert result.table["boundary_ok"] == [joined == apart]
    assert model.score(model.encode("It is"), ["so"]).table["boundary_ok"] == [None]


def test_lm_eval_rule(model: km.Model) -> None:
    row = model.score("It is  ", ["so"], boundary="lm_eval").table.row(0)
    given = model.encode("It is")
    assert row["n_prompt_tokens"] == len(given)
    assert json.loads(row["ids"]) == model.encode("It is  so")[len(given) :]
    assert row["continuation"] == "  so"
    assert row["n_bytes"] == 2


def test_lm_eval_rule_without_a_prompt(model: km.Model) -> None:
    row = model.score("", ["so"], boundary="lm_eval").table.row(0)
    start = model.eos if model.bos is None else model.bos
    assert row["n_prompt_tokens"] == 1
    assert row["logp"] == model.score([start], ["so"], boundary="none").table["logp"][0]
    with pytest.raises(km.ArgumentError, match="as text"):
        model.score(model.encode("a"), ["b"], boundary="lm_eval")


# ---- refusals ----


@pytest.mark.parametrize(
    ("prompts", "candidates", "message"),
    [
        ([], ["a"], "no prompts"),
        ("a", [], "no candidates"),
        ("a", [""], "prompt 0, candidate 0: the candidate has no tokens"),
        ("a", ["b", []], "prompt 0, candidate 1: the candidate has no tokens"),
        (["a", "b"], [["c"]], "1 lists of candidates for 2 prompts"),
        (["a", "b"], [["c"], []], "prompt 1 has no candidates"),
        (["a", [1] * 9000], ["b"], "prompt 1, candidate 0: 9000 and"),
    ],
)
def test_refusals(model: km.Model, prompts: object, candidates: object, message: str) -> None:
    with pytest.raises(km.ArgumentError, match=message):
        model.score(prompts, candidates)  # type: ignore[arg-type]


def test_refuses_an_empty_prompt_without_bos(model: km.Model) -> None:
    with pytest.raises(km.ArgumentError, match="the prompt has no tokens"):
        model.score("", ["a"], bos=False)


def test_refuses_bad_options(model: km.Model) -> None:
    with pytest.raises(km.ArgumentError, match="boundary"):
        model.score("a", ["b"], boundary="word")  # type: ignore[arg-type]
    with pytest.raises(km.ArgumentError, match="batch_tokens"):
        model.score("a", ["b"], batch_tokens=0)
    with pytest.raises(TypeError, match="list of texts"):
        model.score("a", "b")
    with pytest.raises(km.ArgumentError, match="id 999999"):
        model.score([1, 2], [[999999]])


def test_progress_and_ragged_lists(model: km.Model) -> None:
    seen: list[tuple[int, int]] = []
    result = model.score(
        ["a", "b"],
        [["c"], ["d", "e"]],
        batch_tokens=1,
        progress=lambda done, total, info: seen.append((done, total)),
    )
    assert result.table["prompt"] == [0, 1, 1] and result.table["candidate"] == [0, 0, 1]
    assert seen[-1] == (3, 3)
    assert all(math.isfinite(x) for x in result.table["logp"])
    with pytest.raises(km.ArgumentError, match="different numbers"):
        result.matrix()
