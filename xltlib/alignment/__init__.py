"""Which words of two sentences translate each other: the fast_align model, and links from encoder states.

Read `aligner` first (settings, training, files), then `em` (the model) and `links` (AER, symmetrisation).
"""
