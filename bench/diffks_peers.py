"""One side of bench/diffks.py: km, or PyTorch written from the equations of km/select.h.

Reads one JSON object from standard input: {"peer", "threads", "data", "dialogues", "decoder",
"task"}; for every line "run" it trains an epoch, or selects for single turns, and prints one JSON
line with "seconds" (of the epoch, or of one turn), "loss" (of the first batch before training,
without dropout) and the process's "peak" of memory in bytes.

"torch" encodes the candidates anew for each turn, as the authors' program does; "torch shared"
encodes each sentence and each list of a batch once, as km does. Both take all turns at once.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import serve
from diffks_data import PAD, UNK, Array, Dialogue, batch, from_file, made_up

SIZES = {"embedding": 64, "hidden": 64, "decoder": 128}
DROPOUT, RATE, BATCH = 0.2, 2e-3, 8
WEIGHTS = (0.7, 0.3)


def load(job: dict[str, Any]) -> tuple[list[Dialogue], int]:
    """The dialogues of a job, shuffled as an epoch's are, and their vocabulary."""
    if job["data"] is None:
        return made_up(job["dialogues"], seed=1)
    dialogues, vocabulary = from_file(Path(job["data"]))
    order = np.random.default_rng(1).permutation(len(dialogues))[: job["dialogues"]]
    return [dialogues[i] for i in order], vocabulary


def start_of(name: str, shape: tuple[int, ...]) -> Array:
    """The weights everyone begins with."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return random.uniform(-0.1, 0.1, shape).astype(np.float32)


def single_turns(dialogues: list[Dialogue]) -> list[tuple[Dialogue, int]]:
    """A later turn of each dialogue."""
    return [(d, len(d.gold) // 2) for d in dialogues if len(d.gold) > 4][:60]


# ---- km ----


def km_model(job: dict[str, Any], vocabulary: int) -> Any:
    """A model with the weights that everyone begins with."""
    from km import _km

    model = _km.DiffKS(
        "disentangled",
        vocabulary,
        SIZES["embedding"],
        SIZES["hidden"],
        SIZES["decoder"],
        np.array(WEIGHTS),
        dropout=DROPOUT,
        generate=job["decoder"],
        seed=1,
        threads=job["threads"],
    )
    for name, array in model.parameters().items():
        values = np.asarray(array)
        values[...] = start_of(name, values.shape)
    model.optimize()
    return model


def km_epoch(job: dict[str, Any]) -> tuple[Callable[[], None], float]:
    """An epoch of km, and the first batch's loss."""
    dialogues, vocabulary = load(job)
    model = km_model(job, vocabulary)
    batches = [
        batch(dialogues[i : i + BATCH], job["decoder"]) for i in range(0, len(dialogues), BATCH)
    ]

    def run() -> None:
        for arrays in batches:
            model.step(arrays, RATE)

    return run, model.loss(batches[0])["loss"]


def km_select(job: dict[str, Any]) -> tuple[Callable[[], None], float]:
    """Selection for one turn after the other, each a batch of its own with its history."""
    dialogues, vocabulary = load(job)
    model = km_model(job, vocabulary)
    turns = []
    for d, t in single_turns(dialogues):
        arrays = batch([Dialogue(d.candidates, [d.contexts[t]], [], [d.gold[t]])], False)
        past = [arrays["list_sentences"][d.gold[t - 1 - m]] for m in range(len(WEIGHTS))]
        arrays["history_sentences"] = np.array(past, np.int64)
        arrays["history_offsets"] = np.array([0, len(past)], np.int64)
        turns.append(arrays)

    def run() -> None:
        for arrays in turns:
            model.select(arrays)

    return run, float(np.asarray(model.select(turns[0])[1]).sum())


# ---- PyTorch ----


def torch_module(vocabulary: int, decoder: bool) -> Any:
    """The model as torch.nn modules, named as km names its weights."""
    import torch
    from torch import nn

    e, h, d = SIZES["embedding"], SIZES["hidden"], 2 * SIZES["hidden"]
    parts: dict[str, Any] = {
        "ctx": nn.GRU(e, h, bidirectional=True, batch_first=True),
        "sent": nn.GRU(e, h, bidirectional=True, batch_first=True),
        "cmp": nn.GRU(d, h, bidirectional=True, batch_first=True),
        "tilde": nn.Linear(2 * d, d),
        "attn_q": nn.Linear(d, d, bias=False),
        "attn_k": nn.Linear(2 * d, d, bias=False),
        "attn_v": nn.Linear(d, 1, bias=False),
    }
    if decoder:
        parts["init"] = nn.Linear(2 * d, SIZES["decoder"])
        parts["dec"] = nn.GRU(e + d, SIZES["decoder"], batch_first=True)
        parts["out"] = nn.Linear(SIZES["decoder"], vocabulary)
        parts["copy"] = nn.Linear(d, SIZES["decoder"])
    module = nn.ModuleDict(parts)
    module.E = nn.Parameter(torch.empty(vocabulary, e))
    for name in ("ctx", "sent", "cmp"):
        module[name].h_init = nn.Parameter(torch.empty(2, 1, h))
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(torch.from_numpy(start_of(name, tuple(value.shape))))
    return module


