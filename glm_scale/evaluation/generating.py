"""Texts that go on until a stop, several at once, as tasks ask for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from glm_data import Tokenizer
from glm_scale.inference.decoding import Decoder
from glm_scale.inference.sampling import Sampling
from glm_scale.model import LanguageModel

__all__ = ["Wanted", "generate"]

_MOST = 16
"""Documents that are continued at once."""
_USUAL_TOKENS = 256
"""What lm-eval takes where a task does not say."""


class Wanted(NamedTuple):
    """At most so many `tokens`, up to the first of the texts `until`, which is no part of the answer."""

    tokens: int
    until: tuple[str, ...]
    sampling: Sampling

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From lm-eval's `generation_kwargs`, which name things in several ways."""
        from lm_eval.models.utils import normalize_gen_kwargs

        known = normalize_gen_kwargs(dict(settings), _USUAL_TOKENS)
        temperature = float(known.get("temperature") or 0)
        until = tuple(text for text in known["until"] if text)
        sampling = Sampling(
            temperature=temperature if known.get("do_sample") else 0,
            top_k=known.get("top_k") or None,
            top_p=known.get("top_p") or 1.0,
        )
        return cls(int(known["max_gen_toks"]), until, sampling)

    def cut(self, text: str) -> tuple[str, bool]:
        """The text up to the first stop in it, and whether there is one."""
        places = [place for stop in self.until if (place := text.find(stop)) >= 0]
        return (text[: min(places)], True) if places else (text, False)


def generate(
    model: LanguageModel,
    codec: Tokenizer,
    prompts: Sequence[list[int]],
    wanted: Sequence[Wanted],
    batch_tokens: int,
    progress: Callable[[int, int], None],
) -> list[str]:
    """What follows each prompt. Documents that are continued together have the same sampling, and with what they may
    come to at most `batch_tokens` tokens, or are alone."""
    answers = [""] * len(prompts)
    # Longest first, so that those that go together are of like length.
    order = sorted(range(len(prompts)), key=lambda i: (repr(wanted[i].sampling), -len(prompts[i]) - wanted[i].tokens))
    done = 0
    while order:
        first = wanted[order[0]]
        together = [i for i in order[:_MOST] if wanted[i].sampling == first.sampling]
        together = together[: max(1, batch_tokens // (len(prompts[order[0]]) + first.tokens))]
        order = order[len(together) :]
        for i, text in zip(together, _continued(model, codec, prompts, wanted, together), strict=True):
            answers[i] = text
        done += len(together)
        progress(done, len(prompts))
    return answers


def _continued(
    model: LanguageModel,
    codec: Tokenizer,
    prompts: Sequence[list[int]],
    wanted: Sequence[Wanted],
    together: list[int],
) -> list[str]:
    # Those that have ended go on with the others.
    length = max(len(prompts[i]) for i in together) + max(wanted[i].tokens for i in together)
    decoder = Decoder(
        model, batch=len(together), length=length, sampling=wanted[together[0]].sampling, vocabulary=codec.size
    )
    for document, i in enumerate(together):
        decoder.read(prompts[i], document)
    tokens: list[list[int]] = [[] for _ in together]
    texts: dict[int, str] = {}
    while True:
        for document, token in enumerate(decoder.fetch()()):
            if document in texts:
                continue
            asked = wanted[together[document]]
            if token != codec.eos:
                tokens[document].append(token)
            text, stopped = asked.cut(codec.decode(tokens[document]))
            if stopped or token == codec.eos or len(tokens[document]) == asked.tokens:
                texts[document] = text
        if len(texts) == len(together):
            return [texts[document] for document in range(len(together))]
        decoder.step()
