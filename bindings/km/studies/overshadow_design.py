"""The design of an overshadowing study: which models are trained on what, and how."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km.arguments import real_number, several, whole_number
from km.errors import ArgumentError
from km.overshadow.law import Factor
from km.result import content_key

if TYPE_CHECKING:
    from km.overshadow.synthetic import Corpus

STUDY_ID = "overshadow.study"
STUDY_VERSION = 1

Part: TypeAlias = Literal["fit", "fresh", "held out"]

# Seeds of a study begin here; those with which its recipe was chosen lie below.
FIRST_SEED = 1 << 30


@dataclass(frozen=True)
class OvershadowingDesign:
    """What an overshadowing study trains: one factor at a time around a centre.

    All cells are equal in the tokens trained on, the length of a line, the lines of a group and,
    with them, how often each line is seen. P changes how the lines of a group are shared out
    between both conditions, L how the tokens of a prompt are shared out between context and
    condition, S the model alone.

    Attributes
    ----------
    sizes : tuple of (layers, width, heads)
        Llama models from the smallest to the largest; the last is held out.
    centre_size : int
        Index of the one with which P and L are varied.
    popularities : tuple of int
        Values of P that are fitted; 1 + P divides `lines`.
    centre_popularity : int
    held_out_popularities : tuple of int
    distinct : tuple of int
        Distinguishing tokens d of a prompt: L = prompt / d is fitted.
    centre_distinct : int
    held_out_distinct : tuple of int
    prompt : int
        Tokens of a prompt, s + d; the answer has one more.
    lines : int
        Statements of a group, m + n.
    groups : int
    vocabulary : int
    tokens : int
        Trained on in each cell, at most 300,000.
    batch_size : int
        Lines of a step.
    lr : float
        Of AdamW without weight decay, constant after `warmup` steps.
    warmup : int
    clip : float
        Longest norm of all gradients together.
    evaluations : int
        Measurements along training, at equal distances.
    rung : float
        Models of the size arms are also measured each time their loss has fallen by this factor.
    sampled : int
        A prompts of each group that are asked along training; all are at the end.
    """

    sizes: tuple[tuple[int, int, int], ...] = (
        (2, 48, 2),
        (3, 96, 3),
        (4, 160, 5),
        (5, 256, 8),
        (8, 320, 10),
    )
    centre_size: int = 2
    popularities: tuple[int, ...] = (2, 4, 9, 14, 29, 59)
    centre_popularity: int = 9
    held_out_popularities: tuple[int, ...] = (5, 19)
    distinct: tuple[int, ...] = (8, 6, 4, 3, 2, 1)
    centre_distinct: int = 3
    held_out_distinct: tuple[int, ...] = (5,)
    prompt: int = 12
    lines: int = 60
    groups: int = 20
    vocabulary: int = 1024
    tokens: int = 250_000
    batch_size: int = 32
    lr: float = 1e-3
    warmup: int = 10
    clip: float = 1.0
    evaluations: int = 8
    rung: float = 0.9
    sampled: int = 6

    def __post_init__(self) -> None:
        for name in ("popularities", "held_out_popularities", "distinct", "held_out_distinct"):
            object.__setattr__(self, name, tuple(several(name, getattr(self, name))))
        object.__setattr__(self, "sizes", tuple(tuple(size) for size in self.sizes))
        for name, least in _LEAST.items():
            whole_number(name, getattr(self, name), least)
        whole_number("tokens", self.tokens, 1, 300_000)
        for name in ("lr", "clip"):
            if real_number(name, getattr(self, name), 0, 1e6) == 0:
                raise ArgumentError(f"{name} is 0; it must be positive")
        if not 0.1 <= real_number("rung", self.rung, 0, 1) <= 0.99:
            raise ArgumentError(f"rung is {self.rung}; it must be from 0.1 to 0.99")
        self._check_levels()

    def _check_levels(self) -> None:
        if len(self.sizes) < 3 or any(len(size) != 3 for size in self.sizes):
            raise ArgumentError(
                "sizes: at least three of (layers, width, heads), the last held out"
            )
        whole_number("centre_size", self.centre_size, 0, len(self.sizes) - 2)
        for name in ("popularities", "distinct"):
            fitted, held = getattr(self, name), getattr(self, f"held_out_{name}")
            centre = {"popularities": self.centre_popularity, "distinct": self.centre_distinct}
            if centre[name] not in fitted:
                raise ArgumentError(f"{name} must hold the centre, {centre[name]}")
            if len(set(fitted)) != len(fitted) or set(fitted) & set(held):
                raise ArgumentError(f"{name}: a value comes twice, or is held out and fitted")
        for P in (*self.popularities, *self.held_out_popularities):
            if self.lines % (1 + whole_number("P", P, 1)):
                raise ArgumentError(f"P={P}: {self.lines} lines cannot be shared out {P} to 1")
        for d in (*self.distinct, *self.held_out_distinct):
            whole_number("distinct", d, 1, self.prompt)

    @property
    def steps(self) -> int:
        """Steps of each training; the last batch of an epoch may be smaller."""
        lines = self.groups * self.lines
        per_epoch = -(-lines // self.batch_size)
        whole, rest = divmod(-(-self.tokens // (self.prompt + 1)), lines)
        return max(1, whole * per_epoch + -(-rest // self.batch_size))

    def config(self, size: int) -> dict[str, Any]:
        """Configuration of a model for :meth:`km.Model.new`."""
        layers, width, heads = self.sizes[size]
        return {
            "arch": "llama",
            "name": f"from scratch, {layers} layers of {width}",
            "n_layers": layers,
            "d_model": width,
            "n_heads": heads,
            "vocab_size": self.vocabulary,
            "context_length": max(16, self.prompt + 1),
        }

    def describe(self) -> dict[str, Any]:
        """All of it in types that JSON has."""
        return asdict(self)


_LEAST = {
    "prompt": 1,
    "lines": 2,
    "groups": 2,
    "vocabulary": 256,
    "batch_size": 1,
    "warmup": 0,
    "evaluations": 1,
    "sampled": 1,
}


@dataclass(frozen=True)
class Setting:
    """What distinguishes one cell from another, besides its seed.

    Attributes
    ----------
    P, d, size : int
        Relative popularity, distinguishing tokens, index of the size.
    families : tuple of {"P", "L", "S"}
        The factors in whose series it stands; the centre stands in all.
    held_out : bool
        No fit sees it.
    """

    P: int
    d: int
    size: int
    families: tuple[Factor, ...]
    held_out: bool = False


@dataclass(frozen=True)
class Training:
    """One model to train: a setting with a seed.

    Attributes
    ----------
    setting : Setting
    part : {"fit", "fresh", "held out"}
        Whether curves are fitted to it, or scored on it at a fitted or at a held-out setting.
    replicate : int
    seed : int
        Of corpus, weights and order; no two trainings share one.
    """

    setting: Setting
    part: Part
    replicate: int
    seed: int

    def key(self, design: OvershadowingDesign) -> str:
        """The content key of its measurements."""
        own = self.setting
        fields = design.describe()
        for name in (*_LEVELS, "sizes", "centre_size"):
            del fields[name]
        about = {
            **fields,
            "size": list(design.sizes[own.size]),
            "P": own.P,
            "d": own.d,
            "part": self.part,
            "families": list(own.families),
            "replicate": self.replicate,
            "seed": self.seed,
        }
        return content_key(STUDY_ID, STUDY_VERSION, about, "", [])


_LEVELS = (
    "popularities",
    "centre_popularity",
    "held_out_popularities",
    "distinct",
    "centre_distinct",
    "held_out_distinct",
)


def settings(design: OvershadowingDesign) -> list[Setting]:
    """All settings, fitted ones first."""
    P, d, size = design.centre_popularity, design.centre_distinct, design.centre_size
    found = [Setting(P, d, size, ("P", "L", "S"))]
    found += [Setting(other, d, size, ("P",)) for other in design.popularities if other != P]
    found += [Setting(P, other, size, ("L",)) for other in design.distinct if other != d]
    last = len(design.sizes) - 1
    found += [Setting(P, d, other, ("S",)) for other in range(last) if other != size]
    found.append(Setting(P, d, last, ("S",), True))
    found += [Setting(other, d, size, ("P",), True) for other in design.held_out_popularities]
    found += [Setting(P, other, size, ("L",), True) for other in design.held_out_distinct]
    return found


def trainings(design: OvershadowingDesign, seeds: int, seed: int) -> list[Training]:
    """All trainings: `seeds` of each setting, and one more, fresh, of each that is fitted.

    The seeds of what the curves are scored on depend on how many the fit has, so that a study with
    more of them never meets cells that were trained before its own curves were frozen.
    """
    found = []
    for setting in settings(design):
        part: Part = "held out" if setting.held_out else "fit"
        found += [_training(setting, part, i, seeds, seed) for i in range(seeds)]
    fresh = [own for own in settings(design) if not own.held_out]
    return found + [_training(setting, "fresh", 0, seeds, seed) for setting in fresh]


def _training(setting: Setting, part: Part, replicate: int, seeds: int, seed: int) -> Training:
    of = "" if part == "fit" else f"/{seeds}"
    text = f"{seed}/{part}{of}/{setting.P}/{setting.d}/{setting.size}/{replicate}"
    drawn = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return Training(setting, part, replicate, FIRST_SEED + drawn % FIRST_SEED)


def make_corpus(design: OvershadowingDesign, training: Training) -> Corpus:
    """The corpus of one training."""
    from km.overshadow.synthetic import corpus

    own = training.setting
    return corpus(
        own.P,
        design.prompt / own.d,
        groups=design.groups,
        n=design.lines // (1 + own.P),
        n_distinct=own.d,
        vocabulary=design.vocabulary,
        seed=training.seed,
    )


def longest_first(design: OvershadowingDesign, listed: Sequence[Training]) -> list[Training]:
    """The trainings in the order in which two workers end soonest."""
    return sorted(listed, key=lambda own: -own.setting.size)
