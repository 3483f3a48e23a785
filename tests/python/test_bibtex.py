"""BibTeX of works: types, fields, names, and texts that LaTeX would obey."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from km.bibtex import bibtex_key, escape_latex, work_to_bibtex, works_to_bibtex
from km.kb import taxonomy_text

WORDS = {
    r"{\textbackslash}": "\\",
    r"{\textbraceleft}": "{",
    r"{\textbraceright}": "}",
    r"{\textasciitilde}": "~",
    r"{\textasciicircum}": "^",
    r"{\textless}": "<",
    r"{\textgreater}": ">",
    r"{\textbar}": "|",
}


def read(text: str) -> dict[str, Any]:
    """One entry, read as BibTeX does: fields end where braces are balanced."""
    head = re.match(r"@(\w+)\{([^,]*),", text)
    assert head is not None
    fields, at = {"type": head[1], "key": head[2]}, head.end()
    while found := re.compile(r"\s*(\w+)\s*=\s*\{").match(text, at):
        depth, at = 1, found.end()
        start = at
        while depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        fields[found[1]] = text[start : at - 1]
        assert text[at] == ","
        at += 1
    assert text[at:] == "\n}\n"
    return fields


def printed(latex: str) -> str:
    """What LaTeX prints of a text that escape_latex() made; an unescaped special is an error."""
    out, at = "", 0
    while at < len(latex):
        word = next((w for w in WORDS if latex.startswith(w, at)), None)
        if word is not None:
            out, at = out + WORDS[word], at + len(word)
        elif latex[at] == "\\":
            assert latex[at + 1] in "&%$#_"
            out, at = out + latex[at + 1], at + 2
        else:
            assert latex[at] not in "&%$#_{}~^"
            out, at = out + latex[at], at + 1
    return out


@given(st.text())
def test_escaped_text_prints_as_it_was(text: str) -> None:
    plain = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", " ", text)
    assert printed(escape_latex(text)) == plain


@given(
    st.dictionaries(
        st.sampled_from(["title", "authors", "venue", "arxiv", "url", "doi", "note"]), st.text()
    )
)
def test_any_text_makes_one_entry(row: dict[str, str]) -> None:
    fields = read(work_to_bibtex({"key": "a}b, c", **row}))
    assert fields["key"] == "a_b__c"
    assert set(fields) <= {
        "type", "key", "title", "author", "eprint", "archivePrefix", "url", "doi", "note",
        "journal", "booktitle", "howpublished", "volume", "number",
    }  # fmt: skip


def test_types_follow_the_venue() -> None:
    def made(venue: str | None) -> dict[str, Any]:
        fields = read(work_to_bibtex({"key": "k", "title": "T", "venue": venue}))
        return {k: v for k, v in fields.items() if k not in ("key", "title")}

    assert made(None) == made("CoRR") == made("arXiv") == {"type": "misc"}
    assert made("ICLR 2022") == {"type": "inproceedings", "booktitle": "ICLR 2022"}
    assert made("ACL 2026 (third-party note)") == {"type": "inproceedings", "booktitle": "ACL 2026"}
    assert made("Nature 630") == {"type": "article", "journal": "Nature", "volume": "630"}
    assert made("Computational Linguistics 48(1)") == {
        "type": "article",
        "journal": "Computational Linguistics",
        "volume": "48",
        "number": "1",
    }
    assert made("Distill") == {"type": "article", "journal": "Distill"}
    assert made("web") == {"type": "misc", "howpublished": "Web"}


def test_names() -> None:
    def author(text: str) -> str | None:
        return read(work_to_bibtex({"key": "k", "title": "T", "authors": text})).get("author")

    assert author("Hu, E. J.; Shen, Y.; and others") == "Hu, E. J. and Shen, Y. and others"
    assert author("nostalgebraist") == "{nostalgebraist}"
    assert author("Barnes and Noble, Inc.") == "{Barnes and Noble, Inc.}"
    assert author(json.dumps(["Müller, Ü.", "R&D lab"])) == r"Müller, Ü. and {R\&D lab}"
    assert author("7 authors") is None
    assert author("") is None


def test_titles_keep_capitals_inside_words() -> None:
    entry = work_to_bibtex({"key": "k", "title": "How MQuAKE asks LLMs: a Study"})
    assert read(entry)["title"] == "How {MQuAKE} asks {LLMs:} a Study"


def test_addresses_stay_and_cannot_end_the_field() -> None:
    entry = work_to_bibtex({"key": "k", "title": "T", "url": "https://a.b/c_d%20e?f=1#g}h"})
    assert read(entry)["url"] == "https://a.b/c_d%20e?f=1#g%7Dh"


def test_all_works_of_the_taxonomy() -> None:
    works = json.loads(taxonomy_text())["works"]
    text = works_to_bibtex(works)
    entries = [read(entry.lstrip() + "\n}\n") for entry in text.split("\n}\n") if entry.strip()]
    assert [entry["key"] for entry in entries] == [bibtex_key(w["key"]) for w in works]
    assert len({entry["key"] for entry in entries}) == len(works)
    assert sum("eprint" in entry for entry in entries) == sum(bool(w["arxiv"]) for w in works)
    assert all(entry["title"] and entry["year"] for entry in entries)
