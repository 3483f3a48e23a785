"""Byte-level BPE tokenizers learned from texts, by the optional package `tokenizers`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from km.cache import atomic_write
from km.errors import ArgumentError

_END = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: str | os.PathLike[str]) -> Path:
    """Learn a byte-level BPE tokenizer and write its tokenizer.json.

    The pieces are GPT-2's: every byte has a token, nothing is normalised, and texts are cut by
    GPT-2's rule before merging. The first id is the special token "<|endoftext|>", which stands at
    the beginning and end of documents.

    Parameters
    ----------
    texts : iterable of str
    vocab_size : int
        Tokens at most, 257 (the bytes and the special token) or more; fewer when the texts have
        too few pairs to merge.
    path : path-like
        A folder, or a file called tokenizer.json; beside it goes a tokenizer_config.json.

    Returns
    -------
    Path
        The file, which :meth:`km.Model.new` takes.

    Raises
    ------
    ModuleNotFoundError
        pip install 'km[train]'.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ModuleNotFoundError:
        message = "training a tokenizer needs the package tokenizers: pip install 'km[train]'"
        raise ModuleNotFoundError(message, name="tokenizers") from None
    if isinstance(texts, str | bytes):
        raise TypeError("texts must be several texts, not one")
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < 257:
        raise ArgumentError(f"vocab_size is {vocab_size!r}; it must be 257 or more")
    target = Path(path).expanduser()
    target = target if target.name == "tokenizer.json" else target / "tokenizer.json"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    with atomic_write(target) as file:
        file.write(tokenizer.to_str(pretty=True).encode())
    with atomic_write(target.with_name("tokenizer_config.json")) as file:
        file.write(_CONFIG)
    return target


_CONFIG = f"""{{
  "tokenizer_class": "PreTrainedTokenizerFast",
  "add_prefix_space": false,
  "bos_token": "{_END}",
  "eos_token": "{_END}",
  "unk_token": "{_END}"
}}
""".encode()
