"""Knowledge conflict: what a model answers where a passage says otherwise than it remembers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from km.arguments import coverage, whole_number
from km.chunk_work import ChunkWork, counted
from km.conflict_plan import (
    CLOSED,
    COLUMNS,
    CONFLICT_ID,
    CONFLICT_VERSION,
    SUBSTITUTE,
    By,
    Item,
    as_templates,
    check_examples,
    check_lengths,
    chunk_key,
    make_items,
)
from km.conflict_summary import (
    DISAGREEMENT_COLUMNS,
    RATIO_COLUMNS,
    Rows,
    conflict_evidence,
    conflict_notes,
    counted_rows,
    rows_ratio,
    summarise_disagreement,
    summarise_ratios,
)
from km.datasets.answer_text import MATCHES, Match, answer_part
from km.datasets.conflict_set import QAExample, QASet, as_examples
from km.errors import ArgumentError
from km.progress import Progress, ProgressReporter
from km.result import ChunkedResult, make_provenance, stored_chunks, stored_table
from km.scores.conflict import MemorizationRatio, bucket, matches, normalize_answer
from km.table import Table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.model import Model
    from km.recall import Recall

# Examples measured, and stored, together.
CHUNK_EXAMPLES = 16


class Conflict(ChunkedResult):
    """What :func:`conflict` returns: one row a prompt.

    Attributes
    ----------
    ratios : Table
        Original, substitute and other with the memorization ratio: of all examples, by relation,
        position, popularity, state of recall and matching, and with two passages.
    disagreement : Table
        How often paraphrases without a passage get different answers (internal conflict), and how
        often the order of two contradicting passages decides (inter-context conflict).
    control : Table or None
        The same rows for the same architecture with random weights; its original answers are those
        of the model.
    chunks : list of (key, Table)
        Those of the control too.
    notes : list of str
        What a reader has to know before quoting a figure.
    evidence : list of dict
    run : int or None
    """

    MEASURE_ID = CONFLICT_ID

    def __init__(
        self,
        chunks: Sequence[tuple[str, Table]],
        provenance: dict[str, Any],
        run: int | None = None,
    ) -> None:
        beside = set(provenance["parameters"].get("control_chunks", ()))
        super().__init__([c for c in chunks if c[0] not in beside], provenance, run)
        control = [table for key, table in chunks if key in beside]
        self.chunks = list(chunks)
        self.control = Table.concat(control) if control else None
        self._rows: Rows = list(self.table.rows())
        random: Rows | None = None if self.control is None else list(self.control.rows())
        level, seed = float(provenance["parameters"]["confidence"]), int(provenance["seed"])
        ratios = summarise_ratios(self._rows, level, seed, random)
        internal = summarise_disagreement(self._rows, level, seed, random)
        self.ratios = Table.from_rows(RATIO_COLUMNS, ratios)
        self.disagreement = Table.from_rows(DISAGREEMENT_COLUMNS, internal)
        self.notes = conflict_notes(self._rows, ratios)
        self.evidence = conflict_evidence(ratios, internal)

    @classmethod
    def from_knowledge_base(cls, kb: KnowledgeBase, run: int) -> Self:
        """The measurement that a run recorded.

        Raises
        ------
        NotFoundError
            There is no such finished run, it is of another measure, or a table is missing.
        """
        chunks, provenance = stored_chunks(kb, run, cls.MEASURE_ID)
        beside = provenance["parameters"].get("control_chunks", ())
        chunks += [(key, stored_table(kb, run, key)) for key in beside]
        return cls(chunks, provenance, run)

    def ratio(
        self, condition: str = SUBSTITUTE, known: str | None = CLOSED, **where: Any
    ) -> MemorizationRatio:
        """Memorization ratio of some rows.

        Parameters
        ----------
        condition : str
            Passages before the question: "substitute", "original_then_substitute" or
            "substitute_then_original".
        known : {"closed_book", "original"} or None
            Count only examples answered rightly without a passage, or with the original one; None:
            all.
        **where
            Values that columns must have, such as ``relation="company_ceo"``.

        Raises
        ------
        ArgumentError
            There is no such column, or no row is of that condition.
        """
        rows, left_out = counted_rows(self._rows, condition, known)
        for name in where:
            if name not in self.table.names:
                raise ArgumentError(f"no column {name!r}; there are: {', '.join(self.table.names)}")
        if not rows and not left_out:
            raise ArgumentError(f"no row is of the condition {condition!r}")
        kept, missed = (
            [row for row in part if all(row[name] == value for name, value in where.items())]
            for part in (rows, left_out)
        )
        level = float(self.provenance["parameters"]["confidence"])
        return rows_ratio(kept, len(missed), level, int(self.provenance["seed"]))

    def draw(self, **options: Any) -> Any:
        """The picture :func:`km.draw.conflict` makes of it."""
        from km.draw import conflict

        return conflict(self, **options)

    def __repr__(self) -> str:
        lines = [f"<km.Conflict {self._title()}>", str(self.ratio()), repr(self.ratios)]
        if len(self.disagreement):
            lines.append(repr(self.disagreement))
        return "\n".join([*lines, *self.notes])


def conflict(
    model: Model,
    examples: QASet | Iterable[QAExample],
    *,
    by: By = "generate",
    match: Match = "start",
    max_tokens: int = 10,
    templates: tuple[str, str] | None = None,
    n_others: int = 8,
    inter_context: bool = True,
    paraphrases: int = 4,
    recall: Recall | None = None,
    baselines: bool = True,
    confidence: float = 0.95,
    seed: int = 0,
    kb: KnowledgeBase | None = None,
    progress: Progress = None,
) -> Conflict:
    """Ask a model with and without passages that contradict what it may have learned.

    Parameters
    ----------
    model : Model
    examples : QASet or iterable of QAExample
        Substituted examples, such as those of :func:`km.datasets.counterfactuals`,
        :func:`km.datasets.substitute_corpus` or :func:`km.datasets.nq_synth`. Without a whole
        original, the model's own answer without a passage stands for the original answer.
    by : {"generate", "score"}
        "generate": greedy continuation. "score": the most probable of original answers, substitute
        and others of the same type, by log-probability of all tokens.
    match : {"exact", "start", "contains"}
        How a generated text must give an answer, both normalised; see
        :func:`km.scores.conflict.matches`. "exact" is the paper's.
    max_tokens : int
        Of a generated text, whose first line that holds anything is the answer.
    templates : (str, str), optional
        Prompts with and without a passage, of ``{context}`` and ``{question}``. None: passage and
        prompt in a row for facts to be completed, else the question prompts of AdaCAD.
    n_others : int
        ("score") Other answers to choose from, drawn from those of the same type.
    inter_context : bool
        Also ask with the original and the changed passage, in both orders.
    paraphrases : int
        Of ``metadata["paraphrases"]``, asked without a passage.
    recall : Recall, optional
        Of the same model on the same facts: gives how well each was known.
    baselines : bool
        Also ask the same architecture with random weights, which doubles the work.
    confidence : float
    seed : int
        Of the draw of others, of random weights and of bootstraps.
    kb : KnowledgeBase, optional
        Examples measured before are looked up in it; the result is recorded in it.
    progress : bool or callable, optional

    Returns
    -------
    Conflict

    Raises
    ------
    ArgumentError
        An example is not substituted, or its prompt does not fit into the model's context.

    Notes
    -----
    Longpre et al. 2021: of the examples whose fact the model knows, M_R = original / (original +
    substitute). The share of other answers always stands beside it.

    Examples
    --------
    >>> model = km.load()  # doctest: +SKIP
    >>> facts = km.datasets.facts("company_ceo")  # doctest: +SKIP
    >>> made = km.datasets.counterfactuals(facts, model)  # doctest: +SKIP
    >>> km.conflict(model, made)  # doctest: +SKIP
    """
    listed = as_examples(examples)
    check_examples(listed)
    if by not in ("generate", "score"):
        raise ArgumentError(f'by is {by!r}; it must be "generate" or "score"')
    if match not in MATCHES:
        raise ArgumentError(f"match is {match!r}; it must be {', '.join(map(repr, MATCHES))}")
    asked: dict[str, Any] = {
        "by": by,
        "match": "exact" if by == "score" else match,
        "max_tokens": whole_number("max_tokens", max_tokens, 1) if by == "generate" else None,
    }
    items = make_items(
        listed,
        templates=as_templates(templates),
        inter_context=inter_context,
        paraphrases=whole_number("paraphrases", paraphrases, 0),
        n_others=whole_number("n_others", n_others, 1) if by == "score" else 0,
        known=_states(model, recall),
        seed=whole_number("seed", seed, 0),
    )
    if by == "score":
        _check_scorable(items)
    check_lengths(model, items, max_tokens if by == "generate" else 1)
    parts = [items[i : i + CHUNK_EXAMPLES] for i in range(0, len(items), CHUNK_EXAMPLES)]
    keys = [chunk_key(model, part, asked) for part in parts]
    named = examples if isinstance(examples, QASet) else QASet(())
    parameters = {
        **asked,
        "examples": named.name,
        "n_examples": len(items),
        "skipped": len(named.skipped),
        "inter_context": bool(inter_context),
        "paraphrases": paraphrases,
        "n_others": n_others if by == "score" else None,
        "templates": None if templates is None else list(templates),
        "confidence": coverage(confidence),
        "chunks": keys,
    }
    control = model.random_like(seed) if baselines else None
    # Where the model's own answers stand for the originals, they decide the control's rows too.
    owned = {**asked, "answers_of": model.fingerprint}
    beside = [] if control is None else [chunk_key(control, part, owned) for part in parts]
    parameters["control_chunks"] = beside
    provenance = make_provenance(CONFLICT_ID, CONFLICT_VERSION, model, parameters, seed)
    work = ChunkWork(kb, provenance)
    jobs = [
        (key, partial(_measure, model, part, asked)) for key, part in zip(keys, parts, strict=True)
    ]
    with ProgressReporter(progress, "conflict", unit="chunks", total=len(jobs)) as report:
        chunks = work.run(counted(jobs, report))
    if control is not None:
        parts = [_answered(part, table) for part, (_, table) in zip(parts, chunks, strict=True)]
        jobs = [
            (key, partial(_measure, control, part, asked, False))
            for key, part in zip(beside, parts, strict=True)
        ]
        with ProgressReporter(progress, "random weights", unit="chunks", total=len(jobs)) as report:
            chunks += work.run(counted(jobs, report))
    result = Conflict(chunks, provenance, work.run_id)
    if kb is not None and not kb.read_only:
        result.run = kb.record(result)
    return result


def _states(model: Model, recall: Recall | None) -> dict[tuple[str, str], str]:
    """State of each fact by relation and identifier."""
    if recall is None:
        return {}
    about = recall.provenance.get("model") or {}
    if about.get("fingerprint") != model.fingerprint:
        raise ArgumentError(f"recall is of {about.get('name')}, not of this model")
    return {
        (row["relation"], row["fact"]): row["state"]
        for row in recall.facts.rows()
        if row["state"] is not None
    }


def _check_scorable(items: Sequence[Item]) -> None:
    for item in items:
        uid = item.row["uid"]
        if not item.originals:
            raise ArgumentError(f'{uid} has no original answer to score; use by="generate"')
        if not item.others:
            raise ArgumentError(
                f"{uid}: no other answer of its type to choose from; type the answers "
                'with QASet.typed(), or use by="generate"'
            )


# ---- measuring ----


def _answered(items: Sequence[Item], measured: Table) -> list[Item]:
    """The items with the original answers that the model's rows have."""
    found = {row["uid"]: tuple(json.loads(row["originals"])) for row in measured.rows()}
    return [replace(item, originals=found[item.row["uid"]]) for item in items]


