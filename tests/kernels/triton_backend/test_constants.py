"""What kernels are compiled for, as one argument."""

from __future__ import annotations

import ast
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import triton
import triton.language as tl

from glm_kernels import triton_backend
from glm_kernels.triton_backend.common.constants import Constants


@dataclass(frozen=True, eq=False)
class Case(Constants):
    WIDTH: tl.constexpr
    DTYPE: tl.constexpr
    PACKED: tl.constexpr = False


def test_a_case_is_made_once():
    case = Case.of(WIDTH=64, DTYPE=tl.float16)
    assert Case.of(WIDTH=64, DTYPE=tl.float16) is case
    assert Case.of(WIDTH=64, DTYPE=tl.float16, PACKED=True) is not case


def test_cases_are_told_apart_by_their_names_which_compiled_kernels_are_kept_under():
    names = {
        str(Case.of(WIDTH=width, DTYPE=dtype, PACKED=packed))
        for width in (64, 128)
        for dtype in (tl.float16, tl.float32)
        for packed in (False, True)
    }
    assert len(names) == 8
    assert str(Case.of(WIDTH=64, DTYPE=tl.float16)) in names


@pytest.mark.parametrize("interpreted", [False, True])
def test_fields_are_constants_to_the_compiler_and_plain_to_the_interpreter(interpreted, monkeypatch):
    monkeypatch.setattr(triton.knobs.runtime, "interpret", interpreted)
    case = Case(WIDTH=64, DTYPE=tl.float16)
    found = [getattr(case, field.name) for field in fields(case)]
    assert [isinstance(x, tl.constexpr) for x in found] == [not interpreted] * 3
    assert [x if interpreted else x.value for x in found] == [64, tl.float16, False]


def test_no_kernel_has_thirty_parameters():
    counts = {
        f"{path.name}: {function.name}": len(function.args.args)
        for path in Path(triton_backend.__file__).parent.rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef)
        and any("triton.jit" in ast.unparse(decorator) for decorator in function.decorator_list)
    }
    assert len(counts) > 50
    assert {kernel: count for kernel, count in counts.items() if count >= 30} == {}
