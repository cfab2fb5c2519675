"""Random access to packed sequences: sequence i of a run is a pure function of (configuration, i).

The order has no state to save but one number. Sample i belongs to a source by the weights, to an epoch of that source
by its number of sequences, and to a sequence of that epoch by a plan that follows from (seed, source, epoch) and the
lengths of the documents; its tokens are read at recorded offsets. Any process on any number of ranks can compute any
sample.
"""

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from glm_data.errors import DataError, LimitError
from glm_data.held_out import remark_on
from glm_data.index import DatasetIndex, load_index
from glm_data.naming import distinct_names
from glm_data.open_files import OpenFiles
from glm_data.ordering import Interleave
from glm_data.packing import SequencePlan, count_sequences, plan_sequences
from glm_data.settings import OnResume, Settings
from glm_data.shards import EMPTY_LENGTH, SplitReader
from glm_data.tokenizers import Tokenizer, load_tokenizer
from glm_data.verify import tokenizer_problem

SplitName = Literal["train", "validation"]
NO_LABEL = -100  # what torch's cross entropy ignores
_PLANS_KEPT = 2  # per source: one epoch may still be read while the next begins


class SourceConfig(Settings):
    """A built data set and its share of the training samples, relative to the other weights."""

    path: Path
    weight: float = Field(default=1.0, gt=0)


class DataConfig(Settings):
    """What to read and how.

    Attributes:
        sources: data sets made by `glm-scale data build`, with the same tokenizer.
        sequence_length: tokens of a sequence.
        seed: of the training order.
        mask_documents: whether tokens see those of their own document alone, or all before them in the sequence, as
            plain transformers do. What is predicted is the same.
        workers: processes that prepare batches ahead of time; 0 prepares them in the calling process.
        on_bad_sample: "stop" at a damaged sample, or "skip": it becomes padding without labels, so that the
            order of everything else stays the same, and is counted.
    """

    sources: list[SourceConfig] = Field(min_length=1)
    sequence_length: int = Field(ge=2, lt=2**31)
    seed: int = Field(default=0, ge=0)
    mask_documents: bool = True
    workers: Annotated[int, OnResume.FREE] = Field(default=1, ge=0)
    on_bad_sample: Literal["stop", "skip"] = "stop"


@dataclass(frozen=True)
class PackedSequence:
    """One packed sequence of T tokens.

    Attributes:
        tokens: int64 `[T]`; padding at the end holds the end token.
        labels: int64 `[T]`: the next token of the same document, −100 where there is none.
        document_starts: int32 `[T]`: position in the sequence where each token's document (or piece, or padding)
            starts; 0 where documents are not masked.
        sample: global sample number.
        problems: one message for each piece that was skipped.
    """

    tokens: np.ndarray
    labels: np.ndarray
    document_starts: np.ndarray
    sample: int
    problems: tuple[str, ...] = ()


class Location(NamedTuple):
    """Where a sample comes from: the source, its epoch, and the sequence within the epoch."""

    source: int
    epoch: int
    sequence: int


class _Source:
    """One split of one data set and the plans of its epochs."""

    def __init__(self, config: DataConfig, number: int, split: SplitName, files: OpenFiles, verify: bool):
        self._config = config
        self._number = number
        self._shuffled = split == "train"
        path = config.sources[number].path
        self.index: DatasetIndex = load_index(path)
        if verify and (problem := tokenizer_problem(path, self.index)):
            raise DataError(f"{problem}. Restore it, or rebuild the data set.")
        self.reader = SplitReader(path, self.index, split, files=files, verify=verify)
        if not len(self.reader) and split == "train":
            raise DataError(
                f"{path}: the {split} split holds no documents. Build the data set from two documents or more; one "
                "long text can be cut with --document-separator."
            )
        self._plans: OrderedDict[int, SequencePlan] = OrderedDict()
        self.sequence_count = count_sequences(self.reader.lengths, config.sequence_length)

    def plan(self, epoch: int) -> SequencePlan:
        if epoch not in self._plans:
            seeds = (self._config.seed, self._number, epoch) if self._shuffled else None
            self._plans[epoch] = plan_sequences(self.reader.lengths, self._config.sequence_length, seeds)
            while len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(epoch)
        return self._plans[epoch]


