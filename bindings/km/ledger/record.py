"""From a finished measure to verdicts: units of runs, automatic freezing, corrections."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from km.ledger.book import Basis, freeze, judge
from km.ledger.figures import READERS, Figure, figures
from km.ledger.predictions import Prediction, Unit, predictions
from km.ledger.verdicts import Verdict, Word, spoken_figures, verdict_word

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.result import Result

_KEY = re.compile(r"[0-9a-f]{64}")

# Parameters that say what is asked, under any measure.
_ASKED = (
    "relations", "facts", "texts", "text", "context", "keyword", "canaries", "references",
    "prompts", "targets", "n_facts", "n_texts",
)  # fmt: skip


def unit_of(provenance: Mapping[str, Any]) -> Unit | None:
    """The unit of a run, of what its provenance holds before it begins.

    The content keys among the parameters stand for the prompts, which they are made of; what names
    facts or texts for the facts; the seed and all other parameters are the recipe.

    Returns
    -------
    Unit or None
        None without a model.
    """
    model = provenance.get("model")
    if not model or not model.get("fingerprint"):
        return None
    keys: list[str] = []
    plain = {name: _without_keys(v, keys) for name, v in provenance["parameters"].items()}
    asked = {name: plain.pop(name) for name in _ASKED if name in plain}
    recipe = {
        "measure": provenance["measure"],
        "version": provenance["version"],
        "seed": provenance.get("seed"),
        "parameters": plain,
    }
    return Unit.of(model, prompts=sorted(set(keys)) or None, facts=asked or None, recipe=recipe)


def _without_keys(value: Any, keys: list[str]) -> Any:
    """The value without content keys, which are collected."""
    if isinstance(value, str) and _KEY.fullmatch(value):
        keys.append(value)
        return None
    if isinstance(value, Mapping):
        return {name: _without_keys(item, keys) for name, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_without_keys(item, keys) for item in value]
        return [item for item in items if item is not None]
    return value


@functools.cache
def _shipped() -> tuple[Prediction, ...]:
    return tuple(predictions())


def judged_by(measure: str) -> list[Prediction]:
    """The shipped predictions that a run of a measure gives verdicts on by itself."""
    known = READERS.get(measure, {})
    return [p for p in _shipped() if p.measure == measure and p.id in known]


def freeze_for_run(kb: KnowledgeBase, provenance: Mapping[str, Any]) -> None:
    """Freeze what a run that is about to begin gives verdicts on."""
    wanted = _acceptable(kb, judged_by(str(provenance["measure"])))
    unit = unit_of(provenance) if wanted else None
    if unit is not None:
        freeze(kb, wanted, unit)


def _acceptable(kb: KnowledgeBase, wanted: Iterable[Prediction]) -> list[Prediction]:
    """Predictions that the base's taxonomy has a place for, and that did not change in it."""
    rows = kb.sql("SELECT measure, node FROM measure_nodes")
    places = set(zip(rows["measure"], rows["node"], strict=True))
    known = kb.sql("SELECT id, version, digest FROM predictions")
    digests = {(row["id"], row["version"]): row["digest"] for row in known.rows()}
    out = []
    for prediction in wanted:
        name = (prediction.id, prediction.version)
        if digests.get(name, prediction.digest) != prediction.digest:
            warnings.warn(
                f"{kb.path} has another prediction {name[0]!r} of version {name[1]} than this km: "
                "this one is not judged",
                stacklevel=2,
            )
        elif all((prediction.measure, node) in places for node in prediction.nodes):
            out.append(prediction)
    return out


