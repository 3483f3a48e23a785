"""Write what PyTorch makes of tiny models in ten steps of training.

For tests/python/test_training.py.

usage: make_training_steps.py MODELS_DIR OUT_FILE
MODELS_DIR holds the Hugging Face folders tiny_llama and tiny_gemma3 (tests/golden_data). OUT_FILE
(tests/golden_data/training_steps.safetensors) gets the batches, and for each case of CASES the loss
each step ("<case>/losses"), the norm of the gradients ("<case>/norms") and what was trained, under
its Hugging Face name, as it is after the last step. Needs torch and transformers; the test-suite
needs neither.
"""

from __future__ import annotations

import argparse
import math
import pathlib
from collections.abc import Callable
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

STEPS = 10
LENGTHS = (17, 9, 23)  # of the sequences of each batch
RANK, ALPHA = 3, 6.0
LORA = ("q_proj", "v_proj", "down_proj")

Groups = list[dict[str, Any]]


def cosine(step: int) -> float:
    """Two steps of warm-up, then half a cosine to a tenth."""
    if step < 2:
        return (step + 1) / 2
    return 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 2) / (STEPS - 2))) / 2


def constant(step: int) -> float:
    """The learning rate as it is."""
    return 1.0


def adamw(groups: Groups) -> torch.optim.Optimizer:
    """AdamW with settings unlike the defaults."""
    return torch.optim.AdamW(groups, lr=2e-3, betas=(0.8, 0.95), eps=1e-6)


def sgd(groups: Groups) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(groups, lr=5e-2, momentum=0.9)


# model, optimiser, schedule, clip, whether adapters are trained
CASES: dict[str, tuple[str, Callable[[Groups], torch.optim.Optimizer], Any, float, bool]] = {
    "llama_adamw": ("tiny_llama", adamw, cosine, 1.0, False),
    "gemma3_adamw": ("tiny_gemma3", adamw, constant, math.inf, False),
    "llama_sgd": ("tiny_llama", sgd, constant, 0.5, False),
    "llama_lora": ("tiny_llama", adamw, constant, math.inf, True),
}


class Adapted(torch.nn.Module):
    """A linear layer W0 + alpha / rank B A."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        bound = 1 / math.sqrt(linear.in_features)
        a = torch.empty(RANK, linear.in_features).uniform_(-bound, bound)
        self.lora_A = torch.nn.Parameter(a)
        self.lora_B = torch.nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product with the sum."""
        low = ALPHA / RANK * (self.lora_B @ self.lora_A)
        return torch.nn.functional.linear(x, self.linear.weight + low, self.linear.bias)


def adapt(model: torch.nn.Module) -> None:
    """Put adapters around the linear layers of LORA and fix everything else."""
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if name in LORA:
                setattr(module, name, Adapted(child))


def make_batches(vocab: int) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Ids and target weights of each sequence of each step; the first token is no target."""
    batches = []
    for _ in range(STEPS):
        batch = []
        for i, length in enumerate(LENGTHS):
            weights = torch.ones(length)
            weights[0] = 0.0
            if i == 1:
                weights[:5] = 0.0
            if i == 2:
                weights *= 0.25
            batch.append((torch.randint(3, vocab, (length,)), weights))
        batches.append(batch)
    return batches


def loss_of(model: torch.nn.Module, batch: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Weighted mean of -log p over all targets of the batch."""
    total, weight = torch.zeros(()), torch.zeros(())
    for ids, weights in batch:
        logits = model(ids[None]).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        total = total + (losses * weights[1:]).sum()
        weight = weight + weights.sum()
    return total / weight


def run(
    model: torch.nn.Module,
    make: Callable[[Groups], torch.optim.Optimizer],
    factor: Any,
    clip: float,
    batches: list[Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and gradient norms of the steps."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = make([group for group in groups if group["params"]])
    rate = optimizer.param_groups[0]["lr"]
    losses, norms = [], []
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor(step)
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained, clip).detach())
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), torch.stack(norms)


def main() -> None:
    """Write the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    torch.manual_seed(11)
    out: dict[str, torch.Tensor] = {}
    for name, (folder, make, factor, clip, low_rank) in CASES.items():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            args.models / folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        batches = make_batches(model.config.vocab_size)
        if low_rank:
            adapt(model)
            for key, value in model.named_parameters():
                if key.endswith("lora_A"):
                    out[f"{name}/start/{key}"] = value.detach().clone()
        losses, norms = run(model, make, factor, clip, batches)
        out[f"{name}/ids"] = torch.stack(
            [torch.cat([ids for ids, _ in batch]) for batch in batches]
        ).int()
        out[f"{name}/weights"] = torch.cat([weights for _, weights in batches[0]])
        out[f"{name}/losses"], out[f"{name}/norms"] = losses, norms
        for key, value in model.named_parameters():
            if value.requires_grad:
                out[f"{name}/{key}"] = value.detach().clone()
    save_file(out, args.out)


if __name__ == "__main__":
    main()
