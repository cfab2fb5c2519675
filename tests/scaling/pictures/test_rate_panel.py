"""What is drawn of a grid of learning rates: a line for each size, and its best rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_scale.scaling.curves import TrainedRun
from glm_scale.scaling.pictures.interactive import states_of
from glm_scale.scaling.pictures.panels import Subject, panel_of
from glm_scale.scaling.pictures.quantities import LOSSES, chosen_across
from glm_scale.scaling.pictures.shapes import Canvas, Panel
from glm_scale.scaling.pictures.sheets import draw
from tests.scaling.planted import compared, trained_run

CANVAS = Canvas(400.0, 280.0, 10.0)
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)


def grid(mixer: str, best: dict[int, float], seeds: int = 2) -> Iterator[TrainedRun]:
    """Losses that grow with the square of the logarithm of what a rate is off; `best`: the right one of each size."""
    for size, right in best.items():
        for rate in RATES:
            for seed in range(seeds):
                loss = 3.0 - 0.1 * math.log10(size / 1e6) + 0.05 * math.log(rate / right) ** 2 + 0.01 * seed
                name = f"{mixer}-{size}-{rate}-{seed}"
                yield trained_run(mixer, loss, name=name, parameters=size, seed=seed, rate=rate)


def over(*runs: TrainedRun, loss: int = 0) -> Panel | None:
    return panel_of(Subject(compared(runs)), chosen_across("rate")[0], LOSSES[loss], CANVAS)


def test_every_size_has_a_line_of_means_over_seeds_and_its_best_rate() -> None:
    panel = over(*grid("attention", {10**6: 4e-3, 10**7: 2e-3}))
    assert panel is not None
    assert len(panel.lines) == 2
    for line, (size, best) in zip(
        sorted(panel.lines, key=lambda line: -line.y.min()), ((1e6, 4e-3), (1e7, 2e-3)), strict=True
    ):
        assert tuple(line.x) == RATES
        assert line.x[line.y.argmin()] == best
        assert line.y.min() == pytest.approx(3.005 - 0.1 * math.log10(size / 1e6))
    for points in panel.points:
        assert len(points.x) == 2 * len(RATES)
        assert {float(x) for x, faint in zip(points.x, points.faint, strict=True) if not faint} <= {2e-3, 4e-3}
    assert {label.text for label in panel.labels} == {"attention, 1.00M", "attention, 10.00M"}
    assert "end of the grid" not in panel.note
    for group in panel.points:
        for x, words in zip(group.x, group.hover, strict=True):
            assert f"rate {x:g}" in ", ".join(words).split(", ")


def test_a_best_rate_at_an_end_of_the_grid_is_told() -> None:
    panel = over(*grid("attention", {10**6: 4e-3}), *grid("ssm", {10**6: 0.1}))
    assert panel is not None
    assert "1 of 2 are at an end of the grid" in panel.note
    assert {label.text for label in panel.labels} == {"attention", "ssm"}


def test_runs_of_one_rate_have_no_such_panel() -> None:
    alone = [trained_run("attention", 3.0, rate=1e-3), trained_run("ssm", 3.1, rate=2e-3), trained_run("dense", 3.2)]
    assert over(*alone) is None
    assert not any(key.startswith("rate/") for key in states_of(Subject(compared(alone))))


def test_pages_and_pictures_have_it(tmp_path: Path) -> None:
    subject = Subject(compared(grid("lattice:2^k", {10**6: 4e-3, 10**7: 4e-3})))
    assert {"rate/loss", "rate/bits_per_byte"} <= set(states_of(subject))
    draw(subject, tmp_path / "rates.svg", chosen_across("rate"))
    assert "peak of the learning rate" in (tmp_path / "rates.svg").read_text()
