"""What `compare` says of runs that differ, and how many of them it shows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from rich.console import Console
from typer.testing import CliRunner

from glm_data import DataConfig, PackedSequences
from glm_scale.cli.compare import compare as compare_command
from glm_scale.cli.compare import show
from glm_scale.errors import UserError
from glm_scale.run_directory import RunSummary
from glm_scale.run_search import find_runs
from glm_scale.scaling.comparison import compare
from glm_scale.scaling.report import Report
from glm_scale.scaling.selection import Filter
from tests.scaling.synthetic_runs import write_run


def run_with(folder: Path, name: str, *, data: dict[str, Any] | None = None, **summary: Any) -> None:
    """A finished run with a configuration; `data` replaces keys of its data group."""
    run = write_run(folder, name, summary.pop("mixer", "ssm"), steps=10, **summary)
    source = {"path": "corpus", "weight": 1.0}
    group = {"sources": [source], "sequence_length": run.read_summary().sequence_length, "seed": 0, **(data or {})}
    config = {"name": name, "model": {"width": 64, "mixers": ["ssm"]}, "data": group, "evaluation": {"sequences": None}}
    run.config.write_text(yaml.safe_dump(config))


def remarks(folder: Path) -> list[str]:
    return list(compare(find_runs([folder])).remarks)


class TestFingerprints:
    def read(self, data: Path, length: int = 32, seed: int = 0, weights: tuple[float, ...] = (1.0,)) -> PackedSequences:
        sources = [{"path": data, "weight": weight} for weight in weights]
        return PackedSequences(DataConfig.model_validate({"sources": sources, "sequence_length": length, "seed": seed}))

    def test_that_of_the_documents_knows_neither_length_nor_order(self, data):
        first = self.read(data)
        for other in (self.read(data, length=64), self.read(data, seed=1)):
            assert other.documents_fingerprint == first.documents_fingerprint
            assert other.fingerprint != first.fingerprint

    def test_that_of_the_documents_knows_how_often_they_are_there(self, data):
        assert self.read(data, weights=(1.0, 1.0)).documents_fingerprint != self.read(data).documents_fingerprint
        twice = self.read(data, weights=(1.0, 2.0))
        assert twice.documents_fingerprint == self.read(data, weights=(1.0, 1.0)).documents_fingerprint

    def test_a_summary_of_an_earlier_version_is_still_one(self, tmp_path):
        run = write_run(tmp_path, "old", "ssm", steps=10)
        old = {k: v for k, v in run.read_summary().model_dump().items() if k != "documents_fingerprint"}
        assert RunSummary.model_validate(old) == run.read_summary()


class TestDifferences:
    def test_another_sequence_length_is_no_other_data(self, tmp_path):
        run_with(tmp_path, "a", data_fingerprint="x", documents_fingerprint="d")
        run_with(tmp_path, "b", data_fingerprint="y", documents_fingerprint="d", sequence_length=1024)
        assert remarks(tmp_path) == ["sequence lengths differ: 512: a | 1024: b"]

    def test_nor_is_another_order_or_mixture(self, tmp_path):
        sources = [{"path": "corpus", "weight": 1.0}, {"path": "web", "weight": 3.0}]
        run_with(tmp_path, "a", data_fingerprint="x", documents_fingerprint="d", data={"sources": sources})
        sources = [{"path": "corpus", "weight": 1.0}, {"path": "web", "weight": 1.0}]
        changed = {"sources": sources, "seed": 7}
        run_with(tmp_path, "b", data_fingerprint="y", documents_fingerprint="d", data=changed)
        assert remarks(tmp_path) == [
            "mixture weights differ (data.sources.weight): 0.25:0.75: a | 0.5:0.5: b",
            "order seeds differ (data.seed): 0: a | 7: b",
        ]

    def test_weights_in_the_same_proportion_are_the_same(self, tmp_path):
        run_with(tmp_path, "a", data={"sources": [{"path": "corpus", "weight": 1.0}]})
        run_with(tmp_path, "b", data={"sources": [{"path": "corpus", "weight": 5.0}]})
        assert remarks(tmp_path) == []

    def test_the_same_data_under_another_path_are_the_same(self, tmp_path):
        run_with(tmp_path, "a", documents_fingerprint="d", data_fingerprint="x")
        other = {"sources": [{"path": "/scratch/copy", "weight": 1.0}]}
        run_with(tmp_path, "b", documents_fingerprint="d", data_fingerprint="x", data=other)
        assert remarks(tmp_path) == []

    def test_other_data_are_named(self, tmp_path):
        run_with(tmp_path, "a", documents_fingerprint="d")
        run_with(tmp_path, "b", documents_fingerprint="e")
        assert remarks(tmp_path) == ["training data differ: a | b"]

    def test_early_runs_have_one_fingerprint_for_everything(self, tmp_path):
        run_with(tmp_path, "a", data_fingerprint="x")
        run_with(tmp_path, "b", data_fingerprint="y", sequence_length=1024)
        assert remarks(tmp_path) == ["sequence lengths differ: 512: a | 1024: b"]
        run_with(tmp_path, "c", data_fingerprint="z")  # like a, but for the texts
        assert "training data differ: a, b | c" in remarks(tmp_path)

    def test_an_early_run_and_a_later_one_of_the_same_sequences_have_the_same_data(self, tmp_path):
        run_with(tmp_path, "a", data_fingerprint="x")
        run_with(tmp_path, "b", data_fingerprint="x", documents_fingerprint="d")
        run_with(tmp_path, "c", data_fingerprint="y", documents_fingerprint="d", sequence_length=1024)
        assert remarks(tmp_path) == ["sequence lengths differ: 512: a, b | 1024: c"]

    def test_losses_on_other_validation_sequences_are_told(self, tmp_path):
        run_with(tmp_path, "a")
        run_with(tmp_path, "b")
        config = yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())
        (tmp_path / "b" / "config.yaml").write_text(yaml.safe_dump(config | {"evaluation": {"sequences": 64}}))
        assert remarks(tmp_path) == ["validation sequences differ (evaluation.sequences): null: a | 64: b"]

    @pytest.mark.parametrize("number", [None, 64])
    def test_runs_of_earlier_versions_have_the_same_validation_sequences_under_another_name(self, tmp_path, number):
        for name, key in (("a", "rows"), ("b", "sequences")):
            run_with(tmp_path, name)
            path = tmp_path / name / "config.yaml"
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"evaluation": {key: number}}))
        assert remarks(tmp_path) == []


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Three finished runs and twelve fragments."""
    run_with(tmp_path, "good", mixer="lattice:2^k", final_loss=3.0)
    run_with(tmp_path, "fair", mixer="lattice:k^2+1", final_loss=3.5, parameters=3_000_000)
    run_with(tmp_path, "poor", mixer="ssm", final_loss=4.0)
    for number in range(12):
        run_with(tmp_path, f"part{number:02}", mixer="ssm", status="killed", upto=0.0 if number < 6 else 0.3)
    return tmp_path


