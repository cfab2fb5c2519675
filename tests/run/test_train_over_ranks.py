"""Runs over several ranks: the loss curve of one process, whatever the layout, and one checkpoint for all."""

import pytest

from glm_scale.config import RunConfig, check_layout, layout_of, validate
from glm_scale.config.problems import ConfigError
from glm_scale.training.signals import REQUEUE_EXIT_CODE
from tests.run.sessions import losses, records, run, run_and_tell, run_with_signal, weights
from tests.tiny_run import SAME_LOSSES, tiny_config


@pytest.fixture(scope="module")
def alone(processes, data, tmp_path_factory):
    """The folder of a run on one process."""
    config = tiny_config(data, tmp_path_factory.mktemp("alone"))
    (outcome,) = processes.run(1, run, config)
    assert outcome.status == "finished"
    return folder_of(config)


def folder_of(config):
    return validate(RunConfig, config, "the test").run_root / config["name"]


def configured(data, folder, parallel, **training):
    return {**tiny_config(data, folder, **training), "parallel": parallel}


@pytest.mark.parametrize(
    ("parallel", "training"),
    [
        ({"tensor": 2, "sequence": 2}, {"zero_stage": 1}),
        ({"tensor": 2, "data": 2, "shard_activations": True}, {"zero_stage": 3, "micro_batch": 1}),
        ({"sequence": 2}, {"zero_stage": 2, "micro_batch": 1, "activation_checkpointing": "full"}),
        ({}, {"zero_stage": 0, "micro_batch": 1}),
    ],
    ids=str,
)
def test_loss_curves_are_those_of_one_process(processes, alone, data, tmp_path, parallel, training):
    config = configured(data, tmp_path, parallel, **training)
    outcomes = processes.run(4, run, config)
    assert [outcome.status for outcome in outcomes] == ["finished"] * 4
    folder = folder_of(config)
    for kind in ("train", "validation"):
        assert losses(folder, kind) == pytest.approx(losses(alone, kind), rel=SAME_LOSSES)
        positions = [[(r["step"], r["tokens"], r["flops"]) for r in records(path, kind)] for path in (folder, alone)]
        assert positions[0] == positions[1]


def test_a_run_goes_on_in_another_layout(processes, alone, data, tmp_path):
    whole = tiny_config(data, tmp_path)["training"]["tokens"]
    layouts = [(4, {"tensor": 2, "sequence": 2}, 2), (2, {"sequence": 2}, 4), (4, {"tensor": 2, "data": 2}, 6)]
    for count, parallel, steps in layouts:
        # The schedule is a constant, so that it does not matter when the budget is raised.
        training = {"tokens": whole // 6 * steps, "micro_batch": 1, "schedule": {"final_fraction": 1.0}}
        config = configured(data, tmp_path, parallel, **training)
        processes.run(count, run, config)
    constant = configured(data, tmp_path, {}, schedule={"final_fraction": 1.0}) | {"name": "constant"}
    processes.run(1, run, constant)
    assert losses(folder_of(config)) == pytest.approx(losses(folder_of(constant)), rel=SAME_LOSSES)
    assert len(losses(folder_of(config))) == 6


def test_the_same_layout_gives_the_same_bits(processes, data, tmp_path):
    found = []
    for name in ("first", "second"):
        config = configured(data, tmp_path, {"tensor": 2, "sequence": 2}, zero_stage=2) | {"name": name}
        processes.run(4, run, config)
        found.append((losses(folder_of(config)), weights(folder_of(config))))
    assert found[0] == found[1]


def test_a_request_to_one_rank_stops_all(processes, data, tmp_path):
    config = configured(data, tmp_path, {"tensor": 2, "sequence": 2})
    outcomes = processes.run(4, run_with_signal, config, 2, 3)
    assert [(outcome.status, outcome.stopped_by, outcome.exit_code) for outcome in outcomes] == [
        ("stopped", "SIGTERM", REQUEUE_EXIT_CODE)
    ] * 4
    assert len(losses(folder_of(config))) == 3
    assert (folder_of(config) / "checkpoints" / "step-00000003").is_dir()


def test_what_stops_the_first_rank_is_told_to_all(processes, data, tmp_path):
    config = configured(data, tmp_path, {"tensor": 2})
    processes.run(2, run, config)
    first, second = processes.run(2, run_and_tell, config | {"model": {**config["model"], "width": 32}})
    assert "would make it another run" in first
    assert second.startswith("rank 0 could not go on: ")


@pytest.mark.parametrize(
    ("parallel", "changes", "messages"),
    [
        ({"tensor": 3}, {}, ["model.vocab_size = 320", "3 tensor ranks; nearest that do: 318 or 321", "its 2 heads"]),
        ({"sequence": 5}, {}, ["data.sequence_length = 32", "nearest that do: 30 or 35"]),
        ({"sequence": 4, "strategy": "a2a"}, {}, ["its 2 heads", "the nearest number of ranks that does is 2"]),
        ({"sequence": 2, "strategy": "scan"}, {"mixers": ["dense"]}, ["it can by 'a2a' or 'ring'"]),
        ({"sequence": 2, "strategy": "ring"}, {"mixers": ["log_linear"]}, ["by 'ring'", "it can by 'a2a'"]),
        ({"data": 3}, {}, ["training.batch_tokens = 128", "3 data ranks = 192; nearest: 192"]),
        ({"shard_activations": True}, {}, ["Megatron's sequence parallelism", "parallel.tensor of at least 2"]),
        ({"sequence": 16}, {"conv_width": 4}, ["reads 3 tokens back", "16 sequence ranks (context parallelism) has 2"]),
    ],
    ids=str,
)
def test_layouts_that_cannot_be_are_refused_before_any_process_starts(data, tmp_path, parallel, changes, messages):
    config = configured(data, tmp_path, parallel)
    config["model"] |= changes
    run_config = validate(RunConfig, config, "the test")
    with pytest.raises(ConfigError) as refused:
        check_layout(run_config, layout_of(run_config), "the test")
    assert all(message in str(refused.value) for message in messages), str(refused.value)
