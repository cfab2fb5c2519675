"""The command line of the benchmark: gate, clock, report."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from glm_kernels.bench import gate, report, timing
from glm_kernels.bench.cases import DEFAULT_OPERATORS, Case, Operands, Shape, operator_case, random_operands
from glm_kernels.bench.first_step import first_step
from glm_kernels.bench.peers import PEERS, peer_cases
from glm_kernels.patterns import PatternError, parse_pattern

_DEFAULTS: dict[str, dict[str, Any]] = {
    "cuda": {
        "tokens": 32768, "lengths": [2048, 8192, 32768], "heads": 16, "width": 128, "dtype": "bfloat16", "rounds": 25,
    },
    "cpu": {"tokens": None, "lengths": [4096, 16384], "heads": 4, "width": 64, "dtype": "float32", "rounds": 3},
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; 0, or 1 if an operator was wrong."""
    options = _options(arguments)
    device = options.device
    found = report.Report(report.machine(device), _settings(options))
    text = sys.stderr if options.json else sys.stdout

    shapes = [_shape(options, length) for length in options.lengths]
    right = _checked(options, shapes, found)
    found.copy_gbs = (copy := timing.copy_bandwidth(device)) / 1e9
    packed = f", documents of {options.packed} tokens" if options.packed else ""
    print(f"{found.machine}\n{options.heads} heads of {options.width}, {options.dtype}{packed}; "
          f"copy bandwidth {found.copy_gbs:.0f} GB/s", file=text)  # fmt: skip
    for shape in shapes if right else ():
        _say(f"timing {shape}")
        operands = random_operands(shape, options.packed)
        cases = _running(_cases(options, right, shape), operands, found)
        measured = timing.measure(cases, operands, options.rounds)
        lines = report.timings(measured, shape, operands.starts, copy)
        found.timings += lines
        print("\n".join([report.heading(shape), *map(report.line, lines)]), file=text, flush=True)
        _write(options.output, found)  # a run that is cut short is not lost
        del operands
    print(f"\n{report.LEGEND}", file=text)
    if options.compile_time:
        for name in right:
            _say(f"first step of {name}")
            found.first_steps.append(first_step(name, shapes[0]))
        print(report.first_step_table(found.first_steps), file=text)
    for name, reason in found.skipped.items():
        print(f"{name}: skipped, {reason}", file=text)
    _write(options.output, found)
    if options.json:
        print(json.dumps(found.as_json(), indent=1))
    return 0 if len(right) == len(options.operators) else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = _DEFAULTS[device]

    def default(name: str) -> str:
        return f"(default here: {chosen[name]})"

    parser = argparse.ArgumentParser(
        prog="python -m glm_kernels.bench",
        description="Check every operator against float64, then time it beside attention in the same run.",
    )
    add = parser.add_argument
    add("operators", nargs="*", default=DEFAULT_OPERATORS, help="pattern spellings, or ssm (default: all seven)")
    add("--lengths", type=int, nargs="+", metavar="T", help=f"tokens of a batch row {default('lengths')}")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--batch", type=int, metavar="B", help="batch rows (default: 1, or what --tokens gives)")
    size.add_argument("--tokens", type=int, metavar="N", help=f"tokens in all: B = N / T {default('tokens')}")
    add("--heads", type=int, metavar="H", help=default("heads"))
    add("--width", type=int, metavar="K", help=f"K and V, the width of a head {default('width')}")
    add("--dtype", choices=[str(x).removeprefix("torch.") for x in gate.LIMITS], help=default("dtype"))
    add("--packed", type=int, metavar="MEAN", help="also time rows packed with random documents of this mean length, "
        "table building included")  # fmt: skip
    add("--peers", nargs="*", choices=PEERS, default=["sdpa"],
        help="kernels of others: sdpa; flex, FlexAttention with the same mask; fla (tunes for minutes)")  # fmt: skip
    add("--compile-time", action="store_true",
        help="also measure the first step of each operator in new processes, cache empty and filled")  # fmt: skip
    add("--rounds", type=int, metavar="N", help=f"timed repetitions; the median is printed {default('rounds')}")
    add("--threads", type=int, metavar="N", help="CPU threads (default: what torch chooses)")
    add("--json", action="store_true", help="print one JSON object; the table goes to stderr")
    add("--output", type=Path, metavar="FILE", help="also write the JSON object here, for `glm-scale bench plot`")
    options = parser.parse_args(arguments)
    try:
        for name in options.operators:
            if name != "ssm":
                parse_pattern(name)
    except PatternError as error:
        parser.error(str(error))
    options.device = device
    if options.batch:
        chosen = chosen | {"tokens": None}
    for name, value in chosen.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("heads", "width", "dtype", "tokens", "batch", "packed", "rounds", "peers")
    return {name: getattr(options, name) for name in names}


def _shape(options: argparse.Namespace, length: int) -> Shape:
    batch = options.batch or max(1, (options.tokens or length) // length)
    return Shape(batch, length, options.heads, options.width, getattr(torch, options.dtype), options.device)


def _checked(options: argparse.Namespace, shapes: list[Shape], found: report.Report) -> list[str]:
    """The operators that compute the right thing."""
    right = []
    for name in options.operators:
        checks = []
        for length in gate.lengths(name, shapes):
            _say(f"checking {name}, T = {length}")
            shape = replace(shapes[0], batch=1, length=length)
            checks.append(gate.check(name, shape, None))
            if options.packed and length == gate.SHORT:
                checks.append(gate.check(name, shape, min(options.packed, length // 3)))
        found.checks += checks
        for wrong in (one for one in checks if not one.right):
            print(f"WRONG, not timed: {wrong}", file=sys.stderr)
        if all(one.right for one in checks):
            right.append(name)
    return right


def _cases(options: argparse.Namespace, operators: list[str], shape: Shape) -> list[Case]:
    cases = peer_cases(options.peers, operators, shape)
    for name in operators:
        cases.append(operator_case(name))
        if options.packed:
            cases.append(operator_case(name, packed=True))
    return cases


def _running(cases: list[Case], operands: Operands, found: report.Report) -> list[Case]:
    """The cases that run at this shape. A peer that does not is skipped, and so is whatever needs too much memory."""
    running = []
    for case in cases:
        try:
            case.gradients(case.run(operands), operands)
        except (RuntimeError, ImportError, ValueError) as error:
            if case.gate == "d" and not isinstance(error, torch.OutOfMemoryError):
                raise
            found.skipped[f"{case.name}, T = {operands.q.shape[1]}"] = str(error).split("\n")[0]
            continue
        running.append(case)
    return running


def _write(path: Path | None, found: report.Report) -> None:
    if path:
        path.write_text(json.dumps(found.as_json(), indent=1) + "\n", encoding="utf-8")


def _say(what: str) -> None:
    """Progress, beside the results."""
    print(what, file=sys.stderr, flush=True)
