"""ctxext extends the context window of pretrained decoder checkpoints.

The functions here are the commands of the same name, with the same defaults; each returns a typed
result whose `to_dict()` is the command's JSON document. Nothing is imported before it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `as` says to type checkers that a name is meant for others
    from ctxext.api.demo import demo as demo
    from ctxext.api.extend import ExtendResult as ExtendResult, extend as extend
    from ctxext.api.fertility import fertility as fertility
    from ctxext.api.finetune import FinetuneResult as FinetuneResult, finetune as finetune
    from ctxext.api.finetune_plan import (
        FinetunePlan as FinetunePlan,
        plan_finetune as plan_finetune,
    )
    from ctxext.api.harness import harness as harness
    from ctxext.api.inspect import InspectResult as InspectResult, inspect as inspect
    from ctxext.api.inspect_difference import (
        DifferenceResult as DifferenceResult,
        inspect_difference as inspect_difference,
    )
    from ctxext.api.lab import run_lab as run_lab
    from ctxext.api.merge import MergeResult as MergeResult, merge as merge
    from ctxext.api.methods import MethodsResult as MethodsResult, list_methods as list_methods
    from ctxext.api.perplexity import KeyTokens as KeyTokens, perplexity as perplexity
    from ctxext.api.push import PushResult as PushResult, push as push
    from ctxext.api.report import ReportResult as ReportResult, make_report as make_report
    from ctxext.api.retrieval import retrieval as retrieval
    from ctxext.api.train_base import BaseResult as BaseResult, train_base as train_base
    from ctxext.errors import BadInput as BadInput, CtxextError as CtxextError
    from ctxext.methods import METHODS as METHODS
    from ctxext.runs.recipe.config import (
        DataConfig as DataConfig,
        FinetuneConfig as FinetuneConfig,
        LoraConfig as LoraConfig,
        ParallelConfig as ParallelConfig,
        SourceConfig as SourceConfig,
        TrainConfig as TrainConfig,
    )
    from ctxext.runs.recipe.extend_config import ExtendConfig as ExtendConfig
    from ctxext.runs.recipe.memory_config import MemoryConfig as MemoryConfig
    from ctxext.runs.recipe.validation_config import ValidationConfig as ValidationConfig
    from ctxext.runs.rows.demo import DemoResult as DemoResult
    from ctxext.runs.rows.fertility import FertilityResult as FertilityResult
    from ctxext.runs.rows.harness import HarnessResult as HarnessResult
    from ctxext.runs.rows.lab import LabResult as LabResult
    from ctxext.runs.rows.perplexity import PerplexityResult as PerplexityResult
    from ctxext.runs.rows.retrieval import RetrievalResult as RetrievalResult

_NAMES = {
    "api.demo": "demo",
    "api.extend": "extend ExtendResult",
    "api.fertility": "fertility",
    "api.finetune": "finetune FinetuneResult",
    "api.finetune_plan": "plan_finetune FinetunePlan",
    "api.harness": "harness",
    "api.inspect": "inspect InspectResult",
    "api.inspect_difference": "inspect_difference DifferenceResult",
    "api.lab": "run_lab",
    "api.merge": "merge MergeResult",
    "api.methods": "list_methods MethodsResult",
    "api.perplexity": "perplexity KeyTokens",
    "api.push": "push PushResult",
    "api.report": "make_report ReportResult",
    "api.retrieval": "retrieval",
    "api.train_base": "train_base BaseResult",
    "errors": "BadInput CtxextError",
    "methods": "METHODS",
    "runs.recipe.config": "DataConfig FinetuneConfig LoraConfig ParallelConfig SourceConfig "
    "TrainConfig",
    "runs.recipe.extend_config": "ExtendConfig",
    "runs.recipe.memory_config": "MemoryConfig",
    "runs.recipe.validation_config": "ValidationConfig",
    "runs.rows.demo": "DemoResult",
    "runs.rows.fertility": "FertilityResult",
    "runs.rows.harness": "HarnessResult",
    "runs.rows.lab": "LabResult",
    "runs.rows.perplexity": "PerplexityResult",
    "runs.rows.retrieval": "RetrievalResult",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ctxext")
    if name not in _HOME:
        raise AttributeError(f"module 'ctxext' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"ctxext.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
