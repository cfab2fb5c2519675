"""The recall tasks as lm-eval's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from glm_scale.evaluation.recall import Question

__all__ = ["RecallTask"]


class RecallTask(ConfigurableTask):
    """Questions with four answers, under a name."""

    def __init__(self, name: str, asked: Sequence[Question]) -> None:
        self._asked = asked
        super().__init__(
            config={
                "task": name,
                "output_type": "multiple_choice",
                "test_split": "test",
                "num_fewshot": 0,
                "doc_to_text": "context",
                "doc_to_choice": "choices",
                "doc_to_target": "answer",
                "target_delimiter": " ",
                "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
                "metadata": {"version": 1.0},
            }
        )

    def download(self, *_: Any, **__: Any) -> None:
        rows = [{"context": one.context, "choices": list(one.choices), "answer": one.answer} for one in self._asked]
        self.dataset = {"test": datasets.Dataset.from_list(rows)}
