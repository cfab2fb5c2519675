"""How long the computations of an optimizer step take, component by component, from what single operators took.

Components follow one another, as on the one stream of a GPU that they share; exchanges come on top, see `estimate`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from glm_scale.layers.activation_checkpointing import ActivationCheckpointing
from glm_scale.layers.projection import is_projection
from glm_scale.mixers.heads import HeadMixing
from glm_scale.model.block import Block
from glm_scale.planning.again import projections_again, whole_blocks
from glm_scale.planning.parts import Part
from glm_scale.planning.speeds import Mixing, Speeds, operator_of
from glm_scale.planning.tracing import Traced
from glm_scale.planning.updating import Passes

__all__ = ["Work", "components"]


@dataclass(frozen=True)
class Work:
    """What a rank does in one optimizer step.

    batch, length: of a micro-batch, whole sequences; each of `sequence_ranks` has its share of them. traced: by mixer,
    with what `policy` computes again of a block if that is not all of it.
    idle: by mixer, what sequence ranks wait or compute beside their share of its token mixing, in parts of that share.
    own: numbers that this rank updates, normed: those of which it takes the norm. clips: whether gradients are clipped.
    """

    part: Part
    batch: int
    length: int
    sequence_ranks: int
    accumulation: int
    policy: ActivationCheckpointing
    compiled: bool
    itemsize: int
    traced: Mapping[str, Traced]
    idle: Mapping[str, float]
    passes: Passes
    own: int
    normed: int
    clips: bool

    @property
    def tokens(self) -> int:
        """Of a micro-batch, on this rank."""
        return self.batch * self.length // self.sequence_ranks

    @property
    def forward_passes(self) -> int:
        """Through the whole of a block."""
        return 1 + whole_blocks(self.policy)


def components(work: Work, speeds: Speeds) -> dict[str, float]:
    """Seconds of one optimizer step, by what they are for."""
    each: defaultdict[str, float] = defaultdict(float)
    for name, count in Counter(work.part.layers).items():
        block = work.part.blocks[name]
        each["matrix products"] += count * _products(block, work, speeds)
        each["token mixing"] += count * (1 + work.idle.get(name, 0.0)) * _mixing(block, work, speeds)
        each["elementwise"] += count * _elementwise(work.traced[name], work, speeds)
    config = work.part.config
    each["embedding"] = speeds.embedding(work.tokens, config.width, config.vocab_size)
    each["head and loss"] = speeds.head(work.tokens, config.width, config.vocab_size)
    # The last norm: two tensors forward, four backward.
    each["elementwise"] += speeds.copied(6 * work.tokens * config.width * work.itemsize)
    each["gradients"] = speeds.copied(work.passes.gradients)
    found = {name: work.accumulation * seconds for name, seconds in each.items()}
    update, _ = speeds.update(work.own)
    _, norm = speeds.update(work.normed)
    found["optimizer"] = update + speeds.copied(work.passes.rest)
    found["norm and clipping"] = norm + (speeds.copied(work.passes.clipping) if work.clips else 0.0)
    found["host"] = speeds.host
    return found


def _products(block: Block, work: Work, speeds: Speeds) -> float:
    """Of a micro-batch."""
    total, again = 0.0, set(projections_again(block, work.policy))
    for module in block.modules():
        if is_projection(module):
            assert isinstance(module, nn.Linear)
            forward, of_input, of_weight = speeds.projection(work.tokens, module.in_features, module.out_features)
            total += (1 + (module in again)) * forward + of_input + of_weight
    return total


def _mixing(block: Block, work: Work, speeds: Speeds) -> float:
    """Over sequence ranks: a rank's share of the time that whole sequences take."""
    total = 0.0
    for mixing in _mixings(block, work):
        forward, backward = speeds.mixing(mixing)
        total += (work.forward_passes * forward + backward) / work.sequence_ranks
    return total


def _mixings(block: Block, work: Work) -> Iterator[Mixing]:
    config = work.part.config
    for stage in block.mixer.spread_parts():
        structure = getattr(stage, "structure", None)
        if structure is None:
            name = block.mixer.name if not isinstance(stage, HeadMixing) else type(stage).__name__
            yield Mixing(name, work.batch, work.length, config.heads, config.head_size, config.head_size)
        else:
            name, key = operator_of(structure, config.head_size)
            yield Mixing(name, work.batch, work.length, config.heads, key, config.head_size)


def _elementwise(traced: Traced, work: Work, speeds: Speeds) -> float:
    moved = (work.forward_passes * traced.forward + traced.backward) / work.sequence_ranks
    return speeds.fused(moved) if work.compiled else speeds.copied(moved)
