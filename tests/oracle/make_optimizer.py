"""Write what torch.optim does with given gradients, for tests/c/test_optimizer.c.

usage: make_optimizer.py OUT_FILE
OUT_FILE (tests/golden_data/optimizer.bin) is little-endian float32: the first values of two tensors
of 70 and 11 numbers, of which the first decays; their gradients at each of 12 steps; then, for each
case of CASES, their values after each step. Needs torch; the test-suite does not.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

SIZES = (70, 11)
STEPS = 12
CLIP = 0.5

Maker = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
# (learning rates fall linearly, gradients are clipped, optimiser)
CASES: list[tuple[bool, bool, Maker]] = [
    (False, False, lambda groups: torch.optim.AdamW(groups, lr=1e-2)),
    (True, False, lambda groups: torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.95), eps=1e-6)),
    (False, True, lambda groups: torch.optim.AdamW(groups, lr=3e-3)),
    (False, False, lambda groups: torch.optim.SGD(groups, lr=1e-2)),
    (True, False, lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9)),
    (False, True, lambda groups: torch.optim.SGD(groups, lr=5e-2, momentum=0.5)),
]


def run(
    start: list[torch.Tensor],
    gradients: list[list[torch.Tensor]],
    falls: bool,
    clips: bool,
    make: Maker,
) -> list[np.ndarray[Any, Any]]:
    """The values after each step, the tensors one after the other."""
    weights = [torch.nn.Parameter(tensor.clone()) for tensor in start]
    optimizer = make(
        [
            {"params": [weights[0]], "weight_decay": 0.1},
            {"params": [weights[1]], "weight_decay": 0.0},
        ]
    )
    rate = optimizer.param_groups[0]["lr"]
    out = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / STEPS) if falls else rate
        for weight, gradient in zip(weights, gradients[step], strict=True):
            weight.grad = gradient.clone()
        if clips:
            torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        out.append(torch.cat([weight.detach() for weight in weights]).numpy())
    return out


def main() -> None:
    """Write the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    torch.manual_seed(5)
    start = [torch.randn(n) for n in SIZES]
    # Sizes of gradients differ by orders of magnitude, and one number never gets one.
    scales = [torch.logspace(-4, 0.5, n) for n in SIZES]
    gradients = [
        [torch.randn(n) * s for n, s in zip(SIZES, scales, strict=True)] for _ in range(STEPS)
    ]
    for row in gradients:
        row[0][3] = 0.0
    parts = [torch.cat(start).numpy()]
    parts += [torch.cat(row).numpy() for row in gradients]
    for falls, clips, make in CASES:
        parts += run(start, gradients, falls, clips, make)
    args.out.write_bytes(np.concatenate(parts).astype("<f4").tobytes())


if __name__ == "__main__":
    main()
