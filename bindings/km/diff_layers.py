"""Where two models part: states of the residual stream and next-token distributions by layer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from km import stats
from km.patching import patch
from km.recall_plan import RelationPlan
from km.table import Column, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from km.model import Model

#: Prompts whose every layer is read through the unembedding, over all relations.
LENS_PROMPTS = 64

PROBE_COLUMNS = [
    Column("relation", "text", "", "Name of the relation."),
    Column("fact", "text", "", "Identifier of the fact."),
    Column("prompt", "text", "", "The prompt, read at its last token."),
    Column("layer", "int64", "layer", "Block read after; the number of blocks is the output."),
    Column("distance", "double", "", "Norm of the states' difference over that of the first."),
    Column("angle", "double", "", "One minus the cosine of the two states."),
    Column(
        "kl", "double", "nats", "KL of the first model's next-token distribution to the other's."
    ),
]

LAYER_COLUMNS = [
    Column("layer", "int64", "layer", "Block read after; the number of blocks is the output."),
    Column("n", "int64", "prompts", "Prompts read."),
    Column("distance", "double", "", "Mean relative distance of the residual streams."),
    Column("angle", "double", "", "Mean of one minus their cosine."),
    Column("kl", "double", "nats", "Mean KL(before || after) of what the layer would say next."),
    Column("kl_low", "double", "nats", "Lower end of its interval, clustered by relation."),
    Column("kl_high", "double", "nats", "Upper end."),
    Column("n_kl", "int64", "prompts", "Prompts it is a mean of."),
]


class Probe(NamedTuple):
    """One prompt at which two models are compared layer by layer."""

    relation: str
    fact: str
    prompt: str
    lens: bool


class Comparable(NamedTuple):
    """What of two models can be laid side by side.

    Attributes
    ----------
    output : bool
        Next-token distributions: the same tokenizer and size of vocabulary.
    layers : bool
        Also residual streams and the logit lens: the same depth and width.
    note : str
        What is left out and why; "" for nothing.
    """

    output: bool
    layers: bool
    note: str


def comparable(a: Model, b: Model) -> Comparable:
    """What of two models can be compared layer by layer."""
    if a.tokenizer_hash != b.tokenizer_hash or a.config["vocab_size"] != b.config["vocab_size"]:
        note = "The models tokenise differently: no divergence per layer or of next tokens."
        return Comparable(False, False, note)
    sizes = [(m.config["arch"], m.config["n_layers"], m.config["d_model"]) for m in (a, b)]
    if sizes[0] != sizes[1]:
        note = "The architectures differ: of the layers only the output is compared."
        return Comparable(True, False, note)
    return Comparable(True, True, "")


def choose_probes(plans: Sequence[RelationPlan], count: int, seed: int) -> list[list[Probe]]:
    """Of each relation `count` prompts, each about another fact, templates in turn.

    The choice is decided by SHA-256 of seed, relation and fact. The first of each relation are read
    through all layers, `LENS_PROMPTS` in all.
    """
    each = max(1, LENS_PROMPTS // max(1, len(plans)))
    return [
        [
            Probe(
                plan.name,
                fact.id,
                plan.templates[i % len(plan.templates)].replace("{}", fact.subject),
                i < each,
            )
            for i, fact in enumerate(sorted(plan.facts, key=_order(seed, plan.name))[:count])
        ]
        for plan in plans
    ]


def _order(seed: int, relation: str) -> Any:
    def key(fact: Any) -> bytes:
        return hashlib.sha256(f"{seed}\0{relation}\0{fact.id}".encode()).digest()

    return key


def probe_table(
    a: Model, b: Model, probes: Sequence[Probe], what: Comparable, bos: bool | None
) -> Table:
    """One row a prompt and layer."""
    ids = [a.encode(probe.prompt, bos=bos) for probe in probes]
    rows = list(_rows(a, b, probes, ids, what))
    return Table.from_rows(PROBE_COLUMNS, rows)


def _rows(
    a: Model, b: Model, probes: Sequence[Probe], ids: list[list[int]], what: Comparable
) -> Iterator[dict[str, Any]]:
    read = ["next_logprobs", *(["resid_post"] if what.layers else [])]
    n_layers = int(a.config["n_layers"])
    with a.trace(ids, read, positions="last") as one, b.trace(ids, read, positions="last") as two:
        for i, probe in enumerate(probes):
            place = {"relation": probe.relation, "fact": probe.fact, "prompt": probe.prompt}
            if what.layers:
                states = [t[i]["resid_post"][:, 0] for t in (one, two)]
                kl: Sequence[float | None] = [None] * n_layers
                if probe.lens:
                    spoken = [_lens(m, ids[i], s) for m, s in zip((a, b), states, strict=True)]
                    kl = [divergence(p, q) for p, q in zip(*spoken, strict=True)]
                for layer in range(n_layers):
                    distance, angle = _apart(states[0][layer], states[1][layer])
                    found = {"distance": distance, "angle": angle, "kl": kl[layer]}
                    yield {**place, "layer": layer, **found}
            last = divergence(one[i]["next_logprobs"][0], two[i]["next_logprobs"][0])
            yield {**place, "layer": n_layers, "kl": last}


def _lens(model: Model, ids: list[int], states: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities of the vocabulary that each layer's state stands for.

    The state is put in place of the last block's output, so that whatever the architecture has
    behind it (norm, unembedding, soft cap) is applied by the model itself.

    Returns
    -------
    (L, V) float32, nats
    """
    last = len(states) - 1
    moved = [
        patch("resid_post", layer=last, positions="last", text=layer).set(state)
        for layer, state in enumerate(states)
    ]
    with model.trace(
        [ids] * len(states), "next_logprobs", positions="last", patches=moved
    ) as trace:
        return trace["next_logprobs"][:, 0].copy()


