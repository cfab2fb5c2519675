"""Decoding: documents that continue token by token, all of whose state stays where it is on the device.

A `Decoder` steps; nothing in a step asks the device for a value or depends on one, so that `GraphedStep` can record a
step as a CUDA graph and replay it in one launch. On a CPU the same steps run one operation after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

from glm_scale.errors import UserError
from glm_scale.inference.sampling import Sampling, draw, random_numbers
from glm_scale.layers.rotary import Rotary
from glm_scale.model import LanguageModel, ModelCache

__all__ = ["Decoder", "GraphedStep"]

_CHUNK = 32768
"""Tokens of a prompt that the training kernels read at once."""

_WARM_UP = 2
"""Steps before one is recorded: they compile kernels and make tables."""


class Decoder:
    """`batch` documents of at most `length` tokens each.

    `vocabulary`: tokens below it are drawn, all of the model's if it is None. Public tensors are written in place:
    `tokens` int64 `[B]`, drawn last and not yet read; `logits` `[B, vocab]` that they were drawn from; `position` int64
    `[B]`, tokens read. The weights of the model are laid out for stepping, which changes none of them.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        batch: int = 1,
        length: int,
        sampling: Sampling | None = None,
        vocabulary: int | None = None,
    ) -> None:
        self.model, self.batch, self.length = model, batch, length
        self.sampling = sampling or Sampling(temperature=0)
        self.vocabulary = vocabulary or model.config.vocab_size
        self.device, dtype = model.embedding.weight.device, model.embedding.weight.dtype
        model.lay_out_for_steps()
        self.caches: ModelCache = model.empty_caches(batch, length)
        self.tokens = torch.zeros(batch, dtype=torch.int64, device=self.device)
        self.position = torch.zeros_like(self.tokens)
        self.logits = torch.zeros(batch, model.config.vocab_size, dtype=dtype, device=self.device)
        self._drawn = torch.zeros_like(self.tokens)
        chances = 0 if self.sampling.temperature == 0 else length + _WARM_UP
        self._chances = random_numbers(self.sampling.seed, chances, batch).to(self.device)
        self._frequencies = model.rotary.frequencies(self.device)

    @torch.inference_mode()
    def reset(self) -> None:
        """Forget all documents."""
        leaves = [*tree_leaves(self.caches), self.tokens, self.position, self.logits, self._drawn]
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                leaf.zero_()

    @torch.inference_mode()
    def read(self, prompt: Tensor | Sequence[int], document: int | None = None) -> None:
        """Read a prompt int64 `[T]` by the training kernels, and draw the token after it.

        A single document goes on with it. Of several it is how `document` begins, or all of them if that is None.
        """
        prompt = torch.as_tensor(prompt, dtype=torch.int64, device=self.device)
        if self.batch == 1:
            logits, after = self._prefilled(prompt, self.caches)
            _write(self.caches, after)
            self.position += len(prompt)
            self._draw(logits, slice(None))
            return
        documents = slice(None) if document is None else slice(document, document + 1)
        logits, after = self._prefilled(prompt, self.model.empty_caches(1, self.length))
        _write(self.caches, after, documents)
        self.position[documents] = len(prompt)
        self._draw(logits.expand(len(self.tokens[documents]), -1), documents)

    @torch.inference_mode()
    def step(self) -> None:
        """Every document reads its last token, and the next one is drawn."""
        rotation = Rotary.of(self.position[:, None], self._frequencies)
        logits, after = self.model.step(self.tokens[:, None], self.caches, rotation)
        _write(self.caches, after)
        self.position += 1
        self._draw(logits[:, -1], slice(None))

    def fetch(self) -> Callable[[], list[int]]:
        """Begin to fetch the tokens drawn last; what is returned waits for them, and for nothing begun later."""
        if self.device.type != "cuda":
            tokens = self.tokens.tolist()
            return lambda: tokens
        arrived = torch.empty(self.batch, dtype=torch.int64, pin_memory=True)
        arrived.copy_(self.tokens, non_blocking=True)
        event = torch.cuda.Event()
        event.record()

        def wait() -> list[int]:
            event.synchronize()
            return arrived.tolist()

        return wait

    @property
    def cache_bytes(self) -> int:
        """Allocated for the caches."""
        return sum(leaf.nbytes for leaf in tree_leaves(self.caches) if isinstance(leaf, Tensor))

    def _prefilled(self, prompt: Tensor, caches: ModelCache) -> tuple[Tensor, ModelCache]:
        """Logits `[1, vocab]` after the prompt, and caches that go on from those given."""
        for piece in prompt.split(_CHUNK):
            logits, caches = self.model.prefill(piece[None], caches, last_only=True)
        return logits[:, -1], caches

    def _draw(self, logits: Tensor, documents: slice) -> None:
        self.logits[documents] = logits
        chance = self._chances
        if self.sampling.temperature:
            chance = chance.gather(0, self._drawn[None])[0]
        self.tokens[documents] = draw(logits[:, : self.vocabulary], self.sampling, chance[documents])
        self._drawn[documents] += 1


class GraphedStep:
    """A step of a decoder on a GPU, recorded: calling it is one launch. Recording makes the decoder forget all."""

    def __init__(self, decoder: Decoder) -> None:
        """Raises UserError where something in the model's step cannot be recorded."""
        stream = torch.cuda.Stream(decoder.device)
        stream.wait_stream(torch.cuda.current_stream(decoder.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                decoder.step()
        torch.cuda.current_stream(decoder.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        random_state = generator.clone_state()
        try:
            with torch.cuda.graph(self._graph):
                decoder.step()
        except RuntimeError as error:
            # A recording that breaks off leaves torch's generator waiting for its end.
            generator.graphsafe_set_state(random_state)
            mixers = decoder.model.config.mixer_name
            reason = str(error).splitlines()[0]
            raise UserError(
                f"a step of a model of {mixers} cannot be recorded as a CUDA graph ({reason}); decode without it "
                "(--no-graph)"
            ) from error
        decoder.reset()

    def __call__(self) -> None:
        """As `Decoder.step`."""
        self._graph.replay()


def _write(held: ModelCache, after: ModelCache, documents: slice = slice(None)) -> None:
    """Write caches into those that are held, unless they are there already."""
    leaves, structure = tree_flatten(held)
    found, same = tree_flatten(after)
    if structure != same:
        raise RuntimeError(f"a step has changed what a cache consists of, from {structure} to {same}")
    for to, leaf in zip(leaves, found, strict=True):
        if not isinstance(to, Tensor):
            if to != leaf:
                raise RuntimeError(f"a step has changed {to!r} of a cache made for a length to {leaf!r}")
        elif to.data_ptr() != leaf.data_ptr():
            to[documents] = leaf
