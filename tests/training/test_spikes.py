"""When a step is an outlier, and when skipped steps are a divergence."""

import json
import random

import pytest
from pydantic import ValidationError

from glm_scale.checkpoint import Counters, TrainingState
from glm_scale.training.config import SpikeConfig
from glm_scale.training.engine import Limits, StepResult
from glm_scale.training.spikes import SpikeWatch, upper_limit

CONFIG = SpikeConfig(window=8, threshold=6.0, rollback_after=3)
NUMBERS = [5.0, 5.2, 4.9, 5.1, 5.0, 4.8, 5.3, 5.0]


def watch_after(losses: list[float], config: SpikeConfig = CONFIG) -> SpikeWatch:
    watch = SpikeWatch(config)
    for step, loss in enumerate(losses, start=1):
        watch.note(step, StepResult(loss, loss / 2, True))
    return watch


def skipped(watch: SpikeWatch, *steps: int) -> None:
    for step in steps:
        watch.note(step, StepResult(50.0, 9.0, False, "loss 50 exceeds 6"))


def test_the_limit_has_the_threshold_as_its_robust_z_score() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 100.0]  # median 3, deviations 2 1 0 1 97
    assert upper_limit(values, 6.0) == pytest.approx(3 + 6 * 1.4826)
    draw = random.Random(0)
    normal = [draw.gauss(7, 0.1) for _ in range(4000)]
    assert upper_limit(normal, 1.0) == pytest.approx(7.1, abs=0.01)


def test_equal_values_make_no_spike_of_the_last_digit() -> None:
    assert upper_limit([2.0] * 10, 5.0) == pytest.approx(2.0 * 1.005)
    assert upper_limit([-2.0] * 10, 5.0) == pytest.approx(-2.0 * 0.995)


def test_nothing_is_judged_before_the_window_is_full() -> None:
    watch = watch_after(NUMBERS[:-1])
    skipped(watch, 8)
    assert watch.limits is None
    watch.note(9, StepResult(5.0, 2.5, True))
    assert watch.limits == Limits(upper_limit([*NUMBERS[:-1], 5.0], 6.0), upper_limit([*NUMBERS[:-1], 5.0], 6.0) / 2)


def test_skipped_steps_and_older_ones_do_not_count_as_normal() -> None:
    watch = watch_after([1000.0, *NUMBERS])
    before = watch.limits
    skipped(watch, 10, 11)
    assert watch.limits == before == Limits(upper_limit(NUMBERS, 6.0), upper_limit(NUMBERS, 6.0) / 2)


def test_an_outlier_that_was_let_in_hides_no_other() -> None:
    watch = watch_after([*NUMBERS[:-1], 1000.0])
    assert watch.limits is not None
    assert watch.limits.loss < 10


def test_so_many_skips_within_the_window_are_a_divergence() -> None:
    watch = watch_after(NUMBERS)
    skipped(watch, 9, 12)
    assert watch.divergence is None
    watch.note(16, StepResult(5.0, 2.5, True))
    skipped(watch, 17)
    assert watch.divergence is None, "step 9 is outside the window"
    skipped(watch, 18)
    assert watch.divergence is not None
    assert watch.divergence.first == 12
    assert "3 of the last 8 steps" in watch.divergence.reason


def test_going_back_is_of_use_only_so_often_unless_it_leads_further() -> None:
    watch = watch_after(NUMBERS)
    saved = watch.history()
    for _ in range(3):
        assert watch.may_go_back_to(8)
        skipped(watch, 10, 11, 12)
        watch.went_back(8, saved)
        assert watch.divergence is None
    assert not watch.may_go_back_to(8)
    assert not watch.may_go_back_to(4)
    assert watch.may_go_back_to(12)
    watch.went_back(12, saved)
    assert watch.may_go_back_to(8)
    watch.went_back(8, saved)
    watch.went_back(12, saved)
    assert not watch.may_go_back_to(12), "8 and 12 in turn would go on for ever"


def test_it_survives_a_checkpoint() -> None:
    watch = watch_after(NUMBERS)
    watch.went_back(6, watch.history())
    skipped(watch, 9, 10)
    saved = json.loads(json.dumps(TrainingState(Counters(), 0, {}, spikes=watch.history()).as_json()))
    again = SpikeWatch(CONFIG, TrainingState.from_json(saved).spikes)
    assert again.history() == watch.history()
    assert again.limits == watch.limits


def test_a_longer_window_fills_up_first() -> None:
    again = SpikeWatch(CONFIG.model_copy(update={"window": 9}), watch_after(NUMBERS).history())
    assert again.limits is None


def test_more_skips_than_the_window_has_steps_are_refused() -> None:
    with pytest.raises(ValidationError, match="rollback_after 9 exceeds the window of 8 steps"):
        SpikeConfig(window=8, rollback_after=9)
