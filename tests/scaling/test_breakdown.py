"""Which tokens a mixer is better at: what `compare` shows of breakdowns in run directories."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from glm_scale.run_directory import RunDirectory
from glm_scale.scaling.breakdown import (
    breakdown_numbers,
    breakdown_tables,
    compared_breakdowns,
)
from glm_scale.scaling.comparison import compare
from glm_scale.scaling.report import write_report
from glm_scale.tracking.breakdown import BIGRAM, FOURGRAM, NEW, POSITION, Breakdown, cell_names
from tests.scaling.synthetic_runs import write_run

LENGTH, BLOCKS = 64, 20
Spoil = Callable[[dict[str, Any]], dict[str, Any]]


def breakdown(recall: float, text: int = 0, noise: float = 0.0) -> Breakdown:
    """Losses of 4 nats that differ with the text, on repeated 4-grams lower by `recall`."""
    draw = np.random.default_rng(text)
    cells = cell_names(LENGTH)
    tokens = np.zeros((BLOCKS, len(cells)), np.int64)
    nats = np.zeros(tokens.shape)
    hardness = 4 + draw.standard_normal(BLOCKS)
    for name, position, count, loss in (
        (NEW, 8, 60, hardness),
        (f"{BIGRAM}0000008", 32, 30, hardness - 1),
        (f"{FOURGRAM}0000016", 32, 10, hardness - recall),
    ):
        own = loss + noise * np.random.default_rng(count).standard_normal(BLOCKS)
        for cell in (name, f"{POSITION}{position:07d}"):
            column = cells.index(cell)
            tokens[:, column] += count
            nats[:, column] += count * own
    return Breakdown(LENGTH, 100, tokens, nats)


def run(root: Path, name: str, mixer: str, loss: float, found: Breakdown | None) -> RunDirectory:
    made = write_run(root, name, mixer, final_loss=loss)
    if found is not None:
        found.write(made.breakdown, made.read_summary().step)
    return made


@pytest.fixture
def runs(tmp_path: Path) -> list[RunDirectory]:
    return [
        run(tmp_path, "b", "attention", 3.5, breakdown(2.0)),
        run(tmp_path, "a", "ssm", 3.7, breakdown(0.5, noise=0.1)),
        run(tmp_path, "worse", "ssm", 3.9, breakdown(0.1)),
    ]


def shown(*parts: object) -> str:
    console = Console(width=150, record=True, file=None)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return capture.get()


def test_a_breakdown_survives_its_file(tmp_path: Path) -> None:
    found = breakdown(1.0, noise=0.3)
    found.nats[0, 0] = math.nan
    found.write(tmp_path / "breakdown.json", 7)
    again = Breakdown.read(tmp_path / "breakdown.json", 7)
    assert again is not None
    np.testing.assert_array_equal(again.tokens, found.tokens)
    np.testing.assert_array_equal(again.nats, found.nats)
    assert again.sequences == 100
    assert Breakdown.read(tmp_path / "breakdown.json", 8) is None, "the run has gone on since"
    assert Breakdown.read(tmp_path / "nothing.json", 7) is None


@pytest.mark.parametrize(
    "spoil", [lambda x: x | {"cells": x["cells"][:-1]}, lambda x: x | {"tokens": x["tokens"][:-1]}, lambda x: {}]
)
def test_a_damaged_file_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Spoil) -> None:
    path = tmp_path / "breakdown.json"
    breakdown(1.0).write(path, 7)
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    assert Breakdown.read(path, 7) is None
    assert str(path) in caplog.text


def test_mixers_stand_side_by_side_with_differences_on_the_same_text(runs: list[RunDirectory]) -> None:
    comparison = compare(runs)
    table, explanation = compared_breakdowns(comparison)
    assert isinstance(table, Table)
    assert isinstance(explanation, str)
    text = shown(table)
    assert "attention" in text
    assert "ssm (a)" in text
    assert "worse" not in text, "one run of a mixer: the best"
    assert "20 parts" in explanation
    numbers = {one["name"]: one["groups"] for one in breakdown_numbers(comparison)}
    repeated, new = (numbers["a"][kind] for kind in ("kind/repeated-4gram", "kind/new"))
    # The text varies by 1 nat between blocks: alone a loss is known to 0.22, the difference to 0.1 / √20.
    assert repeated["difference"] == pytest.approx(1.5, abs=0.1)
    assert repeated["error"] == pytest.approx(20**-0.5, rel=0.4)
    assert repeated["difference_error"] == pytest.approx(0.1 * 20**-0.5, rel=0.4)
    assert abs(new["difference"]) < 4 * new["difference_error"]
    assert f"{repeated['difference']:+.4f} ± {repeated['difference_error']:.4f}" in text


def test_other_text_is_not_compared(tmp_path: Path, runs: list[RunDirectory]) -> None:
    other = breakdown(1.0)
    other.tokens[3] *= 2
    runs.append(run(tmp_path, "elsewhere", "dense", 3.6, other))
    note, table, _ = compared_breakdowns(compare(runs))
    assert isinstance(note, str)
    assert "dense" in note
    assert "glm-scale evaluate" in note
    assert "dense" not in shown(table)
    numbers = {one["name"]: one["groups"] for one in breakdown_numbers(compare(runs))}
    assert "difference" not in numbers["elsewhere"]["kind/new"]
    assert "difference" in numbers["a"]["kind/new"]


def test_runs_without_one_are_left_out_and_one_alone_shows_nothing(tmp_path: Path) -> None:
    made = [run(tmp_path, "a", "ssm", 3.7, breakdown(0.5)), run(tmp_path, "b", "attention", 3.5, None)]
    assert not list(compared_breakdowns(compare(made)))


def test_the_report_has_them_as_numbers(tmp_path: Path, runs: list[RunDirectory]) -> None:
    report = write_report(runs, tmp_path / "report")
    content = json.loads(report.files[2].read_text())
    assert [one["mixer"] for one in content["breakdown"]] == ["attention", "ssm"]


def test_tables_of_one_model_fit_a_terminal_and_say_all(runs: list[RunDirectory]) -> None:
    found = breakdown(2.0)
    console = Console(width=80)
    with console.capture() as capture:
        for table in breakdown_tables(found):
            console.print(table)
    text = capture.get()
    assert "…" not in text
    assert "60.0%" in text
    assert "1,200" in text
    assert f"{found.group(FOURGRAM).loss:.4f} ± {found.group(FOURGRAM).error:.4f}" in text
