"""Spikes over several ranks: all of them skip the same steps and go back together, whoever's batch it was."""

import pytest

from tests.run.sessions import losses, records, run_with_spikes
from tests.run.test_train_over_ranks import folder_of
from tests.tiny_run import LENGTH, SAME_LOSSES, tiny_config

STEPS = 14


def configured(data, folder, parallel=None, **training):
    spikes = {"window": 8, "threshold": 50.0, "rollback_after": 2}
    config = tiny_config(data, folder, tokens=STEPS * 4 * LENGTH, spikes=spikes, **training)
    config["checkpoint"]["every"] = 4
    return config | {"parallel": parallel or {}}


def test_all_ranks_skip_and_go_back_together(processes, data, tmp_path):
    alone = configured(data, tmp_path / "alone")
    several = configured(
        data, tmp_path / "several", {"tensor": 2, "data": 2}, zero_stage=1, micro_batch=1, batch_tokens=4 * LENGTH
    )
    processes.run(1, run_with_spikes, alone, [11, 12], [0])
    outcomes = processes.run(4, run_with_spikes, several, [11, 12], range(4))
    assert [outcome.status for outcome in outcomes] == ["finished"] * 4
    told = [[(e["event"], e["step"], e["from_step"]) for e in records(folder_of(c), "event")] for c in (alone, several)]
    assert told[0] == told[1] == [("rolled_back", 8, 12)]
    assert losses(folder_of(several)) == pytest.approx(losses(folder_of(alone)), rel=SAME_LOSSES * (STEPS / 6) ** 0.5)
    assert len(losses(folder_of(several))) == STEPS


@pytest.mark.parametrize(
    ("stage", "what"), [(0, "gradient norm"), (1, "gradient norm"), (2, "loss"), (3, "gradient norm")]
)
def test_a_spike_on_one_rank_is_one_for_all(processes, data, tmp_path, stage, what):
    config = configured(data, tmp_path, {"data": 2}, zero_stage=stage, micro_batch=1)
    outcomes = processes.run(2, run_with_spikes, config, [10], [1], what)
    assert [outcome.status for outcome in outcomes] == ["finished"] * 2
    (event,) = records(folder_of(config), "event")
    assert (event["event"], event["step"]) == ("spike", 10)
    assert event["message"].startswith(f"step 10 skipped as a spike: {what} ")
    # Had a rank made the step, the loss would be far from what it was.
    found = losses(folder_of(config))
    assert max(found[10:]) < found[8] + 0.5
