"""What a run costs in one layout: memory and bytes of every rank, and the time of a step, measured or by a roofline.

Where single operators were measured on a kind of GPU, a step takes what they take together (`components`), and then its
exchanges, none of them behind computation: DeepSpeed sums gradients behind the backward pass without ZeRO-3, and layers
wait for what they exchange. With ZeRO-3 what replicas exchange travels while they compute.

Without a measurement the time is what the data sheets allow, with nothing hidden behind anything else: the larger of
arithmetic at peak and memory traffic at full bandwidth, plus exchanges at the full bandwidth of their links and a
latency for every step of each. Memory traffic: weights are read by the forward pass and twice by the backward pass,
every activation and its gradient are written once and read once, the optimizer reads and writes all it has. A real step
takes longer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache

import torch

from glm_scale.config.run import RunConfig
from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.parallel.mesh import Layout
from glm_scale.parallel.sequence.costs import Link, Spread
from glm_scale.planning.activations import Activations
from glm_scale.planning.again import again_flops_per_token, weights_again, whole_blocks
from glm_scale.planning.calibration import Calibration
from glm_scale.planning.components import Work, components
from glm_scale.planning.exchanges import Axis, Exchange, total
from glm_scale.planning.gpus import GPU, NODE
from glm_scale.planning.parts import Part
from glm_scale.planning.sequence import SpreadBlock, spread_block
from glm_scale.planning.speeds import Speeds
from glm_scale.planning.tensor import exchanges_among_heads, tensor_exchanges
from glm_scale.planning.zero import State, Zero
from glm_scale.training.config import OptimizerConfig
from glm_scale.training.groups import GroupKey, group_keys

__all__ = ["Estimate", "Memory", "Seconds", "weight_groups"]


@lru_cache(maxsize=64)
def weight_groups(model: ModelConfig, optimizer: OptimizerConfig) -> tuple[GroupKey, ...]:
    """The optimizer's group of every weight of a model, in the order in which it lists them."""
    with torch.device("meta"):
        whole = LanguageModel(model)
    return tuple(group_keys(whole, optimizer).values())


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank, at most.

    boundary: states of earlier tokens. buffers: what comes and goes while all else waits, and what is gathered or
    reduced at once, if that finds no place where activations were.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    boundary: int
    buffers: int

    @property
    def total(self) -> int:
        """Bytes of one rank, all together."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Seconds:
    """Of one optimizer step. `work`: all computation; without a calibration arithmetic or memory traffic, whichever
    takes longer, named by `works_on`.

    parts: of `work`, if they were measured one by one. not_measured: parts that were not, and what stands in for them.
    """

    work: float
    works_on: str
    tensor: float
    sequence: float
    replicas: float
    parts: dict[str, float] = field(default_factory=dict)
    not_measured: tuple[str, ...] = ()

    @property
    def calibrated(self) -> bool:
        """Whether this is a prediction, and no lower bound."""
        return bool(self.parts)

    @property
    def total(self) -> float:
        """Of one optimizer step."""
        return self.work + self.tensor + self.sequence + self.replicas

    @property
    def bound(self) -> str:
        """What takes the largest part."""
        parts = self.parts or {self.works_on: self.work}
        parts = parts | {axis: getattr(self, axis) for axis in ("tensor", "sequence", "replicas")}
        return max(parts, key=parts.__getitem__)


class Estimate:
    """Of a run in a layout that has no `layout_problems`.

    activations: of the part of the model and all tokens of a micro-batch; of them each sequence rank keeps its share.
    """

    def __init__(self, config: RunConfig, layout: Layout, activations: Activations) -> None:
        self.config, self.layout, self._activations = config, layout, activations
        self.part: Part = activations.part
        self.accumulation = config.accumulation(layout.data)
        training, self._sequences = config.training, config.training.micro_batch
        self._length = config.data.sequence_length // layout.sequence
        self._itemsize = 2 if training.precision == "bf16" else 4
        self._policy = training.activation_checkpointing
        self._repeats = whole_blocks(self._policy)
        replicas = layout.data * layout.sequence
        self._zero = Zero(
            self.part, training.zero_stage, training.precision, replicas, layout.tensor, self._policy,
            weight_groups(config.model, training.optimizer),
        )  # fmt: skip

    # Bytes ---------------------------------------------------------------------------------------------------------

    def exchanges(self, sequence_rank: int | None = None) -> list[Exchange]:
        """What a rank sends in one optimizer step; None: one that sends as much as any."""
        rank = self._busiest if sequence_rank is None else sequence_rank
        often = [exchange.times(self.accumulation) for exchange in self._of_micro_batch(rank)]
        return total([*often, *self._zero.of_step()])

    def _of_micro_batch(self, rank: int) -> Iterator[Exchange]:
        yield from tensor_exchanges(
            ranks=self.layout.tensor, tokens=self._sequences * self._length, width=self.part.config.width,
            layers=len(self.part.layers), itemsize=self._itemsize, shards_tokens=self._shards_tokens,
            conv=bool(self.part.config.conv_width), policy=self._policy,
        )  # fmt: skip
        yield from exchanges_among_heads(
            ranks=self.layout.tensor, tokens=self._sequences * self._length, weights=self.part.shared_weights,
            norms=self.part.norms_of_all_heads, itemsize=self._itemsize, policy=self._policy,
        )  # fmt: skip
        if self.layout.sequence > 1:
            for name in self.part.layers:
                yield from self.spread[name].exchanges(rank, self._repeats)
        yield from self._zero.of_micro_batch()

    @property
    def _shards_tokens(self) -> bool:
        return self.config.parallel.shard_activations and self.layout.tensor > 1

    @cached_property
    def spread(self) -> Mapping[str, SpreadBlock]:
        """By mixer; empty on one sequence rank."""
        if self.layout.sequence == 1:
            return {}
        config = self.part.config
        sizes = Spread(
            self.layout.sequence, self._sequences, self._length, config.heads, config.head_size, self._itemsize
        )  # fmt: skip
        strategy = self.config.parallel.strategy
        return {name: spread_block(block, sizes, config.width, strategy) for name, block in self.part.blocks.items()}

    @cached_property
    def _busiest(self) -> int:
        def sent(rank: int) -> float:
            blocks = (self.spread[name].exchanges(rank, self._repeats) for name in self.part.layers)
            return sum(exchange.sent for block in blocks for exchange in block)

        return max(range(self.layout.sequence), key=sent) if self.spread else 0

    # Memory ----------------------------------------------------------------------------------------------------------

    def state(self, replica: int = 0) -> State:
        """Of one of the ranks with the same weights, which are numbered data rank by data rank."""
        return self._zero.state(replica)

    @cached_property
    def memory(self) -> Memory:
        """Of the rank that needs most."""
        state = self._zero.state()
        of_blocks = [self.spread[name].boundary for name in self.part.layers] if self.spread else [0]
        boundary = max(of_blocks) if self._repeats else sum(of_blocks)
        activations = self.activations + self._share(self._activations.recomputed(self._policy))
        moment = self._share(self._activations.of_moment)
        late = max(0, state.late_buffers - activations - boundary - moment)
        buffers = state.buffers + late + moment
        return Memory(state.weights, state.gradients, state.optimizer, activations, boundary, buffers)

    @property
    def activations(self) -> int:
        """Bytes that wait for the backward pass at the end of a forward pass."""
        head = self._activations.of_head_weight
        return self._share(self._activations.kept(self._policy) - head) + head

    @property
    def largest_block(self) -> int:
        """Bytes that the hungriest block keeps, without activation checkpointing."""
        return self._share(max(self._activations.of_block("none").values()))

    def _share(self, size: int) -> int:
        return size // self.layout.sequence

    # Time ------------------------------------------------------------------------------------------------------------

    @cached_property
    def flops(self) -> float:
        """Of one rank and step, recomputation and Muon's products among them."""
        again = again_flops_per_token(self.part, self._policy, self.config.data.sequence_length)
        return self.model_flops + self._tokens * again + self._zero.orthogonalizing_flops

    @property
    def model_flops(self) -> float:
        """Of one rank and step, without recomputation: what MFU counts."""
        blocks, head = self.part.block_flops_per_token(self.config.data.sequence_length), self.part.head_flops_per_token
        return self._tokens * 3 * (blocks + head)

    @property
    def _tokens(self) -> int:
        """Of one rank and step."""
        return self.accumulation * self._sequences * self._length

    @property
    def memory_traffic(self) -> float:
        """Bytes that a rank reads and writes in its own memory in one step."""
        state, weights = self._zero.state(), 5 * self.part.numbers + weights_again(self.part, self._policy)
        whole, kept = (self._share(self._activations.kept(policy)) for policy in ("none", self._policy))
        passes = self._itemsize * weights + 4 * whole + 2 * (whole - kept)
        return self.accumulation * passes + 2 * state.optimizer + state.gradients + state.weights

    def seconds(self, gpu: GPU, calibration: Calibration | None = None) -> Seconds:
        """Of one optimizer step on a kind of GPU: by what was measured on it, or by its data sheet, a lower bound.

        Everything is measured in bf16, so that fp32 goes by the data sheet.
        """
        if calibration is None or self.config.training.precision != "bf16":
            return self._at_least(gpu)
        speeds = Speeds(calibration, gpu)
        parts = components(self._work, speeds)
        spent = self._exchanging(gpu, speeds)
        computing = sum(parts.values())
        if self.config.training.zero_stage == 3:
            spent["replicas"] = max(0.0, spent["replicas"] - computing)
        exchanging = spent["tensor"], spent["sequence"], spent["replicas"]
        return Seconds(computing, "computation", *exchanging, parts, speeds.remarks)

    @property
    def _work(self) -> Work:
        return Work(
            part=self.part, batch=self._sequences, length=self.config.data.sequence_length,
            sequence_ranks=self.layout.sequence, accumulation=self.accumulation, policy=self._policy,
            compiled=self._activations.compiled, itemsize=self._itemsize, traced=self._activations.traced(self._policy),
            idle={name: spread.idle for name, spread in self.spread.items()},
            passes=self._zero.passes, own=self._zero.updated, normed=self._zero.normed,
            clips=self.config.training.optimizer.clip is not None,
        )  # fmt: skip

    def _at_least(self, gpu: GPU) -> Seconds:
        arithmetic = self.flops / gpu.peak_flops(self.config.training.precision)
        traffic = self.memory_traffic / gpu.memory_bandwidth
        works_on = "compute" if arithmetic >= traffic else "memory bandwidth"
        spent = self._exchanging(gpu, None)
        work = max(arithmetic, traffic)
        return Seconds(work, works_on, spent["tensor"], spent["sequence"], spent["replicas"])

    def _exchanging(self, gpu: GPU, speeds: Speeds | None) -> dict[Axis, float]:
        """Seconds of a step by axis; within a machine as measured, if it was."""
        spent: dict[Axis, float] = {"tensor": 0.0, "sequence": 0.0, "replicas": 0.0}
        for exchange in self.exchanges():
            measured = self._measured(exchange, speeds)
            if measured is not None:
                spent[exchange.axis] += measured
                continue
            link = self._link(gpu, exchange)
            spent[exchange.axis] += exchange.sent / link.bytes_per_second
            if exchange.axis != "sequence":
                spent[exchange.axis] += exchange.calls * self._steps(exchange) * link.seconds_per_step
        for name in self.part.layers if self.spread else ():
            for traffic_of in self.spread[name].traffic:
                link = self._link(gpu, Exchange("sequence", next(iter(traffic_of.forward_sent)), 0))
                waiting = traffic_of.fill / link.bytes_per_second + traffic_of.steps * link.seconds_per_step
                spent["sequence"] += self.accumulation * waiting * (1.5 if self._repeats else 1)
        return spent

    def _measured(self, exchange: Exchange, speeds: Speeds | None) -> float | None:
        ranks = self._ranks(exchange.axis)
        if speeds is None or not self._inside(exchange.axis):
            return None
        return speeds.exchange(exchange.collective, ranks, exchange.sent, exchange.calls)

    def _inside(self, axis: Axis) -> bool:
        """Whether the ranks of an axis are on one machine."""
        return self._ranks(axis) * self._stride(axis) <= NODE

    def _stride(self, axis: Axis) -> int:
        return 1 if axis == "tensor" else self.layout.tensor

    def _ranks(self, axis: Axis) -> int:
        layout = self.layout
        return {"tensor": layout.tensor, "sequence": layout.sequence, "replicas": layout.data * layout.sequence}[axis]

    def _steps(self, exchange: Exchange) -> int:
        """Messages in a row, where ranks pass them on along a tree."""
        hops = math.ceil(math.log2(self._ranks(exchange.axis)))
        return 2 * hops if exchange.collective == "all_reduce" else hops

    def _link(self, gpu: GPU, exchange: Exchange) -> Link:
        """Inside of a machine; or the network, which the ranks of a group on one machine use together.

        All-to-all sends almost everything elsewhere, so that each has its own share of the network alone.
        """
        ranks, stride = self._ranks(exchange.axis), self._stride(exchange.axis)
        if self._inside(exchange.axis):
            return Link(gpu.inside, gpu.inside_latency)
        together = 1 if exchange.collective == "all_to_all" else max(1, min(ranks, NODE // stride))
        return Link(min(gpu.inside, together * gpu.outside), gpu.outside_latency)
