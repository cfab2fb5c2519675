"""Structures: the sparsity of A and B in Y = (I − B)⁻¹ A X, and what follows from it alone: reads, cache, FLOPs.

A is always a causal band: its diagonal, a window, or everything. B is a pattern of `glm_kernels`, or empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glm_kernels.patterns import Dense, Lattice, Offsets, Pattern, Window


@dataclass(frozen=True)
class Structure:
    """The sparsity of A and B, per head.

    Attributes:
        spelling: of the mixer that has it.
        input_width: the width of A's band, the token itself included: 1 for a diagonal A, None for a dense one.
        pattern: where B is not zero; None if it is nowhere.
        state: the state expansion N of a recurrence that carries a matrix of N × value_dim numbers from token to token
            (an SSM); None if it carries outputs.
        state_flops: forward FLOPs of one token for each number of that state.
    """

    spelling: str
    input_width: int | None
    pattern: Pattern | None
    state: int | None = None
    state_flops: int = 4

    def __str__(self) -> str:
        return self.spelling

    @property
    def matrices(self) -> tuple[str, str]:
        """A and B in a word or two, for tables."""
        bands = {None: "dense", 1: "diag"}
        match self.pattern:
            case None:
                recurrence = "none"
            case Window(width=width):
                recurrence = f"band {width}"
            case Offsets():
                recurrence = "i−f(k)"
            case Dense():
                recurrence = "dense"
            case Lattice():
                recurrence = "lattice"
            case other:
                recurrence = str(other)
        return bands.get(self.input_width, f"band {self.input_width}"), recurrence

    @property
    def mixes_inputs(self) -> bool:
        """Whether A is more than its diagonal."""
        return self.input_width != 1

    def band(self, length: int) -> int:
        """The width of A's band in a document of `length` tokens."""
        return length if self.input_width is None else min(self.input_width, length)

    def input_entries(self, length: int) -> NDArray[np.int64]:
        """int64 `[length]`: entries of A that are not zero, in each row."""
        return np.minimum(np.arange(1, length + 1), self.band(length))

    def output_entries(self, length: int) -> NDArray[np.int64]:
        """int64 `[length]`: entries of B that are not zero, in each row."""
        if self.pattern is None:
            return np.zeros(length, dtype=np.int64)
        return self.pattern.read_counts(length).numpy()

    def reads(self, length: int) -> NDArray[np.int64]:
        """int64 `[length]`: how many tokens before it each token reads, inputs through A and outputs through B."""
        return self.input_entries(length) - 1 + self.output_entries(length)

    def cache_rows(self, length: int) -> int:
        """The most rows a decoder holds at any time while it reads `length` tokens.

        A row is a key and a value (or output). A state of N × value_dim counts as N rows, each of a value alone.
        """
        held = self.band(length + 1) - 1
        if self.state is not None:
            return held + self.state
        if self.pattern is None:
            return held
        if isinstance(self.pattern, Offsets):
            return held + length
        # What is live once i tokens are seen is what token i reads.
        return held + int(self.output_entries(length + 1).max())

    def flops_per_token(self, length: int, key_dim: int, value_dim: int) -> float:
        """Forward FLOPs of one token and head given q, k and v, the mean over a document of `length` tokens.

        An entry of A or B costs 2·key_dim for its score and 2·value_dim for its share of the weighted sum; a diagonal A
        costs nothing. An SSM's state costs 4·N·value_dim: outer product and read-out. Two FLOPs a multiply–add;
        projections, exponentials, decays and what a kernel spends on masked tiles are not counted.
        """
        mixing = float(self.input_entries(length).mean()) if self.mixes_inputs else 0.0
        if self.state is not None:
            return 2 * (key_dim + value_dim) * mixing + self.state_flops * self.state * value_dim
        return 2 * (key_dim + value_dim) * (mixing + float(self.output_entries(length).mean()))
