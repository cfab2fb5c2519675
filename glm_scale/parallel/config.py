"""How a run is spread over processes, as a user says it. Free of torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from glm_data.settings import OnResume, Settings
from glm_scale.parallel.sequence.strategies import SequenceStrategy

__all__ = ["ParallelConfig"]


class ParallelConfig(Settings):
    """The mesh: tensor × sequence × data processes, one for each GPU.

    `tensor` ranks split the weights of every layer (tensor parallelism), `sequence` ranks the tokens of every sequence
    (context parallelism), `data` ranks the sequences of a batch; data null takes what processes a launcher has started
    besides, and one where the run starts them itself. `strategy` makes all mixers exchange in one way ("scan", "ring",
    "a2a"; null: each in the cheapest). `shard_activations` is Megatron's sequence parallelism: between layers the
    tensor ranks split the tokens, too.
    `hang_seconds`: a run in which nothing moves for so long is ended, and says where every rank stands.
    """

    tensor: Annotated[int, OnResume.ROUNDING] = Field(1, ge=1)
    sequence: Annotated[int, OnResume.ROUNDING] = Field(1, ge=1)
    data: Annotated[int | None, OnResume.ROUNDING] = Field(None, ge=1)
    strategy: Annotated[SequenceStrategy | None, OnResume.ROUNDING] = None
    shard_activations: Annotated[bool, OnResume.ROUNDING] = False
    hang_seconds: Annotated[float, OnResume.FREE] = Field(600.0, gt=0)
