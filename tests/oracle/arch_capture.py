"""What happens inside a transformers model: activations at km's points, and their gradients.

Every array is (layers, tokens, heads, width) float32, heads being 1 where a point has no head axis;
points without a layer are (tokens, heads, width). Scores of positions that a token does not see are
minus infinity.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Split = Callable[[torch.Tensor], torch.Tensor]

GRADIENTS = (
    "embed",
    "resid_pre",
    "q",
    "k",
    "v",
    "attn_pattern",
    "attn_head_out",
    "resid_mid",
    "mlp_pre",
    "mlp_hidden",
    "resid_post",
    "final_norm",
)


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the modules of one family are."""

    embed: str
    layers: str
    qkv: tuple[str, ...]  # three modules, or the fused one
    attention: str
    out: str
    attn_out: str  # its output is what attention adds to the stream
    mlp_norm: str  # its input is the stream between attention and MLP
    mlp_pre: str
    mlp_down: str
    mlp_out: str
    final: str


LLAMA = Places(
    embed="model.embed_tokens",
    layers="model.layers",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention="self_attn",
    out="self_attn.o_proj",
    attn_out="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    mlp_pre="mlp.gate_proj",
    mlp_down="mlp.down_proj",
    mlp_out="mlp.down_proj",
    final="model.norm",
)
GEMMA = dataclasses.replace(
    LLAMA,
    attn_out="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_out="post_feedforward_layernorm",
)
PLACES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "gpt2": Places(
        embed="transformer.wte",
        layers="transformer.h",
        qkv=("attn.c_attn",),
        attention="attn",
        out="attn.c_proj",
        attn_out="attn.c_proj",
        mlp_norm="ln_2",
        mlp_pre="mlp.c_fc",
        mlp_down="mlp.c_proj",
        mlp_out="mlp.c_proj",
        final="transformer.ln_f",
    ),
    "gpt_neox": Places(
        embed="gpt_neox.embed_in",
        layers="gpt_neox.layers",
        qkv=("attention.query_key_value",),
        attention="attention",
        out="attention.dense",
        attn_out="attention.dense",
        mlp_norm="post_attention_layernorm",
        mlp_pre="mlp.dense_h_to_4h",
        mlp_down="mlp.dense_4h_to_h",
        mlp_out="mlp.dense_4h_to_h",
        final="gpt_neox.final_layer_norm",
    ),
}


