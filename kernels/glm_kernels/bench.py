"""How fast the operators are on this machine: `python -m glm_kernels.bench`.

Every operator is first compared with the float64 reference; a wrong one is reported and not timed. All operators and
the SDPA baseline are timed in one run, round after round, so that the printed ratios survive a machine whose speed
drifts. Needs torch only.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from glm_kernels.attention import attention
from glm_kernels.operators import recurrence, ssm

_GATE_LENGTH = 300
_GATE_ERROR = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
DEFAULT_OPERATORS = ["lattice:2^k", "lattice:k^2+1", "window:64", "ssm", "offsets:2^k", "offsets:k^2+1", "dense"]
BASELINE = "attention"


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of one operator at one length, and its speed relative to causal SDPA in the same run."""

    operator: str
    length: int
    forward_ms: float
    forward_backward_ms: float
    speed_vs_attention: float


def call(operator: str, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, backend: str = "auto") -> Tensor:
    """One forward pass of an operator by its spelling; `gate` is d of a recurrence and the SSM's log decay."""
    if operator == BASELINE:
        return attention(q, k, v)
    if operator == "ssm":
        return ssm(q, k, v, -gate.abs(), backend=backend)[0]  # type: ignore[arg-type]
    return recurrence(q, k, v, gate, operator, backend=backend)[0]  # type: ignore[arg-type]


def operands(length: int, heads: int, width: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Fresh random q, k, v and gate of one batch row, as leaves."""
    shapes = [(1, length, heads, width)] * 3 + [(1, length, heads)]
    return [torch.randn(*shape, device=device).to(dtype).requires_grad_() for shape in shapes]


def worst_error(operator: str, heads: int, width: int, dtype: torch.dtype, device: str) -> float:
    """Largest relative RMS error of y and the gradients against the float64 reference."""
    inputs = operands(_GATE_LENGTH, heads, width, dtype, device)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    results = []
    for tensors, backend in ((inputs, "auto"), (exact, "reference")):
        q, k, v, gate = tensors
        y = call(operator, q, k, v, gate, backend)
        gradients = torch.autograd.grad(y.square().sum(), tensors, allow_unused=True)
        results.append([y, *(g for g in gradients if g is not None)])
    return max(float((a.double() - b).detach().norm() / b.detach().norm()) for a, b in zip(*results, strict=True))


def measure(operators: list[str], inputs: list[Tensor], rounds: int) -> list[Timing]:
    """Times every operator and the baseline in turn, `rounds` times after one warm-up."""
    names = [BASELINE, *(name for name in operators if name != BASELINE)]
    forward: dict[str, list[float]] = {name: [] for name in names}
    both: dict[str, list[float]] = {name: [] for name in names}
    q, k, v, gate = inputs
    for round_number in range(rounds + 1):
        for name in names:
            begun = _now(q)
            y = call(name, q, k, v, gate)
            between = _now(q)
            y.backward(torch.ones_like(y))
            ended = _now(q)
            if round_number:
                forward[name].append(1e3 * (between - begun))
                both[name].append(1e3 * (ended - begun))
    baseline = statistics.median(both[BASELINE])
    return [
        Timing(name, q.shape[1], statistics.median(forward[name]), statistics.median(both[name]),
               baseline / statistics.median(both[name]))
        for name in names
    ]  # fmt: skip


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


def machine(device: str) -> str:
    """The device and versions a measurement belongs to."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m glm_kernels.bench", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("operators", nargs="*", default=DEFAULT_OPERATORS, help="pattern spellings, or ssm")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384], metavar="T")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--width", type=int, default=64, help="K and V, the width of a head")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=3, help="timed repetitions; the median is printed")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: what torch chooses)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, options.dtype)

    right = []
    for name in options.operators:
        error = worst_error(name, options.heads, options.width, dtype, device)
        if error <= _GATE_ERROR[dtype]:
            right.append(name)
        else:
            print(f"{name}: WRONG, relative error {error:.1e} > {_GATE_ERROR[dtype]:.0e}; not timed", file=sys.stderr)
    timings: list[Timing] = []
    if not options.json:
        print(f"{machine(device)}; {options.heads} heads of {options.width}, {options.dtype}, forward+backward")
        print(f"{'operator':24}{'T':>8}{'forward ms':>12}{'fwd+bwd ms':>12}{'speed vs SDPA':>15}")
    for length in options.lengths:
        made = measure(right, operands(length, options.heads, options.width, dtype, device), options.rounds)
        timings += made
        for t in made if not options.json else []:
            print(f"{t.operator:24}{t.length:8}{t.forward_ms:12.1f}{t.forward_backward_ms:12.1f}"
                  f"{t.speed_vs_attention:14.2f}x", flush=True)  # fmt: skip
    if options.json:
        print(json.dumps({"machine": machine(device), "timings": [asdict(t) for t in timings]}))
    return 0 if len(right) == len(options.operators) else 1


if __name__ == "__main__":
    raise SystemExit(main())
