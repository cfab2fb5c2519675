"""Streaming generation: the training kernels read the prompt, then a decoder takes token by token.

Nothing here knows a mixer: the cache of a lattice is O(log n) rows, that of attention O(n), and the report says how
many rows and bytes it came to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from glm_scale.errors import UserError
from glm_scale.inference.decoding import Decoder, GraphedStep
from glm_scale.inference.sampling import Sampling
from glm_scale.model import LanguageModel


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
        self,
        model: LanguageModel,
        codec: TextCodec,
        prompt: str,
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        graph: bool | None = None,
    ) -> None:
        """Continue `prompt`, as the beginning of a document, by at most `max_tokens` tokens.

        graph: replay a CUDA graph for every token; None: on a GPU.
        Raises UserError if the model's vocabulary is smaller than the tokenizer's.
        """
        if codec.size > model.config.vocab_size:
            raise UserError(
                f"the tokenizer has {codec.size} tokens but the model's vocabulary {model.config.vocab_size}; "
                "generate with the tokenizer that the model was trained with"
            )
        self._model, self._codec, self._max_tokens = model, codec, max_tokens
        self._sampling = sampling or Sampling()
        self._on_gpu = model.embedding.weight.is_cuda
        self._graph = self._on_gpu if graph is None else graph
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
        length, size = len(self._prompt) + self._max_tokens, self._codec.size
        decoder = Decoder(self._model, length=length, sampling=self._sampling, vocabulary=size)
        step = GraphedStep(decoder) if self._graph else decoder.step
        try:
            began = time.perf_counter()
            decoder.read(self._prompt)
            while not report.ended and report.new_tokens < self._max_tokens:
                fetched = decoder.fetch()
                another = report.new_tokens + 1 < self._max_tokens
                if another and self._on_gpu:
                    step()  # the device works while the host waits for the token before, and shows it
                token = fetched()[0]
                now = time.perf_counter()
                report.add(1 if report.cached_tokens else len(self._prompt), now - began)
                began = now
                if token == self._codec.eos:
                    report.ended = True
                else:
                    report.new_tokens += 1
                    yield token
                    if another and not self._on_gpu:
                        step()
        finally:
            report.allocated_bytes = decoder.cache_bytes
            report.cache_bytes = self._model.cache_bytes(report.cached_tokens)
            report.cache_rows = self._model.cache_rows(report.cached_tokens)
