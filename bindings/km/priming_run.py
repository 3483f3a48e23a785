"""Learning texts one after another from the same weights, and measuring before and after."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from km import _km
from km.priming_plan import Arm, Encoded, Item, KeywordTokens, Recipe, encode_item
from km.table import Table
from km.trainable import TrainableModel

if TYPE_CHECKING:
    from km.model import Model
    from km.pruning import Pruning
    from km.trainable import Snapshot
    from km.trainer import Trainer


class Learner:
    """One copy of a model that learns a text, is measured, and goes back to where it was.

    The copy is made when something is first measured, so a run whose figures are all in a
    knowledge base needs no memory. A trainable model is itself trained, and keeps what it learned
    last.

    Parameters
    ----------
    model : Model
    recipe : Recipe
    """

    def __init__(self, model: Model, recipe: Recipe) -> None:
        self.model = model
        self.recipe = recipe
        self._state: tuple[object, ...] = ()
        self._parts: tuple[TrainableModel, Trainer, Snapshot] | None = None

    @property
    def in_place(self) -> bool:
        """Whether the model given is itself trained."""
        return isinstance(self.model, TrainableModel)

    def _ready(self) -> tuple[TrainableModel, Trainer, Snapshot]:
        from km.trainer import Trainer

        if self._parts is None:
            given = self.model
            trainable = given if isinstance(given, TrainableModel) else given.trainable()
            trainer = Trainer(trainable, self.recipe.optimizer, clip=self.recipe.clip)
            self._parts = (trainable, trainer, trainable.snapshot())
        return self._parts

    def start(self) -> TrainableModel:
        """The model with the weights it had at first."""
        trainable, _, start = self._ready()
        if self._state:
            trainable.restore(start)
            self._state = ()
        return trainable

    def learned(self, text: str, pruning: Pruning | None = None) -> TrainableModel:
        """The model after learning a text from the first weights.

        Parameters
        ----------
        text : str
        pruning : Pruning, optional
            Changes it takes back while training or at the end.
        """
        every = pruning if pruning is not None and pruning.every is not None else None
        if self._state[:2] != (text, every) or len(self._state) != 2:
            self._train(text, every)
        trainable, _, start = self._ready()
        if pruning is not None and every is None:
            self._state = ("unfinished",)
            pruning.apply(trainable, start)
            self._state = (text, every, pruning)
        return trainable

    def _train(self, text: str, every: Pruning | None) -> None:
        trainable, trainer, base = self._ready()
        self.start()
        self._state = ("unfinished",)
        trainer.reset()
        for step, batch in enumerate(self.recipe.batches(text), 1):
            trainer.step(batch)
            if every is not None and every.every is not None and step % every.every == 0:
                every.apply(trainable, base)
                base = trainable.snapshot()
        self._state = (text, every)


class Gauge:
    """Log-probabilities of items, those before learning kept.

    Parameters
    ----------
    learner : Learner
    keyword_tokens : {"joint", "first"}
        All tokens of a keyword of several, or its first.
    """

    def __init__(self, learner: Learner, keyword_tokens: KeywordTokens) -> None:
        self.learner = learner
        self.keyword_tokens = keyword_tokens
        self._before: dict[Encoded, float] = {}

    def encode(self, items: Sequence[Item]) -> list[Encoded]:
        """The items as the model is shown them."""
        return [encode_item(self.learner.model, item, self.keyword_tokens) for item in items]

    def before(self, encoded: Sequence[Encoded]) -> list[float]:
        """Log-probabilities with the first weights; each is measured once."""
        new = [ids for ids in dict.fromkeys(encoded) if ids not in self._before]
        if new:
            values = score_encoded(self.learner.start(), new)
            self._before.update(zip(new, values, strict=True))
        return [self._before[ids] for ids in encoded]

    def measure(self, arm: Arm) -> Table:
        """The rows of an arm; the model keeps what it learned in it."""
        encoded = self.encode(arm.items)
        before = self.before(encoded)
        if arm.learns:
            after = score_encoded(self.learner.learned(arm.shown, arm.pruning), encoded)
        else:
            behind = [item.behind(arm.shown) for item in arm.items]
            after = score_encoded(self.learner.start(), self.encode(behind))
        return arm.table(encoded, before, after)


def score_encoded(model: Model, encoded: Sequence[Encoded]) -> list[float]:
    """Sums of log-probabilities of the scored ids, nats; what items share is computed once."""
    import numpy as np

    ids = np.array([i for item in encoded for i in (*item.given, *item.scored)], dtype=np.int32)
    sizes = [len(item.given) + len(item.scored) for item in encoded]
    offsets = np.array([0, *accumulate(sizes)], dtype=np.int64)
    given = np.array([len(item.given) for item in encoded], dtype=np.int64)
    values: list[float] = _km.continuations_run(model._model, ids, offsets, given)[2].tolist()
    return values
