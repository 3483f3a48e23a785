"""Train and evaluate selectors on dialogues, and write RESULTS.md.

    python grounded-dialog/results.py --cache FOLDER [--flodial FOLDER] [--workers 2] [--write]

Every training and every evaluation is one job with one thread and one file in the cache; what is
there already is not done again, and a training that was stopped goes on from its last epoch. The
page is written from what the cache holds with --write; without it jobs are run and the page is
written when all are done. FloDial states no licence and is no part of this repository; --flodial
names a folder with flodial.train.jsonl, flodial.valid.jsonl and flodial.test.jsonl.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import km
from km import dialog
from km.cache import atomic_write

HERE = Path(__file__).parent
# Sizes of the reference program whose figures RESULTS.md quotes.
SIZES: dict[str, Any] = {
    "embedding": 64, "hidden": 64, "decoder": 128, "dropout": 0.2, "learning_rate": 2e-3,
    "batch_size": 8,
}  # fmt: skip
SHORT, LONG = 12, 30  # epochs
PATIENCE = 8  # of the long trainings
SEEDS = (1, 2, 3)
# Flowcharts whose dialogues the training on the others never sees.
HELD_OUT = ("brake_problem", "ticking", "wireless")
# What is trained where: on new flowcharts the question is what the encoders read.
TRAINED = {
    "flodial": ("disentangled", "scheduled", "context", "fused", "postks"),
    "flodial-held-out": ("disentangled", "scheduled", "states", "states-scheduled"),
    "survey": ("disentangled", "scheduled", "context", "fused", "match", "postks", "states"),
    "kdconv": ("disentangled", "scheduled", "context", "fused"),
}
_STATES = {"variant": "disentangled", "embeddings": "states"}
PARAMS: dict[str, dict[str, Any]] = {
    "disentangled": {"variant": "disentangled"},
    "scheduled": {"variant": "disentangled", "history": "scheduled"},
    "context": {"variant": "context"},
    "fused": {"variant": "fused"},
    "match": {"variant": "disentangled", "match": True},
    "postks": {"supervision": 1.0},
    "states": _STATES,
    "states-scheduled": {**_STATES, "history": "scheduled"},
}
LIKELIHOOD_TURNS = 150  # of each test part: every turn takes a pass over all its candidates


@dataclass(frozen=True)
class Job:
    """One selector on one data set.

    Attributes
    ----------
    data, selector : str
    params : dict
        Of a trained selector, and the epochs to evaluate it after.
    seed : int
        0 for selectors without training.
    """

    data: str
    selector: str
    params: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def name(self) -> str:
        """What the cache calls it."""
        return f"{self.data}-{self.selector}" + (f"-seed{self.seed}" if self.seed else "")


# ---- data ----


def load_data(name: str, flodial: str | None) -> dialog.DialogueSet:
    """One of the data sets."""
    if name == "survey":
        return dialog.read_dialogues(HERE / "data" / "ask_the_survey").shuffled()
    if name == "kdconv":
        return dialog.read_dialogues(HERE / "data" / "kdconv")
    if flodial is None:
        raise SystemExit(f"{name} needs --flodial FOLDER")
    folder = Path(flodial)
    found = dialog.read_unified_dialogues(
        {
            "train": folder / "flodial.train.jsonl",
            "valid": folder / "flodial.valid.jsonl",
            "test_seen": folder / "flodial.test.jsonl",
        }
    )
    return found.hold_out(HELD_OUT) if name == "flodial-held-out" else found


def data_digest(data: dialog.DialogueSet) -> str:
    """Changes when the dialogues do."""
    total = hashlib.sha256()
    for one in data:
        total.update(json.dumps(asdict(one), sort_keys=True).encode())
    return total.hexdigest()


# ---- jobs ----


def jobs_of(data: str) -> list[Job]:
    """What is run on a data set, the trainings that matter most first."""
    trained = [Job(data, name, PARAMS[name], seed) for seed in SEEDS for name in TRAINED[data]]
    plain = [Job(data, name) for name in ("random", "same", "tfidf", "bm25", "bm25-unused")]
    if data != "kdconv":  # the language model that comes with km speaks English
        plain += [Job(data, "mean-pooled"), Job(data, "likelihood")]
    return [*plain[:5], *trained, *plain[5:]]


@functools.cache
def language_model() -> km.Model:
    """The one that comes with km; trainings of one process share the states of texts."""
    return km.load(threads=1)


def plain_selector(name: str) -> dialog.Selector:
    """A selector without training."""
    return {
        "mean-pooled": lambda: dialog.MeanPooled(language_model()),
        "likelihood": lambda: dialog.ResponseLikelihood(language_model()),
        "random": dialog.Random,
        "same": dialog.SameAsLast,
        "tfidf": dialog.TfIdf,
        "bm25": dialog.BM25,
        "bm25-unused": lambda: dialog.BM25(exclude_used=True),
    }[name]()


def run_job(job: Job, cache: Path, flodial: str | None) -> str:
    """Do a job unless the cache has it; what it says of itself in one line."""
    data = load_data(job.data, flodial)
    key = hashlib.sha256(
        json.dumps([asdict(job), SIZES, SHORT, LONG, PATIENCE, data_digest(data)]).encode()
    ).hexdigest()
    path = cache / f"{job.name}.json"
    if path.exists() and json.loads(path.read_bytes())["key"] == key:
        return f"{job.name}: there already"
    begun = time.monotonic()
    runs = trained_runs(job, data, cache / "checkpoints" / f"{job.name}-{key[:8]}") if (
        job.seed
    ) else {"": plain_run(job, data)}  # fmt: skip
    out = {"key": key, "job": asdict(job), "runs": runs, "km": km.__version__}
    out["seconds"] = round(time.monotonic() - begun, 1)
    with atomic_write(path) as file:
        file.write(json.dumps(out).encode())
    return f"{job.name}: {out['seconds']} s"


def plain_run(job: Job, data: dialog.DialogueSet) -> dict[str, Any]:
    """Evaluate a selector without training."""
    test = data.split("test_seen", "test_unseen")
    if job.selector == "likelihood":
        test = first_turns(test, LIKELIHOOD_TURNS)
    selector = plain_selector(job.selector).fit(data.split("train"))
    return as_json(selector.evaluate(test, progress=False))


def first_turns(test: dialog.DialogueSet, most: int) -> dialog.DialogueSet:
    """The first dialogues of each split, up to so many turns."""
    left = dict.fromkeys(("test_seen", "test_unseen"), most)
    chosen = []
    for one in test:
        if left[one.split] > 0:
            chosen.append(one.id)
            left[one.split] -= len(one.turns)
    wanted = set(chosen)
    return test.where(lambda one: one.id in wanted)


def trained_selector(
    job: Job, model: km.Model | None, epochs: int, patience: int | None
) -> dialog.DiffKS:
    """A selector that is yet to be trained."""
    rest: dict[str, Any] = {
        "model": model, "epochs": epochs, "patience": patience, "seed": job.seed, "threads": 1,
    }  # fmt: skip
    if job.selector == "postks":  # it has no decoder
        sizes = {name: value for name, value in SIZES.items() if name != "decoder"}
        return dialog.PostKS(**job.params, **sizes, **rest)
    return dialog.DiffKS(**job.params, **SIZES, **rest)


def trained_runs(job: Job, data: dialog.DialogueSet, folder: Path) -> dict[str, Any]:
    """Evaluate a trained selector after the short and after the long training.

    The long one goes on from a copy of the short one's end, so that what was stopped in the long
    one does not give the short one's place to later weights.
    """
    train, valid = data.split("train"), data.split("valid")
    test = data.split("test_seen", "test_unseen")
    model = language_model() if "embeddings" in job.params else None
    out = {}
    for label, epochs, patience in (("short", SHORT, None), ("long", LONG, PATIENCE)):
        selector = trained_selector(job, model, epochs, patience)
        begun = time.monotonic()
        if label == "long" and not (folder / label).exists():
            shutil.copytree(folder / "short", folder / label)
        selector.fit(train, valid, checkpoint=folder / label, progress=False)
        if selector.interrupted:
            raise KeyboardInterrupt
        out[label] = as_json(selector.evaluate(test, progress=False))
        out[label]["best_epoch"] = selector.best_epoch
        out[label]["curve"] = list(selector.curve.rows())
        out[label]["seconds"] = round(time.monotonic() - begun, 1)
    return out


def as_json(found: dialog.SelectionEvaluation) -> dict[str, Any]:
    """The rows of an evaluation by column."""
    names = ("history", "dialogue", "split", "turn", "gold", "correct", "accepted")
    return {"rows": {name: list(found.rows[name]) for name in names}}


def _work(arguments: tuple[Job, Path, str | None]) -> str:
    return run_job(*arguments)


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description="Selectors on dialogues; see the head of the file")
    parser.add_argument("--cache", required=True, help="folder of finished jobs")
    parser.add_argument("--flodial", help="folder with FloDial's unified files")
    parser.add_argument("--workers", type=int, default=1, help="jobs at a time, one thread each")
    parser.add_argument("--only", help="jobs whose name contains this")
    parser.add_argument("--write", action="store_true", help="write the page, run nothing")
    given = parser.parse_args()
    cache = Path(given.cache)
    cache.mkdir(parents=True, exist_ok=True)
    sets = ["survey", "kdconv"]
    if given.flodial:
        sets = ["flodial", "flodial-held-out", *sets]
    listed = [job for name in sets for job in jobs_of(name)]
    if not given.write:
        # Seed by seed, so that a run that is stopped has something of everything; what takes a
        # pass of the language model for every candidate comes last.
        listed.sort(key=lambda job: (job.selector == "likelihood", job.seed))
        wanted = [job for job in listed if not given.only or given.only in job.name]
        work = [(job, cache, given.flodial) for job in wanted]
        with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
            for line in pool.imap_unordered(_work, work):
                print(line, file=sys.stderr, flush=True)
    if given.write or not given.only:
        from results_page import write_page

        print(write_page(cache, HERE / "RESULTS.md", (job.name for job in listed)), file=sys.stderr)


if __name__ == "__main__":
    main()
