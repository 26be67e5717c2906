"""From an encoder to predictions on a task in every language, and the methods that change how it is tuned.

Read `methods` first (each one's loss, or what it makes of examples), then `salt` and `transfer`, the runs.
"""


def __getattr__(name: str):
    """The checks that the ledger calls by these names, from `salt`, whose import takes seconds."""
    if name in ("check_mixup", "check_restriction"):
        from xltlib.finetuning import salt

        return getattr(salt, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
