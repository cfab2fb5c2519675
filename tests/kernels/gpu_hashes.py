"""Hashes of what the kernels compute on a GPU, to compare two versions bit for bit on one card.

    PYTHONPATH=.:OLD/kernels python -m tests.kernels.gpu_hashes old.json
    PYTHONPATH=.:NEW/kernels python -m tests.kernels.gpu_hashes new.json --than old.json

Asks for nothing but the public operators: outputs, states and gradients of every case of the matrix, and a few steps of
decoding from the state after it. Kernels add in a fixed order, so that equal code gives equal bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glm_kernels import parse_pattern, recurrence_step, ssm_step
from tests.kernels.gpu_matrix import results
from tests.kernels.matrix_cases import CASES, Case, Operands, make

_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_STEPS = 2
Hashes = dict[str, str]


def hash_of(x: Tensor) -> str:
    """Of the bytes of a tensor, shortened."""
    return hashlib.sha256(x.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def hashes_of(number: int) -> Hashes:
    """Of a case of the matrix, by the names of its results; a refusal by its words."""
    case = CASES[number]
    operands = make(case, 0, _DEVICE)
    try:
        found = {name: hash_of(x) for name, x in results(case, operands, "triton").items()}
        return found | {f"step {n}": hash_of(y) for n, y in enumerate(_decoded(case, operands))}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}


@torch.no_grad()
def _decoded(case: Case, operands: Operands) -> list[Tensor]:
    """Outputs of the first tokens of a case, from its initial state, token by token."""
    state: Any = operands.state_argument(case.operator)
    if state is None or case.packing == "cu_seqlens":
        return []
    outputs = []
    for token in range(min(_STEPS, case.length)):
        q, k, v, gate = (x[:, token : token + 1].contiguous() for x in operands.inputs)
        if case.operator == "ssm":
            y, state = ssm_step(q, k, v, gate, state, backend="triton")
        else:
            y, state = recurrence_step(q, k, v, gate, parse_pattern(case.operator), state, backend="triton")
        outputs.append(y)
    return outputs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--than", type=Path, help="the hashes of another version; exit code 1 if any differs")
    parser.add_argument("--processes", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1e9, help="cases that are not begun by then are left out")
    asked = parser.parse_args()
    begin, found = time.monotonic(), {}
    with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn"), max_tasks_per_child=40) as pool:
        pending = {str(CASES[number]): pool.submit(hashes_of, number) for number in range(len(CASES))}
        for name, future in pending.items():
            left = asked.seconds - (time.monotonic() - begin)
            if left <= 0 and future.cancel():
                continue
            found[name] = future.result()
    asked.output.write_text(json.dumps(found, indent=1))
    print(f"{len(found)} of {len(CASES)} cases in {time.monotonic() - begin:.0f} s", flush=True)
    return _compare(json.loads(asked.than.read_text()), found) if asked.than else 0


def _compare(before: dict[str, Hashes], after: dict[str, Hashes]) -> int:
    both = [case for case in before if case in after]
    changed = {case: [x for x in before[case] if before[case][x] != after[case].get(x)] for case in both}
    changed = {case: names for case, names in changed.items() if names}
    for case, names in changed.items():
        print(f"{case}: {', '.join(names)}")
    print(f"{len(both) - len(changed)} of {len(both)} cases have the same bits")
    return bool(changed)


if __name__ == "__main__":
    sys.exit(main())
