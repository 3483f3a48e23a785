"""A conversation about knowledge mechanisms and about what a knowledge base has measured.

Each answer rests on one sentence: full-text search finds candidates, a selector that knows what was
used before chooses among them, and a language model says the sentence as an answer. Where nothing
fits, the conversation says so.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km.dialog.dialogues import Sentence
from km.dialog.grounds import Grounds, content_words, is_of_work, shipped_sentences
from km.display import escape
from km.errors import ArgumentError
from km.result import canonical_json, content_key, make_provenance
from km.table import Column, Table

if TYPE_CHECKING:
    from km.dialog.diffks import DiffKS
    from km.dialog.selectors import Selector
    from km.kb import KnowledgeBase
    from km.model import Model
    from km.picture import Picture

CONVERSATION_ID = "dialog.conversation"
CONVERSATION_VERSION = 1

DecoderName: TypeAlias = Literal["greedy", "cad", "adacad", "coda", "dola"]
DECODERS: tuple[DecoderName, ...] = ("greedy", "cad", "adacad", "coda", "dola")

FOUND = 16  # candidates from the search
OF_TOPIC = 14  # candidates from the topic talked about
MOST_TOKENS = 64
NOTHING_FITS = (
    "Nothing in this knowledge base fits that question. It holds the taxonomy of knowledge "
    "mechanisms, its literature, and what was measured here."
)
SAY_MORE = "What would you like to know? Ask about a mechanism, a work or a measurement."
_INSTRUCTION = "Answer in one or two short sentences. Say only what the note says."
_LITERATURE = re.compile(
    r"\b(works?|papers?|stud(y|ies)|literature|articles?|authors?|who|whose|source|references?|cite|"
    r"publish\w*|propos\w*|evidence|support\w*|contradict\w*|against|survey\w*)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

ROW_COLUMNS = (
    Column("turn", "int64", "", "From 1."),
    Column("user", "text", "", "What was asked."),
    Column("response", "text", "", "What was answered."),
    Column("phrased", "bool", "", "Said by the language model; else the sentence itself."),
    Column("sentence", "text", "", "Identifier of the candidate; null where there was none."),
    Column("text", "text", "", "The candidate."),
    Column("node", "text", "", "Node of the taxonomy it belongs to."),
    Column("source", "text", "", "Where it is from."),
    Column("score", "double", "", "The selector's."),
    Column("chosen", "bool", "", "The answer rests on it."),
)


@dataclass(frozen=True)
class Reply:
    """An answer and what it rests on.

    Attributes
    ----------
    text : str
    sentence : Sentence or None
        None: nothing fitted.
    phrased : bool
        The language model said it; else `text` is the sentence as it stands, because there is no
        model or what it said was not what the sentence says.
    candidates : Table
        Candidates with their scores, best first.
    """

    text: str
    sentence: Sentence | None
    phrased: bool
    candidates: Table

    @property
    def source(self) -> str:
        """What to cite, such as "work:meng2022rome"; empty where nothing fitted."""
        return "" if self.sentence is None else self.sentence.source

    def __str__(self) -> str:
        return self.text if self.sentence is None else f"{self.text} [{self.source}]"

    def _repr_html_(self) -> str:
        if self.sentence is None:
            return f"<p>{escape(self.text)}</p>"
        rests = f"{escape(self.sentence.text)} [{escape(self.source)}]"
        chosen_from = f"chosen from {len(self.candidates)} sentences"
        return (
            f"<p>{escape(self.text)}</p><blockquote><small>{rests}</small></blockquote>"
            f"<details><summary><small>{chosen_from}</small></summary>"
            f"{self.candidates._repr_html_()}</details>"
        )


class Conversation:
    """A conversation with a knowledge base; made by :func:`chat`.

    Use it in a ``with`` statement or call :meth:`close`, which ends its run in the knowledge base.

    Attributes
    ----------
    replies : list of Reply
    run : int or None
        Its run in the knowledge base; None before the first answer, and where nothing is stored.
    """

    def __init__(
        self,
        kb: KnowledgeBase,
        grounds: Grounds,
        selector: Selector,
        model: Model | None,
        decoder: DecoderName,
        store: bool,
    ) -> None:
        self.kb = kb
        self.grounds = grounds
        self.selector = selector
        self.model = model
        self.decoder = decoder
        self.replies: list[Reply] = []
        self.run: int | None = None
        self._said: list[str] = []
        self._used: list[Sentence] = []
        self._asked: tuple[list[str], list[str], list[str]] | None = None
        self._store = store
        self._id = uuid.uuid4().hex

    def ask(self, text: str) -> Reply:
        """Answer one utterance.

        Raises
        ------
        ArgumentError
            It is empty.
        """
        if not isinstance(text, str) or not text.strip():
            raise ArgumentError("there is nothing to answer: text is empty")
        found = self._candidates(text)
        reply = self._answer(text, found) if found else _without_grounds(text)
        self._said += [text, reply.text]
        if reply.sentence is not None:
            self._used.append(reply.sentence)
        self.replies.append(reply)
        self._keep(text, reply)
        return reply

    # ---- what an answer can rest on ----

    def _candidates(self, text: str) -> list[Sentence]:
        """Sentences to choose from; none where nothing fits."""
        words = content_words(text)
        if not is_on_topic(self.grounds, words, follows=bool(self._used)):
            return []
        topic = self.grounds.of_topic(self._used[-1].topic) if self._used else []
        if self._used and len(words) < 2:  # "And what speaks against it?" is about what was said
            words = [*words, *content_words(self.grounds.topic_name(self._used[-1].topic))]
        found = self.grounds.search(words, 4 * FOUND)
        if not asks_for_works(text):
            found, topic = ([one for one in some if not is_of_work(one)] for some in (found, topic))
        every = dict.fromkeys([*found[:FOUND], *topic[:OF_TOPIC]])
        return [sentence for sentence in every if sentence not in self._used]

    def _answer(self, text: str, found: Sequence[Sentence]) -> Reply:
        context = [*self._said, text]
        used = [sentence.text for sentence in self._used]
        texts = [sentence.text for sentence in found]
        self._asked = (context, texts, used)
        chosen = self.selector.select(context, texts, used)
        table = _candidate_table(found, chosen.scores, chosen.index)
        if chosen.index is None:
            return Reply(NOTHING_FITS, None, False, table)
        sentence = found[chosen.index]
        said = None if self.model is None else phrase(self.model, text, sentence.text, self.decoder)
        return Reply(said or sentence.text, sentence, said is not None, table)

    # ---- why ----

    def why(self) -> Table:
        """Why the last choice: scores without history, and what each earlier choice changed.

        Raises
        ------
        ArgumentError
            Nothing was chosen yet, or the selector has no such explanation.
        """
        explain = getattr(self.selector, "explain", None)
        if self._asked is None:
            raise ArgumentError("nothing was chosen yet")
        if explain is None:
            raise ArgumentError(f"{type(self.selector).__name__} does not look at earlier choices")
        table: Table = explain(*self._asked)
        return table

    # ---- keeping ----

    @property
    def rows(self) -> Table:
        """Every candidate of every turn; what the knowledge base holds of the conversation."""
        return Table.from_rows(list(ROW_COLUMNS), self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        questions = self._said[::2]
        return [
            row
            for number, (user, reply) in enumerate(zip(questions, self.replies, strict=True), 1)
            for row in _turn_rows(number, user, reply)
        ]

    def _keep(self, text: str, reply: Reply) -> None:
        """Store a turn as soon as it is answered."""
        if not self._store:
            return
        if self.run is None:
            parameters = {
                "conversation": self._id,
                "decoder": self.decoder,
                "selector": json.loads(canonical_json(_describe(self.selector))),
            }
            provenance = make_provenance(
                CONVERSATION_ID, CONVERSATION_VERSION, self.model, parameters
            )
            self.run = self.kb.begin_run(provenance)
        number = len(self.replies)
        part = {"conversation": self._id, "turn": number}
        fingerprint = "" if self.model is None else self.model.fingerprint
        key = content_key(CONVERSATION_ID, CONVERSATION_VERSION, part, fingerprint, [])
        table = Table.from_rows(list(ROW_COLUMNS), _turn_rows(number, text, reply))
        self.kb.store_chunk(self.run, key, table)

    def draw(self) -> Picture:
        """The path of its choices through the taxonomy."""
        from km import draw

        return draw.dialog(self.rows, self.kb)

    def close(self) -> None:
        """End its run; closing again does nothing."""
        if self.run is not None and self._store:
            self.kb.finish_run(self.run)
            self._store = False

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        said = self._said
        lines = [f"<km.Conversation of {len(self.replies)} turns>"]
        for user, reply in zip(said[::2], self.replies, strict=True):
            lines += [f"you: {user}", f"km:  {reply}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [
            f"<p><b>{escape(user)}</b></p>{reply._repr_html_()}"
            for user, reply in zip(self._said[::2], self.replies, strict=True)
        ]
        return f"<div>{''.join(parts) or '<p>Nothing was asked yet: ask(text) does.</p>'}</div>"


def chat(
    kb: KnowledgeBase,
    *,
    model: Model | None = None,
    selector: Selector | None = None,
    decoder: DecoderName = "greedy",
    sentences: Sequence[Sentence] | None = None,
    store: bool = True,
) -> Conversation:
    """Begin a conversation about knowledge mechanisms and the knowledge base's measurements.

    Parameters
    ----------
    kb : KnowledgeBase
    model : Model, optional
        Says the chosen sentence as an answer; None: the sentence itself is the answer. What the
        model says is taken only if its figures are the sentence's and most of its words are the
        sentence's or the question's.
    selector : Selector, optional
        None: the shipped :class:`km.DiffKS`.
    decoder : {"greedy", "cad", "adacad", "coda", "dola"}
        How the model decodes; "cad" and "adacad" contrast with the prompt without the sentence.
    sentences : sequence of Sentence, optional
        What can be chosen beside the knowledge base's own; None: those of "ask the survey".
    store : bool
        Keep each turn in the knowledge base as soon as it is answered (unless it is read-only).

    Examples
    --------
    >>> with km.dialog.chat(kb, model=km.load()) as talk:  # doctest: +SKIP
    ...     print(talk.ask("What is knowledge overshadowing?"))
    ...     print(talk.ask("And what speaks against it?"))
    """
    if decoder not in DECODERS:
        raise ArgumentError(f"decoder is {decoder!r}; it must be {', '.join(DECODERS)}")
    others = shipped_sentences() if sentences is None else sentences
    chosen = shipped_selector() if selector is None else selector
    keep = store and not kb.read_only
    return Conversation(kb, Grounds(kb, others), chosen, model, decoder, keep)


def shipped_selector() -> DiffKS:
    """The selector that comes with km, trained on "ask the survey"."""
    from km.dialog.diffks import DiffKS

    with resources.as_file(resources.files("km") / "data" / "dialog" / "selector") as path:
        return DiffKS.load(path)


# ---- whether anything fits ----

# A question that names a node fits. Else, logistic regressions of "there is an answer" on a
# constant and both values of Grounds.overlap, by grounded-dialog/fit_topic_rule.py on questions
# that no test is made of.
FIRST_RULE = (-3.56, 1.35, 0.443)
FOLLOWING_RULE = (-0.762, 2.83, -0.0791)


def asks_for_works(text: str) -> bool:
    """Whether a question is about the literature or what speaks for and against something.

    Sentences about works repeat the names of what they are about, so that they would be the best
    match of nearly every question.
    """
    return _LITERATURE.search(text) is not None


def is_on_topic(grounds: Grounds, words: Sequence[str], follows: bool) -> bool:
    """Whether a question in these content words can be answered from the sentences.

    Parameters
    ----------
    grounds : Grounds
    words : sequence of str
        Of :func:`km.dialog.grounds.content_words`.
    follows : bool
        Something was answered before; then a question without content words ("And why?") is about
        that.
    """
    if not words:
        return follows
    if grounds.names_node(words):
        return True
    known, best = grounds.overlap(words)
    constant, of_known, of_best = FOLLOWING_RULE if follows else FIRST_RULE
    return constant + of_known * known + of_best * best > 0.0


# ---- saying it ----


def phrase(model: Model, question: str, sentence: str, decoder: DecoderName) -> str | None:
    """The sentence as an answer in the model's words; None where it says something else."""
    note = f"Note: {sentence}\nQuestion: {question}"
    prompt = _prompt(model, note)
    answer = model.generate(
        prompt,
        max_tokens=MOST_TOKENS,
        stop=["\n"],
        decoder=_decoder(model, decoder, f"Question: {question}"),
    )
    assert not isinstance(answer, list)  # one prompt, one answer
    said = _whole_sentences(answer.text.strip())
    return said if is_grounded(said, question, sentence) else None


