"""Which tokens end an n-gram that their document has had before, and how long ago: what a model could recall.

Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models" (2023, arXiv 2312.04927), found
most of the gap between attention and gated convolutions in tokens that end a repeated bigram. They also ask that the
bigram be rare in the training data, since frequent ones are known by heart; here a longer n-gram stands for that, which
takes nothing but the text itself: few 4-grams are frequent.
"""

from collections.abc import Iterator

import numpy as np

__all__ = ["repeat_distances"]


def repeat_distances(
    tokens: np.ndarray, labels: np.ndarray, document_starts: np.ndarray, doublings: int
) -> Iterator[np.ndarray]:
    """For n = 2, 4, … 2^doublings: how far back the n-gram that ends with each label has ended before; 0: it has not.

    All arguments and results are integers `[B, T]`. The n-gram of position t is the last n − 1 tokens up to t and then
    labels[t]. An earlier one counts if it consists of tokens of the same document, as `document_starts` (the position
    where each token's document starts) have it, up to t: what is behind t, or in another document, no model can have
    read. The distance is that of the two ends in tokens, at least 1. A label below 0 is none, and ends no n-gram.

    n-grams are told apart exactly: each gets a number by sorting, and that of length 2n is a pair of numbers of length
    n. Takes one sort of 2 B T integers for every n.
    """
    batch, length = tokens.shape
    # Of each position two n-grams are looked at: that of the token, which can be found, and that of the label behind
    # it, which is looked for. In this order they also lie in the text, so a stable sort keeps earlier ones first.
    ends = np.stack([tokens, labels], -1).astype(np.int64).clip(min=0)
    before = np.arange(length) - document_starts
    here = np.arange(batch * length).reshape(batch, length)
    first = here - before
    for n in (2**k for k in range(1, doublings + 1)):
        halves = np.stack([_later(ends[..., 0], n // 2), _later(ends[..., 0], n // 2 - 1)], -1)
        pairs = (halves * (ends.max(initial=0) + 1) + ends).ravel()
        order = np.argsort(pairs, kind="stable")
        sorted_pairs = pairs[order]
        is_new = np.concatenate([[True], sorted_pairs[1:] != sorted_pairs[:-1]])
        earlier = _latest_before(order, is_new, before >= n - 1)
        # One that begins in the document before is not found in this, which has had too few tokens by then.
        yield np.where((labels >= 0) & (earlier >= first), here + 1 - earlier, 0)
        ends = _unsorted(np.cumsum(is_new) - 1, order).reshape(ends.shape)


def _later(x: np.ndarray, by: int) -> np.ndarray:
    """x `[B, T]` moved on by so many positions, with zeros in front."""
    return np.pad(x, ((0, 0), (by, 0)))[:, : x.shape[1]]


def _unsorted(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    result = np.empty_like(values)
    result[order] = values
    return result


def _latest_before(order: np.ndarray, is_new: np.ndarray, is_whole: np.ndarray) -> np.ndarray:
    """int `[B, T]`: the last place in the batch up to each one where a token has ended the n-gram of its label, or −1.

    `order`: of the ends of n-grams, sorted by n-gram and then by place; `is_new`: where another n-gram begins;
    `is_whole` bool `[B, T]`: whether that of the token lies in its document.
    """
    sorted_places = np.arange(len(order))
    can_be_found = (order % 2 == 0) & is_whole.ravel()[order // 2]
    latest = np.maximum.accumulate(np.where(can_be_found, sorted_places, -1))
    is_same = latest >= np.maximum.accumulate(np.where(is_new, sorted_places, 0))
    places = _unsorted(np.where(is_same, order[latest] // 2, -1), order)
    return places.reshape(*is_whole.shape, 2)[..., 1]
