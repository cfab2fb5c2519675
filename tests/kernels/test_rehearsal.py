"""Operators are run on zeros while a compiler is at work, and their kernels are there when it is done."""

import logging
import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from glm_kernels import recurrence, registration, ssm
from glm_kernels.rehearsal import rehearse
from tests.kernels.operands import each, operands

LENGTH = 48


def finish(thread):
    assert thread is not None
    thread.join()


def test_each_kind_of_call_is_rehearsed_once():
    calls = []

    def run(x, text, missing, starts):
        calls.append((x, text, missing, starts))

    for size, text in [(2, "a"), (2, "a"), (3, "a"), (2, "b")]:
        given = torch.ones(size, 5, dtype=torch.bfloat16), text, None, torch.ones(size, dtype=torch.int32)
        finish(rehearse(run, given, "cpu"))
    assert [(len(x), text) for x, text, *_ in calls] == [(2, "a"), (3, "a"), (2, "b")]
    x, _, missing, starts = calls[1]
    assert torch.equal(x, torch.zeros(3, 5, dtype=torch.bfloat16))
    assert missing is None
    assert torch.equal(starts, torch.zeros(3, dtype=torch.int32))


def test_nothing_happens_on_other_devices_and_for_shapes_that_are_not_known():
    def run(*_):
        raise AssertionError("was called")

    assert rehearse(run, (torch.ones(2),)) is None
    assert rehearse(run, (torch.ones(2), torch.ones(2, device="meta")), "cpu") is None
    shapes = ShapeEnv()
    with FakeTensorMode(shape_env=shapes) as mode:
        symbolic = mode.from_tensor(torch.ones(4, 6))
        size = shapes.create_unbacked_symint()
    assert rehearse(run, (symbolic.new_empty(size),), "cpu") is None
    assert not shapes.guards


def test_what_fails_is_left_to_the_call_itself(caplog):
    def run(x):
        raise ValueError(f"no room for {len(x)}")

    with caplog.at_level(logging.DEBUG, "glm_kernels.rehearsal"):
        finish(rehearse(run, (torch.ones(7),), "cpu"))
    assert "no room for 7" in caplog.text


def applied(name, q, k, v, gate, starts):
    if name == "ssm":
        return ssm(q, k, v, gate, document_starts=starts)[0]
    return recurrence(q, k, v, gate, name, document_starts=starts)[0]


@pytest.mark.parametrize("name", ["lattice:2^k", "ssm"])
def test_a_compiler_that_asks_for_shapes_begins_what_it_asks_for(name, monkeypatch):
    asked = []
    monkeypatch.setattr(registration, "rehearse", lambda run, arguments: asked.append((run.__name__, run, arguments)))
    inputs = operands(2, LENGTH, dtype=torch.float32)
    starts = torch.zeros(2, LENGTH, dtype=torch.int32)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *x: applied(name, *x), backend="aot_eager")
    compiled(*inputs, starts).sum().backward()
    assert {kind for kind, _, _ in asked} == {"_results", "_cast_gradients"}
    for kind, run, arguments in asked:
        # The compiler's own are tensors without numbers.
        zeros = [torch.zeros(x.shape, dtype=x.dtype) if isinstance(x, torch.Tensor) else x for x in arguments]
        first, *_ = run(*zeros)
        assert first.shape == inputs[0 if kind == "_cast_gradients" else 2].shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels are compiled for a GPU")
@pytest.mark.parametrize("name", ["lattice:2^k", "lattice:k^2+1", "offsets:2^k", "ssm"])
def test_kernels_are_there_when_they_are_asked_for(name):
    from triton import knobs

    made = operands(1, 208, 2, 64, 64, dtype=torch.bfloat16, device="cuda")
    starts = torch.zeros(1, 208, dtype=torch.int32, device="cuda")
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fakes = each(lambda x: mode.from_tensor(x).requires_grad_(), made)
        applied(name, *fakes, mode.from_tensor(starts)).sum().backward()
    for thread in threading.enumerate():
        if thread.name == "rehearsal":
            thread.join()
    compiled = []
    knobs.runtime.jit_post_compile_hook = lambda **given: compiled.append(given["repr"])
    try:
        applied(name, *made, starts).sum().backward()
    finally:
        knobs.runtime.jit_post_compile_hook = None
    assert not compiled
