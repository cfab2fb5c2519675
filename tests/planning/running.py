"""A run of a few processes, watched: what a rank sends in a step, and what it holds. Knows nothing of the planner."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from glm_scale.config.run import RunConfig
from glm_scale.model.transformer import LanguageModel
from glm_scale.parallel.mesh import Layout, Mesh
from glm_scale.training.distributed import quiet
from glm_scale.training.engine import Engine
from tests.parallel.training import Batch, attach_deepspeed
from tests.planning.counting import counted


@dataclass(frozen=True)
class Watched:
    """Of one rank: where it is, bytes sent in a step by collective, and bytes held."""

    sequence_rank: int
    replica: int
    sent: dict[str, float]
    weights: int
    gradients: int
    optimizer: int
    activations: int
    parameters: int


def watch(config: RunConfig) -> Watched:
    """The second step of a run on all processes."""
    asked = config.parallel
    layout = Layout.of(dist.get_world_size(), tensor=asked.tensor, sequence=asked.sequence)
    mesh = Mesh(layout, shards_tokens=asked.shard_activations, strategy=asked.strategy)
    try:
        return _watch(config, layout, mesh)
    finally:
        mesh.close()


def _watch(config: RunConfig, layout: Layout, mesh: Mesh) -> Watched:
    model = LanguageModel(config.model, tensor=mesh.tensor)
    model.activation_checkpointing = config.training.activation_checkpointing
    model.sequence_axis = mesh.sequence
    parameters = sum(p.numel() for p in model.parameters())
    accumulation = config.accumulation(layout.data)
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "log"):
        attach_deepspeed()
        engine = Engine(model, config.training, accumulation, torch.device("cpu"), mesh)
    length = config.data.sequence_length // layout.sequence
    torch.manual_seed(dist.get_rank() // layout.tensor)
    shape = config.training.micro_batch, length
    batches = [_batch(shape, config.model.vocab_size, layout.sequence) for _ in range(accumulation)]
    engine.step(batches, 1e-3)
    gradients: list[int] = []
    step = engine.deepspeed.step

    def watched_step() -> Any:
        gradients.append(_gradients(engine.deepspeed))
        return step()

    engine.deepspeed.step = watched_step
    with counted() as sent:
        engine.step(batches, 1e-3)
    state = engine.deepspeed.optimizer
    return Watched(
        mesh.sequence_rank, dist.get_rank(mesh.replica_group), dict(sent), _weights(model), max(gradients),
        _storages(_optimizer_tensors(state)), _activations(model, lambda: engine.forward(batches[0])), parameters,
    )  # fmt: skip


def _batch(shape: tuple[int, int], vocabulary: int, ranks: int) -> Batch:
    """Of so many ranks that share sequences."""
    tokens, labels = torch.randint(vocabulary, (2, *shape))
    whole = torch.zeros(shape[0], shape[1] * ranks, dtype=torch.int32)
    return Batch(tokens, labels, torch.zeros(shape, dtype=torch.int32), whole)


# What a rank holds ---------------------------------------------------------------------------------------------------


def _storages(tensors: Iterable[Tensor]) -> int:
    """Bytes of all storages, each once."""
    found = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}
    return sum(found.values())


def _weights(model: torch.nn.Module) -> int:
    """In the precision in which the model computes, partitions of ZeRO-3 among them."""
    parameters = list(model.parameters())
    return _storages([*parameters, *(p.ds_tensor for p in parameters if hasattr(p, "ds_tensor"))])


def _gradients(engine: Any) -> int:
    """Of parameters, and what the ZeRO optimizers keep of their sums."""
    optimizer, found = engine.optimizer, [p.grad for p in engine.module.parameters() if p.grad is not None]
    for name in ("averaged_gradients", "fp32_groups_gradients_flat", "grad_partitions_flat_buffer"):
        found += _tensors(getattr(optimizer, name, None))
    return _storages(found)


def _optimizer_tensors(optimizer: Any) -> Iterable[Tensor]:
    """What AdamW updates, unless it is the model's own weights, and its state."""
    adamw = getattr(optimizer, "optimizer", optimizer)
    yield from _tensors(list(adamw.state.values()))
    for name in ("single_partition_of_fp32_groups", "fp32_groups_flat_partition", "fp32_partitioned_groups_flat"):
        yield from _tensors(getattr(optimizer, name, None))


def _tensors(held: Any) -> list[Tensor]:
    if isinstance(held, Tensor):
        return [held]
    parts = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple) else ()
    return [x for part in parts for x in _tensors(part)]


def _activations(model: LanguageModel, forward: Callable[[], Tensor]) -> int:
    """What waits for the backward pass at the end of a forward pass: what autograd saves, parameters aside; and the
    operands of what is computed again, which activation checkpointing holds by itself."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage()._cdata] = x.untyped_storage()
        return x

    def keep_input(block: Any, inputs: tuple[Any, ...]) -> None:
        x, sequence = inputs
        for held in (x, *sequence.rotation):
            keep(held)

    def keep_stream(_: Any, inputs: tuple[Any, ...]) -> None:
        keep(*inputs)

    hooks = [block.register_forward_pre_hook(keep_input) for block in model.blocks]
    if model.activation_checkpointing == "selective":
        hooks += [block.get_submodule("mlp_norm").register_forward_pre_hook(keep_stream) for block in model.blocks]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = forward()
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    for hook in hooks:
        hook.remove()
    del loss
    return sum(storage.nbytes() for storage in kept.values())
