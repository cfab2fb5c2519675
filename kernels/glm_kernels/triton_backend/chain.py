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


@triton.jit
def ticket(counter):
    """The number of this program in the order of starting."""
    return tl.atomic_add(counter, 1, sem="relaxed", scope="gpu")


@triton.jit
def wait(flag):
    """Returns once `release` was called on the flag; everything stored before that is then visible."""
    ready = tl.atomic_add(flag, 0, sem="acquire", scope="gpu")
    while ready == 0:
        ready = tl.atomic_add(flag, 0, sem="acquire", scope="gpu")
    # Only one thread has looked at the flag: the others may not load before it has seen it.
    tl.debug_barrier()


@triton.jit
def release(flag):
    """Publishes all that this program has stored so far."""
    # One thread sets the flag: the stores of all others must come before.
    tl.debug_barrier()
    tl.atomic_xchg(flag, 1, sem="release", scope="gpu")


@triton.jit
def wait_until(progress, least):
    """The value of a counter, once it is at least `least`; everything stored before it was raised so far is visible."""
    found = tl.atomic_add(progress, 0, sem="acquire", scope="gpu")
    while found < least:
        found = tl.atomic_add(progress, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()
    return found


@triton.jit
def publish(progress, value):
    """Raises a counter that only this program's predecessors have raised before; the counterpart of `wait_until`."""
    tl.debug_barrier()
    tl.atomic_xchg(progress, value, sem="release", scope="gpu")
