"""What a run's log says of steps and evaluations."""

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from glm_scale.checkpoint import Counters
from glm_scale.tracking import MetricsLog, read_metrics
from glm_scale.training.clock import Clock
from glm_scale.training.engine import StepResult
from glm_scale.training.evaluation import Evaluation
from glm_scale.training.progress import Progress
from glm_scale.training.step_log import StepLog
from tests.training.fake_time import FakeTime


def test_the_journal_writes_rates_and_skipped_steps(tmp_path: Path, fake_time: FakeTime) -> None:
    clock = Clock()
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        progress = Progress(Console(file=io.StringIO()), "run")
        journal = StepLog(
            log,
            progress,
            clock,
            steps=9,
            flops_per_token=7.0,
            peak_flops=7e6,
            breakdown=tmp_path / "breakdown.json",
            tasks=tmp_path / "tasks.json",
        )
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
