"""Encoders before any task: their shapes, the training loop, the objectives, and probes of the result.

Read `objectives` first (each loss as a function of tensors, then what it reads step by step), `options` (the
registry) and `training` (the loop).
"""


def __getattr__(name: str):
    """The check that the ledger calls by this name, from `objectives`, whose import takes seconds."""
    if name == "check_exchange":
        from xltlib.pretraining.objectives import check_exchange

        return check_exchange
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
