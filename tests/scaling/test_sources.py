"""Validation losses of one data set of several: from a run to a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.scaling.curves import load_run
from glm_scale.scaling.report import write_report
from glm_scale.tracking import MetricsLog, read_metrics
from tests.commands import Commands
from tests.data.corpora import build_corpus, documents
from tests.scaling.synthetic_runs import write_run
from tests.tiny_run import tiny_config, write_config


def with_sources(run: RunDirectory, **final: float) -> RunDirectory:
    """Losses of data sets where the run was validated, in the end these."""
    validations = [record for record in read_metrics(run.metrics) if record.kind == "validation"]
    with MetricsLog(run.metrics) as log:
        for record in validations:
            last = record is validations[-1]
            values = {f"source/{name}/loss": loss + (not last) for name, loss in final.items()}
            values |= {f"source/{name}/bits_per_byte": loss / 4 for name, loss in final.items()}
            log.append("breakdown", step=record.step, tokens=record.tokens, flops=record.flops, **values)
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[RunDirectory]:
    return [
        with_sources(write_run(tmp_path, "one", "attention", final_loss=3.0), books=3.5, code=2.0),
        with_sources(write_run(tmp_path, "two", "ssm", final_loss=3.1), books=3.4, code=2.5),
    ]


def test_a_run_is_read_with_the_losses_of_one_data_set(runs: list[RunDirectory]) -> None:
    whole, code = load_run(runs[0]), load_run(runs[0], "code")
    assert (code.validation_loss, code.bits_per_byte, code.provisional) == (2.0, 0.5, False)
    assert whole.validation_loss == 3.0
    assert list(code.validation.tokens) == list(whole.validation.tokens)
    assert code.validation.loss[-2:].tolist() == [3.0, 2.0]
    assert code.train_loss == whole.train_loss


@pytest.mark.parametrize(("source", "best"), [(None, "one"), ("books", "two"), ("code", "one")])
def test_a_comparison_may_be_of_one_data_set(runs: list[RunDirectory], source: str | None, best: str) -> None:
    report = write_report(runs, runs[0].path.parent / "figures", source=source)
    assert report.comparison.runs[0].name == best
    assert (f"validation losses are those of {source} alone" in report.comparison.remarks) == (source is not None)
    assert report.name.endswith(f"({source})") == (source is not None)


def test_a_data_set_that_was_not_measured_is_told_with_those_that_were(runs: list[RunDirectory]) -> None:
    with pytest.raises(UserError, match="no losses of a data set called 'cod'; there are books, code"):
        write_report(runs, runs[0].path.parent / "figures", source="cod")


def test_from_training_on_two_data_sets_to_their_comparison(command: Commands, data: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    build_corpus(
        tmp_path / "more", documents(60, longest=120), vocabulary_size=None, tokenizer=data, validation_fraction=0.3
    )
    config = tiny_config(data, tmp_path)
    config["data"]["sources"] = [{"path": str(data)}, {"path": str(tmp_path / "more" / "set")}]
    config["evaluation"] = {"every": 3, "sequences": 8}
    trained = command("train", write_config(tmp_path / "config.yaml", config))
    assert trained.code == 0, trained.output
    run = RunDirectory(tmp_path / "runs" / "tiny")
    names = {name for record in read_metrics(run.metrics, "breakdown") for name in record.values if "source" in name}
    first, second = sorted({name.split("/")[1] for name in names})
    evaluated = command("evaluate", run.path)
    assert evaluated.code == 0, evaluated.output
    assert "bits per byte" in evaluated.stdout
    assert all(name in evaluated.stdout for name in (first, second))
    compared = command("compare", run.path, "--source", second)
    assert compared.code == 0, compared.output
    assert f"validation losses are those of {second} alone" in compared.stdout
    assert (tmp_path / "runs" / f"comparison-{second}" / "comparison.html").exists()
    loss = load_run(run, second).validation_loss
    assert f"{loss:.4f}" in compared.stdout
    refused = command("compare", run.path, "--source", "none")
    assert refused.code == 2
    assert f"there are {first}, {second}" in refused.stderr
