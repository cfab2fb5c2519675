"""What is drawn of runs that are known: where points, curves, bands and names are."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from glm_scale.scaling.answer import answer
from glm_scale.scaling.endpoints import endpoints_of
from glm_scale.scaling.laws import Bootstrap, optimal
from glm_scale.scaling.pictures.panels import Subject, panel_of
from glm_scale.scaling.pictures.quantities import COSTS, LOSSES, chosen_across
from glm_scale.scaling.pictures.shapes import Canvas, Panel
from glm_scale.scaling.placement import Box, box_of
from glm_scale.scaling.style import style_of
from tests.scaling.planted import FLOPS, SIZES, compared, ladder, planted, said, trained_run

CANVAS = Canvas(400.0, 280.0, 10.0)
EIGHT = {
    "attention": 3.10, "lattice:2^k": 3.13, "lattice:k^2+1": 3.12, "ssm": 3.05, "dense": 3.22, "offsets:2^k": 3.16,
    "window:16": 3.3, "local:128": 3.18,
}  # fmt: skip


def over(name: str, subject: Subject, loss: int = 0) -> Panel:
    """The panel over a cost."""
    (cost,) = chosen_across(name)
    panel = panel_of(subject, cost, LOSSES[loss], CANVAS)
    assert panel is not None
    return panel


def eight() -> Subject:
    return Subject(compared(trained_run(mixer, loss, cache=100 * len(mixer)) for mixer, loss in EIGHT.items()))


def drawn(panel: Panel) -> dict[str, tuple[float, float]]:
    return {group.mixer: (float(group.x[0]), float(group.y[0])) for group in panel.points}


@pytest.mark.parametrize(
    ("cost", "value"),
    [
        ("tokens", 1e7), ("flops", 8e13), ("seconds", 100.0), ("parameters", 1e6), ("decode_flops", 8e6 / 3),
        ("cache", 1e6),
    ],
)  # fmt: skip
def test_a_run_stands_at_what_it_took_and_at_its_loss(cost: str, value: float) -> None:
    subject = Subject(compared([trained_run("attention", 3.0)]))
    assert drawn(over(cost, subject))["attention"] == pytest.approx((value, 3.0))
    assert drawn(over(cost, subject, loss=1))["attention"] == pytest.approx((value, 1.2))


def test_lines_end_at_their_points_and_begin_after_the_first_of_training() -> None:
    panel = over("flops", eight())
    ends = {line.mixer: (line.x[-1], line.y[-1]) for line in panel.lines if line.role == "validation"}
    assert ends == drawn(panel)
    assert all(line.x[0] >= 0.02 * line.x[-1] for line in panel.lines)
    assert {line.role for line in panel.lines} == {"training", "validation"}


def test_what_no_run_says_is_no_panel() -> None:
    subject = Subject(compared([trained_run("ssm", 3.0, cache=None, speed=None, bits=None)]))
    assert panel_of(subject, chosen_across("cache")[0], LOSSES[0], CANVAS) is None
    assert panel_of(subject, chosen_across("seconds")[0], LOSSES[0], CANVAS) is None
    assert panel_of(subject, COSTS[0], LOSSES[1], CANVAS) is None


def test_a_run_that_failed_has_a_line_and_a_name_that_says_so_but_no_point() -> None:
    panel = over("tokens", Subject(compared([trained_run("ssm", 3.0), trained_run("dense", 3.2, status="failed")])))
    assert [group.mixer for group in panel.points] == ["ssm"]
    assert {label.text for label in panel.labels} == {"ssm", "dense (failed)"}


def test_the_frontier_steps_through_runs_that_nothing_beats() -> None:
    runs = [("ssm", 3.0, 400), ("dense", 2.9, 900), ("attention", 3.1, 800), ("lattice:2^k", 3.2, 100)]
    panel = over("cache", Subject(compared(trained_run(mixer, loss, cache=cache) for mixer, loss, cache in runs)))
    (frontier,) = (line for line in panel.lines if line.role == "frontier")
    assert list(zip(frontier.x[:-1], frontier.y[:-1], strict=True)) == [
        (100, 3.2), (400, 3.2), (400, 3.0), (900, 3.0), (900, 2.9),
    ]  # fmt: skip
    assert {group.mixer for group in panel.points if group.faint[0]} == {"attention"}


def test_the_area_of_a_point_over_the_cache_shows_its_speed() -> None:
    runs = [trained_run("ssm", 3.0, speed=4e4), trained_run("dense", 2.9, speed=1e4)]
    sizes = {group.mixer: float(group.sizes[0]) for group in over("cache", Subject(compared(runs))).points}
    assert sizes["ssm"] == pytest.approx(2 * sizes["dense"])


@pytest.mark.parametrize("cost", [cost.key for cost in COSTS])
@pytest.mark.parametrize("subject", [eight, ladder])
def test_names_cover_neither_each_other_nor_what_is_outside(cost: str, subject: object) -> None:
    panel = over(cost, subject())  # type: ignore[operator]
    boxes = names(panel)
    assert not any(one.meets(other) for one, other in combinations(boxes, 2))
    assert all(box.left >= 0 and box.bottom >= -0.01 and box.top <= CANVAS.height + 0.01 for box in boxes)
    assert all(box.right <= CANVAS.width + 0.01 for box in boxes)
    assert len(boxes) == len({group.mixer for group in panel.points})


@pytest.mark.parametrize("subject", [eight, ladder])
def test_a_column_of_names_stands_right_of_all_that_it_names(subject: object) -> None:
    panel = over("flops", subject())  # type: ignore[operator]
    across = [*(line.x for line in panel.lines), *(group.x for group in panel.points)]
    drawn_until = max(float(panel.x.share(x).max()) for x in across)
    assert min(box.left for box in names(panel)) > drawn_until * CANVAS.width


def test_of_many_runs_each_mixer_has_one_name_at_its_best() -> None:
    runs = [trained_run(mixer, 3 + 0.01 * n, name=f"{mixer}{n}", seed=n) for mixer in ("ssm", "gla") for n in range(20)]
    panel = over("tokens", Subject(compared(runs)))
    assert {(label.text, label.y) for label in panel.labels} == {("ssm", 3.0), ("gla", 3.0)}


def test_of_more_runs_than_there_is_room_for_the_best_have_names() -> None:
    panel = over("tokens", Subject(compared(trained_run("ssm", 3 + 0.01 * n, name=f"r{n}") for n in range(60))))
    boxes = names(panel)
    assert {"r0", "r1"} <= {label.text for label in panel.labels}
    assert not any(one.meets(other) for one, other in combinations(boxes, 2))
    assert 15 < len(boxes) < 25


def test_bands_are_the_quantiles_of_the_bootstraps_draws() -> None:
    """Against the closed form of the optimal allocation, which knows nothing of how curves are drawn."""
    subject = ladder()
    law = said(subject).law
    assert isinstance(law, Bootstrap)
    assert law.refused == 0
    bands = {band.mixer: band for band in over("flops", subject).bands}
    lines = {line.mixer: line for line in over("flops", subject).lines if line.role == "law"}
    for mixer, kappa in FLOPS.items():
        band = bands[mixer]
        for place in (0, 15, 31):
            losses = [optimal(draw[mixer], float(band.x[place]), kappa).loss for draw in law.draws]
            expected = np.quantile(losses, [0.05, 0.95])
            assert (band.low[place], band.high[place]) == pytest.approx(tuple(expected), rel=2e-4)
            best = optimal(law.fit.laws[mixer], float(band.x[place]), kappa).loss
            assert lines[mixer].y[place] == pytest.approx(best, rel=2e-4)


def test_over_tokens_there_is_a_curve_for_each_size_and_over_parameters_for_each_budget() -> None:
    by_tokens = [line for line in over("tokens", ladder()).lines if line.role == "law" and line.mixer == "attention"]
    assert len(by_tokens) == len(SIZES)
    for line, size in zip(by_tokens, SIZES, strict=True):
        assert line.y == pytest.approx(planted("attention")(size, line.x), rel=0.01)
        assert (line.x[0], line.x[-1]) == pytest.approx((5 * size, 80 * size))
    by_size = [line for line in over("parameters", ladder()).lines if line.role == "law" and line.mixer == "attention"]
    for line, ratio in zip(by_size, (5, 20, 80), strict=True):
        assert line.y == pytest.approx(planted("attention")(line.x, ratio * line.x), rel=0.01)


def test_budgets_may_be_numbers_of_tokens() -> None:
    sizes, budgets = (10**6, 4 * 10**6, 16 * 10**6), (2 * 10**7, 10**8, 5 * 10**8)
    random = np.random.default_rng(1)
    runs = [
        trained_run(
            "attention", float(planted("attention")(size, budget)) * float(np.exp(5e-4 * random.standard_normal())),
            name=f"{size}-{budget}-{seed}", parameters=size, tokens=budget, seed=seed,
        )
        for size in sizes for budget in budgets for seed in (0, 1)
    ]  # fmt: skip
    comparison = compared(runs)
    panel = over("parameters", Subject(comparison, answer(endpoints_of(comparison.runs), "attention")))
    curves = [line for line in panel.lines if line.role == "law"]
    assert len(curves) == len(budgets)
    for line, budget in zip(curves, budgets, strict=True):
        assert line.y == pytest.approx(planted("attention")(line.x, budget), rel=0.01)


def test_curves_are_on_the_scale_of_the_losses() -> None:
    nats, bits = (over("flops", ladder(), loss=loss) for loss in (0, 1))
    assert bits.bands[0].high == pytest.approx(0.4 * nats.bands[0].high)


def test_residuals_are_those_of_the_fit() -> None:
    subject = ladder()
    law = said(subject).law
    assert isinstance(law, Bootstrap)
    below = over("flops", subject).residuals
    assert below is not None
    shown = sorted(float(y) for group in below.points for y in group.y)
    assert shown == pytest.approx(sorted(100 * (np.exp(-law.fit.residuals) - 1)))
    assert below.x == over("flops", subject).x


def test_without_a_law_budgets_are_joined_and_nothing_is_banded() -> None:
    panel = over("flops", ladder(20))
    assert panel.bands == ()
    assert panel.residuals is None
    joined = [line for line in panel.lines if line.role == "joined"]
    assert [len(line.x) for line in joined] == [len(SIZES)] * 2
    assert "no law" in panel.note


def test_a_cost_that_does_not_grow_with_the_size_has_points_and_says_why_it_has_no_curve() -> None:
    runs = [
        replace(run, summary=run.summary.model_copy(update={"cache_bytes": 64})) for run in ladder().comparison.runs
    ]
    comparison = compared(runs)
    panel = over("cache", Subject(comparison, answer(endpoints_of(comparison.runs), "attention")))
    assert panel.bands == ()
    assert sum(len(group.x) for group in panel.points) == len(runs)
    assert "no law: the cost does not grow with the size" in panel.note


def test_what_is_drawn_says_its_run_when_pointed_at() -> None:
    (points,) = over("tokens", Subject(compared([trained_run("ssm", 3.0, name="mine", seed=5)]))).points
    words = "\n".join(points.hover[0])
    for part in ("mine", "ssm", "N 1.00M", "D 10.00M", "10 per parameter", "3.0000", "100 s", "seed 5", "6e+13 FLOPs"):
        assert part in words


def test_colours_are_those_of_the_mixers() -> None:
    for shown in (over("cache", eight()).points, over("flops", eight()).lines, over("tokens", eight()).labels):
        assert all(part.style == style_of(part.mixer) for part in shown if part.mixer)


def names(panel: Panel) -> list[Box]:
    """What the names of a panel cover."""
    boxes = []
    for label in panel.labels:
        x = float(panel.x.share(label.x)) * CANVAS.width + label.offset[0]
        y = min(max(float(panel.y.share(label.y)), 0.0), 1.0) * CANVAS.height + label.offset[1]
        box = box_of(label.text, x, y, CANVAS.font)
        boxes.append(Box(box.left + 1e-6, box.bottom + 1e-6, box.right - 1e-6, box.top - 1e-6))
    return boxes
