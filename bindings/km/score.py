"""Log-probabilities of whole continuations: `Model.score`."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from km import _km
from km.arguments import is_ids
from km.errors import ArgumentError
from km.progress import Progress, ProgressReporter
from km.result import Result, make_provenance
from km.table import Column, Table

if TYPE_CHECKING:
    import numpy as np

    from km.model import Ids, Model

SCORE_ID = "scoring.continuations"
SCORE_VERSION = 1

Boundary: TypeAlias = Literal["blank", "none", "lm_eval"]
Text: TypeAlias = "str | Ids"

COLUMNS = [
    Column("prompt", "int64", "", "Index of the prompt."),
    Column("candidate", "int64", "", "Index of the candidate in the prompt's list."),
    Column("prompt_text", "text", "", "The prompt; null when it was given as token ids."),
    Column("continuation", "text", "", "The text that was scored, with the blank put before it."),
    Column("n_prompt_tokens", "int64", "tokens", "Tokens given before the continuation."),
    Column("ids", "text", "", "Token ids of the continuation, as JSON."),
    Column("logprobs", "text", "nats", "Log-probability of each of its tokens, as JSON."),
    Column("logp", "double", "nats", "Their sum."),
    Column("n_tokens", "int64", "tokens", "Tokens of the continuation."),
    Column("n_bytes", "int64", "bytes", "Bytes (UTF-8) of the candidate as it was given."),
    Column("logp_per_token", "double", "nats/token", "logp / n_tokens."),
    Column("logp_per_byte", "double", "nats/byte", "logp / n_bytes."),
    Column("greedy", "bool", "", "Greedy decoding gives exactly these tokens (ties: lowest id)."),
    Column(
        "boundary_ok",
        "bool",
        "",
        "Prompt and continuation encoded as one text give the same ids; null for ids.",
    ),
]


class ScoreResult(Result):
    """One row a (prompt, candidate): log-probability of the whole continuation.

    Attributes
    ----------
    token_logprobs : list of (n_tokens) float64 arrays, nats
        Of each row's tokens.
    """

    def __init__(
        self, table: Table, provenance: Mapping[str, Any], logprobs: Any, offsets: Sequence[int]
    ) -> None:
        super().__init__(table, provenance)
        self._logprobs = logprobs
        self._offsets = offsets

    @property
    def token_logprobs(self) -> list[np.ndarray[Any, Any]]:
        """Log-probability of each token of each row's continuation, nats."""
        import numpy as np

        flat = np.asarray(self._logprobs)
        return [flat[a:b] for a, b in pairwise(self._offsets)]

    def matrix(self, column: str = "logp") -> np.ndarray[Any, Any]:
        """A column as (prompts, candidates).

        Raises
        ------
        ArgumentError
            Not every prompt has the same number of candidates.
        """
        prompts = self.table["prompt"]
        n_candidates = len(prompts) // (prompts[-1] + 1)
        if prompts != [i // n_candidates for i in range(len(prompts))]:
            raise ArgumentError("the prompts have different numbers of candidates")
        return self.table.column(column).reshape(-1, n_candidates)


@dataclass
class _Pairs:
    """What goes to C, packed, and what the table says of each pair."""

    ids: array[int] = field(default_factory=lambda: array("i"))
    offsets: array[int] = field(default_factory=lambda: array("q", [0]))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    rows: list[tuple[int, int, str | None, str, int, bool | None]] = field(default_factory=list)

    def add(self, given: Sequence[int], scored: Sequence[int]) -> None:
        self.ids.extend(given)
        self.ids.extend(scored)
        self.offsets.append(len(self.ids))
        self.lengths.append(len(given))


def run_score(
    model: Model,
    prompts: str | Ids | Sequence[Text],
    candidates: Sequence[Text] | Sequence[Sequence[Text]],
    boundary: Boundary,
    bos: bool | None,
    special: bool,
    batch_tokens: int | None,
    progress: Progress,
) -> ScoreResult:
    """See :meth:`km.Model.score`."""
    if boundary not in ("blank", "none", "lm_eval"):
        raise ArgumentError(f'boundary is {boundary!r}; it must be "blank", "none" or "lm_eval"')
    if batch_tokens is not None and batch_tokens < 1:
        raise ArgumentError(f"batch_tokens is {batch_tokens}; it must be positive")
    asked = list_prompts(prompts)
    lists = _list_candidates(candidates, len(asked))
    pairs = _Encoder(model, boundary, bos, special).pairs(asked, lists)
    with ProgressReporter(progress, "score", unit="pairs", total=len(pairs.rows)) as report:
        scored = _km.continuations_run(
            model._model, pairs.ids, pairs.offsets, pairs.lengths, batch_tokens or 0, report
        )
    parameters = {
        "n_prompts": len(asked),
        "n_pairs": len(pairs.rows),
        "boundary": boundary,
        "bos": bos,
        "special": special,
        "ids_sha256": _digest(pairs),
    }
    provenance = make_provenance(SCORE_ID, SCORE_VERSION, model, parameters)
    starts = _scored_offsets(pairs)
    return ScoreResult(_make_table(pairs, scored, starts), provenance, scored[0], starts)


def list_prompts(prompts: str | Ids | Sequence[Text]) -> list[str | list[int]]:
    """One prompt, or several, each a str or a list of ids."""
    if isinstance(prompts, str) or is_ids(prompts):
        prompts = cast("Sequence[Text]", [prompts])
    if isinstance(prompts, bytes):
        raise TypeError("a prompt must be str or token ids, not bytes")
    listed = [_text_or_ids(prompt, "a prompt") for prompt in cast("Iterable[Text]", prompts)]
    if not listed:
        raise ArgumentError("no prompts")
    return listed


def _text_or_ids(value: Text, what: str) -> str | list[int]:
    from km.model import as_ids

    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        raise TypeError(f"{what} must be str or token ids, not bytes")
    return memoryview(as_ids(value)).tolist()


def _list_candidates(
    candidates: Sequence[Text] | Sequence[Sequence[Text]], n_prompts: int
) -> list[list[str | list[int]]]:
    """Each prompt's own list."""
    if isinstance(candidates, str | bytes) or is_ids(candidates):
        raise TypeError("candidates must be a list of texts, not one text")
    outer = list(candidates)
    if not outer:
        raise ArgumentError("no candidates")
    if isinstance(outer[0], str) or is_ids(outer[0]):
        shared = [_text_or_ids(cast("Text", c), "a candidate") for c in outer]
        return [shared] * n_prompts
    if len(outer) != n_prompts:
        raise ArgumentError(f"{len(outer)} lists of candidates for {n_prompts} prompts")
    lists = [[_text_or_ids(c, "a candidate") for c in cast("Any", own)] for own in outer]
    for i, own in enumerate(lists):
        if not own:
            raise ArgumentError(f"prompt {i} has no candidates")
    return lists


class _Encoder:
    """Turns pairs of texts into pairs of token ids by one boundary rule."""

    def __init__(self, model: Model, boundary: Boundary, bos: bool | None, special: bool) -> None:
        self._model = model
        self._boundary = boundary
        self._bos = bos
        self._special = special
        self._context = int(model.config["context_length"])
        self._known: dict[str, list[int]] = {}
        self._shown: dict[tuple[int, ...], bytes] = {}

    def pairs(self, prompts: list[str | list[int]], lists: list[list[str | list[int]]]) -> _Pairs:
        out = _Pairs()
        for i, (prompt, own) in enumerate(zip(prompts, lists, strict=True)):
            whole = self._whole(prompt) if isinstance(prompt, str) else prompt
            text = prompt if isinstance(prompt, str) else None
            last = text if text is not None else self._text(whole[-1:])
            for j, candidate in enumerate(own):
                given, scored, shown, size, ok = self._pair(text, whole, last, candidate)
                where = f"prompt {i}, candidate {j}"
                self._check(where, given, scored)
                out.add(given, scored)
                out.rows.append((i, j, text, shown, size, ok))
        return out

    def _whole(self, text: str) -> list[int]:
        return self._model.encode(text, bos=self._bos, special=self._special)

    def _alone(self, text: str) -> list[int]:
        """Ids of a continuation encoded by itself; candidates come again with every prompt."""
        ids = self._known.get(text)
        if ids is None:
            ids = self._model.encode(text, bos=False, special=self._special)
            self._known[text] = ids
        return ids

    def _text(self, ids: Sequence[int]) -> str:
        return self._bytes(ids).decode("utf-8", "replace")

    def _bytes(self, ids: Sequence[int]) -> bytes:
        key = tuple(ids)
        shown = self._shown.get(key)
        if shown is None:
            shown = self._model.decode_bytes(ids)
            self._shown[key] = shown
        return shown

    def _pair(
        self, prompt: str | None, given: list[int], last: str, candidate: str | list[int]
    ) -> tuple[list[int], list[int], str, int, bool | None]:
        """Given ids, scored ids, the text scored, its bytes, whether the boundary holds."""
        if not isinstance(candidate, str):
            shown = self._bytes(candidate)
            return given, candidate, shown.decode("utf-8", "replace"), len(shown), None
        size = len(candidate.encode())
        if self._boundary == "lm_eval":
            given, scored, text, whole = self._lm_eval(prompt, candidate)
            return given, scored, text, size, whole
        text = candidate
        if (
            self._boundary == "blank"
            and candidate
            and last
            and not (last[-1] in " \n\t" or candidate[0] in " \n\t")
        ):
            text = " " + candidate
        scored = self._alone(text)
        ok = None if prompt is None else self._whole(prompt + text) == given + scored
        return given, scored, text, size, ok

    def _lm_eval(
        self, prompt: str | None, candidate: str
    ) -> tuple[list[int], list[int], str, bool]:
        """The rule of lm-evaluation-harness for causal models."""
        if prompt is None:
            raise ArgumentError('boundary="lm_eval" needs prompts as text, not as token ids')
        if not prompt:
            start = self._model.eos if self._model.bos is None else self._model.bos
            alone = self._alone(candidate)
            if start is None or not alone:
                raise ArgumentError("an empty prompt needs a bos or eos token and a candidate")
            given = [start]
            return (
                (given, alone, candidate, True)
                if alone[0] != start
                else (alone[:1], alone[1:], candidate, True)
            )
        stem = prompt.rstrip()
        text = prompt[len(stem) :] + candidate
        given = self._whole(stem)
        whole = self._whole(prompt + candidate)
        return given, whole[len(given) :], text, whole[: len(given)] == given

    def _check(self, where: str, given: list[int], scored: list[int]) -> None:
        if not given:
            raise ArgumentError(f"{where}: the prompt has no tokens; give a text or bos=True")
        if not scored:
            raise ArgumentError(f"{where}: the candidate has no tokens")
        n = len(given) + len(scored)
        if n - 1 > self._context:
            raise ArgumentError(
                f"{where}: {len(given)} and {len(scored)} tokens do not fit into the model's "
                f"context of {self._context}; shorten the prompt"
            )


def _digest(pairs: _Pairs) -> str:
    """SHA-256 (hex) over the ids and how they are cut."""
    digest = hashlib.sha256()
    for part in (pairs.ids, pairs.offsets, pairs.lengths):
        digest.update(part.tobytes())
    return digest.hexdigest()


def _scored_offsets(pairs: _Pairs) -> list[int]:
    """Where each row's scored tokens begin among all scored tokens, and where the last ends."""
    starts = [0]
    for i, n_prompt in enumerate(pairs.lengths):
        starts.append(starts[-1] + pairs.offsets[i + 1] - pairs.offsets[i] - n_prompt)
    return starts


def _json(numbers: list[Any]) -> str:
    """A list of finite numbers as JSON; json.dumps takes five times as long."""
    return f"[{', '.join(map(repr, numbers))}]"


def _make_table(pairs: _Pairs, scored: tuple[Any, Any, Any, Any], starts: list[int]) -> Table:
    logprobs, sums, greedy = scored[0].tolist(), scored[2].tolist(), scored[3].tolist()
    ids, ends = pairs.ids.tolist(), pairs.offsets[1:]
    sizes = [b - a for a, b in pairwise(starts)]
    n_bytes = [row[4] for row in pairs.rows]
    columns: list[Sequence[object]] = [
        [row[0] for row in pairs.rows],
        [row[1] for row in pairs.rows],
        [row[2] for row in pairs.rows],
        [row[3] for row in pairs.rows],
        pairs.lengths,
        [_json(ids[b - n : b]) for n, b in zip(sizes, ends, strict=True)],
        [_json(logprobs[a:b]) for a, b in pairwise(starts)],
        sums,
        sizes,
        n_bytes,
        [logp / n for logp, n in zip(sums, sizes, strict=True)],
        [logp / n if n else None for logp, n in zip(sums, n_bytes, strict=True)],
        greedy,
        [row[5] for row in pairs.rows],
    ]
    return Table(COLUMNS, columns)
