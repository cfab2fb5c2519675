"""Budgets of one size, and what their runs have in common."""

import pytest

from glm_scale.errors import UserError
from glm_scale.ladder.budgets import budgets, shared_settings
from glm_scale.ladder.hyperparameters import batch_tokens, learning_rate, micro_batch, warmup_tokens


def test_rate_and_batch_are_those_of_the_fit() -> None:
    """A billion parameters on 100 billion tokens, by hand: 1.79 N^-0.713 D^0.307 and 0.58 D^0.571."""
    assert learning_rate(1e9, 1e11) == pytest.approx(1.79 * 10 ** (-9 * 0.713 + 11 * 0.307))
    assert batch_tokens(1e11, 2048) == 2048 * 512  # of 1,104,000 tokens
    assert learning_rate(1e4, 1e6) == 0.02


@pytest.mark.parametrize("tokens", [1e5, 3e7, 1e9, 1e12])
def test_a_batch_is_whole_forward_passes(tokens: float) -> None:
    batch = batch_tokens(tokens, 512)
    assert batch % (512 * micro_batch(batch, 512)) == 0
    assert micro_batch(batch, 512) * 512 <= 32768
    assert warmup_tokens(1e6, tokens, batch) % batch == 0


def test_smaller_budgets_begin_where_their_last_phase_does() -> None:
    trunk, *branches = budgets(1e6, [5, 20, 10], 0.2, 10_000, 100_000)
    assert (trunk.ratio, trunk.steps, trunk.decay, trunk.begins) == (20, 2000, 400, 0)
    assert [(b.ratio, b.steps, b.decay, b.begins) for b in branches] == [(10, 1000, 200, 800), (5, 500, 100, 400)]
    assert all(branch.begins < trunk.steps - trunk.decay for branch in branches)


@pytest.mark.parametrize(
    ("ratios", "warmup", "reason"),
    [
        ([5], 4_010_000, r"leave none between a warm-up of 4,010,000 tokens and the last 100; take a larger ratio"),
        ([5, 5.001], 0, "5 and 5.001 are the same steps"),
        ([0.001], 0, "0 steps"),
    ],
)
def test_budgets_without_room_are_refused(ratios: list[float], warmup: int, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        budgets(1e6, ratios, 0.2, 10_000, warmup)


def test_what_the_file_has_stands() -> None:
    given = {"data.sequence_length": 512, "training.batch_tokens": 1024, "training.optimizer.learning_rate": 7e-4}
    found = shared_settings(1e6, [5e6, 2e7], given)
    assert not found.keys() & given.keys()
    assert found["training.micro_batch"] == 2
    assert found["training.schedule.kind"] == "wsd"
