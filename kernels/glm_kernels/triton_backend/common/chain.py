"""Chains of programs in one launch: device functions by which a program waits for its predecessors.

A launch of N programs draws *tickets* 0 … N−1 in the order in which its programs begin to run, and a program works on
the item of its ticket. Items are numbered so that every item comes after those it waits for: whoever it waits for is
already running, so the wait ends whatever order the hardware starts programs in. The same idea serves decoupled
look-back scans (Merrill and Garland 2016).

Each wait is paired with one release: what the releasing program stored before `release` is seen by what the waiting
program loads after `wait`. Counters and flags start at zero in every launch.

A release has to see all stores of its program arrive before it may say so, and who waits loads what was stored only
then: three ways through the memory, one after the other. Where each link of a chain waits for the one before, tiles are
therefore their own flags: memory that nobody has stored to yet holds a NaN that no rounding gives (`nothing_yet`), and
`arriving` loads it until there is none left. So NCCL's protocol LL hands on small messages.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

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


def nothing_yet(tile: Tensor) -> Tensor:
    """The same memory, filled with a NaN that is stored by no program: conversions and sums give another one."""
    tile.view(torch.int32).fill_(-1)
    return tile


@triton.jit
def arriving(x, stride, rows, ROWS: tl.constexpr, WIDTH: tl.constexpr, WARPS: tl.constexpr):
    """A tile `[ROWS, WIDTH]` of float16 or float32 once all of it has arrived: x points at its first number, and a row
    starts `stride` numbers after the one before, both at multiples of 16 bytes. Its memory held `nothing_yet`.

    rows: how many there are; the last one again in place of others. WARPS: of this program.
    """
    r, lane = tl.minimum(tl.arange(0, ROWS), rows - 1), tl.arange(0, WIDTH)
    places = x + (r * stride)[:, None] + lane[None, :]
    tile = tl.load(places, volatile=True)
    if ASSEMBLES:
        SIZE: tl.constexpr = x.dtype.element_ty.primitive_bitwidth // 8
        COUNT: tl.constexpr = min(ROWS * WIDTH // (32 * WARPS), 64 // SIZE)
        tile = tl.inline_asm_elementwise(
            _look_again(COUNT, SIZE), _operands(COUNT, SIZE), [tile, places.to(tl.int64)],
            dtype=x.dtype.element_ty, is_pure=False, pack=COUNT,
        )  # fmt: skip
    return tile


@triton.jit
def arriving_number(x, look):
    """As `arriving`, a float32 that x points at; `look` was loaded there, and may have been too early."""
    if ASSEMBLES:
        look = tl.inline_asm_elementwise(
            "{ .reg .pred late; mov.b32 $0, $1; again: setp.eq.b32 late, $0, -1; "
            "@late ld.relaxed.gpu.global.b32 $0, [$2]; @late bra again; }",
            "=&r,r,l", [look, x.to(tl.int64)], dtype=tl.float32, is_pure=False, pack=1,
        )  # fmt: skip
    return look


@triton.constexpr_function
def _look_again(count, size):
    """Of `count` numbers of `size` bytes, which a thread has loaded, and their places: loads them until all are there.

    It takes 16 bytes at a time. That a thread's numbers lie one beside the other is the compiler's choice, though it
    has no other reason to load them in any other way; if they do not, the program is ended.
    """
    words = count * size // 4
    place = lambda number: f"${2 * words + number}"  # noqa: E731
    lines = [f"mov.b32 ${n}, ${words + n};" for n in range(words)]
    for first in range(0, count, 16 // size):
        last = first + 16 // size - 1
        lines += [
            f"sub.u64 apart, {place(last)}, {place(first)};",
            f"setp.ne.u64 late, apart, {16 - size};",
            "@late trap;",
        ]
    lines += ["again:", "mov.b32 found, 0;"]
    for n in range(words):
        if size == 4:
            lines += [f"setp.eq.b32 late, ${n}, -1;", "@late mov.b32 found, 1;"]
        else:
            # A half with all bits set is a zero of the complement, of which the lowest is found without fail.
            lines += [f"not.b32 other, ${n};", "sub.u32 less, other, 0x00010001;"]
            lines += ["lop3.b32 less, less, other, 0x80008000, 0x20;", "or.b32 found, found, less;"]
    lines += ["setp.ne.u32 late, found, 0;", "@!late bra there;"]
    for n in range(0, words, 4):
        four = ", ".join(f"${n + m}" for m in range(4))
        lines += [f"ld.relaxed.gpu.global.v4.b32 {{{four}}}, [{place(n * 4 // size)}];"]
    registers = ".reg .pred late; .reg .b32 other, less, found; .reg .b64 apart;"
    return f"{{ {registers} {' '.join(lines)} bra again; there: }}"


@triton.constexpr_function
def _operands(count, size):
    words = count * size // 4
    return ",".join(["=&r"] * words + ["r"] * words + ["l"] * count)
