"""Whether a run can be laid out over the processes it asks for: told before any of them starts."""

from __future__ import annotations

from collections.abc import Iterator

from glm_scale.config.problems import ConfigError, Problem
from glm_scale.config.run import RunConfig
from glm_scale.errors import UserError
from glm_scale.mixers.contract import MixerError
from glm_scale.parallel.mesh import Layout
from glm_scale.processes.environment import launched

__all__ = ["check_layout", "layout_of", "layout_problems"]

_CONTEXT, _MEGATRON = "context parallelism", "Megatron's sequence parallelism"
"""What others call sequence ranks, and activations that tensor ranks share."""


def layout_of(config: RunConfig, processes: int | None = None) -> Layout:
    """The layout of a run on so many processes; None: as many as a launcher has started, else as it asks for.

    Raises UserError if they do not come out even, or if the variables of the launcher are wrong.
    """
    wanted = config.parallel
    if processes is None:
        asked = wanted.tensor * wanted.sequence * (wanted.data or 1)
        place = launched()
        processes = place.size if place else asked
    layout = Layout.of(processes, tensor=wanted.tensor, sequence=wanted.sequence)
    if wanted.data not in (None, layout.data):
        raise UserError(
            f"{processes} processes are {layout}, but parallel.data = {wanted.data}; "
            f"set parallel.data={layout.data} or null, or start {layout.processes // layout.data * wanted.data}"
        )
    return layout


def check_layout(config: RunConfig, layout: Layout, origin: str) -> None:
    """Raise a ConfigError naming everything about a configuration that this layout cannot serve."""
    problems = list(layout_problems(config, layout))
    if problems:
        raise ConfigError(origin, problems)


def layout_problems(config: RunConfig, layout: Layout) -> Iterator[Problem]:
    """What stands against a layout: sizes that do not divide, mixers that cannot be spread."""
    model, training, length = config.model, config.training, config.data.sequence_length
    yield from _indivisible("model.vocab_size", model.vocab_size, layout.tensor, "tensor ranks")
    yield from _indivisible("model.mlp_width", model.mlp_size, layout.tensor, "tensor ranks")
    yield from _indivisible("data.sequence_length", length, layout.sequence, f"sequence ranks ({_CONTEXT})")
    if config.parallel.shard_activations:
        if layout.tensor == 1:
            needs = f"is {_MEGATRON} and needs parallel.tensor of at least 2"
            yield Problem("parallel.shard_activations", needs, value=True)
        shards, which = layout.sequence * layout.tensor, f"sequence × tensor ranks (shard_activations: {_MEGATRON})"
        yield from _indivisible("data.sequence_length", length, shards, which)
    step = training.micro_batch * length * layout.data
    if training.batch_tokens % step:
        below = training.batch_tokens // step * step
        nearest = " or ".join(str(tokens) for tokens in (below, below + step) if tokens)
        yield Problem(
            "training.batch_tokens",
            f"is no multiple of training.micro_batch {training.micro_batch} × data.sequence_length {length} × "
            f"{layout.data} data ranks = {step}; nearest: {nearest}",
            training.batch_tokens,
        )
    tokens = length // layout.sequence
    if layout.sequence > 1 and model.conv_width - 1 > tokens:
        yield Problem(
            "model.conv_width",
            f"reads {model.conv_width - 1} tokens back, but each of {layout.sequence} sequence ranks ({_CONTEXT}) "
            f"has {tokens}",
            model.conv_width,
        )
    yield from _mixer_problems(config, layout)


def _indivisible(key: str, size: int, ranks: int, which: str) -> Iterator[Problem]:
    if size % ranks:
        below, above = size // ranks * ranks, -(-size // ranks) * ranks
        nearest = " or ".join(str(count) for count in (below, above) if count)
        yield Problem(key, f"does not divide into {ranks} {which}; nearest that do: {nearest}", size)


def _mixer_problems(config: RunConfig, layout: Layout) -> Iterator[Problem]:
    import torch

    dims = config.model.mixer_dims()
    for spelling, spec in {spec.name: spec for spec in config.model.layer_mixers()}.items():
        with torch.device("meta"):
            mixer = spec.build(dims)
        try:
            mixer.require_tensor_parallel(layout.tensor)
            if layout.sequence > 1:
                mixer.require_sequence_strategy(config.parallel.strategy, layout.sequence, layout.tensor)
        except MixerError as error:
            yield Problem("model.mixers", str(error), spelling)
