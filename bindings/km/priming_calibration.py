"""What a priming study says beforehand of a new text: fit, prediction, refusal, validation.

A calibration is a linear model of log P_after of the probes on what can be measured before any
training, the log-probability of the keyword in the text and after each probe, with crossed random
intercepts for keyword, probe and text. It belongs to one model and one recipe of training. What is
forecast for a text is the mean of log P_after over its probes. docs/measures/forecast.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km.arguments import coverage
from km.errors import ArgumentError, FormatError
from km.priming_analysis import read_columns
from km.regression import fit_mixed, t_quantile
from km.result import canonical_json
from km.table import Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ids = NDArray[Any]

__all__ = ["Calibration", "calibrate", "recipe_hash"]

FORMAT = "km.forecast/1"
# How much better than a constant and than the keyword's frequency alone a forecast must be.
NEEDED_GAIN = 0.2
# Nats by which a mean may differ for the order in which it was summed.
ROUNDING = 1e-6
# Keywords and themes that leaving one out needs.
MIN_KEYWORDS, MIN_THEMES = 6, 3
QUANTITIES = {
    "logp_keyword": "the log-probability of the keyword in the text",
    "logp_probes": "the mean log-probability of the keyword after the probes",
}
RIVALS = ("constant", "frequency", "no_change")


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a recipe of training."""
    return hashlib.sha256(canonical_json(recipe).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Predictor:
    """A fitted mixed model as far as forecasts need it.

    Attributes
    ----------
    names : tuple of str
        Fixed effects after the intercept.
    coefficients, covariance
        Of all fixed effects, the intercept first.
    group_variance : float
        Of keyword and text together: one draw of each for a new text.
    row_variance : float
        Of probe and residual together: shared out among the probes.
    df : float
    """

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    group_variance: float
    row_variance: float
    df: float

    def predict(
        self, values: Sequence[float], n_probes: int, confidence: float
    ) -> tuple[float, float, float]:
        """Forecast and interval of the mean over probes, from the fixed effects' values."""
        x = [1.0, *values]
        mean = sum(a * b for a, b in zip(x, self.coefficients, strict=True))
        variance = self.group_variance + self.row_variance / n_probes
        for a, row in zip(x, self.covariance, strict=True):
            variance += a * sum(b * c for b, c in zip(x, row, strict=True))
        half = t_quantile((1 + confidence) / 2, self.df) * math.sqrt(variance)
        return mean, mean - half, mean + half


@dataclass(frozen=True)
class Calibration:
    """A forecast's model, for one language model and one recipe of training.

    Attributes
    ----------
    model : dict
        name, precision and fingerprint.
    recipe : dict
        How texts were learned; `recipe_hash` is its SHA-256.
    keyword_tokens : {"joint", "first"}
    confidence : float
        Coverage that intervals aim at.
    predictor : Predictor
    ranges : dict
        Least and largest value of each quantity in the study; others are refused.
    n_texts, n_keywords, n_rows : int
    validation : dict
        Scheme (keyword, theme) to forecast and rivals, each with interval score, width, coverage
        and coverage by tercile of the keyword's log-probability.
    """

    model: dict[str, Any]
    recipe: dict[str, Any]
    keyword_tokens: str
    confidence: float
    predictor: Predictor
    ranges: dict[str, tuple[float, float]]
    n_texts: int
    n_keywords: int
    n_rows: int
    validation: dict[str, dict[str, dict[str, Any]]]

    @property
    def recipe_hash(self) -> str:
        """SHA-256 (hex) of the recipe."""
        return recipe_hash(self.recipe)

    @property
    def better(self) -> bool:
        """Whether forecasts beat a constant and the frequency by 20 %, left out either way."""
        gains = [self.gain(scheme, rival) for scheme in self.validation for rival in RIVALS[:2]]
        return len(self.validation) == 2 and all(gain >= NEEDED_GAIN for gain in gains)

    def gain(self, scheme: str, rival: str) -> float:
        """Share by which the interval score is better than a rival's; negative: worse."""
        own = self.validation[scheme]
        return float(1 - own["forecast"]["score"] / own[rival]["score"])

    def outside(self, logp_keyword: float, logp_probes: float) -> str | None:
        """Why a forecast is refused: which quantity is outside which range; None: it is not."""
        given = {"logp_keyword": logp_keyword, "logp_probes": logp_probes}
        for name, value in given.items():
            low, high = self.ranges[name]
            if not low - ROUNDING <= value <= high + ROUNDING:
                return (
                    f"{QUANTITIES[name]} is {value:.2f} nats; the study's texts have {low:.2f} to "
                    f"{high:.2f}"
                )
        return None

    def predict(
        self, logp_keyword: float, logp_probes: float, n_probes: int
    ) -> tuple[float, float, float]:
        """Forecast of the mean log P_after over the probes, and its interval, nats.

        Raises
        ------
        ArgumentError
            A quantity is outside the range of the study.
        """
        problem = self.outside(logp_keyword, logp_probes)
        if problem is not None:
            raise ArgumentError(f"no forecast: {problem}")
        return self.predictor.predict((logp_keyword, logp_probes), n_probes, self.confidence)

    def describe(self) -> list[str]:
        """What these forecasts are worth, in plain words."""
        return list(_say(self))

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The calibration as JSON; also written to `path`, where one is given."""
        text = json.dumps(
            {"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True, allow_nan=False
        )
        text += "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `to_json` wrote.

        Raises
        ------
        FormatError
            It is something else.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"{path} is no text ({error})") from None
        return parse(text, os.fspath(path))


def parse(text: str, name: str) -> Calibration:
    """A calibration from its JSON; `name` is for messages."""
    try:
        data = json.loads(text)
        if data.pop("format") != FORMAT:
            raise KeyError("format")
        fitted = data.pop("predictor")
        fitted["covariance"] = tuple(tuple(row) for row in fitted["covariance"])
        fitted |= {key: tuple(fitted[key]) for key in ("names", "coefficients")}
        ranges = {key: (float(low), float(high)) for key, (low, high) in data["ranges"].items()}
        if set(ranges) != set(QUANTITIES) or len(fitted["coefficients"]) != 1 + len(QUANTITIES):
            raise KeyError("ranges")
        return Calibration(**{**data, "predictor": Predictor(**fitted), "ranges": ranges})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{name} is not a forecast's calibration ({error!r})") from None


# ---- rows ----


@dataclass(frozen=True)
class _Rows:
    """Rows of the learned arm as arrays; frequency is one value a keyword."""

    text: Ids
    keyword: Ids
    theme: Ids
    probe: Ids
    x: Floats
    before: Floats
    after: Floats
    frequency: Floats

    def part(self, keep: NDArray[Any]) -> _Rows:
        """The rows that are kept."""
        return _Rows(**{name: values[keep] for name, values in vars(self).items()})


def _read(table: Table | Mapping[str, Sequence[Any]]) -> _Rows:
    import numpy as np

    names = ("text", "keyword", "theme", "probe", "arm", "same_theme")
    text, value = read_columns(table, names)
    finite = np.all([np.isfinite(v) for v in value.values()], axis=0)
    learned = finite & (text["arm"] == "learned")
    own = learned & text["same_theme"].astype(bool)
    frequency = np.zeros(len(own))
    for keyword in np.unique(text["keyword"][own]):
        mine = learned & (text["keyword"] == keyword)
        elsewhere = mine & ~own
        frequency[mine] = value["logp_before"][elsewhere if elsewhere.any() else mine].mean()
    return _Rows(
        text["text"][own],
        text["keyword"][own],
        text["theme"][own],
        text["probe"][own],
        value["logp_keyword_before"][own],
        value["logp_before"][own],
        value["logp_after"][own],
        frequency[own],
    )


@dataclass(frozen=True)
class _Text:
    """What is known of a text before, and what came of it."""

    keyword: str
    x: float
    before: float
    frequency: float
    n_probes: int
    after: float


def _texts(rows: _Rows) -> list[_Text]:
    import numpy as np

    out = []
    for text in np.unique(rows.text):
        own = rows.part(rows.text == text)
        out.append(
            _Text(
                str(own.keyword[0]),
                float(own.x[0]),
                float(own.before.mean()),
                float(own.frequency[0]),
                len(own.text),
                float(own.after.mean()),
            )
        )
    return out


# ---- fit ----


def calibrate(
    table: Table | Mapping[str, Sequence[Any]],
    *,
    model: Mapping[str, Any],
    recipe: Mapping[str, Any],
    keyword_tokens: str = "joint",
    confidence: float = 0.9,
) -> Calibration:
    """Fit a forecast to the rows of a priming study and validate it.

    Parameters
    ----------
    table : Table or mapping of column name to values
        As :func:`km.priming_analysis.analyse` takes it, with `theme`; only the arm "learned" is
        used, other themes' probes for the keyword's frequency alone.
    model : mapping
        As ``Model.describe()`` gives it.
    recipe : mapping
        The study's.
    keyword_tokens : {"joint", "first"}
    confidence : float

    Raises
    ------
    ArgumentError
        A column is missing, or there are fewer than six keywords or three themes.
    """
    import numpy as np

    coverage(confidence)
    rows = _read(table)
    for name, least, ids in (
        ("keywords", MIN_KEYWORDS, rows.keyword),
        ("themes", MIN_THEMES, rows.theme),
    ):
        if len(np.unique(ids)) < least:
            raise ArgumentError(
                f"a forecast needs a study of at least {least} {name}; there are "
                f"{len(np.unique(ids))}"
            )
    texts = _texts(rows)
    x, before = [text.x for text in texts], [text.before for text in texts]
    return Calibration(
        {key: model.get(key) for key in ("name", "precision", "fingerprint")},
        dict(recipe),
        keyword_tokens,
        confidence,
        _fit_forecast(rows),
        {"logp_keyword": (min(x), max(x)), "logp_probes": (min(before), max(before))},
        len(texts),
        len(np.unique(rows.keyword)),
        len(rows.text),
        {
            "keyword": _validate(rows, rows.keyword, confidence),
            "theme": _validate(rows, rows.theme, confidence),
        },
    )


def _fit(rows: _Rows, fixed: Mapping[str, Floats], y: Floats) -> Predictor:
    import numpy as np

    groups = {"keyword": rows.keyword, "probe": rows.probe, "text": rows.text}
    found = fit_mixed(y, fixed, groups)
    return Predictor(
        found.names[1:],
        tuple(found.coefficients.tolist()),
        tuple(tuple(row) for row in found.covariance.tolist()),
        found.variances["keyword"] + found.variances["text"],
        found.variances["probe"] + found.residual,
        float(max(1, len(np.unique(rows.keyword)) - 1 - len(fixed))),
    )


def _fit_forecast(rows: _Rows) -> Predictor:
    return _fit(rows, {"logp_keyword": rows.x, "logp_probes": rows.before}, rows.after)


# What each forecast is fitted to, and how it speaks of a text.
_Forecast = tuple[
    Callable[[_Rows], Predictor],
    Callable[[Predictor, _Text, float], tuple[float, float, float]],
]


def _forecasts() -> dict[str, _Forecast]:
    def shifted(fit: Predictor, text: _Text, level: float) -> tuple[float, float, float]:
        mean, low, high = fit.predict((), text.n_probes, level)
        return mean + text.before, low + text.before, high + text.before

    return {
        "forecast": (
            _fit_forecast,
            lambda fit, text, level: fit.predict((text.x, text.before), text.n_probes, level),
        ),
        "constant": (
            lambda rows: _fit(rows, {}, rows.after),
            lambda fit, text, level: fit.predict((), text.n_probes, level),
        ),
        "frequency": (
            lambda rows: _fit(rows, {"frequency": rows.frequency}, rows.after),
            lambda fit, text, level: fit.predict((text.frequency,), text.n_probes, level),
        ),
        "no_change": (lambda rows: _fit(rows, {}, rows.after - rows.before), shifted),
    }


def _validate(rows: _Rows, left_out: Ids, confidence: float) -> dict[str, dict[str, Any]]:
    """Forecast and rivals on texts of groups that were left out of their fits."""
    import numpy as np

    out = {}
    for name, (fit, predict) in _forecasts().items():
        seen: list[tuple[_Text, float, float]] = []
        for group in np.unique(left_out):
            fitted = fit(rows.part(left_out != group))
            for text in _texts(rows.part(left_out == group)):
                _, low, high = predict(fitted, text, confidence)
                seen.append((text, low, high))
        out[name] = _judge(seen, confidence)
    return out


def _judge(seen: Sequence[tuple[_Text, float, float]], confidence: float) -> dict[str, Any]:
    """Interval score, width and coverage; keywords count the same however many texts they have."""
    import numpy as np

    after = np.array([text.after for text, _, _ in seen])
    low, high = np.array([(a, b) for _, a, b in seen]).T
    x = np.array([text.x for text, _, _ in seen])
    keywords = np.array([text.keyword for text, _, _ in seen])
    misses = np.maximum(low - after, 0) + np.maximum(after - high, 0)
    scores = (high - low) + 2 / (1 - confidence) * misses
    inside = (low <= after) & (after <= high)
    cuts = np.quantile(x, [1 / 3, 2 / 3])
    parts = [x <= cuts[0], (x > cuts[0]) & (x <= cuts[1]), x > cuts[1]]

    def mean(values: Any) -> float:
        return float(np.mean([values[keywords == k].mean() for k in np.unique(keywords)]))

    return {
        "score": mean(scores),
        "width": mean(high - low),
        "coverage": mean(inside),
        "terciles": [float(inside[part].mean()) if part.any() else None for part in parts],
    }


# ---- words ----


def _say(found: Calibration) -> Iterator[str]:
    share = f"{100 * found.confidence:.0f} %"
    yield (
        f"Exploratory: fitted to {found.n_texts} texts with {found.n_keywords} keywords, learned "
        f"by {found.model['name']} ({found.model['precision']}) with the recipe "
        f"{found.recipe_hash[:12]}; it says nothing of other models, recipes or kinds of words."
    )
    for scheme, results in found.validation.items():
        own = results["forecast"]
        terciles = ", ".join("–" if c is None else f"{100 * c:.0f} %" for c in own["terciles"])
        gains = ", ".join(
            f"{100 * found.gain(scheme, rival):+.0f} % against {rival.replace('_', ' ')}"
            for rival in RIVALS
        )
        yield (
            f"Leaving one {scheme} out: {share} intervals are {own['width']:.2f} nats wide and "
            f"hold {100 * own['coverage']:.0f} % of texts ({terciles} by tercile of the keyword's "
            f"probability, lowest first); interval score {own['score']:.2f}, gain {gains}."
        )
    if not found.better:
        yield (
            "These forecasts are no better: the interval score is not 20 % better than both a "
            "constant's and the keyword's frequency alone, leaving keywords and themes out."
        )
    if any(found.gain(scheme, "no_change") <= 0 for scheme in found.validation):
        yield "Saying that every keyword changes by the same amount would do as well."
