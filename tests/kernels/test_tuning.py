"""What a kernel that tunes itself tries is compiled side by side, and chosen as ever."""

import threading

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.autotuner import Autotuner
from triton.runtime.errors import OutOfResources

from glm_kernels.tuning import compile_side_by_side


@pytest.fixture(autouse=True)
def tuner(monkeypatch):
    """Undone in the end."""
    monkeypatch.setattr(Autotuner, "prune_configs", Autotuner.prune_configs)
    compile_side_by_side.cache_clear()
    compile_side_by_side()
    yield
    compile_side_by_side.cache_clear()


class Kernel:
    """Compiles in the threads that it is given, as Triton's own does, and notes what happens to it."""

    arg_names = ("x", "SIZE")

    def __init__(self, failing=()):
        self.failing, self.events, self.together = failing, [], threading.Barrier(2)

    @staticmethod
    def fn():
        """The autotuner looks for the function at the bottom."""

    def run(self, x, *, SIZE, grid, warmup, num_warps, **_):
        from triton.runtime._async_compile import active_mode

        if warmup:
            active_mode.get().submit((SIZE, num_warps), lambda: self.compiled(SIZE, num_warps), lambda kernel: None)
        elif SIZE in self.failing:
            raise OutOfResources(2, 1, "shared memory")
        self.events.append(("compile" if warmup else "run", SIZE, num_warps))

    def compiled(self, size, warps):
        if size in self.failing:
            raise OutOfResources(2, 1, "shared memory")
        if warps == 2:
            self.together.wait(timeout=60)  # for the other one of two
        return size


def tuned(kernel, sizes, warps, time):
    configurations = [triton.Config({"SIZE": size}, num_warps=count) for size in sizes for count in warps]

    def timed(call, quantiles):
        call()
        return [time(*kernel.events[-1][1:])] * 3

    return Autotuner(kernel, kernel.arg_names, configurations, ["x"], None, None, do_bench=timed)


def test_all_are_compiled_before_the_first_is_timed():
    kernel = Kernel()
    tuner = tuned(kernel, [16, 32, 64], [1], lambda size, _: abs(size - 32))
    for _ in range(2):
        tuner[(1,)](7)
    assert [event for event, *_ in kernel.events] == ["compile"] * 3 + ["run"] * 3 + ["run"] * 2
    assert {size for _, size, _ in kernel.events[-2:]} == {32}


def test_two_are_compiled_at_the_same_time(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    kernel = Kernel()
    tuned(kernel, [16, 32], [2], lambda size, _: size)[(1,)](7)
    assert not kernel.together.broken


def test_one_that_cannot_be_compiled_is_not_chosen():
    kernel = Kernel(failing=(16,))
    tuned(kernel, [16, 32], [1], lambda size, _: size)[(1,)](7)
    assert kernel.events[-1] == ("run", 32, 1)


def test_more_than_once_changes_nothing():
    first = Autotuner.prune_configs
    compile_side_by_side()
    assert Autotuner.prune_configs is first


@triton.jit
def _fill(x, SIZE: tl.constexpr):
    tl.store(x + tl.arange(0, SIZE), SIZE)


def test_a_kernel_of_triton():
    """In the interpreter there is nothing to compile; on a GPU this is the real thing."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.zeros(64, device=device)
    configurations = [triton.Config({"SIZE": size}) for size in (16, 64)]

    def timed(call, quantiles):
        x.zero_()
        call()
        return [64 - int((x > 0).sum())] * 3

    triton.autotune(configurations, key=[], do_bench=timed)(_fill)[(1,)](x)
    assert x.tolist() == [64.0] * 64
