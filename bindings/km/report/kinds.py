"""What each measure's page shows besides the rows it measured: findings, tables, pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.picture import Picture
    from km.table import Table

Drawn: TypeAlias = "Iterator[tuple[str, Picture]]"
Draw: TypeAlias = "Callable[[KnowledgeBase, int, Any], Drawn]"


@dataclass(frozen=True)
class Kind:
    """How a run of a measure is shown.

    Attributes
    ----------
    title : str
    place : str
        Class of its result, which reads a run; "" where rows, evidence and verdicts are all.
    tables : tuple of (attribute, caption)
    series : tuple of (argument, caption)
        Tables that the result's method `series` makes.
    draw : callable or None
        Captions and pictures.
    conclude : callable or None
        Two sentences on a result that has no `conclusion` of its own.
    """

    title: str
    place: str = ""
    tables: tuple[tuple[str, str], ...] = ()
    series: tuple[tuple[str, str], ...] = ()
    draw: Draw | None = None
    conclude: Callable[[Any], str] | None = None

    def load(self, kb: KnowledgeBase, run: int) -> Any:
        """The result that the run recorded; None without a class for it."""
        if not self.place:
            return None
        module, _, name = self.place.rpartition(".")
        return getattr(import_module(module), name).from_knowledge_base(kb, run)

    def concluding(self, result: Any) -> str:
        """What a reader may conclude, and what not; "" where the measure does not say."""
        if self.conclude is not None:
            return self.conclude(result)
        return str(getattr(result, "conclusion", "") or "")

    def tables_of(self, result: Any) -> Iterator[tuple[str, Table]]:
        """Captions and tables, those without rows left out."""
        for name, caption in self.tables:
            table = getattr(result, name)
            if table is not None and len(table):
                yield caption, table
        for name, caption in self.series:
            table = result.series(name)
            if len(table):
                yield caption, table


def _own(caption: str) -> Draw:
    """The picture that the result draws of itself."""

    def draw(kb: KnowledgeBase, run: int, result: Any) -> Drawn:
        yield caption, result.draw()

    return draw


def _learning(kb: KnowledgeBase, run: int, result: Any) -> Drawn:
    from km import draw

    yield "Loss of the batches that were learned, by step.", draw.learning(kb, runs=[run])


def _lens(kb: KnowledgeBase, run: int, result: Any) -> Drawn:
    yield (
        f"{result.prompt} → {result.answer.strip()}: the most probable next tokens after each "
        "block, and where the first token of the answer stands among them.",
        result.draw(),
    )


def _dialog(kb: KnowledgeBase, run: int, result: Any) -> Drawn:
    from km import draw

    yield "Nodes of the taxonomy that the answers came from, in order.", draw.dialog(kb, run=run)


def _decoders(result: Any) -> str:
    from km.studies.decoders_words import conclude

    return conclude([result])


def _conflict(result: Any) -> str:
    """What the first row, of all known examples, says and does not say."""
    from km.draw._common import interval, model_name, share

    row = next(iter(result.ratios.rows()), None)
    if row is None or not row["n"]:
        return ""
    return (
        f"Where a passage contradicts what {model_name(result)} answers without one, it keeps its "
        f"answer in {share(row['p_original'])} and follows the passage in "
        f"{share(row['p_substitute'])} of {row['n']:,} examples, a memorization ratio of "
        f"{interval(row, 'ratio', share)}. The {share(row['p_other'])} that are neither are not in "
        "the ratio, and nothing follows for other models, facts, passages or prompts."
    )


KINDS: dict[str, Kind] = {
    "memorization.recall": Kind("Recall", "km.recall.Recall"),
    "memorization.lens": Kind("One fact through the layers", "km.lens.LensResult", draw=_lens),
    "memorization.verbatim": Kind("Verbatim memorisation"),
    "memorization.exposure": Kind("Exposure of canaries"),
    "interpretability.logit_lens": Kind("Logit lens"),
    "interpretability.affine_lens": Kind("Affine lens"),
    "interpretability.causal_trace": Kind(
        "Causal tracing",
        "km.causal_tracing.CausalTrace",
        (("effects", "Average effects"), ("facts", "Facts traced")),
        draw=_own("What restoring each token at each layer brings back, for the first fact."),
    ),
    "interpretability.activation_patching": Kind("Activation patching"),
    "interpretability.logit_attribution": Kind("Direct logit attribution"),
    "interpretability.knowledge_circuit": Kind("Knowledge circuit"),
    "interpretability.knowledge_neurons": Kind(
        "Knowledge neurons",
        "km.neurons.KnowledgeNeurons",
        (("effects", "Effects beside random neurons"),),
    ),
    "interpretability.steering": Kind("Steering"),
    "learning.training": Kind("Training", "km.training.Training", draw=_learning),
    "learning.priming": Kind(
        "Priming by one text",
        "km.priming_measure.Priming",
        draw=_own("Contexts the keyword leaked into, by theme, and the same in every control."),
    ),
    "learning.priming_study": Kind(
        "Priming study",
        "km.studies.priming_result.PrimingStudy",
        (("comparisons", "Paired comparisons of arms"), ("texts", "Texts by arm")),
    ),
    "learning.forecast": Kind("Forecast of priming"),
    "learning.forecast_calibration": Kind("Calibration of the forecast of priming"),
    "learning.stepping_stones": Kind("Stepping stones"),
    "learning.diff": Kind(
        "What changed between two models",
        "km.diff_models.Diff",
        (
            ("shares", "Learned and forgotten"),
            ("relations", "By relation"),
            ("changes", "Facts that changed"),
            ("floors", "Noise floors"),
            ("layers", "By layer"),
        ),
        draw=_own("States of the facts in both models."),
    ),
    "conflict.memorization_ratio": Kind(
        "Memory against context",
        "km.conflict_measure.Conflict",
        (("ratios", "Memorization ratios"), ("disagreement", "Disagreement among paraphrases")),
        draw=_own("What was answered where a passage contradicts what the model remembers."),
        conclude=_conflict,
    ),
    "conflict.study": Kind(
        "Conflict study",
        "km.studies.conflict_result.ConflictStudy",
        (("ratios", "Memorization ratios, beside random weights"),),
    ),
    "conflict.study_parts": Kind("Part of a conflict study"),
    "overshadow.rate": Kind("Overshadowing rates"),
    "overshadow.law": Kind("Law of overshadowing"),
    "overshadow.find": Kind("Search for overshadowing tokens"),
    "overshadow.study": Kind(
        "Overshadowing study",
        "km.studies.overshadow_result.OvershadowingStudy",
        (("scores", "Forecast curves by the counts they never saw"),),
        (
            ("P", "Hallucination by popularity"),
            ("L", "Hallucination by length"),
            ("S", "Hallucination by size"),
            ("S at equal loss", "Hallucination by size at equal loss"),
        ),
    ),
    "overshadow.decoders": Kind(
        "Decoders study",
        "km.studies.decoders_result.ModelDecoders",
        (
            ("comparisons", "Decoders beside greedy decoding"),
            ("shares", "Shares by file"),
            ("selection", "Settings chosen on validation items"),
        ),
        conclude=_decoders,
    ),
    "overshadow.forecast": Kind("Forecast of an overshadowing study"),
    "overshadow.decoders_validation": Kind("Settings of decoders, on validation items"),
    "interpretability.circuit_transfer": Kind("Circuits on facts they were not found on"),
    "scoring.continuations": Kind("Scores of continuations"),
    "generation": Kind("Generation"),
    "conflict.family": Kind("Models trained on conflicting facts"),
    "conflict.real": Kind("A model asked with and without passages"),
    "dialog.conversation": Kind("Conversation", draw=_dialog),
    "dialog.selection": Kind("Knowledge selection"),
}


def kind_of(measure: str) -> Kind:
    """How runs of a measure are shown; a measure of the user's own is shown by its rows."""
    return KINDS.get(measure) or Kind(measure)
