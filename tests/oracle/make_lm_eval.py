"""Write goldens of lm-evaluation-harness with its own hf model in float32.

usage: make_lm_eval.py GOLDEN_DATA SMOLLM2 OUT.json
GOLDEN_DATA is the folder with the tiny models, SMOLLM2 the F32 Hugging Face folder dequantised from
the GGUF file that km loads. Needs lm-eval 0.4.13, torch and transformers.

docs are the rows of one multiple-choice task; for each model there are its accuracies on that task
as the harness computes them, every (context, continuation) it asked for with the log-likelihood in
nats and greedy agreement, and rolling log-likelihoods and generations of a few texts.
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
from typing import Any

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

DOCS = [
    ("The capital of France is", ["Paris", "Rome", "Madrid", "Oslo"], 0),
    ("The capital of Italy is", ["Paris", "Rome", "Madrid", "Oslo"], 1),
    ("The capital of Spain is", ["Paris", "Rome", "Madrid", "Oslo"], 2),
    ("The capital of Norway is", ["Paris", "Rome", "Madrid", "Oslo"], 3),
    ("Water freezes at", ["zero degrees Celsius", "ninety degrees Celsius"], 0),
    ("The opposite of hot is", ["cold", "warm", "hotter"], 0),
    ("Two plus two is", ["four", "five", "twenty-two"], 0),
    ("A dog is a kind of", ["animal", "plant", "metal"], 0),
    ("The sun rises in the", ["west", "east", "north"], 1),
    ("A week has", ["five days", "seven days", "ten days"], 1),
    ("The author of Hamlet is", ["Charles Dickens", "William Shakespeare"], 1),
    ("Schnee ist", ["weiß", "grün", "heiß"], 0),
]
ROLLING = ["The sun rises in the east.", "Ein Satz mit Umlauten: ä, ö, ü.", "x"]
GENERATE = [
    ("The capital of France is", {"until": ["\n"], "max_gen_toks": 12}),
    ("Count: one, two, three,", {"until": [" seven"], "max_gen_toks": 16}),
]
TASK = """task: km_capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{path}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def instance(kind: str, arguments: tuple[Any, ...]) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def measure(folder: pathlib.Path, task: pathlib.Path) -> dict[str, Any]:
    model = HFLM(
        pretrained=str(folder), dtype="float32", device="cpu", batch_size=1,
        attn_implementation="eager",
    )  # fmt: skip
    found = lm_eval.simple_evaluate(
        model, tasks=["km_capitals"], task_manager=TaskManager(include_path=str(task)),
        log_samples=True, bootstrap_iters=0,
    )  # fmt: skip
    requests = []
    for sample in found["samples"]["km_capitals"]:
        for (context, continuation), (answer,) in zip(
            (a.values() if isinstance(a, dict) else a for a in _arguments(sample)),
            sample["resps"], strict=True,
        ):  # fmt: skip
            requests.append([context, continuation, float(answer[0]), bool(answer[1])])
    rolling = model.loglikelihood_rolling(
        [instance("loglikelihood_rolling", (t,)) for t in ROLLING]
    )
    made = model.generate_until([instance("generate_until", request) for request in GENERATE])
    results = found["results"]["km_capitals"]
    return {
        "acc": results["acc,none"],
        "acc_norm": results["acc_norm,none"],
        "loglikelihood": requests,
        "rolling": [[text, value] for text, value in zip(ROLLING, rolling, strict=True)],
        "generate": [[*request, text] for request, text in zip(GENERATE, made, strict=True)],
    }


def _arguments(sample: dict[str, Any]) -> list[Any]:
    found = sample["arguments"]
    return list(found.values()) if isinstance(found, dict) else found


def main() -> None:
    data, smollm2, out = map(pathlib.Path, sys.argv[1:])
    docs = [{"question": q, "choices": c, "answer": a} for q, c, a in DOCS]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        rows = folder / "docs.jsonl"
        rows.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        (folder / "km_capitals.yaml").write_text(TASK.format(path=rows))
        models = {
            "smollm2": measure(smollm2, folder),
            "tiny_llama": measure(data / "tiny_llama", folder),
            "tiny_gemma3": measure(data / "tiny_gemma3", folder),
        }
    result = {"task": TASK, "docs": docs, "models": models}
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
