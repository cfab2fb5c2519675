"""What a run says of its insides: norms of every layer in every layout, and how mixers weigh what they read."""

import json
import math
from pathlib import Path

import pytest
import torch

from glm_scale.config import RunConfig, validate
from glm_scale.mixers.queries_keys import row_weights, rows_before
from glm_scale.run.train import train
from glm_scale.training.statistics import part_of
from tests.mixers.test_mixers import PACKED, build, sequence
from tests.parallel.processes import Pool
from tests.run import sessions
from tests.tiny_run import tiny_config
from tests.tolerances import assert_close, rounding

MIXERS = ["lattice:2^k", "attention"]


def statistics(folder: Path) -> list[dict[str, float]]:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == "statistics"]


def configured(data: Path, folder: Path, **changes: object) -> dict[str, object]:
    tree = tiny_config(data, folder, statistics_every=2, **changes)
    tree["model"] |= {"heads": 4, "layers": 2, "mixers": MIXERS}
    return tree


LAYOUTS = [({"tensor": 2}, 3), ({"sequence": 2}, 2), ({"tensor": 2, "shard_activations": True}, 0), ({}, 1)]


@pytest.mark.numeric
def test_norms_are_those_of_one_process_in_every_layout(processes: Pool, data: Path, tmp_path: Path) -> None:
    train(validate(RunConfig, configured(data, tmp_path / "alone", zero_stage=1, micro_batch=1), "the test"))
    expected = statistics(tmp_path / "alone" / "runs" / "tiny")
    assert [record["step"] for record in expected] == [2, 4, 6]
    for number, (parallel, stage) in enumerate(LAYOUTS):
        folder = tmp_path / str(number)
        tree = configured(data, folder, zero_stage=stage, micro_batch=1) | {"parallel": parallel}
        processes.run(2, sessions.run, tree)
        for found, wanted in zip(statistics(folder / "runs" / "tiny"), expected, strict=True):
            norms = {
                name: value for name, value in wanted.items() if name.split("/")[0] in ("weight", "gradient", "update")
            }
            assert {name: found[name] for name in norms} == pytest.approx(norms, rel=1e-3)
            assert found.keys() == wanted.keys()


def test_they_change_nothing_and_are_of_the_step_that_was_made(data: Path, tmp_path: Path) -> None:
    folders = []
    for every in (1, None):
        folder = tmp_path / str(every)
        tree = configured(data, folder)
        tree["training"]["statistics_every"] = every  # type: ignore[index]
        train(validate(RunConfig, tree, "the test"))
        folders.append(folder / "runs" / "tiny")
    assert sessions.losses(folders[0]) == sessions.losses(folders[1])
    assert sessions.weights(folders[0]) == sessions.weights(folders[1])
    assert not statistics(folders[1])
    for step, record in zip(sessions.records(folders[0], "train"), statistics(folders[0]), strict=True):
        total = math.sqrt(sum(value**2 for name, value in record.items() if name.startswith("gradient/")))
        assert total == pytest.approx(min(step["grad_norm"], 1.0), rel=1e-4)


def test_parameters_are_summed_by_the_parts_of_a_model() -> None:
    assert part_of("blocks.3.mixer.stages.0.q.weight") == "blocks.3.mixer"
    assert part_of("blocks.0.mlp_norm.weight") == "blocks.0.mlp_norm"
    assert (part_of("embedding.weight"), part_of("head.weight")) == ("embedding", "head")


@pytest.mark.numeric
@pytest.mark.parametrize("spelling", ["attention", "local:5", "window:4", "dense", "lattice:2^k", "offsets:2^k"])
def test_weights_are_those_by_which_rows_are_made(spelling: str) -> None:
    """Of a recurrence whose inputs are ones and others' are zeros, what is left of the own input is its weight."""
    mixer, x = build(spelling), torch.randn(2, 40, 12)
    stage, packed = mixer.stages[0], sequence(40, PACKED)
    weights = stage.row_weights(x, packed)
    assert weights.own.shape == weights.entropy.shape == (2, 40, 2)
    firsts = packed.positions == 0
    assert_close(weights.own[firsts], torch.ones_like(weights.own[firsts]), rounding(torch.float32, 4))
    assert not weights.entropy[firsts].any()
    # A value at one row alone: at that row stands its weight.
    for row in (3, 9, 17, 39):
        v = torch.zeros(2, 40, 2, 8)
        v[:, row] = 1
        assert_close(stage(x, v, packed)[:, row, :, 0], weights.own[:, row], rounding(torch.float32, 200))


def test_stages_that_are_no_averages_say_nothing() -> None:
    assert build("ssm:4").stages[0].row_weights(torch.randn(1, 8, 12), sequence(8)) is None
    assert build("local:1").stages[0].row_weights(torch.randn(1, 8, 12), sequence(8)) is None


def test_entropy_is_that_of_equal_weights_where_nothing_differs() -> None:
    q = torch.zeros(1, 6, 1, 4)
    reads = rows_before(torch.tensor([[0, 1, 2, 0, 1, 2]]), torch.ones(6, 6, dtype=torch.bool).tril(-1))
    found = row_weights(q, q, torch.zeros(1, 6, 1), reads)
    expected = torch.tensor([1.0, 2, 3, 1, 2, 3])
    assert_close(found.own.flatten(), 1 / expected, 1e-6)
    assert_close(found.entropy.flatten(), expected.log(), 1e-6)
