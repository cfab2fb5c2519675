"""The benchmark: its gate, what it counts as work, and what it reports."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from glm_kernels import parse_pattern
from glm_kernels.bench import cases, gate, main, timing, work

SMALL = ["--lengths", "96", "--heads", "1", "--width", "8", "--rounds", "1"]


def shape(length: int, **changes: Any) -> cases.Shape:
    return replace(cases.Shape(1, length, 1, 8, torch.float32, "cpu"), **changes)


def test_the_report_is_json_with_ratios_to_attention(capsys, tmp_path):
    kept = tmp_path / "run.json"
    assert main(["lattice:2^k", "ssm", *SMALL, "--json", "--output", str(kept)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(kept.read_text())
    assert [t["operator"] for t in report["timings"]] == ["attention", "lattice:2^k", "ssm"]
    assert report["timings"][0]["speed_vs_attention"] == 1
    assert all(0 < t["forward_ms"] < t["forward_backward_ms"] for t in report["timings"])
    assert all(0 < t["forward_backward_of_floor"] < 1 for t in report["timings"])
    assert report["copy_gbs"] > 0.1
    assert "torch" in report["machine"]


def test_packed_rows_are_compared_with_whole_ones_in_the_same_run(capsys):
    assert main(["lattice:2^k", *SMALL, "--packed", "20", "--peers", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    whole, packed = report["timings"]
    assert packed["operator"] == "lattice:2^k packed"
    assert packed["packed_ratio"] == pytest.approx(packed["forward_backward_ms"] / whole["forward_backward_ms"])
    assert whole["speed_vs_attention"] is None
    assert [check["operator"] for check in report["checks"]] == ["lattice:2^k", "lattice:2^k packed"]


def test_total_tokens_decide_the_batch(capsys):
    lengths = ["--lengths", "64", "128", "--tokens", "256"]
    assert main(["window:4", *lengths, "--heads", "1", "--width", "8", "--rounds", "1", "--peers", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(t["batch"], t["length"]) for t in report["timings"]] == [(4, 64), (2, 128)]


@pytest.mark.parametrize("wrong", ["y", "gradient"])
def test_an_operator_that_computes_something_else_is_not_timed(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = cases.recurrence

    def nearly(q, k, v, d, pattern, **keywords):
        y, state = right(q, k, v, d, pattern, **keywords)
        if pattern == "window:4" and keywords["backend"] != "reference":
            off = 1.001 * y
            y = off if wrong == "y" else off + (y - off).detach()
        return y, state

    monkeypatch.setattr(cases, "recurrence", nearly)
    assert main(["window:4", "lattice:2^k", *SMALL]) == 1
    printed = capsys.readouterr()
    assert "WRONG, not timed: window:4" in printed.err
    assert "window:4" not in printed.out
    assert "lattice:2^k" in printed.out


def test_nothing_is_called_right_that_is_not_a_number():
    exact = [torch.ones(3)] * 5
    broken = [torch.full((3,), torch.nan)] * 5
    assert not max(gate.relative_errors(broken, exact)) <= 1


def test_an_unknown_operator_is_refused_before_anything_runs(capsys):
    with pytest.raises(SystemExit):
        main(["lattice:2^k", "latice:2^k"])
    assert "unknown pattern 'latice:2^k'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["window:3", "dense", "offsets:2^k"])
def test_useful_work_is_counted_pair_by_pair(name):
    pairs = sum(len(parse_pattern(name).reads(t)) for t in range(20))
    assert work.flops(name, shape(20, batch=2, heads=3)) == 2 * 3 * 2 * (pairs * (8 + 8) + 20 * 8)
    assert work.flops("attention", shape(20)) == 2 * 210 * 16


def test_packed_documents_do_the_work_of_their_own_lengths():
    starts = torch.tensor([[0] * 12 + [12] * 8])
    two = work.flops("dense", shape(12)) + work.flops("dense", shape(8))
    assert work.flops("dense packed", shape(20), starts) == two


def test_documents_are_drawn_around_their_mean():
    torch.manual_seed(0)
    starts = cases.random_documents(2, 20_000, 50)
    documents = sum(len(row.unique()) for row in starts)
    assert 40_000 / documents == pytest.approx(50, rel=0.15)


def test_the_first_step_is_measured_in_new_processes(capsys):
    assert main(["window:4", *SMALL, "--peers", "--compile-time", "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)["first_steps"]
    assert 0 < step["warm_s"] < 60
    assert 0 < step["cold_s"] < 60


def test_sustained_seconds_are_those_of_one_call() -> None:
    calls: list[float] = []

    def work() -> None:
        calls.append(1)
        time.sleep(0.002)

    assert 0.002 <= timing.sustained_seconds(work, "cpu", 0.05) < 0.05
    # One that compiles, two for a first guess, then five rows.
    assert (len(calls) - 3) % 5 == 0
