"""Studies: many measurements of one kind, analysed together and said in plain words."""

from __future__ import annotations

from km.studies.conflict_family import FamilyDesign as ConflictFamily
from km.studies.conflict_real import RealDesign as ConflictReal
from km.studies.conflict_result import ConflictStudy
from km.studies.conflict_study import conflict
from km.studies.conflict_synthetic import ConflictCorpus, conflict_corpus
from km.studies.decoders_cases import Case as DecoderCase
from km.studies.decoders_cases import Sizes as DecoderSizes
from km.studies.decoders_result import DecodersStudy, ModelDecoders
from km.studies.decoders_study import decoders
from km.studies.overshadow_design import OvershadowingDesign
from km.studies.overshadow_result import OvershadowingStudy
from km.studies.overshadow_study import overshadowing
from km.studies.priming_result import PrimingStudy
from km.studies.priming_study import priming

__all__ = [
    "ConflictCorpus",
    "ConflictFamily",
    "ConflictReal",
    "ConflictStudy",
    "DecoderCase",
    "DecoderSizes",
    "DecodersStudy",
    "ModelDecoders",
    "OvershadowingDesign",
    "OvershadowingStudy",
    "PrimingStudy",
    "conflict",
    "conflict_corpus",
    "decoders",
    "overshadowing",
    "priming",
]
