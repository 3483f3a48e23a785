"""PostKS: which sentence an answer should rest on, learned from what answers say.

Lian, Xie, Wang, Peng and Wu, IJCAI 2019; the equations are in km/select.h. It knows nothing of
earlier choices, and it need not be told which sentence is the right one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from km.arguments import real_number
from km.dialog.diffks import DiffKS, Embeddings
from km.errors import ArgumentError

if TYPE_CHECKING:
    from km.model import Model


class PostKS(DiffKS):
    """Posterior knowledge selection.

    Candidates have a prior, from the context, and while training a posterior, from the answer too.
    Training draws the prior to the posterior, and the posterior to candidates from which the words
    of the answer can be told (a bag of words). Choosing goes by the prior. The answer's likelihood
    under a decoder, which the paper adds to the loss, is not part of it: there is no decoder here.

    Parameters
    ----------
    embedding, hidden : int
        Width of word embeddings, of one direction of each encoder.
    dropout : float
    temperature : float
        How soft training draws a candidate from the posterior (Gumbel-softmax); 0: no draws, the
        expected candidate.
    supervision : float
        Weight in the loss of -log of the gold candidate's posterior, on turns that have one. 0: as
        in the paper, gold sentences are not used, except by `valid` to choose the best epoch.
    vocabulary : int
        Most frequent words that have an embedding.
    embeddings : {"random", "model"}
        As of :class:`DiffKS`.
    model : Model, optional
        For embeddings "model".
    match : bool
        As of :class:`DiffKS`: add to the prior how alike by their words a candidate is to what the
        user said.
    learning_rate, clip, batch_size, epochs, patience, allow_none, max_words, max_context, seed, \
    threads
        As of :class:`DiffKS`.

    Examples
    --------
    >>> selector = km.dialog.PostKS(epochs=20).fit(data.split("train"), data.split("valid"))
    ... # doctest: +SKIP
    """

    uses_history = False
    parameter_names: ClassVar[tuple[str, ...]] = (
        "embedding", "hidden", "dropout", "temperature", "supervision", "vocabulary", "embeddings",
        "model", "match", "learning_rate", "clip", "batch_size", "epochs", "patience",
        "allow_none", "max_words", "max_context", "seed", "threads",
    )  # fmt: skip

    def __init__(
        self,
        *,
        embedding: int = 300,
        hidden: int = 200,
        dropout: float = 0.5,
        temperature: float = 0.67,
        supervision: float = 0.0,
        vocabulary: int = 20000,
        embeddings: Embeddings = "random",
        model: Model | None = None,
        match: bool = False,
        learning_rate: float = 5e-4,
        clip: float = 5.0,
        batch_size: int = 8,
        epochs: int = 20,
        patience: int | None = 5,
        allow_none: bool = False,
        max_words: int = 40,
        max_context: int = 100,
        seed: int = 0,
        threads: int = 0,
    ) -> None:
        super().__init__(
            "context",
            embedding=embedding,
            hidden=hidden,
            decoder=1,
            dropout=dropout,
            weights=(1.0,),
            vocabulary=vocabulary,
            embeddings=embeddings,
            model=model,
            match=match,
            learning_rate=learning_rate,
            clip=clip,
            batch_size=batch_size,
            epochs=epochs,
            patience=patience,
            allow_none=allow_none,
            max_words=max_words,
            max_context=max_context,
            seed=seed,
            threads=threads,
        )
        if self.embeddings == "states":
            raise ArgumentError(
                'PostKS tells the words of answers, which embeddings="states" has no ids of; '
                'use "random" or "model"'
            )
        self.variant = "posterior"
        self.temperature = real_number("temperature", temperature, 0, 1e6)
        self.supervision = real_number("supervision", supervision, 0, 1e6)

    def _loss_settings(self) -> dict[str, float]:
        return {"temperature": self.temperature, "supervision": self.supervision}

    @property
    def _reads_responses(self) -> bool:
        return True

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training, as JSON has it."""
        out = super().describe()
        del out["weights"], out["sampling"]  # there is no history
        return {"variant": self.variant, **out}

    def _plain_params(self) -> dict[str, Any]:
        return {name: v for name, v in super()._plain_params().items() if name != "variant"}

    def _need_decoder(self) -> NoReturn:
        raise ArgumentError("PostKS has no decoder here; km.DiffKS(generate=True) has one")
