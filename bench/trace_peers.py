"""Read activations with one peer library, in the environment that holds the peers.

Reads one JSON object from standard input: {"peer", "model", "threads", "texts": [ids, ...],
"points", "last", "folder"}. Then, for every line "run", reads all activations once and prints one
JSON line: {"seconds", "saved"}; "saved" is a folder with one array a point, (texts, layers,
positions, [heads,] width) float32, written after the clock has stopped.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import serve

Arrays = dict[str, np.ndarray[Any, Any]]
# What llama.cpp calls the tensor, with the layer after a dash; what transformers calls the module.
TENSORS = {"resid_post": "l_out", "mlp_out": "ffn_out", "attn_pattern": "kq_soft_max"}


class Callback:
    """llama.cpp's evaluation callback: copies each wanted tensor of one pass."""

    def __init__(self, points: list[str], n_layers: int) -> None:
        from llama_cpp import llama_cpp

        folder = Path(llama_cpp.__file__).parent / "lib"
        self._ggml = ctypes.CDLL(str(next(folder.glob("libggml-base.so*"))))
        self._ggml.ggml_get_name.restype = ctypes.c_char_p
        self._ggml.ggml_get_name.argtypes = [ctypes.c_void_p]
        self._ggml.ggml_get_data_f32.restype = ctypes.c_void_p
        self._ggml.ggml_get_data_f32.argtypes = [ctypes.c_void_p]
        self.wanted = {
            f"{TENSORS[point]}-{layer}".encode(): (point, layer)
            for point in points
            for layer in range(n_layers)
        }
        self.seen: dict[tuple[str, int], np.ndarray[Any, Any]] = {}
        self.function = llama_cpp.ggml_backend_sched_eval_callback(self._call)

    def _call(self, tensor: int, ask: bool, _payload: Any) -> bool:
        key = self.wanted.get(self._ggml.ggml_get_name(tensor))
        if ask or key is None:
            return key is not None
        # struct ggml_tensor begins: int type, (padding), void *buffer, int64_t ne[4]
        shape = (ctypes.c_int64 * 4).from_address(tensor + 16)
        count = shape[0] * shape[1] * shape[2]
        data = (ctypes.c_float * count).from_address(self._ggml.ggml_get_data_f32(tensor))
        values = np.frombuffer(data, np.float32).reshape(shape[2], shape[1], shape[0])
        self.seen[key] = values.copy()
        return len(self.seen) < len(self.wanted)  # false ends the pass


def llama_reader(job: dict[str, Any]) -> Callable[[], Arrays]:
    """One pass through the C interface, every text a sequence of one batch.

    The last layer computes only the rows that are wanted.
    """
    from llama_cpp import llama_cpp

    log = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(log, None)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        job["model"].encode(), llama_cpp.llama_model_default_params()
    )
    n_layers = llama_cpp.llama_model_n_layer(model)
    callback = Callback(job["points"], n_layers)
    tokens = [(text, i, id) for text, ids in enumerate(job["texts"]) for i, id in enumerate(ids)]
    ends = np.cumsum([len(ids) for ids in job["texts"]]) - 1
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = max(len(tokens), 64)
    params.n_seq_max, params.kv_unified = len(job["texts"]), True
    params.n_threads = params.n_threads_batch = job["threads"]
    params.flash_attn_type = 0
    params.cb_eval = callback.function
    context = llama_cpp.llama_init_from_model(model, params)
    memory = llama_cpp.llama_get_memory(context)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    for at, (text, i, id) in enumerate(tokens):
        batch.token[at], batch.pos[at] = id, i
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, text
        batch.logits[at] = int(not job["last"] or at in ends)
    batch.n_tokens = len(tokens)
    kept = (log, callback, model)  # what C points to

    def rows(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(texts, positions, width); in the last layer of `last`, only wanted rows are there."""
        if not job["last"]:
            return values
        flat = values[0] if values.shape[1] == len(ends) else values[0, ends]
        return flat[:, None]

    def read() -> Arrays:
        llama_cpp.llama_memory_clear(memory, False)
        callback.seen.clear()
        llama_cpp.llama_decode(context, batch)
        assert len(callback.seen) == len(callback.wanted), kept
        arrays = {}
        for point in job["points"]:
            layers = [callback.seen[point, layer] for layer in range(n_layers)]
            if point == "attn_pattern":  # (heads, positions, cells) of one text
                layers = [x[None, :, :, : len(tokens)].swapaxes(1, 2) for x in layers]
            else:
                layers = [rows(x) for x in layers]
            arrays[point] = np.stack(layers, axis=1)
        return arrays

    return read


def transformers_reader(job: dict[str, Any]) -> Callable[[], Arrays]:
    """Hooks on a float32 model with eager attention, one text at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(job["threads"])
    path = Path(job["model"])
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    seen: dict[str, list[Any]] = {}

    def keep(point: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            values = output[0] if point == "resid_post" and isinstance(output, tuple) else output
            values = output[1].transpose(1, 2) if point == "attn_pattern" else values
            seen[point].append((values[0, -1:] if job["last"] else values[0]).numpy())

        return hook

    for layer in model.model.layers:
        modules = {"resid_post": layer, "mlp_out": layer.mlp, "attn_pattern": layer.self_attn}
        for point in job["points"]:
            modules[point].register_forward_hook(keep(point))

    @torch.inference_mode()
    def read() -> Arrays:
        texts = []
        for ids in job["texts"]:
            seen.update({point: [] for point in job["points"]})
            model.model(torch.tensor([ids]), use_cache=False)
            texts.append({point: np.stack(layers) for point, layers in seen.items()})
        return {point: np.stack([arrays[point] for arrays in texts]) for point in job["points"]}

    return read


PEERS = {"llama-cpp-python": llama_reader, "transformers": transformers_reader}


def main() -> None:
    """Answer one request from standard input."""
    job = json.loads(sys.stdin.readline())
    read = PEERS[job["peer"]](job)
    read()
    folder = Path(job["folder"], job["peer"])
    folder.mkdir(parents=True)

    def run() -> dict[str, Any]:
        begin = time.perf_counter()
        arrays = read()
        seconds = time.perf_counter() - begin
        for point, values in arrays.items():
            np.save(folder / f"{point}.npy", values)
        return {"seconds": seconds, "saved": str(folder)}

    serve(run)


if __name__ == "__main__":
    main()
