"""The ranks of cases of one size: `python -m glm_scale.bench.parallel.worker JSON` starts them on this machine.

The first rank prints one JSON object a case, with what was measured or why not. After an error all end: who knows what
the others wait for.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

from glm_scale.bench.parallel.cases import Case, Setting
from glm_scale.bench.parallel.session import measure
from glm_scale.errors import UserError

__all__: list[str] = []


def main(argument: str) -> None:
    """The program."""
    asked = json.loads(argument)
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, args=(asked, folder), nprocs=asked["cases"][0]["ranks"])


def _rank(rank: int, asked: dict[str, Any], folder: str) -> None:
    setting, cases = Setting.from_json(asked["setting"]), [Case(**case) for case in asked["cases"]]
    if setting.device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // cases[0].ranks))
    store = dist.FileStore(f"{folder}/store", cases[0].ranks)
    backend = "nccl" if setting.device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=cases[0].ranks)
    for case in cases:
        try:
            said: dict[str, Any] = {"measured": measure(case, setting).to_json()}
        except UserError as error:
            said = {"error": str(error)}
        if rank == 0:
            print(json.dumps({"case": str(case), **said}), flush=True)
        torch._dynamo.reset()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
