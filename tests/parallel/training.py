"""Training a small model on the ranks of a group, for comparison with one process."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist

from glm_scale.layers.activation_checkpointing import ActivationCheckpointing
from glm_scale.mixers import parse_mixer
from glm_scale.mixers.contract import MixerError
from glm_scale.model.config import ModelConfig
from glm_scale.model.init import parameter_generator
from glm_scale.model.transformer import LanguageModel
from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.mesh import Layout, Mesh
from glm_scale.parallel.sequence.strategies import SequenceStrategy
from glm_scale.parallel.tensor.overlap import in_pieces
from glm_scale.parallel.tensor.splitting import own_part, whole_shape
from glm_scale.training import bf16_gradients
from glm_scale.training.config import TrainingConfig
from glm_scale.training.distributed import quiet
from glm_scale.training.engine import Engine
from glm_scale.training.orthogonal import AMPLIFICATION
from tests.parallel import pieces
from tests.parallel.sequence.test_recurrence import documents
from tests.tolerances import TOO_FAR, error, norm, rounding
from tests.whole_state import whole_state

VOCABULARY, LENGTH, ROWS, STEPS, ACCUMULATION, LAYERS = 32, 24, 4, 3, 2, 2
RATE, BETA, EPSILON = 1e-3, 0.9, 1e-2
"""Of AdamW. Its ε is as large as gradients are, lest weights with next to no gradient go where rounding points."""

DECAYING = ("ssm", "mamba2", "gla", "gated_deltanet", "kda", "log_linear")
"""Mixers with a state that decays."""


def norm_epsilon(mixers: Collection[str]) -> float:
    """Of a model's norms: its own, except with a state that decays. The first row of a document
    leaves that as v times q·k, and where this all but vanishes a norm with a small ε makes a large number of its
    rounding."""
    return 1e-2 if any(mixer.startswith(DECAYING) for mixer in mixers) else ModelConfig.model_fields["norm_eps"].default


@dataclass
class Batch:
    tokens: Tensor
    labels: Tensor
    document_starts: Tensor
    all_document_starts: Tensor | None = None

    def part(self, rows: slice, columns: slice, told: bool = False) -> Batch:
        """`told`: as the data pipeline gives it, with the document starts of whole sequences."""
        tokens, labels, starts = (
            x[rows, columns].contiguous() for x in (self.tokens, self.labels, self.document_starts)
        )  # fmt: skip
        return Batch(tokens, labels, starts, self.document_starts[rows] if told else None)


def batches(step: int) -> list[Batch]:
    """The micro-batches of a step, with very different numbers of valid labels."""
    draw = torch.Generator().manual_seed(step)
    made = []
    for index in range(ACCUMULATION):
        tokens, labels = torch.randint(VOCABULARY, (2, ROWS, LENGTH), generator=draw)
        labels[: 1 + index, : 7 * index] = -100
        made.append(Batch(tokens, labels, documents(ROWS, LENGTH, 4)))
    return made


@dataclass(frozen=True)
class Setup:
    """How a model is trained: on how many ranks of each axis (what is left are data ranks), and with which options."""

    mixers: tuple[str, ...]
    tensor: int = 1
    sequence: int = 1
    strategy: SequenceStrategy | None = None
    stage: int = 1
    shards_tokens: bool = False
    checkpointing: ActivationCheckpointing = "none"
    precision: str = "fp32"
    tied: bool = False
    backend: str = ""
    """By which blocks are compiled, if they are."""
    in_pieces: bool = False
    """Whether products are cut into pieces that are computed while others are exchanged."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    kv_heads: int | None = None
    qk_norm: bool = False

    def is_legal(self) -> bool:
        """Whether every mixer can be spread in this way."""
        dims = _model_config(self).mixer_dims()
        try:
            for mixer in (parse_mixer(spelling).build(dims) for spelling in self.mixers):
                mixer.require_tensor_parallel(self.tensor)
                if self.sequence > 1:
                    mixer.require_sequence_strategy(self.strategy, self.sequence, self.tensor)
        except MixerError:
            return False
        return True


@dataclass(frozen=True)
class Trained:
    """Losses and gradient norms of a few steps, a multiple of the first gradients, and the weights after the last.

    `cancellation`: how many times larger than the first gradients those of the single rows are, all their norms summed.
    """

    losses: list[float]
    norms: list[float]
    first: dict[str, Tensor]
    weights: dict[str, Tensor]
    cancellation: float
    optimizer: str

    def assert_same(self, expected: Trained) -> None:
        """Fails if more than rounding in float32 lies between them.

        Behind one another in a step are sums over the tokens of the batch and the products of `LAYERS` layers, forward
        and backward. What is summed are the gradients of single rows.
        """
        bound = rounding(torch.float32, ACCUMULATION * ROWS * LENGTH + 2 * LAYERS * 6 * 32)
        for ours, theirs, allowed in (
            (self.losses, expected.losses, bound),
            (self.norms, expected.norms, bound * expected.cancellation),
        ):
            off = max(abs(one - other) / other for one, other in zip(ours, theirs, strict=True))
            assert off <= allowed, f"{TOO_FAR}: {ours} instead of {theirs}, {off:.2e} where {allowed:.2e} is rounding"
        size = expected.cancellation * norm(*expected.first.values())
        # AdamW moves a weight by the rate times m / (√v + ε): no number of it farther than that of m times rate / ε.
        moves = STEPS * RATE / EPSILON * size / (1 - BETA)
        if self.optimizer == "muon":
            # Of a matrix that is divided by its norm small parts are enlarged, those that are rounding, too.
            moves += STEPS * RATE * 0.2 * 32**0.5 * AMPLIFICATION * expected.cancellation
        assert self.first.keys() == expected.first.keys()
        assert self.weights.keys() == expected.weights.keys()
        for name, tensor in expected.first.items():
            assert error(self.first[name], tensor, size) <= bound, f"{TOO_FAR}: the first gradient of {name}"
        for name, tensor in expected.weights.items():
            assert error(self.weights[name], tensor, norm(tensor) + moves) <= bound, f"{TOO_FAR}: {name}"


