"""Pure scores: arrays in, numbers out, with log-probabilities or logits from any framework."""

from __future__ import annotations

from km.scores import conflict as conflict
from km.scores import decoding as decoding
from km.scores import interventions as interventions
from km.scores import memorization as memorization
from km.scores import overshadow as overshadow
from km.scores import priming as priming

__all__ = ["conflict", "decoding", "interventions", "memorization", "overshadow", "priming"]