def names(folder: Path, *filters: str, finished: bool = False) -> list[str]:
    conditions = [Filter.parse(text) for text in filters]
    return [run.name for run in compare(find_runs([folder]), filters=conditions, finished=finished).runs]


class TestSelection:
    def test_fragments_are_one_remark_and_a_hint(self, many):
        comparison = compare(find_runs([many]))
        assert [r for r in comparison.remarks if "part" in r] == [
            "12 runs were killed at 0 to 300,000 tokens: part06, part07, part08, part09 … (12)"
        ]
        assert [run.validation_loss is None for run in comparison.runs] == [False] * 9 + [True] * 6
        console = Console(file=(shown := io.StringIO()), width=200)
        show(Report("r", comparison, None, ()), console)
        assert "12 unfinished runs shown; --finished leaves them out" in shown.getvalue()

    def test_the_command_takes_both(self, many):
        arguments = [
            "--finished",
            "--filter",
            "mixer=lattice:*",
            "--filter",
            "parameters>1",
            "--no-tracking",
            str(many),
        ]
        (app := typer.Typer()).command()(compare_command)
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == 0, shown
        assert [line.split()[0] for line in shown.stdout.splitlines()[1:3]] == ["good", "fair"]
        assert "part" not in shown.stdout
        assert "unfinished" not in shown.stdout

    def test_finished_runs_alone_in_their_order(self, many):
        assert names(many, finished=True) == ["good", "fair", "poor"]

    @pytest.mark.parametrize(
        ("filters", "left"),
        [
            (["mixer=lattice:2^k"], ["good"]),
            (["mixer=lattice:*"], ["good", "fair"]),
            (["mixer!=ssm"], ["good", "fair"]),
            (["parameters>=3e6"], ["fair"]),
            (["validation_loss<3.6", "parameters<3_000_000"], ["good"]),
            (["model.width=64", "status=finished"], ["good", "fair", "poor"]),
            (["data.sources[0].path=corpus", "run=fair"], ["fair"]),
            (["model.mixers=[ssm]", "run=poor"], ["poor"]),
            (["evaluation.sequences!=64", "run=poor"], ["poor"]),
            (["evaluation.rows!=64", "run=poor"], ["poor"]),
        ],
    )
    def test_filters_hold_together(self, many, filters, left):
        assert names(many, *filters) == left

    @pytest.mark.parametrize(
        ("condition", "part"),
        [
            ("mixr=ssm", "did you mean mixer"),
            ("width=512", "did you mean model.width"),
            ("mixer", "not of the form KEY=VALUE"),
            ("mixer=", "not of the form KEY=VALUE"),
            ("mixer>ssm", "compares numbers"),
            ("mixer=attention", "leaves none of 15 runs; mixer is lattice:2\\^k, lattice:k\\^2\\+1, ssm"),
        ],
    )
    def test_mistakes_say_what_there_is(self, many, condition, part):
        with pytest.raises(UserError, match=part):
            names(many, condition)

    def test_nothing_finished_is_said(self, tmp_path):
        run_with(tmp_path, "part", status="failed", upto=0.5)
        with pytest.raises(UserError, match="none of 1 runs has finished"):
            names(tmp_path, finished=True)
