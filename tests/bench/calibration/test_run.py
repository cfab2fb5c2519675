"""`glm-scale bench calibrate`: on a CPU, at tiny sizes, everything that it does on GPUs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glm_launch.cli.app import main
from glm_scale.bench.calibration import run
from glm_scale.bench.calibration.clock import Clock, NotFiniteError
from glm_scale.bench.calibration.exchanges import exchange_times
from glm_scale.bench.calibration.mixing import operator_time, structure_of
from glm_scale.bench.calibration.run import Asked, calibrate
from glm_scale.bench.calibration.sizes import OPERATORS, sizes_for
from glm_scale.errors import UserError
from glm_scale.planning import GPUS, plan_layouts
from glm_scale.planning.calibration import read_calibration
from tests.planning.made_up import small_run

CLOCK = Clock("cpu", 0.001)


def asked(path: Path, *operators: str) -> Asked:
    return Asked(operators, "cpu", 1, CLOCK.at_least, path, "glm-scale bench calibrate")


def test_what_is_measured_is_a_calibration_that_the_planner_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpu.json"
    options = ["--device", "cpu", "--seconds", "0.001", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["glm-scale", "bench", "calibrate", "attention", "ssm:4", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    shown = capsys.readouterr()
    found, sizes = read_calibration(path), sizes_for("cpu")
    assert not found.failed, shown.err
    assert found.gpu.startswith("CPU")
    assert found.versions["torch"] == torch.__version__
    assert found.command == "glm-scale bench calibrate attention ssm:4 --device cpu --ranks 1 --seconds 0.001"
    assert len(found.matmuls) == len({(m.tokens, m.inputs, m.outputs) for m in found.matmuls}) == 16
    assert [len(found.heads), len(found.embeddings)] == [len(sizes.models)] * 2
    assert {(o.operator, o.batch * o.length, o.key) for o in found.operators} == {
        ("attention", 64, 8), ("ssm", 64, 4),
    }  # fmt: skip
    assert found.host is not None
    assert f"attention of 2 × 8, T 64: forward {1e3 * found.operators[1].forward:.3f} ms" in shown.out
    (plan,) = plan_layouts(small_run(["attention"]), 1, GPUS["h200"], found).plans
    assert plan.seconds.calibrated
    assert not plan.seconds.not_measured


def test_what_fails_is_named_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(run, "operator_time", broken)
    monkeypatch.setattr(run, "host_seconds", lambda *_: 0.5)
    found = calibrate(asked(tmp_path / "c.json", "lattice:2^k"))
    assert found.failed["lattice:2^k of 2 × 8, T 16"] == "no kernel image"
    assert found.matmuls
    assert found.host == 0.5
    assert read_calibration(tmp_path / "c.json") == found
    assert "lattice:2^k of 2 × 8, T 16: not measured, no kernel image" in capsys.readouterr().err


def test_values_that_are_not_finite_are_no_measurement() -> None:
    with pytest.raises(NotFiniteError):
        CLOCK.seconds(lambda: [torch.ones(2), torch.tensor(float("nan"))])


@pytest.mark.parametrize("spelling", OPERATORS)
def test_every_operator_runs_as_mixers_call_it(spelling: str) -> None:
    found = operator_time(CLOCK, structure_of(spelling), 1, 32, 2, 8)
    assert (found.operator, found.value) == (spelling, 8)
    assert found.key == (64 if spelling == "ssm" else 8)
    assert found.forward > 0
    assert found.backward > 0


@pytest.mark.parametrize("spelling", ["mamba2", "local:4 > lattice:2^k", "atention"])
def test_what_is_no_single_operator_is_refused(tmp_path: Path, spelling: str) -> None:
    with pytest.raises(UserError, match="no single operator" if spelling != "atention" else "did you mean"):
        calibrate(asked(tmp_path / "c.json", spelling))
    assert not (tmp_path / "c.json").exists()


def test_exchanges_are_measured_between_processes() -> None:
    found = exchange_times(2, [64, 4096], "cpu")
    assert {one.collective for one in found} == {"all_reduce", "reduce_scatter", "all_gather", "all_to_all", "send"}
    assert {one.sent for one in found if one.collective == "all_reduce"} == {64, 4096}
    assert {one.sent for one in found if one.collective == "all_gather"} == {32, 2048}
    assert all(one.ranks == 2 for one in found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.timeout(600)
def test_a_gpu_measures_everything(tmp_path: Path) -> None:
    found = calibrate(replace(asked(tmp_path / "c.json", *OPERATORS), at_least=0.01, device="cuda"))
    assert not found.failed
    assert found.gpu == torch.cuda.get_device_name()
