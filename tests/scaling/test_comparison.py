"""Comparing runs: the numbers of the table, the remarks, the files, and what goes to MLflow."""

from __future__ import annotations

import json
import math
import re
import socket
from itertools import product

import numpy as np
import pytest
import typer
import yaml
from mlflow.tracking import MlflowClient
from PIL import Image
from typer.testing import CliRunner

from glm_scale.cli.compare import compare as compare_command
from glm_scale.errors import UserError
from glm_scale.run_search import find_runs
from glm_scale.scaling.comparison import compare, quantity, render_table
from glm_scale.scaling.curves import Curve, load_run
from glm_scale.scaling.laws import Law
from glm_scale.tracking import MetricsLog
from tests.scaling.synthetic_runs import write_run

app = typer.Typer()
app.command()(compare_command)


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.fixture
def three_mixers(tmp_path):
    write_run(tmp_path, "a", "ssm", final_loss=4.1)
    write_run(tmp_path, "b", "attention", final_loss=3.9)
    write_run(tmp_path, "c", "lattice:2^k", final_loss=4.0)
    return tmp_path


def test_the_numbers_of_a_run_are_those_of_its_log(tmp_path):
    run = load_run(write_run(tmp_path, "a", "ssm", final_loss=4.0, parameters=1000, tokens=1_000_000, steps=200))
    last = [4.0 * (step / 200) ** -(math.log(8.3 / 4.0) / math.log(200)) for step in range(191, 201)]
    assert run.train_loss == pytest.approx(np.mean(last))  # the last twentieth
    assert run.validation_loss == pytest.approx(4.0)
    assert run.bits_per_byte == pytest.approx(4.0 / 2.2)
    assert (run.tokens, run.flops, run.tokens_per_second) == (1_000_000, 6e9, 10_001)
    assert not run.provisional


def test_the_table_is_sorted_by_validation_loss(three_mixers):
    table = render_table(compare(find_runs([three_mixers])))
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["mixer"] == ["attention", "lattice:2^k", "ssm"]
    assert cells["val. loss"] == ["3.9000", "4.0000", "4.1000"]
    assert cells["tokens"] == ["1.00M"] * 3
    assert cells["FLOPs"] == ["9.00e+12"] * 3
    assert cells["parameters"] == ["2.10M"] * 3
    assert cells["status"] == ["finished"] * 3
    assert compare(find_runs([three_mixers])).remarks == ()


def test_runs_that_did_not_finish_are_marked_and_those_without_losses_come_last(tmp_path):
    write_run(tmp_path, "half", "ssm", upto=0.5, status="failed", final_loss=3.0)
    write_run(tmp_path, "gone", "attention", upto=0.3, status="running")
    write_run(tmp_path, "fresh", "dense", upto=0.0, status="running")
    going = write_run(tmp_path, "going", "lattice:2^k", upto=0.6, status="running")
    with going.lock():
        comparison = compare(find_runs([tmp_path]))
        name, *_, status = (list(column.cells) for column in render_table(comparison).columns)
    statuses = dict(zip(name, status, strict=True))
    assert statuses == {"half": "failed", "gone": "killed", "fresh": "killed", "going": "running"}
    assert comparison.runs[-1].name == "fresh"
    cells = {column.header: list(column.cells) for column in render_table(comparison).columns}
    assert cells["val. loss"][-1] == "–"
    assert all(str(cell).startswith("~") for cell in cells["val. loss"][:-1])
    remarks = "\n".join(comparison.remarks)
    assert "going is still running, at 600,000 tokens" in remarks
    assert "half failed at 500,000 tokens" in remarks
    assert "2 runs were killed at 0 to 300,000 tokens: gone, fresh" in remarks


def test_differences_that_spoil_a_comparison_are_named(tmp_path):
    write_run(tmp_path, "a", "ssm")
    write_run(tmp_path, "b", "ssm", tokenizer_fingerprint="other", sequence_length=1024, tokens=2_000_000)
    write_run(tmp_path, "c", "ssm", data_fingerprint="other")
    remarks = "\n".join(compare(find_runs([tmp_path])).remarks)
    assert re.search(r"tokenizers differ.*bits per byte: a, c \| b", remarks)
    assert "training data differ: a, b | c" in remarks
    assert "sequence lengths differ: 512: a, c | 1024: b" in remarks
    assert "trained tokens differ, from 1,000,000 to 2,000,000" in remarks


def test_a_ladder_may_differ_in_tokens_but_not_between_mixers(tmp_path):
    for size in (1, 2):
        for mixer in ("ssm", "attention"):
            write_run(tmp_path, f"{mixer}-{size}", mixer, tokens=size * 1_000_000, parameters=size * 1000)
    assert compare(find_runs([tmp_path]), scaling=True).remarks == ()
    write_run(tmp_path, "ssm-3", "ssm", tokens=3_000_000, parameters=3000)
    assert "same sizes" in compare(find_runs([tmp_path]), scaling=True).remarks[0]


