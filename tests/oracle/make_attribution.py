"""Write what PyTorch's autograd says of knowledge neurons and circuits in the tiny models.

usage: make_attribution.py ARCH_DIR OUT.safetensors
ARCH_DIR holds the Hugging Face folders that make_arch.py wrote. For each model NAME of NAMES

    NAME.clean, NAME.corrupted  (T)     token ids, as float32
    NAME.tokens                 (2)     the good and the bad answer
    NAME.neurons                (L, F)  w / m times the sum over k = 0..m-1 of dP(good)/dw at k/m of
                                        w, the input of the down projection at the last token. For
                                        Gemma the output of the norm behind it is scaled, and
                                        slopes are taken back with that norm's factor held
    NAME.probability            (L + 1) P(good) with each layer's w at 0, then as it is
    NAME.eap, NAME.eap_ig       (E)     scores of the edges, steps 1 and 5; edges by target, then by
                                        source, in the order of km/circuit.h

A target's derivative is taken through the model's own modules from a copy of the stream that this
reader alone sees. Needs torch, transformers and safetensors; the test-suite needs none of them.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import arch_capture
import torch
import transformers
from safetensors.torch import save_file

NAMES = ("llama3", "gpt2", "gemma2", "gemma3", "pythia", "qwen3")
LENGTH, STEPS, NEURON_STEPS = 7, 5, 20
Tensors = dict[tuple[str, int], torch.Tensor]


class Graph:
    """One model, its modules and the order of its sources and targets."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.places = arch_capture.PLACES[model.config.model_type]
        self.blocks = list(model.get_submodule(self.places.layers))
        self.embed = model.get_submodule(self.places.embed)
        self.recorder = arch_capture.Recorder(model)
        self.whole = model.config.model_type.startswith("gemma")  # attention is one source
        self.parallel = getattr(model.config, "use_parallel_residual", False)

    @contextmanager
    def embedding(self, values: torch.Tensor | None) -> Iterator[None]:
        """Token embeddings replaced by `values`."""
        if values is None:
            yield
            return
        handle = self.embed.register_forward_hook(lambda *_: values)
        try:
            yield
        finally:
            handle.remove()

    def run(
        self, ids: torch.Tensor, embeddings: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[tuple[str, int], Any]]:
        """Last logits, and every point's tensor with its way to (T, heads, width)."""
        self.recorder = arch_capture.Recorder(self.model)
        with self.embedding(embeddings), self.recorder.recording():
            logits = self.model(input_ids=ids[None], use_cache=False).logits[0, -1]
        return logits, self.recorder.kept

    # ---- sources ----

    def out_weight(self, layer: int) -> torch.Tensor:
        """Output matrix of attention, (D, heads, width)."""
        module = self.blocks[layer].get_submodule(self.places.out)
        weight = module.weight.detach()
        weight = weight.T if isinstance(module, transformers.pytorch_utils.Conv1D) else weight
        return weight.reshape(weight.shape[0], self.recorder.heads, self.recorder.width)

    def sources(self, ids: torch.Tensor) -> torch.Tensor:
        """What every source writes, (S, T, D)."""
        _, kept = self.run(ids)

        def at(point: str, layer: int) -> torch.Tensor:
            tensor, split = kept[point, layer]
            return split(tensor.detach())

        out = [at("resid_pre", 0)[:, 0]]
        for layer in range(len(self.blocks)):
            if self.whole:
                out.append(at("attn_out", layer)[:, 0])
            else:
                z = at("attn_head_out", layer)
                out.extend(torch.einsum("thw,dhw->htd", z, self.out_weight(layer)))
            out.append(at("mlp_out", layer)[:, 0])
        return torch.stack(out)

    # ---- targets ----

    def projections(self, layer: int, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """q, k and v (T, heads, width) computed from a stream."""
        block = self.blocks[layer]
        normed = (block.ln_1 if hasattr(block, "ln_1") else block.input_layernorm)(x)
        fused = [block.get_submodule(name)(normed) for name in self.places.qkv]
        out = {}
        for i, point in enumerate("qkv"):
            _, split = self.recorder.kept[point, layer]
            out[point] = split(fused[i] if len(fused) == 3 else fused[0])
        return out

    def mlp(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """What the MLP adds, computed from a stream."""
        block = self.blocks[layer]
        out = block.mlp(block.get_submodule(self.places.mlp_norm)(x))
        return block.post_feedforward_layernorm(out) if self.whole else out

    def slopes(self, layer: int) -> Iterator[torch.Tensor]:
        """Derivatives at each target of a layer, (T, D), after backward()."""
        kept = self.recorder.kept
        x = kept["resid_pre", layer][0].detach().requires_grad_()
        found = self.projections(layer, x)
        for point in "qkv":
            tensor, split = kept[point, layer]
            for head, slope in enumerate(split(tensor.grad).unbind(1)):
                outputs = found[point][:, head]
                yield torch.autograd.grad(outputs, x, slope, retain_graph=True)[0][0]
        middle = "resid_pre" if self.parallel else "resid_mid"
        x = kept[middle, layer][0].detach().requires_grad_()
        slope = kept["mlp_out", layer][0].grad
        yield torch.autograd.grad(self.mlp(layer, x), x, slope)[0][0]

    def targets(self, ids: torch.Tensor, good: int, bad: int, values: torch.Tensor) -> torch.Tensor:
        """d(logit(bad) - logit(good)) / d(input of each target), (targets, T, D)."""
        logits, kept = self.run(ids, values)
        (logits[bad] - logits[good]).backward()
        out = [slope for layer in range(len(self.blocks)) for slope in self.slopes(layer)]
        self.model.zero_grad()
        return torch.stack([*out, kept["resid_post", len(self.blocks) - 1][0].grad[0]]).detach()

    # ---- scores ----

    def reach(self) -> list[int]:
        """How many sources each target has edges from."""
        writers = 1 if self.whole else self.recorder.heads
        readers = self.recorder.heads + 2 * self.recorder.kv_heads
        out = []
        for layer in range(len(self.blocks)):
            before = 1 + layer * (writers + 1)
            out += readers * [before] + [before if self.parallel else before + writers]
        return [*out, 1 + len(self.blocks) * (writers + 1)]

    def scores(
        self, clean: torch.Tensor, corrupted: torch.Tensor, good: int, bad: int, steps: int
    ) -> torch.Tensor:
        """Of every edge."""
        change = self.sources(corrupted) - self.sources(clean)
        start, end = (self.embed(ids[None]).detach() for ids in (corrupted, clean))
        total = sum(
            self.targets(clean, good, bad, (start + k / steps * (end - start)).requires_grad_())
            for k in range(1, steps + 1)
        )
        assert isinstance(total, torch.Tensor)
        every = torch.einsum("atd,std->as", total, change) / steps
        return torch.cat([row[:n] for row, n in zip(every, self.reach(), strict=True)])


# ---- neurons ----

Change = Callable[[torch.Tensor], torch.Tensor]


def at_last(tensor: torch.Tensor, change: Change) -> torch.Tensor:
    """Its last token changed."""
    return torch.cat([tensor[:, :-1], change(tensor[:, -1:])], dim=1)


def probability(graph: Graph, layer: int, ids: torch.Tensor, target: int, change: Change) -> Any:
    """P(target) with what is scaled of a layer changed at the last token."""
    block, places = graph.blocks[layer], graph.places
    if graph.whole:
        handle = block.get_submodule(places.mlp_out).register_forward_hook(
            lambda _module, _inputs, output: at_last(output, change)
        )
    else:
        handle = block.get_submodule(places.mlp_down).register_forward_pre_hook(
            lambda _module, inputs: (at_last(inputs[0], change),)
        )
    try:
        logits = graph.model(input_ids=ids[None], use_cache=False).logits[0, -1]
    finally:
        handle.remove()
    return torch.softmax(logits, dim=-1)[target]


def pulled(graph: Graph, layer: int, slopes: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Slopes at each neuron, the factor of a norm behind the MLP held at that of the run."""
    if not graph.whole:
        return slopes
    down = graph.blocks[layer].get_submodule(graph.places.mlp_down)
    norm = graph.blocks[layer].get_submodule(graph.places.mlp_out)
    branch = down(hidden)
    factor = (norm(branch) / branch).detach()
    return (slopes * factor) @ down.weight.detach()


def neurons(graph: Graph, ids: torch.Tensor, target: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Attributions (L, F), and P without each layer, then P itself (L + 1)."""
    rows, without = [], []
    _, kept = graph.run(ids)
    hidden = [kept["mlp_hidden", layer][0][:, -1:].detach() for layer in range(len(graph.blocks))]
    for layer, w in enumerate(hidden):
        seen: list[torch.Tensor] = []

        def keep(tensor: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(tensor.detach().clone())
            return tensor

        whole = probability(graph, layer, ids, target, keep).detach()
        total = torch.zeros_like(seen[0])
        for k in range(NEURON_STEPS):
            scaled = (k / NEURON_STEPS * seen[0]).requires_grad_()
            p = probability(graph, layer, ids, target, lambda _old, scaled=scaled: scaled)
            total += torch.autograd.grad(p, scaled)[0]
            if k == 0:
                without.append(p.detach())
        rows.append((w * pulled(graph, layer, total / NEURON_STEPS, w))[0, 0].detach())
    return torch.stack(rows), torch.stack([*without, whole])


def golden(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """Everything about one model."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    graph = Graph(model)
    generator = torch.Generator().manual_seed(2)
    clean = torch.randint(0, model.config.vocab_size, (LENGTH,), generator=generator)
    corrupted = clean.clone()
    corrupted[2:4] = torch.randint(0, model.config.vocab_size, (2,), generator=generator)
    with torch.no_grad():
        right, wrong = (model(input_ids=ids[None]).logits[0, -1] for ids in (clean, corrupted))
    good, bad = int(right.argmax()), int((wrong - right).argmax())
    attribution, probability = neurons(graph, clean, good)
    return {
        "clean": clean.float(),
        "corrupted": corrupted.float(),
        "tokens": torch.tensor([good, bad]).float(),
        "neurons": attribution,
        "probability": probability,
        "eap": graph.scores(clean, corrupted, good, bad, 1),
        "eap_ig": graph.scores(clean, corrupted, good, bad, STEPS),
    }


def main() -> None:
    """Write every model's goldens into one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arch", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tensors = {}
    for name in NAMES:
        found = golden(args.arch / name)
        print(name, {k: (tuple(v.shape), float(v.abs().max())) for k, v in found.items()})
        tensors |= {f"{name}.{k}": v.detach().contiguous() for k, v in found.items()}
    save_file(tensors, args.out)
    args.out.chmod(0o644)


if __name__ == "__main__":
    main()
