"""Which words of two sentences translate each other: the fast_align model, and links from encoder states.

Read `aligner` first (the model from training to decoding), then `links` (Pharaoh files, gold links, AER).
"""
