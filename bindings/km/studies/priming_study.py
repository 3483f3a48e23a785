"""The study of priming: every text of a set learned by itself, analysed over all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from km.arguments import coverage, real_number, strings
from km.chunk_work import ChunkWork, Job, counted
from km.datasets.priming_set import (
    PrimingText,
    priming_texts,
)
from km.errors import ArgumentError
from km.priming_measure import CONTROLS, check_types, default_optimizer
from km.priming_plan import (
    Arm,
    Encoded,
    KeywordTokens,
    Recipe,
    context_item,
    encode_item,
)
from km.priming_run import Gauge, Learner, score_encoded
from km.progress import Progress, ProgressReporter
from km.result import content_key, make_provenance
from km.scores.priming import THRESHOLD
from km.stepping import STEPPING_ID, STEPPING_VERSION, proposals
from km.studies.priming_arms import Design, check_texts, plan_arms, same_weights
from km.studies.priming_result import STUDY_ID, STUDY_VERSION, PrimingStudy
from km.table import Column, Table
from km.trainable import TrainableModel

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.model import Model
    from km.optimizers import SGD, AdamW
    from km.pruning import Pruning

CHOICE_COLUMNS = [
    Column("text", "text", "", "Identifier of the text."),
    Column("keyword", "text", "", "Its keyword."),
    Column("logp_keyword", "double", "nats", "Of the keyword in the text."),
    Column("rewrite", "text", "", "The best rewrite; null where the keyword surprises little."),
    Column("prefix", "text", "", "What stands before the keyword there."),
    Column("logp_rewrite", "double", "nats", "Of the keyword there."),
]


def priming(
    model: Model | None = None,
    *,
    texts: Iterable[PrimingText] | None = None,
    full: bool = False,
    presentations: int = 3,
    spacing: int = 1,
    steps: int | None = None,
    background: Sequence[str] | None = None,
    batch_size: int = 8,
    optimizer: AdamW | SGD | None = None,
    clip: float | None = None,
    keyword_tokens: KeywordTokens = "joint",
    in_context: bool = True,
    controls: Sequence[str] = CONTROLS,
    mitigation: Pruning | None = None,
    stepping_stones: bool | None = None,
    threshold: float = THRESHOLD,
    seed: int = 0,
    confidence: float = 0.95,
    kb: KnowledgeBase | None = None,
    progress: Progress = None,
) -> PrimingStudy:
    """Learn every text of a set from the same weights and say what priming this model shows.

    Parameters
    ----------
    model : Model, optional
        None: :func:`km.load`.
    texts : iterable of PrimingText, optional
        Their themes must be shipped ones. None: one shipped text a keyword and category, or with
        `full` all of them.
    full : bool
        All texts and both mitigations, unless the other arguments say otherwise.
    presentations, spacing, steps, background, batch_size, optimizer, clip, keyword_tokens
        As in :func:`km.priming`.
    in_context : bool
        Also measure with each text put before the probes.
    controls : sequence of {"keyword", "text"}
        Trainings of the same dose: each text with another keyword, and an unrelated text of its
        length, which serves many texts at once.
    mitigation : IgnoreTopK, KeepTopK or Slice, optional
        None: with `full` IgnoreTopK(0.08), else none.
    stepping_stones : bool, optional
        Also learn a rewrite of each text whose keyword is less probable than `threshold`. None:
        with `full`.
    threshold : float
        Probability below which a keyword is surprising.
    seed : int
        Of the background's order, draws and simulations.
    confidence : float
        Coverage of the intervals.
    kb : KnowledgeBase, optional
        Every text is looked up in it and stored as soon as it is done, so that a stopped study
        goes on where it was; the result is recorded in it.
    progress : bool or callable, optional

    Returns
    -------
    PrimingStudy

    Raises
    ------
    ArgumentError
        Options are wrong, or the model is trainable.
    MemoryError
        The training state does not fit into memory.
    KeyboardInterrupt, CancelledError
        What was finished is kept in `kb`.

    Examples
    --------
    >>> with km.KnowledgeBase("priming.db") as kb:  # doctest: +SKIP
    ...     print(km.studies.priming(kb=kb))
    """
    real_number("threshold", threshold, 0, 1)
    coverage(confidence)
    if keyword_tokens not in ("joint", "first"):
        raise ArgumentError(f'keyword_tokens is {keyword_tokens!r}, not "joint" or "first"')
    chosen = list(priming_texts(None if full else 1) if texts is None else texts)
    if not all(isinstance(text, PrimingText) for text in chosen):
        raise TypeError("texts must hold km.datasets.PrimingText, with keyword and theme")
    check_texts(chosen)
    recipe = Recipe(
        optimizer=default_optimizer() if optimizer is None else optimizer,
        presentations=presentations,
        spacing=spacing,
        steps=steps,
        background=tuple(strings("background", () if background is None else background)),
        batch_size=batch_size,
        clip=clip,
        seed=seed,
    )
    design = Design(
        in_context=in_context,
        controls=_controls(controls),
        mitigation=_default_mitigation() if mitigation is None and full else mitigation,
        stepping_stones=full if stepping_stones is None else stepping_stones,
        threshold=threshold,
    )
    base = _checked(model)
    check_types(base, kb, mitigation)
    study = _Study(base, recipe, design, keyword_tokens, kb)
    return study.run(chosen, {"seed": seed, "confidence": confidence, "full": full}, progress)


def _checked(model: Model | None) -> Model:
    from km.loading import load

    if isinstance(model, TrainableModel):
        raise ArgumentError(
            "a study starts from the same weights again and again: give an immutable model, such "
            "as .frozen()"
        )
    return load() if model is None else model


def _controls(controls: Sequence[str]) -> tuple[str, ...]:
    asked = strings("controls", controls)
    wrong = [name for name in asked if name not in CONTROLS]
    if wrong:
        raise ArgumentError(f"controls: no {wrong[0]!r}; there are: {', '.join(CONTROLS)}")
    return tuple(name for name in CONTROLS if name in asked)


def _default_mitigation() -> Pruning:
    from km.pruning import IgnoreTopK

    return IgnoreTopK()


class _Study:
    """One call's work."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        design: Design,
        keyword_tokens: KeywordTokens,
        kb: KnowledgeBase | None,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.design = design
        self.keyword_tokens = keyword_tokens
        self.kb = kb
        self.gauge = Gauge(Learner(model, recipe), keyword_tokens)
        self.n_measured = 0

    def run(
        self, texts: Sequence[PrimingText], options: dict[str, Any], progress: Progress
    ) -> PrimingStudy:
        """Measure, or find, everything, and analyse it."""
        rewrites = self._rewrites(texts, progress)
        arms = plan_arms(self.model, texts, self.design, rewrites)
        described = self.recipe.describe()
        keys = {id(arm): arm.key(self.model, described, self.keyword_tokens) for arm in arms}
        parameters = {
            **options,
            "n_texts": len(texts),
            "recipe": described,
            "keyword_tokens": self.keyword_tokens,
            "in_context": self.design.in_context,
            "controls": list(self.design.controls),
            "mitigation": None
            if self.design.mitigation is None
            else self.design.mitigation.describe(),
            "stepping_stones": self.design.stepping_stones,
            "threshold": self.design.threshold,
            "chunks": [keys[id(arm)] for arm in arms],
        }
        provenance = make_provenance(
            STUDY_ID, STUDY_VERSION, self.model, parameters, options["seed"]
        )
        work = ChunkWork(self.kb, provenance)
        known = self._n_known(list(keys.values()))
        name = f"priming ({known} arms known)" if known else "priming"
        with ProgressReporter(progress, name, unit="arms", total=len(arms)) as report:
            chunks = work.run(counted(self._jobs(arms, keys), report))
        result = PrimingStudy(chunks, provenance, work.run_id, self.n_measured)
        if self.kb is not None and not self.kb.read_only:
            result.run = self.kb.record(result)
        return result

    def _n_known(self, keys: list[str]) -> int:
        """How many of the arms are in the knowledge base."""
        if self.kb is None:
            return 0
        sql = "SELECT count(*) AS n FROM chunks WHERE key IN (SELECT value FROM json_each(?))"
        return int(self.kb.sql(sql, [json.dumps(keys)])["n"][0])

    def _jobs(self, arms: Sequence[Arm], keys: dict[int, str]) -> Iterator[Job]:
        for group in same_weights(arms):
            for arm in group:
                yield keys[id(arm)], self._counting(partial(self._measure, arm, group))

    def _measure(self, arm: Arm, group: Sequence[Arm]) -> Table:
        """The rows of an arm; what its group needs of the first weights is measured at once."""
        wanted = [ids for other in group for ids in self.gauge.encode(other.items)]
        self.gauge.before(wanted)
        return self.gauge.measure(arm)

    def _counting(self, measure: Callable[[], Table]) -> Callable[[], Table]:
        def counting() -> Table:
            self.n_measured += 1
            return measure()

        return counting

    # ---- rewrites ----

    def _rewrites(
        self, texts: Sequence[PrimingText], progress: Progress
    ) -> list[PrimingText | None]:
        """Of each text whose keyword is surprising, the best rewrite there is."""
        if not self.design.stepping_stones:
            return [None] * len(texts)
        parameters = {
            "n_texts": len(texts),
            "threshold": self.design.threshold,
            "keyword_tokens": self.keyword_tokens,
        }
        provenance = make_provenance(STEPPING_ID, STEPPING_VERSION, self.model, parameters)
        work = ChunkWork(self.kb, provenance)
        jobs = [
            (self._choice_key(text), self._counting(partial(self._choose, text))) for text in texts
        ]
        with ProgressReporter(progress, "rewrites", unit="texts", total=len(texts)) as report:
            chunks = work.run(counted(jobs, report))
        if self.kb is not None and work.run_id is not None:
            self.kb.finish_run(work.run_id)
        return [
            _rewritten(text, table.row(0)) for text, (_, table) in zip(texts, chunks, strict=True)
        ]

    def _choice_key(self, text: PrimingText) -> str:
        candidates = [context_item(text), *(context_item(other) for other, _ in proposals(text))]
        encoded = [encode_item(self.model, item, self.keyword_tokens) for item in candidates]
        parameters = {
            "text": text.id,
            "threshold": self.design.threshold,
            "keyword_tokens": self.keyword_tokens,
        }
        ids = [part for each in encoded for part in (each.given, each.scored)]
        return content_key(STEPPING_ID, STEPPING_VERSION, parameters, self.model.fingerprint, ids)

    def _choose(self, text: PrimingText) -> Table:
        """The rewrite with the most probable keyword, where it beats the text itself."""
        row: dict[str, Any] = {"text": text.id, "keyword": text.keyword}
        own = self._score([text])[0]
        row["logp_keyword"] = own
        candidates = [other for other, _ in proposals(text)]
        if math.exp(own) < self.design.threshold and candidates:
            values = self._score(candidates)
            best = max(range(len(values)), key=values.__getitem__)
            if values[best] > own:
                chosen = candidates[best]
                row |= {
                    "rewrite": chosen.text,
                    "prefix": chosen.prefix,
                    "logp_rewrite": values[best],
                }
        return Table.from_rows(CHOICE_COLUMNS, [row])

    def _score(self, texts: Sequence[PrimingText]) -> list[float]:
        encoded: list[Encoded] = [
            encode_item(self.model, context_item(text), self.keyword_tokens) for text in texts
        ]
        return score_encoded(self.model, encoded)


def _rewritten(text: PrimingText, row: dict[str, Any]) -> PrimingText | None:
    if row["rewrite"] is None:
        return None
    return replace(text, prefix=row["prefix"], text=row["rewrite"])
