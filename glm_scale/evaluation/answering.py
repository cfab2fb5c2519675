"""Models in lm-eval's hands that compute nothing: one writes down what it is asked, the other knows all answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from glm_data import Tokenizer
from glm_scale.evaluation.harness import HarnessModel
from glm_scale.evaluation.scoring import Request, Score

__all__ = ["Answers", "Recorder"]


class Recorder(HarnessModel):
    """Has in `requests` what it was asked, each request once."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        super().__init__(tokenizer, max_length)
        self._asked: dict[Request, None] = {}

    @property
    def requests(self) -> list[Request]:
        return list(self._asked)

    def score(self, requests: Sequence[Request]) -> list[Score]:
        self._asked |= dict.fromkeys(requests)
        return [Score(-1.0, False)] * len(requests)


class Answers(HarnessModel):
    """Answers with `scores`."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, scores: Mapping[Request, Score]) -> None:
        super().__init__(tokenizer, max_length)
        self._scores = scores

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Raises KeyError for a request whose score is not known."""
        try:
            return [self._scores[request] for request in requests]
        except KeyError:
            raise KeyError("a task asks something else than it did when the run started") from None
