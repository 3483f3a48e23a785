"""What a conversation can rest on: sentences of a knowledge base, found by full-text search.

Sentences come from four places: the shipped ones of "ask the survey", the summaries of the
taxonomy's nodes, what works do with a node, and what runs measured. Each says where it is from.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from km.dialog.dialogues import Sentence

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

_RELATIONS = {
    "proposes": "proposes",
    "supports": "supports",
    "contradicts": "speaks against",
    "measures": "measures",
    "surveys": "surveys",
}
_MARKS = {"known": " (general knowledge, not checked)", "guess": " (our reading, to be checked)"}
STEM = 6  # letters by which words of names and questions are compared
WORK_PREFIX = "edge:"  # of the ids of sentences about works
_WORD = re.compile(r"\w+")
# Words that say how something is asked rather than what about.
_COMMON_WORDS = """
a about above after again all also am an and another any are as at be because been before being
but by can cannot could did do does doing done down each either else ever every few for from
further get go going got had has have having he her here him his how however i if in into is isn
it its just let like ll many may me mean means might more most much must my next no nor not now of
off ok okay on one only or other our out over own please quite rather re really right said same
say says see shall she should show so some someone something still such sure take tell than thank
thanks that the their them then there these they thing things think this those though to too under
until up us use used using ve very want was way we well were what whatever when where whether
which while who whom whose why will with within without won would yes yet you your kind sort give
given come comes back bit lot exactly actually maybe perhaps first second last new old good better
best long short know question answer explain
"""
_COMMON = frozenset(_COMMON_WORDS.split())


def content_words(text: str) -> list[str]:
    """The words of a text that say what it is about, in lower case, each once."""
    words = (word.lower() for word in _WORD.findall(text))
    return list(dict.fromkeys(w for w in words if w not in _COMMON and len(w) > 1))


class Grounds:
    """The sentences of a knowledge base, and an index over them.

    Parameters
    ----------
    kb : KnowledgeBase
        Read once, when this is made.
    sentences : iterable of Sentence, optional
        Others to choose from, beside those of the knowledge base.

    Attributes
    ----------
    sentences : list of Sentence
        All, each with a text of its own.
    """

    def __init__(self, kb: KnowledgeBase, sentences: Iterable[Sentence] = ()) -> None:
        every = [*sentences, *node_sentences(kb), *work_sentences(kb), *measured_sentences(kb)]
        self.sentences = list({sentence.text: sentence for sentence in reversed(every)}.values())
        self.sentences.reverse()
        self._by_topic: dict[str, list[Sentence]] = {}
        for sentence in self.sentences:
            self._by_topic.setdefault(sentence.topic, []).append(sentence)
        self._index = _index(self.sentences)
        nodes = kb.sql("SELECT id, name FROM nodes").rows()
        self._names = {row["id"]: row["name"] for row in nodes}
        self._stems = [
            {word[:STEM] for word in content_words(name)} for name in self._names.values()
        ]

    def search(self, words: Sequence[str], limit: int) -> list[Sentence]:
        """Sentences that hold some of the words, by BM25, best first."""
        if not words:
            return []
        sql = "SELECT rowid FROM sentences WHERE sentences MATCH ? ORDER BY bm25(sentences) LIMIT ?"
        found = self._index.execute(sql, [_any_of(words), limit])
        return [self.sentences[row[0]] for row in found]

    def of_topic(self, topic: str) -> list[Sentence]:
        """Sentences of one topic, in their order."""
        return self._by_topic.get(topic, [])

    def overlap(self, words: Sequence[str]) -> tuple[float, float]:
        """How much of some words the sentences hold, by stem; rare words weigh more.

        Returns
        -------
        known : float
            Share of the words' weight that occurs in any sentence; 0 where there is no word.
        best : float
            Weight, nats, of those that occur together in the sentence that holds most of it. A
            word's weight is log((N + 1) / (n + 1/2)), n of N sentences having it.
        """
        rows = [self._rows_with(word) for word in words]
        weights = [math.log((len(self.sentences) + 1) / (len(found) + 0.5)) for found in rows]
        held: dict[int, float] = defaultdict(float)
        for found, weight in zip(rows, weights, strict=True):
            for row in found:
                held[row] += weight
        known = sum(w for found, w in zip(rows, weights, strict=True) if found)
        return (known / sum(weights) if words else 0.0), max(held.values(), default=0.0)

    def names_node(self, words: Sequence[str]) -> bool:
        """Whether the words hold a node's whole name; a name of one word has to be all of them."""
        asked = {word[:STEM] for word in words}
        return any(name <= asked if len(name) > 1 else name == asked for name in self._stems)

    def _rows_with(self, word: str) -> list[int]:
        sql = "SELECT rowid FROM sentences WHERE sentences MATCH ?"
        return [row[0] for row in self._index.execute(sql, [_any_of([word])])]

    def topic_name(self, topic: str) -> str:
        """The name of a node, or the topic itself where it is none."""
        return str(self._names.get(topic, topic))


def _any_of(words: Sequence[str]) -> str:
    return " OR ".join(f'"{word}"' for word in words)


def _index(sentences: Sequence[Sentence]) -> sqlite3.Connection:
    index = sqlite3.connect(":memory:", check_same_thread=False)
    tokens = "porter unicode61 remove_diacritics 2"
    index.execute(f"CREATE VIRTUAL TABLE sentences USING fts5(text, topic, tokenize='{tokens}')")
    rows = ((i, s.text, s.topic.replace("-", " ")) for i, s in enumerate(sentences))
    index.executemany("INSERT INTO sentences(rowid, text, topic) VALUES (?, ?, ?)", rows)
    return index


