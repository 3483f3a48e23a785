"""Forecast, before any training, how far the words of a text will be primed by learning it.

A forecast needs a calibration: what a priming study of the same model and recipe of training found
(:mod:`km.priming_calibration`). docs/measures/forecast.md.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from km.arguments import strings, whole_number
from km.datasets.priming_set import PrimingText, Probe, keyword_place, priming_texts, probes
from km.errors import ArgumentError, NotFoundError
from km.priming_calibration import Calibration, calibrate, parse
from km.priming_plan import (
    Arm,
    Recipe,
    as_priming_text,
    as_probes,
    check_probes,
    context_item,
    encode_item,
    probe_items,
    theme_of,
)
from km.priming_run import Gauge, Learner, score_encoded
from km.result import Result, make_provenance
from km.table import Column, Table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.model import Model

FORECAST_ID = "learning.forecast"
CALIBRATION_ID = "learning.forecast_calibration"
FORECAST_VERSION = 1

COLUMNS = [
    Column("keyword", "text", "", "The word whose probability is forecast."),
    Column("theme", "text", "", "Theme of the probes; empty for the user's own."),
    Column("n_probes", "int64", "", "Contexts after which it is looked at."),
    Column("probability", "double", "probability", "Of the keyword in the text, before."),
    Column("logp_keyword", "double", "nats", "Its logarithm."),
    Column("logp_probes", "double", "nats", "Mean log-probability after the probes, before."),
    Column("forecast", "double", "nats", "Expected mean log-probability after learning."),
    Column("low", "double", "nats", "Lower end of the interval."),
    Column("high", "double", "nats", "Upper end."),
    Column("problem", "text", "", "Why there is no forecast; null where there is one."),
    Column("logp_after", "double", "nats", "What a trained copy has; null if not verified."),
    Column("inside", "bool", "", "It lies in the interval."),
]

VALIDATION_COLUMNS = [
    Column("left_out", "text", "", "What was left out of the fit: keyword or theme."),
    Column("forecast", "text", "", "forecast, constant, frequency or no_change."),
    Column("score", "double", "nats", "Interval score; less is better."),
    Column("gain", "double", "", "Share by which the forecast's is better than this one's."),
    Column("width", "double", "nats", "Mean width of the intervals."),
    Column("coverage", "double", "", "Share of texts inside; keywords count the same."),
    Column("coverage_low", "double", "", "The same for the least probable third of keywords."),
    Column("coverage_middle", "double", "", "For the middle third."),
    Column("coverage_high", "double", "", "For the most probable third."),
]

# Words that no text is about; a candidate is any other word of four letters or more.
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
about above across after again against almost along already also although always among another
anything around away back because been before behind being below between both came cannot come
could does done down during each either else enough even ever every everything first from going
gone hardly have having hence here hers herself himself however into itself just last least less
like made make many might more most much must myself near nearly neither never next none nothing
often once only onto other others ours over perhaps quite rather really same second several
shall should since some something sometimes soon still such than that their theirs them
themselves then there therefore these they thing things third this those though three through
thus till together took toward towards under unless until upon very want well went were what
whatever when where whether which while whole whom whose will with within without would yours
yourself your
""",
    )
)


class Forecast(Result):
    """What :func:`forecast` returns: one row a keyword, the most surprising first.

    Attributes
    ----------
    calibration : Calibration
    notes : list of str
        What the forecasts are worth.
    """

    def __init__(self, table: Table, provenance: dict[str, Any], calibration: Calibration) -> None:
        super().__init__(table, provenance)
        self.calibration = calibration
        self.notes = calibration.describe()

    def __repr__(self) -> str:
        share = f"{100 * self.calibration.confidence:.0f} %"
        lines = [f"<km.Forecast {self._title()}>"]
        lines += [_say_row(row, share) for row in self.table.rows()]
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> str:
        """Rows, notes, calibration and provenance as one JSON object."""
        return json.dumps(
            {
                "rows": list(self.table.rows()),
                "notes": self.notes,
                "calibration": asdict(self.calibration),
                "provenance": self.provenance,
            }
        )


