"""Encoders before any task: their shapes, the training loop, the objectives, and probes of the result.

Read `objectives` first (each loss as a function of tensors, then what it reads step by step), `options` (the
registry) and `training` (the loop).
"""

from importlib import import_module

_CHECKS = ("check_exchange",)  # properties of the code that the ledger calls by these names


def __getattr__(name: str):
    """A check from `objectives`, whose import takes seconds, when it is asked for."""
    if name in _CHECKS:
        return getattr(import_module("xltlib.pretraining.objectives"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
