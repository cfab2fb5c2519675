"""Training a small model on the ranks of a group, for comparison with one process."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from glm_scale.model.config import ModelConfig
from glm_scale.model.transformer import LanguageModel
from glm_scale.parallel.axis import SequenceAxis
from glm_scale.parallel.communicator import GroupCommunicator
from glm_scale.training.config import TrainingConfig
from glm_scale.training.distributed import quiet
from glm_scale.training.engine import Engine
from tests.parallel.test_sharded_recurrence import documents

VOCABULARY, LENGTH, ROWS, STEPS, ACCUMULATION = 32, 24, 4, 3, 2


@dataclass
class Batch:
    tokens: Tensor
    labels: Tensor
    document_starts: Tensor

    def part(self, rows: slice, columns: slice) -> Batch:
        return Batch(*(x[rows, columns].contiguous() for x in (self.tokens, self.labels, self.document_starts)))


def batches(step: int) -> list[Batch]:
    """The micro-batches of a step, with very different numbers of valid labels."""
    draw = torch.Generator().manual_seed(step)
    made = []
    for index in range(ACCUMULATION):
        tokens, labels = torch.randint(VOCABULARY, (2, ROWS, LENGTH), generator=draw)
        labels[: 1 + index, : 7 * index] = -100
        made.append(Batch(tokens, labels, documents(ROWS, LENGTH, 4)))
    return made


def train(
    mixers: list[str], sequence: int, strategy: str | None, stage: int, checkpointing: bool = False
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of a few steps and the weights after them; ranks that hold rows of the same sequences are neighbours."""
    rank, world = dist.get_rank(), dist.get_world_size()
    data = world // sequence
    axes = [list(range(first, first + sequence)) for first in range(0, world, sequence)]
    groups = [dist.new_group(ranks) for ranks in axes]
    model = LanguageModel(
        ModelConfig(layers=2, width=16, heads=4, mixers=tuple(mixers), vocab_size=VOCABULARY, ssm_state=4, conv_width=3)
    )
    model.activation_checkpointing = checkpointing
    if sequence > 1:
        model.sequence_axis = SequenceAxis(GroupCommunicator(groups[rank // sequence]), strategy)
    config = TrainingConfig.model_validate(
        {
            "tokens": 10**6,
            "batch_tokens": ROWS * LENGTH * ACCUMULATION,
            "micro_batch": ROWS // data,
            "optimizer": {"clip": 0.5, "eps": 1e-6},
            "zero_stage": stage,
        }
    )
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "log"):
        _attach_deepspeed()
        engine = Engine(model, config, ACCUMULATION, torch.device("cpu"))
    rows, columns = ROWS // data, LENGTH // sequence
    row, column = rank // sequence * rows, rank % sequence * columns
    mine = slice(row, row + rows), slice(column, column + columns)
    losses = [engine.step([b.part(*mine) for b in batches(step)], 1e-2).loss for step in range(STEPS)]
    weights = {name: engine.state.read(name)["weight"] for name in engine.state.shapes()}
    return losses, weights


def _attach_deepspeed() -> None:
    """DeepSpeed keeps what it knows of a process group for ever; here every case has a group of its own."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    import deepspeed
    from deepspeed.comm import comm
    from deepspeed.utils import groups

    comm.cdb = None
    for name, value in vars(groups).items():
        if isinstance(value, dist.ProcessGroup):
            setattr(groups, name, None)
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
