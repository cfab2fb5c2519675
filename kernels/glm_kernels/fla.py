"""Operators of flash-linear-attention (fla), an optional library: baselines to compare with, refused where wrong.

fla is imported when an operator is asked for and not before. Some of its kernels are known to compute wrong numbers
on some GPUs with some versions of Triton: those are refused, and nothing switches that off. Needs
`pip install glm-scale[fla]`; its operators are fla's own functions, `[B, T, H, ·]` like ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from glm_kernels.tuning import compile_side_by_side

Version = tuple[int, ...]

OLDEST: Version = (0, 6)
"""Older ones have more errors than are listed here."""

OPERATORS = {
    "simple_gla": ("fla.ops.simple_gla", "chunk_simple_gla"),
    "gla": ("fla.ops.gla", "chunk_gla"),
    "gated_delta_rule": ("fla.ops.gated_delta_rule", "chunk_gated_delta_rule"),
    "kda": ("fla.ops.kda", "chunk_kda"),
    "log_linear": ("fla.ops.log_linear_attn", "chunk_log_linear_attn"),
}


class FlaError(RuntimeError):
    """An operator of fla that cannot be had here, or not be trusted."""


@dataclass(frozen=True)
class KnownWrong:
    """What computes wrong numbers: versions from the first (included) to the second (excluded)."""

    operators: frozenset[str]
    fla: tuple[Version, Version]
    triton: tuple[Version, Version]
    architecture: str
    major: int
    """Of the CUDA compute capability of that architecture."""
    gradients_only: bool
    what: str
    source: str


_ANY: tuple[Version, Version] = ((0,), (1000,))

KNOWN_WRONG = (
    KnownWrong(
        operators=frozenset({"simple_gla", "gated_delta_rule"}),
        fla=_ANY,
        triton=((3, 4), (3, 7, 1)),
        architecture="Hopper",
        major=9,
        gradients_only=True,
        what="the gradients of k and of the decays are wrong (kernel chunk_bwd_dqkwg)",
        source="https://github.com/fla-org/flash-linear-attention issues 640 and 826; 983 for the versions",
    ),
)


def why_not(name: str, *, gradients: bool = True) -> str | None:
    """Why operator `name` of fla cannot be used on this machine, None if it can.

    gradients: whether they will be needed. Some operators are wrong in the backward pass only.
    """
    if name not in OPERATORS:
        raise ValueError(f"fla operator {name!r}; known are {', '.join(OPERATORS)}")
    found = _installed("fla-core") or _installed("flash-linear-attention")
    if found is None:
        return "flash-linear-attention is not installed; pip install glm-scale[fla]"
    if found < OLDEST:
        return f"flash-linear-attention {_dotted(found)} is too old; pip install glm-scale[fla] brings a newer one"
    if not torch.cuda.is_available():
        return "flash-linear-attention needs a GPU, and there is none"
    triton = _installed("triton")
    if triton is None:
        return "flash-linear-attention needs triton, which is not installed"
    return _wrong(name, found, triton, torch.cuda.get_device_properties(torch.cuda.current_device()).major, gradients)


def operator(name: str, *, gradients: bool = True) -> Callable[..., Any]:
    """fla's function. Raises FlaError saying why it cannot be used, as `why_not` does."""
    reason = why_not(name, gradients=gradients)
    if reason is not None:
        raise FlaError(f"fla's {name}: {reason}")
    compile_side_by_side()
    module, function = OPERATORS[name]
    return getattr(import_module(module), function)


def _wrong(name: str, fla: Version, triton: Version, major: int, gradients: bool) -> str | None:
    """What is known to be wrong with an operator in this environment."""
    for known in KNOWN_WRONG:
        here = known.major == major and _within(fla, known.fla) and _within(triton, known.triton)
        if here and name in known.operators and (gradients or not known.gradients_only):
            first, fixed = map(_dotted, known.triton)
            return (
                f"with Triton {_dotted(triton)} on a {known.architecture} GPU {known.what}; "
                f"so it is from Triton {first} until before {fixed} ({known.source})"
            )
    return None


def _within(found: Version, bounds: tuple[Version, Version]) -> bool:
    return bounds[0] <= found < bounds[1]


@lru_cache(maxsize=8)
def _installed(distribution: str) -> Version | None:
    """The release numbers of an installed distribution."""
    try:
        return _parsed(version(distribution))
    except PackageNotFoundError:
        return None


def _parsed(text: str) -> Version:
    release = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, release.group().split("."))) if release else (0,)


def _dotted(numbers: Version) -> str:
    return ".".join(map(str, numbers))
