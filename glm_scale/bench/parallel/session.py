"""One case on one of its ranks: is it right, what does it send, how long does it take, what hides exchanges."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch import distributed as dist
from torch.profiler import ProfilerActivity, profile

from glm_kernels.bench.timing import row_seconds
from glm_scale.bench.calls import DTYPES
from glm_scale.bench.parallel.cases import Case, Setting
from glm_scale.errors import UserError
from glm_scale.layers.sequence import Sequence
from glm_scale.mixers.contract import Mixer
from glm_scale.parallel.axis import SequenceAxis
from glm_scale.parallel.collectives.communicator import Communicator, GroupCommunicator
from glm_scale.parallel.collectives.counting import Counted
from glm_scale.training.profiling.report import exposed_communication
from glm_scale.training.profiling.trace import read_trace

__all__ = ["BOUNDS", "Measured", "measure"]

BOUNDS = {"bf16": 2e-2, "fp32": 1e-4}
"""Of outputs and gradients over ranks beside those of one, relative to their norm: what rounding makes of them."""

_CHECKED = 4096
"""Tokens at most on which they are compared."""

_ROWS, _TRACED = 5, 3


@dataclass(frozen=True)
class Measured:
    """seconds: of a forward and a backward pass, of each row of them, the slowest rank's. sent: bytes by collective of
    the rank that sends most. exchange, exposed: seconds of a pass in which ranks exchange, waits for one another
    included, and those of them that nothing else hides; None on a CPU. error: of outputs and gradients beside one
    rank's; 0 of that itself. peak_bytes: 0 on a CPU."""

    mixer: str
    strategy: str | None
    ranks: int
    seconds: list[float]
    sent: dict[str, int]
    exchange: float | None
    exposed: float | None
    error: float
    peak_bytes: int

    @property
    def pass_seconds(self) -> float:
        """Of a forward and a backward pass, the median of the rows."""
        return statistics.median(self.seconds)

    def to_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """The same again."""
        return cls(**found)


def measure(case: Case, setting: Setting) -> Measured:
    """Called by each of the case's ranks, of which the first GPUs of the machine, or CPUs, are one each.

    Raises UserError if it is wrong.
    """
    layer = _Layer(case, setting)
    error = layer.error()
    if not error <= BOUNDS[setting.precision]:
        raise UserError(f"{case}: it differs from one rank's by {error:.1e}, more than {BOUNDS[setting.precision]:g}")
    x = layer.tokens(setting.length)
    sent = layer.sent(x)
    layer.compile()
    call = layer.passing(x)
    for _ in range(3):
        call()
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = [layer.largest(row_seconds(call, setting.device, setting.repeats)) for _ in range(_ROWS)]
    exchange, exposed = layer.traced(call) if setting.device == "cuda" and case.ranks > 1 else (None, None)
    peak = torch.cuda.max_memory_allocated() if setting.device == "cuda" else 0
    return Measured(case.mixer, case.strategy, case.ranks, seconds, sent, exchange, exposed, error, peak)


class _Layer:
    """The mixer on this rank. All ranks draw the same weights and the same tokens, of which each has its own."""

    def __init__(self, case: Case, setting: Setting) -> None:
        self._case, self._setting = case, setting
        self._device, self._dtype = torch.device(setting.device), DTYPES[setting.precision]
        self._ranks = GroupCommunicator()
        torch.manual_seed(0)
        self._mixer: Mixer = setting.mixer(case.mixer).to(self._device, self._dtype)

    def tokens(self, length: int) -> Tensor:
        """This rank's `[1, T / ranks, D]`."""
        return self._shard(self._drawn(length, 1)).requires_grad_()

    def error(self) -> float:
        """Of outputs and of the gradient of tokens."""
        if self._case.ranks == 1:
            return 0.0
        length = min(self._setting.length, _CHECKED // self._case.ranks * self._case.ranks)
        x, grad = self._drawn(length, 1).requires_grad_(), self._drawn(length, 2)
        whole = self._passed(x, grad, None)
        mine = self._passed(self._shard(x.detach()).requires_grad_(), self._shard(grad), self._ranks)
        return self.largest(max(_error(a, self._shard(b)) for a, b in zip(mine, whole, strict=True)))

    def sent(self, x: Tensor) -> dict[str, int]:
        """Bytes of a forward and a backward pass, of the rank that sends most."""
        if self._case.ranks == 1:
            return {}
        counted = Counted(self._ranks)
        self._passed(x, torch.ones_like(x), counted)
        everyone: list[Any] = [None] * self._case.ranks
        dist.all_gather_object(everyone, dict(counted.sent))
        return max(everyone, key=lambda sent: sum(sent.values()))

    def compile(self) -> None:
        """As training does on GPUs."""
        if self._setting.device == "cuda":
            self._mixer.compile(dynamic=False)

    def passing(self, x: Tensor) -> Callable[[], Any]:
        """A forward and a backward pass of these tokens and of the weights."""
        sequence, grad = self._sequence(x, self._ranks), torch.ones_like(x)
        weights = [x, *self._mixer.parameters()]
        return lambda: torch.autograd.grad(self._mixer(x, sequence), weights, grad, allow_unused=True)

    def traced(self, call: Callable[[], Any]) -> tuple[float, float]:
        """Seconds of a call in which ranks exchange, and in which nothing hides that; the means over ranks."""
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            for _ in range(_TRACED):
                call()
            torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "trace.json.gz")
            seen.export_chrome_trace(str(path))
            exposed, exchange = exposed_communication(read_trace(path))
        found = torch.tensor([exchange, exposed], dtype=torch.float64, device=self._device) / _TRACED
        dist.all_reduce(found)
        exchange, exposed = (found / self._case.ranks).tolist()
        return exchange, exposed

    def largest(self, value: float) -> float:
        """Of all ranks."""
        found = torch.tensor(value, dtype=torch.float64, device=self._device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return float(found)

    def _drawn(self, length: int, seed: int) -> Tensor:
        generator = torch.Generator(self._device).manual_seed(seed)
        shape = (1, length, self._setting.heads * self._setting.head_dim)
        return torch.randn(shape, generator=generator, device=self._device, dtype=self._dtype)

    def _shard(self, x: Tensor) -> Tensor:
        return x.chunk(self._case.ranks, 1)[self._ranks.rank].contiguous()

    def _sequence(self, x: Tensor, ranks: Communicator | None) -> Sequence:
        axis = None if ranks is None or ranks.size == 1 else SequenceAxis(ranks, self._case.strategy)
        return Sequence.of(x.shape[1], self._setting.dims.rotary, self._device, axis=axis)

    def _passed(self, x: Tensor, grad: Tensor, ranks: Communicator | None) -> tuple[Tensor, Tensor]:
        y = self._mixer(x, self._sequence(x, ranks))
        return y.detach().double(), torch.autograd.grad(y, x, grad)[0].double()


def _error(found: Tensor, expected: Tensor) -> float:
    """Relative to the norm; infinite if anything is not finite, which no maximum loses."""
    error = float((found - expected).norm() / expected.norm())
    return error if math.isfinite(error) else math.inf
