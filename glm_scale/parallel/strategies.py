"""The names of the ways to spread the rows of a sequence over ranks. Imports nothing."""

from typing import Literal

SequenceStrategy = Literal["scan", "ring", "a2a"]
"""All-gather of boundary summaries, boundary rows handed from rank to rank, all-to-all between sequence and heads."""
