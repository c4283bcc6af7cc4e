"""ctxext extends the context window of pretrained decoder checkpoints.

The functions here are the commands of the same name, with the same defaults; each returns a typed
result whose `to_dict()` is the command's JSON document. Nothing is imported before it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxext.api.demo import demo
    from ctxext.api.extend import extend
    from ctxext.api.fertility import fertility
    from ctxext.api.finetune import finetune
    from ctxext.api.harness import harness
    from ctxext.api.inspect import inspect
    from ctxext.api.merge import merge
    from ctxext.api.perplexity import perplexity
    from ctxext.api.push import push
    from ctxext.api.report import make_report
    from ctxext.api.retrieval import retrieval
    from ctxext.api.train_base import train_base
    from ctxext.errors import BadInput, CtxextError
    from ctxext.methods import METHODS

_HOME = {
    "BadInput": "errors",
    "CtxextError": "errors",
    "METHODS": "methods",
    "demo": "api.demo",
    "extend": "api.extend",
    "fertility": "api.fertility",
    "finetune": "api.finetune",
    "harness": "api.harness",
    "inspect": "api.inspect",
    "make_report": "api.report",
    "merge": "api.merge",
    "perplexity": "api.perplexity",
    "push": "api.push",
    "retrieval": "api.retrieval",
    "train_base": "api.train_base",
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


def __dir__() -> list[str]:
    return sorted(__all__)