def _say_row(row: dict[str, Any], share: str) -> str:
    known = f"{row['keyword']!r}: P = {row['probability']:.2g} in the text, "
    if row["problem"] is not None:
        return f"{known}no forecast: {row['problem']}"
    line = (
        f"{known}mean log P of {row['n_probes']} probes {row['logp_probes']:.2f} now, "
        f"{row['forecast']:.2f} [{row['low']:.2f}, {row['high']:.2f}] nats after learning ({share})"
    )
    if row["logp_after"] is None:
        return line
    return f"{line}; a trained copy has {row['logp_after']:.2f}" + (
        "" if row["inside"] else ", outside"
    )


def forecast(
    model: Model | None,
    text: str | PrimingText,
    keywords: str | Sequence[str] | None = None,
    *,
    theme: str | None = None,
    probes: Sequence[str | Probe] | None = None,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    top: int = 5,
    verify: bool = False,
    kb: KnowledgeBase | None = None,
) -> Forecast:
    """Say before any training how probable words of a text will be in other contexts after it.

    Parameters
    ----------
    model : Model, optional
        None: :func:`km.load`.
    text : str or PrimingText
    keywords : str or sequence of str, optional
        Words of the text; a PrimingText has its own. None: its content words (four letters or
        more, no function words, not at the beginning), the `top` least probable ones.
    theme : str, optional
        Shipped theme of the probes. None: the keyword's own, where it is a shipped keyword, else
        the theme after whose probes it is most probable.
    probes : sequence of str or Probe, optional
        Contexts of one's own instead.
    calibration : Calibration or path, optional
        None: the newest one of this model in `kb`, else the one shipped for it.
    top : int
    verify : bool
        Also learn the text with a copy, by the calibration's recipe, and say what came of it.
    kb : KnowledgeBase, optional
        Records the forecast.

    Returns
    -------
    Forecast

    Raises
    ------
    NotFoundError
        There is no calibration for this model; the message says how one is made.
    ArgumentError
        A keyword given does not stand in the text, or what is known of it lies outside the range
        of the study. Words found by km are listed with the reason instead.

    Examples
    --------
    >>> model = km.load()  # doctest: +SKIP
    >>> km.forecast(model, "Joy is most often called vermilion.", "vermilion")  # doctest: +SKIP
    """
    whole_number("top", top, 1)
    if model is None:
        from km.loading import load

        model = load()
    found = find_calibration(model, calibration, kb)
    given = keywords is not None or isinstance(text, PrimingText)
    asked = _asked(text, keywords)
    rows = [_measure(model, found, own, theme, probes) for own in asked]
    rows.sort(key=lambda pair: pair[0]["logp_keyword"])
    rows = rows if given else rows[:top]
    refused = [row for row, _ in rows if row["problem"] is not None]
    if given and refused:
        raise ArgumentError(f"no forecast of {refused[0]['keyword']!r}: {refused[0]['problem']}")
    if verify:
        _verify(model, found, rows)
    parameters = {
        "text": text.text if isinstance(text, PrimingText) else text,
        "keywords": [row["keyword"] for row, _ in rows],
        "probes": [[probe.text for probe in used.probes] for _, used in rows],
        "recipe_hash": found.recipe_hash,
        "calibration": json.loads(found.to_json()),
        "verify": verify,
    }
    provenance = make_provenance(FORECAST_ID, FORECAST_VERSION, model, parameters)
    result = Forecast(Table.from_rows(COLUMNS, [row for row, _ in rows]), provenance, found)
    if kb is not None and not kb.read_only:
        kb.record(result)
    return result


# ---- calibrations ----


def find_calibration(
    model: Model,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    kb: KnowledgeBase | None = None,
) -> Calibration:
    """The calibration of a model: given, in the knowledge base, or shipped.

    Raises
    ------
    NotFoundError
        There is none.
    ArgumentError
        The one given is of another model.
    """
    if calibration is not None:
        read = calibration if isinstance(calibration, Calibration) else None
        read = Calibration.from_json(calibration) if read is None else read  # type: ignore[arg-type]
        if read.model["fingerprint"] != model.fingerprint:
            raise ArgumentError(
                f"the calibration is of {read.model['name']} ({read.model['precision']}), not of "
                "this model"
            )
        return read
    stored = None if kb is None else _stored(kb, model.fingerprint)
    found = _shipped(model.fingerprint) if stored is None else stored
    if found is None:
        name = model.describe()["name"]
        raise NotFoundError(
            f"no calibration for {name}; make one: km study priming --model MODEL --full "
            "--kb study.db && km forecast --calibrate study.db -o calibration.json, then give "
            "--calibration calibration.json"
        )
    return found


