"""How much memory a run takes where it trains: what the plan says, and what only a machine sees.

On a CPU its process and those around it are in the same memory, and so are the logits, the tensors of the moment and
the copy from which checkpoints are written. The numbers of this file were measured on Linux with torch 2.13.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from glm_scale.config.run import RunConfig
from glm_scale.mixers.ssm.spec import USUAL_STATE
from glm_scale.model.head import CHUNK_LOGITS
from glm_scale.parallel.mesh import Layout
from glm_scale.planning.estimate import Estimate
from glm_scale.planning.plan import activations_of

__all__ = ["Need", "ample", "need_of"]

_LIBRARIES = 220_000_000
"""Bytes of libraries, which all processes share."""
_PROCESS = 450_000_000
"""Of a rank, before it has a model."""
_WORKER = 100_000_000
"""Of a process that prepares batches."""
_TRACKER = 250_000_000
"""Of the process that copies measurements to MLflow."""

_MOST_KEPT = 30
"""Numbers that a layer keeps for each token and unit (of the width, an MLP, heads): mamba2 keeps 6, others less."""


@dataclass(frozen=True)
class Need:
    """Bytes of one rank by what they are for, and those of a machine that do not grow with its ranks."""

    parts: Mapping[str, int]
    once: Mapping[str, int]

    @property
    def of_rank(self) -> int:
        """Bytes that one rank needs, what all share left out."""
        return sum(self.parts.values())

    def of(self, ranks: int) -> dict[str, int]:
        """Of so many ranks of one machine together, the largest first."""
        parts = {name: size * ranks for name, size in self.parts.items()}
        for name, size in self.once.items():
            parts[name] = parts.get(name, 0) + size
        return dict(sorted(parts.items(), key=lambda part: -part[1]))


def need_of(config: RunConfig, layout: Layout, device: str, *, traced: bool = False) -> Need:
    """device: "cpu" or "cuda". On a GPU its own memory alone, as in `planning.estimate`.

    traced: what compiled blocks keep is asked of the compiler, which takes seconds. Otherwise it is what they would
    keep uncompiled, which is more.
    """
    if device == "cuda" and not traced:
        training = config.training.model_copy(update={"compile": False})
        config = config.model_copy(update={"training": training})
    estimate = Estimate(config, layout, activations_of(config, layout, device))
    planned = asdict(estimate.memory)
    if device == "cuda":
        return Need(planned, {})
    part, training = estimate.part, config.training
    vocabulary = part.config.vocab_size
    tokens = min(training.micro_batch * config.data.sequence_length // layout.sequence, CHUNK_LOGITS // vocabulary)
    # Logits and their logarithms or gradients, and the gradient of the head that is added to the others.
    logits = vocabulary * (8 * tokens + 4 * part.config.width)
    saved = 12 * part.numbers // (layout.data * layout.sequence) if config.checkpoint.every else 0
    processes = _PROCESS + config.data.workers * _WORKER
    own = {"logits": logits, "tensors of the moment": estimate.largest_block, "checkpoint": saved}
    tracker = _TRACKER if config.tracking.enabled else 0
    return Need(planned | own | {"processes": processes}, {"processes": _LIBRARIES + tracker})


def ample(config: RunConfig) -> int:
    """Bytes that are more than enough for one rank, found in no time: without a look at what mixers do."""
    model, tokens = config.model, config.training.micro_batch * config.data.sequence_length
    states = [spec.structure.state or 0 for spec in model.layer_mixers() if spec.structure]
    units = model.width + model.mlp_size + model.heads * (model.head_size + max([USUAL_STATE, *states]))
    numbers = 2 * model.vocab_size * model.width + 4 * model.layers * model.width * units
    kept = tokens * model.layers * units * _MOST_KEPT
    return 2_000_000_000 + config.data.workers * _WORKER + 40 * numbers + 4 * kept + 16 * CHUNK_LOGITS
