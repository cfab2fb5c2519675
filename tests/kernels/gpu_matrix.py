"""The kernels on a GPU against float64, case by case: `python -m tests.kernels.gpu_matrix` prints the worst of each.

A case is right if the relative RMS error of y and of every gradient is at most twice that of backend = "torch" on the
same operands, and within fixed limits. The torch path computes in float32, so of 16-bit results its error is the one
rounding; results that it returns in float32 (states) are held to that rounding too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import torch
from torch import Tensor

from glm_kernels import RecurrenceState, parse_pattern, recurrence, ssm
from glm_kernels.checks import Backend
from tests.kernels.matrix_cases import CASES, EXTREMES, Case, Operands, make
from tests.kernels.operands import live_slots

LIMITS = {torch.bfloat16: (6e-3, 1.5e-2), torch.float16: (6e-3, 1.5e-2), torch.float32: (1e-5, 1e-4)}
_RATIO = 2.0
_SLACK = {torch.bfloat16: 1e-6, torch.float16: 1e-6, torch.float32: 2e-6}
_CASE_SECONDS = 100
_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # there in the interpreter, to try this file
_MOST_SHOWN = 12
Results = dict[str, Tensor]


@dataclass(frozen=True)
class Outcome:
    """Relative errors of every result, and how they compare with what is allowed (1: just so)."""

    errors: dict[str, float]
    ratios: dict[str, float]
    limits: dict[str, float]

    @property
    def wrong(self) -> list[str]:
        """What is wrong, in words."""
        return [
            f"{name}: error {error:.1e}, {self.ratios[name]:.2f} × torch's, limit {self.limits[name]:.0e}"
            for name, error in self.errors.items()
            if not (error <= self.limits[name] and self.ratios[name] <= _RATIO)
        ]


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that torch hands out without filling it holds NaN."""
    before = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = before  # type: ignore[attr-defined]


def results(case: Case, operands: Operands, backend: Backend) -> dict[str, Tensor]:
    """y, the live part of the final state, and the gradients of a random linear function of them, by name."""
    state: Any = operands.state_argument(case.operator)
    given: dict[str, Any] = {"initial_state": state, "output_final_state": True, "backend": backend, **operands.packing}
    if case.operator == "ssm":
        y, h = ssm(*operands.inputs, **given)
        assert h is not None
        outputs = {"y": y, "final": h}
    else:
        pattern = parse_pattern(case.operator)
        y, final = recurrence(*operands.inputs, pattern, **given)
        assert final is not None
        slots = max(map(pattern.slot_count, final.position.tolist()))
        final = RecurrenceState(final.k[:, :, :slots], final.y[:, :, :slots], final.position.cpu())
        live = live_slots(pattern, final).to(y.device)
        outputs = {"y": y, "final k": final.k.where(live, 0), "final y": final.y.where(live, 0)}
    generator = torch.Generator(y.device).manual_seed(1)
    directions = [operands.dy.to(y.dtype)]
    for x in list(outputs.values())[1:]:
        # The same for every head, so that it does not matter how many there are.
        one = torch.randn(len(x), 1, *x.shape[2:], generator=generator, device=y.device)
        directions.append(one.to(x.dtype).expand_as(x))
    leaves = dict(zip(("dq", "dk", "dv", "dgate"), operands.inputs, strict=True))
    leaves |= dict(zip(("dstate k", "dstate y"), operands.state, strict=False))
    used = {name: x for name, x in leaves.items() if x.numel()}
    gradients = torch.autograd.grad(list(outputs.values()), list(used.values()), directions, allow_unused=True)
    found = dict(zip(used, gradients, strict=True))
    filled = {name: torch.zeros_like(used[name]) if g is None else g for name, g in found.items()}
    return {name: x.detach() for name, x in (outputs | filled).items()}


def exact(case: Case, operands: Operands) -> dict[str, Tensor]:
    """The same in float64. Head by head, since the reference needs O(T²) memory.

    Where a document began long ago the torch path judges, which tests hold to the reference within 1e-10.
    """
    long = (case.position or 0) > 4096 or (case.operator == "ssm" and case.length > 1000)
    parts = []
    for h in range(case.heads):
        head = slice(h, h + 1)
        q, k, v, gate = (x[:, :, head].detach().double().requires_grad_() for x in operands.inputs)
        parts.append(
            results(
                case,
                Operands(
                    (q, k, v, gate),
                    [x[:, head].detach().double().requires_grad_() for x in operands.state],
                    operands.positions,
                    operands.packing,
                    operands.dy[:, :, head],
                ),
                "torch" if long else "reference",
            )
        )
    heads_at = {name: 1 if "state" in name or "final" in name else 2 for name in parts[0]}
    return {name: torch.cat([part[name] for part in parts], heads_at[name]) for name in parts[0]}


