"""Chat templates: a conversation as the text the model was trained to continue.

A template is a small program in a model file. It runs only when a conversation is to be rendered,
in Jinja2's sandbox, in a process of its own with limits of time and memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from km.errors import ArgumentError, FormatError, NotFoundError

if TYPE_CHECKING:
    from km.model import Model

Message: TypeAlias = Mapping[str, Any]

_SECONDS = 20  # for the whole process; it may use a quarter of that as CPU time
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


@dataclass(frozen=True)
class Chat:
    """A rendered conversation.

    Attributes
    ----------
    text : str
        What the template made of it.
    ids : list of int
        Its tokens: special tokens as such, and no second beginning-of-sequence token where the
        template has written one.
    """

    text: str
    ids: list[int]

    def __str__(self) -> str:
        return self.text


def chat_template(model: Model) -> str | None:
    """The template that comes with a model, None when it has none."""
    folder = _folder_of(model)
    if folder is None:
        return model._model.metadata("tokenizer.chat_template")
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        value = _read_json(folder / name).get("chat_template")
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            named = {entry.get("name"): entry.get("template") for entry in value}
            return named.get("default")
    return None


def special_tokens(model: Model) -> dict[str, str]:
    """The special tokens a template may name, such as bos_token."""
    folder = _folder_of(model)
    if folder is None:
        ids = {"bos_token": model.bos, "eos_token": model.eos}
        return {
            name: model.decode_bytes([id]).decode("utf-8", "replace")
            for name, id in ids.items()
            if id is not None
        }
    found = {}
    config = _read_json(folder / "tokenizer_config.json")
    for name, value in (_read_json(folder / "special_tokens_map.json") | config).items():
        text = value.get("content") if isinstance(value, dict) else value
        if name in _SPECIAL and isinstance(text, str):
            found[name] = text
    return found


def render(
    template: str, conversations: Sequence[Sequence[Message]], variables: Mapping[str, Any]
) -> list[str]:
    """Render conversations with one template.

    Parameters
    ----------
    template : str
    conversations : sequence of conversations
        Each a sequence of messages.
    variables : dict
        What else the template sees.

    Raises
    ------
    ModuleNotFoundError
        Jinja2 is missing.
    FormatError
        The template fails, refuses the conversation, or needs too much time or memory.
    """
    request = {
        "template": template,
        "variables": [{**variables, "messages": list(one)} for one in conversations],
        "path": sys.path,
    }
    worker = Path(__file__).with_name("chat_worker.py")
    try:
        sent = json.dumps(request).encode()
    except TypeError as error:
        raise ArgumentError(f"messages and variables must be plain data: {error}") from None
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(worker)], input=sent, capture_output=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise FormatError("the chat template takes too long") from None
    if done.returncode < 0:
        raise FormatError("the chat template uses too much time or memory")
    if done.returncode != 0 or not done.stdout:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise FormatError(f"the chat template could not be rendered: {lines[-1] if lines else ''}")
    answer = json.loads(done.stdout)
    if answer.get("missing"):
        raise ModuleNotFoundError(
            "chat templates need Jinja2: pip install 'km[chat]', or pip install jinja2"
        )
    if "error" in answer:
        raise FormatError(f"the chat template cannot be rendered: {answer['error']}")
    texts: list[str] = answer["texts"]
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise FormatError(
                "the chat template, or the conversation, holds half of a surrogate pair, which is "
                "no text"
            ) from None
    return texts


def chat(
    model: Model,
    messages: Sequence[Message] | Sequence[Sequence[Message]],
    add_generation_prompt: bool = True,
    template: str | None = None,
    **variables: Any,
) -> Chat | list[Chat]:
    """Render and encode; see :meth:`km.Model.chat`."""
    if template is None:
        template = chat_template(model)
    if template is None:
        raise NotFoundError(f"{model.name} has no chat template; give one with template=")
    if isinstance(messages, str | bytes | Mapping):
        raise TypeError("chat() takes a list of messages, each a dictionary with role and content")
    several = len(messages) > 0 and not isinstance(messages[0], Mapping)
    conversations: Any = messages if several else [messages]
    known: dict[str, Any] = {"tools": None, "documents": None}
    known |= special_tokens(model) | variables
    known["add_generation_prompt"] = add_generation_prompt
    texts = render(template, conversations, known)
    made = [Chat(text, encode(model, text)) for text in texts]
    return made if several else made[0]


def encode(model: Model, text: str) -> list[int]:
    """Tokens of rendered text, beginning with one bos token where the model asks for it."""
    ids = model.encode(text, bos=False, special=True)
    if model.adds_bos and model.bos is not None and ids[:1] != [model.bos]:
        return [model.bos, *ids]
    return ids


def _folder_of(model: Model) -> Path | None:
    """The Hugging Face folder a model came from; None for a GGUF file."""
    path = Path(model._model.path)
    return path if path.is_dir() else None


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} when the file is not there."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from None
    return value if isinstance(value, dict) else {}
