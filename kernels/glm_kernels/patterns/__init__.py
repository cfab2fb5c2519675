"""Patterns: which past tokens a token may read, and which cache slot holds each of them.

    pattern    the patterns themselves (`Window`, `Dense`, `Lattice`, `Offsets`) and their spellings
    growth     the grammar of the f in `lattice:f` and `offsets:f`
    slots      tables of slots and readers of a pattern on a device, for kernels and states

Imports nothing of this package but `device_cache`.
"""

from glm_kernels.patterns.growth import PatternError
from glm_kernels.patterns.pattern import Dense, Lattice, Lifetime, Offsets, Pattern, Window, parse_pattern

__all__ = ["Dense", "Lattice", "Lifetime", "Offsets", "Pattern", "PatternError", "Window", "parse_pattern"]
