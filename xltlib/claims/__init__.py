"""From the ledger of statements and the scores of runs to verdicts.

Read `ledger` first (what a statement and its tests are), then `evaluate` and `verdicts`.
"""
