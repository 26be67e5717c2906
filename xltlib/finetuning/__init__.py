"""From an encoder to predictions on a task in every language, and the methods that change how it is tuned.

Read `methods` first (each one's loss, or what it makes of examples), then `salt` and `transfer`, the runs.
"""

from importlib import import_module

_CHECKS = ("check_mixup", "check_restriction")  # properties of the code that the ledger calls by these names


def __getattr__(name: str):
    """A check from `salt`, whose import takes seconds, when it is asked for."""
    if name in _CHECKS:
        return getattr(import_module("xltlib.finetuning.salt"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
