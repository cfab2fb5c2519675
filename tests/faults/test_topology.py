"""Every step of a run in another layout than the one before: the losses and the samples of one process."""

from itertools import pairwise, product

import pytest

from glm_scale.training.signals import REQUEUE_EXIT_CODE
from tests.faults.rank import Faults
from tests.faults.runs import LAYOUTS, SETUPS, STEPS, Setup, samples_by_step
from tests.tiny_run import SAME_LOSSES


def every_change(items):
    """A walk over the items that makes every step from one to another, or to itself, once."""
    for index, one in enumerate(items):
        yield one
        for other in items[index + 1 :]:
            yield from (one, other)
    yield items[0]


def runs_of(walk):
    """The parts of a walk that fit into a run of STEPS steps each; the next begins where the last one ended."""
    return [walk[begin : begin + STEPS] for begin in range(0, len(walk) - 1, STEPS - 1)]


# Stages with which every two of writing layout, writing stage, reading layout and reading stage meet.
STAGES = map(int, "13002123211220312012332121333000302011001023121330")
COVERING = [Setup(*setup) for setup in zip(every_change(list(LAYOUTS)), STAGES, strict=True)]
WHOLE = list(every_change(SETUPS))


def test_every_two_settings_of_a_change_meet():
    changes = [(a.layout, a.stage, b.layout, b.stage) for a, b in pairwise(COVERING)]
    values = (LAYOUTS, range(4)) * 2
    for one, other in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        assert {(c[one], c[other]) for c in changes} == set(product(values[one], values[other]))
    assert set(pairwise(WHOLE)) == set(product(SETUPS, SETUPS))


@pytest.mark.parametrize("setups", runs_of(COVERING), ids=range(len(runs_of(COVERING))))
def test_a_run_goes_on_in_any_other_layout(runs, setups):
    check(runs, setups)


def test_a_run_with_muon_goes_on_in_any_other_stage_and_layout(runs):
    walk = [("data 2", 1), ("tensor 2", 3), ("data 4", 2), ("alone", 0), ("tensor 2", 1), ("data 2", 3)]
    check(runs, [Setup(*setup, optimizer="muon") for setup in [*walk, ("tensor 4", 0), ("sequence 2", 2)]])


@pytest.mark.soak
@pytest.mark.parametrize("setups", runs_of(WHOLE), ids=range(len(runs_of(WHOLE))))
def test_a_run_goes_on_from_every_layout_in_every_other(runs, setups):
    check(runs, setups)


def check(runs, setups):
    """A run of which every step is made in another setup, by processes of its own."""
    alone = runs.reference(Setup("alone", 1, optimizer=setups[0].optimizer))
    tiny = runs.new(every=STEPS)
    for step, setup in enumerate(setups, 1):
        last = step == len(setups)
        with tiny.start(setup, Faults(stop=None if last else step)) as attempt:
            attempt.finish({0 if last else REQUEUE_EXIT_CODE})
        assert set(attempt.notes.firsts("training begins")) == {step - 1}, (step, attempt.output())
        # The step that is made, and the one that is prepared meanwhile.
        due = alone.samples[step - 1 :] if last else alone.samples[step - 1 : step + 1]
        assert samples_by_step(attempt.notes, step - 1, setup) == due, (step, setup)
    wrong = [
        f"step {step}: {found} instead of {due} ({' → '.join(map(str, setups[max(0, step - 2) : step]))})"
        for step, (found, due) in enumerate(zip(tiny.losses(), alone.losses, strict=True), 1)
        if found != pytest.approx(due, rel=SAME_LOSSES)
    ]
    assert not wrong, "\n".join(wrong)
    assert tiny.losses("validation") == pytest.approx(alone.validation, rel=SAME_LOSSES)
