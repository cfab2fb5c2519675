"""What a device waits for the host in a step: the engine's, with a model that computes next to nothing.

While a device works through a forward and a backward pass, the host is far ahead of it, and its time does not count.
So the device sleeps in the middle of them, for longer than the host takes; what a step takes beyond that is what the
device waits for. On a CPU, which is host and device, it is the whole step.

A program, since DeepSpeed keeps what it is for all of a process: `python -m glm_scale.bench.calibration.host` prints
seconds. Reading data and writing the log of a run come on top of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from glm_kernels.bench.timing import row_seconds
from glm_scale.bench.calibration.child import answer_of
from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.training import distributed
from glm_scale.training.config import TrainingConfig
from glm_scale.training.engine import Engine

__all__ = ["host_seconds"]

_WARM_UP = 3
_STEPS = 15
_VOCABULARY = 256
_CYCLES = 300_000_000
"""Of a sleep: more than a tenth of a second on any GPU."""


class _Batch(NamedTuple):
    tokens: Tensor
    labels: Tensor
    document_starts: Tensor


def host_seconds(tokens: int, device: str) -> float:
    """Of a step of so many tokens, the median; measured in a process of its own."""
    return float(answer_of(__name__, f"--tokens={tokens}", f"--device={device}"))


def _measure(tokens: int, device: torch.device) -> float:
    config = TrainingConfig(tokens=tokens, batch_tokens=tokens, micro_batch=4, precision="bf16")
    model = LanguageModel(ModelConfig(vocab_size=_VOCABULARY, layers=1, width=64, heads=1, mixers=("window:1",)))
    engine = Engine(model, config, 1, device)
    shape = 4, tokens // 4
    asleep = 0.0
    if device.type == "cuda":
        sleep = partial(torch.cuda._sleep, _CYCLES)
        asleep = row_seconds(sleep, "cuda", 2)
        model.blocks[0].register_forward_hook(lambda *_: sleep())
    taken = []
    for _ in range(_WARM_UP + _STEPS):
        given = torch.randint(_VOCABULARY, shape)
        begun = time.perf_counter()
        engine.step([_Batch(given, given.roll(-1, 1), torch.zeros(shape, dtype=torch.int32))], 1e-4)
        taken.append(time.perf_counter() - begun)
    return max(0.0, statistics.median(taken[_WARM_UP:]) - asleep)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m glm_scale.bench.calibration.host", description=__doc__)
    parser.add_argument("--tokens", type=int, default=32768, help="of a step")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    given = parser.parse_args()
    device = distributed.resolve_device(given.device)
    with tempfile.TemporaryDirectory() as folder, distributed.quiet(Path(folder) / "log"):
        distributed.start(device)
        seconds = _measure(given.tokens, device)
    print(json.dumps(seconds), flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
