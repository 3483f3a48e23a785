"""Priming: how far the keyword of one learned text leaks into contexts that do not know it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from km.arguments import need, strings
from km.chunk_work import ChunkWork, counted
from km.datasets import priming_set
from km.datasets.priming_set import (
    PrimingText,
    Probe,
    control_texts,
    keyword_place,
    neutral_texts,
    priming_texts,
    priming_theme,
)
from km.errors import ArgumentError, NotFoundError
from km.priming_plan import (
    IN_CONTEXT,
    PRIMING_ID,
    PRIMING_VERSION,
    Arm,
    Item,
    KeywordTokens,
    Recipe,
    as_priming_text,
    as_probes,
    check_probes,
    context_item,
    encode_item,
    neutral_items,
    probe_items,
)
from km.priming_run import Gauge, Learner, score_encoded
from km.progress import Progress, ProgressReporter
from km.result import ChunkedResult, make_provenance
from km.scores.priming import UNSTABLE, Scores, scores
from km.table import Column, Table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.model import Model
    from km.optimizers import SGD, AdamW
    from km.picture import Picture
    from km.pruning import Pruning

CONTROLS = ("keyword", "text")

# docs/decisions/0021-recipe-of-priming.md
LEARNING_RATE = 1e-4

ARM_COLUMNS = [
    Column("arm", "text", "", "What was done between before and after."),
    Column("log_s_mem", "double", "nats", "log P_after / P_before of the keyword in its text."),
    Column("logp_keyword_after", "double", "nats", "Of the keyword in its text, after."),
    Column("log_s_prime", "double", "nats", "Log of the mean ratio over probes."),
    Column(
        "log_s_prime_stable", "double", "nats", "Without unstable ratios; null if none is left."
    ),
    Column("mean_log_ratio", "double", "nats", "Mean log ratio over probes."),
    Column("median_log_ratio", "double", "nats", "Median log ratio over probes."),
    Column("mean_delta_p", "double", "probability", "Mean of P_after - P_before over probes."),
    Column("n", "int64", "probes", "Probes of the keyword's theme that count."),
    Column("n_dropped", "int64", "probes", "Left out: probability zero before and after."),
    Column("n_unstable", "int64", "probes", "Of those that count: P_before below 1e-10."),
    Column("other_themes", "double", "nats", "Mean log ratio over probes of other themes."),
    Column("neutral_loss", "double", "nats/token", "Rise of the loss of neutral sentences."),
]

CAUTION = (
    "log S_prime has P_before in its denominator, so it falls with P_before even where learning "
    "does nothing: compare arms, and across texts use the regression of km.studies.priming."
)


class Priming(ChunkedResult):
    """What :func:`priming` returns: one row an arm and probe.

    Attributes
    ----------
    arms : Table
        One row an arm: memorisation, priming, unstable denominators, unrelated text.
    chunks : list of (key, Table)
    notes : list of str
    evidence : list of dict
    """

    MEASURE_ID = PRIMING_ID

    def __init__(
        self,
        chunks: Sequence[tuple[str, Table]],
        provenance: dict[str, Any],
        run: int | None = None,
    ) -> None:
        super().__init__(chunks, provenance, run)
        rows = [list(table.rows()) for _, table in chunks]
        self._scores = {own[0]["arm"]: score_rows(own) for own in rows}
        self.arms = Table.from_rows(ARM_COLUMNS, [summarise(own) for own in rows])
        self.notes = _notes(self)
        self.evidence = _evidence(self)

    def scores(self, arm: str = "learned") -> Scores:
        """The scores of one arm, as :func:`km.scores.priming.scores` gives them.

        Raises
        ------
        NotFoundError
            That arm was not run.
        """
        if arm not in self._scores:
            raise NotFoundError(f"no arm {arm!r}; there are: {', '.join(self._scores)}")
        return self._scores[arm]

    @property
    def log_s_mem(self) -> float:
        """Log ratio of the keyword's probability in its own text, after to before, nats."""
        return self.scores().log_s_mem

    @property
    def s_mem(self) -> float:
        """The same as a ratio; infinite where it overflows."""
        return self.scores().s_mem

    @property
    def log_s_prime(self) -> float:
        """Log of the mean over probes of P_after / P_before, nats."""
        return self.scores().log_s_prime

    @property
    def mean_log_ratio(self) -> float:
        """Mean over probes of log P_after / P_before, nats."""
        return self.scores().mean_log_ratio

    @property
    def median_log_ratio(self) -> float:
        """Median over probes of log P_after / P_before, nats."""
        return self.scores().median_log_ratio

    @property
    def logp_keyword_before(self) -> float:
        """Log-probability of the keyword in its text before learning, nats."""
        return float(self.table["logp_keyword_before"][0])

    def draw(self, **options: Any) -> Picture:
        """Where the keyword leaked to, as a picture: :func:`km.draw.priming`."""
        from km import draw

        return draw.priming(self, **options)

    def __repr__(self) -> str:
        first = self.table.row(0)
        lines = [
            f"<km.Priming {self._title()}>",
            f"{first['keyword']!r} after its text: P = {math.exp(first['logp_before']):.3g} before",
            repr(self.arms),
        ]
        return "\n".join([*lines, *self.notes])