def test_seeds_that_every_mixer_has_are_no_difference(tmp_path):
    for mixer in ("attention", "ssm"):
        for seed in (0, 1):
            write_run(tmp_path, f"{mixer}{seed}", mixer, seed=seed)
    assert not any("seeds" in remark for remark in compare(find_runs([tmp_path])).remarks)
    write_run(tmp_path, "more", "ssm", seed=2)
    assert any(remark.startswith("seeds of the weights differ") for remark in compare(find_runs([tmp_path])).remarks)


def test_what_makes_a_difference_besides_the_mixer_is_remarked(tmp_path):
    for name, parameters, seed in (("a", 1_000_000, 0), ("b", 1_008_000, 0), ("c", 1_230_000, 1)):
        run = write_run(tmp_path, name, name, parameters=parameters)
        config = yaml.safe_load(run.config.read_text())
        config["training"] = {"seed": seed, "batch_tokens": 512, "optimizer": {"learning_rate": 1e-3 * (1 + seed)}}
        run.config.write_text(yaml.safe_dump(config))
    found = find_runs([tmp_path])
    remarks = "\n".join(compare(found).remarks)
    assert "outside the embeddings differ: c has 1,230,000, 23% more than a with 1,000,000" in remarks
    assert "seeds of the weights differ (training.seed): 0: a, b | 1: c" in remarks
    assert "learning rates differ (training.optimizer.learning_rate): 0.001: a, b | 0.002: c" in remarks
    assert "batches" not in remarks
    assert compare([run for run in found if run.name != "c"]).remarks == ()


def test_mixers_of_a_ladder_are_compared_size_by_size(tmp_path):
    for size in (1_000_000, 4_000_000):
        write_run(tmp_path, f"a{size}", "a", parameters=size, tokens=20 * size)
        write_run(tmp_path, f"b{size}", "b", parameters=round(size * (1 if size < 2e6 else 1.1)), tokens=20 * size)
    (remark,) = compare(find_runs([tmp_path]), scaling=True).remarks
    assert "b4000000 has 4,400,000, 10% more than a4000000" in remark


def test_the_command_prints_the_table_and_writes_files_that_need_no_network(three_mixers):
    printed = invoke(three_mixers, "--no-tracking")
    assert re.search(r"attention .* 3\.9000 .*finished", printed)
    page = (three_mixers / "comparison" / "comparison.html").read_text()
    assert "plotly" in page
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
    for mixer in ("attention", "lattice:2^k", "ssm"):
        assert f'"meta":"{mixer}"' in page
    with Image.open(three_mixers / "comparison" / "comparison.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or ()}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)} <= colours
    data = json.loads((three_mixers / "comparison" / "comparison.json").read_text())
    assert [run["validation_loss"] for run in data["runs"]] == pytest.approx([3.9, 4.0, 4.1])


def test_the_scaling_report_reaches_the_store_that_is_named(tmp_path):
    planted = Law(1.8, 400, 900, 0.35, 0.4)
    random = np.random.default_rng(0)
    for parameters, ratio, seed in product((10**6, 3 * 10**6, 10**7, 3 * 10**7), (5, 20, 80), (0, 1)):
        loss = float(planted(parameters, ratio * parameters)) * math.exp(0.002 * random.standard_normal())
        name, tokens = f"l{parameters}-{ratio}-{seed}", ratio * parameters
        write_run(
            tmp_path / "runs", name, "lattice:2^k", parameters=parameters, tokens=tokens, final_loss=loss, steps=10,
            seed=seed,
        )  # fmt: skip
    uri = f"sqlite:///{tmp_path}/store.db"
    printed = invoke(tmp_path / "runs", "--curve", "--output", tmp_path / "figures", "--tracking-uri", uri)
    assert "L = E + A/N^α + B/D^β with E 1." in printed
    again = invoke(tmp_path / "runs", "--curve", "--output", tmp_path / "figures", "--tracking-uri", uri)
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("glm-scale").experiment_id])
    assert run.info.run_name == "scaling: figures"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["law/irreducible"] == pytest.approx(1.8, rel=0.05)
    figures, numbers = {"scaling.html", "scaling.png", "scaling.json"}, {"runs.json", "points.csv"}
    assert {f.path for f in client.list_artifacts(run.info.run_id)} == figures | numbers
    for text in (printed, again):
        assert f"runs/{run.info.run_id}/artifacts/scaling.html" in text