def divergence(p: NDArray[np.float32], q: NDArray[np.float32]) -> float:
    """KL of two distributions given as log-probabilities, nats; exactly 0 for equal ones."""
    import numpy as np

    first, second = p.astype(np.float64), q.astype(np.float64)
    weights = np.exp(first)
    seen = weights > 0
    return max(float((weights[seen] * (first[seen] - second[seen])).sum()), 0.0)


def _apart(x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[float, float]:
    """Relative distance, and one minus the cosine; both exactly 0 for equal states."""
    import numpy as np

    first, second = x.astype(np.float64), y.astype(np.float64)
    norms = [float(np.linalg.norm(v)) for v in (first, second)]
    distance = float(np.linalg.norm(second - first)) / norms[0]
    angle = 0.5 * float(np.sum((first / norms[0] - second / norms[1]) ** 2))
    return distance, angle


def layer_rows(table: Table, confidence: float, seed: int) -> list[dict[str, Any]]:
    """Means of the probes by layer."""
    by_layer: dict[int, list[dict[str, Any]]] = {}
    for row in table.rows():
        by_layer.setdefault(row["layer"], []).append(row)
    return [
        {
            "layer": layer,
            "n": len(rows),
            "distance": _mean(rows, "distance"),
            "angle": _mean(rows, "angle"),
            **_kl(rows, confidence, seed),
        }
        for layer, rows in sorted(by_layer.items())
    ]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values) / len(values) if values else None


def _kl(rows: Sequence[dict[str, Any]], confidence: float, seed: int) -> dict[str, Any]:
    kept = [row for row in rows if row["kl"] is not None]
    out: dict[str, Any] = {"kl": _mean(kept, "kl"), "n_kl": len(kept)}
    clusters = [row["relation"] for row in kept]
    if len(set(clusters)) == 1:
        clusters = [row["fact"] for row in kept]
    if len(set(clusters)) < 2:
        return out
    values = [row["kl"] for row in kept]
    found = stats.clustered_bootstrap(values, clusters, confidence=confidence, seed=seed)
    return out | {"kl_low": max(found.low, 0.0), "kl_high": found.high}
