"""What there is to learn from: languages made by a grammar, corpora and test sets of the publishers.

Read `synthetic` first, then `tasks` (the table of published sets, the records of examples), `languages` (one
interface to both) and `text` (from text to ids, pairs and links).
"""
