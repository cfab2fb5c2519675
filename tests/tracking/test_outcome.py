"""The numbers of a finished run that people sort runs by."""

import pytest
import yaml

from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import MetricsLog
from glm_scale.tracking.outcome import outcome, seconds_trained


def steps(run: RunDirectory, first: int, last: int, every: int, speed: float) -> None:
    """Measurements of steps of ten tokens."""
    with MetricsLog(run.metrics) as log:
        for step in range(first, last + 1, every):
            log.append("train", step=step, tokens=10 * step, flops=0.0, loss=1.0, tokens_per_second=speed)


def test_seconds_are_those_of_all_steps(make_run):
    run = make_run()
    steps(run, 1, 9, 1, 5.0)
    assert seconds_trained(run) == 9 * 10 / 5
    assert seconds_trained(run, 4) == 4 * 10 / 5


def test_steps_that_were_not_logged_count_as_the_next_one(make_run):
    run = make_run()
    steps(run, 3, 12, 3, 5.0)
    assert seconds_trained(run) == 12 * 10 / 5


def test_a_branch_has_the_seconds_of_what_it_began_from(make_run):
    trunk, branch = make_run(name="trunk"), make_run(name="branch")
    settings = yaml.safe_load(branch.config.read_text())
    branch.config.write_text(yaml.safe_dump({**settings, "branch": {"run": "trunk", "step": 6}}))
    steps(trunk, 1, 20, 1, 5.0)
    steps(branch, 7, 8, 1, 1.0)
    assert seconds_trained(branch) == 6 * 10 / 5 + 2 * 10 / 1


def test_what_was_not_measured_is_left_out(make_run):
    run = make_run()
    with MetricsLog(run.metrics) as log:
        log.append("validation", step=3, tokens=30, flops=0.0, loss=2.0, bits_per_byte=1.0)
    assert not {name for name, _ in outcome(run, run.read_summary())} & {"final/loss", "final/seconds"}


def test_costs_are_there_as_logarithms_too(make_run):
    run = make_run(tokens=5000)
    steps(run, 1, 10, 1, 5.0)
    found = dict(outcome(run, run.read_summary()))
    assert found["final/flops"] == 5000 * 6000
    for cost in ("flops", "seconds"):
        assert 10 ** found[f"final/log10_{cost}"] == pytest.approx(found[f"final/{cost}"])
