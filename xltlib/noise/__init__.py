"""Typing errors, replaced words and corrupted ids, and the open questions that are answered with them.

Read `typing` first, then `questions`.
"""
