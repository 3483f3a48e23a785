# The extension module _km: types, defaults and docstrings. The C sources take their docstrings and
# parameter lists from this file (tools/gen_docs.py); stubtest proves that both agree.
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, final

if sys.version_info >= (3, 12):
    from collections.abc import Buffer as Buffer
else:
    from typing import Any as Buffer

_Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# ---- errors ----

class Error(RuntimeError):
    status: str
    where: str | None

class ArgumentError(Error, ValueError): ...
class ShapeError(Error, ValueError): ...
class FormatError(Error, ValueError): ...
class UnsupportedError(Error): ...
class NotFoundError(Error, KeyError): ...
class NumericError(Error): ...
class BusyError(Error): ...
class CancelledError(Error): ...

# ---- the library ----

def version() -> str:
    """Version of libkm, such as "0.1.0"."""

def memory_available() -> int:
    """Bytes this process may still allocate: the smaller of MemAvailable and the cgroup's rest."""

# ---- arrays and tables ----

@final
class Array:
    """Numbers made by km, readable and writable through the buffer protocol.

    `numpy.asarray(array)` shares the memory.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
    @property
    def dtype(self) -> str:
        """Element type as numpy names it, such as "float32"."""
    def tolist(self) -> list[Any]:
        """The elements as (nested) lists of Python numbers."""
    def __len__(self) -> int: ...
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Table:
    """Typed columns with names, units and nulls.

    Parameters
    ----------
    specs : sequence of (name, type, unit, description)
        type is "int64", "double", "bool" or "text"; names are unique.
    columns : sequence of sequences
        One sequence a spec, all of the same length; None is null.
    """

    def __new__(
        cls, specs: Sequence[Sequence[str]], columns: Sequence[Sequence[object]]
    ) -> Table: ...
    @property
    def specs(self) -> list[tuple[str, str, str, str]]:
        """(name, type, unit, description) of each column."""
    def append(self, other: Table) -> None:
        """Append all rows of a table with the same columns.

        Raises
        ------
        ArgumentError
            The columns differ.
        BusyError
            The table has been exported to Arrow and can no longer change.
        """
    def cells(self, column: int | str, start: int = 0, stop: int | None = None) -> list[Any]:
        """Cells start..stop-1 of a column as Python objects, None where null."""
    def values(self, column: int | str) -> Array:
        """A column of numbers as int64, float64 or bool; nulls are 0, NaN and False."""
    def nulls(self, column: int | str) -> Array:
        """For each row whether the column's cell is null (bool)."""
    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The table as an Arrow C stream of one batch, in a PyCapsule."""
    def __len__(self) -> int: ...

# ---- models ----

@final
class Context:
    """Threads, CPU variant and memory of the work done with it.

    Parameters
    ----------
    threads : int
        0: the CPUs this process may use (environment variable KM_THREADS overrides). Results do
        not depend on it.
    cpu : {"v1", "v3", "v4"}, optional
        Instruction set; None: KM_CPU, or the best this machine runs.

    Raises
    ------
    UnsupportedError
        This machine cannot run the CPU variant.
    """

    def __new__(
        cls, threads: int = 0, cpu: Literal["v1", "v3", "v4"] | str | None = None
    ) -> Context: ...
    @property
    def threads(self) -> int:
        """Number of threads."""
    @property
    def cpu(self) -> str:
        """Instruction set in use: "v1", "v3" (AVX2, FMA) or "v4" (AVX-512)."""
    @property
    def blas_core(self) -> str:
        """OpenBLAS's core type, such as "Zen"."""
    def cancel(self) -> None:
        """Stop the work running in this context with CancelledError; safe from any thread."""