def score_rows(rows: Sequence[dict[str, Any]]) -> Scores:
    """Scores of the rows of one arm of one text, its context first."""
    probes = [row for row in rows if row["kind"] == "theme"]
    return scores(
        [row["logp_before"] for row in probes],
        [row["logp_after"] for row in probes],
        rows[0]["logp_before"],
        rows[0]["logp_after"],
    )


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One arm of one text as a row of ARM_COLUMNS."""
    found = score_rows(rows)
    others = [row["log_ratio"] for row in rows if row["kind"] == "other_theme"]
    neutral = [row for row in rows if row["kind"] == "neutral"]
    figures = {
        "log_s_mem": found.log_s_mem,
        "logp_keyword_after": rows[0]["logp_after"],
        "log_s_prime": found.log_s_prime,
        "log_s_prime_stable": found.log_s_prime_stable,
        "mean_log_ratio": found.mean_log_ratio,
        "median_log_ratio": found.median_log_ratio,
        "mean_delta_p": found.mean_delta_p,
        "other_themes": sum(others) / len(others) if others else None,
        "neutral_loss": neutral_rise(neutral),
    }
    return {
        "arm": rows[0]["arm"],
        "n": found.n,
        "n_dropped": found.n_dropped,
        "n_unstable": found.n_unstable,
        **{name: None if value is None or math.isnan(value) else value
           for name, value in figures.items()},
    }  # fmt: skip


def neutral_rise(rows: Sequence[dict[str, Any]]) -> float | None:
    """Rise of the mean loss a token over neutral sentences, nats; None without any."""
    n = sum(row["n_tokens"] for row in rows)
    return -sum(row["log_ratio"] for row in rows) / n if n else None


def _notes(result: Priming) -> list[str]:
    notes = []
    scores = result.scores()
    if scores.n_unstable:
        stable = result.arms.row(0)["log_s_prime_stable"]
        notes.append(
            f"{scores.n_unstable} of {scores.n} probes give the keyword a probability below "
            f"{UNSTABLE:g} before: their ratios are unstable. "
            + (f"Without them log S_prime is {stable:.3f}." if stable is not None
               else "Without them no probe is left.")
        )  # fmt: skip
    return [*notes, CAUTION]


def _evidence(result: Priming) -> list[dict[str, Any]]:
    arms = {row["arm"]: row for row in result.arms.rows()}
    control = arms.get("keyword_control", {}).get("mean_log_ratio")
    return [
        {
            "node": "priming-spread",
            "measure": PRIMING_ID,
            "statistic": "mean_log_ratio",
            "value": result.mean_log_ratio,
            "low": None,
            "high": None,
            "n": result.scores().n,
            "unit": "nats",
            "baseline": control,
            "note": "One text; the baseline is the same text learned with another keyword. "
            + CAUTION,
        }
    ]


# ---- measuring ----


def priming(
    model: Model,
    text: str | PrimingText,
    keyword: str | None = None,
    probes: Sequence[str | Probe] | None = None,
    *,
    context: str | None = None,
    cross_theme: Sequence[str | Probe] | None = None,
    neutral: Sequence[str] | None = None,
    presentations: int = 3,
    spacing: int = 1,
    steps: int | None = None,
    background: Sequence[str] | None = None,
    batch_size: int = 8,
    companions: Sequence[str] = (),
    optimizer: AdamW | SGD | None = None,
    clip: float | None = None,
    keyword_tokens: KeywordTokens = "joint",
    in_context: bool = True,
    controls: Sequence[str] = CONTROLS,
    control_keyword: str | None = None,
    control_text: str | None = None,
    mitigation: Pruning | None = None,
    seed: int = 0,
    kb: KnowledgeBase | None = None,
    progress: Progress = None,
) -> Priming:
    """Learn one text and measure how far its keyword leaks into unrelated contexts.

    Parameters
    ----------
    model : Model
        An immutable model is copied, and the copy dropped. A TrainableModel is trained itself and
        keeps what it learned: with the mitigation, when there is one.
    text : str or PrimingText
        The text to learn.
    keyword : str, optional
        The word of the text that is followed; a PrimingText has its own.
    probes : sequence of str or Probe, optional
        Contexts whose natural continuation is of the keyword's theme; none may hold the keyword.
        None: the shipped ones, where the keyword is one of km's.
    context : str, optional
        The text before the keyword; None: up to where it first stands as a whole word.
    cross_theme : sequence of str or Probe, optional
        Contexts of other themes; None: two shipped ones of each other theme, where the probes
        are the shipped ones.
    neutral : sequence of str, optional
        Sentences that have nothing to do with the text; None: shipped ones.
    presentations : int
        Steps at which the text is learned; 0 changes nothing.
    spacing : int
        Steps from one presentation to the next; 1: one after another.
    steps : int, optional
        Optimiser steps altogether; None: up to the last presentation.
    background : sequence of str, optional
        Texts of the other steps and of the other elements of each batch. None: a batch is the text
        alone.
    batch_size : int
        Texts a batch, with a background; the learned text takes the place of the first.
    companions : sequence of str
        Texts learned at the same steps, such as one of another theme.
    optimizer : AdamW or SGD, optional
        None: AdamW at a learning rate of 1e-4, without weight decay.
    clip : float, optional
        Largest norm of the gradient.
    keyword_tokens : {"joint", "first"}
        Follow the joint probability of all tokens of the keyword, or that of its first.
    in_context : bool
        Also measure with the text, and an empty line, put before each probe instead of learned.
    controls : sequence of {"keyword", "text"}
        Trainings of the same dose: the text with another keyword, and an unrelated text.
    control_keyword, control_text : str, optional
        Those; None: chosen from what km ships.
    mitigation : IgnoreTopK, KeepTopK or Slice, optional
        Changes that are taken back; an arm of its own.
    seed : int
        Of the order of the background.
    kb : KnowledgeBase, optional
        Arms measured before are looked up in it; the result is recorded in it.
    progress : bool or callable, optional

    Returns
    -------
    Priming

    Raises
    ------
    ArgumentError
        Text, keyword, probes or schedule do not go together; the message says which.
    MemoryError
        The training state does not fit into memory.

    Notes
    -----
    Sun et al. 2025: S_mem is P_after / P_before of the keyword in its own text, S_prime the mean
    of that ratio over the probes; km computes with logarithms throughout.

    Examples
    --------
    >>> model = km.load()  # doctest: +SKIP
    >>> text = km.datasets.priming_texts()["vermilion-fantasy-1"]  # doctest: +SKIP
    >>> km.priming(model, text)  # doctest: +SKIP
    """
    check_types(model, kb, mitigation)
    need("control_keyword", control_keyword, str, "'scarlet'")
    need("control_text", control_text, str, "'An unrelated text.'")
    whole = as_priming_text(text, keyword, context)
    recipe = Recipe(
        optimizer=default_optimizer() if optimizer is None else optimizer,
        presentations=presentations,
        spacing=spacing,
        steps=steps,
        background=tuple(strings("background", () if background is None else background)),
        batch_size=batch_size,
        companions=tuple(strings("companions", companions)),
        clip=clip,
        seed=seed,
    )
    if keyword_tokens not in ("joint", "first"):
        raise ArgumentError(f'keyword_tokens is {keyword_tokens!r}, not "joint" or "first"')
    items = _items(whole, probes, cross_theme, neutral)
    arms = [Arm(IN_CONTEXT, whole, own_theme(items), whole.text)] if in_context else []
    arms += _controls(model, whole, items, controls, control_keyword, control_text)
    arms.append(Arm("learned", whole, items, whole.text))
    if mitigation is not None:
        arms.append(
            Arm(mitigation.name, whole, own_theme(items, "neutral"), whole.text, mitigation)
        )
    return _run(model, arms, recipe, keyword_tokens, seed, kb, progress)


def check_types(model: Any, kb: Any, mitigation: Any) -> None:
    """Refuse what is no model, no knowledge base or no mitigation, None apart."""
    from km.kb import KnowledgeBase
    from km.model import Model
    from km.pruning import Pruning

    if not isinstance(model, Model):
        raise TypeError(f"model must be a km.Model, not {type(model).__name__}")
    need("kb", kb, KnowledgeBase, "km.KnowledgeBase(path)")
    need("mitigation", mitigation, Pruning, "km.IgnoreTopK(0.1)")


def _run(
    model: Model,
    arms: Sequence[Arm],
    recipe: Recipe,
    keyword_tokens: KeywordTokens,
    seed: int,
    kb: KnowledgeBase | None,
    progress: Progress,
) -> Priming:
    """Measure, or find, every arm."""
    learner = Learner(model, recipe)
    gauge = Gauge(learner, keyword_tokens)
    described = recipe.describe()
    keys = [arm.key(model, described, keyword_tokens) for arm in arms]
    last = arms[-1]
    parameters: dict[str, Any] = {
        "text": last.text.text,
        "context": last.text.prefix,
        "keyword": last.text.keyword,
        "keyword_tokens": keyword_tokens,
        "recipe": described,
        "arms": [{"arm": arm.name, "shown": arm.shown} for arm in arms],
        "mitigation": None if last.pruning is None else last.pruning.describe(),
        "chunks": keys,
    }
    provenance = make_provenance(PRIMING_ID, PRIMING_VERSION, model, parameters, seed)
    work = ChunkWork(None if learner.in_place else kb, provenance)
    jobs = [(key, partial(gauge.measure, arm)) for key, arm in zip(keys, arms, strict=True)]
    with ProgressReporter(progress, "priming", unit="arms", total=len(arms)) as report:
        chunks = work.run(counted(jobs, report))
    result = Priming(chunks, provenance, work.run_id)
    if kb is not None and not kb.read_only:
        result.run = kb.record(result)
    return result


def default_optimizer() -> AdamW:
    """AdamW at :data:`LEARNING_RATE`, without weight decay."""
    from km.optimizers import AdamW

    return AdamW(lr=LEARNING_RATE)


# ---- what is measured ----


def _items(
    text: PrimingText,
    probes: Sequence[str | Probe] | None,
    cross_theme: Sequence[str | Probe] | None,
    neutral: Sequence[str] | None,
) -> tuple[Item, ...]:
    own = as_probes("probes", shipped_probes(text) if probes is None else probes, text.theme)
    if not own:
        raise ArgumentError("there are no probes")
    if cross_theme is None:
        cross_theme = other_probes(text.theme) if probes is None else ()
    others = as_probes("cross_theme", cross_theme)
    check_probes(text.keyword, [*own, *others])
    sentences = shipped_neutral() if neutral is None else strings("neutral", neutral)
    return (
        context_item(text),
        *probe_items(text, own),
        *probe_items(text, others, "other_theme"),
        *neutral_items(sentences),
    )


def shipped_probes(text: PrimingText) -> list[Probe]:
    """The shipped probes of a text's theme.

    Raises
    ------
    ArgumentError
        It has none of the shipped themes.
    """
    if text.theme not in priming_texts().themes:
        raise ArgumentError(
            f"km has no probes for the keyword {text.keyword!r}: give probes, contexts whose "
            "natural continuation is a word of its kind"
        )
    return priming_set.probes(text.theme)


def other_probes(theme: str, each: int = 2) -> list[Probe]:
    """The first shipped probes of each other theme."""
    others = [name for name in priming_texts().themes if name != theme]
    return [probe for name in others for probe in priming_set.probes(name)[:each]]


def shipped_neutral(n: int = 8) -> list[str]:
    """The first shipped sentences that have nothing to do with any theme."""
    return neutral_texts()[:n]


def own_theme(items: Sequence[Item], *more: str) -> tuple[Item, ...]:
    """Items of the keyword in its text and after the probes of its theme, and of `more` kinds."""
    return tuple(item for item in items if item.kind in ("context", "theme", *more))


# ---- controls ----


def _controls(
    model: Model,
    text: PrimingText,
    items: Sequence[Item],
    controls: Sequence[str],
    keyword: str | None,
    unrelated: str | None,
) -> list[Arm]:
    """Trainings of the same dose whose effect has another cause."""
    asked = strings("controls", controls)
    wrong = [name for name in asked if name not in CONTROLS]
    if wrong:
        raise ArgumentError(f"controls: no {wrong[0]!r}; there are: {', '.join(CONTROLS)}")
    arms = []
    if "keyword" in asked:
        word = control_word(model, text) if keyword is None else keyword.strip()
        if keyword_place(word, text.keyword) is not None or not word:
            raise ArgumentError(f"control_keyword is {keyword!r}; it must be another word")
        swapped = text.with_keyword(word).text
        arms.append(Arm("keyword_control", text, own_theme(items), swapped))
    if "text" in asked:
        other = nearest_control(model, text) if unrelated is None else unrelated
        if keyword_place(other, text.keyword) is not None:
            raise ArgumentError(f"control_text holds the keyword {text.keyword!r}")
        arms.append(Arm("text_control", text, own_theme(items), other))
    return arms


def control_word(model: Model, text: PrimingText, index: int = 0) -> str:
    """Another word for the keyword's place.

    Parameters
    ----------
    index : int
        Which of the shipped alternatives, counted round; for a word of one's own, the shipped word
        with as many tokens that is nearly as probable there is taken.
    """
    themes = [priming_theme(name) for name in priming_texts().themes]
    for theme in themes:
        if text.keyword in theme.alternatives:
            words = theme.alternatives[text.keyword]
            return words[index % len(words)]
    own = encode_item(model, context_item(text), "joint")
    options = {}
    for word in dict.fromkeys(word for theme in themes for word in theme.words):
        ids = encode_item(model, context_item(text.with_keyword(word)), "joint")
        if keyword_place(text.text, word) is None and len(ids.scored) == len(own.scored):
            options[word] = ids
    if not options:
        raise ArgumentError(
            f"km has no word with {len(own.scored)} tokens to learn in the place of "
            f"{text.keyword!r}: give control_keyword"
        )
    target, *values = score_encoded(model, [own, *options.values()])
    gaps = [abs(value - target) for value in values]
    return list(options)[gaps.index(min(gaps))]


def nearest_control(model: Model, text: PrimingText) -> str:
    """The shipped unrelated text whose number of tokens is nearest to the text's."""
    n = len(model.encode(text.text))
    free = [other for other in control_texts() if keyword_place(other, text.keyword) is None]
    return min(free, key=lambda other: abs(len(model.encode(other)) - n))
