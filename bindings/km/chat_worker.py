"""Renders chat templates in a process of its own; run by km.chat, never imported.

A template comes from a model file and may be hostile. Jinja2's sandbox keeps it from Python's
objects; limits of time, memory and files, which only a process of its own can have, keep it from
using up the machine. Reads one JSON object from the standard input, writes one to the standard
output.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any

CPU_SECONDS = 5
MEMORY_BYTES = 1 << 30
LONGEST = 16 << 20  # characters of one rendered conversation


def limit() -> None:
    """Bound what this process may use."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def environment() -> Any:
    """The sandbox with what transformers offers to templates."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %}: marks the model's own words for training."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            """Take the block as its contents."""
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    def strftime_now(format: str) -> str:
        return datetime.now().strftime(format)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = strftime_now
    return made


def render(template: Any, variables: dict[str, Any]) -> str:
    """One conversation, refused when it grows beyond LONGEST."""
    pieces, n = [], 0
    for piece in template.generate(**variables):
        pieces.append(piece)
        n += len(piece)
        if n > LONGEST:
            raise ValueError(f"the rendered text is longer than {LONGEST:,} characters")
    return "".join(pieces)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The rendered conversations, or what was wrong."""
    sys.path[:] = request["path"]
    try:
        made = environment()
    except ImportError:
        return {"missing": True}
    try:
        limit()
        template = made.from_string(request["template"])
        texts = [render(template, variables) for variables in request["variables"]]
    except MemoryError:
        return {"error": f"it needs more than {MEMORY_BYTES >> 20} MiB of memory"}
    except RecursionError:
        return {"error": "it calls itself too deep"}
    except Exception as error:  # whatever the template does is the template's fault
        return {"error": f"{type(error).__name__}: {error}"[:2000]}
    return {"texts": texts}


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.stdin.buffer.read())
    sys.stdout.buffer.write(json.dumps(answer(request)).encode())


if __name__ == "__main__":
    main()
