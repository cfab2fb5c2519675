"""Streaming generation: prefill the prompt, then decode token by token with the caches of the mixers.

Nothing here knows a mixer: the cache of a lattice is O(log n) rows, that of attention O(n), and the report says how
many rows and bytes it came to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor
from torch.utils._pytree import tree_leaves

from glm_data.settings import Settings
from glm_scale.errors import UserError
from glm_scale.model import LanguageModel, ModelCache


class TextCodec(Protocol):
    """What generation needs of a tokenizer; `size` counts its tokens."""

    @property
    def size(self) -> int: ...
    @property
    def bos(self) -> int: ...
    @property
    def eos(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...


class Sampling(Settings):
    """How the next token is drawn: logits / temperature, cut to the `top_k` likeliest tokens, then to the fewest
    whose probabilities reach `top_p` (nucleus sampling, Holtzman et al. 2019, arXiv 1904.09751). Temperature 0 takes
    the likeliest token."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token drawn from `logits [vocab]` by a CPU generator, hence the same on every device up to rounding."""
    logits = logits.float().cpu()
    if sampling.temperature == 0:
        return int(logits.argmax())
    values, tokens = (logits / sampling.temperature).topk(min(sampling.top_k or len(logits), len(logits)))
    probabilities = values.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    kept = probabilities.masked_fill(before >= sampling.top_p, 0)  # the likeliest token has 0 before it: never cut
    return int(tokens[torch.multinomial(kept, 1, generator=generator)])


class TextStream:
    """Turns tokens into text as they come, whole characters only.

    With byte fallback a character may span several tokens, which decode to U+FFFD until the last of them is there;
    such an ending is held back. Text is the difference of two decodings that begin at the same token, because a
    decoder may treat the first token of a text unlike the others (a leading space). `context`: the tokens that the
    text continues, of which the last one or few are enough.
    """

    def __init__(self, codec: TextCodec, context: list[int]) -> None:
        self._codec = codec
        self._pending = context
        self._shown = codec.decode(context)

    def push(self, token: int) -> str:
        """The text that `token` completes, often none."""
        self._pending = [*self._pending, token]
        text = self._codec.decode(self._pending)
        if text.endswith("\ufffd"):
            return ""
        return self._advance(text)

    def flush(self) -> str:
        """What was held back, bytes that never became a character shown as U+FFFD."""
        return self._advance(self._codec.decode(self._pending))

    def _advance(self, text: str) -> str:
        new = text[len(self._shown) :]
        if new:
            self._pending = self._pending[-1:]  # context enough for what follows
            self._shown = self._codec.decode(self._pending)
        return new


@dataclass
class Report:
    """What a generation took so far."""

    prompt_tokens: int
    new_tokens: int = 0
    cached_tokens: int = 0
    """Tokens that the caches have seen: all but the last one drawn."""
    cache_bytes: int = 0
    """Of the caches, as far as these tokens fill them."""
    cache_rows: Mapping[str, int | None] = field(default_factory=dict)
    """Rows that one layer of each mixer remembers; None: a state whose size does not depend on the text."""
    allocated_bytes: int = 0
    """Of the caches with their room for the longest text that was allowed."""
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    ended: bool = False
    """Whether the model ended the document, rather than the limit the text."""

    def add(self, tokens: int, seconds: float) -> None:
        """Account for reading some tokens and drawing the next."""
        if self.cached_tokens:
            self.decode_seconds += seconds
        else:
            self.prefill_seconds = seconds
        self.cached_tokens += tokens

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed, the prefill apart; 0 if nothing was decoded."""
        decoded = self.cached_tokens - self.prompt_tokens
        return decoded / self.decode_seconds if self.decode_seconds else 0.0

    def __str__(self) -> str:
        ending = ", ended by the model" if self.ended else ""
        return (
            f"{self.prompt_tokens} prompt tokens in {self.prefill_seconds:.2f} s, {self.new_tokens} new tokens at "
            f"{self.tokens_per_second:.1f} tokens/s, cache {self.cache_bytes:,} bytes after "
            f"{self.cached_tokens} tokens ({self._rows()}; {self.allocated_bytes:,} bytes allocated){ending}"
        )

    def _rows(self) -> str:
        """ "13 rows a layer", or mixer by mixer where layers differ."""
        several = len(self.cache_rows) > 1
        return ", ".join(
            f"{'one state' if rows is None else '1 row' if rows == 1 else f'{rows} rows'} a layer"
            + f" of {mixer}" * several
            for mixer, rows in self.cache_rows.items()
        )


class Generation:
    """A text to generate: iterate over it for its pieces, which draws them; `report` says what it took so far."""

    def __init__(
        self, model: LanguageModel, codec: TextCodec, prompt: str, *, max_tokens: int, sampling: Sampling | None = None
    ) -> None:
        """Continue `prompt`, as the beginning of a document, by at most `max_tokens` tokens.

        Raises UserError if the model's vocabulary is smaller than the tokenizer's.
        """
        if codec.size > model.config.vocab_size:
            raise UserError(
                f"the tokenizer has {codec.size} tokens but the model's vocabulary {model.config.vocab_size}; "
                "generate with the tokenizer that the model was trained with"
            )
        self._model, self._codec, self._max_tokens = model, codec, max_tokens
        self._sampling = sampling or Sampling()
        self._prompt = [codec.bos, *codec.encode(prompt)]
        self.report = Report(prompt_tokens=len(self._prompt))

    def __iter__(self) -> Iterator[str]:
        stream = TextStream(self._codec, self._prompt[-1:])
        for token in self._tokens():
            if piece := stream.push(token):
                yield piece
        if piece := stream.flush():
            yield piece

    def _tokens(self) -> Iterator[int]:
        """Draw tokens until the end of the document or the limit; the end token is not among them."""
        report = self.report = Report(prompt_tokens=len(self._prompt))
        generator = torch.Generator().manual_seed(self._sampling.seed)
        caches = self._model.empty_caches(1, length=len(self._prompt) + self._max_tokens)
        unread = self._prompt
        try:
            while report.new_tokens < self._max_tokens and not report.ended:
                began = time.perf_counter()
                logits, caches = self._advance(unread, caches)
                token = sample(logits[: self._codec.size], self._sampling, generator)
                report.add(len(unread), time.perf_counter() - began)
                if token == self._codec.eos:
                    report.ended = True
                else:
                    report.new_tokens += 1
                    unread = [token]
                    yield token
        finally:
            tensors = (leaf for leaf in tree_leaves(caches) if isinstance(leaf, Tensor))
            report.allocated_bytes = sum(tensor.nbytes for tensor in tensors)
            report.cache_bytes = self._model.cache_bytes(report.cached_tokens)
            report.cache_rows = self._model.cache_rows(report.cached_tokens)

    @torch.inference_mode()
    def _advance(self, tokens: list[int], caches: ModelCache) -> tuple[Tensor, ModelCache]:
        """Logits `[vocab]` after these tokens of the document, and the caches."""
        batch = torch.tensor([tokens], device=self._model.embedding.weight.device)
        logits, caches = self._model.prefill(batch, caches, last_only=True)
        return logits[0, -1], caches
