"""A conversation with a knowledge base: what it rests on, what it refuses, what it keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import km
from km import draw
from km.dialog import BM25, chat
from km.dialog.conversation import NOTHING_FITS, SAY_MORE, Conversation, is_grounded
from km.dialog.grounds import Grounds, content_words, shipped_sentences


@pytest.fixture
def kb(tmp_path: Path) -> km.KnowledgeBase:
    """An empty knowledge base with the shipped taxonomy."""
    return km.KnowledgeBase(tmp_path / "talk.db")


@pytest.fixture
def talk(kb: km.KnowledgeBase) -> Conversation:
    """A conversation without a language model."""
    return chat(kb, selector=BM25())


def test_an_answer_rests_on_a_sentence_and_cites_it(talk: Conversation) -> None:
    reply = talk.ask("What is knowledge overshadowing?")
    assert reply.sentence is not None
    assert reply.text == reply.sentence.text
    assert not reply.phrased
    assert str(reply).endswith(f"[{reply.source}]")
    table = reply.candidates
    assert table["chosen"].count(True) == 1
    assert reply.sentence.id == table["sentence"][0]


def test_a_follow_up_without_words_of_its_own_stays_with_the_topic(talk: Conversation) -> None:
    first = talk.ask("What does the logit lens show?")
    second = talk.ask("And what else?")
    assert first.sentence is not None and second.sentence is not None
    assert second.sentence.topic == first.sentence.topic
    assert second.sentence != first.sentence


def test_nothing_is_used_twice(talk: Conversation) -> None:
    used = [talk.ask("What is causal tracing?").sentence for _ in range(6)]
    assert len({sentence.id for sentence in used if sentence is not None}) == 6


def test_what_does_not_fit_is_refused(talk: Conversation) -> None:
    assert talk.ask("Which wine goes with salmon?").text == NOTHING_FITS
    assert talk.ask("And then?").text == SAY_MORE
    assert talk.replies[0].sentence is None
    assert talk.replies[0].source == ""
    with pytest.raises(km.ArgumentError, match="empty"):
        talk.ask("  ")


def test_most_questions_about_other_things_are_refused(kb: km.KnowledgeBase) -> None:
    path = Path(__file__).parents[2] / "grounded-dialog" / "data" / "off_topic.jsonl"
    questions = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [row["text"] for row in questions if row["split"] == "test"]
    assert len(texts) == 50
    refused = sum(chat(kb, selector=BM25(), store=False).ask(t).sentence is None for t in texts)
    assert refused >= 38  # 43 of 50 when the rule was fitted


def test_every_turn_is_kept_as_it_is_answered(kb: km.KnowledgeBase) -> None:
    talk = chat(kb, selector=BM25())
    talk.ask("What is knowledge editing?")
    sql = "SELECT count(*) AS n FROM run_chunks WHERE run = ?"
    assert kb.sql(sql, [talk.run])["n"] == [1]
    talk.ask("Which wine goes with salmon?")
    talk.close()
    talk.close()
    assert kb.sql(sql, [talk.run])["n"] == [2]
    row = kb.sql("SELECT measure, status FROM runs WHERE id = ?", [talk.run]).row(0)
    assert row == {"measure": "dialog.conversation", "status": "done"}
    assert len(talk.rows) == len(talk.replies[0].candidates) + 1


def test_nothing_is_kept_where_nothing_may_be(kb: km.KnowledgeBase, tmp_path: Path) -> None:
    with km.KnowledgeBase(tmp_path / "talk.db", read_only=True) as reader:
        talk = chat(reader, selector=BM25())
        talk.ask("What is knowledge editing?")
        assert talk.run is None


def test_the_path_is_drawn_from_the_knowledge_base_alone(kb: km.KnowledgeBase) -> None:
    with chat(kb, selector=BM25()) as talk:
        talk.ask("What is knowledge editing?")
        talk.ask("What does the logit lens show?")
        drawn = talk.draw().svg
    assert draw.dialog(kb).svg.count("What does the logit lens show?") >= 1
    assert "Logit lens" in drawn
    with pytest.raises(km.NotFoundError):
        draw.dialog(kb, run=999)


def test_measured_sentences_speak_of_runs(kb: km.KnowledgeBase) -> None:
    kb.add_measure("user.test", ["memorization"])
    model = {"fingerprint": "f" * 64, "name": "Toy", "precision": "F32"}
    run = kb.begin_run({"measure": "user.test", "version": 1, "parameters": {}, "model": model})
    kb.finish_run(run)
    grounds = Grounds(kb)
    assert not any(s.source.startswith("run:") for s in grounds.sentences)
    assert {s.source.partition(":")[0] for s in grounds.sentences} == {"node", "work"}


def test_content_words_are_what_a_question_is_about() -> None:
    assert content_words("And what about the logit lens, then?") == ["logit", "lens"]
    assert content_words("Why?") == []


def test_overlap_weighs_rare_words(kb: km.KnowledgeBase) -> None:
    grounds = Grounds(kb, shipped_sentences())
    known, best = grounds.overlap(["overshadowing", "zebra"])
    assert 0.0 < known < 1.0
    assert best > 0.0
    assert grounds.overlap([]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("said", "grounded"),
    [
        ("The lens reads a layer through the unembedding.", True),
        ("It was found in 12 layers.", False),  # a figure the sentence lacks
        ("Bananas grow on tall tropical plants.", False),
        ("A lens is a lens.", False),  # the question's words alone
        ("", False),
    ],
)
def test_an_answer_must_say_what_its_sentence_says(said: str, grounded: bool) -> None:
    sentence = "The logit lens reads an inner layer through the unembedding of the model."
    assert is_grounded(said, "What is a lens?", sentence) is grounded


def test_bad_arguments(kb: km.KnowledgeBase, talk: Conversation) -> None:
    with pytest.raises(km.ArgumentError, match="decoder"):
        chat(kb, decoder="beam")  # type: ignore[arg-type]
    with pytest.raises(km.ArgumentError, match="nothing was chosen"):
        talk.why()
    talk.ask("What is knowledge editing?")
    with pytest.raises(km.ArgumentError, match="BM25"):
        talk.why()


def test_the_shipped_selector_says_why(kb: km.KnowledgeBase) -> None:
    with chat(kb) as talk:
        talk.ask("What is knowledge editing?")
        talk.ask("And what speaks against it?")
        why = talk.why()
    assert {"score", "context", "difference", "earlier_1"} <= set(why.names)
    assert len(why) == len(talk.replies[-1].candidates)


def test_a_notebook_shows_what_was_said(kb: km.KnowledgeBase) -> None:
    talk = chat(kb, selector=BM25())
    assert "Nothing was asked yet" in talk._repr_html_()
    reply = talk.ask("What is <b>knowledge</b> overshadowing?")
    talk.ask("Which wine goes with salmon?")
    shown = talk._repr_html_()
    assert "&lt;b&gt;knowledge&lt;/b&gt;" in shown and "<b>knowledge" not in shown
    assert reply.sentence is not None and reply.source in shown
    assert f"chosen from {len(reply.candidates)} sentences" in shown
    assert shown.count("<details>") == 1  # what was refused rests on nothing
    assert "Nothing in this knowledge base fits" in shown


def test_the_command_works_in_a_pipe(tmp_path: Path) -> None:
    lines = [
        "What is knowledge overshadowing?", ":why", ":candidates", ":bogus", "", "And why?",
        f":graph {tmp_path / 'path.svg'}", ":quit", "never read",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "km", "dialog", str(tmp_path / "pipe.db"), "--model", "none"],
        input="\n".join(lines), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("km>  ") == 2
    assert "earlier_1" in done.stdout  # :why
    assert "... and " in done.stdout  # :candidates, of which the first are shown
    assert "never read" not in done.stdout + done.stderr
    assert ":bogus" in done.stderr
    assert (tmp_path / "path.svg").read_text(encoding="utf-8").startswith("<svg")
