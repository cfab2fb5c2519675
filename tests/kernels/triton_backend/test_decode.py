"""One token of decoding in Triton: the torch step's outputs and state, in place, and the same in a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from glm_kernels import (
    Pattern,
    RecurrenceState,
    attention,
    attention_step,
    empty_state,
    parse_pattern,
    recurrence,
    recurrence_step,
    ssm_step,
    with_room,
)
from glm_kernels.attention.decoding import rows_read
from glm_kernels.rotation import rotated
from glm_kernels.triton_backend.decode import launch
from tests.kernels.operands import DEVICE, Inputs, each, live_slots, random_state, rows_of
from tests.tolerances import assert_close, norm, rounding

PATTERNS = ["window:1", "window:40", "dense", "lattice:2^k", "lattice:k^2+1", "offsets:2^k", "offsets:k+3"]
HEADS, KEY_DIM, VALUE_DIM = 2, 12, 20
SAME = rounding(torch.float32, 4 * (50 + 20))
"""Sums over up to 50 rows and up to 20 products, over a few steps."""


def token(documents: int, seed: int, dtype: torch.dtype = torch.float32) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    shapes = [*((documents, 1, HEADS, width) for width in (KEY_DIM, KEY_DIM, VALUE_DIM)), (documents, 1, HEADS)]
    return each(lambda shape: torch.randn(shape, generator=generator).to(DEVICE, dtype), shapes)


def state_at(pattern: Pattern, positions: list[int]) -> RecurrenceState:
    made = random_state(pattern, positions, HEADS, KEY_DIM, VALUE_DIM)
    k, y = (x.detach().float().to(DEVICE) for x in made[:2])
    return RecurrenceState(k, y, made.position.to(DEVICE))


def copied(state: RecurrenceState) -> RecurrenceState:
    return state._replace(k=state.k.clone(), y=state.y.clone(), position=state.position.clone())


def poison_free_slots(pattern: Pattern, state: RecurrenceState) -> None:
    state.k.masked_fill_(~live_slots(pattern, state).to(DEVICE), torch.nan)
    state.y.masked_fill_(~live_slots(pattern, state).to(DEVICE), torch.nan)


@pytest.mark.parametrize("spelling", PATTERNS)
@pytest.mark.parametrize(("parts", "roomy"), [(1, True), (2, False)])
def test_a_step_equals_the_torch_step(spelling, parts, roomy, monkeypatch):
    monkeypatch.setattr(launch, "_configuration", lambda programs, entries: launch._Configuration(16, 4, parts))
    pattern = parse_pattern(spelling)
    expected = state_at(pattern, [0, 5, 37])
    found = with_room(copied(expected), pattern, 50) if roomy else copied(expected)
    storage = found.k.data_ptr()
    for seed in range(5):
        poison_free_slots(pattern, found)
        operands = token(3, seed)
        y_expected, expected = recurrence_step(*operands, pattern, expected, backend="torch")
        y_found, found = recurrence_step(*operands, pattern, found, backend="triton")
        assert_close(y_found, y_expected, SAME)
    assert torch.equal(found.position, expected.position)
    live = live_slots(pattern, found).to(DEVICE)[:, :, : expected.k.shape[2]]
    slots = live.shape[2]
    for a, b in zip(found[:2], expected[:2], strict=True):
        assert_close(a[:, :, :slots].where(live, 0), b[:, :, :slots].where(live, 0), SAME)
    assert found.room == (50 if roomy else None)
    if roomy:
        assert found.k.data_ptr() == storage


def test_operands_and_states_need_not_be_contiguous():
    pattern = parse_pattern("lattice:2^k")
    state = with_room(state_at(pattern, [9, 20]), pattern, 40)
    strided = state._replace(k=state.k.transpose(1, 2).contiguous().transpose(1, 2), y=state.y.expand_as(state.y))
    operands = token(2, 0)
    spread = each(lambda x: torch.stack([x, x], 2)[:, :, 1], operands)
    expected, _ = recurrence_step(*operands, pattern, copied(state), backend="torch")
    found, after = recurrence_step(*spread, pattern, copied(strided), backend="triton")
    assert_close(found, expected, SAME)
    assert after.position.tolist() == [10, 21]


@pytest.mark.parametrize("spelling", ["window:3", "lattice:2^k", "dense", "offsets:2^k"])
def test_a_document_without_room_gives_nan_and_leaves_its_state_alone(spelling):
    pattern = parse_pattern(spelling)
    state = with_room(state_at(pattern, [2, 7]), pattern, 8)
    for seed, full in enumerate([[False, False], [False, True]]):
        before = copied(state)
        y, state = recurrence_step(*token(2, seed), pattern, state, backend="triton")
        assert y.isnan().flatten(1).all(1).tolist() == full
        assert torch.equal(state.k[1], before.k[1]) == full[1]
        assert state.position.tolist() == (before.position + 1).tolist()


@pytest.mark.parametrize("spelling", ["window:5", "lattice:k^2+1", "offsets:2^k", "dense"])
def test_steps_continue_a_prompt_read_into_an_empty_state_with_room(spelling):
    pattern, length, prompt = parse_pattern(spelling), 22, 17
    tokens = [token(2, seed) for seed in range(length)]
    whole = each(lambda rows: torch.cat(rows, 1), zip(*tokens, strict=True))
    expected, _ = recurrence(*whole, pattern, backend="torch")
    state = empty_state(pattern, 2, HEADS, KEY_DIM, VALUE_DIM, length=length, device=DEVICE)
    begun, after = recurrence(
        *rows_of(whole, 0, prompt), pattern, initial_state=state, output_final_state=True, backend="torch"
    )
    assert_close(begun, expected[:, :prompt], SAME)
    assert after is not None
    assert (after.k.shape, after.room) == (state.k.shape, length)
    for t in range(prompt, length):
        y, after = recurrence_step(*tokens[t], pattern, after, backend="triton")
        assert_close(y, expected[:, t : t + 1], SAME)


def angles_of(positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    turned = torch.tensor(positions, dtype=torch.float32)[:, None, None, None] / (1 + torch.arange(KEY_DIM // 2))
    return turned.cos().to(DEVICE), turned.sin().to(DEVICE)


@pytest.mark.parametrize("spelling", ["window:40", "dense", "lattice:2^k", "offsets:2^k"])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
def test_a_step_turns_queries_and_keys(spelling, parts, shared, monkeypatch):
    monkeypatch.setattr(launch, "_configuration", lambda programs, entries: launch._Configuration(16, 4, parts))
    pattern = parse_pattern(spelling)
    expected = with_room(state_at(pattern, [0, 5, 37]), pattern, 50)
    found = copied(expected)
    for seed in range(3):
        angles = angles_of([seed] if shared else [seed, 5 + seed, 37 + seed])
        operands = token(3, seed)
        y_expected, expected = recurrence_step(*operands, pattern, expected, angles=angles, backend="torch")
        y_found, found = recurrence_step(*operands, pattern, found, angles=angles, backend="triton")
        assert_close(y_found, y_expected, SAME)
    live = live_slots(pattern, found).to(DEVICE)
    assert_close(found.k.where(live, 0), expected.k.where(live, 0), SAME)


@pytest.mark.parametrize("window", [None, 2, 6, 40])
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize(("turned", "shared"), [(True, 1), (False, 1), (True, 2)])
def test_a_step_of_attention_equals_attention(window, parts, turned, shared, monkeypatch):
    """`shared`: heads that have a key and a value together."""
    monkeypatch.setattr(launch, "_configuration", lambda programs, entries: launch._Configuration(16, 4, parts))
    length = 11
    tokens = [token(2, seed) for seed in range(length)]
    tokens = [(q, k[:, :, ::shared], v[:, :, ::shared], d) for q, k, v, d in tokens]
    q, k, v = (torch.cat([operands[i] for operands in tokens], 1) for i in range(3))
    if turned:
        cos, sin = (x.transpose(0, 1) for x in angles_of(list(range(length))))
        q, k = rotated(q, (cos, sin)), rotated(k, (cos, sin))
    expected = attention(q, k, v, window=window)
    for backend in ("torch", "triton"):
        heads = HEADS // shared
        state = empty_state(rows_read(window), 2, heads, KEY_DIM, VALUE_DIM, length=length, device=DEVICE)
        state.k.fill_(torch.nan)
        state.y.fill_(torch.nan)
        for t, (q1, k1, v1, _) in enumerate(tokens):
            angles = angles_of([t]) if turned else None
            y, state = attention_step(q1, k1, v1, state, window=window, angles=angles, backend=backend)
            assert_close(y, expected[:, t : t + 1], SAME)
        assert state.position.tolist() == [length, length]


def test_an_ssm_step_equals_the_torch_step():
    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(2, HEADS, KEY_DIM, VALUE_DIM, generator=generator).to(DEVICE)
    found = expected.clone()
    for seed in range(4):
        q, k, v, decay = token(2, seed)
        y_expected, expected = ssm_step(q, k, v, -decay.abs(), expected, backend="torch")
        y_found, after = ssm_step(q, k, v, -decay.abs(), found, backend="triton")
        assert after.data_ptr() == found.data_ptr()
        # y is a sum of 12 products with the state, which may cancel.
        assert_close(y_found, y_expected, SAME, KEY_DIM**-0.5 * norm(q) * norm(expected))
        assert_close(found, expected, SAME)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("spelling", PATTERNS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("parts", [None, 4])
def test_a_captured_step_replayed_equals_steps_one_by_one(spelling, dtype, parts, monkeypatch):
    if parts is not None:
        monkeypatch.setattr(launch, "_configuration", lambda programs, entries: launch._Configuration(16, 4, parts))
    pattern = parse_pattern(spelling)
    one_by_one = with_room(state_at(pattern, [0, 5, 170]), pattern, 256)
    captured = copied(one_by_one)
    tokens = [token(3, seed, dtype) for seed in range(50)]
    outputs = []
    for operands in tokens:
        y, one_by_one = recurrence_step(*operands, pattern, one_by_one)
        outputs.append(y)
    fixed = each(torch.Tensor.clone, tokens[0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, _ = recurrence_step(*fixed, pattern, captured)
    for operands, expected in zip(tokens, outputs, strict=True):
        for to, x in zip(fixed, operands, strict=True):
            to.copy_(x)
        graph.replay()
        assert torch.equal(y, expected)
    assert torch.equal(captured.position, one_by_one.position)
    assert torch.equal(captured.y, one_by_one.y)
