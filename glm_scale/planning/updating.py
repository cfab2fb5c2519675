"""Bytes that the update of the weights moves beside AdamW itself: what DeepSpeed's optimizers do with gradients."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Passes", "passes"]


@dataclass(frozen=True)
class Passes:
    """Bytes that a rank reads and writes: `gradients` in every micro-batch, `clipping` and `rest` once a step.

    A step is taken to clip, as early ones do. rest: sums that are sent, weights as they compute.
    """

    gradients: int
    clipping: int
    rest: int


def passes(stage: int, itemsize: int, numbers: int, own: int, replicas: int) -> Passes:
    """numbers: weights of a rank; own: those that it updates; itemsize: of a number in weights and gradients."""
    if stage == 0:
        flattened = 4 * itemsize * numbers if replicas > 1 else 0
        return Passes(3 * itemsize * numbers, 8 * numbers, flattened)
    if stage == 1 and itemsize == 2:
        return _of_fp32_gradients(numbers, own, replicas)
    # Into a bucket, and from there to the sums of this rank's part, which are fp32.
    return Passes(2 * itemsize * numbers + (itemsize + 8) * own, 8 * own, (4 + itemsize) * own)


def _of_fp32_gradients(numbers: int, own: int, replicas: int) -> Passes:
    """`training.bf16_gradients`: each rank keeps the fp32 sum of all gradients."""
    # Written in bf16, and added to the sum in fp32, which the first micro-batch does not read.
    gradients, first = 2 + (2 + 4 + 4), -4
    # Cast for sending, scaled, and back.
    sent = ((4 + 2) + 2 * 2 + (2 + 4)) * (replicas > 1)
    return Passes(gradients * numbers, 8 * numbers, (first + sent) * numbers + (4 + 2) * own)
