"""What of a report MLflow is told."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from glm_scale.naming import slug
from glm_scale.run_search import find_runs
from glm_scale.scaling.chart_view import chart_view
from glm_scale.scaling.endpoints import Endpoint
from glm_scale.scaling.laws import Interval, Multiplier
from glm_scale.scaling.publication import LAW_TAG, law_metrics, publication_of
from glm_scale.scaling.report import write_report
from tests.scaling.planted import ladder, said
from tests.scaling.synthetic_runs import write_run


def test_the_law_and_its_intervals_are_metrics() -> None:
    answer = said(ladder())
    found = dict(law_metrics(answer))
    for name, planted in (("irreducible", 1.8), ("parameters_exponent", 0.35), ("tokens_exponent", 0.4)):
        assert found[f"law/{name}/low"] < found[f"law/{name}"] < found[f"law/{name}/high"]
        assert found[f"law/{name}"] == pytest.approx(planted, rel=0.05)
    assert {name for name in found if name.endswith("/tokens_scale")} == {
        f"law/{mixer}/tokens_scale" for mixer in ("attention", "lattice-2-pow-k")
    }
    assert found["law/residual_spread"] == pytest.approx(0.0005, rel=0.5)
    assert 0 < found["law/held_out_error"] < 0.01
    (flops,) = (m for m in answer.multipliers if isinstance(m, Multiplier) and m.unit == "FLOPs")
    ends = [found[f"multiplier/{slug('lattice:2^k')}/flops{end}"] for end in ("", "/low", "/high")]
    assert Interval(*ends) == flops.ratio


def test_tables_points_and_the_reason_of_a_refusal(tmp_path: Path) -> None:
    for number, mixer in enumerate(("ssm", "attention")):
        write_run(tmp_path / "runs", mixer, mixer, final_loss=4.0 + number, steps=10)
    write_run(tmp_path / "runs", "half", "ssm", upto=0.5, status="failed", steps=10)
    report = write_report(find_runs([tmp_path / "runs"]), tmp_path / "figures", scaling=True)
    found = publication_of(report, "sqlite:///x.db", "e", None)
    assert found.tags[LAW_TAG].startswith("refused: 2 points for 7 unknowns")
    assert any("2 points for 7 unknowns" in sentence for sentence in found.said)
    assert found.metrics == {}
    assert found.tables == ["mixers.json", "runs.json"]
    runs = json.loads(found.texts["runs.json"])
    assert [dict(zip(runs["columns"], row, strict=True))["status"] for row in runs["data"]].count("failed") == 1
    points = list(csv.DictReader(io.StringIO(found.texts["points.csv"])))
    assert report.answer is not None
    assert [(p["run"], float(p["loss"]), float(p["flops"])) for p in points] == [
        (end.run, end.loss, end.flops) for end in report.answer.runs
    ]
    assert set(points[0]) == set(Endpoint.__dataclass_fields__)


def test_runs_that_are_compared_as_they_are_have_no_law(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "ssm", steps=10)
    found = publication_of(write_report(find_runs([tmp_path]), tmp_path / "c"), "sqlite:///x.db", "e", None)
    assert found.tags[LAW_TAG] == "none: the runs are compared as they are"


def test_the_view_draws_final_losses_over_what_they_took() -> None:
    view = json.loads(chart_view("p", []))
    first, *_, last = view["compareRunCharts"]
    assert (first["xaxis"]["key"], first["yaxis"]["key"]) == ("final/log10_flops", "final/loss")
    assert last["type"] == "PARALLEL"
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == {view["compareRunSections"][0]["uuid"]}
    assert len({chart["uuid"] for chart in view["compareRunCharts"]}) == len(view["compareRunCharts"])
    assert view["searchFilter"] == "tags.`mlflow.parentRunId` = 'p'"
    assert "'a', 'b'" in json.loads(chart_view(None, ["a", "b"]))["searchFilter"]
    too_many = chart_view(None, [f"{number:032}" for number in range(500)])
    assert len(too_many) <= 5000
    for everything in (too_many, chart_view(None, [])):
        assert json.loads(everything)["searchFilter"] == "metrics.`final/loss` > 0"
