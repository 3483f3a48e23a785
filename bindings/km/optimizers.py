"""Optimisers: small descriptions that a trainer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from km.arguments import real_number, several, strings
from km.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np

# (name, kind, layer, rows, cols, trainable) of each parameter of a model
Parameters: TypeAlias = "Sequence[tuple[str, str, int, int, int, bool]]"

LARGEST_RATE = 1e6


class Optimizer:
    """What :class:`AdamW` and :class:`SGD` share.

    Attributes
    ----------
    lr : float
        Learning rate that a schedule multiplies.
    weight_decay : float
    decay : sequence of str, optional
        Names or patterns of the parameters that decay, such as "*.weight"; None: matrices and
        embeddings, not gains of norms and biases.
    """

    lr: float
    weight_decay: float
    decay: Sequence[str] | None

    def _check(self) -> None:
        real_number("lr", self.lr, 0, LARGEST_RATE)
        real_number("weight_decay", self.weight_decay, 0, LARGEST_RATE)
        if self.decay is not None:
            object.__setattr__(self, "decay", tuple(strings("decay", self.decay)))

    def decays(self, parameters: Parameters) -> np.ndarray[Any, Any] | None:
        """Which parameters decay; None: the default.

        Raises
        ------
        ArgumentError
            A pattern that no parameter has.
        """
        import numpy as np

        if self.decay is None:
            return None
        return np.array(match_names("decay", self.decay, [row[0] for row in parameters]))

    def numbers(self) -> dict[str, Any]:
        """Arguments of ``_km.Trainer``."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The optimiser's part of a recipe."""
        return {"name": type(self).__name__, **asdict(cast(Any, self))}


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with bias correction and decoupled weight decay; computes what torch.optim.AdamW does.

    Parameters
    ----------
    lr : float
    betas : (float, float)
        Of the averages of the gradient and of its square.
    eps : float
    weight_decay : float
    decay : sequence of str, optional
        Names or patterns of what decays; None: matrices and embeddings, not gains and biases.

    Notes
    -----
    m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, and a weight becomes
    (1 - lr decay) w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) (Loshchilov and
    Hutter 2019).

    Examples
    --------
    >>> AdamW(lr=5e-5).betas
    (0.9, 0.999)
    """

    lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self._check()
        betas = [real_number("betas", beta, 0, 1) for beta in several("betas", self.betas)]
        if len(betas) != 2 or 1 in betas:
            raise ArgumentError(f"betas is {self.betas}; two numbers in [0, 1) are needed")
        object.__setattr__(self, "betas", tuple(betas))
        if not real_number("eps", self.eps, 0, 1) > 0:
            raise ArgumentError("eps is 0; it must be positive")

    def numbers(self) -> dict[str, Any]:
        """Arguments of ``_km.Trainer``."""
        return {
            "optimizer": "adamw",
            "beta1": self.betas[0],
            "beta2": self.betas[1],
            "eps": self.eps,
            "momentum": 0.0,
            "weight_decay": self.weight_decay,
        }


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, with momentum if asked; computes what torch.optim.SGD does.

    Parameters
    ----------
    lr : float
    momentum : float
        m = momentum m + g stands in place of the gradient g.
    weight_decay : float
        Times the weight is added to the gradient.
    decay : sequence of str, optional
        As of :class:`AdamW`.
    """

    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    decay: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self._check()
        if real_number("momentum", self.momentum, 0, 1) == 1:
            raise ArgumentError(f"momentum is {self.momentum}; it must be in [0, 1)")

    def numbers(self) -> dict[str, Any]:
        """Arguments of ``_km.Trainer``."""
        return {
            "optimizer": "sgd",
            "beta1": 0.0,
            "beta2": 0.0,
            "eps": 1.0,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
        }


def match_names(what: str, patterns: Sequence[str], names: Sequence[str]) -> list[bool]:
    """For each name whether one of the patterns is it or matches it.

    Raises
    ------
    ArgumentError
        A pattern matches nothing.
    """
    flags = [False] * len(names)
    for pattern in patterns:
        found = [i for i, name in enumerate(names) if fnmatchcase(name, pattern)]
        if not found:
            raise ArgumentError(
                f"{what}: no parameter is called {pattern!r}; model.parameters() lists them"
            )
        for i in found:
            flags[i] = True
    return flags