def judge_result(kb: KnowledgeBase | None, result: Result, run: int | None = None) -> list[Verdict]:
    """What a finished measure's result says of the shipped predictions about it.

    Parameters
    ----------
    kb : KnowledgeBase or None
        Where it is recorded; :meth:`KnowledgeBase.record` calls this. None: nothing is recorded.
    result : Result
    run : int, optional
        Its run; None: the result's own.

    Returns
    -------
    list of Verdict
        Of predictions that the result has the figures for. Predictions frozen for this unit before
        the run began, as every run begun in a knowledge base does by itself, have basis "before";
        others count as fixed by km's release, and say so.
    """
    wanted = judged_by(result.measure)
    unit = unit_of(result.provenance)
    if not wanted or unit is None:
        return []
    number = getattr(result, "run", None) if run is None else run
    if kb is not None:
        wanted = _acceptable(kb, wanted)
    found = figures(result, wanted)
    adjusted = adjust(wanted, found)
    rows = "" if kb is None else rows_of_run(number)
    command = result.provenance.get("command")
    out = []
    for prediction in wanted:
        figure = found.get(prediction.id)
        if figure is None:
            continue
        basis = _basis(kb, number, prediction, unit)
        if basis == "release":
            freeze(kb, [prediction], unit, basis=basis)
        options: dict[str, Any] = {
            **{name: getattr(figure, name) for name in ("estimate", "low", "high", "n")},
            "p_value": adjusted.get(prediction.id),
            "rows": rows,
            "command": command,
            "basis": basis,
        }
        out.append(judge(kb, number, prediction, unit, **options))
    return out


def words(result: Result) -> dict[str, tuple[Word, str]]:
    """The word of each shipped prediction that a result has the figures for, and those figures."""
    wanted = judged_by(result.measure)
    found = figures(result, wanted)
    adjusted = adjust(wanted, found)
    out: dict[str, tuple[Word, str]] = {}
    for prediction in wanted:
        if prediction.id in found:
            estimate, low, high, n, _ = found[prediction.id]
            p = adjusted.get(prediction.id)
            word = verdict_word(prediction, estimate, low, high, n, p)
            out[prediction.id] = word, spoken_figures(prediction, estimate, low, high, n, p)
    return out


def sentences(result: Result) -> list[str]:
    """The words of a result on the shipped predictions, with their statements and figures."""
    known = {prediction.id: prediction.statement for prediction in judged_by(result.measure)}
    return [
        f"{word.capitalize()}, {id}: {known[id]} {said}."
        for id, (word, said) in words(result).items()
    ]


def rows_of_run(run: int | None) -> str:
    """The question whose answer is what a run measured."""
    return (
        "SELECT m.data FROM run_chunks AS c JOIN measurements AS m ON m.chunk = c.chunk "
        f"WHERE c.run = {run}"
    )


def adjust(wanted: Iterable[Prediction], found: Mapping[str, Figure]) -> dict[str, float]:
    """Adjusted p of the predictions of one result: Holm's for confirmatory ones, else BH's."""
    from km import stats

    out: dict[str, float] = {}
    for family, method in (
        ("confirmatory", stats.holm),
        ("exploratory", stats.benjamini_hochberg),
    ):
        tested = {
            p.id: figure.p
            for p in wanted
            if p.family == family
            and (figure := found.get(p.id)) is not None
            and figure.p is not None
            and figure.n >= p.minimum_n
        }
        if tested:
            values = method(list(tested.values())).tolist()
            out |= dict(zip(tested, values, strict=True))
    return out


def _basis(kb: KnowledgeBase | None, run: int | None, prediction: Prediction, unit: Unit) -> Basis:
    """Whether the prediction was frozen for this unit before the run and its rows."""
    if kb is None:
        return "release"
    early = kb.sql(
        "SELECT 1 FROM freezings AS f JOIN runs AS r ON r.id = :run WHERE f.prediction = :p"
        " AND f.unit = :u AND f.basis = 'before' AND f.frozen <= r.started AND NOT EXISTS ("
        "  SELECT 1 FROM run_chunks AS rc JOIN chunks AS c ON c.id = rc.chunk"
        "  WHERE rc.run = r.id AND c.stored < f.frozen)",
        {"run": run, "p": prediction.digest, "u": unit.digest},
    )
    return "before" if len(early) else "release"
