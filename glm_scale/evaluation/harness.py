"""Our model as one of lm-eval (EleutherAI's lm-evaluation-harness), under the name `glm-scale`.

A text begins with the token that documents begin with in training, and is never continued across a document's end.
What is longer than the model was trained on loses its beginning. Perplexities of whole texts are of windows that do not
overlap, as the model's own validation loss is (`glm_scale.inference.evaluation`).
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from glm_data import Batch, Tokenizer
from glm_scale.errors import UserError
from glm_scale.evaluation.generating import Wanted, generate
from glm_scale.evaluation.scoring import Request, Score, padded, score
from glm_scale.inference.evaluation import BATCH_TOKENS
from glm_scale.inference.loading import LoadedModel, load_model
from glm_scale.training.distributed import resolve_device

__all__ = ["HarnessModel", "TrainedHarnessModel"]

_logger = logging.getLogger(__name__)


class HarnessModel(TemplateLM):
    """What lm-eval asks of a model, in tokens of ours. `score` answers."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        super().__init__()
        self.codec = tokenizer
        self.max_length = max_length
        self.shortened = 0
        """Texts that have lost their beginning."""

    @abstractmethod
    def score(self, requests: Sequence[Request]) -> list[Score]:
        """The scores of requests, in their order."""

    @property
    def eot_token_id(self) -> int:
        return self.codec.eos

    @property
    def prefix_token_id(self) -> int:
        return self.codec.bos

    @property
    def tokenizer_name(self) -> str:
        return self.codec.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self.codec.encode(string)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        begun, continued = super()._encode_pair(context, continuation)
        if not continued:
            # The end of the context and the continuation have become one token.
            begun, continued = begun[:-1], self.tok_encode(context + continuation)[-1:]
        return [self.prefix_token_id, *begun], continued

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return [
            (found.log_likelihood, found.greedy) for found in self.score([self._fitted(c, x) for _, c, x in requests])
        ]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        windows: list[Request] = []
        owners: list[int] = []
        for number, instance in enumerate(requests):
            tokens = self.tok_encode(instance.args[0])
            for pair in get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1):
                # The last window would read what the one before has predicted already.
                context, continuation = make_disjoint_window(pair)
                windows.append(Request(tuple(context), tuple(continuation)))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, found in zip(owners, self.score(windows), strict=True):
            sums[number] += found.log_likelihood
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        raise UserError("tasks that generate need a trained model: glm-scale evaluate RUN --tasks …")

    def _fitted(self, context: list[int], continuation: list[int]) -> Request:
        request = Request(tuple(context), tuple(continuation))
        try:
            fitted = request.within(self.max_length)
        except ValueError as error:
            raise UserError(f"{error} tokens of the model; raise --sequence-length") from error
        self.shortened += fitted is not request
        return fitted


@register_model("glm-scale")
class TrainedHarnessModel(HarnessModel):
    """A trained model. `--model_args path=RUN` of lm-eval's own command: a run, a checkpoint or an exported folder.

    `max_length`: the most tokens that are read of a text; by default as many as a sequence of training has.
    `batch_size`: sequences of that length in a forward pass; by default `BATCH_TOKENS` tokens. `progress` is told how
    many requests are done, and of how many.
    """

    def __init__(
        self,
        path: str | Path,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        *,
        loaded: LoadedModel | None = None,
        batch_tokens: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.loaded = loaded or load_model(Path(path), resolve_device(device or "auto"))
        super().__init__(self.loaded.tokenizer, max_length or self.loaded.config.data.sequence_length)
        by_size = int(batch_size) * self.max_length if batch_size and str(batch_size).isdigit() else BATCH_TOKENS
        self.batch_tokens = batch_tokens or by_size
        self.progress = progress
        self._device = next(self.loaded.model.parameters()).device

    @torch.inference_mode()
    def score(self, requests: Sequence[Request]) -> list[Score]:
        # Choices of one question often stand in several tasks.
        different = list(dict.fromkeys(requests))
        done = 0

        def token_scores(batch: Batch) -> Tensor:
            nonlocal done
            there = batch.to(self._device)
            scores = self.loaded.model(there.tokens, labels=there.labels, reduction="scored")
            done += len(batch.tokens)
            self.progress(done, len(different))
            return scores

        found = score(len(different), padded(different, self.batch_tokens), token_scores)
        by_request = dict(zip(different, found, strict=True))
        return [by_request[request] for request in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        prompts, wanted = [], []
        for instance in requests:
            context, settings = instance.args
            asked = Wanted.of(settings)
            room = self.max_length - asked.tokens
            if room < 1:
                raise UserError(
                    f"a task wants {asked.tokens} tokens, the model has read no more than {self.max_length} at once; "
                    "raise --sequence-length"
                )
            prompt = [self.prefix_token_id, *self.tok_encode(context)]
            self.shortened += len(prompt) > room
            prompts.append(prompt[-room:])
            wanted.append(asked)
        return generate(self.loaded.model, self.codec, prompts, wanted, self.batch_tokens, self.progress)
