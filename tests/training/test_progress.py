"""What a run tells while it goes."""

import io
import logging

import pytest
from rich.console import Console

from glm_scale.training.progress import Progress, StepView, describe


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
