"""Grounded dialogue: data, and selectors of the sentence that an answer should rest on.

>>> from km import dialog
>>> data = dialog.read_dialogues("grounded-dialog/data/ask_the_survey")     # doctest: +SKIP
>>> selector = dialog.DiffKS().fit(data.split("train"), data.split("valid"))  # doctest: +SKIP
"""

from __future__ import annotations

from km.dialog.conversation import Conversation, Reply, chat, shipped_selector
from km.dialog.dialogues import (
    NO_KNOWLEDGE,
    Dialogue,
    DialogueSet,
    DialogueTurn,
    Sentence,
)
from km.dialog.diffks import DiffKS, Sampling
from km.dialog.evaluation import SelectionEvaluation
from km.dialog.other_readers import read_flodial, read_kdconv
from km.dialog.postks import PostKS
from km.dialog.readers import read_dialogues, read_unified_dialogues
from km.dialog.selectors import (
    BM25,
    MeanPooled,
    Random,
    ResponseLikelihood,
    SameAsLast,
    Selection,
    Selector,
    TfIdf,
)
from km.dialog.vocabulary import Vocabulary, tokenize
from km.dialog.wizard_readers import read_holle, read_wizard
from km.dialog.writer import write_dialogues

__all__ = [
    "BM25",
    "NO_KNOWLEDGE",
    "Conversation",
    "Dialogue",
    "DialogueSet",
    "DialogueTurn",
    "DiffKS",
    "MeanPooled",
    "PostKS",
    "Random",
    "Reply",
    "ResponseLikelihood",
    "SameAsLast",
    "Sampling",
    "Selection",
    "SelectionEvaluation",
    "Selector",
    "Sentence",
    "TfIdf",
    "Vocabulary",
    "chat",
    "read_dialogues",
    "read_flodial",
    "read_holle",
    "read_kdconv",
    "read_unified_dialogues",
    "read_wizard",
    "shipped_selector",
    "tokenize",
    "write_dialogues",
]
