"""Exchanges between the GPUs of this machine, each in a process of its own.

A program: `python -m glm_scale.bench.calibration.exchanges --ranks 2` prints one list. On CPUs they talk over gloo.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

from glm_kernels.bench.timing import row_seconds
from glm_scale.bench.calibration.child import answer_of
from glm_scale.planning.calibration import ExchangeTime

__all__ = ["exchange_times"]

_AT_LEAST = 0.05
"""Seconds of a row of calls."""
_MOST_CALLS = 200


def exchange_times(ranks: int, messages: Sequence[int], device: str) -> list[ExchangeTime]:
    """Of every collective at several sizes in bytes, over the first `ranks` GPUs."""
    sizes = [f"--message={size}" for size in messages]
    found = answer_of(__name__, f"--ranks={ranks}", f"--device={device}", *sizes)
    return [ExchangeTime.model_validate(one) for one in found]


def _measure(rank: int, ranks: int, messages: Sequence[int], device: str, folder: str) -> None:
    """One rank; the first writes what was found into `folder`."""
    if device == "cuda":
        torch.cuda.set_device(rank)
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=rank, world_size=ranks)
    found = []
    for size in messages:
        for collective, sent, call in _calls(rank, ranks, size, device):
            seconds = _together(call, device)
            found.append({"collective": collective, "ranks": ranks, "sent": max(1, int(sent)), "seconds": seconds})
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _together(call: Callable[[], Any], device: str) -> float:
    """Seconds of a call, the median of three rows.

    All ranks make the same number of calls, which the first one chooses, so that none waits for one that is through.
    """
    call()
    once = torch.tensor([row_seconds(call, device, 3)], device=device)
    dist.broadcast(once, src=0)
    count = max(3, min(_MOST_CALLS, int(_AT_LEAST / max(float(once), 1e-6))))
    return statistics.median(row_seconds(call, device, count) for _ in range(3))


def _calls(rank: int, ranks: int, size: int, device: str) -> Iterator[tuple[str, float, Callable[[], Any]]]:
    """Of messages of about `size` bytes: the collective, the bytes that a rank sends, and the call."""
    numbers = -(-size // 4 // ranks) * ranks
    # Zeros, whose sums stay what they are.
    whole, other = torch.zeros(numbers, device=device), torch.zeros(numbers, device=device)
    part = torch.zeros(numbers // ranks, device=device)
    share = (ranks - 1) / ranks * 4 * numbers
    yield "all_reduce", 2 * share, lambda: dist.all_reduce(whole)
    yield "reduce_scatter", share, lambda: dist.reduce_scatter_tensor(part, whole)
    yield "all_gather", share, lambda: dist.all_gather_into_tensor(other, part)
    yield "all_to_all", share, lambda: dist.all_to_all_single(other, whole)
    yield "send", 4 * numbers, lambda: _pass_on(rank, ranks, whole, other)


def _pass_on(rank: int, ranks: int, given: torch.Tensor, taken: torch.Tensor) -> None:
    """Everybody sends to the next one, as a ring does."""
    following, before = (rank + 1) % ranks, (rank - 1) % ranks
    operations = [dist.P2POp(dist.isend, given, following), dist.P2POp(dist.irecv, taken, before)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m glm_scale.bench.calibration.exchanges", description=__doc__)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--message", type=int, action="append", required=True, help="bytes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (given.ranks, given.message, given.device, folder)
        multiprocessing.spawn(_measure, args=arguments, nprocs=given.ranks)
        print(Path(folder, "found.json").read_text(encoding="utf-8"), flush=True)


if __name__ == "__main__":
    main()
