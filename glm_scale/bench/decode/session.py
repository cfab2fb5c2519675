"""One case after the other on a device: is it right, then how long does a token take."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

import psutil
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from glm_scale.bench.decode.cases import WARM_UP, Case, Setting
from glm_scale.bench.decode.model import weight_bytes
from glm_scale.errors import UserError
from glm_scale.inference.decoding import Decoder, GraphedStep
from glm_scale.model import LanguageModel

__all__ = ["BOUNDS", "Measured", "RefusedError", "measure"]

BOUNDS = {torch.bfloat16: 5e-2, torch.float32: 1e-3}
"""Of the logits of steps beside those of training, relative to their root mean square: what rounding makes of them."""

_CHECKED = 8
"""Tokens decoded to compare."""

_ROOM = 3 * 2**30
"""Bytes for what a prompt of one chunk needs besides weights and caches."""


class RefusedError(UserError):
    """A case that the device has no memory for."""


@dataclass(frozen=True)
class Measured:
    """round_ms: milliseconds a token, of each round. Bytes: of the weights and of the live rows that a token reads, and
    what is allocated. bandwidth: bytes a second of a large copy, read and written ones counted, in the same process.
    prefilled: tokens read in `prefill_seconds` to come to the context; 0 if caches were filled with random numbers.
    error: of the logits beside training's, graph_error: of a graph's beside those of eager steps; None if nothing was
    checked, or there is no graph. peak_bytes: 0 on a CPU."""

    case: str
    round_ms: list[float]
    weight_bytes: int
    read_bytes: int
    cache_bytes: int
    peak_bytes: int
    bandwidth: float
    graph: bool
    prefilled: int
    prefill_seconds: float
    error: float | None
    graph_error: float | None

    def to_json(self) -> dict[str, Any]:
        """As a file of results holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """The reverse. Raises TypeError for something else."""
        return cls(**content)


def measure(case: Case, model: LanguageModel, setting: Setting, bandwidth: float) -> Measured:
    """Check a case and measure it. Raises RefusedError if it cannot fit, UserError if it is wrong."""
    device = model.embedding.weight.device
    if setting.graph and device.type != "cuda":
        raise UserError(f"{case}: --graph needs a GPU, and this is {device}; leave it out")
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    _must_fit(case, model)
    decoder = Decoder(model, batch=case.batch, length=case.context)
    graph = device.type == "cuda" if setting.graph is None else setting.graph
    step: Callable[[], None] = GraphedStep(decoder) if graph else decoder.step
    error, graph_error = _checked(case, decoder, step) if setting.checked else (None, None)
    decoder.reset()
    before = case.context - setting.tokens
    seconds = _filled(decoder, before, setting)
    for _ in range(WARM_UP):
        step()
    taken = [_timed(step, setting.steps, device) for _ in range(setting.rounds)]
    if not decoder.logits.isfinite().all():
        raise UserError(f"{case}: logits are not finite after {case.context} tokens")
    return Measured(
        case=str(case),
        round_ms=taken,
        weight_bytes=weight_bytes(model),
        read_bytes=case.batch * model.cache_bytes(case.context),
        cache_bytes=decoder.cache_bytes,
        peak_bytes=torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
        bandwidth=bandwidth,
        graph=graph,
        prefilled=before if setting.fill == "read" else 0,
        prefill_seconds=seconds,
        error=error,
        graph_error=graph_error,
    )


def _must_fit(case: Case, model: LanguageModel) -> None:
    # A prompt that several documents begin with is read into a cache of its own.
    documents = case.batch + (case.batch > 1)
    needed = documents * model.cache_bytes(case.context)
    device = model.embedding.weight.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed + _ROOM * (device.type == "cuda") > free:
        raise RefusedError(
            f"{case} needs {needed:,} bytes for its caches ({needed / 2**30:,.1f} GiB), and {free:,} "
            f"({free / 2**30:,.1f} GiB) are free on {device}; take a shorter context or fewer documents"
        )


def _checked(case: Case, decoder: Decoder, step: Callable[[], None]) -> tuple[float, float | None]:
    """The errors of eager steps' logits beside training's, and of a graph's beside those; relative, root mean square.

    Raises UserError if one is larger than rounding explains.
    """
    prompt = torch.randint(
        decoder.vocabulary, (min(64, case.context // 2),), generator=torch.Generator().manual_seed(1)
    )
    tokens, logits = _decoded(decoder, prompt, decoder.step)
    graph_error = None
    if step != decoder.step:
        graph_error = _error(case, "of a graph", _decoded(decoder, prompt, step)[1], logits, "of eager steps")
    text = torch.cat((prompt.to(decoder.device), tokens[:-1, 0]))
    with torch.inference_mode():
        expected = decoder.model(text[None])[0, len(prompt) - 1 :]
    return _error(case, "of steps", logits[:, 0], expected, "of training"), graph_error


def _error(case: Case, what: str, found: Tensor, expected: Tensor, other: str) -> float:
    bound, expected = BOUNDS[found.dtype], expected.float()
    error = ((found.float() - expected).square().mean() / expected.square().mean()).sqrt().item()
    if not error <= bound:
        raise UserError(f"{case}: logits {what} differ from those {other} by {error:.1e}, more than {bound}")
    return error


def _decoded(decoder: Decoder, prompt: Tensor, step: Callable[[], None]) -> tuple[Tensor, Tensor]:
    """Tokens `[n, B]` and logits `[n, B, vocab]` after a prompt: of the prompt itself, and of the steps after it."""
    decoder.reset()
    decoder.read(prompt)
    tokens, logits = [decoder.tokens.clone()], [decoder.logits.clone()]
    for _ in range(_CHECKED):
        step()
        tokens.append(decoder.tokens.clone())
        logits.append(decoder.logits.clone())
    return torch.stack(tokens), torch.stack(logits)


def _filled(decoder: Decoder, tokens: int, setting: Setting) -> float:
    """Bring documents to so many tokens; the seconds that it took."""
    if setting.fill == "random":
        _pretend(decoder, tokens)
        return 0.0
    prompt = torch.randint(decoder.vocabulary, (tokens,), generator=torch.Generator().manual_seed(2))
    began = time.perf_counter()
    decoder.read(prompt)
    decoder.tokens.tolist()  # waits
    return time.perf_counter() - began


@torch.inference_mode()
def _pretend(decoder: Decoder, tokens: int) -> None:
    """As if so many tokens had been read: positions say so, rows and states are random."""
    for leaf in tree_leaves(decoder.caches):
        if isinstance(leaf, Tensor):
            leaf.normal_() if leaf.is_floating_point() else leaf.fill_(tokens)
    decoder.position.fill_(tokens)


def _timed(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Milliseconds a step."""
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(steps):
            step()
        return 1e3 * (time.perf_counter() - began) / steps
    begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begun.record()
    for _ in range(steps):
        step()
    ended.record()
    ended.synchronize()
    return begun.elapsed_time(ended) / steps
