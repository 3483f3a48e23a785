"""A model and what it can be asked."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast, overload

from km import _km, cache
from km.display import mapping_html
from km.errors import ArgumentError
from km.table import Table

if TYPE_CHECKING:
    import numpy as np

    from km.chat import Chat
    from km.decoders import Decoder
    from km.generate import Generation, Stream
    from km.gradients import Gradients
    from km.lens import LensResult
    from km.loss import Loss
    from km.patching import Patches
    from km.points import Choice
    from km.progress import Progress
    from km.prompts import Positions, Text
    from km.score import Boundary, ScoreResult
    from km.session import Session
    from km.trace import Trace, TracePlan
    from km.trainable import Snapshot, TrainableModel

Ids: TypeAlias = "Iterable[int] | _km.Array | np.ndarray[Any, Any]"


class Token(NamedTuple):
    """One token of a text.

    Attributes
    ----------
    id : int
    start, end : int
        The bytes of the text (UTF-8) it stands for; equal for a token that stands for none.
    piece : bytes
        Its surface.
    """

    id: int
    start: int
    end: int
    piece: bytes


class Model:
    """A language model held for exact measurement; made by :func:`km.load`.

    Immutable, and may be shared between threads: calls on one context take turns, waiting without
    the GIL. Long calls stop on Ctrl-C.
    """

    def __init__(self, model: _km.Model, name: str, key: str | None = None) -> None:
        self._model = model
        self._name = name
        self._key = key
        self._path = model.path
        self._fingerprint: str | None = None

    # ---- what it is ----

    @property
    def name(self) -> str:
        """Name of a known model, else the one in the model file, else the file's own."""
        return self._name

    @property
    def path(self) -> str:
        """Where it was loaded from; "" for a random one."""
        return self._path

    @property
    def config(self) -> dict[str, Any]:
        """Architecture, sizes and constants of the forward pass."""
        return self._model.config

    @property
    def context(self) -> _km.Context:
        """Threads and CPU variant; ``model.context.cancel()`` stops its work from any thread."""
        return self._model.context

    @property
    def precision(self) -> str:
        """Commonest type of the weight matrices, such as "Q4_1"."""
        return self._model.precision

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return self._model.n_parameters

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over configuration and weights; remembered by file in the user's cache."""
        if self._fingerprint is None and self._key is not None:
            self._fingerprint = cache.read_fingerprint(self._key)
        if self._fingerprint is None:
            self._fingerprint = self._model.fingerprint()
            if self._key is not None:
                cache.write_fingerprint(self._key, self._fingerprint)
        return self._fingerprint

    @property
    def tokenizer_hash(self) -> str:
        """SHA-256 (hex) over everything that decides token ids."""
        return self._model.tokenizer_hash

    @property
    def bos(self) -> int | None:
        """Id of the beginning-of-sequence token."""
        return self._model.bos

    @property
    def eos(self) -> int | None:
        """Id of the end-of-sequence token."""
        return self._model.eos

    @property
    def adds_bos(self) -> bool:
        """Whether the model file asks for the beginning-of-sequence token."""
        return self._model.adds_bos

    def describe(self) -> dict[str, Any]:
        """The model's part of a provenance."""
        return {
            "name": self.name,
            "path": self.path,
            "fingerprint": self.fingerprint,
            "tokenizer_hash": self.tokenizer_hash,
            "precision": self.precision,
            "architecture": self.config["arch"],
            "n_parameters": self.n_parameters,
        }

    # ---- text and tokens ----

    def encode(
        self, text: str | bytes, bos: bool | None = None, special: bool = False
    ) -> list[int]:
        """Token ids of a text.

        Parameters
        ----------
        text : str or bytes
            Bytes need not be UTF-8.
        bos : bool, optional
            Put the beginning-of-sequence token first; None: what the model file says.
        special : bool
            Treat special tokens written in the text as those tokens.
        """
        return self._model.encode(text, bos, special).tolist()

    def tokens(
        self, text: str | bytes, bos: bool | None = None, special: bool = False
    ) -> list[Token]:
        """Tokens of a text with the bytes each stands for."""
        ids, spans = self._model.tokens(text, bos, special)
        piece = self._model.piece
        return [
            Token(id, start, end, piece(id))
            for id, (start, end) in zip(ids.tolist(), spans.tolist(), strict=True)
        ]

    def decode(self, ids: Ids, special: bool = True) -> str:
        """The text that ids stand for; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids, special).decode("utf-8", "replace")

    def decode_bytes(self, ids: Ids, special: bool = True) -> bytes:
        """The bytes that ids stand for; special tokens only when `special`."""
        return self._model.decode(as_ids(ids), special)

    def is_special(self, id: int) -> bool:
        """Whether a token is special (control or user-defined)."""
        return self._model.is_special(id)

    # ---- the forward pass ----

    def logprobs(self, ids: Ids, *, patches: Patches = ()) -> np.ndarray[Any, Any]:
        """log p(ids[t] | ids[:t]) for t = 1..T-1.

        Parameters
        ----------
        ids : sequence of int
        patches : sequence of Patch
            What the run is made to compute differently; see :func:`km.patch`.

        Returns
        -------
        (T-1) float32, nats
        """
        import numpy as np

        if patches:
            from km.trace import run_logprobs

            return run_logprobs(self, ids, "logprobs", patches)
        return np.asarray(self._model.logprobs(as_ids(ids)))

    def next_logprobs(self, ids: Ids, *, patches: Patches = ()) -> np.ndarray[Any, Any]:
        """log p(. | ids) over the vocabulary; parameters as of :meth:`logprobs`.

        Returns
        -------
        (V) float32, nats
        """
        import numpy as np

        if patches:
            from km.trace import run_logprobs

            return run_logprobs(self, ids, "next_logprobs", patches)
        return np.asarray(self._model.next_logprobs(as_ids(ids)))

    def trace(
        self,
        texts: Text | Sequence[Text],
        read: str | Sequence[str],
        *,
        layers: Choice = None,
        heads: Choice = None,
        positions: Positions = "all",
        patches: Patches = (),
        bos: bool | None = None,
    ) -> Trace:
        """Activations of one forward pass: ``with model.trace(text, "resid_post") as t: ...``.

        Parameters
        ----------
        texts : str, bytes, token ids, or a list of them
            All texts are computed in one pass, what they share at their beginnings once.
        read : str or sequence of str
            Points (docs/trace.md lists them), "logprobs" (of each text's tokens after the first) or
            "next_logprobs" (over the vocabulary, after the positions read).
        layers, heads : int, slice or sequence of int, optional
            None: all. Each keeps its axis.
        positions : "last", "all", int, slice, sequence of int, or :func:`km.span`
            Negative ones count from the end of each text; a list with an entry a text says each.
        patches : sequence of Patch
            What the run is made to compute differently; see :func:`km.patch`.
        bos : bool, optional
            As in :meth:`encode`.

        Raises
        ------
        NotFoundError
            No such point in this architecture; the message lists those there are.
        MemoryError
            The arrays do not fit into what is available; ``trace.plan.nbytes`` says their size
            before the run.
        """
        from km.trace import Trace, TracePlan

        return Trace(TracePlan(self, texts, read, layers, heads, positions, patches, bos))

    def plan_trace(
        self,
        texts: Text | Sequence[Text],
        read: str | Sequence[str],
        *,
        layers: Choice = None,
        heads: Choice = None,
        positions: Positions = "all",
        patches: Patches = (),
        bos: bool | None = None,
    ) -> TracePlan:
        """What :meth:`trace` would keep, with shapes and bytes; parameters as there."""
        from km.trace import TracePlan

        return TracePlan(self, texts, read, layers, heads, positions, patches, bos)

    def gradients(
        self,
        texts: Text | Sequence[Text],
        loss: Loss,
        read: str | Sequence[str],
        *,
        layers: Choice = None,
        heads: Choice = None,
        positions: Positions = "all",
        patches: Patches = (),
        bos: bool | None = None,
    ) -> Gradients:
        """Derivatives of a loss with respect to activations, from one forward and backward pass.

        Parameters
        ----------
        loss : Loss
            Made by the functions of :mod:`km.loss`; each text has its own.
        texts, read, layers, heads, positions, patches, bos
            As in :meth:`trace`. Where a point is patched, the derivative is with respect to the
            patched value.

        Returns
        -------
        Gradients
            Arrays as those of a trace; ``.loss`` holds the value of each text.
        """
        from km.gradients import run_gradients

        return run_gradients(self, texts, loss, read, layers, heads, positions, patches, bos)

    def score(
        self,
        prompts: str | Ids | Sequence[str | Ids],
        candidates: Sequence[str | Ids] | Sequence[Sequence[str | Ids]],
        *,
        boundary: Boundary = "blank",
        bos: bool | None = None,
        special: bool = False,
        batch_tokens: int | None = None,
        exact: Literal[True] = True,
        progress: Progress = None,
    ) -> ScoreResult:
        """Log-probabilities of whole continuations of prompts.

        Common beginnings are computed once. Results have the same bits for any number of threads,
        batch size, order and company of other pairs.

        Parameters
        ----------
        prompts : str, token ids, or a sequence of these
        candidates : sequence of str or token ids, or one such sequence a prompt
            A single sequence holds for every prompt. Candidates given as ids are scored as they
            are.
        boundary : {"blank", "none", "lm_eval"}
            How a candidate's text is joined to the prompt's. "blank": one blank is put between them
            where neither brings a blank, tab or line break, and the continuation is encoded by
            itself. "none": the same without that blank. "lm_eval": blanks at the prompt's end move
            into the continuation, both are encoded as one text, and the ids are split at the length
            of the encoded prompt; an empty prompt becomes the bos (or eos) token.
        bos : bool, optional
            Put the beginning-of-sequence token before each prompt; None: what the model file says.
        special : bool
            Treat special tokens written in the texts as those tokens.
        batch_tokens : int, optional
            Distinct tokens a forward pass; default up to 2048, as memory allows.
        exact : True
            For code that states what it relies on: bits that depend on nothing but the pair. km has
            no other arithmetic, so False is refused.
        progress : bool or callable, optional

        Returns
        -------
        ScoreResult
            One row a (prompt, candidate), in order.

        Raises
        ------
        ArgumentError
            A prompt or candidate without tokens, or a pair that does not fit into the model's
            context. Nothing is ever cut.

        Examples
        --------
        >>> import km
        >>> model = km.load()                                              # doctest: +SKIP
        >>> model.score("The capital of France is", ["Paris", "London"])   # doctest: +SKIP
        """
        from km.score import run_score

        if exact is not True:
            raise ArgumentError("exact must be True: km has no arithmetic that is less exact")
        return run_score(self, prompts, candidates, boundary, bos, special, batch_tokens, progress)

    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompts: str,
        *,
        max_tokens: int,
        decoder: Decoder | None = None,
        stop: str | Sequence[str] = (),
        eos: int | Sequence[int] | None = None,
        bos: bool | None = None,
        special: bool = False,
        patches: Patches = (),
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int,
        decoder: Decoder | None = None,
        stop: str | Sequence[str] = (),
        eos: int | Sequence[int] | None = None,
        bos: bool | None = None,
        special: bool = False,
        patches: Patches = (),
    ) -> list[Generation]: ...

    @overload
    def generate(
        self,
        prompts: Ids | Sequence[str | Ids],
        *,
        max_tokens: int,
        decoder: Decoder | None = None,
        stop: str | Sequence[str] = (),
        eos: int | Sequence[int] | None = None,
        bos: bool | None = None,
        special: bool = False,
        patches: Patches = (),
    ) -> Generation | list[Generation]: ...

    def generate(
        self,
        prompts: str | Ids | Sequence[str | Ids],
        *,
        max_tokens: int,
        decoder: Decoder | None = None,
        stop: str | Sequence[str] = (),
        eos: int | Sequence[int] | None = None,
        bos: bool | None = None,
        special: bool = False,
        patches: Patches = (),
    ) -> Generation | list[Generation]:
        """Let the model write on.

        Several prompts go on together. What a prompt gets does not depend on the others. Ctrl-C
        ends the call and returns what is there, with the reason "interrupted".

        Parameters
        ----------
        prompts : str, token ids, or a sequence of these
        max_tokens : int
            Tokens to generate at most; prompt and these must fit into the model's context.
        decoder : Greedy, Sample, Beam, CoDa, CAD, or any other object with their methods
            How tokens are chosen; default ``Greedy()``. See docs/generation.md.
        stop : str or sequence of str
            The text ends before the first of these.
        eos : int or sequence of int, optional
            End-of-sequence tokens; None: the model file's own, (): none.
        bos : bool, optional
            Put the beginning-of-sequence token before each prompt; None: what the model file says.
        special : bool
            Treat special tokens written in the prompts as those tokens.
        patches : sequence of Patch
            What is made to be computed differently at every token; see :func:`km.patch`.

        Returns
        -------
        Generation
            Or a list of them, for a sequence of prompts.

        Raises
        ------
        ArgumentError
            A prompt without tokens, or one that with max_tokens does not fit into the context.

        Examples
        --------
        >>> import km
        >>> model = km.load()                                                    # doctest: +SKIP
        >>> model.generate("The capital of France is", max_tokens=8).text        # doctest: +SKIP
        """
        from km.arguments import is_ids
        from km.generate import run_generate

        made = run_generate(self, prompts, max_tokens, decoder, stop, eos, bos, special, patches)
        return made[0] if isinstance(prompts, str) or is_ids(prompts) else made

    def stream(
        self,
        prompts: str | Ids | Sequence[str | Ids],
        *,
        max_tokens: int,
        decoder: Decoder | None = None,
        stop: str | Sequence[str] = (),
        eos: int | Sequence[int] | None = None,
        bos: bool | None = None,
        special: bool = False,
        patches: Patches = (),
    ) -> Stream:
        """The same as :meth:`generate`, token by token.

        Returns
        -------
        Stream
            An iterator of pieces with prompt, id, log-probability and text; ``.generations`` is
            what has been generated by now.

        Examples
        --------
        >>> import km
        >>> model = km.load()                                                    # doctest: +SKIP
        >>> for piece in model.stream("Once upon a time", max_tokens=40):        # doctest: +SKIP
        ...     print(piece.text, end="", flush=True)
        """
        from km.generate import run_stream

        return run_stream(self, prompts, max_tokens, decoder, stop, eos, bos, special, patches)

    def session(self, capacity: int, *, patches: Patches = ()) -> Session:
        """Keys and values kept between passes, for up to `capacity` tokens.

        Parameters
        ----------
        capacity : int
        patches : sequence of Patch
            What is made to be computed differently at every token; see :func:`km.patch`.
        """
        from km.session import Session

        return Session(self, capacity, patches)

    def lens(self, prompt: str | bytes | Ids, target: str | int, *, top_k: int = 5) -> LensResult:
        """What each layer would say next, read through the model's own norm and unembedding.

        To look at one prompt; :func:`km.logit_lens` measures many beside a control.

        Parameters
        ----------
        prompt : str, bytes or token ids
        target : str or int
            The token followed through the layers: an id, or the text that continues the prompt, of
            which the first token is followed. A blank is put before it where prompt and text would
            run together.
        top_k : int
            How many of each layer's most likely tokens to list.

        Returns
        -------
        LensResult
            One row a layer, and one for the model's output.
        """
        from km.lens import run_lens

        return run_lens(self, prompt, target, top_k)

    @classmethod
    def new(
        cls,
        config: Mapping[str, Any],
        tokenizer: Model | str | os.PathLike[str],
        seed: int = 0,
        *,
        threads: int | None = None,
    ) -> Model:
        """A model from scratch, to be trained.

        Parameters
        ----------
        config : dict
            "n_layers", "d_model" and "n_heads"; optional are "arch" ("llama", the default, "qwen2",
            "qwen3", "gpt2" or "gptneox"), "name", "n_kv_heads" (default: as many as heads),
            "head_dim" (d_model / n_heads), "d_ffn" (8/3 d_model in whole 64s with a gated MLP, else
            4 d_model), "context_length" (512), "vocab_size" (the tokenizer's), "tied_embeddings"
            (True; gptneox has none), "rope_base" (10000) and "norm_eps" (1e-5).
        tokenizer : Model, or path-like
            A model whose tokenizer it takes, a tokenizer.json, or the folder of one
            (:func:`km.train_tokenizer` makes one).
        seed : int
            Matrices are normal(0, 0.02), norm gains 1, biases 0.
        threads : int, optional
            Of a context of its own: models with contexts of their own can train at the same time.
            None: those of the tokenizer's model, whose context it shares; else all.

        Returns
        -------
        Model
            It is kept in memory in the format of its tokenizer: with that of a GGUF model it saves
            as GGUF, else as a folder and as GGUF.

        Raises
        ------
        ArgumentError, FormatError, MemoryError
            A field that cannot be, by name.

        Examples
        --------
        >>> import km
        >>> sizes = {"n_layers": 4, "d_model": 192, "n_heads": 6, "n_kv_heads": 3}
        >>> model = km.Model.new(sizes, km.load(), seed=1)                 # doctest: +SKIP
        """
        from km.new_model import new

        return new(config, tokenizer, seed, threads)

    def random_like(self, seed: int = 0) -> Model:
        """A model of the same shape with fresh weights: matrices normal(0, 0.02), norm gains 1."""
        name = f"{self.name} (random weights, seed {seed})"
        control = Model(self._model.random_like(seed), name)
        control._path = ""
        return control

    # ---- weights and files ----

    def weights(self) -> Table:
        """Names, types and shapes of the weights, as the model's own file has them."""
        from km.save import list_weights

        return list_weights(self)

    def weight(self, name: str) -> np.ndarray[Any, Any]:
        """The values of one weight, read-only: the file's own memory where they are float32.

        Parameters
        ----------
        name : str
            As in :meth:`weights`. Layout and values are the file's: GPT-2's matrices in Hugging
            Face folders are transposed, Gemma's norm gains there are less 1, and llama's q and k
            rows in GGUF are reordered.

        Returns
        -------
        float32
        """
        from km.save import read_weight

        return read_weight(self, name)

    def edit(self, changes: Mapping[str, Any]) -> Model:
        """A model with other values in some weights, sharing everything else with this one.

        Parameters
        ----------
        changes : dict
            Name to array, in the weight's own shape; kept as float32.

        Returns
        -------
        Model
            Its fingerprint covers the changes; this model stays as it is.
        """
        from km.save import edit

        return edit(self, changes)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        format: Literal["gguf", "hf"] | None = None,
        dtype: Literal["keep", "F32", "F16", "BF16", "Q8_0"] = "keep",
        overwrite: bool = False,
    ) -> Path:
        """Write the model to disk; it appears when it is whole, or not at all.

        Parameters
        ----------
        path : path-like
            A .gguf file, or a folder for transformers.
        format : {"gguf", "hf"}, optional
            Default: "gguf" for a path that ends so, else "hf".
        dtype : {"keep", "F32", "F16", "BF16", "Q8_0"}
            "keep" writes every weight as it is stored, edited ones as float32. Q8_0 is for GGUF
            alone, where vectors stay float32.
        overwrite : bool
            Replace a file that is there. A folder is never replaced.
        """
        from km.save import save

        return save(self, path, format, dtype, overwrite)

    # ---- parameters and training ----

    def parameters(self) -> Table:
        """Names, kinds and shapes of the tensors as the forward pass uses them.

        Unlike :meth:`weights`, these are the same for every file of a model.
        """
        from km.trainable import list_parameters

        return list_parameters(self)

    def parameter(self, name: str) -> np.ndarray[Any, Any]:
        """The values of one parameter, (out_features, in_features) or (n); a read-only copy.

        Parameters
        ----------
        name : str
            As in :meth:`parameters`.

        Returns
        -------
        float32
        """
        from km.trainable import read_parameter

        return read_parameter(self, name)

    def trainable(self, which: str | Sequence[str] = "all") -> TrainableModel:
        """A copy with float32 weights that can change; it shares the others with this model.

        Parameters
        ----------
        which : "all", str or sequence of str
            Names of parameters, or patterns such as "blk.*.attn_q.weight".

        Raises
        ------
        MemoryError
            The float32 copies do not fit; the message has both figures.
        """
        from km.trainable import trainable

        return trainable(self, which)

    def snapshot(self) -> Snapshot:
        """A snapshot that keeps nothing but this model; see :meth:`km.TrainableModel.snapshot`."""
        from km.trainable import Snapshot

        return Snapshot(self, {})

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        template: str | None = None,
        **variables: Any,
    ) -> Chat: ...
    @overload
    def chat(
        self,
        messages: Sequence[Sequence[Mapping[str, Any]]],
        add_generation_prompt: bool = True,
        *,
        template: str | None = None,
        **variables: Any,
    ) -> list[Chat]: ...
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        add_generation_prompt: bool = True,
        *,
        template: str | None = None,
        **variables: Any,
    ) -> Chat | list[Chat]:
        """A conversation as the text and tokens the model was trained to continue.

        The model's chat template is rendered in Jinja2's sandbox, in a process of its own that may
        use 5 s of CPU and 1 GiB; a list of conversations shares one.

        Parameters
        ----------
        messages : list of dict, or a list of such lists
            Each {"role": ..., "content": ...}, as the template wants them.
        add_generation_prompt : bool
            End with the words that begin the model's answer.
        template : str, optional
            Default: the one that comes with the model.
        **variables
            What else the template sees, such as tools.

        Raises
        ------
        NotFoundError
            The model has no template.
        FormatError
            The template fails or refuses the conversation.
        ModuleNotFoundError
            Jinja2 is missing: pip install 'km[chat]'.
        """
        from km.chat import chat

        return chat(self, messages, add_generation_prompt, template, **variables)

    # ---- showing ----

    def __repr__(self) -> str:
        c = self.config
        return (
            f"<km.Model {self.name}: {c['arch']}, {self.n_parameters / 1e6:.0f} M parameters, "
            f"{self.precision}, {c['n_layers']} layers, vocabulary {c['vocab_size']:,}, "
            f"context {c['context_length']:,}>"
        )

    def _repr_html_(self) -> str:
        known = {"path", "name", "precision", "n_parameters"}
        facts = [(k, getattr(self, k)) for k in ("name", "path", "precision", "n_parameters")]
        facts += [(k, v) for k, v in self.config.items() if k not in known]
        return mapping_html(facts)


def as_ids(ids: Ids) -> Any:
    """Token ids as an int32 buffer; one that is there already is passed on without a copy."""
    if isinstance(ids, str | bytes | bytearray):
        raise TypeError(f"token ids must be integers, not {type(ids).__name__}; see encode()")
    try:
        view = memoryview(ids)  # type: ignore[arg-type]
        if view.format == "i" and (view.c_contiguous or view.ndim != 1):
            return ids
    except TypeError:
        pass
    try:
        return array("i", cast("Iterable[int]", ids))
    except OverflowError:
        raise ArgumentError("a token id does not fit into 32 bits") from None