def padded(lists: list[list[int]]) -> tuple[Any, Any]:
    """Word ids (n, longest) and lengths."""
    import torch

    width = max(len(ids) for ids in lists)
    rows = torch.tensor([ids + [PAD] * (width - len(ids)) for ids in lists])
    return rows, torch.tensor([len(ids) for ids in lists])


def torch_batch(dialogues: list[Dialogue], shared: bool) -> dict[str, Any]:
    """Tensors of a batch. `rows` (turns, K) says where each candidate's vector is."""
    import torch

    sentences: list[list[int]] = []
    places: dict[tuple[int, ...], int] = {}
    lists: list[list[int]] = []
    rows, past, first, level, owner = [], [], [], [], []
    for d in dialogues:
        own: list[list[int]] = []
        for t, _ in enumerate(d.gold):
            if not shared or t == 0:
                listed = []
                for s in d.candidates:
                    key = (*s,) if shared else (-1, len(sentences))
                    if key not in places:
                        places[key] = len(sentences)
                        sentences.append(s)
                    listed.append(places[key])
                if listed not in lists or not shared:
                    lists.append(listed)
            number = lists.index(listed) if shared else len(lists) - 1
            own.append(listed)
            rows.append(listed)
            owner.append(number)
            earlier = [own[t - 1 - m][d.gold[t - 1 - m]] for m in range(min(t, len(WEIGHTS)))]
            past.append(earlier + [0] * (len(WEIGHTS) - len(earlier)))
            first.append(len(earlier))
            level.append(t)
    k = max(map(len, rows))
    listed_rows, counts = padded(lists)
    responses, response_lengths = padded([r for d in dialogues for r in d.responses] or [[0]])
    return {
        "sentences": padded(sentences),
        "contexts": padded([c for d in dialogues for c in d.contexts]),
        "lists": listed_rows,
        "counts": counts,
        "owner": torch.tensor(owner),
        "rows": torch.tensor([r + [0] * (k - len(r)) for r in rows]),
        "there": torch.tensor([[1] * len(r) + [0] * (k - len(r)) for r in rows]).bool(),
        "past": torch.tensor(past),
        "n_past": torch.tensor(first),
        "level": level,
        "gold": torch.tensor([g for d in dialogues for g in d.gold]),
        "responses": responses,
        "response_lengths": response_lengths,
    }


def encode(gru: Any, x: Any, lengths: Any) -> tuple[Any, Any]:
    """States (n, longest, D) and last vectors (n, D) of packed sequences."""
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    start = gru.h_init.expand(-1, len(x), -1).contiguous()
    states, last = gru(packed, start)
    states, _ = pad_packed_sequence(states, batch_first=True)
    return states, last.transpose(0, 1).reshape(len(x), -1)


def torch_scores(module: Any, b: dict[str, Any], dropout: float) -> tuple[Any, Any, Any, Any]:
    """Scores (turns, K); q; s; states of the sentences."""
    import torch
    from torch.nn.functional import dropout as drop
    from torch.nn.functional import embedding

    _, q = encode(
        module["ctx"], drop(embedding(b["contexts"][0], module.E), dropout), b["contexts"][1]
    )
    states, s = encode(
        module["sent"], drop(embedding(b["sentences"][0], module.E), dropout), b["sentences"][1]
    )
    c = encode(module["cmp"], s[b["lists"]], b["counts"])[0][b["owner"]]
    weights = torch.tensor(WEIGHTS) / sum(WEIGHTS)
    weights = weights * (torch.arange(len(WEIGHTS)) < b["n_past"][:, None])
    past = s[b["past"]][:, :, None]
    both = torch.cat([past - c[:, None], past * c[:, None]], -1)
    o = (weights[:, :, None, None] * torch.tanh(module["tilde"](both))).sum(1)
    inside = torch.tanh(module["attn_q"](o) + module["attn_k"](torch.cat([c, o], -1)))
    later = module["attn_v"](inside)[..., 0] * (b["n_past"] > 0)[:, None]
    scores = torch.einsum("tkd,td->tk", s[b["rows"]], q) + later
    return scores.masked_fill(~b["there"], -1e10), q, s, states