class Recorder:
    """Keeps the tensors of one forward pass, each with how to show it as (tokens, heads, width)."""

    def __init__(self, model: Any) -> None:
        self.model = model
        config = model.config
        self.heads = config.num_attention_heads
        self.kv_heads = getattr(config, "num_key_value_heads", None) or self.heads
        self.width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.kept: dict[tuple[str, int], tuple[torch.Tensor, Split]] = {}

    def keep(self, point: str, layer: int, tensor: torch.Tensor, split: Split) -> None:
        """Remember a tensor, and its gradient when there is one."""
        if not tensor.is_leaf:
            tensor.retain_grad()
        self.kept[point, layer] = (tensor, split)

    def flat(self, tensor: torch.Tensor) -> torch.Tensor:
        """(1, T, width) as (T, 1, width)."""
        return tensor[0][:, None]

    def split_heads(self, n: int) -> Split:
        """(1, T, n * width) as (T, n, width)."""
        return lambda tensor: tensor[0].reshape(tensor.shape[1], n, self.width)

    def after(self, module: Any, point: str, layer: int, split: Split) -> Any:
        """Keep a module's output."""

        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            self.keep(point, layer, output[0] if isinstance(output, tuple) else output, split)

        return module.register_forward_hook(hook)

    def before(self, module: Any, point: str, layer: int, split: Split) -> Any:
        """Keep a module's first input."""

        def hook(_module: Any, inputs: Any) -> None:
            self.keep(point, layer, inputs[0], split)

        return module.register_forward_pre_hook(hook)

    def qkv_hooks(self, layer: int, block: Any, places: Places) -> Iterator[Any]:
        """q, k and v after their biases, from three modules or from a fused one."""
        counts = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
        if len(places.qkv) == 3:
            for name, (point, n) in zip(places.qkv, counts.items(), strict=True):
                yield self.after(block.get_submodule(name), point, layer, self.split_heads(n))
            return
        by_head = self.model.config.model_type == "gpt_neox"
        for i, point in enumerate(counts):

            def split(tensor: torch.Tensor, i: int = i) -> torch.Tensor:
                if by_head:
                    fused = tensor[0].reshape(tensor.shape[1], self.heads, 3, self.width)
                    return fused[:, :, i]
                return tensor[0].reshape(tensor.shape[1], 3, self.heads, self.width)[:, i]

            yield self.after(block.get_submodule(places.qkv[0]), point, layer, split)

    def hooks(self) -> Iterator[Any]:
        """All hooks of the model."""
        places = PLACES[self.model.config.model_type]
        model = self.model
        yield self.after(model.get_submodule(places.embed), "embed", -1, self.flat)
        yield self.after(model.get_submodule(places.final), "final_norm", -1, self.flat)
        parallel = getattr(model.config, "use_parallel_residual", False)
        for layer, block in enumerate(model.get_submodule(places.layers)):
            yield self.before(block, "resid_pre", layer, self.flat)
            yield self.after(block, "resid_post", layer, self.flat)
            yield from self.qkv_hooks(layer, block, places)
            heads = self.split_heads(self.heads)
            yield self.before(block.get_submodule(places.out), "attn_head_out", layer, heads)
            yield self.after(block.get_submodule(places.attn_out), "attn_out", layer, self.flat)
            if not parallel:
                mlp_norm = block.get_submodule(places.mlp_norm)
                yield self.before(mlp_norm, "resid_mid", layer, self.flat)
            yield self.after(block.get_submodule(places.mlp_pre), "mlp_pre", layer, self.flat)
            yield self.before(block.get_submodule(places.mlp_down), "mlp_hidden", layer, self.flat)
            yield self.after(block.get_submodule(places.mlp_out), "mlp_out", layer, self.flat)

    def attention(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor,
        scaling: float,
        softcap: float | None = None,
        **_other: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Eager attention with its scores and its pattern kept; (1, heads, T, width) tensors."""
        group = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
        scores = query @ key.transpose(2, 3) * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        unseen = attention_mask[0, 0] < -1.0
        pattern = torch.softmax(scores + attention_mask, dim=-1)

        def split(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[0].transpose(0, 1)

        def split_scores(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[0].masked_fill(unseen, float("-inf")).transpose(0, 1)

        self.keep("attn_scores", module.layer_idx, scores, split_scores)
        self.keep("attn_pattern", module.layer_idx, pattern, split)
        return (pattern @ value).transpose(1, 2).contiguous(), pattern

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Hooks and the attention above in place while the model runs."""
        places = PLACES[self.model.config.model_type]
        block = self.model.get_submodule(places.layers)[0]
        source = sys.modules[type(block.get_submodule(places.attention)).__module__]
        original = source.eager_attention_forward  # type: ignore[attr-defined]
        source.eager_attention_forward = self.attention  # type: ignore[attr-defined]
        handles = list(self.hooks())
        try:
            yield
        finally:
            source.eager_attention_forward = original  # type: ignore[attr-defined]
            for handle in handles:
                handle.remove()

    def stacked(self, show: Callable[[torch.Tensor, Split], torch.Tensor]) -> dict[str, Any]:
        """Every point with its layers stacked."""
        out: dict[str, Any] = {}
        for point, layer in sorted(self.kept):
            array = show(*self.kept[point, layer]).detach().float().contiguous()
            if layer < 0:
                out[point] = array
            else:
                out.setdefault(point, []).append(array)
        return {k: torch.stack(v) if isinstance(v, list) else v for k, v in out.items()}


def trace(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Activations at every point ("trace.<point>") and the derivatives ("grad.<point>") of the sum
    of log p(ids[t + 1] | ids[..t]) with respect to the activations of GRADIENTS."""
    plain = model(input_ids=ids[None], use_cache=False).logits[0].detach()
    recorder = Recorder(model)
    with recorder.recording():
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
    assert (logits - plain).abs().max() < 1e-5
    chosen = torch.log_softmax(logits[:-1], dim=-1).gather(1, ids[1:, None])
    chosen.sum().backward()
    out = {f"trace.{k}": v for k, v in recorder.stacked(lambda x, split: split(x)).items()}
    out["trace.logits"] = logits.detach()[:, None].contiguous()

    def gradient(x: torch.Tensor, split: Split) -> torch.Tensor:
        assert x.grad is not None
        return split(x.grad)

    gradients = recorder.stacked(gradient)
    out |= {f"grad.{k}": gradients[k] for k in GRADIENTS if k in gradients}
    out["trace.ids"] = ids.float()
    model.zero_grad()
    return out
