"""What follows from the budgets of one size: the settings that its runs share, and those that each has of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glm_scale.errors import UserError
from glm_scale.ladder import hyperparameters
from glm_scale.ladder.shapes import usual_parameters

__all__ = ["Budget", "budgets", "shared_settings"]


@dataclass(frozen=True)
class Budget:
    """A run of so many `steps`, of which the last `decay` are its schedule's last phase.

    `begins`: the step of the run with the largest budget that it begins from; 0 for that one itself.
    """

    ratio: float
    steps: int
    decay: int
    begins: int = 0


def shared_settings(parameters: float, tokens: Sequence[float], given: Mapping[str, Any]) -> dict[str, Any]:
    """Batch, learning rate and warm-up of all runs of a size, as keys of a run, but for those that are `given`.

    tokens: its budgets. Their geometric mean decides, since runs with a common beginning have the same.
    """
    length, typical = given["data.sequence_length"], math.exp(sum(map(math.log, tokens)) / len(tokens))
    batch = given.get("training.batch_tokens") or hyperparameters.batch_tokens(typical, length)
    found = {
        "training.batch_tokens": batch,
        "training.micro_batch": hyperparameters.micro_batch(batch, length),
        "training.optimizer.learning_rate": _learning_rate(parameters, typical, given),
        "training.schedule.kind": "wsd",
        "training.schedule.final_fraction": 0.0,
        "training.schedule.warmup_tokens": hyperparameters.warmup_tokens(parameters, min(tokens), batch),
    }
    return {key: value for key, value in found.items() if key not in given}


def _learning_rate(parameters: float, tokens: float, given: Mapping[str, Any]) -> float:
    """With muP that of the base, trained on as many tokens per parameter: the same for all sizes."""
    if given.get("model.parametrization") == "mup" and given.get("model.base_width"):
        layers, width = given.get("model.base_layers") or given["model.layers"], given["model.base_width"]
        base = usual_parameters(layers, width)
        parameters, tokens = base, tokens * base / parameters
    return hyperparameters.learning_rate(parameters, tokens)


def budgets(parameters: float, ratios: Sequence[float], decay: float, batch: int, warmup: int) -> list[Budget]:
    """One for each ratio of tokens to parameters, the largest first, since the others begin from it.

    batch: tokens of a step. warmup: tokens. Raises UserError where a run would have nothing of its own.
    """
    found: list[Budget] = []
    for ratio in sorted(ratios, reverse=True):
        steps = round(ratio * parameters / batch)
        last = max(1, round(decay * steps))
        begins = steps - last if found else 0
        if steps - last < max(1, -(-warmup // batch)):
            raise UserError(
                f"ladder.tokens_per_parameter {ratio:g}: {steps} steps of {batch:,} tokens for {parameters:.4g} "
                f"parameters leave none between a warm-up of {warmup:,} tokens and the last {last}; take a larger "
                "ratio, or a smaller training.batch_tokens or training.schedule.warmup_tokens"
            )
        if any(steps == other.steps or (begins and begins == other.begins) for other in found):
            raise UserError(
                f"ladder.tokens_per_parameter {ratio:g} and {found[-1].ratio:g} are the same steps for "
                f"{parameters:.4g} parameters in batches of {batch:,} tokens; take ratios farther apart"
            )
        found.append(Budget(ratio, steps, last, begins))
    return found
