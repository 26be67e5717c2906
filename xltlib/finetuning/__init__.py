"""From an encoder to predictions on a task in every language, and the methods that change how it is tuned.

Read `methods` first (options and losses), then `robust` and `salt` (what they do to the examples) and
`task_builders`.
"""

from importlib import import_module

_CHECKS = ("check_mixup", "check_restriction")  # properties of the code that the ledger calls by these names


def __getattr__(name: str):
    """A check from `methods`, whose import takes seconds, when it is asked for."""
    if name in _CHECKS:
        return getattr(import_module("xltlib.finetuning.methods"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
