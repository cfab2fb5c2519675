"""What tasks come to, in lm-eval's hands and in ours."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from glm_scale.evaluation.harness import HarnessModel
from glm_scale.evaluation.loading import LoadedTasks
from glm_scale.tracking.task_results import TaskResult, TaskResults

__all__ = ["measure"]

_BOOTSTRAPS = 1000
"""Draws for the standard errors of what is no mean."""


def measure(
    model: HarnessModel,
    loaded: LoadedTasks,
    step: int,
    limit: int | None,
    cache_bytes: Callable[[int], int],
    *,
    errors: bool = True,
) -> TaskResults:
    """Ask the model all questions, or the first `limit` of each task.

    `cache_bytes`: of the model's decoder after so many tokens. `errors`: standard errors, too. The same questions every
    time, and whoever draws random numbers afterwards draws what they would have.
    """
    import lm_eval
    from lm_eval.evaluator import evaluate

    loaded.begin_anew()
    with _undisturbed(), _quiet():
        found: Any = evaluate(
            model, loaded.tasks, limit=limit, bootstrap_iters=_BOOTSTRAPS if errors else 0, log_samples=False
        )
    tasks = {name: _result(name, found, loaded, cache_bytes) for name in found["results"]}
    return TaskResults(
        step=step, lm_eval=lm_eval.__version__, tasks={name: result for name, result in tasks.items() if result.metrics}
    )


def _result(name: str, found: dict[str, Any], loaded: LoadedTasks, cache_bytes: Callable[[int], int]) -> TaskResult:
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, value in found["results"][name].items():
        metric, _, chosen_by = key.partition(",")
        if not chosen_by or isinstance(value, bool) or not isinstance(value, int | float | np.number):
            continue
        is_error = metric.endswith("_stderr")
        called = metric.removesuffix("_stderr") + ("" if chosen_by == "none" else f"-{chosen_by}")
        (errors if is_error else metrics)[called] = float(value)
    length = loaded.lengths.get(name)
    better = found["higher_is_better"].get(name, {})
    return TaskResult(
        metrics=metrics,
        errors={metric: error for metric, error in errors.items() if math.isfinite(error)},
        higher_is_better={
            m: bool(better[m.partition("-")[0]]) for m in metrics if better.get(m.partition("-")[0]) is not None
        },
        version=str(found["versions"].get(name, "")),
        samples=(found["n-samples"].get(name) or {}).get("effective"),
        few_shot=int(found["n-shot"].get(name) or 0),
        context_length=length,
        cache_bytes=None if length is None else cache_bytes(length),
    )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Tasks draw from the same random numbers every time, and leave those of others as they were."""
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(1234)
    torch.default_generator.manual_seed(1234)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(pytorch)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's progress bars, which it draws for every small step; its warnings go where they went."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
