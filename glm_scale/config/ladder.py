"""What a user may choose about a ladder: many runs that differ in mixer, size, budget, seed and learning rate."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from glm_data.settings import Settings

__all__ = ["LadderConfig"]

Positive = Annotated[float, Field(gt=0)]


class LadderConfig(Settings):
    """Every one of `mixers` at every one of `sizes`, and of each as many runs as budgets, seeds and rates say.

    A mixer is a spelling ("lattice:2^k") or a list of them that repeats through the depth.

    A size is a number of parameters outside the embeddings, from which the shape follows, the same within 1 % for all
    mixers; or a group of overrides of the run's keys, such as {model.layers: 4, model.width: 128}, to which
    `parameters: 1e7` may belong. `tokens_per_parameter`: budgets, in tokens per parameter of a size. The largest one is
    trained at a constant rate up to its last phase, a part `decay` of it; the others begin as that run was where theirs
    begins (`branch`). Batch, learning rate and warm-up follow from size and budget unless the file has them. `seeds`:
    of weights and order of the data alike. `learning_rates`: factors of the rate.

    `gpu_hours`: `ladder plan` refuses more than this, by what the planner says. `prompt`, `sample_tokens`: of the text
    that every model writes in the end, none if that is 0.
    """

    mixers: list[str | list[str]] = Field(min_length=1)
    sizes: list[Positive | dict[str, Any]] = Field(default=[{}], min_length=1)
    tokens_per_parameter: tuple[Positive, ...] = ()
    decay: float = Field(0.2, gt=0, lt=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = ()
    learning_rates: tuple[Positive, ...] = ()
    gpu_hours: float | None = Field(None, gt=0)
    sample_tokens: int = Field(64, ge=0)
    prompt: str = "The state of the union is"

    @model_validator(mode="after")
    def _budgets_have_sizes(self) -> Self:
        if self.tokens_per_parameter and not all(self.parameters_of(size) for size in self.sizes):
            raise ValueError(
                "tokens_per_parameter needs sizes in parameters: sizes: [1e7, …], or parameters: 1e7 within a size"
            )
        for name in ("tokens_per_parameter", "seeds", "learning_rates"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} has one twice; each once")
        return self

    @staticmethod
    def parameters_of(size: float | dict[str, Any]) -> float | None:
        """Parameters outside the embeddings that a size asks for, if it does."""
        return size.get("parameters") if isinstance(size, dict) else size
