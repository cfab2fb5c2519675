"""When the validation loss is measured, and on which sequences."""

from collections.abc import Callable, Iterable

from torch import Tensor

from glm_scale.training.config import EvaluationConfig
from glm_scale.training.engine import Engine
from glm_scale.training.evaluation import Evaluation, evaluate
from glm_scale.training.micro_batch import MicroBatch

__all__ = ["Validator"]


class Validator:
    """Measures the validation loss of an engine.

    `batches` makes a fresh iterator over this rank's validation sequences; `token_bytes` int [vocab] and `totals`
    as `evaluate` takes them.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        batches: Callable[[], Iterable[MicroBatch]],
        token_bytes: Tensor,
        totals: Callable[[list[float]], list[float]] = list,
    ) -> None:
        self._totals = totals
        self._config = config
        self._batches = batches
        self._token_bytes = token_bytes

    def due(self, step: int) -> bool:
        """Whether the loss on held-out text is due after a step."""
        return self._config.every is not None and step % self._config.every == 0

    def evaluate(self, engine: Engine) -> Evaluation:
        """The engine's loss on the held-out sequences. Collective."""
        engine.deepspeed.eval()
        try:
            return evaluate(engine.forward, self._batches(), self._token_bytes, self._totals)
        finally:
            engine.deepspeed.train()
