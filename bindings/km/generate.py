"""Generating text: `Model.generate` and `Model.stream`. Definitions: docs/generation.md."""

from __future__ import annotations

import codecs
import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from km import _km
from km.arguments import strings, whole_number
from km.decoders import Choice, ContextDecoder, Decoder, Greedy, LayerDecoder, pick_best
from km.errors import ArgumentError
from km.forest import pack_everywhere
from km.patching import Patches, as_patches
from km.points import Points
from km.result import make_provenance
from km.score import list_prompts
from km.token_forest import PASS_TOKENS, StepRows, TokenForest, count_tokens

if TYPE_CHECKING:
    import numpy as np

    from km.model import Ids, Model

GENERATE_ID = "generation"
GENERATE_VERSION = 1

Reason: TypeAlias = Literal["eos", "stop", "length", "decoder", "interrupted"]

# Prompts that go on together: more gain no speed.
_MOST_BRANCHES = 64


@dataclass(frozen=True)
class Generation:
    """What a model wrote after one prompt.

    Attributes
    ----------
    text : str
        Without the stop string and what follows it; bytes that are not UTF-8 become U+FFFD.
    ids : list of int
        Every token generated, those of a stop string and the end token included.
    logprobs : list of float
        Of each token under the model itself, before filters, nats.
    finish_reason : {"eos", "stop", "length", "decoder", "interrupted"}
        An end token, a stop string, max_tokens, the decoder's own wish, or Ctrl-C.
    prompt : str or None
        None when it was given as token ids.
    prompt_ids : list of int
    score : float
        What the decoder chose it by; the sum of logprobs unless it says otherwise.
    """

    text: str
    ids: list[int]
    logprobs: list[float]
    finish_reason: Reason
    prompt: str | None
    prompt_ids: list[int]
    score: float
    _origin: _Origin = field(repr=False, compare=False)

    @property
    def logp(self) -> float:
        """Sum of logprobs, nats."""
        return sum(self.logprobs)

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything needed to make it again."""
        return self._origin.provenance()


@dataclass(frozen=True)
class _Origin:
    """What the generations of one call have in common."""

    model: Model
    parameters: dict[str, Any]
    seed: int | None
    time: str

    def provenance(self) -> dict[str, Any]:
        made = make_provenance(
            GENERATE_ID, GENERATE_VERSION, self.model, self.parameters, self.seed
        )
        return {**made, "time": self.time}


class Piece(NamedTuple):
    """One generated token as it comes out of a stream.

    Attributes
    ----------
    prompt : int
        Index of the prompt.
    id : int
    logprob : float
        Nats.
    text : str
        What can be shown by now: never half a character, never the beginning of a stop string. The
        texts of a prompt's pieces make up the text of its generation.
    finish_reason : str or None
        Why the generation ends with this token.
    """

    prompt: int
    id: int
    logprob: float
    text: str
    finish_reason: Reason | None


class Branch:
    """One continuation of one prompt under way.

    Attributes
    ----------
    prompt : int
        Index of the prompt in the call.
    prompt_ids : list of int
    ids : list of int
        Tokens generated so far.
    logprobs : list of float
        Of each of them, nats.
    logp : float
        Their sum.
    score : float
        Of an ended branch.
    state : object
        The decoder's own; None at first, shared by the branches a split makes.
    stream : int
        Number of the prompt's random stream.
    """

    __slots__ = (
        "data",
        "ids",
        "logp",
        "logprobs",
        "node",
        "prompt",
        "prompt_ids",
        "reason",
        "score",
        "state",
        "stream",
    )

    def __init__(self, prompt: int, prompt_ids: list[int], node: int, stream: int) -> None:
        self.prompt = prompt
        self.prompt_ids = prompt_ids
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.logp = 0.0
        self.score = 0.0
        self.state: Any = None
        self.stream = stream
        self.node = node
        self.data = b""
        self.reason: Reason | None = None

    def split(self) -> Branch:
        """A branch that begins like this one."""
        other = Branch(self.prompt, self.prompt_ids, self.node, self.stream)
        other.ids, other.logprobs = [*self.ids], [*self.logprobs]
        other.logp, other.state, other.data = self.logp, self.state, self.data
        return other


class Step:
    """What a decoder sees of one step: the live branches and the logits after each.

    Attributes
    ----------
    model : Model
    number : int
        Tokens generated before this step.
    last : bool
        max_tokens allows no step after this one.
    branches : list of Branch
        Those alive, all of the same length.
    finished : list of lists of Branch
        Of each prompt of the call, those that have ended.
    eos : frozenset of int
        End-of-sequence tokens.
    raw_logits : Array
        (B, V) float32, one row a branch.
    """

    def __init__(self, run: _Run, number: int, branches: list[Branch], rows: StepRows) -> None:
        self._run = run
        self.model = run.model
        self.number = number
        self.last = number + 1 == run.max_tokens
        self.branches = branches
        self.finished = run.finished
        self.eos = run.ending.eos
        self.raw_logits = rows.logits
        self._rows = rows

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.raw_logits.shape[1]

    @property
    def logits(self) -> np.ndarray[Any, Any]:
        """(B, V) float32, one row a branch; no copy."""
        import numpy as np

        return np.asarray(self.raw_logits)

    def logprobs(self) -> np.ndarray[Any, Any]:
        """log softmax of each row: (B, V) float32, nats."""
        import numpy as np

        return np.asarray(_km.rows_logprobs(self.model._model, self.raw_logits))

    def argmax(self) -> tuple[list[int], list[float]]:
        """The most likely token of each branch (ties: lowest id) and its log-probability."""
        ids, logprobs = _km.rows_argmax(self.model._model, self.raw_logits)
        return ids.tolist(), logprobs.tolist()

    def top(self, k: int) -> tuple[list[list[int]], list[list[float]]]:
        """The k most likely tokens of each branch, best first, and their log-probabilities."""
        ids, logprobs = _km.rows_top(self.model._model, self.raw_logits, k)
        return ids.tolist(), logprobs.tolist()

    def at(self, tokens: Sequence[int]) -> list[float]:
        """The log-probability of one token of each branch, nats."""
        ids = array("i", tokens)
        return _km.rows_at(self.model._model, self.raw_logits, ids).tolist()

    def contexts(self, branch: int) -> np.ndarray[Any, Any]:
        """Logits after the contexts that the decoder wants beside a branch: (C, V) float32."""
        return self._rows.of_contexts(branch)

    def layers(self, branch: int) -> np.ndarray[Any, Any]:
        """Logits of the layers that the decoder wants after a branch: (N, V) float32."""
        return self._rows.of_layers(branch)

    def ends(self, branch: Branch, token: int) -> Reason | None:
        """Why a branch would end with this token; None when it would go on."""
        return self._run.ending.reason(branch.data, branch.data + self._run.piece(token), token)

    def forward(
        self, sequences: Iterable[Sequence[int]], model: Model | None = None
    ) -> np.ndarray[Any, Any]:
        """Logits after other token sequences: a second context, a changed prompt.

        Sequences may grow from step to step: what they begin with in common with earlier ones is
        not computed again.

        Parameters
        ----------
        sequences : iterable of sequences of int
        model : Model, optional
            Another one than generates; patches do not concern it.

        Returns
        -------
        (number of sequences, V) float32
        """
        import numpy as np

        forest = self._run.other_forest(self.model if model is None else model)
        return np.asarray(forest.place([list(ids) for ids in sequences])[1])


class _Ending:
    """When a branch ends, and where its text is cut."""

    def __init__(self, eos: frozenset[int], stops: list[bytes]) -> None:
        self.eos = eos
        self.stops = stops
        self._longest = max(map(len, stops), default=0)

    def reason(self, before: bytes, after: bytes, token: int) -> Reason | None:
        if token in self.eos:
            return "eos"
        return "stop" if self._find(after, len(before)) is not None else None

    def _find(self, data: bytes, known: int) -> int | None:
        """Where the first stop string begins; the first `known` bytes hold none."""
        start = max(0, known - self._longest + 1)
        found = [at for stop in self.stops if (at := data.find(stop, start)) >= 0]
        return min(found, default=None)

    def cut(self, data: bytes) -> bytes:
        """The text before the first stop string."""
        at = self._find(data, 0)
        return data if at is None else data[:at]

    def shown(self, data: bytes) -> int:
        """How many bytes can no longer become part of a stop string."""
        for n in range(min(self._longest - 1, len(data)), 0, -1):
            if any(stop.startswith(data[-n:]) for stop in self.stops if len(stop) > n):
                return len(data) - n
        return len(data)


@dataclass(frozen=True)
class _Prompt:
    text: str | None
    ids: list[int]
    stream: int


class _Run:
    """One call: its prompts, in groups that fit into memory, and what has been generated."""

    def __init__(
        self,
        model: Model,
        prompts: str | Ids | Sequence[str | Ids],
        max_tokens: int,
        decoder: Decoder | None,
        stop: str | Sequence[str],
        eos: int | Sequence[int] | None,
        bos: bool | None,
        special: bool,
        patches: Patches,
    ) -> None:
        max_tokens = whole_number("max_tokens", max_tokens, 1)
        self.model = model
        self.max_tokens = max_tokens
        self.decoder = Greedy() if decoder is None else decoder
        if not isinstance(self.decoder, Decoder):
            raise TypeError(
                f"decoder must have choose(), describe() and branches (km.Decoder), "
                f"not {type(decoder).__name__}"
            )
        stops = strings("stop", stop)
        if not all(stops):
            raise ArgumentError("a stop string is empty")
        self.ending = _Ending(_eos_ids(model, eos), [s.encode() for s in stops])
        self._bos, self._special = bos, special
        self._layers, self._norm = self._wanted_layers()
        self.prompts = self._number(list_prompts(prompts))
        self.finished: list[list[Branch]] = [[] for _ in self.prompts]
        self.live: list[Branch] = []
        self._pieces: dict[int, bytes] = {}
        self._others: dict[int, TokenForest] = {}
        self._encoded: dict[str, list[int]] = {}
        parameters = {
            **self.decoder.describe(),
            "max_tokens": max_tokens,
            "stop": stops,
            "eos": sorted(self.ending.eos),
            "bos": bos,
            "special": special,
        }
        listed = as_patches(patches)
        self.patches = pack_everywhere(listed, Points(model)) if listed else {}
        if listed:
            parameters["patches"] = [patch.describe() for patch in listed]
        seed = parameters.pop("seed", None)
        time = datetime.now(UTC).isoformat(timespec="seconds")
        self._origin = _Origin(model, parameters, seed, time)

    # ---- prompts ----

    def _number(self, prompts: list[str | list[int]]) -> list[_Prompt]:
        """The prompts as ids, each with its own random stream."""
        seen = dict[bytes, int]()
        out = []
        for i, prompt in enumerate(prompts):
            ids = self._encode(prompt) if isinstance(prompt, str) else prompt
            self._check_length(ids, f"prompt {i}")
            key = array("q", ids).tobytes()
            again = seen.get(key, 0)
            seen[key] = again + 1
            text = prompt if isinstance(prompt, str) else None
            out.append(_Prompt(text, ids, _stream_number(key, again)))
        return out

    def _encode(self, text: str) -> list[int]:
        return self.model.encode(text, self._bos, self._special)

    def _check_length(self, ids: Sequence[int], what: str) -> None:
        context = int(self.model.config["context_length"])
        if not ids:
            raise ArgumentError(f"{what} has no tokens; give a text or bos=True")
        if len(ids) + self.max_tokens - 1 > context:
            raise ArgumentError(
                f"{what} has {len(ids)} tokens; with max_tokens={self.max_tokens} it does "
                f"not fit into the model's context of {context}"
            )

    def _begin(self, i: int) -> Branch:
        """The first branch of a prompt."""
        return Branch(i, self.prompts[i].ids, -1, self.prompts[i].stream)

    def _contexts(self, branch: Branch) -> list[list[int]]:
        """What the decoder wants beside a branch: each context and the tokens generated so far."""
        if not isinstance(self.decoder, ContextDecoder):
            return []
        out = []
        for i, context in enumerate(self.decoder.contexts(branch, self.model)):
            what = f"context {i} of prompt {branch.prompt}"
            if isinstance(context, str):
                ids = self._encoded.get(context)
                if ids is None:
                    ids = self._encoded[context] = self._encode(context)
            else:
                ids = list(context)
            self._check_length(ids, what)
            out.append(ids + branch.ids)
        return out

    def _size(self, i: int) -> tuple[int, int]:
        """(tokens, rows a step) that prompt i takes with its contexts."""
        beams, ids = self.decoder.branches, self.prompts[i].ids
        contexts = self._contexts(self._begin(i))
        rows = beams * (1 + len(contexts))
        if not contexts:
            return len(ids) + beams * self.max_tokens, rows
        # Contexts may become fewer: what is grown by their tokens is bounded, and more is made
        # room for when it is needed.
        known = count_tokens([ids, *contexts])
        return known + min(rows * self.max_tokens, max(known, PASS_TOKENS)), rows

    def _groups(self) -> Iterator[tuple[range, int]]:
        """Prompts that go on together, as many as memory and speed allow, and their tokens."""
        c = self.model.config
        token_bytes = 8 * c["n_layers"] * c["n_kv_heads"] * c["head_dim"]
        most = max(1, _km.memory_available() // 4 // token_bytes)
        start, tokens, rows = 0, 0, 0
        for i in range(len(self.prompts)):
            more_tokens, more_rows = self._size(i)
            if i > start and (tokens + more_tokens > most or rows + more_rows > _MOST_BRANCHES):
                yield range(start, i), tokens
                start, tokens, rows = i, 0, 0
            tokens += more_tokens
            rows += more_rows
        yield range(start, len(self.prompts)), tokens

    def _wanted_layers(self) -> tuple[list[int], bool]:
        if not isinstance(self.decoder, LayerDecoder):
            return [], True
        layers, norm = self.decoder.lens(self.model)
        n = int(self.model.config["n_layers"])
        return [whole_number("layer", layer, 0, n) for layer in layers], norm

    def other_forest(self, model: Model) -> TokenForest:
        """Where decoders compute sequences of their own, or with a model of their own."""
        forest = self._others.get(id(model))
        if forest is None:
            longest = max(len(prompt.ids) for prompt in self.prompts) + self.max_tokens
            patches = self.patches if model is self.model else {}
            forest = TokenForest(model, 2 * longest * self.decoder.branches, patches)
            self._others[id(model)] = forest
        return forest

    def piece(self, token: int) -> bytes:
        """The bytes a token adds to the text: none for special and end tokens."""
        known = self._pieces.get(token)
        if known is None:
            silent = token in self.ending.eos or self.model.is_special(token)
            known = b"" if silent else self.model._model.piece(token)
            self._pieces[token] = known
        return known

    # ---- steps ----

    def steps(self) -> Iterator[list[Branch]]:
        """After each step the branches it extended, ended ones included."""
        for group, capacity in self._groups():
            yield from self._steps_of_group(group, capacity)

    def _steps_of_group(self, group: range, capacity: int) -> Iterator[list[Branch]]:
        forest = TokenForest(self.model, capacity, self.patches, self._layers, self._norm)
        self.live = [self._begin(i) for i in group]
        number = 0
        while self.live:
            step = Step(self, number, self.live, self._compute(forest, number))
            extended = self._extend(step)
            self.live = [branch for branch in extended if branch.reason is None]
            yield extended
            number += 1

    def _compute(self, forest: TokenForest, number: int) -> StepRows:
        """The logits after the live branches and their contexts, in one pass."""
        contexts = [self._contexts(branch) for branch in self.live]
        if number > 0 and not isinstance(self.decoder, ContextDecoder):
            base = len(forest)
            rows = forest.extend([(b.node, b.ids[-1]) for b in self.live])
            nodes: Sequence[int] = range(base, base + len(self.live))
        else:
            sequences = [b.prompt_ids + b.ids for b in self.live]
            nodes, rows = forest.place(sequences + [ids for each in contexts for ids in each])
        for branch, node in zip(self.live, nodes, strict=False):
            branch.node = node
        return StepRows(rows, [len(each) for each in contexts], len(self._layers))

    def _extend(self, step: Step) -> list[Branch]:
        """The branches that the decoder's choices make of the live ones."""
        choices = self.decoder.choose(step)
        times = [0] * len(step.branches)
        for choice in choices:
            if not 0 <= choice.branch < len(times) or not 0 <= choice.token < step.vocab_size:
                raise ArgumentError(
                    f"{type(self.decoder).__name__} chose token {choice.token} for branch "
                    f"{choice.branch} of {len(times)}"
                )
            times[choice.branch] += 1
        extended = []
        for choice in choices:
            branch = step.branches[choice.branch]
            extended.append(branch if times[choice.branch] == 1 else branch.split())
        for branch, choice in zip(extended, choices, strict=True):
            self._append(branch, choice, step.last)
        return extended

    def _append(self, branch: Branch, choice: Choice, last: bool) -> None:
        before = branch.data
        branch.ids.append(choice.token)
        branch.logprobs.append(choice.logprob)
        branch.logp += choice.logprob
        branch.data = before + self.piece(choice.token)
        branch.reason = self.ending.reason(before, branch.data, choice.token)
        if branch.reason is None and (last or choice.done):
            branch.reason = "length" if last else "decoder"
        if branch.reason is not None:
            branch.score = branch.logp if choice.score is None else choice.score
            self.finished[branch.prompt].append(branch)

    # ---- results ----

    def interrupt(self) -> None:
        """End what is under way; a prompt that was not begun has an empty generation."""
        begun = {branch.prompt: branch for branch in reversed(self.live)}
        self.live = []
        for i, prompt in enumerate(self.prompts):
            if not self.finished[i]:
                branch = begun.get(i) or Branch(i, prompt.ids, -1, prompt.stream)
                # The interrupt may have come while a token was being added.
                del branch.ids[len(branch.logprobs) :]
                branch.data = b"".join(map(self.piece, branch.ids))
                branch.score = sum(branch.logprobs)
                branch.reason = "interrupted"
                self.finished[i].append(branch)

    def generations(self) -> list[Generation]:
        """One a prompt, of those that have ended."""
        return [
            self._generation(self.prompts[i], pick_best(branches))
            for i, branches in enumerate(self.finished)
            if branches
        ]

    def _generation(self, prompt: _Prompt, branch: Branch) -> Generation:
        assert branch.reason is not None
        text = self.ending.cut(branch.data).decode("utf-8", "replace")
        return Generation(
            text,
            branch.ids,
            branch.logprobs,
            branch.reason,
            prompt.text,
            prompt.ids,
            branch.score,
            self._origin,
        )