def torch_word_loss(module: Any, b: dict[str, Any], encoded: Any, dropout: float) -> Any:
    """The copy decoder's loss, summed over responses."""
    import torch
    from torch.nn.functional import dropout as drop
    from torch.nn.functional import embedding

    q, s, states = encoded
    sentence = b["rows"].gather(1, b["gold"][:, None])[:, 0]
    g, source = s[sentence], states[sentence]
    ids, lengths = b["sentences"][0][sentence], b["sentences"][1][sentence]
    words, targets = b["responses"][:, :-1], b["responses"][:, 1:]
    x = drop(embedding(words, module.E), dropout)
    x = torch.cat([x, g[:, None].expand(-1, x.shape[1], -1)], -1)
    hidden, _ = module["dec"](x, module["init"](torch.cat([q, g], -1))[None])
    energies = torch.exp(module["out"](drop(hidden, dropout)).clamp(max=5))
    keys = torch.tanh(module["copy"](source))
    copies = torch.exp(torch.einsum("twh,tph->twp", hidden, keys).clamp(max=5))
    copies = copies * (torch.arange(ids.shape[1]) < lengths[:, None])[:, None]
    mass = energies.scatter_add(2, ids[:, None].expand(-1, words.shape[1], -1), copies) + 1e-10
    total = mass.sum(-1)
    p = (mass.gather(2, targets[..., None])[..., 0] / total).clamp(1e-10, 1)
    counts = torch.arange(targets.shape[1]) < b["response_lengths"][:, None] - 1
    counts = counts & (targets != UNK)
    per_response = (-torch.log(p) * counts).sum(1) / counts.sum(1).clamp(min=1)
    return per_response.sum()


def torch_loss(module: Any, b: dict[str, Any], decoder: bool, dropout: float) -> Any:
    """Selection loss, and that of the words."""
    import torch
    from torch.nn.functional import cross_entropy

    scores, *encoded = torch_scores(module, b, dropout)
    each = cross_entropy(scores, b["gold"], reduction="none")
    level = torch.tensor(b["level"])
    labelled = b["gold"] > 0
    counts = torch.zeros(int(level.max()) + 1).index_add(0, level, labelled.float())
    loss = (each * labelled / counts[level].clamp(min=1)).sum()
    return loss + torch_word_loss(module, b, encoded, dropout) if decoder else loss


def torch_epoch(job: dict[str, Any]) -> tuple[Callable[[], None], float]:
    """An epoch of PyTorch, and the first batch's loss."""
    import torch

    dialogues, vocabulary = load(job)
    module = torch_module(vocabulary, job["decoder"])
    shared = job["peer"].endswith("shared")
    batches = [
        torch_batch(dialogues[i : i + BATCH], shared) for i in range(0, len(dialogues), BATCH)
    ]
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE)

    def run() -> None:
        for b in batches:
            loss = torch_loss(module, b, job["decoder"], DROPOUT)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()

    with torch.no_grad():
        first = float(torch_loss(module, batches[0], job["decoder"], 0.0))
    return run, first


def torch_select(job: dict[str, Any]) -> tuple[Callable[[], None], float]:
    """Selection for one turn after the other."""
    import torch

    dialogues, vocabulary = load(job)
    module = torch_module(vocabulary, False)
    turns = []
    for d, t in single_turns(dialogues):
        b = torch_batch([Dialogue(d.candidates, [d.contexts[t]], [], [d.gold[t]])], True)
        past = [int(b["rows"][0, d.gold[t - 1 - m]]) for m in range(len(WEIGHTS))]
        b["past"], b["n_past"] = torch.tensor([past]), torch.tensor([len(past)])
        turns.append(b)

    @torch.no_grad()
    def run() -> None:
        for b in turns:
            torch_scores(module, b, 0.0)[0].argmax(1)

    with torch.no_grad():
        first = float(torch_scores(module, turns[0], 0.0)[0].sum())
    return run, first


def main() -> int:
    """Serve the benchmark."""
    job: dict[str, Any] = json.loads(sys.stdin.readline())
    if job["peer"] == "km":
        run, loss = km_epoch(job) if job["task"] == "epoch" else km_select(job)
    else:
        import torch

        torch.set_num_threads(job["threads"])
        run, loss = torch_epoch(job) if job["task"] == "epoch" else torch_select(job)
    things = 1 if job["task"] == "epoch" else len(single_turns(load(job)[0]))

    def measure() -> dict[str, Any]:
        begin = time.perf_counter()
        run()
        seconds = (time.perf_counter() - begin) / things
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"seconds": seconds, "loss": loss, "peak": peak}

    serve(measure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
