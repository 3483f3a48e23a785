"""Write conversations rendered by transformers' apply_chat_template, for several templates.

usage: make_chat.py OUT.json

The templates are written for km after the forms in use: ChatML with a default system message (as
SmolLM2), alternation enforced with raise_exception and a trimmed content (as Gemma and Llama 2),
headers with a date and tools as JSON (as Llama 3), loop controls, generation blocks, namespaces and
macros. Needs transformers and Jinja2; the test-suite needs Jinja2 alone.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\\nYou are a helpful AI assistant.<|im_end|>\\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TURNS = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
    {%- set first = messages[0]['content'] + '\\n\\n' %}
    {%- set rest = messages[1:] %}
{%- else %}{% set first = '' %}{% set rest = messages %}{% endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate user/assistant') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}
    {%- if message['content'] is string %}
        {{- message['content'] | trim }}
    {%- else %}
        {%- for item in message['content'] %}
            {%- if item['type'] == 'image' %}{{ '<image>' }}{% else %}{{ item['text'] | trim }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}{{ '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
HEADERS = """{{- bos_token }}{% if date_string is not defined %}
    {%- set date_string = strftime_now("%Y") | length ~ " digits" %}{% endif %}
{%- macro header(role) %}{{ '<|start_header_id|>' + role + '<|end_header_id|>\\n' }}{% endmacro %}
{{- header('system') }}Date: {{ date_string }}
{% if tools is not none %}
{% for tool in tools %}{{ tool | tojson(indent=4) }}{{ '\\n' }}{% endfor %}
{% endif %}<|eot_id|>
{%- set count = namespace(n=0) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- if count.n >= 3 %}{% break %}{% endif %}
    {%- set count.n = count.n + 1 %}
    {{- header(message.role) + message.content }}<|eot_id|>
{%- endfor %}
{%- if add_generation_prompt %}{{ header('assistant') }}{% endif %}[{{ eos_token }}]"""
GENERATION = """{% for m in messages %}
{% if m.role == 'assistant' %}
{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}
{% else %}{{ m.content | upper }} {{ m | tojson }}
{% endif %}
{% endfor %}"""

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "  Größe & <b>\n"},
        {"role": "assistant", "content": "大きさ \U0001f600"},
        {"role": "user", "content": '\'s "quoted" {{ not a template }}'},
    ],
    [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
    ],
    [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " look "}]}],
]
TOOLS = [{"type": "function", "function": {"name": "größe", "parameters": {"b": 1, "a": [1.5]}}}]


def render(template: str, conversation: list[dict[str, Any]], **variables: Any) -> str | None:
    """Return what transformers makes of it, None when the template refuses."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])), bos_token="<s>", eos_token="</s>"
    )
    try:
        text = tokenizer.apply_chat_template(
            conversation, chat_template=template, tokenize=False, **variables
        )
    except Exception:  # the kind of error is Jinja2's
        return None
    assert isinstance(text, str)
    return text


def main() -> None:
    """Run the command line."""
    cases = []
    templates = {"chatml": CHATML, "turns": TURNS, "headers": HEADERS, "generation": GENERATION}
    for name in templates:
        for conversation in CONVERSATIONS:
            for prompt in (False, True):
                variables: dict[str, Any] = {"add_generation_prompt": prompt}
                if name == "headers" and prompt:
                    variables |= {"tools": TOOLS, "date_string": "26 Jul 2024"}
                text = render(templates[name], conversation, **variables)
                case = {"template": name, "messages": conversation, "variables": variables}
                cases.append(case | {"text": text})
    made_with = {"transformers": transformers.__version__}
    golden = {"made_with": made_with, "templates": templates, "cases": cases}
    text = json.dumps(golden, indent=1, ensure_ascii=False)
    pathlib.Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")
    print(len(cases), "cases", sum(case["text"] is None for case in cases), "refused")


if __name__ == "__main__":
    main()
