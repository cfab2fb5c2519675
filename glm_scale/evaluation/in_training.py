"""Tasks while a model trains, on all ranks of its run.

Rank 0 alone has lm-eval and the tasks' data. Before the first step it writes down every request that the tasks make,
and tells the others; requests are laid into batches of the shape that training has, which every rank can compute in any
layout and with compiled layers, as many on each data rank. From the scores of all of them rank 0 has lm-eval find what
the tasks come to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from glm_data import Tokenizer
from glm_scale.errors import UserError
from glm_scale.evaluation.loading import Chosen, LoadedTasks, load_tasks
from glm_scale.evaluation.scoring import Request, Score, ScoringBatch, packed, score
from glm_scale.model import LanguageModel
from glm_scale.tracking.task_results import TaskResults
from glm_scale.training.config import TasksConfig
from glm_scale.training.engine import Engine
from glm_scale.training.oversight import Oversight
from glm_scale.training.ranks import Ranks

if TYPE_CHECKING:
    from glm_scale.evaluation.harness import HarnessModel

__all__ = ["TasksInTraining"]

_logger = logging.getLogger(__name__)


class TasksInTraining:
    """The tasks of a run. Collective, as its methods are.

    `length`: tokens of a sequence of training, the most that are read of a text; `micro_batch`: sequences of a forward
    pass; `whole`: a model of the same configuration that is not split, for what its caches take.

    Raises:
        UserError: a task cannot be measured in training, or not had at all.
    """

    def __init__(
        self,
        config: TasksConfig,
        tokenizer: Tokenizer,
        length: int,
        micro_batch: int,
        ranks: Ranks,
        oversight: Oversight,
        whole: LanguageModel,
    ) -> None:
        self._config, self._ranks, self._oversight, self._whole = config, ranks, oversight, whole
        self._tokenizer, self._length = tokenizer, length
        self._loaded: LoadedTasks | None = None
        self._requests = ranks.from_first(self._requests_of_tasks)
        self._batches = packed(self._requests, micro_batch, length, ranks.data_ranks)

    @property
    def described(self) -> str:
        """What there is to do, in a line."""
        every = f"every {self._config.every} steps and at the end" if self._config.every else "at the end"
        return (
            f"tasks {', '.join(self._config.names)} {every}: {len(self._requests):,} requests in {self.passes} passes"
        )

    @property
    def passes(self) -> int:
        """Forward passes of each data rank."""
        return len(self._batches) // self._ranks.data_ranks

    def due(self, step: int) -> bool:
        """Whether the tasks are to be measured after a step."""
        return self._config.every is not None and step % self._config.every == 0

    def measure(self, engine: Engine, step: int) -> TaskResults | None:
        """What the tasks come to; None on other ranks than the first, and if lm-eval fails, which is logged."""
        engine.deepspeed.eval()
        try:
            scores = score(len(self._requests), self._own_batches(), engine.token_scores, self._ranks.totals)
        finally:
            engine.deepspeed.train()
        return self._results(scores, step) if self._loaded is not None else None

    def _own_batches(self) -> Iterator[ScoringBatch]:
        for make in self._ranks.every_other(self._batches):
            self._oversight.heartbeat("tasks")
            made = make()
            yield ScoringBatch(self._ranks.own_part(made.batch), self._ranks.own_columns(made.owners))

    def _requests_of_tasks(self) -> list[Request]:
        from glm_scale.evaluation.answering import Recorder

        config = self._config
        chosen = Chosen(config.names, config.limit, config.few_shot, config.include, config.context_lengths)
        if chosen.recalls and (longest := chosen.lengths(self._length)[-1]) > self._length:
            raise UserError(
                f"evaluation.tasks.context_lengths: {longest} tokens are more than a sequence of training has "
                f"(data.sequence_length = {self._length}); glm-scale evaluate asks at any length"
            )
        loaded = load_tasks(chosen, self._tokenizer, self._length)
        if loaded.generating:
            raise UserError(
                f"evaluation.tasks.names: {', '.join(loaded.generating)} cannot be measured while a run trains, since "
                "texts are to be generated for it; leave it out, and measure it with glm-scale evaluate RUN --tasks "
                f"{','.join(loaded.generating)}"
            )
        recorder = Recorder(self._tokenizer, self._length)
        self._measured(recorder, loaded, 0)
        self._loaded = loaded
        return recorder.requests

    def _results(self, scores: Sequence[Score], step: int) -> TaskResults | None:
        from glm_scale.evaluation.answering import Answers

        assert self._loaded is not None
        answers = Answers(self._tokenizer, self._length, dict(zip(self._requests, scores, strict=True)))
        try:
            return self._measured(answers, self._loaded, step)
        except Exception as error:
            # Tasks are anybody's code; a run of weeks does not end for them.
            _logger.warning("step %d: the tasks were not measured: %s", step, error, exc_info=True)
            return None

    def _measured(self, model: HarnessModel, loaded: LoadedTasks, step: int) -> TaskResults:
        from glm_scale.evaluation.measuring import measure

        return measure(model, loaded, step, self._config.limit, self._whole.cache_bytes)
