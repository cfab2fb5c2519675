"""All of a run's time is accounted for."""

import pytest

from glm_scale.training.clock import Clock
from tests.training.fake_time import FakeTime


def test_the_clock_accounts_for_all_time(fake_time: FakeTime) -> None:
    clock = Clock()
    phases = {"forward_backward": 8.0, "optimizer": 2.0, "data": 1.5, "evaluation": 10.0}
    for phase, seconds in phases.items():
        with clock.phase(phase):
            fake_time.now += seconds
    fake_time.now += 1.0
    assert clock.seconds() == phases | {"other": 1.0}
    assert clock.overhead_fraction() == pytest.approx(2.5 / 12.5)