class PackedSequences:
    """The sequences of a split: `sequences[i]` is sample i, for training without end, for validation one pass in order.

    Opening it reads the index and its tables, and of the shards nothing but their sizes. It can be pickled.

    Args:
        config: sources, sequence length, seed.
        split: "train" (shuffled anew in each epoch of each source, sources mixed by weight) or "validation"
            (each source's sequences once, in the order of the documents; sources are mixed evenly, so that the first
            of them stand for all; none if nothing was held out).
        tokenizer: fingerprint that the sources must have, such as the one that a run recorded.

    Attributes:
        vocabulary_size: number of token ids of the sources.
        tokenizer_fingerprint: SHA-256 of their tokenizer.
        fingerprint: SHA-256 of everything that decides what `sequences[i]` is.
        documents_fingerprint: SHA-256 of the texts of the split alone: not of tokenizer, weights, order or sequence
            length.

    Raises:
        DataError: a source is missing, unfinished or damaged, or the tokenizers differ.
    """

    def __init__(self, config: DataConfig, split: SplitName = "train", *, tokenizer: str | None = None):
        self._open(config, split, verify=True)
        self._check_tokenizers(tokenizer)
        self._check_documents()

    def _open(self, config: DataConfig, split: SplitName, *, verify: bool) -> None:
        self.config = config
        self.split: SplitName = split
        files = OpenFiles()
        self._sources = [_Source(config, number, split, files, verify) for number in range(len(config.sources))]
        weights = [source.weight for source in config.sources] if split == "train" else self.sequences_per_epoch
        self._interleave = Interleave(weights)
        index = self._sources[0].index
        self.vocabulary_size = index.vocabulary_size
        self.tokenizer_fingerprint = index.tokenizer_sha256

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "split": self.split, "padding": self._padding}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open(state["config"], state["split"], verify=False)
        self._padding = state["padding"]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the sources."""
        return load_tokenizer(self.config.sources[0].path)

    @property
    def fingerprint(self) -> str:
        """Two `PackedSequences` of equal fingerprint give the same sequence of tokens for every sample."""
        identity = {
            "split": self.split,
            "sequence_length": self.config.sequence_length,
            "seed": self.config.seed,
            "sources": [
                (source.index.fingerprint, str(entry.weight))
                for source, entry in zip(self._sources, self.config.sources, strict=True)
            ],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def documents_fingerprint(self) -> str:
        """Two of equal fingerprint hold the same documents, however these are cut, mixed and ordered."""
        splits = ((source.index.documents_sha256, source.index.splits[self.split]) for source in self._sources)
        identity = sorted((documents, split.documents, split.text_bytes) for documents, split in splits)
        return hashlib.sha256(json.dumps([self.split, identity]).encode()).hexdigest()

    def __len__(self) -> int:
        if self.split == "train":
            raise TypeError(
                "training sequences have no end; `sequences_per_epoch` says how many make one epoch of each source"
            )
        return sum(self.sequences_per_epoch)

    @property
    def source_names(self) -> list[str]:
        """What to call the sources, each otherwise than the others."""
        return distinct_names([source.path for source in self.config.sources])

    @property
    def sequences_per_epoch(self) -> list[int]:
        """Sequences of one pass over each source."""
        return [source.sequence_count for source in self._sources]

    @property
    def remark(self) -> str:
        """What to say of a validation split that is missing or small; empty if there is nothing to say."""
        return remark_on([source.index.splits["validation"] for source in self._sources], len(self))

    @property
    def packing_efficiency(self) -> float:
        """Share of the positions of one pass that hold tokens rather than padding."""
        tokens = sum(int(source.reader.lengths.sum(dtype=np.int64)) for source in self._sources)
        return tokens / (sum(self.sequences_per_epoch) * self.config.sequence_length)

    def locate(self, sample: int) -> Location:
        """Where global sample number `sample` comes from, without reading it."""
        if sample < 0:
            raise IndexError(f"sample {sample} is negative")
        if self.split == "validation" and sample >= len(self):
            raise IndexError(f"sample {sample} of {len(self)} validation sequences")
        source, number = self._interleave.locate(sample)
        epoch, sequence = divmod(number, self._sources[source].sequence_count)
        return Location(source, epoch, sequence)

    def pieces(self, sample: int) -> list[tuple[int, int, int]]:
        """The pieces of a sample's sequence: (document of the source's split, first token, tokens)."""
        location = self.locate(sample)
        source = self._sources[location.source]
        plan = source.plan(location.epoch)
        span = slice(int(plan.bounds[location.sequence]), int(plan.bounds[location.sequence + 1]))
        return [
            (
                int(document),
                int(start),
                min(self.config.sequence_length, source.reader.length(int(document)) - int(start)),
            )
            for document, start in zip(plan.documents[span], plan.starts[span], strict=True)
        ]

    def __getitem__(self, sample: int) -> PackedSequence:
        """Read a sequence.

        Raises:
            DataError: a sample is damaged and the configuration says stop.
        """
        length = self.config.sequence_length
        reader = self._sources[self.locate(sample).source].reader
        sequence = self.padding_sequence(sample)
        problems: list[str] = []
        end = 0
        for document, start, count in self.pieces(sample):
            begin, end = end, end + count
            sequence.document_starts[begin:end] = begin
            try:
                tokens = reader.read(document, start, start + count + 1)
            except DataError as error:
                if self.config.on_bad_sample == "stop" or isinstance(error, LimitError):
                    raise
                problems.append(str(error))
                continue
            sequence.tokens[begin:end] = tokens[:count]
            sequence.labels[begin : begin + len(tokens) - 1] = tokens[1:]
        sequence.document_starts[end:length] = end
        if not self.config.mask_documents:
            sequence.document_starts[:] = 0
        return PackedSequence(sequence.tokens, sequence.labels, sequence.document_starts, sample, tuple(problems))

    def padding_sequence(self, sample: int = -1) -> PackedSequence:
        """A sequence of padding: one document of end tokens, no labels."""
        length = self.config.sequence_length
        return PackedSequence(
            np.full(length, self._padding, dtype=np.int64),
            np.full(length, NO_LABEL, dtype=np.int64),
            np.zeros(length, dtype=np.int32),
            sample,
        )

    def _check_tokenizers(self, expected: str | None) -> None:
        first = self.config.sources[0].path
        for source, entry in zip(self._sources, self.config.sources, strict=True):
            if source.index.tokenizer_sha256 != self.tokenizer_fingerprint:
                raise DataError(
                    f"{entry.path} and {first} were built with different tokenizers. Build one of them again with "
                    f"`--tokenizer {first}`."
                )
        if expected is not None and expected != self.tokenizer_fingerprint:
            raise DataError(
                f"{first}: its tokenizer (SHA-256 {self.tokenizer_fingerprint[:12]}…) is not the one that the run was "
                f"started with ({expected[:12]}…). Use the run's data sets, or start a new run."
            )
        self._padding = self.tokenizer.eos

    def _check_documents(self) -> None:
        """Lengths are known from the index: an empty document is found before anything is read."""
        if self.config.on_bad_sample == "skip":
            return
        for source in self._sources:
            empty = np.flatnonzero(source.reader.lengths <= EMPTY_LENGTH)
            if len(empty):
                raise DataError(
                    f"{source.reader.name(int(empty[0]))}: the document is empty ({len(empty)} of {len(source.reader)} "
                    "are). Rebuild the data set, or set data.on_bad_sample=skip."
                )

    def close(self) -> None:
        """Close the shards; they open again when read."""
        for source in self._sources:
            source.reader.close()
