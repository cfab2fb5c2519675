"""What a user may choose about training. Free of torch: a configuration is checked before anything heavy loads."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from glm_data.settings import OnResume, Settings
from glm_scale.layers.activation_checkpointing import ActivationCheckpointing

__all__ = [
    "CheckpointConfig", "EvaluationConfig", "GroupRule", "OptimizerConfig", "ScheduleConfig", "SpikeConfig",
    "TasksConfig", "TrainingConfig",
]  # fmt: skip


class GroupRule(Settings):
    """Of the parameters whose names match, as `embedding.*` or `blocks.*.mixer.stages.0.d.*`: a factor on the learning
    rate, and a weight decay in place of theirs (null: theirs)."""

    match: str = Field(min_length=1)
    rate: float = Field(1.0, ge=0)
    weight_decay: float | None = Field(None, ge=0, lt=1)


class OptimizerConfig(Settings):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) with clipping of the global gradient norm.

    `kind: muon` steps the matrices of the layers' projections by Muon with `momentum` (default 0.95),
    everything else by AdamW; learning rate and weight decay are those of both, see `training.muon`.
    `weight_decay` acts on matrices of the blocks and of the output head alone, see `groups.group_keys`; `groups` are
    rules for some parameters, of which all that match one count.
    `clip` is the largest global L2 norm of the gradient; null turns clipping off.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(3e-4, gt=0, le=1)
    momentum: float | None = Field(None, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0, lt=1)
    clip: float | None = Field(1.0, gt=0)
    groups: tuple[GroupRule, ...] = ()

    @model_validator(mode="after")
    def _momentum_belongs_to_muon(self) -> Self:
        if self.kind != "muon" and self.momentum is not None:
            raise ValueError("momentum belongs to kind: muon; AdamW's is the first of betas, so leave it out")
        return self

    @model_validator(mode="after")
    def _betas_are_decay_rates(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas are decay rates: both at least 0 and below 1")
        return self


class ScheduleConfig(Settings):
    """Learning rate against tokens, see `schedule.learning_rate`.

    `decay_tokens` is the length of the last phase of `wsd` (default: a fifth of the budget); `cosine` decays from the
    end of the warmup to the end of the budget and has no such length. `final_fraction` is the last learning rate as
    a fraction of the peak.
    """

    kind: Literal["cosine", "wsd"] = "cosine"
    warmup_tokens: int = Field(0, ge=0)
    decay_tokens: int | None = Field(None, gt=0)
    final_fraction: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _decay_length_belongs_to_wsd(self) -> Self:
        if self.kind == "cosine" and self.decay_tokens is not None:
            raise ValueError("decay_tokens belongs to kind: wsd; cosine decays over the whole budget, so leave it out")
        return self


class SpikeConfig(Settings):
    """What is done about outliers of the loss and of the gradient norm.

    A step is skipped if one of them lies more than `threshold` robust standard deviations above the median of the last
    `window` applied steps: weights and moments stay as they are, and its samples count as read. Nothing is judged
    before there are so many. `rollback_after` skipped steps among `window`, or `bad_step_limit` consecutive ones with a
    non-finite loss or gradient, are a divergence: the run goes back to the last checkpoint before them (or the oldest
    that is left), and on from there with data that it has not read yet. It ends if that has not brought it further for
    three times.
    """

    window: int = Field(100, ge=8)
    threshold: float = Field(8.0, gt=0)
    rollback_after: int = Field(10, gt=0)

    @model_validator(mode="after")
    def _window_holds_the_skips(self) -> Self:
        if self.rollback_after > self.window:
            raise ValueError(f"rollback_after {self.rollback_after} exceeds the window of {self.window} steps")
        return self


def _policy_of_earlier(value: Any) -> Any:
    """Earlier versions knew all or nothing, by true and false."""
    return {True: "full", False: "none"}[value] if isinstance(value, bool) else value


class TrainingConfig(Settings):
    """How one run is trained. All token counts are positions of packed sequences, padding included.

    `tokens` is the budget of the run, `batch_tokens` of one optimizer step, `micro_batch` the sequences of one
    forward pass; the gradient of a step is accumulated over batch_tokens / (micro_batch · sequence_length) forward
    passes. `activation_checkpointing`: what the backward pass computes again in place of keeping it. `selective`: of
    every layer the MLP, which keeps about half of what `none` does for a seventh more matrix work of the layers;
    `full`: all of a layer but its input, for a third more and the token mixing. `true` and `false` mean full and none.
    `bad_step_limit`: so many consecutive steps with a non-finite loss or gradient end the run. `spikes`: which other
    steps are skipped, and when the run goes back to a checkpoint instead of ending; null: none, and never; {}: as by
    the defaults of that group. `deterministic`: the same bits from the same layout on GPUs too, at some cost; on CPUs
    it is always so. `compile`: torch compiles the layers, which costs some seconds at the start; auto: on GPUs alone.
    `time_limit_minutes`: after so long the process saves at the next step, and ends with the exit code
    that asks to be started again. `check_memory`: a run that needs more memory than the machine has is refused before
    it starts; false starts it all the same. `statistics_every`: after so many steps each norms of weights, gradients
    and updates by layer are recorded, and how mixers weigh what they read; such a step takes a copy of the weights that
    it updates.
    """

    tokens: int = Field(gt=0)
    batch_tokens: int = Field(gt=0)
    micro_batch: Annotated[int, OnResume.ROUNDING] = Field(gt=0)
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    zero_stage: Annotated[Literal[0, 1, 2, 3], OnResume.ROUNDING] = 1
    activation_checkpointing: Annotated[
        ActivationCheckpointing, BeforeValidator(_policy_of_earlier), OnResume.ROUNDING
    ] = "none"
    compile: Annotated[Literal["auto", True, False], OnResume.ROUNDING] = "auto"
    deterministic: Annotated[bool, OnResume.FREE] = False
    time_limit_minutes: Annotated[float | None, OnResume.FREE] = Field(None, gt=0)
    check_memory: Annotated[bool, OnResume.FREE] = True
    seed: int = Field(0, ge=0, lt=2**63)
    device: Annotated[Literal["auto", "cpu", "cuda"], OnResume.ROUNDING] = "auto"
    bad_step_limit: Annotated[int, OnResume.FREE] = Field(10, gt=0)
    spikes: Annotated[SpikeConfig | None, OnResume.FREE] = None
    statistics_every: Annotated[int | None, OnResume.FREE] = Field(None, gt=0)

    def compiles(self, device: str) -> bool:
        """Whether blocks are compiled on "cpu" or "cuda"."""
        return device == "cuda" if self.compile == "auto" else self.compile

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole budget, the last one counted whole."""
        return -(-self.tokens // self.batch_tokens)

    @model_validator(mode="after")
    def _bf16_needs_zero(self) -> Self:
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ValueError(
                "precision: bf16 needs zero_stage 1, 2 or 3 (fp32 master weights live in the ZeRO optimizer; "
                "DeepSpeed's bf16 without ZeRO trains wrongly): set zero_stage: 1"
            )
        return self

    @model_validator(mode="after")
    def _phases_fit_the_budget(self) -> Self:
        if self.batch_tokens > self.tokens:
            raise ValueError(f"batch_tokens {self.batch_tokens} exceeds the budget of tokens {self.tokens}")
        phases = self.schedule.warmup_tokens + (self.schedule.decay_tokens or 0)
        if phases > self.tokens:
            raise ValueError(f"schedule: warmup and decay take {phases} tokens, the budget is tokens {self.tokens}")
        return self


class TasksConfig(Settings):
    """Tasks of lm-eval every `every` steps (null: only at the end), by `names` as `glm-scale evaluate --tasks` has.

    Of each task the first `limit` questions (null: all) with `few_shot` examples in front (null: as the task says).
    `include` is a folder of further tasks, `context_lengths` those of the recall tasks, up to `data.sequence_length`
    (none: powers of two from 256). Tasks that generate texts are refused.
    """

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    every: int | None = Field(None, gt=0)
    limit: int | None = Field(None, gt=0)
    few_shot: int | None = Field(None, ge=0)
    include: Path | None = None
    context_lengths: tuple[Annotated[int, Field(gt=0)], ...] = ()

    @field_validator("names", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, names: Any) -> Any:
        return (names,) if isinstance(names, str) else names


class EvaluationConfig(Settings):
    """Validation every `every` steps (null: only at the end) on the first `sequences` ones (null: the whole split), and
    what else is measured meanwhile."""

    every: int | None = Field(None, gt=0)
    sequences: int | None = Field(None, gt=0)
    tasks: TasksConfig | None = None


class CheckpointConfig(Settings):
    """A checkpoint every `every` steps (null: only at the end), and after the steps of `at`.

    On disk stay the newest `keep`, those of `at`, those of steps that are multiples of `keep_every` (null: none
    besides), and the `keep_best` with the least validation loss. `verify`: how closely a checkpoint is looked at before
    a run goes on from it; "full" reads everything and compares SHA-256, "sizes" does not.
    """

    every: int | None = Field(None, gt=0)
    at: tuple[Annotated[int, Field(gt=0)], ...] = ()
    keep: int = Field(2, gt=0)
    keep_every: int | None = Field(None, gt=0)
    keep_best: int = Field(0, ge=0)
    verify: Literal["full", "sizes"] = "full"
