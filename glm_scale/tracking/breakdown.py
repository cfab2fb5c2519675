"""A loss taken apart by which tokens it is of, and its file in a run directory, `breakdown.json`.

Every predicted token is in one cell of each of these partitions: by the number of tokens of its document that are
before it; by what kind it is, for repeated ones also by the distance to the last occurrence; and by the data set that
its document is of, where there are several. Names of cells sort:

    position/0000016        16 to 31 tokens of its document before it
    kind/new                the bigram that it ends is new in its document
    distance/bigram/…       the bigram is a repetition, the 4-gram is not; so many tokens after the last time
    distance/4gram/…        the 4-gram is a repetition
    source/books/loss       the document is of the data set books

Losses of neighbouring tokens have much in common, so a standard error that took each for a draw of its own would be
too small. The sums are therefore kept by blocks of consecutive sequences, and errors are those of the ratio of two sums
over blocks; two models that have read the same blocks are compared block by block, which leaves out what is hard or
easy in the text for both (Miller, "Adding Error Bars to Evals", 2024, arXiv 2411.00640). How much another seed would
change is not in these errors.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from glm_data.files import write_atomically

__all__ = ["BLOCKS", "KINDS", "Breakdown", "Group", "buckets", "cell_names", "source_cell", "source_of_cell"]

BLOCKS = 256
"""The most that there are: enough for errors that are right to 5 %, and for a file below a megabyte."""

POSITION, NEW, SOURCE = "position/", "kind/new", "source/"
BIGRAM, FOURGRAM = "distance/bigram/", "distance/4gram/"
KINDS = {
    NEW: (NEW,),
    "kind/repeated": (BIGRAM, FOURGRAM),
    "kind/repeated-bigram": (BIGRAM,),
    "kind/repeated-4gram": (FOURGRAM,),
}  # fmt: skip
"""What kinds are called, and how the names of their cells begin."""

_logger = logging.getLogger(__name__)


def buckets(sequence_length: int) -> list[str]:
    """The names of the powers of two that numbers of tokens from 1 to `sequence_length` are sorted by."""
    return [f"{1 << power:07d}" for power in range(sequence_length.bit_length())]


def cell_names(sequence_length: int, sources: Sequence[str] = ()) -> list[str]:
    """All cells in the order of a breakdown's columns."""
    bounds = buckets(sequence_length)
    kinds = [NEW, *(BIGRAM + x for x in bounds), *(FOURGRAM + x for x in bounds)]
    return [*(POSITION + x for x in bounds), *kinds, *map(source_cell, sources)]


def source_cell(source: str, number: str = "loss") -> str:
    """The name of a data set's cell, and of a number of it among metrics."""
    return f"{SOURCE}{source}/{number}"


def source_of_cell(name: str) -> str | None:
    """The data set of a cell or a metric; None if it is of none."""
    return name.removeprefix(SOURCE).rpartition("/")[0] if name.startswith(SOURCE) else None


@dataclass(frozen=True)
class Group:
    """Some of the tokens: how many there are in each block, and their summed loss in nats; arrays `[blocks]`."""

    tokens: np.ndarray
    nats: np.ndarray

    @property
    def count(self) -> int:
        """Tokens of all blocks."""
        return int(self.tokens.sum())

    @property
    def loss(self) -> float:
        """Mean loss of a token in nats; NaN where there is none."""
        return float(self.nats.sum()) / self.count if self.count else math.nan

    @property
    def error(self) -> float:
        """Standard error of the loss; NaN where the tokens are of fewer than two blocks."""
        filled = int((self.tokens > 0).sum())
        if filled < 2:
            return math.nan
        residuals = self.nats - self.loss * self.tokens
        return math.sqrt(filled / (filled - 1) * float(np.square(residuals).sum())) / self.count

    def __sub__(self, other: Group) -> Group:
        """How much more loss the same tokens have: its mean and the error of that are those of the difference."""
        return Group(self.tokens, self.nats - other.nats)


