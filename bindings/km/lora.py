"""Low-rank adapters (LoRA): which matrices get one, and files that the PEFT library reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from km.arguments import real_number, strings, whole_number
from km.errors import ArgumentError

if TYPE_CHECKING:
    from km.optimizers import Parameters

DEFAULT_TARGETS = ("attn_q", "attn_v")


@dataclass(frozen=True)
class LoRA:
    """Adapters W0 + alpha / rank B A in place of whole matrices (Hu et al. 2021).

    A (rank, columns) begins uniform in ±1/sqrt(columns), as in the PEFT library, and B (rows,
    rank) at 0, so training begins from the model as it is.

    Parameters
    ----------
    rank : int
    alpha : float
    targets : sequence of str
        Linear layers: "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up",
        "ffn_down", in every block; or names and patterns such as "blk.3.*.weight".
    seed : int
        Of the first values of A.

    Examples
    --------
    >>> LoRA(rank=4).targets
    ('attn_q', 'attn_v')
    """

    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] = DEFAULT_TARGETS
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number("rank", self.rank, 1)
        whole_number("seed", self.seed, 0, 2**64 - 1)
        if not real_number("alpha", self.alpha, 0, 1e9) > 0:
            raise ArgumentError("alpha is 0; it must be positive")
        object.__setattr__(self, "targets", tuple(strings("targets", self.targets)))

    def names(self, parameters: Parameters) -> list[str]:
        """The matrices that get an adapter.

        Raises
        ------
        ArgumentError
            A target that the model does not have.
        """
        linear = [row[0] for row in parameters if row[1] == "matrix"]
        found: set[str] = set()
        for target in self.targets:
            own = {name for name in linear if _is_target(name, target)}
            if not own:
                known = dict.fromkeys(name.split(".")[2] for name in linear)
                raise ArgumentError(
                    f"targets: no linear layer is called {target!r}; there are {', '.join(known)}"
                )
            found |= own
        return [name for name in linear if name in found]

    def describe(self) -> dict[str, Any]:
        """The adapters' part of a recipe."""
        return asdict(self)


def _is_target(name: str, target: str) -> bool:
    """Whether "blk.3.attn_q.weight" is meant by "attn_q", its name or a pattern."""
    return name.split(".")[2] == target or fnmatchcase(name, target)
