"""Causal tracing: which restored states bring a corrupted subject's answer back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from km import stats
from km.arguments import MOST_TOKENS, coverage, real_number, several, whole_number
from km.chunk_work import ChunkWork, counted
from km.errors import ArgumentError
from km.fact_prompts import FactPrompt, Facts, fact_prompts
from km.points import Points
from km.progress import Progress, ProgressReporter
from km.result import ChunkedResult, content_key, make_provenance
from km.scores.interventions import causal_effects, noise_scale, restored_layers
from km.table import Column, Table
from km.variants import ADD, SET, Change, Sweep, read_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from km.kb import KnowledgeBase
    from km.model import Model

CAUSAL_TRACE_ID = "interpretability.causal_trace"
CAUSAL_TRACE_VERSION = 1

# What each kind restores.
POINTS = {"state": "resid_post", "mlp": "mlp_out", "attention": "attn_out"}

COLUMNS = [
    Column("fact", "text", "", "Identifier of the fact, or its prompt."),
    Column("relation", "text", "", "Relation of the fact; intervals cluster by it."),
    Column("prompt", "text", "", "What the model was shown."),
    Column("subject_begin", "int64", "token", "First token of the subject."),
    Column("subject_end", "int64", "token", "The token after its last."),
    Column("answer_id", "int64", "", "Token whose probability is followed: the clean argmax."),
    Column("answer", "text", "", "Its text."),
    Column("correct", "bool", "", "The clean argmax starts an accepted answer; null without one."),
    Column("p_clean", "double", "probability", "Of the answer in the clean run."),
    Column("p_corrupt", "double", "probability", "Its mean over corrupted runs; null if skipped."),
    Column("kind", "text", "", "What is restored; null for a fact that was skipped."),
    Column("position", "int64", "token", "Token whose state is restored."),
    Column("token", "text", "", "Its text."),
    Column("layer", "int64", "layer", "Layer restored, or the middle of the window."),
    Column("p_restored", "double", "probability", "Mean over the corrupted runs, restored."),
]

FACT_COLUMNS = [
    *COLUMNS[:10],
    Column("total_effect", "double", "probability", "p_clean - p_corrupt; null if skipped."),
]

EFFECT_COLUMNS = [
    Column("kind", "text", "", "What is restored."),
    Column("role", "text", "", "Token restored, by its place."),
    Column("layer", "int64", "layer", "Layer restored, or the middle of the window."),
    Column("aie", "double", "probability", "Mean indirect effect over facts."),
    Column("low", "double", "probability", "Lower end of its interval."),
    Column("high", "double", "probability", "Upper end."),
    Column("interval", "text", "", "Method of the interval; null below two facts."),
    Column("n", "int64", "facts", "Facts that have such a token."),
    Column("n_clusters", "int64", "clusters", "Units the interval counts as independent."),
]

CAUTION = (
    "A large indirect effect says that a state suffices to bring the answer back under this noise, "
    "not that the fact is stored there: where tracing points is no guide to where editing works "
    "(Hase et al. 2023), and figures depend on the noise (Zhang and Nanda 2024)."
)


class CausalTrace(ChunkedResult):
    """What :func:`causal_trace` returns: one row a fact, kind, token and layer.

    Attributes
    ----------
    table : Table
        A fact that was skipped has one row without kind.
    facts : Table
        One row a fact: clean and corrupted probability, total effect.
    effects : Table
        Average indirect effect by kind, role of the token and layer, with its interval.
    n, n_skipped : int
        Facts traced, and facts whose clean prediction is wrong.
    total_effect : stats.Interval or None
        Mean over facts, clustered by relation; None below two facts.
    evidence : list of dict
    notes : list of str
    """

    MEASURE_ID = CAUSAL_TRACE_ID

    def __init__(
        self,
        chunks: Sequence[tuple[str, Table]],
        provenance: dict[str, Any],
        run: int | None = None,
    ) -> None:
        super().__init__(chunks, provenance, run)
        groups = [list(table.rows()) for _, table in chunks]
        traced = [rows for rows in groups if rows[0]["kind"] is not None]
        self.n = len(traced)
        self.n_skipped = len(groups) - len(traced)
        self.facts = Table.from_rows(FACT_COLUMNS, [_fact_row(rows[0]) for rows in groups])
        self._grids = [_grids(rows) for rows in traced]
        parameters = self.parameters
        options = {
            "confidence": float(parameters["confidence"]),
            "seed": int(parameters["bootstrap_seed"]),
        }
        self.effects = Table.from_rows(EFFECT_COLUMNS, _average(traced, self._grids, options))
        totals = [rows[0]["p_clean"] - rows[0]["p_corrupt"] for rows in traced]
        self.total_effect = _interval(totals, [rows[0] for rows in traced], options)
        self.notes = _notes(self)
        self.evidence = _evidence(self, totals)

    def grid(self, fact: int = 0, kind: str = "state") -> dict[str, Any]:
        """Scores of one traced fact as :func:`km.draw.causal_trace` takes them.

        Returns
        -------
        dict
            kind, prompt, answer, tokens, subject (first, after last), scores (T, L) probability,
            low, high (probability of the corrupted and the clean run).
        """
        found: dict[str, Any] = self._grids[fact][kind]
        return found

    def __repr__(self) -> str:
        lines = [
            f"<km.CausalTrace {self._title()}: {self.n} facts traced, {self.n_skipped} skipped>"
        ]
        if self.total_effect is not None:
            lines.append(f"total effect {self.total_effect}")
        lines += [
            f"{row['kind']}: largest average indirect effect before the last token "
            f"{row['aie']:.3f} at layer {row['layer']}, {_spoken(row)}, n = {row['n']}"
            for row in peaks(self.effects)
        ]
        return "\n".join([*lines, *self.notes])

    def draw(self, fact: int = 0, kind: str = "state", **options: Any) -> Any:
        """The heat map :func:`km.draw.causal_trace` makes of one fact."""
        from km.draw import causal_trace

        return causal_trace(self, fact=fact, kind=kind, **options)


def _fact_row(row: Mapping[str, Any]) -> dict[str, Any]:
    corrupt = row["p_corrupt"]
    total = None if corrupt is None else row["p_clean"] - corrupt
    return {**{column.name: row[column.name] for column in COLUMNS[:10]}, "total_effect": total}


def _grids(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows of one fact as a grid of tokens and layers for each kind."""
    import numpy as np

    first = rows[0]
    grids = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        tokens = [row["token"] for row in own if row["layer"] == own[0]["layer"]]
        grids[kind] = {
            "kind": kind,
            "prompt": first["prompt"],
            "answer": first["answer"],
            "tokens": tokens,
            "layers": [row["layer"] for row in own if row["position"] == own[0]["position"]],
            "subject": (first["subject_begin"], first["subject_end"]),
            "scores": np.array([row["p_restored"] for row in own]).reshape(len(tokens), -1),
            "low": first["p_corrupt"],
            "high": first["p_clean"],
        }
    return grids


