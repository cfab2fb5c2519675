"""What is drawn of losses by token: means, errors and differences of breakdowns that are known."""

from pathlib import Path

import numpy as np
import pytest

from glm_scale.run_directory import RunDirectory
from glm_scale.scaling.comparison import compare
from glm_scale.scaling.pictures.interactive import states_of
from glm_scale.scaling.pictures.panels import Subject, panel_of
from glm_scale.scaling.pictures.quantities import LOSSES, chosen_across
from glm_scale.scaling.pictures.shapes import Canvas, Panel
from glm_scale.scaling.style import style_of
from glm_scale.tracking.breakdown import FOURGRAM, Breakdown
from tests.scaling.test_breakdown import breakdown, run

CANVAS = Canvas(400.0, 280.0, 10.0)


def over(name: str, *runs: RunDirectory) -> Panel | None:
    (across,) = chosen_across(name)
    return panel_of(Subject(compare(runs)), across, LOSSES[0], CANVAS)


def drawn(panel: Panel | None) -> dict[str, dict[float, float]]:
    """Lines of mixers by the places of their points."""
    assert panel is not None
    return {
        line.mixer: dict(zip((line.x / 2**0.5).round(6).tolist(), line.y.tolist(), strict=True)) for line in panel.lines
    }


def test_of_several_mixers_the_difference_to_the_best_on_the_same_tokens_is_drawn(tmp_path: Path) -> None:
    best = run(tmp_path, "b", "attention", 3.5, breakdown(2.0))
    other = run(tmp_path, "a", "ssm", 3.7, breakdown(0.5, noise=0.1))
    panel = over("recall", best, other)
    assert panel is not None
    curve = drawn(panel)["ssm"]
    assert set(curve) == {8, 16}, "where there are tokens"
    group = breakdown(0.5, noise=0.1).group(FOURGRAM) - breakdown(2.0).group(FOURGRAM)
    assert curve[16] == pytest.approx(group.loss)
    (band,) = panel.bands
    assert band.high[1] - band.low[1] == pytest.approx(2 * 1.645 * group.error)
    (zero,) = (line for line in panel.lines if line.role == "zero")
    assert (zero.mixer, zero.style, set(zero.y)) == ("attention", style_of("attention"), {0.0})
    assert {label.text for label in panel.labels} == {"attention", "ssm"}
    assert panel.y.low < min(0.0, band.low.min())
    assert panel.y.high > band.high.max()


def test_of_one_mixer_its_own_losses_are_drawn(tmp_path: Path) -> None:
    found = breakdown(2.0)
    panel = over("position", run(tmp_path, "a", "ssm", 3.5, found))
    expected = {8: found.group("position/0000008").loss, 32: found.group("position/0000032").loss}
    assert drawn(panel)["ssm"] == pytest.approx(expected)


def test_losses_of_other_text_are_not_compared(tmp_path: Path) -> None:
    best = run(tmp_path, "b", "attention", 3.5, breakdown(2.0))
    other = breakdown(0.5)
    more = Breakdown(other.sequence_length, other.sequences, 2 * other.tokens, 2 * other.nats)
    assert set(drawn(over("position", best, run(tmp_path, "a", "ssm", 3.7, more)))) == {"attention"}


def test_an_error_of_a_single_part_is_no_band_but_the_mean_is_drawn(tmp_path: Path) -> None:
    found = breakdown(1.0)
    single = Breakdown(found.sequence_length, 1, found.tokens[:1], found.nats[:1])
    panel = over("position", run(tmp_path, "a", "ssm", 3.5, single))
    assert panel is not None
    assert np.array_equal(panel.bands[0].low, panel.bands[0].high)


def test_the_page_offers_these_axes_where_losses_were_taken_apart_and_in_nats_alone(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain = run(tmp_path / "plain", "a", "ssm", 3.5, None)
    assert not {"position/loss", "recall/loss"} & set(states_of(Subject(compare([plain]))))
    assert over("position", plain) is None
    states = states_of(Subject(compare([run(tmp_path, "a", "ssm", 3.5, breakdown(1.0))])))
    assert {key for key in states if key.startswith(("position", "recall"))} == {"position/loss", "recall/loss"}
