"""The table of mixers: how far they are apart, and what else differs."""

from dataclasses import replace

import pytest
from scipy.stats import ttest_ind

from glm_scale.scaling.endpoints import endpoints_of
from glm_scale.scaling.gaps import Gaps, gaps, render_gaps
from glm_scale.scaling.laws import Bootstrap, optimal
from glm_scale.scaling.pictures.panels import Subject
from tests.scaling.planted import FLOPS, SIZES, compared, ladder, said, trained_run


def table(subject: Subject) -> tuple[Gaps, dict[str, dict[str, str]]]:
    found = gaps(endpoints_of(subject.comparison.runs), subject.answer)
    assert found is not None
    return found, {row[0]: dict(zip(found.headings, row, strict=True)) for row in found.rows}


def test_one_run_each_has_a_difference_and_no_interval() -> None:
    runs = [trained_run("ssm", 3.0, parameters=1_230_000), trained_run("attention", 3.1), trained_run("dense", 3.05)]
    found, rows = table(Subject(compared(runs)))
    assert list(rows) == ["ssm", "dense", "attention"]
    assert [row["Δ loss"] for row in rows.values()] == ["3.0000", "+0.0500", "+0.1000"]
    assert rows["attention"]["90 % interval"].startswith("none: one seed; repeat with other training.seed")
    assert rows["attention"]["parameters"] == "1.00M (-18.7%)"
    assert rows["attention"]["FLOPs"] == f"{8 / (6 * 1.23):.3g}×"
    assert "what the loss would be at equal compute needs a ladder" in found.note


def test_seeds_give_an_interval_and_equal_flops_are_equal_compute() -> None:
    losses = {"ssm": (3.0, 3.01, 3.02), "gla": (3.1, 3.13, 3.11)}
    runs = [trained_run(m, loss, name=f"{m}{s}", seed=s) for m, own in losses.items() for s, loss in enumerate(own)]
    found, rows = table(Subject(compared(runs)))
    interval = ttest_ind(losses["gla"], losses["ssm"], equal_var=False).confidence_interval(0.9)
    assert rows["gla"]["90 % interval"] == f"[{interval.low:+.4f}, {interval.high:+.4f}]"
    assert found.note == "Δ at equal tokens and equal training FLOPs, beside ssm"


def test_a_law_gives_the_difference_at_equal_compute() -> None:
    subject = ladder()
    law = said(subject).law
    assert isinstance(law, Bootstrap)
    _, rows = table(subject)
    compute = 6.0 * SIZES[-1] ** 2 * 80
    at = {mixer: optimal(law.fit.laws[mixer], compute, kappa).loss for mixer, kappa in FLOPS.items()}
    row = rows["lattice:2^k"]
    assert float(row["Δ loss"]) == pytest.approx(at["lattice:2^k"] - at["attention"], abs=2e-4)
    low, high = (float(end) for end in row["90 % interval"].strip("[]").split(", "))
    assert low < float(row["Δ loss"]) < high < 0
    assert row["FLOPs"].startswith("0.5")
    assert rows["attention"]["FLOPs"] == "1×"


def test_the_terminal_has_the_same_table_with_the_best_in_bold() -> None:
    found, _ = table(ladder())
    shown = render_gaps(found)
    assert [column.header for column in shown.columns] == list(found.headings)
    assert list(shown.columns[0].cells) == ["lattice:2^k", "attention"]
    assert [row.style for row in shown.rows] == ["bold", None]


def test_what_cannot_be_told_is_not_shown() -> None:
    found, rows = table(ladder(20))
    assert {row["Δ loss"] for row in rows.values()} == {"–"}
    assert found.note == "no Δ at equal compute and no interval: the runs determine no law"
    runs = [trained_run("ssm", 3.0), trained_run("gla", 3.1, tokens=2 * 10**7)]
    found, rows = table(Subject(compared(runs)))
    assert rows["gla"]["Δ loss"] == "–"
    assert "tokens differ" in found.note
    assert gaps(endpoints_of([runs[0], replace(runs[0])]), None) is None
