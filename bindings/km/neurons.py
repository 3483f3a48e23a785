"""Knowledge neurons: which MLP neurons an answer rests on, tested beside random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from km import _km, stats
from km.arguments import MOST_TOKENS, coverage, whole_number
from km.chunk_work import ChunkWork, counted
from km.errors import ArgumentError
from km.fact_prompts import FactPrompt, fact_prompts
from km.progress import Progress, ProgressReporter
from km.recall_plan import resolve_facts
from km.result import Result, content_key, make_provenance, stored_chunks
from km.scores.interventions import neuron_triplets, refined_neurons, relation_neurons
from km.table import Column, Table
from km.variants import SCALE, Change, Sweep

if TYPE_CHECKING:
    from km.datasets import FactSet, Relation
    from km.kb import KnowledgeBase
    from km.model import Model
    from km.scores.interventions import Neuron, Triplet

NEURONS_ID = "interpretability.knowledge_neurons"
NEURONS_VERSION = 1

TRIPLET_COLUMNS = [
    Column("layer", "int64", "layer", "Layer of the neuron; null: no neuron, only the prompt."),
    Column("neuron", "int64", "", "Element of mlp_hidden."),
    Column("attribution", "double", "probability", "Its integrated gradient."),
    Column("probability", "double", "probability", "Of the answer after the prompt."),
    Column("unexplained", "double", "probability", "Largest |P(w) - P(0) - sum| over layers."),
]

COLUMNS = [
    Column("relation", "text", "", "Name of the relation."),
    Column("fact", "text", "", "Identifier of the fact."),
    Column("prompt", "text", "", "Held-out prompt: not used to find the neurons."),
    Column("answer", "text", "", "Token whose probability is followed."),
    Column("n_neurons", "int64", "neurons", "Neurons changed."),
    Column("probability", "double", "probability", "Of the answer, nothing changed."),
    Column("suppressed", "double", "probability", "The neurons at 0."),
    Column("enhanced", "double", "probability", "The neurons doubled."),
    Column("random_suppressed", "double", "probability", "As many random ones of the same layers."),
    Column("random_enhanced", "double", "probability", "The same doubled."),
    Column("other_suppressed", "double", "probability", "Another fact's neurons at 0; or null."),
    Column("other_enhanced", "double", "probability", "Another fact's neurons doubled; or null."),
]

FACT_COLUMNS = [
    Column("relation", "text", "", "Name of the relation."),
    Column("fact", "text", "", "Identifier of the fact."),
    Column("layer", "int64", "layer", "Layer of the neuron."),
    Column("neuron", "int64", "", "Element of mlp_hidden."),
    Column("of_relation", "bool", "", "Kept for enough facts of the relation."),
    Column("share", "double", "share", "Prompts it had to occur in, after adaptation."),
]

EFFECT_COLUMNS = [
    Column("intervention", "text", "", "suppress (x 0) or enhance (x 2)."),
    Column("change", "double", "share", "Mean relative change of the answer's probability."),
    Column("low", "double", "share", "Lower end of its interval."),
    Column("high", "double", "share", "Upper end."),
    Column("random", "double", "share", "The same for random neurons of the same layers."),
    Column("other", "double", "share", "The same for the neurons of another fact; or null."),
    Column("difference", "double", "share", "Knowledge neurons minus random ones, paired."),
    Column("difference_low", "double", "share", "Lower end of its interval."),
    Column("difference_high", "double", "share", "Upper end."),
    Column("interval", "text", "", "Method of the intervals; null below two facts."),
    Column("n", "int64", "facts", "Facts with neurons and a held-out prompt."),
    Column("n_clusters", "int64", "clusters", "Units the intervals count as independent."),
]

CAUTION = (
    "What counts is the difference from random neurons of the same layers on prompts that were not "
    "used to find them. Neurons that change the answer need not hold the fact: other neurons may "
    "express it too (Chen et al. 2024), and they often serve syntax (Niu et al. 2024)."
)


class KnowledgeNeurons(Result):
    """What :func:`knowledge_neurons` returns: one row a fact and held-out prompt.

    Attributes
    ----------
    table : Table
    neurons : Table
        One row a fact and neuron.
    effects : Table
        Two rows, suppressing and enhancing: relative change of the answer's probability, beside
        random neurons and those of another fact.
    unexplained : float, probability
        Largest part of P(w) - P(0) of a layer that the sum of attributions leaves open.
    evidence : list of dict
    notes : list of str
    """

    def __init__(
        self,
        table: Table,
        neurons: Table,
        chunks: Sequence[tuple[str, Table]],
        provenance: dict[str, Any],
        run: int | None = None,
    ) -> None:
        super().__init__(table, provenance)
        self.neurons = neurons
        self.chunks = list(chunks)
        self.run = run
        parameters = self.parameters
        self.unexplained = max(
            (row["unexplained"] for _, part in chunks[:-2] for row in part.rows()), default=0.0
        )
        self.effects = Table.from_rows(
            EFFECT_COLUMNS,
            _effects(list(table.rows()), float(parameters["confidence"]), int(parameters["seed"])),
        )
        self.notes = _notes(self)
        self.evidence = _evidence(self)

    @classmethod
    def from_knowledge_base(cls, kb: KnowledgeBase, run: int) -> KnowledgeNeurons:
        """What a run recorded.

        Raises
        ------
        NotFoundError
            There is no such finished run, or it is of another measure.
        """
        chunks, provenance = stored_chunks(kb, run, NEURONS_ID)
        return cls(chunks[-1][1], chunks[-2][1], chunks, provenance, run)

    def __repr__(self) -> str:
        n_facts = len(set(self.neurons["fact"]))
        lines = [
            f"<km.KnowledgeNeurons {self._title()}: {len(self.neurons)} neurons of {n_facts} facts>"
        ]
        for row in self.effects.rows():
            spread = (
                f" [{row['difference_low']:+.1%}, {row['difference_high']:+.1%}]"
                if row["difference_low"] is not None
                else ""
            )
            lines.append(
                f"{row['intervention']}: {row['change']:+.1%}, random neurons "
                f"{row['random']:+.1%}; difference {row['difference']:+.1%}{spread}, n = {row['n']}"
            )
        return "\n".join([*lines, *self.notes])


def _relative(row: Mapping[str, Any], name: str) -> float:
    return float((row[name] - row["probability"]) / row["probability"])


def _effects(
    rows: Sequence[Mapping[str, Any]], confidence: float, seed: int
) -> list[dict[str, Any]]:
    """Means over facts of the mean over their held-out prompts."""
    by_fact: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        by_fact.setdefault((row["relation"], row["fact"]), []).append(row)
    if not by_fact:
        return []
    out = []
    for intervention, name in (("suppress", "suppressed"), ("enhance", "enhanced")):

        def means(column: str) -> list[float]:
            return [
                sum(_relative(row, column) for row in own) / len(own) for own in by_fact.values()
            ]

        own, random = means(name), means(f"random_{name}")
        others = None if rows[0][f"other_{name}"] is None else means(f"other_{name}")
        spread, gap = _intervals(own, random, list(by_fact), confidence, seed)
        out.append(
            {
                "intervention": intervention,
                "change": sum(own) / len(own),
                "low": spread.low if spread else None,
                "high": spread.high if spread else None,
                "random": sum(random) / len(random),
                "other": sum(others) / len(others) if others else None,
                "difference": sum(own) / len(own) - sum(random) / len(random),
                "difference_low": gap.low if gap else None,
                "difference_high": gap.high if gap else None,
                "interval": gap.method if gap else None,
                "n": len(own),
                "n_clusters": gap.n_clusters if gap else None,
            }
        )
    return out


def _intervals(
    own: Sequence[float],
    random: Sequence[float],
    facts: Sequence[tuple[str, str]],
    confidence: float,
    seed: int,
) -> tuple[stats.Interval | None, stats.Interval | None]:
    """Of the change, and of its difference from random neurons; relations, then facts, cluster."""
    if len(own) < 2:
        return None, None
    relations = [relation for relation, _ in facts]
    names = [f"{relation}\0{fact}" for relation, fact in facts]
    clusters: tuple[Any, ...] = (names,) if len(set(relations)) < 2 else (relations, names)
    options: dict[str, Any] = {"confidence": confidence, "seed": seed}
    return (
        stats.clustered_bootstrap(own, *clusters, **options),
        stats.paired_bootstrap(own, random, *clusters, **options),
    )


def _notes(result: KnowledgeNeurons) -> list[str]:
    notes = [CAUTION]
    parameters = result.parameters
    without = int(parameters["n_facts"]) - len(set(result.neurons["fact"]))
    if without:
        notes.append(f"{without} of {parameters['n_facts']} facts kept no neuron.")
    notes.append(
        f"The sum of {parameters['steps']} steps leaves up to {result.unexplained:.3f} of a "
        f"layer's P(w) - P(0) open ({parameters['rule']} rule)."
    )
    return notes


def _evidence(result: KnowledgeNeurons) -> list[dict[str, Any]]:
    """The paired difference from random neurons, on held-out prompts."""
    return [
        {
            "node": "specialised-neurons",
            "measure": NEURONS_ID,
            "statistic": f"{row['intervention']}_minus_random",
            "value": row["difference"],
            "low": row["difference_low"],
            "high": row["difference_high"],
            "n": row["n"],
            "unit": "share",
            "baseline": 0.0,
            "note": f"Relative change of the answer's probability on held-out prompts: "
            f"{row['change']:+.3f}, random neurons of the same layers {row['random']:+.3f}"
            + ("" if row["other"] is None else f", another fact's {row['other']:+.3f}")
            + f". {CAUTION}",
        }
        for row in result.effects.rows()
    ]


# ---- running ----


def knowledge_neurons(
    model: Model,
    facts: FactSet | Relation | Sequence[Relation] | str,
    templates: Sequence[int] | None = None,
    *,
    held_out: int = 1,
    steps: int = 20,
    rule: str = "left",
    ratio: float = 0.1,
    threshold: float = 0.2,
    share: float = 0.7,
    at_least: float = 3,
    relation_share: float = 0.1,
    n_random: int = 5,
    seed: int = 0,
    bos: bool | None = None,
    confidence: float = 0.95,
    batch_tokens: int = 2048,
    kb: KnowledgeBase | None = None,
    progress: Progress = None,
) -> KnowledgeNeurons:
    """Find the neurons that facts rest on, and change them beside random ones.

    Parameters
    ----------
    model : Model
    facts : FactSet, Relation, relations or str
        A str is a shipped relation, kind or "all".
    templates : sequence of int, optional
        Indices of each relation's templates; None: all.
    held_out : int
        How many of them, the last ones, test the neurons instead of finding them.
    steps : int
        Of the integral.
    rule : {"left", "midpoint"}
        Where its slopes are taken: the authors' left sum, or midpoints, whose error is smaller.
    ratio : float
        Neurons with at least this share of a prompt's largest attribution are looked at.
    threshold, share, at_least : float
        A fact keeps a neuron that has `threshold` of the largest attribution in at least
        max(prompts * share, at_least) prompts; `share` is adapted so that facts of a relation set
        keep 2 to 5 neurons on average (:func:`km.scores.interventions.refined_neurons`).
    relation_share : float
        A relation keeps neurons of at least this share of its facts.
    n_random : int
        Draws of random neurons, as many a layer as the fact's own and none of them.
    seed : int
        Of the random neurons and the bootstraps.
    bos : bool, optional
        None: what the model file says.
    confidence : float
        Coverage of the intervals.
    batch_tokens : int
        Distinct tokens a pass; no figure depends on it.
    kb : KnowledgeBase, optional
        Attributed prompts are looked up in it and stored as soon as they are done; the result is
        recorded in it.
    progress : bool or callable, optional

    Returns
    -------
    KnowledgeNeurons

    Raises
    ------
    ArgumentError
        Facts or options are wrong, or too few templates are left to find neurons.

    Notes
    -----
    Dai et al. 2022: attribution is w_i / m times the sum over k of dP/dw_i at (k / m) w, with w the
    input of the down projection at the last token of the prompt and P the probability of the
    answer's first token. Suppressing sets the neurons to 0 there, enhancing doubles them.
    """
    relations = resolve_facts(facts)
    options: dict[str, Any] = {"steps": steps, "rule": rule, "ratio": ratio, "bos": bos}
    _check(rule, held_out, n_random, steps, seed, batch_tokens, confidence)
    prompts = _prompts(model, relations, templates, bos)
    n_find = min(len(own) for own in prompts.values()) - held_out
    if n_find < 1:
        raise ArgumentError(
            f"{n_find + held_out} templates, {held_out} held out: none is left to find neurons"
        )
    jobs = [
        (key, prompt)
        for own in prompts.values()
        for prompt in own[: len(own) - held_out]
        for key in [_key(model, prompt, options)]
    ]
    parameters: dict[str, Any] = {
        **options,
        "templates": None if templates is None else list(templates),
        "held_out": held_out,
        "threshold": threshold,
        "share": share,
        "at_least": at_least,
        "relation_share": relation_share,
        "n_random": n_random,
        "seed": seed,
        "confidence": confidence,
        "relations": [relation.name for relation in relations],
        "n_facts": len(prompts),
    }
    keys = [key for key, _ in jobs]
    ends = [
        content_key(
            NEURONS_ID, NEURONS_VERSION, {**parameters, "part": part}, model.fingerprint, keys
        )
        for part in ("neurons", "interventions")
    ]
    parameters["chunks"] = [*keys, *ends]
    provenance = make_provenance(NEURONS_ID, NEURONS_VERSION, model, parameters, seed)
    work = ChunkWork(kb, provenance)
    with ProgressReporter(progress, "knowledge neurons", unit="prompts", total=len(jobs)) as report:
        attributions = [(key, partial(_attribute, model, p, steps, rule, ratio)) for key, p in jobs]
        measured = work.run(counted(attributions, report))
    bags = _bags(prompts, measured, held_out)
    kept, used = refined_neurons(
        list(bags.values()), threshold=threshold, share=share, at_least=at_least
    )
    by_fact = dict(zip(bags, kept, strict=True))
    neurons = _neuron_table(by_fact, relation_share, used)
    table = _intervene(model, prompts, by_fact, held_out, n_random, seed, batch_tokens)
    chunks = [*measured, (ends[0], neurons), (ends[1], table)]
    result = KnowledgeNeurons(table, neurons, chunks, provenance, work.run_id)
    if kb is not None and not kb.read_only:
        result.run = kb.record(result)
    return result


def _check(
    rule: str,
    held_out: int,
    n_random: int,
    steps: int,
    seed: int,
    batch_tokens: int,
    confidence: float,
) -> None:
    if rule not in ("left", "midpoint"):
        raise ArgumentError(f"rule is {rule!r}, not left or midpoint")
    whole_number("held_out", held_out, 1)
    whole_number("n_random", n_random, 1, 100_000)
    whole_number("steps", steps, 1, 10_000)
    whole_number("seed", seed, 0, 2**64 - 1)
    whole_number("batch_tokens", batch_tokens, 1, MOST_TOKENS)
    coverage(confidence)


def _prompts(
    model: Model, relations: Sequence[Relation], templates: Sequence[int] | None, bos: bool | None
) -> dict[tuple[str, str], list[FactPrompt]]:
    """The prompts of each fact, in the order of the templates."""
    found: dict[tuple[str, str], list[FactPrompt]] = {}
    for relation in relations:
        chosen = range(len(relation.templates)) if templates is None else templates
        for template in chosen:
            for prompt in fact_prompts(model, relation, template, bos):
                found.setdefault((prompt.relation, prompt.fact), []).append(prompt)
    return found


def _key(model: Model, prompt: FactPrompt, options: Mapping[str, Any]) -> str:
    parameters = {**options, "answer": prompt.answers[0]}
    return content_key(NEURONS_ID, NEURONS_VERSION, parameters, model.fingerprint, prompt.ids)


def _attribute(model: Model, prompt: FactPrompt, steps: int, rule: str, ratio: float) -> Table:
    """The strong neurons of one prompt."""
    import numpy as np

    found = _km.neurons_run(
        model._model,
        np.array(prompt.ids, dtype=np.int32),
        prompt.answers[0],
        steps,
        rule == "midpoint",
    )
    attribution, completeness = np.asarray(found[0]), np.asarray(found[3])
    fixed = {"probability": found[4], "unexplained": float(abs(completeness).max())}
    rows = [
        {"layer": layer, "neuron": neuron, "attribution": value, **fixed}
        for layer, neuron, value in neuron_triplets(attribution, ratio)
    ]
    return Table.from_rows(TRIPLET_COLUMNS, rows or [fixed])


def _bags(
    prompts: Mapping[tuple[str, str], Sequence[FactPrompt]],
    measured: Sequence[tuple[str, Table]],
    held_out: int,
) -> dict[tuple[str, str], list[list[Triplet]]]:
    """The triplets of each prompt of each fact."""
    tables = iter(table for _, table in measured)
    return {
        fact: [
            [
                (row["layer"], row["neuron"], row["attribution"])
                for row in next(tables).rows()
                if row["layer"] is not None
            ]
            for _ in own[: len(own) - held_out]
        ]
        for fact, own in prompts.items()
    }


def _neuron_table(
    by_fact: Mapping[tuple[str, str], Sequence[Neuron]], relation_share: float, share: float
) -> Table:
    of_relation = {
        name: set(
            relation_neurons(
                [own for (relation, _), own in by_fact.items() if relation == name],
                share=relation_share,
            )
        )
        for name in {relation for relation, _ in by_fact}
    }
    rows = [
        {
            "relation": relation,
            "fact": fact,
            "layer": layer,
            "neuron": neuron,
            "of_relation": (layer, neuron) in of_relation[relation],
            "share": share,
        }
        for (relation, fact), own in by_fact.items()
        for layer, neuron in own
    ]
    return Table.from_rows(FACT_COLUMNS, rows)


# ---- interventions ----


def _matched(
    own: Sequence[Neuron], width: int, n_random: int, seed: int, index: int
) -> list[list[Neuron]]:
    """Draws of as many random neurons a layer as `own` has, none of `own` among them."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64([seed, index]))
    draws = []
    for _ in range(n_random):
        draw: list[Neuron] = []
        for layer in sorted({layer for layer, _ in own}):
            taken = {neuron for at, neuron in own if at == layer}
            free = np.array([i for i in range(width) if i not in taken])
            chosen = generator.choice(free, size=min(len(taken), len(free)), replace=False)
            draw += [(layer, int(i)) for i in chosen]
        draws.append(draw)
    return draws


