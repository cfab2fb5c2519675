"""What a user may choose about a ladder: many runs that differ in mixer, size, budget, seed and learning rate."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from glm_data.settings import Settings

__all__ = ["LadderConfig", "LadderMixer", "LadderSize"]

Positive = Annotated[float, Field(gt=0)]
Seeds = tuple[Annotated[int, Field(ge=0, lt=2**63)], ...]


class _WithSettings(Settings, extra="allow"):
    """A group whose other keys are settings of runs, such as `model.layers: 4`."""

    @property
    def settings(self) -> dict[str, Any]:
        """Those keys and their values."""
        return dict(self.model_extra or {})


class LadderMixer(_WithSettings):
    """A spelling ("lattice:2^k") or a list of them that repeats through the depth, and what is its own.

    `sizes`: in parameters, those of the ladder's that it is trained at; all if there are none. Settings of runs that
    stand beside, such as {training.optimizer.learning_rate: 8e-3}, are the mixer's at every size.
    """

    mixer: str | list[str]
    sizes: tuple[Positive, ...] = ()

    @property
    def mixers(self) -> list[str]:
        """In the form that `model.mixers` has."""
        return [self.mixer] if isinstance(self.mixer, str) else self.mixer


class LadderSize(_WithSettings):
    """Parameters outside the embeddings, from which the shape follows; or settings of runs ({model.layers: 4,
    model.width: 128}); or both. `seeds`, `learning_rates`: instead of the ladder's.
    """

    parameters: Positive | None = None
    seeds: Seeds | None = None
    learning_rates: tuple[Positive, ...] | None = None


class LadderConfig(Settings):
    """Every one of `mixers` at every one of `sizes`, and of each as many runs as budgets, seeds and rates say.

    A mixer is a spelling ("lattice:2^k"), a list of them that repeats through the depth, or a group such as
    {mixer: ssm, sizes: [1e7]} (`LadderMixer`).

    A size is a number of parameters outside the embeddings, from which the shape follows, the same within 1 % for all
    mixers; or a group of overrides of the run's keys, such as {model.layers: 4, model.width: 128}, to which
    `parameters: 1e7`, `seeds` and `learning_rates` may belong (`LadderSize`). `tokens_per_parameter`: budgets, in
    tokens per parameter of a size. The largest one is trained at a constant rate up to its last phase, a part `decay`
    of it; the others begin as that run was where theirs begins (`branch`). Batch, learning rate and warm-up follow from
    size and budget unless the file has them. `seeds`: of weights and order of the data alike. `learning_rates`: factors
    of the rate.

    `gpu_hours`: `ladder plan` refuses more than this, by what the planner says. `prompt`, `sample_tokens`: of the text
    that every model writes in the end, none if that is 0.
    """

    mixers: list[LadderMixer] = Field(min_length=1)
    sizes: list[LadderSize] = Field(default=[LadderSize()], min_length=1)
    tokens_per_parameter: tuple[Positive, ...] = ()
    decay: float = Field(0.2, gt=0, lt=1)
    seeds: Seeds = ()
    learning_rates: tuple[Positive, ...] = ()
    gpu_hours: float | None = Field(None, gt=0)
    sample_tokens: int = Field(64, ge=0)
    prompt: str = "The state of the union is"

    @field_validator("mixers", mode="before")
    @classmethod
    def _spellings_are_mixers(cls, mixers: Any) -> Any:
        if not isinstance(mixers, list):
            return mixers
        return [{"mixer": mixer} if isinstance(mixer, str | list) else mixer for mixer in mixers]

    @field_validator("sizes", mode="before")
    @classmethod
    def _numbers_are_parameters(cls, sizes: Any) -> Any:
        if not isinstance(sizes, list):
            return sizes
        return [size if isinstance(size, dict | LadderSize) else {"parameters": size} for size in sizes]

    @model_validator(mode="after")
    def _budgets_have_sizes(self) -> Self:
        if self.tokens_per_parameter and not all(size.parameters for size in self.sizes):
            raise ValueError(
                "tokens_per_parameter needs sizes in parameters: sizes: [1e7, …], or parameters: 1e7 within a size"
            )
        return self

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        _require_each_once("", self, "tokens_per_parameter", "seeds", "learning_rates")
        for number, size in enumerate(self.sizes):
            _require_each_once(f"sizes[{number}].", size, "seeds", "learning_rates")
        return self

    @model_validator(mode="after")
    def _sizes_of_mixers_are_there(self) -> Self:
        known = [size.parameters for size in self.sizes if size.parameters]
        for number, mixer in enumerate(self.mixers):
            for wanted in mixer.sizes:
                if wanted not in known:
                    there = ", ".join(f"{size:g}" for size in known) or "none in parameters"
                    raise ValueError(f"mixers[{number}].sizes has {wanted:g}, which is no size of the ladder: {there}")
        return self


def _require_each_once(prefix: str, group: Settings, *names: str) -> None:
    for name in names:
        values = getattr(group, name) or ()
        if len(set(values)) < len(values):
            raise ValueError(f"{prefix}{name} {list(values)} has one twice; each once")
