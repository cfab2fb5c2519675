"""Time to the first step: how long a fresh process waits until an operator has gone forward and backward once.

Measured in processes of their own, with a Triton cache that is empty (cold) and then filled (warm). Starting Python,
importing and waking the GPU are not counted; compiling, loading kernels and building tables are.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from glm_kernels.bench.cases import Shape, operator_case, random_operands


@dataclass(frozen=True)
class FirstStep:
    """Seconds of the first forward and backward pass of an operator in a new process."""

    operator: str
    batch: int
    length: int
    cold_s: float
    warm_s: float


def first_step(name: str, shape: Shape) -> FirstStep:
    """Runs two processes, one after the other, that share a new cache folder."""
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = _seconds(name, shape, folder), _seconds(name, shape, folder)
    return FirstStep(name, shape.batch, shape.length, cold, warm)


def _seconds(name: str, shape: Shape, cache: str) -> float:
    dtype = str(shape.dtype).removeprefix("torch.")
    sizes = [f"--{size}={getattr(shape, size)}" for size in ("batch", "length", "heads", "width", "device")]
    command = [sys.executable, "-m", "glm_kernels.bench.first_step", name, *sizes, f"--dtype={dtype}"]
    environment = os.environ | {"TRITON_CACHE_DIR": f"{cache}/triton", "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the first step of {name} failed in a new process:\n{done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def _import_everything() -> None:
    for name in ("torch_backend", "triton_backend") if find_spec("triton") else ("torch_backend",):
        package = importlib.import_module(f"glm_kernels.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("operator")
    for size in ("batch", "length", "heads", "width"):
        parser.add_argument(f"--{size}", type=int, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--device", required=True)
    options = parser.parse_args()
    _import_everything()
    # Wakes the device and autograd, which imports modules of its own when it is first used.
    x = torch.ones(64, 64, device=options.device, requires_grad=True)
    torch.autograd.grad(x @ x, x, torch.ones_like(x))
    shape = Shape(
        options.batch, options.length, options.heads, options.width, getattr(torch, options.dtype), options.device
    )
    case, operands = operator_case(options.operator), random_operands(shape)
    if options.device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    case.gradients(case.run(operands), operands)
    if options.device == "cuda":
        torch.cuda.synchronize()
    print(json.dumps(time.perf_counter() - begun), flush=True)
    # Threads of the device's libraries may not survive the interpreter's end, and nothing is left to be done.
    os._exit(0)


if __name__ == "__main__":
    _main()