# ---- where sentences come from ----


def shipped_sentences() -> list[Sentence]:
    """The sentences of "ask the survey", the corpus of dialogues that comes with km."""
    from km.dialog.readers import read_dialogues

    folder = resources.files("km") / "data" / "dialog" / "ask_the_survey"
    with resources.as_file(folder) as path:
        return read_dialogues(path).sentences()


def node_sentences(kb: KnowledgeBase) -> Iterator[Sentence]:
    """The summary of each node of the taxonomy."""
    sql = "SELECT id, name, summary FROM nodes ORDER BY tree_enter"
    for row in kb.sql(sql).rows():
        text = f"{row['name']}: {row['summary']}"
        yield Sentence(f"node:{row['id']}", text, row["id"], "definition", f"node:{row['id']}")


def work_sentences(kb: KnowledgeBase) -> Iterator[Sentence]:
    """What each work does with a node, with the mark of how that is known."""
    sql = (
        "SELECT e.work, e.node, e.relation, e.evidence, e.note, w.title, w.authors, w.year, n.name "
        "FROM edges AS e JOIN works AS w ON w.key = e.work JOIN nodes AS n ON n.id = e.node "
        "ORDER BY e.work, e.node, e.relation"
    )
    kinds = {"supports": "for", "proposes": "for", "contradicts": "against"}
    for row in kb.sql(sql).rows():
        year = "" if row["year"] is None else f", {row['year']}"
        note = f": {row['note']}" if row["note"] else ""
        text = (
            f'"{row["title"]}" ({row["authors"]}{year}) {_RELATIONS[row["relation"]]} '
            f"{row['name']}{note}{_MARKS.get(row['evidence'], '')}."
        )
        id = f"{WORK_PREFIX}{row['work']}:{row['node']}:{row['relation']}"
        kind = kinds.get(row["relation"], "example")
        yield Sentence(id, text, row["node"], kind, f"work:{row['work']}")


def is_of_work(sentence: Sentence) -> bool:
    """Whether it is one of :func:`work_sentences`."""
    return sentence.id.startswith(WORK_PREFIX)


def measured_sentences(kb: KnowledgeBase) -> Iterator[Sentence]:
    """What the newest runs say about nodes, and what the newest recall says of each relation."""
    yield from _evidence_sentences(kb)
    yield from _recall_sentences(kb)


def _evidence_sentences(kb: KnowledgeBase) -> Iterator[Sentence]:
    sql = (
        "SELECT e.*, n.name AS node_name, coalesce(m.title, m.id) AS measure_title "
        "FROM latest_evidence AS e JOIN nodes AS n ON n.id = e.node "
        "JOIN measures AS m ON m.id = e.measure WHERE e.value IS NOT NULL ORDER BY e.id"
    )
    for row in kb.sql(sql).rows():
        name = row["statistic"].replace("_", " ")
        text = (
            f"Measured here on {_model_name(row)}: {name} is {_figure(row)} "
            f"({row['measure_title']}, about {row['node_name']})."
        )
        id = f"evidence:{row['id']}"
        yield Sentence(id, text, row["node"], "measure", f"run:{row['run']}")


def _recall_sentences(kb: KnowledgeBase) -> Iterator[Sentence]:
    from km import stats

    sql = (
        "SELECT r.id, m.name AS model, m.precision FROM runs AS r JOIN models AS m "
        "ON m.id = r.model WHERE r.id IN (SELECT max(id) FROM runs WHERE "
        "measure = 'memorization.recall' AND status = 'done' GROUP BY model)"
    )
    for run in kb.sql(sql).rows():
        for row in kb.ask("facts-by-relation", run=run["id"]).rows():
            interval = stats.wilson(row["recalled"], row["facts"])
            relation = str(row["relation"]).replace("_", " ")
            text = (
                f"Measured here: {_model_name(run)} ranks the answer to '{relation}' first under "
                f"most prompts for {row['recalled']} of {row['facts']} facts, "
                f"{_percent(interval.low, interval.high)}; always giving the commonest answer "
                f"would do so for {row['commonest']}."
            )
            id = f"recall:{run['id']}:{row['relation']}"
            yield Sentence(id, text, "memorization", "measure", f"run:{run['id']}")


def _model_name(row: dict[str, Any]) -> str:
    return " ".join(str(part) for part in (row["model"], row["precision"]) if part) or "a model"


def _percent(low: float, high: float) -> str:
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def _figure(row: dict[str, Any]) -> str:
    """Value, interval, baseline and n in words, as precise as the interval lets it be."""
    share = row["unit"] == "share"
    unit = "" if share or not row["unit"] else f" {row['unit']}"
    value = f"{100 * row['value']:.0f} %" if share else f"{row['value']:.3g}{unit}"
    parts = [value]
    if row["low"] is not None and row["high"] is not None:
        interval = (
            _percent(row["low"], row["high"])
            if share
            else f"{row['low']:.3g} to {row['high']:.3g}{unit}"
        )
        parts.append(f"between {interval} with 95 % confidence")
    if isinstance(row["baseline"], float):
        shown = f"{100 * row['baseline']:.0f} %" if share else f"{row['baseline']:.3g}{unit}"
        parts.append(f"beside {shown} for the baseline")
    if row["n"] is not None:
        parts.append(f"n = {row['n']}")
    return ", ".join(parts)
