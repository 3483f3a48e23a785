"""Knowledge circuits: the connections that carry an answer, tested beside random ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km import _km
from km.arguments import whole_number
from km.errors import ArgumentError
from km.patch_sweep import read_pair
from km.progress import Progress, ProgressReporter
from km.result import Result, make_provenance
from km.table import Column, Table

if TYPE_CHECKING:
    from km.model import Ids, Model
    from km.patch_sweep import Pair

CIRCUIT_ID = "interpretability.knowledge_circuit"
CIRCUIT_VERSION = 1

INPUT = 0  # number of the source that stands for the embeddings

RUN_COLUMNS = [
    Column("run", "text", "", "clean, corrupted, circuit, or random: its targets, random sources."),
    Column("metric", "double", "logits", "Logit of the answer minus that of the wrong one."),
    Column("rank", "int64", "rank", "Tokens strictly more likely than the answer."),
    Column("logprob", "double", "nats", "Log-probability of the answer."),
    Column("probability", "double", "probability", "Probability of the answer."),
    Column("recovered", "double", "share", "Share of the way from corrupted to clean."),
]

CAUTION = (
    "Scores are linear estimates; what a circuit is worth is what it recovers when all other edges "
    "carry the corrupted prompt, beside circuits with the same targets and random sources. It is a "
    "circuit of this pair of prompts: try others on it before saying that a fact uses it."
)


class KnowledgeCircuit(Result):
    """What :func:`knowledge_circuit` returns: one row an edge, strongest first.

    Attributes
    ----------
    table : Table
        source, target, kind, score (logits), numbers and layers; docs/measures/circuits.md.
    runs : Table
        The clean and the corrupted run, the circuit and random circuits of its size.
    recovered : float or None
        Share of the way from the corrupted to the clean metric that the circuit goes alone; None
        where both runs have the same metric.
    random_recovered : float or None
        Mean over the random circuits.
    notes : list of str
    evidence : list of dict
    """

    def __init__(self, table: Table, runs: Table, provenance: dict[str, Any]) -> None:
        super().__init__(table, provenance)
        self.runs = runs
        rows = list(runs.rows())
        self.recovered = next(row["recovered"] for row in rows if row["run"] == "circuit")
        random = [row["recovered"] for row in rows if row["run"] == "random"]
        known = [value for value in random if value is not None]
        self.random_recovered = sum(known) / len(known) if known else None
        self.notes = [CAUTION]
        clean, corrupted = rows[0]["metric"], rows[1]["metric"]
        if clean <= corrupted:
            self.notes.append(
                "The clean run does not prefer the answer more than the corrupted one: there is "
                "no difference to explain."
            )
        self.evidence = _evidence(self, len(random))

    def __repr__(self) -> str:
        edges = [
            f"{row['source']} -> {row['target']} ({row['kind']}) {row['score']:+.3f}"
            for row in self.table.rows(0, 8)
        ]
        return "\n".join(
            [
                f"<km.KnowledgeCircuit {self._title()}: {len(self)} edges, recovered "
                f"{_share(self.recovered)}, random circuits {_share(self.random_recovered)}>",
                *edges,
                *self.notes,
            ]
        )

    def draw(self, **options: Any) -> Any:
        """The picture :func:`km.draw.circuit` makes of it."""
        from km.draw import circuit

        return circuit(self, **options)

    def test(
        self,
        model: Model,
        clean: str | Ids,
        corrupted: str | Ids,
        answer: str | int,
        wrong: str | int,
        *,
        bos: bool | None = None,
    ) -> Table:
        """Run the circuit's edges on another pair of prompts: what it recovers there.

        Returns
        -------
        Table
            Rows clean, corrupted and circuit, as in `runs`.
        """
        pair = read_pair(model, clean, corrupted, answer, wrong, bos)
        return _evaluate(model, pair, self.table["source_id"], self.table["target_id"])


def _share(value: float | None) -> str:
    return "–" if value is None else f"{round(100 * value) + 0:d} %"


def _evidence(circuit: KnowledgeCircuit, n_random: int) -> list[dict[str, Any]]:
    if circuit.recovered is None:
        return []
    return [
        {
            "node": "knowledge-circuits",
            "measure": CIRCUIT_ID,
            "statistic": "recovered_share",
            "value": circuit.recovered,
            "low": None,
            "high": None,
            "n": 1,
            "unit": "share",
            "baseline": circuit.random_recovered,
            "note": f"{len(circuit)} edges on the pair they were found on; the baseline is the "
            f"mean of {n_random} circuits with the same targets and random sources. {CAUTION}",
        }
    ]


def knowledge_circuit(
    model: Model,
    clean: str | Ids,
    corrupted: str | Ids,
    answer: str | int,
    wrong: str | int,
    *,
    n_edges: int = 200,
    method: str = "eap-ig",
    steps: int = 5,
    n_random: int = 5,
    seed: int = 0,
    bos: bool | None = None,
    progress: Progress = None,
) -> KnowledgeCircuit:
    """Find the edges between heads and MLPs that carry an answer, and run them alone.

    Parameters
    ----------
    model : Model
    clean, corrupted : str or token ids
        Prompts of equal length in tokens, such as the same sentence about two subjects.
    answer, wrong : str or int
        Right answers of the clean and of the corrupted prompt, of which the first tokens count.
    n_edges : int
        Edges kept, by absolute score; those that lead nowhere are dropped afterwards.
    method : {"eap", "eap-ig"}
        Derivatives on the clean run alone, or averaged between corrupted and clean embeddings.
    steps : int
        Of the average.
    n_random : int
        Random circuits: the same targets and edges from the input, all other sources drawn anew.
    seed : int
        Of the random circuits.
    bos : bool, optional
        None: what the model file says.
    progress : bool or callable, optional

    Returns
    -------
    KnowledgeCircuit

    Raises
    ------
    ArgumentError
        Prompts differ in length or not at all, answers start alike, or options are wrong.

    Notes
    -----
    EAP: Syed et al. 2023; EAP-IG: Hanna et al. 2024, whose score of an edge is the change of the
    source's output times the derivative of the metric with respect to the target's input; circuits
    of facts: Yao et al. 2024.
    """
    import numpy as np

    if method not in ("eap", "eap-ig"):
        raise ArgumentError(f"method is {method!r}, not eap or eap-ig")
    n_edges = whole_number("n_edges", n_edges, 1, 2**62)
    steps = whole_number("steps", steps, 1, 10_000)
    n_random = whole_number("n_random", n_random, 0, 100_000)
    seed = whole_number("seed", seed, 0)
    pair = read_pair(model, clean, corrupted, answer, wrong, bos)
    steps = 1 if method == "eap" else steps
    total = steps + n_random
    with ProgressReporter(progress, "knowledge circuit", unit="passes", total=total) as report:
        task = _task(pair)
        found = _km.circuit_run(model._model, *task, steps, 0 if n_random else n_edges, report)
        table = Table.wrap(found)
        everything = table
        if n_random:
            table = Table.wrap(_km.circuit_run(model._model, *task, steps, n_edges))
        runs = [*_evaluate(model, pair, table["source_id"], table["target_id"]).rows()]
        generator = np.random.Generator(np.random.PCG64(seed))
        for i in range(n_random):
            sources, targets = _draw(table, everything, generator)
            rows = list(_evaluate(model, pair, sources, targets).rows())
            runs.append({**rows[-1], "run": "random"})
            report(steps + i + 1)
    parameters = {
        "clean": pair.clean,
        "corrupted": pair.corrupted,
        "prompts": list(pair.texts),
        "answer": pair.answer,
        "wrong": pair.wrong,
        "answers": [model.decode([pair.answer]), model.decode([pair.wrong])],
        "heads": [int(model.config["n_heads"]), int(model.config["n_kv_heads"])],
        "n_edges": n_edges,
        "method": method,
        "steps": steps,
        "n_random": n_random,
        "bos": bos,
    }
    provenance = make_provenance(CIRCUIT_ID, CIRCUIT_VERSION, model, parameters, seed)
    return KnowledgeCircuit(table, Table.from_rows(RUN_COLUMNS, runs), provenance)


def _task(pair: Pair) -> tuple[Any, Any, int, int]:
    import numpy as np

    ids = [np.array(tokens, dtype=np.int32) for tokens in (pair.clean, pair.corrupted)]
    return ids[0], ids[1], pair.answer, pair.wrong


def _evaluate(model: Model, pair: Pair, sources: Sequence[int], targets: Sequence[int]) -> Table:
    import numpy as np

    found = Table.wrap(
        _km.circuit_evaluate(
            model._model,
            *_task(pair),
            np.array(sources, dtype=np.int32),
            np.array(targets, dtype=np.int32),
        )
    )
    rows: list[Mapping[str, Any]] = list(found.rows())
    return Table.from_rows(
        RUN_COLUMNS, [{column.name: row[column.name] for column in RUN_COLUMNS} for row in rows]
    )


def _draw(table: Table, everything: Table, generator: Any) -> tuple[list[int], list[int]]:
    """The circuit's edges from the input, and its other targets with as many sources at random.

    Without the input's edges nothing of the clean prompt would enter, and the control would be
    empty.
    """
    import numpy as np

    all_sources = np.array(everything["source_id"])
    all_targets = np.array(everything["target_id"])
    edges = list(zip(table["source_id"], table["target_id"], strict=True))
    kept = [edge for edge in edges if edge[0] == INPUT]
    for target, count in sorted(Counter(t for s, t in edges if s != INPUT).items()):
        free = all_sources[(all_targets == target) & (all_sources != INPUT)]
        drawn = generator.choice(free, size=count, replace=False).tolist()
        kept += [(source, target) for source in drawn]
    return [source for source, _ in kept], [target for _, target in kept]