def _interval(
    values: Sequence[float], facts: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> stats.Interval | None:
    """Mean over facts: relations, then facts, are the clusters."""
    if len(values) < 2:
        return None
    names = [f"{fact['relation']}\0{fact['fact']}" for fact in facts]
    relations = [fact["relation"] for fact in facts]
    if len(set(relations)) < 2:
        return stats.clustered_bootstrap(values, names, **options)
    return stats.clustered_bootstrap(values, relations, names, **options)


def _average(
    facts: Sequence[Sequence[Mapping[str, Any]]],
    grids: Sequence[Mapping[str, Mapping[str, Any]]],
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Average indirect effect over facts by kind, role and layer."""
    found: dict[tuple[str, str, int], tuple[list[float], list[Mapping[str, Any]]]] = {}
    for rows, own in zip(facts, grids, strict=True):
        for kind, grid in own.items():
            effects = causal_effects(grid["high"], grid["low"], grid["scores"], grid["subject"])
            for role, along in effects.roles.items():
                for layer, value in zip(grid["layers"], along.tolist(), strict=True):
                    kept = found.setdefault((kind, role, layer), ([], []))
                    kept[0].append(value)
                    kept[1].append(rows[0])
    out = []
    for (kind, role, layer), (values, of) in found.items():
        spread = _interval(values, of, options)
        out.append(
            {
                "kind": kind,
                "role": role,
                "layer": layer,
                "aie": sum(values) / len(values),
                "low": spread.low if spread else None,
                "high": spread.high if spread else None,
                "interval": spread.method if spread else None,
                "n": len(values),
                "n_clusters": spread.n_clusters if spread else None,
            }
        )
    return out


def peaks(effects: Table) -> list[dict[str, Any]]:
    """The row with the largest average indirect effect of each kind before the last token.

    At the last token the effect grows to the total one as the layer nears the output.
    """
    best: dict[str, dict[str, Any]] = {}
    for row in effects.rows():
        if row["role"] == "last_token":
            continue
        if row["kind"] not in best or row["aie"] > best[row["kind"]]["aie"]:
            best[row["kind"]] = row
    return list(best.values())


def _spoken(row: Mapping[str, Any]) -> str:
    return str(row["role"]).replace("_", " ")


def _notes(trace: CausalTrace) -> list[str]:
    notes = [CAUTION]
    if trace.n_skipped:
        notes.append(
            f"{trace.n_skipped} of {trace.n + trace.n_skipped} facts were skipped: the clean run "
            "does not predict their answer. What is said holds for the others."
        )
    if trace.n and len({row["relation"] for row in trace.facts.rows()}) < 2:
        notes.append("All facts are of one relation: nothing is said about others.")
    return notes


def _evidence(trace: CausalTrace, totals: Sequence[float]) -> list[dict[str, Any]]:
    """Effects with their intervals; a peak is chosen after the fact and has none."""
    if not totals:
        return []
    spread = trace.total_effect
    out = [
        {
            "statistic": "total_effect",
            "value": sum(totals) / len(totals),
            "low": spread.low if spread else None,
            "high": spread.high if spread else None,
            "unit": "probability",
            "note": f"Probability lost by corrupting the subject; {trace.n_skipped} facts skipped.",
        }
    ]
    out += [
        {
            "statistic": f"peak_layer_{row['kind']}",
            "value": float(row["layer"]),
            "low": None,
            "high": None,
            "unit": "layer",
            "note": f"Largest average indirect effect before the last token: {row['aie']:.3f} at "
            f"the {_spoken(row)}; chosen after looking. {CAUTION}",
        }
        for row in peaks(trace.effects)
    ]
    fixed = {
        "node": "causal-tracing",
        "measure": CAUSAL_TRACE_ID,
        "n": len(totals),
        "baseline": None,
    }
    return [{**fixed, **row} for row in out]


# ---- running ----


class _Options(NamedTuple):
    """What decides the figures of one fact."""

    kinds: tuple[str, ...]
    window: int
    samples: int
    layers: tuple[int, ...]
    noise: float
    seed: int

    def describe(self) -> dict[str, Any]:
        return self._asdict()


def causal_trace(
    model: Model,
    facts: Facts,
    *,
    template: int = 0,
    kinds: Sequence[str] = ("state", "mlp", "attention"),
    window: int = 10,
    samples: int = 10,
    layers: Sequence[int] | None = None,
    noise: float | None = None,
    noise_factor: float = 3.0,
    noise_values: Sequence[ArrayLike] | None = None,
    seed: int = 1,
    bos: bool | None = None,
    confidence: float = 0.95,
    bootstrap_seed: int = 0,
    batch_tokens: int = 2048,
    kb: KnowledgeBase | None = None,
    progress: Progress = None,
) -> CausalTrace:
    """Corrupt the subject of prompts, restore single states, see how much of the answer returns.

    Parameters
    ----------
    model : Model
    facts : FactSet, Relation, relations, str or iterable of mappings
        A str is a shipped relation, kind or "all". A mapping has `prompt` (text or token ids),
        `subject` (text, or its first token and the one after its last), and optionally `answer`
        (text or token id), `fact` and `relation`.
    template : int
        Index of the relations' template.
    kinds : sequence of {"state", "mlp", "attention"}
        What is restored: the residual stream after a block, or the outputs of MLPs or attention of
        a window of blocks.
    window : int
        Blocks restored together for mlp and attention: l - w // 2 to l + w // 2 - 1, clipped.
    samples : int
        Corrupted runs.
    layers : sequence of int, optional
        Layers restored; None: all.
    noise : float, optional
        Standard deviation of the noise; None: `noise_factor` times that of all entries of the
        embeddings of all subjects, each tokenised alone.
    noise_values : sequence of (samples, subject tokens, D) float, optional
        Standard normal numbers for each fact; None: numpy's RandomState(seed).randn.
    seed : int
    bos : bool, optional
        None: what the model file says.
    confidence : float
        Coverage of the intervals.
    bootstrap_seed : int
    batch_tokens : int
        Distinct tokens a pass; bounds memory, changes no figure.
    kb : KnowledgeBase, optional
        Traced facts are looked up in it and stored as soon as they are done, so that an
        interrupted run is taken up where it stopped; the result is recorded in it.
    progress : bool or callable, optional

    Returns
    -------
    CausalTrace

    Raises
    ------
    ArgumentError
        Facts or options are wrong.
    CancelledError, KeyboardInterrupt
        Facts traced before are kept in `kb`.

    Notes
    -----
    Meng et al. 2022, section 2, as in the authors' code. The noise is added to the token embeddings
    of the subject before learned positions. Scores are means over the corrupted runs of the
    probability, at the last token, of the token most likely in the clean run. Facts whose clean
    prediction is not their answer are skipped and counted. TE = p_clean - p_corrupt,
    IE = p_restored - p_corrupt, AIE its mean over facts.

    Restoring a token before the subject, or only the last layer of a token that is not the last,
    changes nothing that the answer depends on; these figures are p_corrupt without being computed.
    """
    coverage(confidence)
    whole_number("bootstrap_seed", bootstrap_seed, 0, 2**64 - 1)
    batch_tokens = whole_number("batch_tokens", batch_tokens, 1, MOST_TOKENS)
    template = whole_number("template", template, 0)
    noise_factor = real_number("noise_factor", noise_factor, 0, 1e30)
    prompts = fact_prompts(model, facts, template, bos)
    options = _options(model, prompts, kinds, window, samples, layers, noise, noise_factor, seed)
    draws = _draws(model, prompts, samples, seed, noise_values)
    keys = [_key(model, p, options, draws[i], noise_values) for i, p in enumerate(prompts)]
    parameters = {
        **options.describe(),
        "noise_factor": None if noise is not None else noise_factor,
        "template": template,
        "bos": bos,
        "confidence": confidence,
        "bootstrap_seed": bootstrap_seed,
        "chunks": keys,
    }
    provenance = make_provenance(CAUSAL_TRACE_ID, CAUSAL_TRACE_VERSION, model, parameters, seed)
    work = ChunkWork(kb, provenance)
    with ProgressReporter(progress, "causal trace", unit="facts", total=len(prompts)) as report:
        jobs = [
            (key, partial(_trace, model, p, options, d, batch_tokens))
            for key, p, d in zip(keys, prompts, draws, strict=True)
        ]
        chunks = work.run(counted(jobs, report))
    result = CausalTrace(chunks, provenance, work.run_id)
    if kb is not None and not kb.read_only:
        result.run = kb.record(result)
    return result


def _options(
    model: Model,
    prompts: Sequence[FactPrompt],
    kinds: Sequence[str],
    window: int,
    samples: int,
    layers: Sequence[int] | None,
    noise: float | None,
    noise_factor: float,
    seed: int,
) -> _Options:
    n_layers = int(model.config["n_layers"])
    chosen = tuple(range(n_layers)) if layers is None else _layers(layers)
    unknown = [kind for kind in kinds if kind not in POINTS]
    if isinstance(kinds, str) or unknown or not kinds:
        raise ArgumentError(f"kinds are {', '.join(POINTS)}, not {kinds!r}")
    window = whole_number("window", window, 2, 2**31)
    if window % 2:
        raise ArgumentError(f"window is {window}; it must be even")
    samples = whole_number("samples", samples, 1, 1_000_000)
    seed = whole_number("seed", seed, 0, 2**32 - 1)
    if not chosen or chosen[0] < 0 or chosen[-1] >= n_layers:
        raise ArgumentError(f"layers must lie in 0 to {n_layers - 1}, and there must be one")
    for kind in kinds:
        Points(model).find(POINTS[kind])
    if noise is None:
        noise = _noise(model, prompts, noise_factor)
    noise = real_number("noise", noise, 0, 1e30)
    if noise == 0:
        raise ArgumentError("noise is 0; it must be positive")
    return _Options(tuple(kinds), window, samples, chosen, float(noise), seed)


def _layers(layers: int | Sequence[int]) -> tuple[int, ...]:
    """Rising, each once; one may stand by itself."""
    given = several("layers", layers)
    return tuple(sorted({whole_number("layers", layer, 0) for layer in given}))


def _noise(model: Model, prompts: Sequence[FactPrompt], factor: float) -> float:
    """`factor` standard deviations of the embeddings of all subjects."""
    import numpy as np

    rows: dict[int, NDArray[np.float32]] = {}
    for token in {token for prompt in prompts for token in prompt.subject_ids}:
        found, _ = read_run(model, [token], [("embed", 0)])
        rows[token] = found["embed", 0][0]
    return noise_scale(
        np.stack([rows[token] for prompt in prompts for token in prompt.subject_ids]), factor
    )


def _draws(
    model: Model,
    prompts: Sequence[FactPrompt],
    samples: int,
    seed: int,
    given: Sequence[ArrayLike] | None,
) -> list[NDArray[np.float64]]:
    """Standard normal numbers (samples, subject tokens, D) for each fact."""
    import numpy as np

    width = int(model.config["d_model"])
    shapes = [(samples, p.subject[1] - p.subject[0], width) for p in prompts]
    if given is None:
        return [np.random.RandomState(seed).randn(*shape) for shape in shapes]
    if len(given) != len(prompts):
        raise ArgumentError(f"{len(given)} arrays of noise for {len(prompts)} facts")
    values = [np.asarray(own, dtype=np.float64) for own in given]
    for own, shape in zip(values, shapes, strict=True):
        if own.shape != shape:
            raise ArgumentError(f"noise of shape {own.shape} where {shape} is needed")
    return values


def _key(
    model: Model,
    prompt: FactPrompt,
    options: _Options,
    draws: NDArray[np.float64],
    given: Sequence[ArrayLike] | None,
) -> str:
    parameters = {
        **options.describe(),
        "fact": prompt.fact,
        "relation": prompt.relation,
        "subject": prompt.subject,
        "answers": prompt.answers,
        "draws": None if given is None else draws.tolist(),
    }
    return content_key(
        CAUSAL_TRACE_ID, CAUSAL_TRACE_VERSION, parameters, model.fingerprint, prompt.ids
    )


def _trace(
    model: Model,
    prompt: FactPrompt,
    options: _Options,
    draws: NDArray[np.float64],
    batch_tokens: int,
) -> Table:
    """The rows of one fact."""
    import numpy as np

    logprobs = model.next_logprobs(prompt.ids)
    answer = int(np.argmax(logprobs))
    row = {
        "fact": prompt.fact,
        "relation": prompt.relation,
        "prompt": prompt.text,
        "subject_begin": prompt.subject[0],
        "subject_end": prompt.subject[1],
        "answer_id": answer,
        "answer": model.decode([answer]),
        "correct": answer in prompt.answers if prompt.answers else None,
        "p_clean": float(np.exp(np.float64(logprobs[answer]))),
    }
    if prompt.answers and answer not in prompt.answers:
        return Table.from_rows(COLUMNS, [row])
    low, scores = _restore(model, prompt, options, draws, answer, batch_tokens)
    tokens = [model.decode([token]) for token in prompt.ids]
    return Table.from_rows(
        COLUMNS,
        [
            {
                **row,
                "p_corrupt": low,
                "kind": kind,
                "position": position,
                "token": tokens[position],
                "layer": layer,
                "p_restored": float(scores[k, position, at]),
            }
            for k, kind in enumerate(options.kinds)
            for position in range(len(tokens))
            for at, layer in enumerate(options.layers)
        ],
    )


def _restore(
    model: Model,
    prompt: FactPrompt,
    options: _Options,
    draws: NDArray[np.float64],
    answer: int,
    batch_tokens: int,
) -> tuple[float, NDArray[np.float64]]:
    """Mean probability of the answer in corrupted runs, plain and restored (kinds, T, layers)."""
    import numpy as np

    n, n_layers, width = len(prompt.ids), int(model.config["n_layers"]), draws.shape[2]
    begin, end = prompt.subject
    reads = [(POINTS[kind], layer) for kind in options.kinds for layer in range(n_layers)]
    clean, _ = read_run(model, prompt.ids, reads)
    noise = (options.noise * draws).astype(np.float32)
    values = np.concatenate([noise.reshape(-1), *(clean[read].reshape(-1) for read in reads)])
    start = {read: noise.size + i * n * width for i, read in enumerate(reads)}

    cells, variants = [], []
    for k, kind in enumerate(options.kinds):
        for position in range(begin, n):
            for at, layer in enumerate(options.layers):
                held = restored_layers(layer, n_layers, 0 if kind == "state" else options.window)
                if position < n - 1 and held[0] == n_layers - 1:
                    continue
                point = POINTS[kind]
                cells.append((k, position, at))
                variants.append(
                    [
                        Change(position, SET, point, own, start[point, own] + position * width)
                        for own in held
                    ]
                )
    low = 0.0
    sums = np.zeros(len(cells))
    for sample in range(options.samples):
        base = [
            Change(begin + i, ADD, "embed", 0, (sample * (end - begin) + i) * width)
            for i in range(end - begin)
        ]
        sweep = Sweep(model, prompt.ids, base, values, [(n - 1, answer)], batch_tokens)
        corrupted, restored = sweep.run(variants)
        low += float(np.exp(corrupted[0])) / options.samples
        sums += np.exp(restored[:, 0]) / options.samples
    scores = np.full((len(options.kinds), n, len(options.layers)), low)
    for cell, value in zip(cells, sums, strict=True):
        scores[cell] = value
    return low, scores