@dataclass(frozen=True)
class Breakdown:
    """Of `sequences` sequences of a length: predicted tokens, int64, and their summed losses in nats, float64, both
    `[blocks, cells]`; and where they are of several data sets, `sources`, the bytes of text of each."""

    sequence_length: int
    sequences: int
    tokens: np.ndarray
    nats: np.ndarray
    sources: tuple[str, ...] = ()
    source_bytes: tuple[int, ...] = ()

    @cached_property
    def cells(self) -> list[str]:
        """The names of the columns."""
        return cell_names(self.sequence_length, self.sources)

    def group(self, *beginnings: str) -> Group:
        """The tokens of all cells whose names begin so."""
        chosen = [number for number, name in enumerate(self.cells) if name.startswith(beginnings)]
        return Group(self.tokens[:, chosen].sum(1), self.nats[:, chosen].sum(1))

    def is_of_same_tokens(self, other: Breakdown) -> bool:
        """Whether two models were measured on the same text, as far as numbers of tokens can tell."""
        return self.sequence_length == other.sequence_length and np.array_equal(self.tokens, other.tokens)

    @property
    def whole(self) -> Group:
        """All tokens."""
        return self.group(POSITION)

    def groups(self) -> dict[str, Group]:
        """Kinds and single cells by name, those that there are tokens of."""
        beginnings = {**KINDS, **{name: (name,) for name in self.cells}}
        groups = {name: self.group(*cells) for name, cells in beginnings.items()}
        return {name: group for name, group in groups.items() if group.count}

    def source_bits_per_byte(self) -> dict[str, float]:
        """Of each data set that there is text of, by its name."""
        return {
            source: float(self.group(source_cell(source)).nats.sum()) / math.log(2) / size
            for source, size in zip(self.sources, self.source_bytes, strict=True)
            if size
        }

    def values(self) -> dict[str, float]:
        """The mean losses of `groups` in nats, and bits per byte of data sets, as metrics are called."""
        losses = {name: group.loss for name, group in self.groups().items()}
        bits = {source_cell(source, "bits_per_byte"): x for source, x in self.source_bits_per_byte().items()}
        return losses | bits

    def write(self, path: Path, step: int) -> None:
        """Write the file, whole or not at all; `step`: of the run that was measured. Raises OSError."""
        content = _File(
            step=step,
            sequence_length=self.sequence_length,
            sequences=self.sequences,
            cells=self.cells,
            tokens=self.tokens.tolist(),
            nats=[[x if math.isfinite(x) else None for x in block] for block in self.nats.tolist()],
            sources=list(self.sources),
            source_bytes=list(self.source_bytes),
        )
        write_atomically(path, content.model_dump_json() + "\n")

    @classmethod
    def read(cls, path: Path, step: int) -> Self | None:
        """What the file says of a run at that step; None if there is no such file, or it is of another step.

        One that is damaged, or that another version has written, is named in the log.
        """
        try:
            content = _File.model_validate_json(path.read_bytes())
            if content.step != step:
                return None
            return cls._of(content)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _logger.warning("%s is left out, it cannot be read: %s", path, " ".join(str(error).split()))
            return None

    @classmethod
    def _of(cls, content: _File) -> Self:
        sources, sizes = tuple(content.sources), tuple(content.source_bytes)
        if content.cells != cell_names(content.sequence_length, sources) or len(sources) != len(sizes):
            raise ValueError("its cells are not those of this version")
        tokens, nats = np.array(content.tokens, np.int64), np.array(content.nats, np.float64)
        if not tokens.shape == nats.shape == (len(content.tokens), len(content.cells)):
            raise ValueError("its tables are not as wide as there are cells")
        return cls(content.sequence_length, content.sequences, tokens, nats, sources, sizes)


class _File(BaseModel):
    """breakdown.json: a line of `tokens` and of `nats` for each block, in the order of `cells`. null: not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    sequence_length: int
    sequences: int
    cells: list[str]
    tokens: list[list[int]]
    nats: list[list[float | None]]
    sources: list[str] = []
    source_bytes: list[int] = []