def _eos_ids(model: Model, eos: int | Sequence[int] | None) -> frozenset[int]:
    if eos is None:
        return frozenset() if model.eos is None else frozenset([model.eos])
    return frozenset([eos] if isinstance(eos, int) else eos)


def _stream_number(ids: bytes, again: int) -> int:
    """A number of a prompt and of how often it came before: 63 bits of a SHA-256."""
    digest = hashlib.sha256(ids + again.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class _Shown:
    """What a stream has shown of one prompt."""

    def __init__(self, ending: _Ending) -> None:
        self._ending = ending
        self._n = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, branch: Branch) -> str:
        over = branch.reason is not None
        data = self._ending.cut(branch.data) if over else branch.data
        until = len(data) if over else self._ending.shown(data)
        fresh = data[self._n : until]
        self._n = max(self._n, until)
        return self._decoder.decode(fresh, final=over)


class Stream:
    """The tokens of a generation as they come; made by :meth:`km.Model.stream`.

    Iterate for :class:`Piece` objects. Leaving the loop early, by Ctrl-C too, keeps what is done:
    see `generations`.
    """

    def __init__(self, run: _Run) -> None:
        if run.decoder.branches != 1:
            raise ArgumentError(
                f"{type(run.decoder).__name__} decides at the end what it keeps and cannot be "
                "streamed; use generate()"
            )
        self._run = run
        self._iterator = self._pieces()

    def __iter__(self) -> Iterator[Piece]:
        return self._iterator

    def __next__(self) -> Piece:
        return next(self._iterator)

    def _pieces(self) -> Iterator[Piece]:
        shown = [_Shown(self._run.ending) for _ in self._run.prompts]
        for branches in self._run.steps():
            for branch in branches:
                text = shown[branch.prompt].next(branch)
                yield Piece(branch.prompt, branch.ids[-1], branch.logprobs[-1], text, branch.reason)

    def close(self) -> None:
        """End what is under way."""
        self._iterator.close()  # type: ignore[attr-defined]
        self._run.interrupt()

    @property
    def generations(self) -> list[Generation]:
        """One a prompt; those still under way are ended as "interrupted"."""
        self.close()
        return self._run.generations()


def run_generate(
    model: Model,
    prompts: str | Ids | Sequence[str | Ids],
    max_tokens: int,
    decoder: Decoder | None,
    stop: str | Sequence[str],
    eos: int | Sequence[int] | None,
    bos: bool | None,
    special: bool,
    patches: Patches,
) -> list[Generation]:
    """See :meth:`km.Model.generate`."""
    run = _Run(model, prompts, max_tokens, decoder, stop, eos, bos, special, patches)
    try:
        for _ in run.steps():
            pass
    except KeyboardInterrupt:
        run.interrupt()
    return run.generations()


def run_stream(
    model: Model,
    prompts: str | Ids | Sequence[str | Ids],
    max_tokens: int,
    decoder: Decoder | None,
    stop: str | Sequence[str],
    eos: int | Sequence[int] | None,
    bos: bool | None,
    special: bool,
    patches: Patches,
) -> Stream:
    """See :meth:`km.Model.stream`."""
    return Stream(_Run(model, prompts, max_tokens, decoder, stop, eos, bos, special, patches))
