"""Turn the knowledge base's SQL files into one C source.

Usage: embed_sql.py OUTPUT.c FILE.sql ...

Files in a folder ``schema`` are migrations, ``NNNN_name.sql``, numbered 1, 2, 3 without a gap.
Files in a folder ``questions`` are named questions; their head is comment lines::

    -- title: What it answers, as a question.
    -- description: What the rows are.
    -- parameter: node=memorization
"""

from __future__ import annotations

import sys
from pathlib import Path


def c_array(name: str, text: str) -> str:
    """C99 string literals end at 4,095 bytes, so the text becomes an array of numbers."""
    values = [str(byte if byte < 128 else byte - 256) for byte in text.encode() + b"\0"]
    lines = [", ".join(values[i : i + 24]) for i in range(0, len(values), 24)]
    return f"static const char {name}[] = {{\n    " + ",\n    ".join(lines) + "};\n"


def head_of(path: Path, text: str) -> dict[str, str]:
    """The title, description and parameters in a question's head."""
    fields: dict[str, str] = {"title": "", "description": "", "parameters": ""}
    for line in text.splitlines():
        if not line.startswith("-- "):
            break
        key, _, value = line[3:].partition(": ")
        if key == "parameter":
            fields["parameters"] = (fields["parameters"] + " " + value.strip()).strip()
        elif key in ("title", "description"):
            fields[key] = (fields[key] + " " + value.strip()).strip()
        else:
            raise SystemExit(f"{path}: unknown head line {line!r}")
    if not fields["title"] or not fields["description"]:
        raise SystemExit(f"{path}: a question needs a title and a description")
    return fields


def body_of(text: str) -> str:
    """The SQL below the head."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("-- ")).strip()


def migrations(files: list[Path]) -> str:
    """The table of migrations."""
    rows, arrays = [], []
    for expected, path in enumerate(sorted(files), start=1):
        version = int(path.name.split("_")[0])
        if version != expected:
            raise SystemExit(f"{path}: migration number {version} where {expected} was expected")
        arrays.append(c_array(f"schema_{version}", path.read_text(encoding="utf-8")))
        rows.append(f"    {{{version}, schema_{version}}},")
    table = "const km__kb_migration km__kb_migrations[] = {\n" + "\n".join(rows) + "\n};\n"
    return "".join(arrays) + table + f"const int km__kb_n_migrations = {len(rows)};\n"


def questions(files: list[Path]) -> str:
    """The table of questions."""
    rows, arrays = [], []
    for i, path in enumerate(sorted(files)):
        text = path.read_text(encoding="utf-8")
        head = head_of(path, text)
        for key in ("title", "description", "parameters"):
            arrays.append(c_array(f"{key}_{i}", head[key]))
        arrays.append(c_array(f"name_{i}", path.stem))
        arrays.append(c_array(f"sql_{i}", body_of(text)))
        rows.append(f"    {{name_{i}, title_{i}, description_{i}, parameters_{i}, sql_{i}}},")
    table = "const km__kb_question km__kb_questions[] = {\n" + "\n".join(rows) + "\n};\n"
    return "".join(arrays) + table + f"const int km__kb_n_questions = {len(rows)};\n"


def main() -> None:
    """Write the C source."""
    output, files = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    schema = [path for path in files if path.parent.name == "schema"]
    asked = [path for path in files if path.parent.name == "questions"]
    if len(schema) + len(asked) != len(files) or not schema or not asked:
        raise SystemExit("expected files in folders named schema and questions")
    head = "/* Made by tools/embed_sql.py from kb/schema and kb/questions. */\n"
    head += '#include "kb_private.h"\n\n'
    output.write_text(head + migrations(schema) + "\n" + questions(asked), encoding="utf-8")


if __name__ == "__main__":
    main()
