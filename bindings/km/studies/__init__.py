"""Studies: many measurements of one kind, analysed together and said in plain words."""

from __future__ import annotations

from km.studies.priming_result import PrimingStudy
from km.studies.priming_study import priming

__all__ = ["PrimingStudy", "priming"]
