"""Whether a knowledge circuit carries facts it was not found on, beside random circuits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km import _km
from km.arguments import whole_number
from km.circuits import CAUTION, KnowledgeCircuit, _draw, _evaluate
from km.errors import ArgumentError
from km.patch_sweep import read_pair
from km.progress import Progress, ProgressReporter
from km.result import Result, make_provenance
from km.table import Column, Table

if TYPE_CHECKING:
    from km.model import Model
    from km.patch_sweep import Pair

TRANSFER_ID = "interpretability.circuit_transfer"
TRANSFER_VERSION = 1

COLUMNS = [
    Column("relation", "text", "", "Relation of the pair; intervals cluster by it."),
    Column("clean", "text", "", "Prompt whose answer is followed."),
    Column("corrupted", "text", "", "Prompt whose values the other edges carry."),
    Column("answer", "text", "", "First token of the clean prompt's answer."),
    Column("wrong", "text", "", "First token of the corrupted prompt's answer."),
    Column("clean_metric", "double", "logits", "Answer minus wrong in the clean run."),
    Column("corrupted_metric", "double", "logits", "The same in the corrupted run."),
    Column("metric", "double", "logits", "The same with the circuit's edges alone clean."),
    Column("random_metric", "double", "logits", "Its mean over random circuits."),
    Column("n_random", "int64", "circuits", "Random circuits: same targets, random sources."),
]
PAIR = ("relation", "clean", "corrupted", "answer", "wrong")


class CircuitTransfer(Result):
    """What :func:`circuit_transfer` returns: one row a held-out pair.

    Attributes
    ----------
    table : Table
    gain : Figure
        Mean over pairs of metric minus random_metric (logits): estimate, low, high, n (relations)
        and p of the relations' sign flips.
    notes : list of str
    evidence : list of dict
    """

    def __init__(self, table: Table, provenance: dict[str, Any]) -> None:
        super().__init__(table, provenance)
        self.gain = gain(table)
        self.notes = [CAUTION]
        weak = sum(row["clean_metric"] <= row["corrupted_metric"] for row in table.rows())
        if weak:
            self.notes.append(
                f"In {weak} of {len(table)} pairs the clean run does not prefer the answer more "
                "than the corrupted one: there is little to carry."
            )
        self.evidence = [
            {
                "node": "knowledge-circuits",
                "measure": TRANSFER_ID,
                "statistic": "metric_minus_random",
                "value": self.gain.estimate,
                "low": self.gain.low,
                "high": self.gain.high,
                "n": len(table),
                "unit": "logits",
                "baseline": 0.0,
                "note": f"Held-out pairs of {self.gain.n} relations; circuit minus the mean of "
                f"{self.parameters['n_random']} circuits with the same targets and random sources.",
            }
        ]

    def __repr__(self) -> str:
        found = self.gain
        spread = "" if found.low is None else f" [{found.low:+.3f}, {found.high:+.3f}]"
        return "\n".join(
            [
                f"<km.CircuitTransfer {self._title()}: {len(self)} held-out pairs, circuit beyond "
                f"random ones {found.estimate:+.3f} logits{spread}, {found.n} relations>",
                *self.notes,
            ]
        )


def gain(table: Table, level: float = 0.95) -> Any:
    """Mean of metric minus random_metric over pairs, clustered by relation: a ledger's Figure."""
    from km.ledger.figures import clustered_mean

    rows = list(table.rows())
    return clustered_mean(
        [row["metric"] - row["random_metric"] for row in rows],
        [row["relation"] for row in rows],
        [row["clean"] for row in rows],
        level,
    )


