"""What a kernel is compiled for, as one of its arguments."""

from __future__ import annotations

from functools import cache
from typing import Any, Self

import triton
import triton.language as tl


class Constants:
    """Base of the `Case` of each family: a dataclass of all that its kernels are compiled for, their argument CASE.

    In a kernel CASE.C is what a parameter `C: tl.constexpr` would be. A kernel is compiled for every case anew: so
    fields that it does not look at are left at their defaults. Cases are frozen, and compared as objects (eq=False):
    every launch finds its kernel by the case, and would take two microseconds longer if that looked at each field.
    """

    def __post_init__(self) -> None:
        # A plain number would not do where the compiler asks for a constant, as in the shapes of tiles. To the
        # interpreter constants are plain numbers.
        if not triton.knobs.runtime.interpret:
            vars(self).update({name: tl.constexpr(value) for name, value in vars(self).items()})

    @classmethod
    @cache
    def of(cls, **fields: Any) -> Self:
        """The case with these fields, always the same object, which is found in a tenth of the time of making one.

        Compiled kernels are kept for as long as the process lives; so are cases.
        """
        return cls(**fields)
