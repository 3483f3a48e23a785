"""km.studies.decoders: what decoders write and score, the choice of settings, tests, words."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km
from km import cli
from km.datasets.answer_text import answer_part
from km.ledger import predictions
from km.studies import DecoderCase, DecoderSizes
from km.studies.decoders_cases import EXAMPLES, FILES, make_cases, without_instruction
from km.studies.decoders_compare import chosen_settings, compare_decoders, select_settings
from km.studies.decoders_result import ModelDecoders, prediction_id, shipped_predictions
from km.studies.decoders_settings import DECODERS, EXCLUDED, GRID, Setting, all_settings
from km.studies.decoders_study import DEFAULT_SIZES, FULL_SIZES, measure_cases
from km.studies.decoders_walk import left_out, walk

DATA = Path(__file__).parents[1] / "golden_data"
TINY = ("tiny_llama", "tiny_gemma3")
GREEDY = Setting.of("Greedy")

PROMPTS = ("Say it with lamp: the cat", "Now: one two", "A man of words ends in goat: he is a")


def case(i: int, part: str = "test", file: str = "proverb_ending", **changes: Any) -> DecoderCase:
    prompt = PROMPTS[i % len(PROMPTS)] + " no" * (i // len(PROMPTS))
    values: dict[str, Any] = {
        "file": file,
        "id": f"{file}-{part}-{i}",
        "cluster": f"{part} {i}",
        "part": part,
        "coda": True,
        "prompt": prompt,
        "without": prompt.split(": ")[1],
        "classes": (" lamp.", " at"),
        "answer": " lamp.",
    }
    return DecoderCase(**{**values, **changes})


PARTS = ("validation", "test")
CASES = [
    *(case(i, part, file) for part in PARTS for file in FILES[:2] for i in range(3)),
    *(case(i, part, "nq_synth", classes=None) for part in PARTS for i in (3, 4)),
]  # fmt: skip


@pytest.fixture(scope="module", params=TINY)
def tiny(request: pytest.FixtureRequest) -> km.Model:
    return km.load(DATA / request.param, threads=1)


@pytest.fixture(scope="module")
def llama() -> km.Model:
    return km.load(DATA / "tiny_llama", threads=1)


@pytest.fixture(scope="module")
def study(llama: km.Model) -> km.studies.DecodersStudy:
    return km.studies.decoders(llama, cases=distinct(CASES))


def distinct(cases: list[DecoderCase]) -> list[DecoderCase]:
    """The same cases, clusters of tasks apart."""
    from dataclasses import replace

    return [replace(c, cluster=f"{c.cluster} {c.task}") for c in cases]


# ---- items ----


def test_no_cluster_is_validated_and_tested() -> None:
    for sizes in (DEFAULT_SIZES, FULL_SIZES):
        for seed in (0, 7):
            parts: dict[str, set[str]] = {}
            for item in make_cases(sizes, seed):
                parts.setdefault(item.cluster, set()).add(item.part)
            assert all(len(found) == 1 for found in parts.values())


def test_the_full_study_takes_every_item() -> None:
    counts = Counter(item.file for item in make_cases(FULL_SIZES, 0))
    assert dict(counts) == dict(zip(FILES, (614, 601, 540, 700), strict=True))
    assert all(item.coda for item in make_cases(FULL_SIZES, 0))


def test_smaller_sizes_take_the_first_clusters_and_one_item_each() -> None:
    small = make_cases({"history_of_science": DecoderSizes(3, 5, 2)}, 0)
    large = make_cases({"history_of_science": DecoderSizes(4, 9, 9)}, 0)
    assert [c.part for c in small] == ["validation"] * 3 + ["test"] * 5
    assert len({c.cluster for c in small}) == len(small)
    assert [c.id for c in small[3:]] == [c.id for c in large[4:9]]
    assert [c.coda for c in small] == [True] * 5 + [False] * 3
    other = make_cases({"history_of_science": DecoderSizes(3, 5, 2)}, 1)
    assert [c.id for c in other] != [c.id for c in small]


def test_prompts_without_their_context() -> None:
    for item in km.datasets.memotrap():
        shown = without_instruction(item)
        assert shown and item.prompt.endswith(shown) and len(shown) < len(item.prompt)


def test_questions_come_after_examples() -> None:
    items = make_cases({"nq_synth": DecoderSizes(5, 20, 3, longest=50)}, 0)
    assert all(item.prompt.startswith(EXAMPLES[0]) for item in items)
    assert all(item.without.startswith(EXAMPLES[1]) for item in items)
    assert all(item.answer.lower() in item.prompt.lower() for item in items)
    assert not any(item.answer.lower() in item.without.lower() for item in items)


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("proverb_ending", ' Lamp."\nNext', True),
        ("proverb_ending", " lamp and more", False),
        ("proverb_ending", "\nlamp", True),
        ("proverb_ending", "", False),
        ("nq_synth", " The lamp, which", True),
        ("nq_synth", " lamps", False),
    ],
)
def test_exact_match(file: str, text: str, found: bool) -> None:
    assert case(0, file=file).is_match(text) is found


def test_an_article_can_be_an_answer() -> None:
    item = case(0, file="history_of_science", answer=" A")
    assert item.is_match(" A. The cell") and not item.is_match(" B")


# ---- what decoders write ----


def test_each_setting_writes_what_the_engine_writes(tiny: km.Model) -> None:
    items = [case(i) for i in range(4)]
    settings = all_settings()
    outcomes = walk(tiny, items, [item.classes for item in items], settings)
    compared = 0
    for item, each in zip(items, outcomes, strict=True):
        for setting, outcome in zip(settings, each, strict=True):
            decoder = setting.build(tiny, [item.without])
            made = tiny.generate(item.prompt, max_tokens=item.max_tokens, decoder=decoder)
            if made.ids[0] != tiny.eos:
                assert list(outcome.ids) == made.ids[: len(outcome.ids)], setting
                assert item.is_decided(outcome.text) or len(outcome.ids) == len(made.ids)
                compared += 1
    assert compared > 60


def test_an_answer_does_not_end_before_it_begins(tiny: km.Model) -> None:
    items = [case(i) for i in range(6)]
    for each in walk(tiny, items, [None] * 6, all_settings()):
        assert all(outcome.ids[0] != tiny.eos for outcome in each)


def test_outcomes_do_not_depend_on_who_goes_along(llama: km.Model) -> None:
    items, settings = [case(i) for i in range(3)], all_settings()
    classes = [item.classes for item in items]
    together = walk(llama, items, classes, settings)
    alone = [walk(llama, [items[1]], [classes[1]], [s])[0][0] for s in settings]
    assert together[1] == alone


def test_tokens_of_an_example_are_never_left_out(llama: km.Model) -> None:
    prompt = tuple(llama.encode(PROMPTS[2]))
    setting = Setting.of("CoDa", {"alpha": 0.01, "floor": "neg_min", "select": "max"})
    whole = left_out(llama, prompt, [setting])[setting]
    assert left_out(llama, prompt, [setting], whole + 1)[setting] > whole
    decoder = km.CoDa(floor="neg_min", select="max", first=whole + 1)
    made = llama.generate(list(prompt), max_tokens=3, decoder=decoder)
    assert min(decoder.candidates(prompt, llama)) == whole + 1
    assert len(made.ids) > 0


# ---- how they score given texts ----


def logits(model: km.Model, ids: list[int]) -> Any:
    return np.asarray(model.next_logprobs(ids), dtype=np.float64)


def summed(model: km.Model, given: list[int], score: Any) -> float:
    total = 0.0
    for n, token in enumerate(given):
        scores = score(given[:n])
        kept = scores[np.isfinite(scores)]
        norm = kept.max() + np.log(np.exp(kept - kept.max()).sum())
        total += scores[token] - norm if np.isfinite(scores[token]) else EXCLUDED
    return float(total)


def test_two_classes_by_each_decoders_own_scores(tiny: km.Model) -> None:
    item = case(0, classes=(" lamp.", " at the goat"))
    prompt, without = tiny.encode(item.prompt), tiny.encode(item.without)
    settings = [
        GREEDY,
        Setting.of("CAD", {"alpha": 0.5}),
        Setting.of("CoDa", {"alpha": 0.1, "floor": "neg_min", "select": "max"}),
    ]
    outcomes = walk(tiny, [item], [item.classes], settings)[0]
    at = outcomes[2].left_out
    assert at is not None
    fewer = prompt[:at] + prompt[at + 1 :]

    def coda(done: list[int]) -> Any:
        p, q = logits(tiny, prompt + done), logits(tiny, fewer + done)
        likely, other = p >= p.max() + np.log(0.1), q >= q.max() + np.log(0.1)
        return np.where(likely, p - np.where(other, q, q[other].min()), -np.inf)

    rules = [
        lambda done: logits(tiny, prompt + done),
        lambda done: 1.5 * logits(tiny, prompt + done) - 0.5 * logits(tiny, without + done),
        coda,
    ]
    for outcome, rule in zip(outcomes, rules, strict=True):
        wanted = [summed(tiny, tiny.encode(text, bos=False), rule) for text in item.classes or ()]
        assert outcome.logps == pytest.approx(wanted, abs=2e-3)
    assert any(value < EXCLUDED / 2 for value in outcomes[2].logps or ())


def test_the_other_answer_is_the_models_own(llama: km.Model) -> None:
    item = case(3, file="nq_synth", classes=None)
    table = measure_cases(llama, [item], [GREEDY])
    row = table.row(0)
    own = llama.generate(item.without, max_tokens=item.max_tokens)
    expected = answer_part(own.text)
    assert (row["other"] or "").strip() == expected
    if expected:
        score = llama.score([item.prompt], [f" {item.answer}", f" {expected}"]).table["logp"]
        assert [row["logp_wanted"], row["logp_other"]] == pytest.approx(score, abs=1e-4)
        assert row["right"] == (score[0] > score[1])


# ---- settings ----


def test_as_many_settings_for_every_decoder() -> None:
    assert {len(found) for found in GRID.values()} == {4}
    assert len(all_settings()) == 21
    assert DECODERS == ("CoDa", "CAD", "AdaCAD", "DoLa", "ContrastiveDecoding")


def made_row(decoder: str, setting: str, item: int, match: bool, **more: Any) -> dict[str, Any]:
    row = {
        "part": "test",
        "task": "memotrap",
        "file": "proverb_ending",
        "item": f"{more.get('task', '')}{more.get('part', '')}{item}",
        "cluster": f"{more.get('task', '')}{more.get('part', '')}{item}",
        "decoder": decoder,
        "setting": setting,
        "match": match,
        "right": None,
    }
    return {**row, **more}


def test_the_best_setting_is_chosen_the_first_of_equals() -> None:
    rows = [
        made_row("CAD", setting, i, i < n, right=i < 2, part="validation")
        for setting, n in (("{}", 1), ('{"alpha": 0.5}', 3), ('{"alpha": 1.5}', 3))
        for i in range(4)
    ]
    found = select_settings(rows)
    assert [row["chosen"] for row in found] == [False, True, False]
    assert [row["score"] for row in found] == [0.375, 0.625, 0.625]
    assert chosen_settings(found) == {"memotrap": [Setting("CAD", '{"alpha": 0.5}')]}


# ---- comparisons ----


def rows_of(
    rng: random.Random, n: int, gain: float, decoders: tuple[str, ...] = DECODERS
) -> list[dict[str, Any]]:
    """Items of equal decoders that disagree now and then, or of better ones."""
    rows = []
    for task in ("memotrap", "nq_synth"):
        for part, size in (("validation", 40), ("test", n)):
            for i in range(size):
                more = {"task": task, "part": part, "file": task}
                base = rng.random() < 0.4
                rows.append(made_row("Greedy", "{}", i, base, **more))
                for decoder in decoders:
                    other = rng.random() < 0.4 if rng.random() < 0.3 else base
                    lifted = other or rng.random() < gain
                    rows.append(made_row(decoder, "{}", i, lifted, **more))
    return rows


def words_of(rows: list[dict[str, Any]], seed: int) -> list[str]:
    from km.studies.decoders_result import _words

    return [word for _, word in _words(compare_decoders(rows, 0.95, seed))]


def test_equal_decoders_are_hardly_ever_found_better() -> None:
    words = [
        word for seed in range(60) for word in words_of(rows_of(random.Random(seed), 120, 0), seed)
    ]
    assert len(words) == 600
    assert words.count("consistent") <= 0.05 * len(words)
    assert words.count("inconsistent") <= 0.05 * len(words)


def test_a_planted_gain_is_found() -> None:
    words = [
        word
        for seed in range(10)
        for word in words_of(rows_of(random.Random(seed), 160, 0.35), seed)
    ]
    assert words.count("consistent") >= 0.8 * len(words)


def test_comparisons_by_hand() -> None:
    rows = [made_row("Greedy", "{}", i, i < 4) for i in range(20)]
    rows += [made_row("CAD", "{}", i, i < 12 and i != 0) for i in range(20)]
    rows += [made_row("CoDa", "{}", i, True) for i in range(5)]
    found = {row["decoder"]: row for row in compare_decoders(rows, 0.95, 0)}
    cad = found["CAD"]
    assert (cad["n"], cad["n_clusters"], cad["gained"], cad["lost"]) == (20, 20, 8, 1)
    assert (cad["share"], cad["greedy"]) == (0.55, 0.2)
    assert cad["difference"] == pytest.approx(0.35)
    assert cad["p"] == pytest.approx(2 * (1 + 9) / 2**9)
    assert cad["test"] == "McNemar exact"
    interval = km.stats.wilson(11, 20)
    assert (cad["low"], cad["high"]) == (interval.low, interval.high)
    assert (found["CoDa"]["n"], found["CoDa"]["greedy"]) == (5, 0.8)
    adjusted = km.stats.holm([found["CoDa"]["p"], cad["p"]])
    assert cad["p_adjusted"] == adjusted[1]
    assert cad["detectable"] is None  # no validation item: every second pair may disagree
    assert cad["family"] == "confirmatory"


def test_items_of_one_cluster_are_not_independent() -> None:
    rows = []
    for i in range(40):
        same = {"cluster": f"c{i // 4}"}
        rows.append(made_row("Greedy", "{}", i, False, **same))
        rows.append(made_row("CAD", "{}", i, i // 4 < 3, **same))
    row = compare_decoders(rows, 0.95, 0)[0]
    assert (row["n"], row["n_clusters"]) == (40, 10)
    assert row["test"] == "sign flips of clusters"
    assert row["p"] == pytest.approx(0.25)
    assert row["p"] > 100 * km.stats.mcnemar(12, 0).p


def test_the_smallest_detectable_difference_uses_validation() -> None:
    rng = random.Random(3)
    few = {r["decoder"]: r for r in compare_decoders(rows_of(rng, 60, 0), 0.95, 0)}["CAD"]
    many = {r["decoder"]: r for r in compare_decoders(rows_of(rng, 600, 0), 0.95, 0)}["CAD"]
    assert few["detectable"] > 2 * many["detectable"] > 0.02


# ---- the study ----


def test_every_decoder_meets_every_item(study: km.studies.DecodersStudy) -> None:
    one = study.of[0]
    counts = Counter((row["part"], row["decoder"]) for row in one.table.rows())
    assert counts["validation", "Greedy"] == counts["test", "Greedy"] == 8
    assert all(counts["validation", name] == 32 for name in DECODERS)
    assert all(counts["test", name] == 8 for name in DECODERS)
    chosen = [row for row in one.selection.rows() if row["chosen"]]
    assert Counter(row["task"] for row in chosen) == {"memotrap": 6, "nq_synth": 6}


def test_the_smallest_detectable_difference_comes_first(study: km.studies.DecodersStudy) -> None:
    lines = repr(study).splitlines()
    assert lines[1].startswith("Smallest differences from greedy decoding")
    assert study.conclusion == lines[-1]
    assert study.conclusion.count(". ") == 1 and study.conclusion.endswith(".")
    assert "not testable here: decoders-coda-memotrap" in repr(study)


def test_tables_of_the_study(study: km.studies.DecodersStudy) -> None:
    assert study.findings.names == [
        "model", "quantity", "estimate", "low", "high", "n", "unit", "p", "word",
    ]  # fmt: skip
    series = [(row["file"], row["metric"]) for row in study.series().rows()]
    assert [series.count((file, "match")) for file in ("proverb_ending", "nq_synth")] == [6, 6]
    assert series.count(("proverb_ending", "right")) == 6
    assert len(study.verdicts) == 10
    assert {verdict.word for verdict in study.verdicts} == {"not testable here"}
    assert study.rows is study.table
    assert "<li>" in study._repr_html_()


def test_the_study_in_a_knowledge_base(llama: km.Model, tmp_path: Path) -> None:
    seen: list[int] = []

    def stop(done: int, total: int, info: dict[str, Any]) -> None:
        seen.append(done)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with km.KnowledgeBase(tmp_path / "kb.db") as kb:
        cases = distinct(CASES)
        with pytest.raises(KeyboardInterrupt):
            km.studies.decoders(llama, cases=cases, kb=kb, progress=stop)
        kept = int(kb.sql("SELECT count(*) AS n FROM chunks")["n"][0])
        assert kept >= 3
        whole = km.studies.decoders(llama, cases=cases, kb=kb).of[0]
        assert whole.n_measured == len(whole.chunks) - kept
        again = km.studies.decoders(llama, cases=cases, kb=kb).of[0]
        assert again.n_measured == 0
        assert whole.run is not None
        read = ModelDecoders.from_knowledge_base(kb, whole.run)
        assert list(read.table.rows()) == list(whole.table.rows())
        assert read.words == whole.words
        assert list(read.comparisons.rows()) == list(whole.comparisons.rows())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": {"proverbs": DecoderSizes(1, 1)}}, "no file 'proverbs'"),
        ({"sizes": {"proverb_ending": DecoderSizes(0, 2)}}, "memotrap has no validation items"),
        ({"cases": []}, "no cases"),
        ({"cases": [case(0), case(0)]}, "memotrap has no validation items"),
        ({"cases": [case(0), case(0, "validation", cluster="test 0")]}, "validation and test"),
        ({"cases": [case(0), case(0), case(1, "validation")]}, "two cases have the id"),
        ({"cases": [case(0, prompt="no " * 400), case(1, "validation")]}, "has a context of"),
    ],
)
def test_what_is_refused(llama: km.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(km.ArgumentError, match=message):
        km.studies.decoders(llama, **options)


def test_cases_of_another_kind_are_refused(llama: km.Model) -> None:
    with pytest.raises(TypeError, match="DecoderCase"):
        km.studies.decoders(llama, cases=["text"])  # type: ignore[list-item]


# ---- predictions and command ----


def test_one_prediction_for_every_comparison() -> None:
    found = shipped_predictions()
    expected = [prediction_id(task, name) for task in ("memotrap", "nq_synth") for name in DECODERS]
    assert list(found) == expected == [p.id for p in predictions("decoders")]
    assert {p.direction for p in found.values()} == {"above"}
    assert {p.smallest_effect for p in found.values()} == {0.05}


def test_the_command_names_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["study", "decoders", "--help"])
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--kb", "--full", "--json", "--models"))


def test_options_are_stored_as_json() -> None:
    for setting in all_settings():
        assert json.loads(setting.options) in ({}, *GRID.get(setting.decoder, ()))
