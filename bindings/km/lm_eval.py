"""lm-evaluation-harness with km as a model: ``python -m km.lm_eval --model km ...``.

Takes the harness's own command line. Importing this module registers the model "km" there, since
0.4.13 has no entry point for plugins. Needs the extra "lm-eval".
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from km import _km, load
from km.decoders import Beam, Greedy, Sample
from km.errors import ArgumentError
from km.progress import ProgressReporter

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise ImportError(
        f"km.lm_eval needs lm-evaluation-harness ({error}): pip install 'km[lm-eval]'"
    ) from error

if TYPE_CHECKING:
    from km.decoders import Decoder

_log = logging.getLogger(__name__)

# A request for scoring: (texts or None, ids given, ids scored).
_Request = tuple[tuple[str, str] | None, list[int], list[int]]


@register_model("km")  # type: ignore[untyped-decorator,unused-ignore]
class KmLM(TemplateLM):  # type: ignore[misc,unused-ignore]
    """A km model as the harness sees it; arguments mean what they mean for its "hf" model.

    Parameters
    ----------
    model : str
        What :func:`km.load` takes.
    threads : int, optional
    batch_tokens : int, optional
        Distinct tokens a forward pass; results do not depend on it.
    add_bos_token : bool, optional
        Begin every text with the bos token; None: what the model file says.
    prefix_token_id : int, optional
        Stands for an empty context; default the bos token, or eos where there is none.
    max_length : int, optional
        Default: the model's context. Longer contexts lose their beginning, with a warning.
    max_gen_toks : int
        Tokens generated where a task names no number.
    batch_size, max_batch_size, device
        The harness gives them to every model; they do nothing here.
    """

    backend = "causal"

    def __init__(
        self,
        model: str = "smollm2",
        threads: int | None = None,
        batch_tokens: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.model = load(model, threads=threads)
        context = int(self.model.config["context_length"])
        self.max_length = context if max_length is None else max_length
        if not 1 < self.max_length <= context:
            raise ArgumentError(f"max_length is {max_length}; the model's context is {context}")
        self.max_gen_toks = max_gen_toks
        self._add_bos = add_bos_token
        self._prefix = prefix_token_id
        self._batch_tokens = batch_tokens or 0

    # ---- tokens ----

    @property
    def eot_token_id(self) -> int | None:
        """The end-of-sequence token."""
        return self.model.eos

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty context."""
        for token in (self._prefix, self.model.bos, self.model.eos):
            if token is not None:
                return token
        raise ArgumentError("the model has neither bos nor eos token; give prefix_token_id")

    @property
    def tokenizer_name(self) -> str:
        """Names the harness's cache of requests."""
        return self.model.tokenizer_hash

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids of a text; special tokens written in it are those tokens, as in the hf model."""
        bos = self._add_bos
        if add_special_tokens is not None:
            bos = None if add_special_tokens else False
        elif has_bos_prefix(string, self.model.decode([self.prefix_token_id])):
            bos = False
        return self.model.encode(string, bos=bos, special=True)

    # ---- scoring ----

    def _loglikelihood_tokens(
        self, requests: Sequence[_Request], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Sum of log-probabilities and greedy agreement of each request."""
        ids, offsets, lengths = array("i"), array("q", [0]), array("q")
        for _texts, given, scored in requests:
            if len(scored) > self.max_length:
                raise ArgumentError(
                    f"a continuation of {len(scored)} tokens is longer than {self.max_length}"
                )
            too_many = len(given) + len(scored) - (self.max_length + 1)
            if too_many > 0:
                _log.warning("a context loses its first %d tokens to fit the model", too_many)
            kept = given[max(0, too_many) :]
            ids.extend(kept)
            ids.extend(scored)
            offsets.append(len(ids))
            lengths.append(len(kept))
        shown = False if disable_tqdm else None
        with ProgressReporter(shown, "loglikelihood", "requests", len(lengths)) as report:
            made = _km.continuations_run(
                self.model._model, ids, offsets, lengths, self._batch_tokens, report
            )
        answers = list(zip(made[2].tolist(), made[3].tolist(), strict=True))
        for (texts, *_rest), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, in windows of the model's context."""
        windows: list[_Request] = []
        owners: list[int] = []
        for i, request in enumerate(requests):
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                given, scored = make_disjoint_window(window)
                windows.append((None, list(given), list(scored)))
                owners.append(i)
        sums = [0.0] * len(requests)
        scores = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        for owner, (logp, _) in zip(owners, scores, strict=True):
            sums[owner] += logp
        for request, logp in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, logp)
        return sums

    # ---- generation ----

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text of each request up to its stop strings."""
        out = []
        with ProgressReporter(
            False if disable_tqdm else None, "generate_until", "requests", len(requests)
        ) as report:
            for context, options in (request.args for request in requests):
                text = self._generate(context, dict(options))
                self.cache_hook.add_partial("generate_until", (context, options), text)
                out.append(text)
                report(len(out), len(requests))
        return out

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        wanted = normalize_gen_kwargs(options, self.max_gen_toks)
        n, until = int(wanted.pop("max_gen_toks")), wanted.pop("until", None) or []
        if n >= self.max_length:
            raise ArgumentError(
                f"{n} tokens are to be generated; the model's context is {self.max_length}"
            )
        ids = self.tok_encode(context)
        if len(ids) > self.max_length - n:
            _log.warning(
                "a context of %d tokens is cut to its last %d", len(ids), self.max_length - n
            )
            ids = ids[n - self.max_length :]
        stop = [text for text in ([until] if isinstance(until, str) else until) if text]
        made = self.model.generate(ids, max_tokens=n, decoder=_decoder(wanted), stop=stop)
        assert not isinstance(made, list)
        if made.finish_reason == "interrupted":
            raise KeyboardInterrupt
        return made.text


def _decoder(options: dict[str, Any]) -> Decoder:
    """The decoder that the harness's generation options describe."""
    sampled, n_beams = bool(options.pop("do_sample", False)), int(options.pop("num_beams", 1))
    temperature = float(options.pop("temperature", 1.0))
    filters = {name: options.pop(name) for name in ("top_k", "top_p", "min_p") if name in options}
    seed = int(options.pop("seed", 0))
    penalty = float(options.pop("length_penalty", 1.0))
    if options:
        raise ArgumentError(f"km does not know the generation option {sorted(options)[0]!r}")
    if sampled and n_beams > 1:
        raise ArgumentError("km has no sampled beam search")
    if sampled:
        return Sample(temperature=temperature, seed=seed, **filters)
    return Beam(n_beams, penalty) if n_beams > 1 else Greedy()


def main() -> None:
    """Run the harness's command line with the model "km" registered."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