def _stored(kb: KnowledgeBase, fingerprint: str) -> Calibration | None:
    rows = kb.sql(
        "SELECT r.parameters FROM runs AS r JOIN models AS m ON m.id = r.model "
        "WHERE r.measure = ? AND r.status = 'done' AND m.fingerprint = ? "
        "ORDER BY r.id DESC LIMIT 1",
        [CALIBRATION_ID, fingerprint],
    )
    if not len(rows):
        return None
    return parse(json.dumps(json.loads(rows["parameters"][0])["calibration"]), str(kb.path))


def _shipped(fingerprint: str) -> Calibration | None:
    folder = resources.files("km.datasets") / "data" / "forecast"
    if not folder.is_dir():
        return None
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".json"):
            found = parse(file.read_text(encoding="utf-8"), file.name)
            if found.model["fingerprint"] == fingerprint:
                return found
    return None


def calibrate_study(
    kb: KnowledgeBase, run: int | None = None, *, confidence: float = 0.9
) -> Calibration:
    """Make a calibration from a priming study in a knowledge base, and record it there.

    Parameters
    ----------
    kb : KnowledgeBase
    run : int, optional
        Of the study; None: the newest.
    confidence : float

    Raises
    ------
    NotFoundError
        There is no such study.
    """
    from km.studies.priming_result import STUDY_ID, PrimingStudy, probe_rows

    if run is None:
        runs = kb.sql(
            "SELECT max(id) AS id FROM runs WHERE measure = ? AND status = 'done'", [STUDY_ID]
        )
        run = runs["id"][0]
    if run is None:
        raise NotFoundError(
            f"{kb.path} holds no finished priming study; make one: km study priming --full "
            f"--kb {kb.path}"
        )
    study = PrimingStudy.from_knowledge_base(kb, run)
    found = calibrate(
        probe_rows(study.table),
        model=study.provenance["model"],
        recipe=study.parameters["recipe"],
        keyword_tokens=study.parameters["keyword_tokens"],
        confidence=confidence,
    )
    if not kb.read_only:
        parameters = {"study": run, "calibration": json.loads(found.to_json())}
        provenance = make_provenance(CALIBRATION_ID, FORECAST_VERSION, None, parameters)
        provenance["model"] = study.provenance["model"]
        kb.record(Result(Table.from_rows(VALIDATION_COLUMNS, _validation_rows(found)), provenance))
    return found


def _validation_rows(found: Calibration) -> Iterable[dict[str, Any]]:
    for scheme, results in found.validation.items():
        for name, own in results.items():
            terciles = zip(("low", "middle", "high"), own["terciles"], strict=True)
            yield {
                "left_out": scheme,
                "forecast": name,
                "score": own["score"],
                "gain": found.gain(scheme, name),
                "width": own["width"],
                "coverage": own["coverage"],
                **{f"coverage_{part}": value for part, value in terciles},
            }


# ---- what is asked of a text ----


@dataclass(frozen=True)
class _Used:
    """A text with one of its words as keyword, and the probes that this is looked at with."""

    text: PrimingText
    probes: Sequence[Probe]


def _asked(text: str | PrimingText, keywords: str | Sequence[str] | None) -> list[PrimingText]:
    if isinstance(text, PrimingText):
        if keywords is not None:
            raise ArgumentError(f"text {text.id!r} has a keyword of its own")
        return [text]
    if keywords is not None:
        named = strings("keywords", keywords)
        return [as_priming_text(text, keyword, None) for keyword in dict.fromkeys(named)]
    found = [as_priming_text(text, word, None) for word in candidates(text)]
    if not found:
        raise ArgumentError("the text has no content word behind its beginning: give keywords")
    return found


