"""What measures rest on: their definition, the works they follow; and km's own citation."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from km.errors import ArgumentError, NotFoundError

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

Work = Mapping[str, Any]

TITLE = "km: what a language model knows, measured beside baselines"
AUTHORS = "km developers"
YEAR = 2026
LICENCE = "Apache-2.0"
MESSAGE = "If km helped your work, please cite it and the works that its measures follow."
ABSTRACT = (
    "km measures what a language model knows, beside baselines that give the figures a meaning, "
    "and keeps the evidence in a knowledge base."
)


@dataclass(frozen=True)
class Rests:
    """What a measure rests on.

    Attributes
    ----------
    name : str
        As it stands in a sentence.
    definition : str
        What is estimated, in one sentence.
    sources : tuple of str
        Keys of the works that define it; none where km defines it.
    """

    name: str
    definition: str
    sources: tuple[str, ...] = ()


# Works that are no part of the taxonomy, in the form of its works.
MORE_WORKS: tuple[dict[str, Any], ...] = (
    {
        "key": "carlini2019secret",
        "title": "The Secret Sharer: Evaluating and Testing Unintended Memorization in Neural "
        "Networks",
        "authors": "Carlini, N.; Liu, C.; Erlingsson, Ú.; Kos, J.; Song, D.",
        "year": 2019,
        "venue": "USENIX Security 2019",
        "arxiv": "1802.08232",
    },
    {
        "key": "carlini2023quantifying",
        "title": "Quantifying Memorization Across Neural Language Models",
        "authors": "Carlini, N.; Ippolito, D.; Jagielski, M.; Lee, K.; Tramèr, F.; Zhang, C.",
        "year": 2023,
        "venue": "ICLR 2023",
        "arxiv": "2202.07646",
    },
    {
        "key": "din2023jump",
        "title": "Jump to Conclusions: Short-Cutting Transformers With Linear Transformations",
        "authors": "Yom Din, A.; Karidi, T.; Choshen, L.; Geva, M.",
        "year": 2023,
        "venue": "CoRR",
        "arxiv": "2303.09435",
    },
    {
        "key": "syed2023attribution",
        "title": "Attribution Patching Outperforms Automated Circuit Discovery",
        "authors": "Syed, A.; Rager, C.; Conmy, A.",
        "year": 2023,
        "venue": "CoRR",
        "arxiv": "2310.10348",
    },
    {
        "key": "hanna2024faith",
        "title": "Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model "
        "Mechanisms",
        "authors": "Hanna, M.; Pezzelle, S.; Belinkov, Y.",
        "year": 2024,
        "venue": "CoRR",
        "arxiv": "2403.17806",
    },
    {
        "key": "wang2025adacad",
        "title": "AdaCAD: Adaptively Decoding to Balance Conflicts between Contextual and "
        "Parametric Knowledge",
        "authors": "Wang, H.; Prasad, A.; Stengel-Eskin, E.; Bansal, M.",
        "year": 2025,
        "venue": "NAACL 2025",
        "arxiv": "2409.07394",
    },
)

_LENS = "what states after each layer say through the model's final norm and unembedding"
_PRIMING = (
    "how probable a keyword becomes in other contexts once a text that holds it has been learned, "
    "beside controls that learn something else"
)
_RATIO = (
    "of facts that the model knows without a passage, the share it keeps when a passage "
    "contradicts them, among answers that are either"
)
_LAW = "how much more often rare conditions get the popular answer as its share of the data grows"

MEASURES: dict[str, Rests] = {
    "memorization.recall": Rests(
        "whole-answer recall of facts",
        "the share of prompts whose whole answer ranks first, by summed log-probability, among "
        "candidate answers of its relation",
        ("petroni2019lama",),
    ),
    "memorization.lens": Rests("the logit lens of answers", _LENS, ("nostalgebraist2020",)),
    "memorization.verbatim": Rests(
        "verbatim memorization",
        "the share of texts whose continuation greedy decoding writes exactly",
        ("carlini2023quantifying",),
    ),
    "memorization.exposure": Rests(
        "exposure of canaries",
        "the negative logarithm of a canary's rank among all that it could have been",
        ("carlini2019secret",),
    ),
    "interpretability.logit_lens": Rests("the logit lens", _LENS, ("nostalgebraist2020",)),
    "interpretability.affine_lens": Rests(
        "affine lenses",
        "how near the model's own predictions come those of states after each layer that a "
        "regression has mapped to the last one's",
        ("din2023jump",),
    ),
    "interpretability.logit_attribution": Rests(
        "direct logit attribution",
        "what each head and MLP adds to a logit through the residual stream",
        ("elhage2021framework",),
    ),
    "interpretability.causal_trace": Rests(
        "causal tracing",
        "how much of the answer's probability comes back when one state of a run with a disturbed "
        "subject is restored",
        ("meng2022rome",),
    ),
    "interpretability.activation_patching": Rests(
        "activation patching",
        "how an answer's score changes when one activation is taken from another run",
        ("vig2020gender", "zhang2023patching"),
    ),
    "interpretability.steering": Rests(
        "steering",
        "how answers change when a direction between contrasting prompts is added to a state",
        ("turner2023actadd",),
    ),
    "interpretability.knowledge_neurons": Rests(
        "knowledge neurons",
        "how much an answer's probability falls without the neurons that integrated gradients "
        "choose, beside as many random ones",
        ("dai2022kn",),
    ),
    "interpretability.knowledge_circuit": Rests(
        "knowledge circuits",
        "how much of the lead of an answer the edges between heads and MLPs keep that integrated "
        "gradients score highest",
        ("yao2024circuits", "syed2023attribution", "hanna2024faith"),
    ),
    "interpretability.circuit_transfer": Rests(
        "the transfer of knowledge circuits",
        "how much of the lead of answers a circuit keeps on facts that it was not found on, less "
        "that of random circuits",
        ("yao2024circuits",),
    ),
    "learning.training": Rests("training", "the mean loss of each batch that was learned"),
    "learning.diff": Rests(
        "the difference of two models",
        "facts whose log-probability changed by more than a noise floor from one model to the "
        "other",
    ),
    "learning.priming": Rests("priming by one text", _PRIMING, ("priming2025",)),
    "learning.priming_study": Rests("priming over a set of texts", _PRIMING, ("priming2025",)),
    "learning.stepping_stones": Rests(
        "stepping stones",
        "how probable a keyword is, before any learning, in rewrites of a text",
        ("priming2025",),
    ),
    "learning.forecast": Rests(
        "forecasts of priming",
        "how probable a keyword is expected to be in other contexts after a text is learned, "
        "before any training",
        ("priming2025",),
    ),
    "learning.forecast_calibration": Rests(
        "the calibration of priming forecasts",
        "how far forecasts of priming lie from what was found, keywords or themes left out",
        ("priming2025",),
    ),
    "conflict.memorization_ratio": Rests("the memorization ratio", _RATIO, ("longpre2021entity",)),
    "conflict.study": Rests(
        "memory against a contradicting passage", _RATIO, ("longpre2021entity",)
    ),
    "conflict.real": Rests(
        "memory against a contradicting passage", _RATIO, ("longpre2021entity",)
    ),
    "conflict.family": Rests(
        "memory against a contradicting passage in models trained from scratch",
        _RATIO,
        ("longpre2021entity",),
    ),
    "conflict.study_parts": Rests("parts of a study of conflict", _RATIO, ("longpre2021entity",)),
    "overshadow.rate": Rests(
        "the rate of overshadowing",
        "the share of rare conditions answered with the popular answer, relative to its recall",
        ("zhang2025law",),
    ),
    "overshadow.law": Rests("the log-linear law of overshadowing", _LAW, ("zhang2025law",)),
    "overshadow.study": Rests(
        "overshadowing in models trained from scratch", _LAW, ("zhang2025law",)
    ),
    "overshadow.forecast": Rests("forecasts of overshadowing", _LAW, ("zhang2025law",)),
    "overshadow.find": Rests(
        "overshadowed tokens",
        "how the next-token distribution changes when each token of a prompt is left out",
        ("zhang2025law",),
    ),
    "overshadow.decoders": Rests(
        "contrastive decoders",
        "the share of items that a decoder answers as wanted, less that of greedy decoding on the "
        "same items",
        ("zhang2025law", "shi2023cad", "wang2025adacad", "chuang2023dola"),
    ),
    "overshadow.decoders_validation": Rests(
        "the choice of hyper-parameters of decoders",
        "shares of validation items that a decoder answers as wanted",
        ("zhang2025law", "shi2023cad", "wang2025adacad", "chuang2023dola"),
    ),
    "dialog.selection": Rests(
        "knowledge selection in dialogues",
        "the share of turns in which the sentence is chosen that the answer rests on",
        ("zheng2020diffks",),
    ),
    "dialog.conversation": Rests(
        "a conversation with the knowledge base", "what each answer rests on"
    ),
}


def km_work(version: str) -> dict[str, Any]:
    """The package itself as a work."""
    return {
        "key": "km",
        "title": TITLE,
        "authors": json.dumps([AUTHORS]),
        "year": YEAR,
        "venue": "software",
        "note": f"Version {version}, {LICENCE}",
    }


def citation_cff(version: str) -> str:
    """The package's citation in the Citation File Format, version 1.2.0.

    Every string is a JSON string, which YAML reads as well.
    """
    lines = [
        "cff-version: 1.2.0",
        f"message: {json.dumps(MESSAGE)}",
        "type: software",
        f"title: {json.dumps(TITLE)}",
        "authors:",
        f"  - name: {json.dumps(AUTHORS)}",
        f"version: {json.dumps(version)}",
        f"license: {json.dumps(LICENCE)}",
        f"abstract: {json.dumps(ABSTRACT)}",
    ]
    return "\n".join([*lines, ""])


@functools.cache
def _shipped() -> dict[str, Work]:
    from km.kb import taxonomy_text

    works: Iterable[Work] = json.loads(taxonomy_text())["works"]
    return {str(work["key"]): work for work in (*works, *MORE_WORKS)}


def known_works(kb: KnowledgeBase | None = None) -> dict[str, Work]:
    """Works by key: those of the knowledge base where there is one, and those that km ships."""
    if kb is None:
        return dict(_shipped())
    return _shipped() | {str(row["key"]): row for row in kb.sql("SELECT * FROM works").rows()}


def sources(measure: str) -> tuple[str, ...]:
    """Keys of the works that a measure follows; none for a measure of the user's own."""
    known = MEASURES.get(measure)
    return () if known is None else known.sources


