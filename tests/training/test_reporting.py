"""What a run says about itself: time accounting, the progress line, metrics records."""

import io
import logging
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from glm_scale.checkpoint import Counters
from glm_scale.errors import UserError
from glm_scale.tracking import MetricsLog, read_metrics
from glm_scale.training.clock import Clock
from glm_scale.training.engine import StepResult
from glm_scale.training.evaluation import Evaluation, evaluate
from glm_scale.training.hardware import peak_flops
from glm_scale.training.progress import Progress, StepView, describe
from glm_scale.training.step_log import StepLog
from tests.training.test_engine import Batch


class FakeTime:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr("glm_scale.training.clock.time", fake)
    return fake


def test_the_clock_accounts_for_all_time(fake_time: FakeTime) -> None:
    clock = Clock()
    phases = {"forward_backward": 8.0, "optimizer": 2.0, "data": 1.5, "evaluation": 10.0}
    for phase, seconds in phases.items():
        with clock.phase(phase):
            fake_time.now += seconds
    fake_time.now += 1.0
    assert clock.seconds() == phases | {"other": 1.0}
    assert clock.overhead_fraction() == pytest.approx(2.5 / 12.5)


def test_a_progress_line_is_short_and_complete() -> None:
    view = StepView(120, 400, 4.21326, 12_345.6, 0.412, 3723.0)
    assert describe(view) == "step 120/400  loss 4.2133  12.3k tokens/s  mfu 41%  eta 1:02:03"
    assert "mfu" not in describe(StepView(1, 2, 1.0, 10.0, None, 5.0))


def test_without_a_terminal_lines_are_rare_and_also_logged(caplog: pytest.LogCaptureFixture) -> None:
    output = io.StringIO()
    with caplog.at_level(logging.INFO), Progress(Console(file=output), "run") as progress:
        for step in range(50):
            progress.step(StepView(step, 50, 1.0, 1.0, None, 1.0))
        progress.say("remark [not markup]")
    assert output.getvalue().splitlines() == [
        "run  step 0/50  loss 1.0000  1 tokens/s  eta 0:01",
        "remark [not markup]",
    ]
    assert "remark [not markup]" in caplog.text


def test_the_journal_writes_rates_and_skipped_steps(tmp_path: Path, fake_time: FakeTime) -> None:
    clock = Clock()
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        progress = Progress(Console(file=io.StringIO()), "run")
        journal = StepLog(log, progress, clock, steps=9, flops_per_token=7.0, peak_flops=7e6)
        counters = Counters()
        journal.begin(counters)
        with clock.phase("forward_backward"):
            fake_time.now += 4.0
        with clock.phase("evaluation"):
            fake_time.now += 10.0
        counters = counters.after(2, 100, applied=True, spike=False)
        journal.step(counters, StepResult(1.5, 0.3, True), 1e-3)
        counters = counters.after(2, 100, applied=False, spike=False)
        journal.step(counters, StepResult(math.nan, math.nan, False), 1e-3)
        journal.validation(counters, Evaluation(nats=20.0, tokens=10, bytes=40), final=True)
    first, bad, event, validation = read_metrics(tmp_path / "metrics.jsonl")
    assert first.number("tokens_per_second") == 25.0, "evaluation does not count"
    assert first.number("mfu") == pytest.approx(25.0 * 7.0 / 7e6)
    assert (first.step, first.tokens, first.flops) == (1, 100, 700.0)
    assert math.isnan(bad.number("loss") or 0)
    assert event.values["event"] == "skipped_step"
    assert (validation.values["loss"], validation.values["final"]) == (2.0, True)


def test_bits_per_byte_counts_valid_labels_and_their_bytes() -> None:
    token_bytes = torch.tensor([0, 1, 3, 5])
    labels = torch.tensor([[1, 2, -100], [3, 0, -100]])
    batch = Batch(torch.zeros_like(labels), labels, torch.zeros_like(labels))
    result = evaluate(lambda _: torch.tensor(6.0), [batch, batch], token_bytes)
    assert (result.tokens, result.bytes) == (8, 18)
    assert result.loss == 1.5
    assert result.bits_per_byte == pytest.approx(12 / math.log(2) / 18)


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(UserError, match="no token"):
        evaluate(lambda _: torch.tensor(0.0), [], torch.zeros(4, dtype=torch.int32))


def test_the_peak_of_a_cpu_is_not_known() -> None:
    assert peak_flops(torch.device("cpu"), "fp32") is None