def _changes(neurons: Sequence[Neuron], position: int, factor: float) -> list[Change]:
    return [
        Change(position, SCALE, "mlp_hidden", layer, begin=i, end=i + 1, factor=factor)
        for layer, i in neurons
    ]


def _intervene(
    model: Model,
    prompts: Mapping[tuple[str, str], Sequence[FactPrompt]],
    by_fact: Mapping[tuple[str, str], Sequence[Neuron]],
    held_out: int,
    n_random: int,
    seed: int,
    batch_tokens: int,
) -> Table:
    """Change each fact's neurons, random ones and another fact's on the held-out prompts."""
    import numpy as np

    width = int(model.config["d_ffn"])
    facts = [fact for fact, own in by_fact.items() if own]
    rows = []
    for index, fact in enumerate(facts):
        own = list(by_fact[fact])
        other = list(by_fact[facts[(index + 1) % len(facts)]]) if len(facts) > 1 else None
        sets = [own, *_matched(own, width, n_random, seed, index), *([other] if other else [])]
        for prompt in prompts[fact][-held_out:]:
            last = len(prompt.ids) - 1
            variants = [
                _changes(neurons, last, factor) for factor in (0.0, 2.0) for neurons in sets
            ]
            sweep = Sweep(model, prompt.ids, [], None, [(last, prompt.answers[0])], batch_tokens)
            base, found = sweep.run(variants)
            p = np.exp(found[:, 0]).reshape(2, len(sets))
            random = p[:, 1 : 1 + n_random].mean(axis=1)
            rows.append(
                {
                    "relation": fact[0],
                    "fact": fact[1],
                    "prompt": prompt.text,
                    "answer": model.decode([prompt.answers[0]]),
                    "n_neurons": len(own),
                    "probability": float(np.exp(base[0])),
                    "suppressed": float(p[0, 0]),
                    "enhanced": float(p[1, 0]),
                    "random_suppressed": float(random[0]),
                    "random_enhanced": float(random[1]),
                    "other_suppressed": float(p[0, -1]) if other else None,
                    "other_enhanced": float(p[1, -1]) if other else None,
                }
            )
    return Table.from_rows(COLUMNS, rows)
