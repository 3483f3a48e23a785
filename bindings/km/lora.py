"""Low-rank adapters (LoRA): which matrices get one, and folders as the PEFT library writes them.

Such a folder holds ``adapter_config.json`` and ``adapter_model.safetensors``, whose tensors are
called ``base_model.model.<module>.lora_A.weight`` (rank, in_features) and ``...lora_B.weight``
(out_features, rank) after the modules of transformers. Where a GGUF file has rows of q and k in
another order than transformers, rows of B change places on the way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from km import _km
from km.arguments import real_number, strings, whole_number
from km.cache import atomic_write
from km.errors import ArgumentError, FormatError, UnsupportedError
from km.tensor_file import read_tensors, write_tensors

if TYPE_CHECKING:
    import numpy as np

    from km.model import Model
    from km.optimizers import Parameters

# A (rank, columns) and B (rows, rank) of each adapted parameter
Pairs: TypeAlias = "Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]"

LARGEST = 3e38  # nearly the largest float32
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."

_LLAMA = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Where transformers keeps a block, and its linear layers by our names. GPT-2 and GPT-NeoX have q, k
# and v in one module, which an adapter of one of them alone does not fit.
_MODULES = {
    "gpt2": (
        "transformer.h",
        {"attn_output": "attn.c_proj", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
    ),
    "gptneox": (
        "gpt_neox.layers",
        {
            "attn_output": "attention.dense",
            "ffn_up": "mlp.dense_h_to_4h",
            "ffn_down": "mlp.dense_4h_to_h",
        },
    ),
}

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
        if not self.targets:
            raise ArgumentError("targets is empty; one is 'attn_q'")

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


# ---- folders ----


def write_adapters(
    model: Model, pairs: Pairs, lora: LoRA, folder: str | os.PathLike[str], overwrite: bool = False
) -> Path:
    """Write adapters of a model as the PEFT library does; see :meth:`km.Trainer.save_adapters`."""
    target = Path(folder).expanduser()
    if not pairs:
        raise ArgumentError("there are no adapters; give the trainer lora=km.LoRA(...)")
    if not overwrite and any((target / name).exists() for name in (CONFIG, TENSORS)):
        raise ArgumentError(f"{target}: holds adapters already; overwrite=True replaces them")
    order = _RowOrder(model)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for name, (a, b) in pairs.items():
        module = _module_of(model, name)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = order.to_file(name, b)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.path or model.name,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": model.config["arch"] == "gpt2",
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": [_module_of(model, name) for name in pairs],
    }
    target.mkdir(parents=True, exist_ok=True)
    write_tensors(target / TENSORS, tensors, {}, overwrite)
    with atomic_write(target / CONFIG) as file:
        file.write(json.dumps(config, indent=2).encode())
    return target


def read_adapters(
    model: Model, folder: str | os.PathLike[str]
) -> tuple[dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]], float]:
    """A and B of each adapted parameter of `model`, and what multiplies B A.

    Raises
    ------
    FormatError
        The folder holds no adapters of this model.
    UnsupportedError
        Adapters of another kind than plain LoRA.
    """
    source = Path(folder).expanduser()
    rank, scale = _read_config(source)
    tensors, _ = read_tensors(source / TENSORS)
    order = _RowOrder(model)
    pairs = {}
    for row in _km.parameters(model._model):
        module = _module_of(model, row[0], fits=False) if row[1] == "matrix" else None
        if module is None or f"{PREFIX}{module}.lora_A.weight" not in tensors:
            continue
        a = tensors.pop(f"{PREFIX}{module}.lora_A.weight")
        b = tensors.pop(f"{PREFIX}{module}.lora_B.weight", None)
        if b is None or a.shape != (rank, row[4]) or b.shape != (row[3], rank):
            raise FormatError(
                f"{source}: the adapter of {module} does not fit {row[3]} x {row[4]} at rank {rank}"
            )
        _need_finite(a, b, rank * scale, f"{source}: the adapter of {module}")
        pairs[row[0]] = (a.astype("float32"), order.from_file(row[0], b.astype("float32")))
    if tensors:
        raise FormatError(f"{source}: {min(tensors)} is of no linear layer that {model.name} has")
    if not pairs:
        raise FormatError(f"{source}: holds no adapters")
    return pairs, scale


def _need_finite(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], scale: float, what: str) -> None:
    """Refuse adapters whose product float32 may not hold."""
    largest = [float(abs(values).max(initial=0)) for values in (a, b)]
    if not scale * largest[0] * largest[1] + largest[0] + largest[1] <= LARGEST:
        raise FormatError(f"{what} holds values that are not finite, or too large")


def merge_adapters(model: Model, folder: str | os.PathLike[str]) -> Model:
    """A model with adapters from a folder added to its weights.

    Parameters
    ----------
    model : Model
        Which the adapters were trained on; a GGUF file or a Hugging Face folder of it.
    folder : path-like
        Written by :meth:`km.Trainer.save_adapters` or by the PEFT library.

    Returns
    -------
    Model
        Immutable; it saves and fingerprints as any other.

    Raises
    ------
    FormatError
        The folder holds no adapters of this model.
    UnsupportedError
        Adapters of another kind than plain LoRA.
    """
    import numpy as np

    from km.model import Model

    if not isinstance(model, Model):
        raise TypeError(f"model must be a km.Model, not {type(model).__name__}")
    pairs, scale = read_adapters(model, folder)
    trainable = model.trainable(list(pairs))
    for name, (a, b) in pairs.items():
        trainable.parameter(name)[...] += np.float32(scale) * (b @ a)
    trainable.changed()
    return trainable.frozen(f"{model.name} (with adapters)")


def _read_config(source: Path) -> tuple[int, float]:
    """The rank, and what multiplies B A."""
    try:
        config = json.loads((source / CONFIG).read_bytes())
        rank = whole_number("r", config["r"], 1, 2**31)
        alpha = real_number("lora_alpha", config["lora_alpha"], 0, LARGEST)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, ArgumentError) as error:
        raise FormatError(f"{source}: holds no {CONFIG} of LoRA adapters ({error!r})") from None
    plain = {"peft_type": ("LORA",), "bias": ("none", None)}
    for key, known in plain.items():
        if config.get(key) not in known:
            raise UnsupportedError(f"{source}: {key} is {config.get(key)!r}, not {known[0]!r}")
    for key in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias"):
        if config.get(key):
            raise UnsupportedError(f"{source}: {key} is set, which km does not read")
    return rank, alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _module_of(model: Model, name: str, fits: bool = True) -> str | None:
    """The module of transformers that a linear layer is: "model.layers.3.self_attn.q_proj"."""
    arch = model.config["arch"]
    blocks, modules = _MODULES.get(arch, ("model.layers", _LLAMA))
    _, layer, kind, _ = name.split(".")
    if kind not in modules:
        if not fits:
            return None
        raise UnsupportedError(
            f"{name}: the PEFT library adapts q, k and v of {arch} as one matrix; files can hold "
            f"adapters of {', '.join(modules)}"
        )
    return f"{blocks}.{layer}.{modules[kind]}"


class _RowOrder:
    """Rows of q and k turn in pairs: neighbours in GGUF's llama files, else half a head apart."""

    def __init__(self, model: Model) -> None:
        config = model.config
        self._width = config["head_dim"] if config["rope_pairs"] == "interleaved" else 0

    def _turned(self, name: str, b: np.ndarray[Any, Any], inner: tuple[int, int]) -> Any:
        import numpy as np

        if not self._width or name.split(".")[2] not in ("attn_q", "attn_k"):
            return b
        rows = b.reshape(-1, *inner, b.shape[1]).swapaxes(1, 2)
        return np.ascontiguousarray(rows.reshape(b.shape))

    def to_file(self, name: str, b: np.ndarray[Any, Any]) -> Any:
        """Rows as transformers has them."""
        return self._turned(name, b, (self._width // 2, 2))

    def from_file(self, name: str, b: np.ndarray[Any, Any]) -> Any:
        """Rows as the model has them."""
        return self._turned(name, b, (2, self._width // 2))