def train(setup: Setup) -> Trained:
    """A few steps on all processes; what every rank finds is that of the whole model."""
    layout = Layout.of(dist.get_world_size(), tensor=setup.tensor, sequence=setup.sequence)
    mesh = Mesh(layout, shards_tokens=setup.shards_tokens, strategy=setup.strategy)
    try:
        if not setup.in_pieces:
            return _train(setup, mesh)
        with pieces.played() as runs:
            trained = _train(setup, mesh)
        assert runs.keys() == pieces.STAND_INS.keys(), runs
        return trained
    finally:
        mesh.close()


def _model_config(setup: Setup) -> ModelConfig:
    return ModelConfig(
        layers=LAYERS, width=16, heads=4, mixers=setup.mixers, vocab_size=VOCABULARY, conv_width=3,
        mlp_width=32, tie_embeddings=setup.tied, norm_eps=norm_epsilon(setup.mixers),
        kv_heads=setup.kv_heads, qk_norm=setup.qk_norm,
    )  # fmt: skip


def _train(setup: Setup, mesh: Mesh) -> Trained:
    model = LanguageModel(_model_config(setup), tensor=mesh.tensor)
    _make_different(model, mesh.tensor)
    model.activation_checkpointing = setup.checkpointing
    model.sequence_axis = mesh.sequence
    if setup.backend:
        model.compile_blocks(setup.backend, in_pieces() if setup.in_pieces else None)
    rows, columns = ROWS // mesh.layout.data, LENGTH // setup.sequence
    config = TrainingConfig.model_validate(
        {
            "tokens": 10**6,
            "batch_tokens": ROWS * LENGTH * ACCUMULATION,
            "micro_batch": rows,
            "optimizer": {"kind": setup.optimizer, "clip": 0.5, "eps": EPSILON, "betas": [BETA, 0.95]},
            "zero_stage": setup.stage,
            "precision": setup.precision,
            "compile": bool(setup.backend),
        }
    )
    bf16_gradients.SENT_AT_ONCE = 1000  # of the thousands that there are
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "log"):
        attach_deepspeed()
        engine = Engine(model, config, ACCUMULATION, torch.device("cpu"), mesh)
    cancellation = _cancellation(model) if dist.get_world_size() == 1 else math.nan
    row, column = mesh.data_rank * rows, mesh.sequence_rank * columns
    mine = slice(row, row + rows), slice(column, column + columns)
    results, first = [], {}
    for step in range(STEPS):
        results.append(engine.step([b.part(*mine, told=step % 2 == 1) for b in batches(step)], RATE))
        if step == 0:
            # (1 − β₁) times the clipped gradient: Adam began with nothing.
            first = {name: state["exp_avg"] for name, state in whole_state(engine).items()}
    weights = {name: state["weight"] for name, state in whole_state(engine).items()}
    engine.close()
    return Trained(
        [r.loss for r in results], [r.grad_norm for r in results], first, weights, cancellation, setup.optimizer
    )


def _cancellation(model: LanguageModel) -> float:
    """Of the gradients of the first step, before it is made, on one process."""
    parameters = list(model.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    summed = 0.0
    for batch in batches(0):
        for row in range(ROWS):
            one = batch.part(slice(row, row + 1), slice(None))
            gradients = torch.autograd.grad(model(one.tokens, one.document_starts, one.labels), parameters)
            summed += norm(*gradients)
            for whole, gradient in zip(total, gradients, strict=True):
                whole += gradient
    return summed / norm(*total)


@torch.no_grad()
def _make_different(model: LanguageModel, tensor: TensorAxis | None) -> None:
    """Adds noise to all weights, so that no two heads are alike and no gradient all but vanishes."""
    for name, parameter in model.named_parameters():
        shape = whole_shape(tuple(parameter.shape), parameter, tensor)
        noise = torch.randn(shape, generator=parameter_generator(1, name))
        parameter.add_(own_part(noise, parameter, tensor), alpha=0.2)


def attach_deepspeed() -> None:
    """DeepSpeed keeps what it knows of a process group for ever; here every case has a group of its own."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    import deepspeed
    from deepspeed.comm import comm
    from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
    from deepspeed.runtime.zero.partition_parameters import Init
    from deepspeed.utils import groups

    comm.cdb, groups.mpu = None, None
    # ZeRO-3 numbers modules and parameters on and on, and ranks that were in fewer cases would be behind.
    DeepSpeedZeRoOffload._register_deepspeed_module.__defaults__[0][0] = 0
    Init.param_id = 0
    for name, value in vars(groups).items():
        if isinstance(value, dist.ProcessGroup):
            setattr(groups, name, None)
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
