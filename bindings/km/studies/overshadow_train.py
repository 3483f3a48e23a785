"""One cell of an overshadowing study: a model trained from scratch and asked along the way."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from km import _km
from km.examples import Example
from km.optimizers import AdamW
from km.overshadow.pairs import Pair, Text
from km.overshadow.tokens import next_logits
from km.schedules import Constant
from km.scores.overshadow import log_softmax
from km.studies.byte_model import new_byte_model
from km.studies.overshadow_design import OvershadowingDesign, Training, make_corpus
from km.table import Column, Table
from km.trainer import Trainer
from km.training import Data

if TYPE_CHECKING:
    from km.model import Model
    from km.overshadow.synthetic import Corpus
    from km.trainable import TrainableModel

PASS_TOKENS = 4096  # of one pass of training and of asking

COLUMNS = [
    Column("part", "text", "", "fit, fresh (a fitted setting, another seed) or held out."),
    Column("families", "text", "", "Factors in whose series the cell stands."),
    Column("P", "double", "", "Relative popularity m / n."),
    Column("L", "double", "", "Relative length (s + d) / d."),
    Column("S", "double", "", "Parameters of the model."),
    Column("replicate", "int64", "", "Number of the cell among those of its setting."),
    Column("seed", "int64", "", "Of corpus, weights and order."),
    Column("step", "int64", "", "Finished steps."),
    Column("tokens", "int64", "tokens", "Trained on so far."),
    Column("loss", "double", "nats", "Mean a target over the last epoch; null before one."),
    Column("moment", "text", "", "start, along, rung (of the loss) or end."),
    Column("n_a", "int64", "prompts", "A prompts asked."),
    Column("n_a_correct", "int64", "prompts", "Of these, answered with the popular answer."),
    Column("n_b", "int64", "prompts", "B prompts asked."),
    Column("n_b_hallucinated", "int64", "prompts", "Answered with the popular answer."),
    Column("n_b_right", "int64", "prompts", "Answered rightly."),
    Column("RR_probability", "double", "", "Mean probability of the popular answer, A prompts."),
    Column("HR_probability", "double", "", "The same of B prompts."),
    Column("n_shared", "int64", "prompts", "Contexts alone that were asked."),
    Column("n_shared_popular", "int64", "prompts", "Answered with the popular answer."),
]


class StoppedError(Exception):
    """A training was given up because the study ends."""


def train(
    design: OvershadowingDesign,
    training: Training,
    *,
    stopped: Callable[[], bool] = lambda: False,
    threads: int = 1,
) -> Table:
    """Train the model of one cell and return its counts along training.

    Parameters
    ----------
    design : OvershadowingDesign
    training : Training
    stopped : callable
        Asked between steps; a training that is to stop leaves nothing behind.
    threads : int
        The counts do not depend on it.

    Raises
    ------
    StoppedError
        `stopped` said so.
    """
    return _Cell(design, training, threads).run(stopped)


def new_model(design: OvershadowingDesign, size: int, seed: int, threads: int = 1) -> Model:
    """The untrained model of a size. Its tokenizer has bytes alone: all is given as token ids."""
    return new_byte_model(design.config(size), seed, threads)


def estimate_bytes(design: OvershadowingDesign) -> int:
    """Memory that a worker needs at most: for the largest model."""
    model = new_model(design, len(design.sizes) - 1, 0)
    most = min(PASS_TOKENS, design.batch_size * design.prompt)
    weights, gradients, averages, work = _km.trainer_estimate(
        model._model,
        n_tokens=most,
        longest=design.prompt,
        n_targets=most,
        recompute=False,
        clip=design.clip,
        **AdamW(lr=design.lr).numbers(),
    )
    asked = design.groups * design.lines
    logits = asked * design.vocabulary * 4
    return 2 * weights + gradients + averages + work + logits


class _Cell:
    """A training and what is asked of its model."""

    def __init__(self, design: OvershadowingDesign, training: Training, threads: int) -> None:
        self.design = design
        self.training = training
        self.corpus = make_corpus(design, training)
        own = training.setting
        base = new_model(design, own.size, training.seed, threads)
        self.n_parameters = base.n_parameters
        self.model: TrainableModel = base.trainable()
        self.trainer = Trainer(
            self.model,
            AdamW(lr=design.lr),
            clip=design.clip,
            schedule=Constant(warmup=design.warmup),
        )
        lines = [Example(ids).encode(self.model) for ids in self.corpus.ids]
        self.data = Data(lines, design.batch_size, training.seed)
        self.asked = _Asked(self.corpus, design.sampled)
        self.losses: deque[tuple[float, int]] = deque(maxlen=self.data.steps_per_epoch)
        self.rows: list[dict[str, Any]] = []
        self.n_tokens = 0

    def run(self, stopped: Callable[[], bool]) -> Table:
        """All steps, with the measurements on the way."""
        design = self.design
        due = {round(design.steps * i / design.evaluations) for i in range(1, design.evaluations)}
        climbs = "S" in self.training.setting.families
        rung = math.inf
        self.ask("start")
        while self.trainer.n_steps < design.steps:
            if stopped():
                raise StoppedError
            batch = self.data.batch(self.trainer.n_steps)
            step = self.trainer.step_on(batch, PASS_TOKENS)
            self.n_tokens += sum(map(len, batch))
            self.losses.append((step.loss, step.n_targets))
            loss = self.loss()
            if step.step == design.steps:
                self.ask("end")
            elif climbs and loss is not None and loss <= rung:
                rung = next_rung(loss, design.rung)
                self.ask("rung")
            elif step.step in due:
                self.ask("along")
        return Table.from_rows(COLUMNS, self.rows)

    def loss(self) -> float | None:
        """Mean a target over the last epoch."""
        if len(self.losses) < (self.losses.maxlen or 1):
            return None
        total = math.fsum(loss * n for loss, n in self.losses)
        return total / sum(n for _, n in self.losses)

    def ask(self, moment: str) -> None:
        """One row: the counts at this moment."""
        own = self.training
        self.rows.append(
            {
                "part": own.part,
                "families": "".join(own.setting.families),
                "P": float(own.setting.P),
                "L": self.design.prompt / own.setting.d,
                "S": float(self.n_parameters),
                "replicate": own.replicate,
                "seed": own.seed,
                "step": self.trainer.n_steps,
                "tokens": self.n_tokens,
                "loss": self.loss(),
                "moment": moment,
                **self.asked.counts(self.model, everything=moment == "end"),
            }
        )


def next_rung(loss: float, factor: float) -> float:
    """The next loss below this one at which to measure: a power of the factor.

    Examples
    --------
    >>> round(next_rung(0.95, 0.9), 3), round(next_rung(0.9, 0.9), 3)
    (0.9, 0.81)
    """
    return factor ** (math.floor(math.log(loss) / math.log(factor) + 1e-9) + 1)


class _Asked:
    """The prompts of a corpus, and the answers to them in counts."""

    def __init__(self, corpus: Corpus, sampled: int) -> None:
        pairs = corpus.pairs()
        self.popular = [pair for pair in pairs if pair.kind == "A"]
        self.rare = [pair for pair in pairs if pair.kind == "B"]
        taken: dict[str, int] = {}
        self.sample: list[Pair] = []
        for pair in self.popular:
            taken[pair.group] = taken.get(pair.group, 0) + 1
            if taken[pair.group] <= sampled:
                self.sample.append(pair)
        groups = [group for group in corpus.groups if group.shared]
        self.shared = [(group.shared, group.popular_answer[0]) for group in groups]

    def counts(self, model: TrainableModel, everything: bool) -> dict[str, Any]:
        """Counts and mean probabilities; the shared contexts with everything alone."""
        import numpy as np

        a = self.popular if everything else self.sample
        shared = self.shared if everything else []
        prompts = [_ids(pair.prompt) for pair in (*a, *self.rare)]
        logits = next_logits(model, prompts + [context for context, _ in shared])
        popular = np.array([_ids(pair.popular)[0] for pair in (*a, *self.rare)])
        right = np.array([_ids(pair.answer)[0] for pair in self.rare])
        said = logits.argmax(axis=1)
        n = len(prompts)
        chances = np.exp(log_softmax(logits[:n])[np.arange(n), popular])
        found = said[:n] == popular
        row = {
            "n_a": len(a),
            "n_a_correct": int(found[: len(a)].sum()),
            "n_b": len(self.rare),
            "n_b_hallucinated": int(found[len(a) :].sum()),
            "n_b_right": int((said[len(a) : n] == right).sum()),
            "RR_probability": float(chances[: len(a)].mean()),
            "HR_probability": float(chances[len(a) :].mean()),
        }
        if everything:
            heard = sum(int(i == answer) for i, (_, answer) in zip(said[n:], shared, strict=True))
            row |= {"n_shared": len(shared), "n_shared_popular": heard}
        return row


def _ids(text: Text) -> tuple[int, ...]:
    """A prompt, or the answer of one token, as the study's corpora have them."""
    return tuple(int(i) for i in text)
