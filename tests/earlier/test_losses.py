"""Every mixer trains as it always has: 20 losses from the start, within what another processor makes of them."""

import json
from pathlib import Path

import pytest

from glm_scale.config import RunConfig, validate
from glm_scale.run.train import train
from tests.earlier.curves import BATCH, LENGTH, MIXERS, STEPS, configuration, losses_of
from tests.tolerances import loss_curve

pytestmark = pytest.mark.numeric

LOSSES = json.loads(Path(__file__).with_name("losses.json").read_text())
"""What `curves.py` printed once. A change that is meant to change them replaces the file, and says why."""

SAME = loss_curve(2 * (BATCH * LENGTH + 2 * 6 * 32), STEPS)
"""Sums over the tokens of a batch, and in the products of two layers, forward and backward, step after step."""


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_mixer_trains_as_ever(earlier, tmp_path, mixer):
    train(validate(RunConfig, configuration(mixer, earlier / "data", tmp_path), "the test"))
    expected = [float.fromhex(loss) for loss in LOSSES[mixer]]
    assert losses_of(tmp_path / "curve") == pytest.approx(expected, rel=SAME)
    assert expected[-1] < expected[0] - 1
