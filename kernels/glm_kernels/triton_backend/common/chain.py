"""Chains of programs in one launch: device functions by which a program waits for its predecessors.

A launch of N programs draws *tickets* 0 … N−1 in the order in which its programs begin to run, and a program works on
the item of its ticket. Items are numbered so that every item comes after those it waits for: whoever it waits for is
already running, so the wait ends whatever order the hardware starts programs in. The same idea serves decoupled
look-back scans (Merrill and Garland 2016).

Each wait is paired with one release: what the releasing program stored before `release` is seen by what the waiting
program loads after `wait`. Counters and flags start at zero in every launch.
"""

from __future__ import annotations

import triton
import triton.language as tl

ASSEMBLES = tl.constexpr(not triton.knobs.runtime.interpret)
"""The interpreter knows no assembly."""


@triton.jit
def ticket(counter):
    """The number of this program in the order of starting."""
    return tl.atomic_add(counter, 1, sem="relaxed", scope="gpu")


@triton.jit
def wait(flag):
    """Returns once `release` was called on the flag; everything stored before that is then visible."""
    wait_for(flag, 1)


@triton.jit
def release(flag):
    """Publishes all that this program has stored so far."""
    publish(flag, 1)


@triton.jit
def wait_for(progress, least):
    """Returns once a counter is at least `least`; everything stored before it was raised so far is then visible."""
    if ASSEMBLES:
        # Every thread looks for itself. Triton's atomics are done by one thread for all, which hands its result to the
        # others and meets them at a barrier after every look: much of the time from one link of a chain to the next.
        tl.inline_asm_elementwise(
            "{ .reg .pred early; again: ld.acquire.gpu.global.s32 $0, [$1]; setp.lt.s32 early, $0, $2; "
            "@early bra again; }",
            "=r,l,r", [progress.to(tl.int64), least], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip
    else:
        found = tl.atomic_add(progress, 0, sem="acquire", scope="gpu")
        while found < least:
            found = tl.atomic_add(progress, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()


@triton.jit
def wait_until(progress, least):
    """As `wait_for`; gives the counter's value, the same to all threads."""
    found = tl.atomic_add(progress, 0, sem="acquire", scope="gpu")
    while found < least:
        found = tl.atomic_add(progress, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()
    return found


@triton.jit
def publish(progress, value):
    """Raises a counter that only this program's predecessors have raised before; the counterpart of `wait_for`."""
    # One thread sets the counter: the stores of all others must come before.
    tl.debug_barrier()
    tl.atomic_xchg(progress, value, sem="release", scope="gpu")
