"""The decoders of a study and their hyper-parameters: as many settings for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from km.decoders import Decoder, Greedy
from km.scores import decoding
from km.scores.overshadow import select_token

if TYPE_CHECKING:
    import numpy as np

    from km.model import Model
    from km.studies.decoders_cases import Case

    Row = np.ndarray[Any, Any]

GREEDY = "Greedy"
CODA = "CoDa"

# What a token scores that a decoder excludes, when given texts are scored.
EXCLUDED = -1000.0

# The first of each is what its authors publish or their code has as its default.
GRID: dict[str, tuple[dict[str, Any], ...]] = {
    CODA: (
        {"alpha": 0.01},
        {"alpha": 0.1},
        {"alpha": 0.01, "weight": 0.5},
        {"alpha": 0.01, "floor": "neg_min", "select": "max"},
    ),
    "CAD": ({"alpha": 1.0}, {"alpha": 0.5}, {"alpha": 0.25}, {"alpha": 1.5}),
    "AdaCAD": ({"threshold": 0.0}, {"threshold": 0.1}, {"threshold": 0.25}, {"threshold": 0.5}),
    "DoLa": (
        {"layers": "low"},
        {"layers": "high"},
        {"layers": "low", "final_norm": True},
        {"layers": "high", "final_norm": True},
    ),
    "ContrastiveDecoding": (
        {"depth": 0.5},
        {"depth": 0.5, "beta": 0.5},
        {"depth": 0.25},
        {"depth": 0.75, "beta": 0.5},
    ),
}
DECODERS = tuple(GRID)


class Layers(NamedTuple):
    """Layers whose logits are wanted, and whether they go through the final norm."""

    layers: tuple[int, ...]
    norm: bool


class View(NamedTuple):
    """Logits at one place.

    Attributes
    ----------
    own : (V)
    without : (V) or None
        Without the context.
    left_out : (V) or None
        Without the token that CoDa found.
    layers : (N, V) or None
    """

    own: Row
    without: Row | None = None
    left_out: Row | None = None
    layers: Row | None = None


@dataclass(frozen=True)
class Setting:
    """A decoder with its hyper-parameters.

    Attributes
    ----------
    decoder : str
    options : str
        As canonical JSON.
    """

    decoder: str
    options: str = "{}"

    @classmethod
    def of(cls, decoder: str, options: dict[str, Any] | None = None) -> Setting:
        """From a dictionary."""
        return cls(decoder, json.dumps(options or {}, sort_keys=True))

    def __getitem__(self, name: str) -> Any:
        return {**_DEFAULTS, **json.loads(self.options)}[name]

    def __str__(self) -> str:
        options = json.loads(self.options)
        return f"{self.decoder}({', '.join(f'{k}={v!r}' for k, v in options.items())})"

    def decodes(self, case: Case) -> bool:
        """Whether a case is decoded with it: CoDa decodes fewer."""
        return case.coda or self.decoder != CODA

    @property
    def needs_prior(self) -> bool:
        """Whether it looks at the prompt without its context."""
        return self.decoder in ("CAD", "AdaCAD")

    def layers(self, model: Model) -> Layers | None:
        """Layers it looks at."""
        if self.decoder == "DoLa":
            found, norm = self.build(model).lens(model)  # type: ignore[attr-defined]
            return Layers(tuple(found), norm)
        if self.decoder == "ContrastiveDecoding":
            return Layers((self._amateur(model),), True)
        return None

    def _amateur(self, model: Model) -> int:
        return round(float(self["depth"]) * int(model.config["n_layers"]))

    def find(self, full: Row, masked: Row) -> int | None:
        """Which candidate CoDa takes to be overshadowed."""
        if not len(masked):
            return None
        found = decoding.overshadowing(full, masked, self["alpha"], self["floor"])
        return select_token(found.indicator.tolist(), self["select"])

    def scores(self, view: View) -> Row:
        """Scores of the next token (V), -inf where it is excluded."""
        import numpy as np

        if self.decoder == "CAD":
            return decoding.cad(view.own, view.without, self["alpha"])  # type: ignore[arg-type]
        if self.decoder == "AdaCAD":
            return decoding.adacad(view.own, view.without, self["threshold"]).scores  # type: ignore[arg-type]
        if self.decoder == "DoLa":
            return decoding.dola(view.own, view.layers).scores  # type: ignore[arg-type]
        if self.decoder == "ContrastiveDecoding":
            return decoding.contrastive(view.own, view.layers[0], beta=self["beta"])  # type: ignore[index]
        if self.decoder == CODA and view.left_out is not None:
            return decoding.coda(view.own, view.left_out, self["alpha"], self["weight"])
        return np.asarray(view.own, dtype=np.float64)

    def build(self, model: Model, without: Sequence[str] = ()) -> Decoder:
        """The decoder for :meth:`km.Model.generate`, which this setting stands for."""
        from km import contrast_decoders as made

        options = json.loads(self.options)
        if self.decoder == GREEDY:
            return Greedy()
        if self.needs_prior:
            return getattr(made, self.decoder)(list(without), **options)  # type: ignore[no-any-return]
        if self.decoder == "ContrastiveDecoding":
            options["amateur"] = self._amateur(model)
            del options["depth"]
        return getattr(made, self.decoder)(**options)  # type: ignore[no-any-return]


_DEFAULTS = {"floor": "vtop_min", "select": "min", "weight": 1.0, "beta": 1.0}


def all_settings() -> list[Setting]:
    """Greedy, then every setting of every decoder."""
    found = [Setting.of(name, options) for name in DECODERS for options in GRID[name]]
    return [Setting.of(GREEDY), *found]
