import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_scale.training.config import ScheduleConfig
from glm_scale.training.schedule import learning_rate

BUDGET = 1000

schedules = st.one_of(
    st.builds(
        ScheduleConfig, kind=st.just("cosine"), warmup_tokens=st.integers(0, BUDGET), final_fraction=st.floats(0, 1)
    ),
    st.builds(
        ScheduleConfig,
        kind=st.just("wsd"),
        warmup_tokens=st.integers(0, 400),
        decay_tokens=st.none() | st.integers(1, 600),
        final_fraction=st.floats(0, 1),
    ),
)


@given(schedules, st.integers(1, BUDGET))
def test_rate_is_positive_and_never_above_the_peak(schedule: ScheduleConfig, tokens: int) -> None:
    rate = learning_rate(schedule, 2.0, tokens, BUDGET)
    assert 0 <= rate <= 2.0 * (1 + 1e-12)


@given(schedules)
def test_rises_through_the_warmup_then_never_rises_again(schedule: ScheduleConfig) -> None:
    rates = [learning_rate(schedule, 1.0, tokens, BUDGET) for tokens in range(BUDGET + 1)]
    top = schedule.warmup_tokens
    assert all(a <= b for a, b in itertools.pairwise(rates[:top]))
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(rates[top:]))


@given(schedules.filter(lambda schedule: schedule.warmup_tokens < BUDGET))
def test_ends_at_the_final_fraction_and_stays_there(schedule: ScheduleConfig) -> None:
    for tokens in (BUDGET, BUDGET + 50):
        assert learning_rate(schedule, 3.0, tokens, BUDGET) == pytest.approx(3.0 * schedule.final_fraction, abs=1e-12)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup_tokens=200, final_fraction=0.0)
    assert learning_rate(schedule, 1.0, 100, BUDGET) == 0.5
    assert learning_rate(schedule, 1.0, 600, BUDGET) == pytest.approx(0.5)


def test_wsd_is_flat_until_the_last_fifth() -> None:
    schedule = ScheduleConfig(kind="wsd", warmup_tokens=100, final_fraction=0.0)
    assert {learning_rate(schedule, 1.0, tokens, BUDGET) for tokens in range(100, 801)} == {1.0}
    assert learning_rate(schedule, 1.0, 850, BUDGET) == pytest.approx(1 - math.sqrt(50 / 200))