def cited_works(target: str, kb: KnowledgeBase | None = None) -> list[Work]:
    """The works that a target rests on.

    Parameters
    ----------
    target : str
        Key of a work, id of a measure, or number of a run in the knowledge base.
    kb : KnowledgeBase, optional

    Returns
    -------
    list of mapping
        Empty where km itself defines the measure.

    Raises
    ------
    ArgumentError
        A run is asked for without a knowledge base.
    NotFoundError
        There is no such work, measure or run; near names are given.
    """
    works = known_works(kb)
    if target in works:
        return [works[target]]
    if target.isdecimal():
        return [works[key] for key in sources(_measure_of(int(target), kb))]
    if target in MEASURES:
        return [works[key] for key in sources(target)]
    near = difflib.get_close_matches(target, [*MEASURES, *works], 3, 0.5)
    hint = f"; near are {', '.join(near)}" if near else ""
    raise NotFoundError(f"no work, measure or run is called {target!r}{hint}")


def _measure_of(run: int, kb: KnowledgeBase | None) -> str:
    if kb is None:
        raise ArgumentError(f"run {run} of which knowledge base? Give its file")
    found = kb.sql("SELECT measure FROM runs WHERE id = ?", [run])["measure"]
    if not found:
        raise NotFoundError(f"{kb.path} has no run {run}")
    return str(found[0])


def spoken(work: Work) -> str:
    """A work as a sentence names it, such as "Petroni et al., 2019"."""
    from km.bibtex import surnames

    names = surnames(str(work.get("authors") or ""))
    who = _joined(names) if names else f"“{work['title']}”"
    return f"{who}, {work['year']}" if work.get("year") else who


def _joined(names: Sequence[str]) -> str:
    if len(names) > 2 or names[-1] == "others":
        return f"{names[0]} et al."
    return " and ".join(names)
