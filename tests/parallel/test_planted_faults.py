"""Faults planted into the real code: the comparisons that the tests make reject each, with bounds ten times as wide.

A bound that lets rounding pass on every processor is worth nothing if it lets a mistake pass as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from unittest import mock

import pytest
import torch

from glm_kernels import kernel_interface, parse_pattern
from glm_kernels.sharding import recurrence as shards
from glm_scale.layers import norm
from glm_scale.parallel.collectives.communicator import Pending
from glm_scale.parallel.collectives.simulator import SimulatedRank
from glm_scale.parallel.sequence import attention, exchange
from glm_scale.parallel.tensor import splitting
from tests import tolerances
from tests.kernels.exactness import recurrence_pass
from tests.kernels.operands import operands, packed_starts
from tests.kernels.torch_backend.test_recurrence import same
from tests.parallel import test_model_over_ranks as models
from tests.parallel.sequence import test_attention as attentions
from tests.parallel.sequence import test_recurrence as recurrences
from tests.parallel.training import Setup, Trained, attach_deepspeed, train

pytestmark = pytest.mark.numeric

Fault = Callable[[], AbstractContextManager[object]]


@pytest.fixture
def wide_bounds(monkeypatch):
    """Bounds ten times as wide as those of all other tests."""
    monkeypatch.setattr(tolerances, "CERTAINTY", 10 * tolerances.CERTAINTY)


def check_rejected(compare: Callable[[], None], fault: Fault) -> None:
    """`compare` passes without the fault, and with it fails because of numbers."""
    compare()
    with fault(), pytest.raises(AssertionError, match=tolerances.TOO_FAR):
        compare()


# Of one operator -------------------------------------------------------------------------------------------------


def documents_start_a_row_early() -> AbstractContextManager[object]:
    right = kernel_interface.documents_of

    def early(*arguments):
        made = right(*arguments)
        return replace(made, starts=(made.starts - 1).clamp(min=0))

    return mock.patch.object(kernel_interface, "documents_of", early)


def compare_packed() -> None:
    pattern, inputs, starts = parse_pattern("lattice:2^k"), operands(2, 100), packed_starts(2, 100, 3)
    expected, _ = recurrence_pass("reference", inputs, pattern, document_starts=starts)
    found, _ = recurrence_pass("torch", inputs, pattern, document_starts=starts)
    tolerances.assert_pass_close(found, expected, same(100), outputs=3)


def _named(value):
    """Of a case: the name of a fault, which is a function."""
    return getattr(value, "__name__", None) or str(value)


@pytest.mark.usefixtures("wide_bounds")
def test_a_document_that_starts_one_row_early_is_found():
    check_rejected(compare_packed, documents_start_a_row_early)


# Over sequence ranks, in the simulator -----------------------------------------------------------------------------


def compare(what: str) -> None:
    """A recurrence by its strategy, attention, or a whole model, over four ranks and on one."""
    spelling, _, strategy = what.partition(" by ")
    if spelling == "model":
        mixers, batch = ["lattice:2^k"], models.batch()
        whole = models.model(mixers)
        models.assert_same(models.over_ranks(whole, *batch), models.loss_and_gradients(whole, *batch), mixers)
        return
    starts = recurrences.documents(2, 64, 4)
    if spelling == "attention":
        inputs = attentions.without_d(2, 64, 4)
        expected = attentions.alone(inputs, starts, 20)
        found = attentions.over_ranks(inputs, starts, 20, 4, strategy)
    else:
        inputs = recurrences.operands(2, 64, 4)
        expected = recurrences.alone(inputs, starts, spelling)
        found = recurrences.over_ranks(inputs, starts, spelling, 4, strategy)
    tolerances.assert_pass_close(found, expected, recurrences.same(64))


def messages_lost() -> AbstractContextManager[object]:
    """What a rank gets from others never arrives."""
    receive = SimulatedRank.receive

    def nothing(self: SimulatedRank, like: torch.Tensor, source: int) -> Pending:
        pending = receive(self, like, source)
        return Pending(lambda: torch.zeros_like(pending.wait()))

    return mock.patch.object(SimulatedRank, "receive", nothing)


def nothing_summed() -> AbstractContextManager[object]:
    """Ranks keep their own share where the sum of all is due."""

    def unsummed(self: SimulatedRank, x: torch.Tensor) -> Pending:
        return self._together("reduce_scatter", x, lambda all_x: all_x[self.rank][self.rank])

    return mock.patch.object(SimulatedRank, "reduce_scatter", unsummed)


def halo_dropped() -> AbstractContextManager[object]:
    return mock.patch.object(exchange, "_shifted", lambda x, ranks, step: torch.zeros_like(x))


def window_one_short() -> AbstractContextManager[object]:
    """Of what a window reaches in the shard before, one row is not fetched."""
    first = attention.first_in_window

    def later(window: int | None, length: int, distance: int) -> int:
        return min(length, first(window, length, distance) + (distance > 0))

    return mock.patch.object(attention, "first_in_window", later)


def keys_not_sent_back() -> AbstractContextManager[object]:
    return mock.patch.object(shards, "add_key_gradients", lambda dk, sent, shard: dk)


@pytest.mark.usefixtures("wide_bounds")
@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("model", halo_dropped),
        ("attention by ring", messages_lost),
        ("attention by ring", window_one_short),
        ("lattice:2^k by ring", messages_lost),
        ("offsets:2^k by ring", messages_lost),
        ("lattice:2^k by scan", keys_not_sent_back),
        ("lattice:2^k by scan", nothing_summed),
        ("lattice:k^2+1 by scan", keys_not_sent_back),
    ],
    ids=_named,
)
def test_what_is_lost_between_sequence_ranks_is_found(what, fault):
    check_rejected(lambda: compare(what), fault)


# In training, over processes -------------------------------------------------------------------------------------


def gradients_of_copies_unsummed() -> AbstractContextManager[object]:
    """Tensor ranks do not add up the gradients of what all of them read."""
    return mock.patch.object(splitting, "copied_rows", lambda x, axis: x)


def outputs_unsummed() -> AbstractContextManager[object]:
    """Tensor ranks do not add up what their parts of a matrix give."""
    return mock.patch.object(splitting, "summed_rows", lambda x, axis: x)


def norms_unsummed() -> AbstractContextManager[object]:
    """Where tensor ranks hold parts of the rows, the gradients of norms stay those of the own rows."""
    return mock.patch.object(norm, "of_all_tokens", lambda weight, axis: weight)


def gradients_of_replicas_unsummed() -> AbstractContextManager[object]:
    """Data and sequence ranks go on with their own gradients."""
    import deepspeed

    return mock.patch.object(deepspeed.DeepSpeedEngine, "allreduce_gradients", return_value=None)


def train_with(fault: Fault, setup: Setup) -> Trained:
    """As `train`, on every rank with the fault."""
    attach_deepspeed()
    with fault():
        return train(setup)


@pytest.fixture(scope="module")
def alone(processes):
    return processes.run(1, train, Setup(("lattice:2^k",)))[0]


@pytest.mark.usefixtures("wide_bounds")
@pytest.mark.parametrize(
    ("setup", "fault"),
    [
        (Setup(("lattice:2^k",), tensor=2, stage=0), gradients_of_copies_unsummed),
        (Setup(("lattice:2^k",), tensor=2, stage=0), outputs_unsummed),
        (Setup(("lattice:2^k",), tensor=2, shards_tokens=True, stage=0), norms_unsummed),
        (Setup(("lattice:2^k",), stage=0), gradients_of_replicas_unsummed),
        (Setup(("lattice:2^k",), sequence=2, stage=0), gradients_of_replicas_unsummed),
    ],
    ids=_named,
)
def test_what_is_not_summed_in_training_is_found(processes, alone, setup, fault):
    (right, *_), (found, *_) = processes.run(2, train, setup), processes.run(2, train_with, fault, setup)
    right.assert_same(alone)
    assert right.weights.keys() == found.weights.keys()
    with pytest.raises(AssertionError, match=tolerances.TOO_FAR):
        found.assert_same(alone)