@final
class Model:
    """A language model held for exact measurement.

    Immutable, and may be shared between threads: calls on one context take turns, waiting without
    the GIL.

    Parameters
    ----------
    path : path-like
        A .gguf file or a Hugging Face folder.
    context : Context
        Threads and memory.
    max_bytes : int
        Refuse to load when weights that cannot stay in the mapped file need more; 0: what is
        available.

    Raises
    ------
    FormatError, UnsupportedError, OSError, MemoryError
        The message names the file and the tensor, key or field.
    """

    def __new__(cls, path: _Path, context: Context, max_bytes: int = 0) -> Model: ...
    def encode(self, text: str | bytes, bos: bool | None = None, special: bool = False) -> Array:
        """Token ids of a text.

        Parameters
        ----------
        text : str or bytes
            Bytes need not be UTF-8.
        bos : bool, optional
            Put the beginning-of-sequence token first; None: what the model file says.
        special : bool
            Treat special tokens written in the text as those tokens.

        Returns
        -------
        (T) int32
        """
    def tokens(
        self, text: str | bytes, bos: bool | None = None, special: bool = False
    ) -> tuple[Array, Array]:
        """Token ids (T) int32, and (T, 2) int64: the bytes start..end of the text each stands for."""
    def decode(self, ids: Buffer, special: bool = True) -> bytes:
        """The bytes that ids (T) int32 stand for; special tokens only when `special`.

        Raises
        ------
        ArgumentError
            An id outside the vocabulary.
        """
    def piece(self, id: int) -> bytes:
        """The surface bytes of a token."""
    def is_special(self, id: int) -> bool:
        """Whether a token is special (control or user-defined)."""
    def logprobs(self, ids: Buffer) -> Array:
        """log p(ids[t] | ids[:t]) for t = 1..T-1.

        Parameters
        ----------
        ids : (T) int32

        Returns
        -------
        (T-1) float32, nats

        Raises
        ------
        ArgumentError
            No ids, an id outside the vocabulary, or more than the context length.
        """
    def next_logprobs(self, ids: Buffer) -> Array:
        """log p(. | ids) over the vocabulary.

        Parameters
        ----------
        ids : (T) int32

        Returns
        -------
        (V) float32, nats
        """
    def lens(self, ids: Buffer, target: int, top_k: int = 5) -> Table:
        """Logit lens of a prompt at its last token: one row a layer, and one for the output.

        Parameters
        ----------
        ids : (T) int32
        target : int
            The token followed through the layers.
        top_k : int
            How many of each layer's most likely tokens to list.
        """
    def random_like(self, seed: int = 0) -> Model:
        """A model of the same shape with fresh weights: matrices normal(0, 0.02), norm gains 1."""
    def weights(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, type and shape of each tensor of the model's file."""
    def weight(self, name: str) -> Array:
        """The values of a weight as float32, read-only and without a copy where they are that."""
    def with_weights(self, names: Sequence[str], values: Sequence[Any]) -> Model:
        """A model with other values, C-contiguous float32 arrays, in some weights."""
    def save(
        self,
        path: _Path,
        format: Literal["same", "gguf", "hf"] = "same",
        dtype: Literal["keep", "F32", "F16", "BF16", "Q8_0"] = "keep",
        overwrite: bool = False,
    ) -> None:
        """Write the model to a GGUF file or a Hugging Face folder."""
    def export_gguf(
        self,
        path: _Path,
        dtype: Literal["keep", "F32", "F16", "BF16", "Q8_0"],
        pairs: Sequence[tuple[str, int, int, int, bytes]],
    ) -> None:
        """Write a model that came as a folder as GGUF; pairs: key, type, element, n, bytes."""
    def metadata(self, key: str) -> str | None:
        """A text of a GGUF file's metadata; None when it is not there, or for a folder."""
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the configuration and each tensor's name, type, shape and bytes."""
    @property
    def config(self) -> dict[str, Any]:
        """Architecture, sizes and constants of the forward pass."""
    @property
    def context(self) -> Context:
        """The context the model works in."""
    @property
    def path(self) -> str:
        """Where the model was loaded from; of a random one, the model it has the shape of."""
    @property
    def precision(self) -> str:
        """Commonest type of the weight matrices, such as "Q4_1"."""
    @property
    def n_parameters(self) -> int:
        """Number of weights."""
    @property
    def tokenizer_hash(self) -> str:
        """SHA-256 (hex) over everything that decides token ids."""
    @property
    def bos(self) -> int | None:
        """Id of the beginning-of-sequence token."""
    @property
    def eos(self) -> int | None:
        """Id of the end-of-sequence token."""
    @property
    def adds_bos(self) -> bool:
        """Whether the model file asks for the beginning-of-sequence token."""

@final
class Session:
    """Keys and values of a growing forest of tokens, kept between passes of a model.

    Used by one thread at a time; a second one gets BusyError.

    Parameters
    ----------
    model : Model
    capacity : int
        Tokens it can hold: 2 * layers * KV heads * head width floats each.
    """

    def __new__(cls, model: Model, capacity: int) -> Session: ...
    def append(
        self,
        ids: Buffer,
        parents: Buffer,
        rows: Buffer,
        patches: Buffer | None = None,
        factors: Buffer | None = None,
        values: Buffer | None = None,
        layers: Buffer | None = None,
        norm: bool = True,
    ) -> Array:
        """Compute T more tokens and keep them.

        Parameters
        ----------
        ids : (T) int32
        parents : (T) int64
            The node each follows, counted from the session's first token; -1 begins a sequence.
        rows : (R) int64
            Which of the new tokens, counted from 0, to return logits of.
        patches, factors, values : optional
            As in trace_run, each of all new tokens (-1).
        layers : (N) int64, optional
            Layers whose logits are wanted too: 0 are the embeddings, l the stream after l blocks.
        norm : bool
            Whether those go through the final norm first.

        Returns
        -------
        (R, V) float32; with layers ((1 + N) R, V): the output's rows, then those of each layer
        """
    def truncate(self, length: int) -> None:
        """Forget the nodes from `length` on."""
    def keep(self, nodes: Buffer) -> None:
        """Keep the given nodes (rising, each with its ancestors), renumbered from 0."""
    def __len__(self) -> int: ...

# ---- models whose weights can change (km.trainable) ----

def parameters(model: Model) -> list[tuple[str, str, int, int, int, bool]]:
    """Each tensor as the forward pass uses it: (name, kind, layer, rows, cols, trainable); layer is
    -1 outside the blocks."""

def parameter(model: Model, name: str) -> Array:
    """The values of a parameter, (rows, cols) or (n) float32: the model's own memory, writable,
    where it is trainable; else a copy."""

def parameters_into(model: Model, values: Sequence[Buffer | None]) -> None:
    """Copy parameters as float32 into `values`: a writable array, or None, for each parameter."""

def parameters_replace(model: Model, values: Sequence[Buffer | None] | None = None) -> Model:
    """An immutable model with `values`, an array or None for each parameter, in place of its own;
    None: a copy of a trainable model's present values."""

def trainable_new(model: Model, which: Sequence[bool], max_bytes: int = 0) -> Model:
    """A copy with float32 values that can change in the parameters that `which` says, sharing the
    others."""

def trainable_changed(model: Model) -> None:
    """Have values checked and the fingerprint computed again."""

def trainable_differs(model: Model) -> list[bool]:
    """Whether each parameter differs in any bit from the model that this one was made of."""

def trainable_restore(model: Model, values: Sequence[Buffer | None]) -> None:
    """Set every trainable parameter to `values`: an array, or None for the values of the model that
    this one was made of, for each parameter."""

# ---- training (km.Trainer) ----

@final
class Trainer:
    """Gradients, optimiser and adapters of one trainable model; used by one thread at a time.

    Parameters
    ----------
    model : Model
        A trainable one.
    optimizer : {"adamw", "sgd"}
    beta1, beta2, eps : float
        Of AdamW.
    momentum : float
        Of SGD.
    weight_decay : float
    trained, decays : (parameters) bool, optional
        Which parameters are trained (None: all that can be changed), and which decay (None:
        matrices and embeddings).
    clip : float
        Longest norm of all gradients together; 0: any.
    rank : int
        Of low-rank adapters; 0: the parameters themselves are trained.
    alpha : float
        Adapters enter multiplied by alpha / rank.
    seed : int
        Of the adapters' first values.
    """

    def __new__(
        cls,
        model: Model,
        optimizer: Literal["adamw", "sgd"],
        beta1: float,
        beta2: float,
        eps: float,
        momentum: float,
        weight_decay: float,
        trained: Buffer | None = None,
        decays: Buffer | None = None,
        clip: float = 0.0,
        rank: int = 0,
        alpha: float = 0.0,
        seed: int = 0,
    ) -> Trainer: ...
    def step(
        self,
        ids: Buffer,
        offsets: Buffer,
        weights: Buffer,
        learning_rate: float,
        pass_tokens: int = 0,
        recompute: bool | None = None,
    ) -> tuple[int, float, float, float, int, int]:
        """One step on the weighted mean of -log p over a batch's targets.

        Parameters
        ----------
        ids : (T) int32
            Of S sequences, one after the other.
        offsets : (S + 1) int64
            Where each begins; the last is T.
        weights : (T) float32
            Of -log p(ids[t] | those before it in its sequence).
        learning_rate : float
        pass_tokens : int
            Whole sequences share a pass up to so many tokens; 0: 1024.
        recompute : bool, optional
            Keep less and compute more; None: where memory asks for it.

        Returns
        -------
        (step, loss in nats a target, norm of the gradients, learning rate, targets, tokens)

        Raises
        ------
        NumericError
            A loss or gradient that is not finite; nothing has changed then.
        """
    @property
    def last(self) -> tuple[int, float, float, float, int, int]:
        """What the last finished step returned, also when the user stopped it; step 0: none yet."""
    def reset(self) -> None:
        """Begin again from the model's present values."""
    def arrays(self) -> list[tuple[int, str, str]]:
        """(parameter, kind, kind of what it is an average of) of each array a step changes; kinds
        are "values", "lora_A", "lora_B", "first" and "second"."""
    def array(self, index: int) -> Array:
        """One of them, (rows, columns) float32: the trainer's own memory. `restored` has to follow
        when it was written."""
    def restored(self, steps: int) -> None:
        """Arrays were written as they were after so many steps."""

def trainer_estimate(
    model: Model,
    optimizer: Literal["adamw", "sgd"],
    beta1: float,
    beta2: float,
    eps: float,
    momentum: float,
    weight_decay: float,
    n_tokens: int,
    longest: int,
    n_targets: int,
    recompute: bool,
    trained: Buffer | None = None,
    decays: Buffer | None = None,
    clip: float = 0.0,
    rank: int = 0,
    alpha: float = 0.0,
    seed: int = 0,
) -> tuple[int, int, int, int]:
    """Bytes of (float32 weights, gradients and adapters, averages, one pass) that training takes;
    parameters as of Trainer."""

def config_from_json(text: str | bytes) -> dict[str, Any]:
    """What km makes of a config.json, as Model.config."""

def model_new(
    context: Context,
    config: str | bytes,
    tokenizer: _Path | None = None,
    tokenizer_of: Model | None = None,
    pairs: Sequence[tuple[str, int, int, int, bytes]] = (),
    seed: int = 0,
) -> Model:
    """A model with fresh weights of a config.json, with the tokenizer of a folder or of a model;
    `pairs`: GGUF metadata of the architecture, where that model came as GGUF."""

# ---- knowledge selection (km.DiffKS) ----

@final
class DiffKS:
    """Difference-aware knowledge selection: which candidate sentence a turn of a dialogue uses.

    Weights, gradients and optimiser of one model, with a context of its own; used by one thread at
    a time (a second one gets BusyError). Equations in km/select.h.

    Parameters
    ----------
    variant : {"fused", "disentangled", "context", "posterior"}
        "posterior" (PostKS) needs generate=False, vectors=0 and mask_padding=True; its losses read
        the responses.
    vocabulary : int
        Word ids are 0 .. vocabulary - 1; 0 padding, 1 unknown, 2 go, 3 end.
    embedding, hidden, decoder : int
        Width of embeddings, of one direction of each encoder, of the decoder's state.
    weights : (M) float64
        Of the last M choices, the latest first; divided by their sum.
    dropout : float
    vectors : int
        0: encoders read embeddings of word ids. Else each batch brings a vector of this width for
        each word of its sentences and contexts, and encoders read these.
    mask_padding : bool
        False: the authors' arithmetic, where padding of a batch enters losses and copying.
    generate : bool
        Whether there is a decoder.
    train_embedding : bool
        False: E stays as it was given.
    match : bool
        Add how alike candidates, the user's words and earlier choices are, which each batch says,
        with weights that are learned.
    temperature, supervision : float
        Of the posterior variant: how soft its draws of a candidate are (0: no draws, the expected
        one), and the weight of the gold choice in its loss.
    seed : int
        Of first weights, dropout and sampled histories.
    threads : int
        0: the CPUs this process may use.

    Notes
    -----
    A batch is a dict of C-contiguous arrays; `..._offsets` rise from 0 and have one element more
    than there are things. Sentences and lists stand once, however many turns share them.

    ==================  =========  ==========================================================
    sentence_tokens     int32      word ids of all S sentences, one after the other
    sentence_offsets    int64      (S + 1)
    list_sentences      int64      sentences of all N lists; the first of a list is "none used"
    list_offsets        int64      (N + 1)
    dialogue_offsets    int64      (dialogues + 1) into the T turns
    turn_lists          int64      (T) the list of each turn
    context_tokens      int32      word ids of all contexts
    context_offsets     int64      (T + 1)
    gold                int64      (T) index in the turn's list, 0: none; needed to train
    response_tokens     int32      optional: go ... end of all responses, with
    response_offsets    int64      (T + 1)
    history_sentences   int64      optional: sentences chosen before each turn, the latest first,
    history_offsets     int64      (T + 1), in place of what the dialogue's earlier turns chose
    sentence_vectors    float32    (words of sentences, vectors), where `vectors` is not 0
    context_vectors     float32    (words of contexts, vectors)
    word_matches        float32    (C) of each turn's candidates, where `match` is set
    sentence_matches    float32    (S, S)
    ==================  =========  ==========================================================

    `history` says whose choices are the history of a turn: "gold", "own" (the model's highest
    score, the lowest index of equal ones), or "sampled" (for each turn the model's with a
    probability, else gold). With allow_none=False index 0 of a list is never the model's choice.
    """

    def __new__(
        cls,
        variant: Literal["fused", "disentangled", "context", "posterior"],
        vocabulary: int,
        embedding: int,
        hidden: int,
        decoder: int,
        weights: Buffer,
        dropout: float = 0.0,
        vectors: int = 0,
        mask_padding: bool = True,
        generate: bool = True,
        train_embedding: bool = True,
        match: bool = False,
        temperature: float = 0.67,
        supervision: float = 0.0,
        seed: int = 0,
        threads: int = 0,
    ) -> DiffKS: ...
    def parameters(self) -> dict[str, Array]:
        """Weights by name, float32: the model's own memory, to be read or written."""
    def load_parameters(self, parameters: dict[str, Buffer]) -> None:
        """Set all weights, float32 arrays of the shapes that parameters() shows.

        Raises
        ------
        NotFoundError
            A weight is missing.
        ShapeError
            One has another shape.
        """
    def gradients(self) -> dict[str, Array]:
        """Of the last `gradient`, by name: the model's own memory; zeros after a step."""
    def averages(self) -> dict[str, tuple[Array, Array]]:
        """The optimiser's first and second averages by name: its own memory."""
    def optimize(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """Take a fresh AdamW (without weight decay: Adam), its averages 0, no step done."""
    @property
    def steps(self) -> int:
        """Steps done since `optimize`."""
    def set_steps(self, steps: int) -> None:
        """Averages were written as they were after so many steps."""
    def loss(
        self,
        batch: dict[str, Buffer],
        history: Literal["gold", "own", "sampled"] = "gold",
        probability: float = 0.0,
        allow_none: bool = True,
        word_weight: float = 1.0,
    ) -> dict[str, float]:
        """Losses of a batch without dropout.

        Returns
        -------
        dict
            loss = selection_loss + word_weight word_loss, in nats; perplexity, norm of the
            gradients (0 here), labelled (turns with gold above 0), correct (of these), words.
        """
    def gradient(
        self,
        batch: dict[str, Buffer],
        history: Literal["gold", "own", "sampled"] = "gold",
        probability: float = 0.0,
        allow_none: bool = True,
        word_weight: float = 1.0,
    ) -> dict[str, float]:
        """The same with dropout, and the gradients of the loss."""
    def step(
        self,
        batch: dict[str, Buffer],
        learning_rate: float,
        history: Literal["gold", "own", "sampled"] = "gold",
        probability: float = 0.0,
        allow_none: bool = True,
        word_weight: float = 1.0,
        clip: float = 5.0,
    ) -> dict[str, float]:
        """The same and a step of the optimiser, gradients scaled down to a norm of `clip` (0: any).

        Raises
        ------
        NumericError
            A loss or gradient that is not finite; nothing has changed then.
        """
    def select(
        self,
        batch: dict[str, Buffer],
        history: Literal["gold", "own", "sampled"] = "own",
        probability: float = 0.0,
        allow_none: bool = True,
        explain: bool = False,
    ) -> tuple[Array, Array, Array | None, Array | None]:
        """Score the candidates of all turns, C in all, one turn's list after the other.

        Returns
        -------
        chosen : (T) int64
            Index in the turn's list.
        scores : (C) float32
        context : (C) float32, with explain
            The score without any history.
        contributions : (C, M) float32, with explain
            What the score loses when one earlier choice is taken out; 0 where there is none. They
            do not add up to score - context: the terms meet inside a tanh.
        """
    def respond(
        self, batch: dict[str, Buffer], chosen: Buffer, max_words: int = 40
    ) -> tuple[Array, Array]:
        """Greedy answers from the chosen (T) int64 sentences of the turns' lists.

        Returns
        -------
        tokens : (T, max_words) int32
            Up to the end, which is included; zeros after it.
        lengths : (T) int64
        """
    def pass_bytes(self, batch: dict[str, Buffer], training: bool = True) -> int:
        """Bytes that a pass over a batch allocates at most."""

# ---- activations (km.trace, km.gradients) ----

def trace_points(model: Model) -> list[tuple[str, bool, bool, int, int]]:
    """Each named point in the order of the pass: (name, whether the model has it, whether there is
    one a layer, heads, width); heads is 1 without a head axis, width 0 stands for positions."""

def trace_point(name: str) -> bool:
    """Whether there is one a layer of the named point.

    Raises
    ------
    NotFoundError
        There is no such point; the message lists them.
    """

def trace_run(
    model: Model,
    ids: Buffer,
    parent: Buffer,
    nodes: Buffer,
    reads: Buffer,
    patches: Buffer,
    factors: Buffer,
    values: Buffer,
    rows: Buffer,
    targets: Buffer,
    n_out: int,
) -> Array:
    """One forward pass over a tree of tokens that keeps activations and log-probabilities.

    Parameters
    ----------
    ids : (T) int32
    parent : (T) int64
        Index of the token before, -1 at the start of a text.
    nodes : (N) int64
        Tokens that reads and patches name slices of.
    reads : (R, 6) int64
        point, layer, head (-1: all), first of nodes, number of nodes (-1: all tokens), offset of
        the result.
    patches : (P, 11) int64
        kind, point, layer, head, first of nodes, number of nodes, first and last + 1 element
        (0, 0: all), offset in values, distance of two tokens' values, whether heads share them.
    factors : (P) float32
    values : (M) float32
    rows : (Q, 2) int64
        A token whose output is wanted, and the offset of the log-probabilities of the whole
        vocabulary after it (-1: not wanted).
    targets : (S, 3) int64
        Row (rising), token id, offset of that token's log-probability, nats.
    n_out : int

    Returns
    -------
    (n_out) float32
        What each offset points into.
    """

def gradients_run(
    model: Model,
    ids: Buffer,
    parent: Buffer,
    nodes: Buffer,
    reads: Buffer,
    gradients: Buffer,
    patches: Buffer,
    factors: Buffer,
    values: Buffer,
    rows: Buffer,
    targets: Buffer,
    weights: Buffer,
    kind: str,
    n_out: int,
) -> tuple[Array, Array]:
    """One forward and one backward pass; the loss is a weighted sum over the output of `rows`.

    Parameters
    ----------
    ids, parent, nodes, reads, patches, factors, values, n_out
        As in trace_run.
    gradients : (G, 6) int64
        As reads, but the derivative of the loss is kept.
    rows : (Q) int64
        Tokens whose output enters the loss.
    targets : (S, 2) int64
        Row (rising) and token id.
    weights : (S) float64
    kind : {"logit", "logprob", "prob"}
        Of each target; the loss of a row is the sum of weight times it.

    Returns
    -------
    (n_out) float32
    (Q) float64
        The loss of each row.
    """

# ---- what rests on gradients ----

def neurons_run(
    model: Model,
    ids: Buffer,
    target: int,
    steps: int = 20,
    midpoint: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Array, Array, Array, Array, float]:
    """Integrated gradients of a token's probability over the MLP neurons of each layer, at the last
    token of a prompt, ids (T) int32.

    Returns
    -------
    (L, F) float64
        Attribution: w_i / m times the sum of dP/dw_i at k/m of w, k = 0..m-1 (midpoint: k + 1/2).
    (L, F) float32
        w, the activations.
    (L) float64
        P(0), the probability without the layer's neurons.
    (L) float64
        P(w) - P(0) less the layer's attributions.
    float
        P(w), the probability of the target.
    """

def circuit_run(
    model: Model,
    clean: Buffer,
    corrupted: Buffer,
    good: int,
    bad: int,
    steps: int = 5,
    top: int = 5000,
    progress: Callable[[int, int], object] | None = None,
) -> Table:
    """Edge attribution patching of logit(good) - logit(bad) between two prompts, (T) int32 each.

    One row an edge, largest absolute score first: source, target, kind (q, k, v, mlp, logits),
    score (logits), source_id, target_id, source_layer, target_layer, target_head. steps 1 is the
    derivative on the clean run alone, top 0 keeps every edge.
    """

def circuit_evaluate(
    model: Model,
    clean: Buffer,
    corrupted: Buffer,
    good: int,
    bad: int,
    sources: Buffer,
    targets: Buffer,
) -> Table:
    """The clean prompt with the edges outside the circuit carrying the corrupted prompt's values.

    sources, targets (E) int32: source_id and target_id of circuit_run. Rows clean, corrupted,
    circuit: run, metric (logits), rank, logprob (nats) and probability of good, recovered (share).
    """

# ---- memorization: what drives a model ----

def memorization_run(
    model: Model,
    name: str,
    templates: Sequence[str],
    subjectless: str,
    facts: Sequence[tuple[str, str, Sequence[str], Sequence[str], int]],
    bos: bool | None = None,
    batch_tokens: int = 1024,
    lens: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Table:
    """Whole-answer recall of one relation, one row a (template, fact).

    Parameters
    ----------
    name : str
    templates : sequence of str
        Each with exactly one "{}".
    subjectless : str
        What stands for the subject in the subject-removed prompt.
    facts : sequence of (id, subject, answers, candidates, shuffled)
        Accepted answers, the printed one first; wrong candidates; index of the fact whose answer
        is judged under this prompt, -1 for none.
    bos : bool, optional
        None: what the model file says.
    batch_tokens : int
        Distinct tokens a forward pass.
    lens : bool
        Also the layer from which the answer leads.
    progress : callable(done, total), optional
    """

def verbatim_run(
    model: Model,
    ids: Buffer,
    offsets: Buffer,
    batch_tokens: int = 1024,
    progress: Callable[[int, int], object] | None = None,
) -> Table:
    """Every token of K texts after the first: ids (N) int32, offsets (K+1) int64."""

# ---- scoring and choosing tokens (km.score, km.generate wrap them) ----

def continuations_run(
    model: Model,
    ids: Buffer,
    offsets: Buffer,
    prompt_lengths: Buffer,
    batch_tokens: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Score what follows the first prompt_lengths (K) int64 tokens of K items.

    ids (N) int32 holds the items one after another, offsets (K+1) int64 where each begins.
    batch_tokens 0: up to 2048, as memory allows.

    Returns
    -------
    logprobs : (T) float64, nats
        Of the scored tokens of all items.
    is_argmax : (T) bool
        Each is the most likely one (ties: lowest id).
    sums : (K) float64, nats
    greedy : (K) bool
        Every token of the item is the argmax.
    """

def rows_argmax(model: Model, logits: Buffer) -> tuple[Array, Array]:
    """Ids (B) int32 and log-probabilities (B) float64, nats, of the largest of each row (B, V)."""

def rows_top(model: Model, logits: Buffer, k: int) -> tuple[Array, Array]:
    """Ids (B, k) int32 and log-probabilities (B, k) float64, nats, best first, of rows (B, V)."""

def rows_at(model: Model, logits: Buffer, ids: Buffer) -> Array:
    """Log-probabilities (B) float64, nats, of one token (B) int32 of each row (B, V)."""

def rows_sample(
    model: Model,
    logits: Buffer,
    streams: Buffer,
    counters: Buffer,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> tuple[Array, Array]:
    """Draw from each filtered row (B, V) with uniform(seed, streams[i], counters[i]) int64.

    Returns ids (B) int32 and log-probabilities (B) float64 before the filters, nats.
    """

def rows_logprobs(model: Model, logits: Buffer) -> Array:
    """log softmax of each row of logits (B, V) float32, nats."""

def sampling_filter(
    model: Model,
    logits: Buffer,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Array:
    """One row of logits (V) float32 after the filters; -inf where a token was removed."""

# ---- interpretability: what drives a model ----

def lens_run(
    model: Model,
    ids: Buffer,
    offsets: Buffer,
    targets: Buffer,
    top_k: int = 0,
    batch_tokens: int = 1024,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Logit lens at the last token of K prompts, all layers and the output (L+1).

    Prompt i is ids[offsets[i]:offsets[i+1]] (int32, int64); targets (K) int32.

    Returns
    -------
    rank (K, L+1) int64, logprob (K, L+1) float64 nats, top_ids (K, L+1, top_k) int32,
    top_logprobs (K, L+1, top_k) float64 nats
    """

def affine_lens_fit(
    model: Model,
    ids: Buffer,
    offsets: Buffer,
    ridge: float,
    batch_tokens: int = 1024,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Array, Array]:
    """Affine maps from resid_post of each layer to the last one, by ridge regression on texts.

    Texts are laid out as the prompts of lens_run; the first token of each is left out.

    Returns
    -------
    weights (L, D, D) float32, biases (L, D) float32
    """

def affine_lens_evaluate(
    model: Model,
    weights: Buffer,
    biases: Buffer,
    ids: Buffer,
    offsets: Buffer,
    batch_tokens: int = 1024,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Affine and plain logit lens beside the model's output, at each token but a text's first.

    Returns
    -------
    kl_affine, kl_logit (N, L) float64
        KL(model || lens), nats.
    agree_affine, agree_logit (N, L) float64
        1 where the most likely token is the model's.
    """

def affine_lens_run(
    model: Model,
    weights: Buffer,
    biases: Buffer,
    ids: Buffer,
    offsets: Buffer,
    targets: Buffer,
    top_k: int = 0,
    batch_tokens: int = 1024,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """lens_run through affine maps.

    Returns
    -------
    rank (K, L+1) int64, logprob, entropy (K, L+1) float64 nats, top_ids (K, L+1, top_k) int32,
    top_logprobs (K, L+1, top_k) float64 nats
    """

def attribution_run(
    model: Model,
    ids: Buffer,
    offsets: Buffer,
    tokens: Buffer,
    contrasts: Buffer,
    batch_tokens: int = 1024,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Array, Array]:
    """Direct logit attribution after the last token of K prompts, laid out as in lens_run.

    tokens (K) int32; contrasts (K) int32, -1: none.

    Returns
    -------
    (K, 3 + L (H + 2)) float64
        Embedding, position, for each layer its heads, attention's bias and the MLP, at last the
        final norm's bias.
    (K) float64
        The logit, or the logit difference, before a final soft cap.
    """

# ---- memorization: pure scores (km.scores.memorization wraps them) ----

def score_token_logprobs(logits: Buffer, ids: Buffer) -> Array:
    """log softmax(logits[t-1])[ids[t]] for t = 1..T-1, nats; logits (T, V) float64, ids (T) int32."""

def score_token_moments(logits: Buffer) -> tuple[Array, Array]:
    """Mean and variance of log p under p, of each row of logits (N, V) float64."""

def score_loss(logprobs: Buffer) -> float:
    """Mean of -logprobs (N) float64, nats a token; NaN without any."""

def score_min_k(logprobs: Buffer, ratio: float, at_least_one: bool = False) -> float:
    """Mean of the floor(N ratio) smallest log-probabilities; NaN when that is none."""

def score_min_k_plus_plus(
    logprobs: Buffer, mu: Buffer, sigma2: Buffer, ratio: float, at_least_one: bool = False
) -> float:
    """The same over (logprobs - mu) / sqrt(sigma2)."""

def score_detection(
    scores: Buffer, member: Buffer, tpr: float, fpr: float
) -> tuple[float, float, float, int, int]:
    """(AUROC, FPR at tpr, TPR at fpr, members, others); scores float64, member bool."""

def score_extraction(generated: Buffer, suffix: Buffer) -> tuple[bool, float, int, int, float]:
    """(extractable, match fraction, matching prefix, edit distance, edit similarity); ids int32."""

def score_first_mismatch(logits: Buffer, ids: Buffer) -> int:
    """First t whose ids[t] is not the argmax of logits[t]; N when there is none."""

def score_recall_curve(
    example: Buffer, correct: Buffer, n_examples: int, max_errors: int
) -> tuple[Array, int, float]:
    """(curve with room for N points, points, recall at max_errors); example int64, correct bool."""

def score_exposure(
    canary: Buffer, reference: Buffer, log2_space: float | None = None
) -> tuple[Array, Array]:
    """1-based ranks (int64) and exposures in bits (float64)."""

def score_exposure_skewnormal(x: float, a: float, loc: float, scale: float) -> float:
    """-log2 CDF(x) of a skew-normal distribution, bits."""

def score_counterfactual(include: Buffer, score: Buffer) -> tuple[Array, Array, Array]:
    """(memorization, mean with, mean without) of each item; include (M, N) bool, score float64."""

def score_influence(include: Buffer, score: Buffer) -> Array:
    """(N, E) influence of training items on evaluated ones; include (M, N), score (M, E)."""

def score_rank(logits: Buffer, gold: Buffer, allowed: Buffer | None = None) -> Array:
    """Number of (allowed) entries strictly larger than gold's; logits (N, V), gold (N) int32."""

def score_precision_at(rank: Buffer, k: int) -> float:
    """Share of ranks (int64) below k; NaN without any."""

def score_mean_reciprocal_rank(rank: Buffer) -> float:
    """Mean of 1 / (rank + 1); NaN without any."""

def score_macro_mean(x: Buffer, group: Buffer) -> float:
    """Mean of the groups' means; x float64, group int64."""

def score_priming(
    context_before: float, context_after: float, before: Buffer, after: Buffer, log_unstable: float
) -> tuple[float, float, float, float, float, float, int, int, int]:
    """(log S_mem, log S_prime, the same of stable ratios, mean and median log ratio, mean change of
    P, prefixes that count, dropped, unstable); before, after (M) float64 nats."""

def score_priming_predictor(
    log_keyword: Buffer, log_s_prime: Buffer, threshold: float
) -> tuple[float, float, int, float, float, Array]:
    """(Pearson, Spearman, surprising texts, mean of the surprising and of the others, flags (N));
    arguments (N) float64."""

def prune_apply(
    values: Sequence[Buffer],
    base: Sequence[Buffer],
    low: float,
    high: float,
    keep: bool = False,
    signed: bool = False,
    together: bool = False,
    names: Sequence[str] | None = None,
) -> Array:
    """Put `base` back, in place, where the change from it has a rank from low n to high n (`keep`:
    anywhere else); pruned elements of each tensor (int64). All float32 or all float64."""

def prune_mask(
    changes: Sequence[Buffer],
    low: float,
    high: float,
    keep: bool = False,
    signed: bool = False,
    together: bool = False,
) -> Array:
    """False where a change is pruned, one tensor after another (bool)."""

# ---- statistics (km.stats wraps them) ----

_Interval: TypeAlias = tuple[float, float, float, float, float, int, int, str]
_Test: TypeAlias = tuple[float, float, bool, int, int]

def stats_wilson(successes: int, n: int, confidence: float = 0.95) -> _Interval:
    """Wilson's score interval: (estimate, low, high, se, df, n, n_clusters, method)."""

def stats_bootstrap_mean(
    x: Buffer,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    proportion: bool = False,
) -> _Interval:
    """Percentile bootstrap of the mean of x (N) float64."""

def stats_clustered_mean(
    x: Buffer,
    cluster: Buffer | None = None,
    subject: Buffer | None = None,
    template: Buffer | None = None,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    method: str = "auto",
    macro: bool = False,
    proportion: bool = False,
) -> _Interval:
    """Interval of the mean of x (N) float64; cluster, subject and template are (N) int64 ids."""

def stats_paired_difference(
    a: Buffer,
    b: Buffer,
    cluster: Buffer | None = None,
    subject: Buffer | None = None,
    template: Buffer | None = None,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    method: str = "auto",
    macro: bool = False,
    proportion: bool = False,
) -> _Interval:
    """Interval of the mean of a - b, both (N) float64."""

def stats_permutation_paired(
    x: Buffer, cluster: Buffer | None = None, draws: int = 10000, seed: int = 0
) -> _Test:
    """Sign-flip test of the mean of x (N) float64: (statistic, p, exact, n, draws)."""

def stats_permutation_two_sample(x: Buffer, y: Buffer, draws: int = 10000, seed: int = 0) -> _Test:
    """Exchange test of the difference of means of x (N) and y (M) float64."""

def stats_mcnemar(b: int, c: int) -> _Test:
    """Exact McNemar test of two counts of discordant pairs."""

def stats_holm(p: Buffer) -> Array:
    """Holm's adjusted p-values of p (N) float64."""

def stats_benjamini_hochberg(p: Buffer) -> Array:
    """Benjamini and Hochberg's adjusted p-values of p (N) float64."""

def stats_pearson(x: Buffer, y: Buffer) -> _Test:
    """Pearson's r of x and y (N) float64."""

def stats_spearman(x: Buffer, y: Buffer) -> _Test:
    """Spearman's rho of x and y (N) float64."""

def stats_kendall(x: Buffer, y: Buffer) -> _Test:
    """Kendall's tau-b of x and y (N) float64."""

def stats_linear_regression(
    x: Buffer, y: Buffer
) -> tuple[float, float, float, float, float, float, float, int]:
    """(slope, intercept, slope_se, intercept_se, t, p, r2, n) of y on x (N) float64."""

def stats_auroc(scores: Buffer, positive: Buffer) -> float:
    """Area under the ROC curve; scores (N) float64, positive (N) bool."""

def stats_power_paired(
    n: float,
    discordance: float,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> float:
    """Smallest difference that n pairs show; NaN when none."""

def stats_pairs_needed(
    difference: float,
    discordance: float,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> float:
    """Pairs needed to show a difference."""

def stats_power_two_proportions(
    n: float,
    baseline: float,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> float:
    """Smallest rise above a baseline that two groups of n show; NaN when none."""

def stats_items_needed(
    p1: float,
    p2: float,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> float:
    """Items needed in each of two groups to tell p1 from p2."""

def stats_normal_quantile(p: float) -> float:
    """Quantile of the standard normal distribution."""

def stats_t_quantile(p: float, df: float) -> float:
    """Quantile of Student's t distribution."""

def stats_t_cdf(t: float, df: float) -> float:
    """Distribution function of Student's t."""

def stats_beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function."""

# ---- the knowledge base (km.KnowledgeBase wraps it) ----

def kb_questions() -> Table:
    """The named questions: name, title, description, parameters, sql."""

@final
class KnowledgeBase:
    """One SQLite file with the taxonomy, works, models, facts, runs, measurements and evidence.

    Records enter as JSON text whose members are the columns of their table. Every call that writes
    is one transaction. A second thread in a busy base gets BusyError.

    Parameters
    ----------
    path : str, bytes or os.PathLike
        Made when it is not there; ":memory:" is a temporary one.
    read_only : bool
        Never write; the file must exist.
    allow_network : bool
        Open on a network file system all the same.
    busy_timeout_ms : int
        How long to wait for another writer; 0: 30,000.

    Raises
    ------
    NotFoundError
        No such file (read_only) or folder.
    FormatError
        Not a knowledge base, or damaged.
    UnsupportedError
        Newer schema; older schema opened read-only; network file system.
    """

    def __new__(
        cls,
        path: _Path,
        read_only: bool = False,
        allow_network: bool = False,
        busy_timeout_ms: int = 0,
    ) -> KnowledgeBase: ...
    @property
    def path(self) -> Any:
        """The path as it was given."""
    @property
    def closed(self) -> bool:
        """Whether close() was called."""
    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading only."""
    @property
    def warning(self) -> str:
        """A warning about the file system, or ""."""
    def close(self) -> None:
        """Close; what was not committed is undone."""
    def begin(self) -> None:
        """Begin a transaction; may be nested."""
    def commit(self) -> None:
        """End the innermost transaction and keep what it did."""
    def rollback(self) -> None:
        """End the innermost transaction, if there is one, and undo it."""
    def load_taxonomy(self, json: str | bytes) -> None:
        """Load or renew the taxonomy."""
    def edit_taxonomy(self, json: str | bytes) -> Table:
        """Add to the taxonomy as its user, or move nodes; a list of what happened."""
    def put_model(self, json: str | bytes) -> int:
        """The id of a model, recorded when its fingerprint is new."""
    def put_facts(self, json: str | bytes) -> int:
        """Record an array of facts; the number of new ones."""
    def put_texts(self, json: str | bytes) -> int:
        """Record an array of texts; the number of new ones."""
    def put_lineage(self, json: str | bytes) -> int:
        """Record an array of steps from parent to child models; the number of new ones."""
    def put_measure(self, json: str | bytes) -> None:
        """Declare a measure and the nodes it may bear on."""
    def begin_run(self, json: str | bytes) -> int:
        """Start a run; its id."""
    def finish_run(self, run: int, outcome: str, key: str | None = None) -> None:
        """End a run as "done", "cancelled" or "failed", with the content key of its result."""
    def find_run(self, key: str) -> int | None:
        """The run whose result has this content key."""
    def put_evidence(self, run: int, json: str | bytes) -> None:
        """Record what a run says about nodes."""
    def freeze(self, json: str | bytes) -> int:
        """Fix predictions for a unit; the number of new freezings."""
    def put_verdict(self, run: int, json: str | bytes) -> int:
        """Add what a run says of a frozen prediction; its id."""
    def store_chunk(self, run: int, key: str, table: Table) -> Literal["stored", "same", "differs"]:
        """Store a table under its content key."""
    def load_chunk(self, key: str) -> Table | None:
        """The table stored under a key, as it was; None when there is none."""
    def use_chunk(self, run: int, key: str) -> None:
        """Note that a run used a chunk it found."""
    def query(
        self, sql: str, params: str | None = None, timeout_ms: int = 0, max_rows: int = 0
    ) -> Table:
        """Run one reading SQL statement; params is a JSON array or object."""
    def ask(self, name: str, params: str | None = None) -> Table:
        """Answer a named question; params is a JSON object."""
    def search(self, text: str, kind: str | None = None, limit: int = 0) -> Table:
        """Full-text search over nodes, works, facts and texts."""
    def info(self) -> Table:
        """Facts about the file."""
    def check(self, full: bool = False) -> Table:
        """Problems of the file, one a row; none when it is sound."""
    def merge(self, path: _Path, progress: Callable[[int, int], object] | None = None) -> Table:
        """Bring in what another base holds; a list of what happened."""
    def snapshot(
        self,
        path: _Path,
        overwrite: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Copy the base to a file of its own while it is used."""
