"""What tensor ranks send one another in one forward and one backward pass: the exchanges of `parallel.tensor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from glm_scale.layers.activation_checkpointing import ActivationCheckpointing
from glm_scale.planning.exchanges import Exchange, all_gather, all_reduce, reduce_scatter

__all__ = ["exchanges_among_heads", "tensor_exchanges"]


def tensor_exchanges(
    *,
    ranks: int,
    tokens: int,
    width: int,
    layers: int,
    itemsize: int,
    shards_tokens: bool,
    conv: bool,
    policy: ActivationCheckpointing,
) -> Iterator[Exchange]:
    """Of a batch of so many tokens of `width` numbers, all of which every rank works on.

    shards_tokens: see `parallel.axis.TensorAxis`. policy: of activation checkpointing. What is computed again goes
    up to the last tensor that the backward pass needs, which the sum at the end of a block comes after.
    """
    if ranks == 1:
        return
    size = tokens * width * itemsize
    starts_again, ends_again = {"none": (0, 0), "selective": (1, 0), "full": (2, 1)}[policy]
    # Every block begins twice, in front of its mixer and its MLP, and ends twice; the model begins with the embedding's
    # sum and ends in front of the head.
    ends, starts = (2 + ends_again) * layers + 1, (2 + starts_again) * layers + 1
    if shards_tokens:
        convolved = layers if conv else 0
        yield reduce_scatter("tensor", ranks, ends * size, ends)
        yield all_gather("tensor", ranks, starts * size / ranks, starts)
        yield all_gather("tensor", ranks, (2 * layers + 1) * size / ranks, 2 * layers + 1)
        yield reduce_scatter("tensor", ranks, (2 * layers + 1 - convolved) * size, 2 * layers + 1 - convolved)
        # All ranks convolve all tokens; and each has but part of the gradient of a norm's weight.
        yield all_reduce("tensor", ranks, convolved * size, convolved)
        yield all_reduce("tensor", ranks, (2 * layers + 1) * width * itemsize, 2 * layers + 1)
    else:
        yield all_reduce("tensor", ranks, ends * size, ends)
        yield all_reduce("tensor", ranks, (2 * layers + 1) * size, 2 * layers + 1)
    # The head's largest logit, and two sums, of every token.
    yield all_gather("tensor", ranks, tokens * 3 * 4, 1)


def exchanges_among_heads(
    *, ranks: int, tokens: int, weights: Sequence[int], norms: int, itemsize: int, policy: ActivationCheckpointing
) -> Iterator[Exchange]:
    """Inside layers, for what serves all heads: the gradients of such weights, each of so many numbers, and a sum of
    squares of every token, in fp32, for each norm over all heads."""
    if ranks == 1:
        return
    yield all_reduce("tensor", ranks, sum(weights) * itemsize, len(weights))
    sums = norms * (3 if policy == "full" else 2)
    yield all_reduce("tensor", ranks, sums * tokens * 4, sums)