def test_what_runs_do_not_determine_is_said_and_drawn_without_a_law(tmp_path):
    for parameters in (10**6, 10**7, 10**8):
        write_run(
            tmp_path, f"l{parameters}", "ssm", parameters=parameters, tokens=20 * parameters, final_loss=3, steps=10
        )
    printed = invoke(tmp_path, "--curve", "--no-tracking")
    assert "no law: 3 points for 5 unknowns" in printed
    page = (tmp_path / "comparison" / "scaling.html").read_text()
    assert "No law is drawn: 3 points for 5 unknowns" in page
    assert json.loads((tmp_path / "comparison" / "scaling.json").read_text())["scaling"]["laws"] == {}


def test_a_figure_of_its_own_is_written_in_the_format_of_its_name(three_mixers, tmp_path):
    for suffix, start in (("pdf", b"%PDF-"), ("svg", b"<?xml"), ("html", b"<!doctype html>")):
        figure = tmp_path / "paper" / f"loss.{suffix}"
        printed = invoke(three_mixers, "--no-tracking", "--figure", figure, "--x", "seconds,parameters")
        assert f"wrote {figure}" in printed
        assert figure.read_bytes().startswith(start)
    assert 'data-x="seconds" data-y="loss"' in (tmp_path / "paper" / "loss.html").read_text()


def test_options_of_figures_that_make_no_sense_are_refused(three_mixers, tmp_path):
    with pytest.raises(UserError, match="the name has to end in one of"):
        invoke(three_mixers, "--no-tracking", "--figure", tmp_path / "loss.jpg")
    with pytest.raises(UserError, match="no run here says loss over cache; choose other axes"):
        invoke(three_mixers, "--no-tracking", "--x", "cache")
    with pytest.raises(UserError, match="--reference 'ssm' is of --curve"):
        invoke(three_mixers, "--no-tracking", "--reference", "ssm")
    with pytest.raises(UserError, match="--reference 'gla' has no finished run; there are attention"):
        invoke(three_mixers, "--no-tracking", "--curve", "--reference", "gla")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another name with --figure"):
        invoke(three_mixers, "--no-tracking", "--figure", tmp_path / "file" / "loss.png")


def test_a_store_out_of_reach_spoils_nothing(three_mixers):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    printed = invoke(three_mixers, "--tracking-uri", f"http://127.0.0.1:{port}")
    assert f"note: not logged to MLflow at http://127.0.0.1:{port}" in printed
    assert (three_mixers / "comparison" / "comparison.png").exists()


def test_runs_with_next_to_no_measurements_can_be_drawn(tmp_path):
    write_run(tmp_path / "none", "none", "ssm", upto=0.0)
    invoke(tmp_path / "none", "--no-tracking")
    write_run(tmp_path / "one", "one", "ssm", upto=0.005)
    invoke(tmp_path / "one", "--no-tracking")
    with pytest.raises(UserError, match="no finished run"):
        invoke(tmp_path / "one", "--no-tracking", "--curve")


def test_mistakes_are_explained(tmp_path, three_mixers, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        invoke("nowhere")
    with pytest.raises(UserError, match="runs is not a folder"):
        invoke()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run in empty"):
        invoke("empty")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "summary.json").write_text('{"accuracy": 1}')
    with pytest.raises(UserError, match=r"foreign/summary\.json is damaged, or is not the summary of a run"):
        invoke("foreign")
    with pytest.raises(UserError, match="--tracking-uri"):
        invoke(three_mixers, "--tracking-uri", "file:///tmp/x")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"):
        invoke(three_mixers / "a", "--output", tmp_path / "file", "--no-tracking")


def test_smoothing_keeps_ends_and_constants_and_does_not_lag():
    place = np.arange(1.0, 1001.0)
    constant = Curve(place, place, place, np.full(1000, 2.0)).smoothed()
    assert constant.loss == pytest.approx(2.0)
    falling = Curve(place, place, place, place**-0.3)
    assert falling.smoothed().loss[:900] == pytest.approx(falling.loss[:900], rel=5e-3)
    thin = falling.thinned(50)
    assert len(thin) <= 50
    assert (thin.tokens[0], thin.tokens[-1]) == (1.0, 1000.0)


def test_a_skipped_step_is_no_point_of_the_curve(tmp_path):
    directory = write_run(tmp_path, "a", "ssm", steps=20)
    with MetricsLog(directory.metrics) as log:
        log.append("train", step=21, tokens=1_000_001, flops=1e13, loss=math.nan, tokens_per_second=1.0)
    run = load_run(directory)
    assert len(run.train) == 20
    assert run.train_loss is not None
    assert math.isfinite(run.train_loss)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (1000, "1.00k"), (1_413_000, "1.41M"), (7e9, "7.00B"), (141e12, "141T")]
)
def test_quantities(value, text):
    assert quantity(value) == text