def circuit_transfer(
    model: Model,
    circuit: KnowledgeCircuit,
    pairs: Iterable[Mapping[str, Any]],
    *,
    n_random: int = 20,
    seed: int = 0,
    bos: bool | None = None,
    progress: Progress = None,
) -> CircuitTransfer:
    """Run a circuit, and random ones like it, on pairs of prompts it was not found on.

    Parameters
    ----------
    model : Model
        The one the circuit was found in.
    circuit : KnowledgeCircuit
    pairs : iterable of mapping
        relation, clean, corrupted, answer, wrong, as :func:`km.knowledge_circuit` takes them.
    n_random : int
        Random circuits with the same targets and random sources; the same ones on every pair.
    seed : int
        Of the random circuits.
    bos : bool, optional
        None: what the model file says.
    progress : bool or callable, optional

    Returns
    -------
    CircuitTransfer

    Raises
    ------
    ArgumentError
        Another model, no pairs, a pair that lacks a member, or one with a prompt the circuit was
        found on.
    """
    import numpy as np

    n_random = whole_number("n_random", n_random, 1, 100_000)
    seed = whole_number("seed", seed, 0)
    found_in = circuit.provenance["model"]["fingerprint"]
    if found_in != model.fingerprint:
        raise ArgumentError(f"the circuit was found in the model {found_in[:8]}, not in this one")
    given = [_read(model, i, pair, circuit, bos) for i, pair in enumerate(pairs)]
    if not given:
        raise ArgumentError("there are no pairs")
    edges = (circuit.table["source_id"], circuit.table["target_id"])
    generator = np.random.Generator(np.random.PCG64(seed))
    everything = _all_edges(model, given[0][1])
    drawn = [_draw(circuit.table, everything, generator) for _ in range(n_random)]
    rows = []
    with ProgressReporter(progress, "circuit transfer", unit="pairs", total=len(given)) as report:
        for i, (named, pair) in enumerate(given):
            rows.append(named | _metrics(model, pair, edges, drawn))
            report(i + 1)
    parameters = {
        "circuit": [list(edge) for edge in zip(*edges, strict=True)],
        "found_on": [circuit.parameters["clean"], circuit.parameters["corrupted"]],
        "prompts": [[named[name] for name in PAIR] for named, _ in given],
        "n_random": n_random,
        "bos": bos,
    }
    provenance = make_provenance(TRANSFER_ID, TRANSFER_VERSION, model, parameters, seed)
    return CircuitTransfer(Table.from_rows(COLUMNS, rows), provenance)


def _read(
    model: Model, i: int, given: Mapping[str, Any], circuit: KnowledgeCircuit, bos: bool | None
) -> tuple[dict[str, Any], Pair]:
    """A pair as it is stored and as it is run."""
    missing = [name for name in PAIR if name not in given]
    if missing:
        raise ArgumentError(f"pair {i} lacks {missing[0]!r}")
    clean, corrupted, answer, wrong = (given[name] for name in PAIR[1:])
    pair = read_pair(model, clean, corrupted, answer, wrong, bos)
    seen = [circuit.parameters["clean"], circuit.parameters["corrupted"]]
    if list(pair.clean) in seen or list(pair.corrupted) in seen:
        raise ArgumentError(f"pair {i} has a prompt the circuit was found on: it is not held out")
    named = {
        "relation": str(given["relation"]),
        "clean": pair.texts[0],
        "corrupted": pair.texts[1],
        "answer": model.decode([pair.answer]),
        "wrong": model.decode([pair.wrong]),
    }
    return named, pair


def _all_edges(model: Model, pair: Pair) -> Table:
    """Every edge there is, whatever the prompts."""
    import numpy as np

    ids = [np.array(tokens, dtype=np.int32) for tokens in (pair.clean, pair.corrupted)]
    return Table.wrap(_km.circuit_run(model._model, ids[0], ids[1], pair.answer, pair.wrong, 1, 0))


def _metrics(
    model: Model,
    pair: Pair,
    edges: tuple[Sequence[int], Sequence[int]],
    drawn: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> dict[str, Any]:
    """The four metrics of a pair."""
    clean, corrupted, own = (row["metric"] for row in _evaluate(model, pair, *edges).rows())
    random = [list(_evaluate(model, pair, *other).rows())[-1]["metric"] for other in drawn]
    return {
        "clean_metric": clean,
        "corrupted_metric": corrupted,
        "metric": own,
        "random_metric": math.fsum(random) / len(random),
        "n_random": len(random),
    }
