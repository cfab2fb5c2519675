"""Programmatic dependent launch: on Hopper a kernel may start while the one before it ends.

A kernel of decoding takes a few microseconds, of which starting is a good part. Under an overlapping launch its
programs are placed on the GPU as soon as all of the kernel before it have started; what does not depend on that kernel
(weights) they may load at once, and everything else behind `wait_for_others`. Every program of every kernel here waits,
so that what a kernel sees is what all earlier ones have done, as in any stream. CUDA graphs keep such launches.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@lru_cache(maxsize=16)
def overlaps(device: torch.device) -> bool:
    """Whether kernels on a device may be launched so: on GPUs since Hopper."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)


def options(device: torch.device) -> dict[str, bool]:
    """What a launch takes besides the constant OVERLAP, which every kernel here has."""
    return {"OVERLAP": True, "launch_pdl": True} if overlaps(device) else {"OVERLAP": False}


@triton.jit
def let_others_begin(OVERLAP: tl.constexpr):
    """The next kernel may start once every program has come here."""
    if OVERLAP:
        gdc_launch_dependents()


@triton.jit
def wait_for_others(OVERLAP: tl.constexpr):
    """Until all that earlier kernels write is written; nothing may be stored before, nor loaded that they write."""
    if OVERLAP:
        gdc_wait()


@triton.jit
def begin_after_others(OVERLAP: tl.constexpr):
    """For a kernel that can do nothing ahead."""
    let_others_begin(OVERLAP)
    wait_for_others(OVERLAP)