def compare(case: Case, found: Results, torch_found: Results, expected: Results) -> Outcome:
    """Judges results; gradients that vanish are held against a thousandth of v's."""
    errors, ratios, limits = {}, {}, {}
    least = 1e-3 * float(expected["dv"].norm())
    unit = {torch.bfloat16: 1.65e-3, torch.float16: 2.1e-4, torch.float32: 0.0}[case.dtype]
    for name, x in expected.items():
        is_output = name == "y" or name.startswith("final")
        size = max(float(x.norm()), 1e-30 if is_output else least)
        errors[name] = float((found[name].double() - x).norm()) / size
        rounding = float((x.to(case.dtype).double() - x).norm()) / size
        if case.values in EXTREMES:
            rounding = max(rounding, unit)
        torch_error = float((torch_found[name].double() - x).norm()) / size
        ratios[name] = errors[name] / (max(torch_error, rounding) + _SLACK[case.dtype])
        limits[name] = LIMITS[case.dtype][0 if is_output else 1]
        if case.values in EXTREMES:
            # What is left of a difference of near equals is beyond any fixed limit, the torch path's included.
            limits[name] = max(limits[name], _RATIO * torch_error)
    return Outcome(errors, ratios, limits)


def run(case: Case, seed: int = 0) -> Outcome:
    """One case with random operands. Raises ValueError if the kernels do not serve it."""
    operands = make(case, seed, _DEVICE)
    with poisoned():
        found = results(case, operands, "triton")
    return compare(case, found, results(case, operands, "torch"), exact(case, operands))


def beyond_int32(operator: str) -> list[float]:
    """Relative errors of y and its gradients for the last document in tensors of 2.28e9 numbers."""
    batch, length, heads, width, last = 34, 32768, 16, 128, 300
    assert batch * length * heads * width > 1 << 31

    def random(*size: int) -> Tensor:
        return torch.empty(size, dtype=torch.bfloat16, device=_DEVICE).normal_()

    inputs = [random(batch, length, heads, width) for _ in range(3)] + [random(batch, length, heads)]
    if operator == "ssm":
        inputs[3].abs_().neg_()
    dy = random(batch, length, heads, width)
    starts = torch.zeros(batch, length, dtype=torch.int32, device=_DEVICE)
    starts[-1, length - last :] = length - last
    for x in inputs:
        x.requires_grad_()
    apply: Callable[..., tuple[Tensor, object]] = ssm if operator == "ssm" else recurrence
    pattern = () if operator == "ssm" else (operator,)
    y, _ = apply(*inputs, *pattern, document_starts=starts, backend="triton")
    found = [x[-1:, -last:].detach().double() for x in (y, *torch.autograd.grad(y, inputs, dy))]
    alone = [x[-1:, -last:].detach().double().requires_grad_() for x in inputs]
    y, _ = apply(*alone, *pattern, backend="reference")
    expected = [y.detach(), *torch.autograd.grad(y, alone, dy[-1:, -last:].double())]
    return [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]


def _serve() -> None:
    """A process that reads numbers of cases and answers with JSON lines."""
    for line in sys.stdin:
        case, begun = CASES[int(line)], time.perf_counter()
        answer: dict[str, object]
        try:
            answer = vars(run(case)) | {}
        except Exception as error:
            refused = isinstance(error, ValueError) and "cannot serve this call" in str(error)
            answer = {"refused" if refused else "failure": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps({**answer, "seconds": time.perf_counter() - begun}), flush=True)


