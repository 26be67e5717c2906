"""Which words of two sentences translate each other: the fast_align model, and links from encoder states.

Read `aligner` first (settings, the model, training), then `links` (files, AER, symmetrisation).
"""

# How two directions are combined; here, so that the command line can name them without importing NumPy.
HEURISTICS = ("intersect", "union", "grow-diag", "grow-diag-final", "grow-diag-final-and")
