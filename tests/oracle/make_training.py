"""Write what PyTorch says of the derivatives of a loss with respect to every parameter.

usage: make_training.py ARCH_DIR
ARCH_DIR holds the tiny models of make_arch.py (tests/golden_data/arch). For each of them it gets
<name>.training.safetensors, in float32 with eager attention:

    ids0, ids1     (T)   two prompts, as float32
    losses         (N)   -log p(ids[t + 1] | ids[..t]) of both, one after the other, nats
    <parameter>          the derivative of sum w(t) loss(t), w(t) being 1 for even t, 0.5 for odd,
                         with respect to that parameter, named and arranged as km does (matrices
                         (out_features, in_features), queries, keys and values apart), when it has
                         no more than 1024 numbers
    <parameter>.left     else its product with cos(1), cos(2), ... over the rows (cols)
    <parameter>.right    and over the columns (rows)
    <parameter>.norm     and the root of its sum of squares

Needs torch, transformers and gguf; the test-suite needs none of them.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Iterator
from typing import Any

import gguf
import torch
import transformers
from safetensors.torch import load_file, save_file

WHOLE = 1024
ARCHITECTURES = {
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
}


def parts(name: str, value: torch.Tensor, config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """A parameter under km's names and in its arrangement: a fused one in three parts."""
    if config.model_type == "gpt2" and value.ndim == 2 and "blk." in name:
        value = value.T
    if "attn_qkv" not in name:
        yield name, value
        return
    heads = config.num_attention_heads
    width = config.hidden_size // heads
    shape = (heads, 3, width) if config.model_type == "gpt_neox" else (3, heads, width)
    split = value.reshape(*shape, *value.shape[1:])
    axis = shape.index(3)
    for i, letter in enumerate("qkv"):
        part = split.select(axis, i).reshape(heads * width, *value.shape[1:])
        yield name.replace("attn_qkv", f"attn_{letter}"), part


def waves(n: int) -> torch.Tensor:
    """cos(1), cos(2), ..., cos(n)."""
    return torch.arange(1, n + 1, dtype=torch.float64).cos()


def shown(name: str, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
    """A derivative as it is stored."""
    if gradient.numel() <= WHOLE:
        return {name: gradient.float().contiguous()}
    wide = gradient.double()
    return {
        f"{name}.left": (waves(wide.shape[0]) @ wide).float(),
        f"{name}.right": (wide @ waves(wide.shape[1])).float(),
        f"{name}.norm": wide.norm().float().reshape(1),
    }


def derivatives(path: pathlib.Path, prompts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Losses and derivatives of one model."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    losses = []
    for ids in prompts:
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        weights = torch.where(torch.arange(len(loss)) % 2 == 0, 1.0, 0.5)
        (weights * loss).sum().backward()
        losses.append(loss.detach())
    config = model.config
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    out = {"losses": torch.cat(losses)}
    for name, parameter in model.named_parameters():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None and parameter.grad is not None, name
        for part, gradient in parts(stored, parameter.grad, config):
            out |= shown(part, gradient)
    return out


def main() -> None:
    """Write the file of every model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path)
    directory = parser.parse_args().directory
    for path in sorted(p for p in directory.iterdir() if p.is_dir()):
        stored = load_file(directory / f"{path.name}.golden.safetensors")
        prompts = [stored[f"prompt{i}.ids"].long() for i in range(2)]
        tensors = derivatives(path, prompts)
        tensors |= {f"ids{i}": ids.float() for i, ids in enumerate(prompts)}
        save_file(tensors, directory / f"{path.name}.training.safetensors")
        print(path.name, len(tensors), sum(t.numel() for t in tensors.values()))


if __name__ == "__main__":
    main()
