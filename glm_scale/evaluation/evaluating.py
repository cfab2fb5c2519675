"""A trained model asked tasks, as `glm-scale evaluate --tasks` does."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from glm_scale.evaluation.loading import Chosen, load_tasks, require_lm_eval
from glm_scale.inference.loading import LoadedModel
from glm_scale.tracking.task_results import TaskResults

__all__ = ["evaluate_tasks"]

_logger = logging.getLogger(__name__)


def evaluate_tasks(
    trained: LoadedModel,
    path: Path,
    chosen: Chosen,
    length: int | None = None,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TaskResults:
    """What the tasks come to. At most `length` tokens of a text are read (None: as many as in training), but for
    recall, which says itself how much is; `batch_tokens`, `progress`: see `TrainedHarnessModel`.

    Raises:
        UserError: lm-eval is not installed, or a task cannot be had or measured.
    """
    require_lm_eval()
    from glm_scale.evaluation.harness import TrainedHarnessModel
    from glm_scale.evaluation.measuring import measure

    usual = trained.config.data.sequence_length
    recall = dataclasses.replace(chosen, names=chosen.recalls)
    others = dataclasses.replace(chosen, names=tuple(name for name in chosen.names if name not in chosen.recalls))
    parts = [
        (load_tasks(part, trained.tokenizer, usual), reach)
        for part, reach in ((others, length or usual), (recall, recall.lengths(usual)[-1]))
        if part.names
    ]
    found: TaskResults | None = None
    for loaded, reach in parts:
        model = TrainedHarnessModel(
            path, max_length=reach, loaded=trained, batch_tokens=batch_tokens, progress=progress
        )
        results = measure(model, loaded, trained.step, chosen.limit, trained.model.cache_bytes)
        if model.shortened:
            _logger.warning(
                "%d texts are longer than %d tokens and have lost their beginning; --sequence-length takes more",
                model.shortened,
                reach,
            )
        found = results.with_earlier(found)
    assert found is not None
    return found
