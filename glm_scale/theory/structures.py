"""Structures: the sparsity of A and B that a mixer's spelling stands for, and what it costs.

A is always a causal band: its diagonal, a window, or everything. B is a pattern of `glm_kernels`, or empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glm_kernels.patterns import Offsets, Pattern, parse_pattern
from glm_kernels.patterns.growth import PatternError, pointer

_INPUT_MIXINGS = "attention, local:w"
_KNOWN = f"{_INPUT_MIXINGS}, ssm, window:w, dense, lattice:f, offsets:f"


@dataclass(frozen=True)
class Structure:
    """The sparsity of A and B, per head.

    `input_width` is the width of A's band, the row itself included: 1 for a diagonal A, None for a dense one.
    `pattern` says where B is not zero, None if it is nowhere. With `state_expansion` the recurrence carries a matrix
    of key_dim × value_dim numbers instead of one output row (the first-order SSM).
    """

    spelling: str
    input_width: int | None
    pattern: Pattern | None
    state_expansion: bool = False

    def __str__(self) -> str:
        return self.spelling

    @property
    def mixes_inputs(self) -> bool:
        """Whether A is more than its diagonal."""
        return self.input_width != 1

    def band(self, length: int) -> int:
        """The width of A's band in a document of `length` rows."""
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
        """int64 `[length]`: how many rows before it each row reads, inputs through A and outputs through B."""
        return self.input_entries(length) - 1 + self.output_entries(length)

    def cache_rows(self, length: int, key_dim: int) -> int:
        """The most rows a decoder holds at any time while it reads `length` tokens.

        A row is a key and a value (or output). The SSM's state counts as `key_dim` rows, each of a value alone.
        """
        held = self.band(length + 1) - 1
        if self.state_expansion:
            return held + key_dim
        if isinstance(self.pattern, Offsets):
            return held + length
        # The rows alive once i tokens are seen are those that row i reads.
        return held + int(self.output_entries(length + 1).max())

    def flops_per_token(self, length: int, key_dim: int, value_dim: int) -> float:
        """Forward FLOPs of one token and head given q, k and v, the mean over a document of `length` rows.

        An entry of A or B costs 2·key_dim for its score and 2·value_dim for its share of the weighted sum; a diagonal A
        costs nothing. The SSM's state costs 4·key_dim·value_dim: outer product and read-out. Two FLOPs a multiply–add;
        projections, exponentials, decays and what a kernel spends on masked tiles are not counted.
        """
        mixing = float(self.input_entries(length).mean()) if self.mixes_inputs else 0.0
        if self.state_expansion:
            return 2 * (key_dim + value_dim) * mixing + 4 * key_dim * value_dim
        return 2 * (key_dim + value_dim) * (mixing + float(self.output_entries(length).mean()))


def _input_width(text: str, spelling: str, column: int) -> int | None:
    """The band of `attention` or `local:w`."""
    name, _, argument = text.partition(":")
    if text == "attention":
        return None
    if name == "attention":
        raise PatternError(f"{spelling!r}: attention takes no argument\n{pointer(spelling, column + len(name))}")
    if not argument.isdecimal() or int(argument) < 1:
        raise PatternError(
            f"{spelling!r}: local needs a whole number of rows ≥ 1, the row itself included, as in local:64\n"
            + pointer(spelling, column + len(name))
        )
    return int(argument)


def _recurrence(text: str, spelling: str) -> tuple[Pattern, bool]:
    """B's pattern and whether it is the SSM's."""
    if text == "ssm":
        return parse_pattern("window:1"), True
    if text.partition(":")[0].strip() in ("window", "dense", "lattice", "offsets"):
        return parse_pattern(text), False
    raise PatternError(
        f"{spelling!r}: unknown structure {text!r}; known are {_KNOWN}, and an input mixing in front of a "
        "recurrence, as in 'local:128 > lattice:2^k'"
    )


def parse_structure(spelling: str) -> Structure:
    """The structure of a mixer's spelling: `attention`, `local:64`, `ssm`, any pattern, `local:128 > lattice:2^k`.

    Raises PatternError that names the spelling and what is allowed.
    """
    text = spelling.strip()
    front, composed, back = (part.strip() for part in text.partition(">"))
    is_input_mixing = front.partition(":")[0] in ("attention", "local")
    if composed and not is_input_mixing:
        raise PatternError(f"{spelling!r}: only {_INPUT_MIXINGS} can stand before '>', not {front!r}")
    if not is_input_mixing:
        pattern, state = _recurrence(front, spelling)
        return Structure("ssm" if state else str(pattern), 1, pattern, state)
    width = _input_width(front, spelling, spelling.index(front))
    name = "attention" if width is None else f"local:{width}"
    if not composed:
        return Structure(name, width, None)
    pattern, state = _recurrence(back, spelling)
    return Structure(f"{name} > {'ssm' if state else pattern}", width, pattern, state)
