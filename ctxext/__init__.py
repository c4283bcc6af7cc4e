"""ctxext extends the context window of pretrained decoder checkpoints.

The functions here are the commands of the same name, with the same defaults; each returns a typed
result whose `to_dict()` is the command's JSON document. Nothing is imported before it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxext.errors import BadInput, CtxextError
    from ctxext.methods import METHODS
    from ctxext.pipeline.base import train_base
    from ctxext.pipeline.demo import demo
    from ctxext.pipeline.eval_harness import harness
    from ctxext.pipeline.eval_ppl import perplexity
    from ctxext.pipeline.eval_retrieval import retrieval
    from ctxext.pipeline.extend import extend
    from ctxext.pipeline.fertility import fertility
    from ctxext.pipeline.finetune import finetune
    from ctxext.pipeline.inspect import inspect
    from ctxext.pipeline.merge import merge
    from ctxext.pipeline.push import push
    from ctxext.pipeline.report import make_report

_HOME = {
    "BadInput": "errors",
    "CtxextError": "errors",
    "METHODS": "methods",
    "demo": "pipeline.demo",
    "extend": "pipeline.extend",
    "fertility": "pipeline.fertility",
    "finetune": "pipeline.finetune",
    "harness": "pipeline.eval_harness",
    "inspect": "pipeline.inspect",
    "make_report": "pipeline.report",
    "merge": "pipeline.merge",
    "perplexity": "pipeline.eval_ppl",
    "push": "pipeline.push",
    "retrieval": "pipeline.eval_retrieval",
    "train_base": "pipeline.base",
}
__all__ = [
    "METHODS",
    "BadInput",
    "CtxextError",
    "demo",
    "extend",
    "fertility",
    "finetune",
    "harness",
    "inspect",
    "make_report",
    "merge",
    "perplexity",
    "push",
    "retrieval",
    "train_base",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ctxext' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"ctxext.{_HOME[name]}"), name)
