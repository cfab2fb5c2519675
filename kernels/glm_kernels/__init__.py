"""Patterns and operators of structured generalized linear recurrences. Imports torch (and triton) only."""
