"""km measures what a language model knows, beside baselines that give the figures a meaning.

>>> import km
>>> model = km.load()                                    # doctest: +SKIP
>>> recall = km.memorization(model, km.datasets.facts("all"))  # doctest: +SKIP

Names are loaded on first use: ``import km`` itself loads neither numpy nor the compiled modules.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from km import datasets as datasets
    from km import dialog as dialog
    from km import draw as draw
    from km import ledger as ledger
    from km import loss as loss
    from km import overshadow as overshadow
    from km import plot as plot
    from km import schedules as schedules
    from km import scores as scores
    from km import stats as stats
    from km import studies as studies
    from km._km import Context as Context
    from km.affine_lens import AffineLens as AffineLens
    from km.affine_lens import AffineLensEvaluation as AffineLensEvaluation
    from km.attribution import LogitAttribution as LogitAttribution
    from km.attribution import logit_attribution as logit_attribution
    from km.causal_tracing import CausalTrace as CausalTrace
    from km.causal_tracing import causal_trace as causal_trace
    from km.circuit_pairs import CircuitTransfer as CircuitTransfer
    from km.circuit_pairs import circuit_transfer as circuit_transfer
    from km.circuits import KnowledgeCircuit as KnowledgeCircuit
    from km.circuits import knowledge_circuit as knowledge_circuit
    from km.comparison import Comparison as Comparison
    from km.comparison import compare as compare
    from km.comparison import power as power
    from km.conflict_measure import Conflict as Conflict
    from km.conflict_measure import conflict as conflict
    from km.contrast_decoders import CAD as CAD
    from km.contrast_decoders import AdaCAD as AdaCAD
    from km.contrast_decoders import CoDa as CoDa
    from km.contrast_decoders import ContrastiveDecoding as ContrastiveDecoding
    from km.contrast_decoders import DoLa as DoLa
    from km.datasets import validate as validate
    from km.decoders import Beam as Beam
    from km.decoders import Choice as Choice
    from km.decoders import Decoder as Decoder
    from km.decoders import Greedy as Greedy
    from km.decoders import Sample as Sample
    from km.dialog import DiffKS as DiffKS
    from km.diff_models import Diff as Diff
    from km.diff_models import diff as diff
    from km.diff_models import diff_nulls as diff_nulls
    from km.errors import ArgumentError as ArgumentError
    from km.errors import BusyError as BusyError
    from km.errors import CancelledError as CancelledError
    from km.errors import Error as Error
    from km.errors import FormatError as FormatError
    from km.errors import NotFoundError as NotFoundError
    from km.errors import NumericError as NumericError
    from km.errors import ShapeError as ShapeError
    from km.errors import UnsupportedError as UnsupportedError
    from km.examples import Example as Example
    from km.generate import Generation as Generation
    from km.gradients import Gradients as Gradients
    from km.kb import ConflictWarning as ConflictWarning
    from km.kb import KnowledgeBase as KnowledgeBase
    from km.lens_batch import LogitLens as LogitLens
    from km.lens_batch import logit_lens as logit_lens
    from km.loading import load as load
    from km.loading import models as models
    from km.lora import LoRA as LoRA
    from km.lora import merge_adapters as merge_adapters
    from km.model import Model as Model
    from km.neurons import KnowledgeNeurons as KnowledgeNeurons
    from km.neurons import knowledge_neurons as knowledge_neurons
    from km.optimizers import SGD as SGD
    from km.optimizers import AdamW as AdamW
    from km.patch_sweep import ActivationPatching as ActivationPatching
    from km.patch_sweep import activation_patching as activation_patching
    from km.patching import Patch as Patch
    from km.patching import patch as patch
    from km.picture import Picture as Picture
    from km.priming_forecast import Forecast as Forecast
    from km.priming_forecast import forecast as forecast
    from km.priming_measure import Priming as Priming
    from km.priming_measure import priming as priming
    from km.prompts import Span as Span
    from km.prompts import span as span
    from km.pruning import IgnoreTopK as IgnoreTopK
    from km.pruning import KeepTopK as KeepTopK
    from km.pruning import Slice as Slice
    from km.recall import Recall as Recall
    from km.recall import memorization as memorization
    from km.result import Result as Result
    from km.score import ScoreResult as ScoreResult
    from km.session import Session as Session
    from km.steer import Steering as Steering
    from km.steer import steering as steering
    from km.stepping import SteppingStones as SteppingStones
    from km.stepping import stepping_stones as stepping_stones
    from km.table import Table as Table
    from km.texts import ExposureResult as ExposureResult
    from km.texts import Verbatim as Verbatim
    from km.texts import exposure as exposure
    from km.texts import verbatim as verbatim
    from km.tokenizer_training import train_tokenizer as train_tokenizer
    from km.trace import Trace as Trace
    from km.trace import TracePlan as TracePlan
    from km.trainable import Snapshot as Snapshot
    from km.trainable import TrainableModel as TrainableModel
    from km.trainer import Step as Step
    from km.trainer import Trainer as Trainer
    from km.training import Training as Training
    from km.training import TrainingState as TrainingState
    from km.training import train as train
    from km.verification import Verification as Verification
    from km.verification import verify as verify

    __version__: str

# Where each public name lives; a name whose place is "" is a submodule.
_PLACES = {
    "ActivationPatching": "patch_sweep",
    "AdaCAD": "contrast_decoders",
    "AdamW": "optimizers",
    "AffineLens": "affine_lens",
    "AffineLensEvaluation": "affine_lens",
    "ArgumentError": "errors",
    "Beam": "decoders",
    "BusyError": "errors",
    "CAD": "contrast_decoders",
    "CancelledError": "errors",
    "CausalTrace": "causal_tracing",
    "Choice": "decoders",
    "CircuitTransfer": "circuit_pairs",
    "CoDa": "contrast_decoders",
    "Comparison": "comparison",
    "Conflict": "conflict_measure",
    "ConflictWarning": "kb",
    "Context": "_km",
    "ContrastiveDecoding": "contrast_decoders",
    "Decoder": "decoders",
    "Diff": "diff_models",
    "DiffKS": "dialog",
    "DoLa": "contrast_decoders",
    "Error": "errors",
    "Example": "examples",
    "ExposureResult": "texts",
    "Forecast": "priming_forecast",
    "FormatError": "errors",
    "Generation": "generate",
    "Gradients": "gradients",
    "Greedy": "decoders",
    "IgnoreTopK": "pruning",
    "KeepTopK": "pruning",
    "KnowledgeBase": "kb",
    "KnowledgeCircuit": "circuits",
    "KnowledgeNeurons": "neurons",
    "LoRA": "lora",
    "LogitAttribution": "attribution",
    "LogitLens": "lens_batch",
    "Model": "model",
    "NotFoundError": "errors",
    "NumericError": "errors",
    "Patch": "patching",
    "Picture": "picture",
    "Priming": "priming_measure",
    "Recall": "recall",
    "Result": "result",
    "SGD": "optimizers",
    "Sample": "decoders",
    "ScoreResult": "score",
    "Session": "session",
    "ShapeError": "errors",
    "Slice": "pruning",
    "Snapshot": "trainable",
    "Span": "prompts",
    "Steering": "steer",
    "Step": "trainer",
    "SteppingStones": "stepping",
    "Table": "table",
    "Trace": "trace",
    "TracePlan": "trace",
    "TrainableModel": "trainable",
    "Trainer": "trainer",
    "Training": "training",
    "TrainingState": "training",
    "UnsupportedError": "errors",
    "Verbatim": "texts",
    "Verification": "verification",
    "activation_patching": "patch_sweep",
    "causal_trace": "causal_tracing",
    "circuit_transfer": "circuit_pairs",
    "compare": "comparison",
    "conflict": "conflict_measure",
    "datasets": "",
    "dialog": "",
    "diff": "diff_models",
    "diff_nulls": "diff_models",
    "draw": "",
    "exposure": "texts",
    "forecast": "priming_forecast",
    "knowledge_circuit": "circuits",
    "knowledge_neurons": "neurons",
    "ledger": "",
    "load": "loading",
    "logit_attribution": "attribution",
    "logit_lens": "lens_batch",
    "loss": "",
    "memorization": "recall",
    "merge_adapters": "lora",
    "models": "loading",
    "overshadow": "",
    "patch": "patching",
    "plot": "",
    "power": "comparison",
    "priming": "priming_measure",
    "schedules": "",
    "scores": "",
    "span": "prompts",
    "stats": "",
    "steering": "steer",
    "train": "training",
    "stepping_stones": "stepping",
    "studies": "",
    "train_tokenizer": "tokenizer_training",
    "validate": "datasets",
    "verbatim": "texts",
    "verify": "verification",
}

__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str) -> object:
    """Import the module a name lives in, once."""
    import importlib

    if name == "__version__":
        value: object = importlib.import_module("km._km").version()
    elif name in _PLACES:
        place = _PLACES[name]
        module = importlib.import_module(f"km.{place or name}")
        value = getattr(module, name) if place else module
    else:
        raise AttributeError(f"module 'km' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
