"""Ranks are killed, disks refuse, files are damaged: the same command brings every run to its end all the same."""

import os

import pytest

from glm_scale.checkpoint.points import Point
from tests.faults.plan import disk_plan, plan
from tests.faults.runs import Setup
from tests.faults.trials import carry_out

# A few of all, since the bits are compared with those of an undisturbed run of each.
SETUPS = [
    Setup("alone", 1),
    Setup("data 2", 0),
    Setup("data 2", 3),
    Setup("sequence 2", 1),
    Setup("tensor 2", 2),
    Setup("tensor 2", 0),
    Setup("data 4", 2),
]
TRIALS = 2 * len(Point)
SOAK = 260


def asked_for(request, trial):
    """How many trials this session makes; skips the test that judges them all if there are none."""
    trials = sum(item.function is trial for item in request.session.items)
    if not trials:
        pytest.skip(f"{trial.__name__} was not asked for")
    return trials


def check_kills(request, report, trial):
    """At least half of the trials killed a rank before its run was over, and half of the kills were inside a save."""
    assert report.kills.total() >= asked_for(request, trial) / 2, report
    assert report.share_inside >= 0.5, report


@pytest.mark.parametrize("number", range(TRIALS))
def test_a_run_survives_a_kill(runs, report, number):
    carry_out(plan("ci", number, SETUPS), runs, report)


@pytest.mark.parametrize("number", range(4))
def test_a_run_survives_a_full_or_read_only_disk(runs, report, number):
    carry_out(disk_plan("ci", number, SETUPS, root=os.geteuid() == 0), runs, report)


def test_at_least_half_of_the_kills_were_inside_a_save(request, report):
    check_kills(request, report, test_a_run_survives_a_kill)


def test_most_disks_refused_a_save(request, report):
    assert report.refused > asked_for(request, test_a_run_survives_a_full_or_read_only_disk) / 2, report


@pytest.mark.soak
@pytest.mark.parametrize("number", range(SOAK))
def test_runs_survive_many_kills(runs, report, soak_seed, number):
    carry_out(plan(soak_seed, number), runs, report)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(SOAK // 5))
def test_runs_survive_many_full_or_read_only_disks(runs, report, soak_seed, number):
    carry_out(disk_plan(soak_seed, number, root=os.geteuid() == 0), runs, report)


@pytest.mark.soak
def test_at_least_half_of_many_kills_were_inside_a_save(request, report):
    check_kills(request, report, test_runs_survive_many_kills)


@pytest.mark.soak
def test_most_of_many_disks_refused_a_save(request, report):
    assert report.refused > asked_for(request, test_runs_survive_many_full_or_read_only_disks) / 2, report
