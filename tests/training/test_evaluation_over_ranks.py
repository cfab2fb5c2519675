"""Ranks of every axis together find the breakdown of one process: the same tokens, and losses but for rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist

from glm_data import DataConfig, PackedSequences, SourceConfig
from glm_scale.model.config import ModelConfig
from glm_scale.model.transformer import LanguageModel
from glm_scale.parallel.mesh import Layout, Mesh
from glm_scale.tracking.breakdown import Breakdown
from glm_scale.training.evaluation import Evaluation, evaluate
from glm_scale.training.micro_batch import DeviceBatch, MicroBatch
from glm_scale.training.ranks import Ranks
from glm_scale.training.token_groups import TokenGroups
from tests.tiny_run import LENGTH
from tests.tolerances import rounding

MIXERS, MLP = ("lattice:2^k", "attention"), 32


def measure(data: Path, tensor: int, sequence: int) -> Evaluation:
    """The validation loss of a model that has learned nothing, on all ranks of the group."""
    mesh = Mesh(Layout.of(dist.get_world_size(), tensor=tensor, sequence=sequence))
    try:
        model = LanguageModel(
            ModelConfig(vocab_size=320, layers=2, width=16, heads=4, mixers=MIXERS, mlp_width=MLP), tensor=mesh.tensor
        ).eval()
        model.sequence_axis = mesh.sequence
        ranks, device = Ranks(mesh), torch.device("cpu")
        sequences = PackedSequences(
            DataConfig(sources=[SourceConfig(path=data)] * 2, sequence_length=LENGTH, workers=0), "validation"
        )
        count = len(sequences) - 1

        def token_losses(batch: MicroBatch) -> torch.Tensor:
            there = DeviceBatch.of(batch, device, packed=False)
            return model(there.tokens, **there.keywords(), reduction="none")

        return evaluate(
            token_losses,
            ranks.batches(sequences, 0, 3, stop=count),
            torch.from_numpy(sequences.tokenizer.token_bytes),
            ranks.totals,
            TokenGroups.of(sequences, count, ranks.own_columns),
        )
    finally:
        mesh.close()


@pytest.mark.numeric
def test_every_layout_finds_what_one_process_finds(processes, data):
    (alone,) = processes.run(1, measure, data, 1, 1)
    expected: Breakdown = alone.breakdown
    assert {"kind/new", "kind/repeated-4gram"} <= set(expected.groups())
    assert expected.whole.count == alone.tokens
    assert len(expected.sources) == 2
    assert sum(expected.source_bytes) == alone.bytes
    # Sums over at most a whole sequence and in six products of two layers.
    bound = rounding(torch.float32, 2 * (LENGTH + 6 * MLP))
    for tensor, sequence in ((1, 1), (1, 4), (2, 2)):
        for found in processes.run(4, measure, data, tensor, sequence):
            assert (found.tokens, found.bytes) == (alone.tokens, alone.bytes)
            assert found.breakdown.is_of_same_tokens(expected), (tensor, sequence)
            assert found.breakdown.source_bytes == expected.source_bytes
            np.testing.assert_allclose(found.breakdown.nats, expected.nats, rtol=bound)
