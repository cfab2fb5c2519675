"""When the validation loss is measured, and on which sequences."""

from collections.abc import Callable, Iterable

from torch import Tensor

from glm_data import Batch
from glm_scale.training.config import EvaluationConfig
from glm_scale.training.engine import Engine
from glm_scale.training.evaluation import Evaluation, evaluate
from glm_scale.training.token_groups import TokenGroups

__all__ = ["Validator"]


class Validator:
    """Measures the validation loss of an engine.

    `batches` makes a fresh iterator over this rank's validation sequences, and `groups` what takes their loss apart;
    `token_bytes` int [vocab] and `totals` as `evaluate` takes them.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        batches: Callable[[], Iterable[Batch]],
        groups: Callable[[], TokenGroups],
        token_bytes: Tensor,
        totals: Callable[[list[float]], list[float]] = list,
    ) -> None:
        self._totals = totals
        self._config = config
        self._batches = batches
        self._groups = groups
        self._token_bytes = token_bytes

    def due(self, step: int) -> bool:
        """Whether the loss on held-out text is due after a step."""
        return self._config.every is not None and step % self._config.every == 0

    def evaluate(self, engine: Engine, final: bool = False) -> Evaluation:
        """The engine's loss on the held-out sequences, taken apart if it is the `final` one. Collective."""
        engine.deepspeed.eval()
        groups = self._groups() if final else None
        try:
            return evaluate(engine.token_losses, self._batches(), self._token_bytes, self._totals, groups)
        finally:
            engine.deepspeed.train()
