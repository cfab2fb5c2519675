"""What tasks came to, and its file in a run directory, `tasks.json`."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from glm_data.files import write_atomically

__all__ = ["TaskResult", "TaskResults"]

_logger = logging.getLogger(__name__)


class TaskResult(BaseModel):
    """One task.

    `metrics` and their standard `errors` have lm-eval's names, such as `acc`; `higher_is_better` where lm-eval says.
    `version` is the task's, `samples` how many questions were asked, `few_shot` how many examples stood in front.
    `context_length` in tokens, and the `cache_bytes` of the model's decoder after so many, of tasks that have one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: dict[str, float]
    errors: dict[str, float] = {}
    higher_is_better: dict[str, bool] = {}
    version: str = ""
    samples: int | None = None
    few_shot: int = 0
    context_length: int | None = None
    cache_bytes: int | None = None


class TaskResults(BaseModel):
    """Tasks by their names, measured after `step` optimizer steps by that version of lm-eval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    lm_eval: str
    tasks: dict[str, TaskResult]

    def values(self) -> dict[str, float]:
        """Every number by its name, `task/metric`; standard errors as `task/metric_stderr`."""
        return {
            f"{task}/{metric}{ending}": value
            for task, result in self.tasks.items()
            for ending, numbers in (("", result.metrics), ("_stderr", result.errors))
            for metric, value in numbers.items()
            if math.isfinite(value)
        }

    def with_earlier(self, earlier: Self | None) -> TaskResults:
        """With tasks that were measured at the same step before, and are not among these."""
        if earlier is None or (earlier.step, earlier.lm_eval) != (self.step, self.lm_eval):
            return self
        return self.model_copy(update={"tasks": earlier.tasks | self.tasks})

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises OSError."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None if there is no such file. One that is damaged, or of another version, is named in the log."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _logger.warning("%s is left out, it cannot be read: %s", path, " ".join(str(error).split()))
            return None
