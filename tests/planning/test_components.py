"""A step put together from single operators: added up by hand, and what happens where one was not measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from glm_launch.cli.app import main
from glm_scale.config.run import RunConfig
from glm_scale.parallel.mesh import Layout
from glm_scale.planning import GPUS, plan_layouts
from glm_scale.planning.calibration import Calibration
from glm_scale.planning.estimate import Estimate, Seconds
from glm_scale.planning.plan import activations_of
from glm_scale.planning.speeds import Mixing, Speeds
from tests.planning.made_up import BATCH, HEADS, HIDDEN, LAYERS, LENGTH, TOKENS, VOCABULARY, WIDTH, made_up, small_run

GPU = GPUS["h200"]
MICRO_BATCHES = 2


def estimated(config: RunConfig, layout: Layout | None = None) -> Estimate:
    layout = layout or Layout.of(1)
    return Estimate(config, layout, activations_of(config, layout))


def seconds_of(mixer: str, calibration: Calibration | None = None, **training: Any) -> Seconds:
    return estimated(small_run([mixer], **training)).seconds(GPU, calibration or made_up())


def test_a_step_is_the_sum_of_its_pieces() -> None:
    found = seconds_of("attention")
    numbers = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * HIDDEN + 2 * WIDTH) + 2 * VOCABULARY * WIDTH + WIDTH
    parts = found.parts
    # q, k, v, o, gate, up, down.
    assert parts["matrix products"] == pytest.approx(MICRO_BATCHES * LAYERS * 7 * 6e-3)
    assert parts["token mixing"] == pytest.approx(MICRO_BATCHES * LAYERS * 30e-3)
    assert parts["head and loss"] == pytest.approx(MICRO_BATCHES * 5e-3)
    assert parts["embedding"] == pytest.approx(MICRO_BATCHES * 0.5e-3)
    # 12 bytes a number and micro-batch: 2 of bf16 gradients, 10 to add them up in fp32.
    assert parts["gradients"] == pytest.approx(MICRO_BATCHES * 12 * numbers / 1e12)
    # AdamW, the first sum, which is not read, and new weights; a norm, and clipping.
    assert parts["optimizer"] == pytest.approx(numbers * (1e-9 + (-4 + 6) / 1e12))
    assert parts["norm and clipping"] == pytest.approx(numbers * (0.5e-9 + 8 / 1e12))
    assert parts["host"] == 7e-3
    assert found.total == pytest.approx(sum(parts.values()))
    assert (found.calibrated, found.bound, found.not_measured) == (True, "matrix products", ())


def test_compiled_work_runs_at_the_bandwidth_of_compiled_kernels() -> None:
    estimate = estimated(small_run(["attention"]))
    traced = estimate._activations.traced("none")["attention"]
    moved = LAYERS * (traced.forward + traced.backward) / 0.5e12 + 6 * TOKENS * WIDTH * 2 / 1e12
    assert estimate.seconds(GPU, made_up()).parts["elementwise"] == pytest.approx(MICRO_BATCHES * moved)


def test_what_is_computed_again_is_counted_again() -> None:
    none, selective, full = (
        seconds_of("attention", activation_checkpointing=policy).parts for policy in ("none", "selective", "full")
    )
    assert full["matrix products"] == pytest.approx(MICRO_BATCHES * LAYERS * 7 * 7e-3)
    assert full["token mixing"] == pytest.approx(MICRO_BATCHES * LAYERS * 40e-3)
    assert full["head and loss"] == pytest.approx(MICRO_BATCHES * 5e-3)
    # Gate and up.
    assert selective["matrix products"] == pytest.approx(MICRO_BATCHES * LAYERS * (7 * 6e-3 + 2 * 1e-3))
    assert selective["token mixing"] == none["token mixing"]
    assert none["elementwise"] < selective["elementwise"] < full["elementwise"]


def test_arithmetic_that_is_done_again_is_counted_again() -> None:
    none, selective, full = (
        estimated(small_run(["attention"], activation_checkpointing=policy)).flops
        for policy in ("none", "selective", "full")
    )
    tokens = MICRO_BATCHES * TOKENS * LAYERS
    assert selective - none == tokens * 2 * 2 * WIDTH * HIDDEN
    attention = 2 * WIDTH * (LENGTH + 1)
    assert full - none == pytest.approx(tokens * (2 * (4 * WIDTH**2 + 3 * WIDTH * HIDDEN) + attention), rel=0.01)


def test_gradients_that_are_not_clipped_are_not_passed_over() -> None:
    with_clip, without = (seconds_of("attention", optimizer={"clip": clip}).parts for clip in (1.0, None))
    assert with_clip["norm and clipping"] > without["norm and clipping"]


def test_what_was_not_measured_goes_by_the_data_sheet_and_is_named() -> None:
    found = seconds_of("lattice:2^k", made_up(host=None, heads=()))
    missing = ("the host", "the output head", "lattice:2^k")
    assert set(found.not_measured) == {f"{what} (by the data sheet)" for what in missing}
    assert found.parts["host"] == 0
    assert found.parts["head and loss"] == pytest.approx(
        MICRO_BATCHES * 6 * TOKENS * WIDTH * VOCABULARY / GPU.peak_flops("bf16")
    )


def test_a_token_mixing_is_taken_to_be_as_good_as_others_of_its_family() -> None:
    attention = made_up().operators[0]
    calibration = made_up(operators=[attention.model_copy(update={"operator": "window:8"})])
    own, other = (seconds_of(mixer, calibration) for mixer in ("window:8", "window:16"))
    assert own.parts["token mixing"] < other.parts["token mixing"] < 2 * own.parts["token mixing"]
    assert (own.not_measured, other.not_measured) == ((), ("window:16 (like window:8)",))


def test_an_operator_of_another_length_takes_as_much_more_as_its_work() -> None:
    speeds, width = Speeds(made_up(), GPU), WIDTH // HEADS
    for times in (1, 2, 4):
        mixing = Mixing("attention", BATCH, LENGTH * times, HEADS, width, width)
        # Scores of (T + 1) / 2 tokens a token; keys, queries, values and results once.
        flops = BATCH * HEADS * LENGTH * times * 4 * width * (LENGTH * times + 1) / 2
        moved = BATCH * HEADS * LENGTH * times * 4 * width * 2
        least = flops / GPU.peak_flops("bf16") + moved / GPU.memory_bandwidth
        if times == 1:
            scale = 10e-3 / least
        assert speeds.mixing(mixing)[0] == pytest.approx(scale * least)


def test_exchanges_inside_a_machine_go_by_what_was_measured() -> None:
    exchanges = [
        {"collective": "all_reduce", "ranks": 2, "sent": 1000, "seconds": 1e-3},
        {"collective": "all_reduce", "ranks": 2, "sent": 11000, "seconds": 2e-3},
    ]
    calibration = made_up(exchanges=exchanges)
    # 10 MB/s behind a first millisecond of each call.
    assert Speeds(calibration, GPU).exchange("all_reduce", 4, 5e6, 3) == pytest.approx(0.503)
    assert Speeds(calibration, GPU).exchange("all_gather", 2, 5e6, 3) is None
    estimate = estimated(small_run(["attention"]), Layout(data=2))
    summed = sum(e.calls * 1e-3 + e.sent / 1e7 for e in estimate.exchanges() if e.collective == "all_reduce")
    replicas = estimate.seconds(GPU, calibration).replicas
    assert summed < replicas < 1.01 * summed


def test_fp32_goes_by_the_data_sheet() -> None:
    estimate = estimated(small_run(["attention"], precision="fp32"))
    assert estimate.seconds(GPU, made_up()) == estimate.seconds(GPU)
    assert not estimate.seconds(GPU, made_up()).calibrated


def test_layouts_are_ordered_by_predictions() -> None:
    planning = plan_layouts(small_run(["attention"]), 2, GPU, made_up())
    assert planning.calibrated
    assert all(plan.seconds.calibrated for plan in planning.plans)


# The command ---------------------------------------------------------------------------------------------------------


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: object) -> tuple[int, str]:
    config = Path(__file__).parents[2] / "configs" / "160m.yaml"
    monkeypatch.setattr(sys, "argv", ["glm-scale", "plan", str(config), "--gpu", "h200", *map(str, options)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out + told.err


def test_the_command_predicts_and_says_from_what(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c.json").write_text(made_up().to_json())
    code, text = shown(capsys, monkeypatch, "--calibration", tmp_path / "c.json")
    words = " ".join(text.split())
    assert code == 0
    assert "Times are predictions from single operators that were measured on NVIDIA H200, torch 2.11." in words
    assert "Not measured: lattice:2^k (by the data sheet)." in words
    assert "matrix products" in words
    assert "tokens/s ≤" not in words


def test_a_prediction_can_be_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c.json").write_text(made_up().to_json())
    _, text = shown(capsys, monkeypatch, "--calibration", tmp_path / "c.json", "--json")
    found = json.loads(text)
    assert found["times"] == "predictions from single operators measured on NVIDIA H200, torch 2.11"
    seconds = found["plans"][0]["seconds"]
    assert seconds["calibrated"]
    assert seconds["total"] == pytest.approx(sum(seconds["parts"].values()))


def test_a_file_of_another_gpu_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c.json").write_text(made_up(gpu="NVIDIA L40S").to_json())
    code, text = shown(capsys, monkeypatch, "--calibration", tmp_path / "c.json")
    assert code == 2
    assert "c.json is of 'NVIDIA L40S', but --gpu is h200" in text


def test_without_a_calibration_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glm_scale.planning.calibration._FOLDER", Path("nowhere"))
    _, text = shown(capsys, monkeypatch)
    assert "Calibration of h200: there is none; --calibration names one" in text
    assert "tokens/s ≤" in text
