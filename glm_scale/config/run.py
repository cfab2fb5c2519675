"""The whole configuration of a run, and the rules between its groups."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from glm_data import DataConfig
from glm_data.settings import OnResume, Settings
from glm_scale.config.earlier_keys import rewritten
from glm_scale.config.ladder import LadderConfig
from glm_scale.model.config import ModelConfig
from glm_scale.parallel.config import ParallelConfig
from glm_scale.tracking.config import TrackingConfig
from glm_scale.training.config import CheckpointConfig, EvaluationConfig, TrainingConfig

__all__ = ["BranchConfig", "RunConfig"]

_LONGEST_NAME = 200
"""Characters of a name; file systems allow 255."""


class BranchConfig(Settings):
    """A run that begins as another one was after a step: with its weights, its moments and its place in the data.

    `run` is the name of a run in the same `run_root`, and keeps a checkpoint of `step` (`checkpoint.at`). What is
    trained has to be the same but for the budget and the length of the schedule's last phase, so that one long run
    gives runs of several budgets.
    """

    run: str
    step: int = Field(gt=0)


class RunConfig(Settings):
    """One run: `glm-scale train` trains it into run_root/name."""

    name: str
    run_root: Annotated[Path, OnResume.FREE] = Path("runs")
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    parallel: Annotated[ParallelConfig, OnResume.FREE] = ParallelConfig()
    evaluation: Annotated[EvaluationConfig, OnResume.FREE] = EvaluationConfig()
    checkpoint: Annotated[CheckpointConfig, OnResume.FREE] = CheckpointConfig()
    tracking: Annotated[TrackingConfig, OnResume.FREE] = TrackingConfig()
    branch: BranchConfig | None = None
    ladder: Annotated[LadderConfig | None, OnResume.FREE] = None

    @model_validator(mode="before")
    @classmethod
    def _as_written_now(cls, values: Any) -> Any:
        return rewritten(values) if isinstance(values, Mapping) else values

    def accumulation(self, data_ranks: int = 1) -> int:
        """Forward passes of one optimizer step on each of the data ranks."""
        return self.training.batch_tokens // (self.training.micro_batch * self.data.sequence_length * data_ranks)

    @field_validator("name")
    @classmethod
    def _name_is_a_directory_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+^_=-]*", name):
            raise ValueError("names a directory: letters, digits and . + ^ _ = - only, starting with a letter or digit")
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"is {len(name)} characters long; at most {_LONGEST_NAME}, for the names made from it")
        return name

    @model_validator(mode="after")
    def _branch_is_of_another_run(self) -> Self:
        if self.branch is not None and self.branch.run == self.name:
            raise ValueError(f"branch.run = {self.branch.run} is this run itself; name the one that it begins from")
        return self

    @model_validator(mode="after")
    def _batch_is_whole_micro_batches(self) -> Self:
        training, length = self.training, self.data.sequence_length
        micro = training.micro_batch * length
        if training.batch_tokens % micro:
            below = training.batch_tokens // micro * micro
            nearest = " or ".join(str(tokens) for tokens in (below, below + micro) if tokens)
            raise ValueError(
                f"training.batch_tokens = {training.batch_tokens} is no multiple of training.micro_batch "
                f"{training.micro_batch} × data.sequence_length {length} = {micro}; nearest: {nearest}"
            )
        return self
