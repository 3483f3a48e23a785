"""Chat templates: what transformers makes of them, where they are found, and hostile ones."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import km
from km.chat import chat_template, render

pytest.importorskip("jinja2")

GOLDEN_DATA = Path(__file__).parent.parent / "golden_data"
GOLDEN = json.loads((GOLDEN_DATA / "chat.json").read_text(encoding="utf-8"))
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}
HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("name", GOLDEN["templates"])
def test_equals_transformers(name: str) -> None:
    cases = [case for case in GOLDEN["cases"] if case["template"] == name]
    assert len(cases) == 10
    template = GOLDEN["templates"][name]
    for prompt in (False, True):
        wanted = [c for c in cases if c["variables"]["add_generation_prompt"] == prompt]
        variables = SPECIAL | wanted[0]["variables"]
        good = [case for case in wanted if case["text"] is not None]
        texts = render(template, [case["messages"] for case in good], variables)
        assert texts == [case["text"] for case in good]
        for case in wanted:
            if case["text"] is None:
                with pytest.raises(km.FormatError, match="the chat template cannot be rendered"):
                    render(template, [case["messages"]], variables)


def test_raise_exception_says_why() -> None:
    two = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    with pytest.raises(km.FormatError, match="Roles must alternate"):
        render(GOLDEN["templates"]["turns"], [two], SPECIAL)


def test_smollm2(model: km.Model) -> None:
    chat = model.chat(HI)
    assert chat.text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert str(chat) == chat.text
    assert chat.ids == model.encode(chat.text, bos=False, special=True)
    assert chat.ids.count(1) == 3 and chat.ids.count(2) == 2  # <|im_start|>, <|im_end|>
    assert not model.chat(HI, add_generation_prompt=False).text.endswith("assistant\n")
    several = model.chat([HI, HI])
    assert [one.text for one in several] == [chat.text] * 2


# ---- where a template is found ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny Gemma, whose tokenizer puts bos first."""
    shutil.copytree(GOLDEN_DATA / "tiny_gemma3", tmp_path / "tiny")
    return tmp_path / "tiny"


def set_config(folder: Path, **values: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_no_template(folder: Path) -> None:
    with pytest.raises(km.NotFoundError, match="has no chat template"):
        km.load(folder).chat(HI)


def test_template_files(folder: Path) -> None:
    set_config(folder, chat_template="in the config")
    assert chat_template(km.load(folder)) == "in the config"
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "a list"}]
    set_config(folder, chat_template=named)
    assert chat_template(km.load(folder)) == "a list"
    (folder / "chat_template.json").write_text('{"chat_template": "of its own"}')
    assert chat_template(km.load(folder)) == "of its own"
    (folder / "chat_template.jinja").write_text("{{ bos_token }}jinja")
    assert chat_template(km.load(folder)) == "{{ bos_token }}jinja"


def test_one_bos(folder: Path) -> None:
    model = km.load(folder)
    assert model.adds_bos and model.bos is not None
    with_bos = model.chat(HI, template="{{ bos_token }}{{ messages[0].content }}")
    without = model.chat(HI, template="{{ messages[0].content }}")
    assert with_bos.ids == without.ids
    assert with_bos.ids.count(model.bos) == 1


# ---- hostile templates ----


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{{ raise_exception.__globals__.sys }}",
        "{{ self._TemplateReference__context }}{{ cycler.__init__.__globals__.os }}",
        "{% include '/etc/passwd' %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 100000000000 }}",
        "{% set ns = namespace(s='x' * 1000) %}{% for i in range(60) %}"
        "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% for i in range(20) %}{{ 'x' * 1000000 }}{% endfor %}",
        "{% if",
    ],
)
def test_refused(template: str) -> None:
    with pytest.raises(km.FormatError, match="chat template"):
        render(template, [HI], SPECIAL)


def test_endless_loop_ends() -> None:
    loops = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    start = time.monotonic()
    with pytest.raises(km.FormatError, match=r"too much time|too long"):
        render(loops, [HI], SPECIAL)
    assert time.monotonic() - start < 60


def test_messages_must_be_plain(model: km.Model) -> None:
    with pytest.raises(km.ArgumentError, match="plain data"):
        model.chat([{"role": "user", "content": object()}])
    with pytest.raises(TypeError, match="list of messages"):
        model.chat("Hi")  # type: ignore[call-overload]


def test_missing_jinja2(model: km.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "site-packages" not in p])
    with pytest.raises(ModuleNotFoundError, match=r"km\[chat\]"):
        model.chat(HI)


def test_halves_of_surrogate_pairs(model: km.Model) -> None:
    for template in ("{{ '\\ud800' }}", "\ud800", "{{ messages[0].content }}"):
        with pytest.raises(km.FormatError, match="half of a surrogate pair"):
            model.chat([{"role": "user", "content": "\udfff"}], template=template)
