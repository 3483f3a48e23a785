"""Make tests/golden_data/lm_eval_samples.jsonl: what lm-evaluation-harness writes per sample.

Run with lm-eval 0.4.13, no network: two documents of a task of kind loglikelihood, and the
harness's own random model "dummy".

    python tests/oracle/make_lm_eval_samples.py
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"

from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

OUT = Path(__file__).resolve().parent.parent / "golden_data" / "lm_eval_samples.jsonl"
DOCS = [
    {"subject": "France", "answer": "Paris", "prompt": "The capital of France is"},
    {"subject": "Türkiye", "answer": "Ankara", "prompt": "The capital of Türkiye is"},
]
TASK = """
task: capitals
output_type: loglikelihood
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def main() -> None:
    """Evaluate, and keep what the harness writes."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "docs.jsonl"
        data.write_text("".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in DOCS))
        (Path(folder) / "capitals.yaml").write_text(TASK % data)
        tracker = EvaluationTracker(output_path=str(Path(folder) / "out"))
        tasks = TaskManager(include_path=folder, include_defaults=False)
        made = simple_evaluate(
            "dummy", tasks=["capitals"], task_manager=tasks, evaluation_tracker=tracker,
            random_seed=0, cache_requests=False,
        )  # fmt: skip
        samples = made.pop("samples")
        tracker.save_results_aggregated(results=made, samples=samples)
        tracker.save_results_samples(task_name="capitals", samples=samples["capitals"])
        (written,) = (Path(folder) / "out").rglob("samples_*.jsonl")
        print(written.relative_to(folder))
        OUT.write_text(written.read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    main()