def _measure(model: Model, items: Sequence[Item], asked: dict[str, Any], own: bool = True) -> Table:
    """The rows of some items; without `own`, an example without an original has none."""
    prompts = [each.prompt for item in items for each in item.asked]
    if asked["by"] == "score":
        found = iter(_scored(model, items, prompts))
    else:
        once = list(dict.fromkeys(prompts))
        made = dict(zip(once, generated_answers(model, once, asked["max_tokens"]), strict=True))
        found = iter([made[prompt] for prompt in prompts])
    rows: Rows = []
    for item in items:
        answers = list(islice(found, len(item.asked)))
        rows += _item_rows(item, answers, asked["match"], own)
    return Table.from_rows(COLUMNS, rows)


def generated_answers(model: Model, prompts: list[str], max_tokens: int) -> list[tuple[str, float]]:
    """The first line of each continuation that holds anything, and the log-probability of all."""
    made = model.generate(prompts, max_tokens=max_tokens)
    if any(one.finish_reason == "interrupted" for one in made):
        raise KeyboardInterrupt
    return [(one.text.strip().split("\n", 1)[0].strip(), one.logp) for one in made]


def _scored(model: Model, items: Sequence[Item], prompts: list[str]) -> list[tuple[str, float]]:
    choices = [
        list(dict.fromkeys([*item.originals, *item.substitutes, *item.others]))
        for item in items
        for _ in item.asked
    ]
    logps = iter(model.score(prompts, choices).table["logp"])
    best = []
    for own in choices:
        scores = list(islice(logps, len(own)))
        top = scores.index(max(scores))
        best.append((own[top], scores[top]))
    return best


def _item_rows(
    item: Item, answers: Sequence[tuple[str, float]], match: Match, own: bool = True
) -> Rows:
    originals = item.originals
    if own and not originals:
        originals = _own_answer(answers[0][0], item.substitutes, match)
    rows = []
    for each, (prediction, logp) in zip(item.asked, answers, strict=True):
        name, both = bucket(prediction, originals, item.substitutes, match)
        rows.append(
            {
                **item.row,
                "condition": each.condition,
                "variant": each.variant,
                "prompt": each.prompt,
                "prediction": prediction,
                "logp": logp,
                "bucket": name,
                "both": both,
                "originals": json.dumps(originals, ensure_ascii=False),
                "substitutes": json.dumps(item.substitutes, ensure_ascii=False),
            }
        )
    return rows


def _own_answer(prediction: str, substitutes: Sequence[str], match: Match) -> tuple[str, ...]:
    """The model's own answer as the original; none where it is empty or the substitute."""
    own = prediction if match == "exact" else answer_part(prediction)
    if not normalize_answer(own) or matches(prediction, substitutes, match):
        return ()
    return (own,)
