"""lm-evaluation-harness: its hf model's figures, and its command line with km as a model."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import km

DATA = Path(__file__).resolve().parent.parent / "golden_data"
GOLDEN = json.loads((DATA / "lm_eval.json").read_text(encoding="utf-8"))
MODELS = ("tiny_llama", "tiny_gemma3", "smollm2")

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed (pip install 'km[lm-eval]')",
)


def path_of(name: str, request: pytest.FixtureRequest) -> str:
    if name == "smollm2":
        return str(request.getfixturevalue("model").path)
    return str(DATA / name)


# ---- without the harness: the same pairs through Model.score ----


@pytest.mark.parametrize("name", MODELS)
def test_score_gives_the_hf_models_loglikelihoods(
    name: str, request: pytest.FixtureRequest
) -> None:
    model = km.load(path_of(name, request))
    expected = GOLDEN["models"][name]["loglikelihood"]
    contexts, lists = [pair[0] for pair in expected], [[pair[1]] for pair in expected]
    result = model.score(contexts, lists, boundary="lm_eval", special=True)
    for row, (_, _, logp, greedy) in zip(result.table.rows(), expected, strict=True):
        assert row["logp"] == pytest.approx(logp, abs=1e-4)
        assert row["greedy"] == greedy


def test_golden_accuracy_follows_from_its_loglikelihoods() -> None:
    for golden in GOLDEN["models"].values():
        rows = iter(golden["loglikelihood"])
        right = 0
        for doc in GOLDEN["docs"]:
            scores = [next(rows)[2] for _ in doc["choices"]]
            right += scores.index(max(scores)) == doc["answer"]
        assert right / len(GOLDEN["docs"]) == pytest.approx(golden["acc"])


# ---- with the harness ----


def write_task(folder: Path) -> None:
    rows = folder / "docs.jsonl"
    rows.write_text("".join(json.dumps(doc) + "\n" for doc in GOLDEN["docs"]))
    (folder / "km_capitals.yaml").write_text(GOLDEN["task"].format(path=rows))


def run_harness(folder: Path, model_args: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Results and samples of the task, run from the command line, offline."""
    write_task(folder)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment |= {"HF_HOME": str(folder / "hf")}
    command = [
        sys.executable, "-m", "km.lm_eval", "run", "--model", "km", "--model_args", model_args,
        "--tasks", "km_capitals", "--include_path", str(folder), "--log_samples",
        "--output_path", str(folder / "out"),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (folder / "out").rglob("results_*.json")
    (samples,) = (folder / "out").rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    return json.loads(results.read_text())["results"]["km_capitals"], rows


@needs_harness
@pytest.mark.parametrize("name", MODELS)
def test_command_line(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    results, rows = run_harness(tmp_path, f"model={path_of(name, request)},threads=2")
    golden = GOLDEN["models"][name]
    assert results["acc,none"] == golden["acc"]
    assert results["acc_norm,none"] == golden["acc_norm"]
    rows.sort(key=lambda row: row["doc_id"])
    answers = [answer for row in rows for (answer,) in row["resps"]]
    assert len(answers) == len(golden["loglikelihood"])
    for (logp, greedy), (_, _, expected, was_greedy) in zip(
        answers, golden["loglikelihood"], strict=True
    ):
        assert float(logp) == pytest.approx(expected, abs=1e-4)
        assert str(greedy) == str(was_greedy)


@needs_harness
@pytest.mark.parametrize("name", MODELS)
def test_rolling_and_generation(name: str, request: pytest.FixtureRequest) -> None:
    from lm_eval.api.instance import Instance

    from km.lm_eval import KmLM

    model = KmLM(model=path_of(name, request), threads=2)
    golden = GOLDEN["models"][name]

    def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        return [Instance(request_type=kind, doc={}, arguments=a, idx=0) for a in arguments]

    rolling = model.loglikelihood_rolling(
        instances("loglikelihood_rolling", [(text,) for text, _ in golden["rolling"]])
    )
    # Whole texts from their first token on, where float32 is noisiest (docs/decisions/0013).
    assert rolling == pytest.approx([value for _, value in golden["rolling"]], abs=5e-4)
    if name == "tiny_gemma3":
        return  # it says bytes that are no text, for which transformers has a rule of its own
    made = model.generate_until(
        instances(
            "generate_until", [(context, options) for context, options, _ in golden["generate"]]
        )
    )
    assert made == [text for _, _, text in golden["generate"]]


@needs_harness
def test_too_long_contexts_are_said(caplog: pytest.LogCaptureFixture) -> None:
    from km.lm_eval import KmLM

    model = KmLM(model=str(DATA / "tiny_llama"), max_length=8)
    given, scored = list(range(1, 21)), [5, 6]
    answer = model._loglikelihood_tokens([(None, given, scored)])[0]
    assert "loses its first 13 tokens" in caplog.text
    assert answer[0] == model._loglikelihood_tokens([(None, given[13:], scored)])[0][0]


@needs_harness
def test_unknown_options_are_refused() -> None:
    from km.lm_eval import KmLM, _decoder

    with pytest.raises(km.ArgumentError, match="max_length"):
        KmLM(model=str(DATA / "tiny_llama"), max_length=100000)
    with pytest.raises(km.ArgumentError, match="'penalty_alpha'"):
        _decoder({"penalty_alpha": 0.5})
    assert _decoder({"do_sample": True, "temperature": 0.5, "top_k": 3}) == km.Sample(0.5, 3)
    assert _decoder({"num_beams": 3, "do_sample": False}) == km.Beam(3)


def test_import_without_the_harness_says_what_to_install() -> None:
    code = "import sys; sys.modules['lm_eval'] = None; import km.lm_eval"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'km[lm-eval]'" in done.stderr
