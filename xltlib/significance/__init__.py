"""Whether a difference between two systems holds for other seeds and examples, and how honest the tests are.

Read `tests` first (difference, interaction, trend), then `honesty` (the tests on simulated
studies).
"""
