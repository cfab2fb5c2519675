"""Packing of documents into sequences of equal length, planned from their lengths alone.

A document longer than a sequence is cut into sequences of its own and a remainder; remainders and short documents share
sequences by best-fit decreasing (Ding et al., "Fewer Truncations Improve Language Modeling", 2024), so nothing is cut
that could have stayed whole and next to no padding is needed. The number of sequences depends on the lengths alone,
hence it is the same in every epoch.
"""

from dataclasses import dataclass

import numpy as np

from glm_data.ordering import permutation


@dataclass(frozen=True)
class SequencePlan:
    """The pieces of documents that make each sequence of one pass over a split.

    Attributes:
        documents: uint32 `[pieces]`: the document of each piece, sequence after sequence, ascending within a sequence.
        starts: uint32 `[pieces]`: its first token within the document; it ends with the sequence or the document.
        bounds: int64 `[sequences + 1]`: sequence s is pieces `bounds[s]` to `bounds[s + 1]`.
    """

    documents: np.ndarray
    starts: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1


def plan_sequences(lengths: np.ndarray, sequence_length: int, seeds: tuple[int, ...] | None) -> SequencePlan:
    """Plan one pass over documents of the given lengths.

    Every token of every document lies in exactly one piece. Ten million documents take seconds.

    Args:
        lengths: `[documents]`, tokens of each document.
        sequence_length: tokens of a sequence.
        seeds: what to shuffle by; None keeps the order of the documents (sequences by their first piece).
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    full_pieces = lengths // sequence_length
    remainders = lengths - full_pieces * sequence_length
    piece_counts = full_pieces + (remainders > 0)
    documents = np.repeat(np.arange(len(lengths), dtype=np.uint32), piece_counts)
    first_pieces = np.cumsum(piece_counts) - piece_counts
    starts = ((np.arange(len(documents)) - np.repeat(first_pieces, piece_counts)) * sequence_length).astype(np.uint32)

    is_remainder = np.zeros(len(documents), dtype=bool)
    is_remainder[(first_pieces + full_pieces)[remainders > 0]] = True
    sequences = np.empty(len(documents), dtype=np.int64)
    full_sequences = len(documents) - int(is_remainder.sum())
    sequences[~is_remainder] = np.arange(full_sequences)
    bins, bin_count = _pack(remainders[remainders > 0], sequence_length, seeds)
    sequences[is_remainder] = full_sequences + bins
    sequence_count = full_sequences + bin_count

    sequences = _sequence_order(sequences, sequence_count, seeds)[sequences]
    order = np.argsort(sequences, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(sequences, minlength=sequence_count))])
    return SequencePlan(documents[order], starts[order], bounds)


def count_sequences(lengths: np.ndarray, sequence_length: int) -> int:
    """Number of sequences of a pass, without planning it."""
    full_pieces, remainders = np.divmod(np.asarray(lengths, dtype=np.int64), sequence_length)
    _, bin_count = best_fit_decreasing(np.bincount(remainders, minlength=sequence_length + 1), sequence_length)
    return int(full_pieces.sum()) + bin_count


def _sequence_order(sequences: np.ndarray, sequence_count: int, seeds: tuple[int, ...] | None) -> np.ndarray:
    """int64 `[sequence_count]`: where in the pass each sequence goes."""
    if seeds is not None:
        return permutation(sequence_count, *seeds, 1)
    first_piece = np.empty(sequence_count, dtype=np.int64)
    first_piece[sequences[::-1]] = np.arange(len(sequences))[::-1]
    order = np.empty(sequence_count, dtype=np.int64)
    order[np.argsort(first_piece)] = np.arange(sequence_count)
    return order


def _pack(lengths: np.ndarray, capacity: int, seeds: tuple[int, ...] | None) -> tuple[np.ndarray, int]:
    """Bin of each item (int64 `[items]`, items of 1 … capacity − 1) and the number of bins.

    Items of one length are interchangeable: which of them goes where is drawn anew for each seed.
    """
    items = permutation(len(lengths), *seeds, 0) if seeds is not None else np.arange(len(lengths))
    # Small unsigned integers are sorted by radix.
    compact = (capacity - lengths[items]).astype(np.min_scalar_type(capacity))
    items = items[np.argsort(compact, kind="stable")]
    bins_of_slots, bin_count = best_fit_decreasing(np.bincount(lengths, minlength=capacity + 1), capacity)
    bins = np.empty(len(lengths), dtype=np.int64)
    bins[items] = bins_of_slots
    return bins, bin_count


def best_fit_decreasing(counts: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Best-fit decreasing on a histogram: whole groups of equal items and equal bins at a time.

    Each item goes to the bin with the least room that still holds it. Among items of one length, best fit keeps
    filling the bin it has just used until it is too full, so bins with equal room can be filled together.

    Args:
        counts: `[capacity + 1]`, number of items of each length; `counts[0]` is ignored.
        capacity: of a bin.

    Returns:
        the bin of each item in order of decreasing length (int64 `[items]`), and the number of bins.
    """
    assigned: list[np.ndarray] = []
    rooms: dict[int, list[np.ndarray]] = {}  # room left -> groups of bins with that room
    open_rooms = 0  # bit r is set when rooms[r] holds bins
    bin_count = 0
    for length in range(capacity, 0, -1):
        remaining = int(counts[length])
        while remaining:
            candidates = open_rooms >> length
            room = length + (candidates & -candidates).bit_length() - 1 if candidates else capacity
            per_bin = room // length
            wanted = -(-remaining // per_bin)
            if candidates:
                group = rooms[room].pop()
                if len(group) > wanted:
                    rooms[room].append(group[wanted:])
                    group = group[:wanted]
                if not rooms[room]:
                    open_rooms &= ~(1 << room)
            else:
                group = np.arange(bin_count, bin_count + wanted)
                bin_count += wanted
            placed = min(remaining, len(group) * per_bin)
            assigned.append(np.repeat(group, per_bin)[:placed])
            remaining -= placed
            in_last = placed - (len(group) - 1) * per_bin
            for bins, left in ((group[:-1], room - per_bin * length), (group[-1:], room - in_last * length)):
                if left and len(bins):
                    rooms.setdefault(left, []).append(bins)
                    open_rooms |= 1 << left
    return (np.concatenate(assigned) if assigned else np.zeros(0, dtype=np.int64)), bin_count