def _prompt(model: Model, note: str) -> list[int]:
    from km.chat import chat_template

    if chat_template(model) is None:
        return list(model.encode(f"{_INSTRUCTION}\n{note}\nAnswer:"))
    messages = [
        {"role": "system", "content": _INSTRUCTION},
        {"role": "user", "content": note},
    ]
    return list(model.chat(messages).ids)


def _decoder(model: Model, name: DecoderName, without: str) -> Any:
    from km import contrast_decoders

    if name == "cad":
        return contrast_decoders.CAD(_prompt(model, without), alpha=0.5)
    if name == "adacad":
        return contrast_decoders.AdaCAD(_prompt(model, without))
    if name == "coda":
        return contrast_decoders.CoDa()
    return contrast_decoders.DoLa() if name == "dola" else None


def _whole_sentences(text: str) -> str:
    """Text up to its last full stop; as it is where it has none."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", text)]
    return text[: ends[-1]] if ends else text


def is_grounded(said: str, question: str, sentence: str) -> bool:
    """Whether an answer has no figure that the sentence lacks, and mostly its words.

    What only repeats the question is no answer: at least half of the words are the sentence's, and
    one of these is not in the question.
    """
    words = [_stem(word) for word in content_words(said)]
    if not words or not set(_NUMBER.findall(said)) <= set(_NUMBER.findall(sentence)):
        return False
    own = {_stem(word) for word in content_words(sentence)}
    asked = {_stem(word) for word in content_words(question)}
    return (
        sum(word in own or word in asked for word in words) >= 0.7 * len(words)
        and sum(word in own for word in words) >= 0.5 * len(words)
        and any(word in own and word not in asked for word in words)
    )


def _stem(word: str) -> str:
    """Enough of a word to see that "layers" and "layer" are one."""
    return word[:5]


# ---- rows ----


def _without_grounds(text: str) -> Reply:
    words = NOTHING_FITS if content_words(text) else SAY_MORE
    return Reply(words, None, False, _candidate_table([], [], None))


def _candidate_table(
    found: Sequence[Sentence], scores: Sequence[float], chosen: int | None
) -> Table:
    rows = [
        {
            "sentence": sentence.id,
            "text": sentence.text,
            "node": sentence.topic,
            "source": sentence.source,
            "score": scores[i],
            "chosen": i == chosen,
        }
        for i, sentence in enumerate(found)
    ]
    rows.sort(key=lambda row: (not row["chosen"], -float(row["score"])))  # type: ignore[arg-type]
    return Table.from_rows(list(ROW_COLUMNS[4:]), rows)


def _turn_rows(number: int, user: str, reply: Reply) -> list[dict[str, Any]]:
    said = {"turn": number, "user": user, "response": reply.text, "phrased": reply.phrased}
    return [said | row for row in reply.candidates.rows()] or [said]


def _describe(selector: Selector) -> dict[str, Any]:
    params = {k: v for k, v in selector.get_params().items() if k != "model"}
    return {"name": type(selector).__name__} | {k: repr(v) for k, v in params.items()}