def _work(todo: Queue[int], answers: dict[int, dict], deadline: float) -> None:
    """Lets a process of its own work on cases; what kills it or does not end counts as wrong."""
    child = None
    while time.monotonic() < deadline:
        try:
            number = todo.get_nowait()
        except Empty:
            break
        if child is None:
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.kernels.gpu_matrix", "--serve"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{number}\n")
        child.stdin.flush()
        with ThreadPoolExecutor(1) as reader:
            line = reader.submit(child.stdout.readline)
            try:
                text = line.result(timeout=max(0.0, min(_CASE_SECONDS, deadline - time.monotonic())))
            except TimeoutError:
                text = ""
                child.kill()
        if not text and time.monotonic() >= deadline:
            break
        answers[number] = json.loads(text) if text else {"failure": "the process died or hung", "seconds": 0.0}
        if not text or "CUDA error" in answers[number].get("failure", ""):
            child.kill()  # nothing works any more after an illegal access
            child = None
    if child is not None:
        child.kill()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernels.gpu_matrix")
    parser.add_argument("only", nargs="*", help="cases whose name holds one of these")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=900, help="stop after this time")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write every case's errors here, as JSON")
    parser.add_argument("--beyond-int32", metavar="OPERATOR", help="only tensors of 2.28e9 numbers; takes 60 GB")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve()
        return 0
    if options.beyond_int32:
        errors = beyond_int32(options.beyond_int32)
        print(
            f"{options.beyond_int32}, 2.28e9 numbers: errors of y and gradients {' '.join(f'{e:.1e}' for e in errors)}"
        )
        return 0 if max(errors) <= LIMITS[torch.bfloat16][1] else 1
    begun = time.monotonic()
    chosen = [n for n, case in enumerate(CASES) if not options.only or any(part in str(case) for part in options.only)]
    todo: Queue[int] = Queue()
    for number in chosen:
        todo.put(number)
    answers: dict[int, dict] = {}
    with ThreadPoolExecutor(options.processes) as pool:
        for _ in range(options.processes):
            pool.submit(_work, todo, answers, begun + options.seconds)
    _print(chosen, answers, time.monotonic() - begun)
    if options.output:
        options.output.write_text(json.dumps({str(CASES[n]): answers[n] for n in sorted(answers)}, indent=1))
    return 1 if len(answers) < len(chosen) or any(map(_why_wrong, answers.values())) else 0


def _outcome(answer: dict) -> Outcome | None:
    return Outcome(answer["errors"], answer["ratios"], answer["limits"]) if "errors" in answer else None


def _why_wrong(answer: dict) -> str:
    """What is wrong with an answer, empty if it is right or if the kernels say that they do not serve the call."""
    outcome = _outcome(answer)
    return answer.get("failure", "") if outcome is None else "; ".join(outcome.wrong)


def _print(chosen: list[int], answers: dict[int, dict], seconds: float) -> None:
    refused = sum("refused" in answer for answer in answers.values())
    right = sum(not _why_wrong(answer) for answer in answers.values()) - refused
    name = torch.cuda.get_device_name() if _DEVICE == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}: {len(chosen)} cases, {right} right, {refused} refused, "
          f"{len(chosen) - len(answers)} not done, {seconds:.0f} s")  # fmt: skip
    print(f"{'operator':31}{'dtype':10}{'cases':>6}{'refused':>8}{'wrong':>6}{'ratio':>7} of {'':9}{'error':>9} of")
    groups: dict[tuple[str, str], list[int]] = {}
    for n in sorted(answers):
        groups.setdefault((CASES[n].operator, str(CASES[n].dtype).removeprefix("torch.")), []).append(n)
    for (operator, dtype), members in groups.items():
        known = [outcome for n in members if (outcome := _outcome(answers[n]))]
        ratio = max(((x, name) for one in known for name, x in one.ratios.items()), default=(0.0, "-"))
        error = max(((x, name) for one in known for name, x in one.errors.items()), default=(0.0, "-"))
        wrong = sum(bool(_why_wrong(answers[n])) for n in members)
        refused = sum("refused" in answers[n] for n in members)
        start = f"{operator:31}{dtype:10}{len(members):6}{refused:8}{wrong:6}"
        print(f"{start}{ratio[0]:7.2f} {ratio[1]:12}{error[0]:9.1e} {error[1]}")
    shown: Counter[str] = Counter()
    for n, answer in sorted(answers.items()):
        family = CASES[n].operator
        if (why := _why_wrong(answer)) and shown[family] < _MOST_SHOWN:
            shown[family] += 1
            print(f"  {CASES[n]}: {why}"[:360])


if __name__ == "__main__":
    raise SystemExit(main())
