"""Orders that are pure functions of a seed: permutations, and the interleaving of weighted sources.

NumPy does not promise that its generators give the same numbers in every version, and a run that is resumed under
another version must see the same data; so the shuffling here is built on a hash of our own.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def mix(values: np.ndarray) -> np.ndarray:
    """Bijective hash of uint64: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def permutation(length: int, *seeds: int) -> np.ndarray:
    """int64 `[length]`: a random order of 0 … length − 1, the same for the same seeds on every machine."""
    state = np.zeros(1, dtype=np.uint64)
    for seed in seeds:
        state = mix(state ^ np.uint64(seed & 0xFFFFFFFFFFFFFFFF))
    # A bijection of distinct numbers: no two keys are equal, so the order does not depend on the sort.
    return np.argsort(mix(np.arange(length, dtype=np.uint64) ^ state), kind="stable")


class Interleave:
    """Spreads an endless stream of samples over weighted sources, evenly and in closed form.

    Among the first i samples, source s has i · weight_s of them to within one per level of a binary tree over the
    sources. Which source sample i belongs to, and which of its samples that is, follow from i by integer arithmetic.

    Args:
        weights: positive, of any scale.
    """

    def __init__(self, weights: Sequence[float]):
        # The decimal that the user wrote, not its binary neighbour.
        self._weights = [Fraction(str(weight)) for weight in weights]

    def locate(self, sample: int) -> tuple[int, int]:
        """(source, number of the sample within that source) of global sample number `sample`."""
        low, high = 0, len(self._weights)
        while high - low > 1:
            middle = (low + high) // 2
            left = sum(self._weights[low:middle], start=Fraction(0))
            share = left / sum(self._weights[low:high], start=Fraction(0))
            before = _rounded(sample, share)
            if _rounded(sample + 1, share) > before:
                sample, high = before, middle
            else:
                sample, low = sample - before, middle
        return low, sample


def _rounded(count: int, share: Fraction) -> int:
    """`count · share`, rounded half up."""
    return (2 * count * share.numerator + share.denominator) // (2 * share.denominator)