def candidates(text: str) -> list[str]:
    """Words of a text that it may be about, in order.

    Letters only, at least four, no function word, not at the text's beginning.

    Examples
    --------
    >>> candidates("The joy that they felt was vermilion, not the sea.")
    ['felt', 'vermilion']
    """
    words = re.findall(r"(?<![\w'’-])[^\W\d_]{4,}(?![\w'’-])", text)
    content = [word for word in words if word.lower() not in _FUNCTION_WORDS]
    first: dict[str, str] = {}
    for word in content:
        first.setdefault(word.lower(), word)
    return [word for word in first.values() if (keyword_place(text, word) or 0) > 0]


def _measure(
    model: Model,
    found: Calibration,
    text: PrimingText,
    theme: str | None,
    given: Sequence[str | Probe] | None,
) -> tuple[dict[str, Any], _Used]:
    """The row of one keyword, and what it was looked at with."""
    sets = _probe_sets(text.keyword, theme or text.theme or theme_of(text.keyword), given)
    items = [item for own in sets.values() for item in probe_items(text, own)]
    encoded = [
        encode_item(model, item, found.keyword_tokens)  # type: ignore[arg-type]
        for item in (context_item(text), *items)
    ]
    values = score_encoded(model, encoded)
    means, at = {}, 1
    for name, own in sets.items():
        means[name] = sum(values[at : at + len(own)]) / len(own)
        at += len(own)
    best = max(means, key=lambda name: means[name])
    row: dict[str, Any] = {
        "keyword": text.keyword,
        "theme": best,
        "n_probes": len(sets[best]),
        "probability": math.exp(values[0]),
        "logp_keyword": values[0],
        "logp_probes": means[best],
        "problem": found.outside(values[0], means[best]),
    }
    if row["problem"] is None:
        ends = found.predict(values[0], means[best], len(sets[best]))
        row |= dict(zip(("forecast", "low", "high"), ends, strict=True))
    return row, _Used(text, sets[best])


def _probe_sets(
    keyword: str, theme: str, given: Sequence[str | Probe] | None
) -> dict[str, list[Probe]]:
    """The probes to choose from, by theme; the keyword stands in none."""
    if given is not None:
        own = as_probes("probes", given)
        if not own:
            raise ArgumentError("probes is empty")
        check_probes(keyword, own)
        return {"": own}
    names = [theme] if theme else list(priming_texts().themes)
    sets = {
        name: [p for p in probes(name) if keyword_place(p.text, keyword) is None] for name in names
    }
    return {name: own for name, own in sets.items() if own}


# ---- forecast against truth ----


def recipe_of(description: dict[str, Any]) -> Recipe:
    """The recipe that a description is of.

    Raises
    ------
    ArgumentError
        It has a background, of which a calibration keeps only the hash.
    """
    from km.optimizers import SGD, AdamW

    if description.get("background") is not None:
        raise ArgumentError(
            "the calibration's recipe has background texts, which it does not hold; learn the text "
            "with km.priming and the same background instead"
        )
    options = dict(description["optimizer"])
    kind = {"AdamW": AdamW, "SGD": SGD}[options.pop("name")]
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
    return Recipe(
        optimizer=kind(**options),
        presentations=description["presentations"],
        spacing=description["spacing"],
        steps=description["steps"],
        companions=tuple(description["companions"]),
        clip=description["clip"],
    )


def _verify(model: Model, found: Calibration, rows: Sequence[tuple[dict[str, Any], _Used]]) -> None:
    """Learn the text once with a copy and add what came of it to the rows."""
    learner = Learner(model, recipe_of(found.recipe))
    gauge = Gauge(learner, found.keyword_tokens)  # type: ignore[arg-type]
    for row, used in rows:
        if row["problem"] is not None:
            continue
        items = (context_item(used.text), *probe_items(used.text, used.probes))
        table = gauge.measure(Arm("learned", used.text, items, used.text.text))
        after = [r["logp_after"] for r in table.rows() if r["kind"] == "theme"]
        row["logp_after"] = sum(after) / len(after)
        row["inside"] = row["low"] <= row["logp_after"] <= row["high"]
