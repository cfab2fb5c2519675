"""Initial weights.

Matrices are normal with standard deviation √(2 / (5 · width)), the small init of Nguyen & Salazar 2019
(arXiv 1910.05895), which is GPT-2's 0.02 at a width of 1,000; projections that write into the residual stream are
divided by √(2 · layers), as GPT-2 (Radford et al. 2019) and Megatron-LM do, so that the stream's variance does not
grow with depth. Vectors (norms, biases, decays, the short convolution) keep the constants of their own modules. With
the parametrization `mup` width and layers are those of the base, and `model.parametrization` scales what they give.

Every matrix draws from a generator of its own, seeded by (seed, name). Its weights then depend on nothing else in
the model: two models that differ in one mixer agree wherever their parameters do, and a rank that holds a part of a
matrix can draw the whole and keep its part.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from glm_scale.layers.embedding import is_token_embedding
from glm_scale.layers.projection import is_projection
from glm_scale.model.config import ModelConfig
from glm_scale.model.parametrization import Scaling
from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor.splitting import own_part, whole_shape


def parameter_generator(seed: int, name: str) -> torch.Generator:
    """The generator, on the CPU, that draws the parameter `name`."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Undrawn(TorchFunctionMode):
    """While active, modules do not draw weights as torch draws those of projections and embeddings, since `initialize`
    draws these again. `draw_others` makes up for what was none of them."""

    def __init__(self) -> None:
        super().__init__()
        self._left_out: list[tuple[torch.Tensor, Callable[[], Any]]] = []

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        call = partial(function, *arguments, **(keywords or {}))
        if function not in (nn.init.kaiming_uniform_, nn.init.normal_):
            return call()
        weight: torch.Tensor = keywords["tensor"] if keywords and "tensor" in keywords else arguments[0]
        self._left_out.append((weight, call))
        return weight

    def draw_others(self, model: nn.Module) -> None:
        """Draw the weights of `model` that `initialize` will not, as a mixer of one's own may have."""
        drawn_later = {id(m.weight) for m in model.modules() if is_projection(m) or is_token_embedding(m)}
        for weight, draw in self._left_out:
            if id(weight) not in drawn_later:
                draw()
        self._left_out.clear()


@torch.no_grad()
def initialize(
    model: nn.Module,
    config: ModelConfig,
    scaled: Mapping[str, Scaling],
    *,
    seed: int,
    tensor: TensorAxis | None = None,
) -> None:
    """Draw the weights of every projection and embedding of a language model, the same on every device and dtype.

    scaled: by name what differs from the base model.

    Over tensor ranks each keeps its part of what one device would draw.

    Weights on the meta device, which have no storage, are left alone: a checkpoint will bring them.
    """
    std = math.sqrt(2 / (5 * (config.base_width or config.width)))
    shallow = math.sqrt(2 * (config.base_layers or config.layers))
    for name, parameter in model.named_parameters():
        if name in scaled and parameter.ndim < 2 and not parameter.is_meta:
            parameter.mul_(scaled[name].std)
    draws: list[tuple[nn.Parameter, float, str]] = []
    drawn_already: set[torch.Tensor] = set()  # tied weights have two names; the first one draws
    for name, module in model.named_modules():
        if not (is_projection(module) or is_token_embedding(module)) or module.weight in drawn_already:
            continue
        weight = cast(nn.Parameter, module.weight)
        drawn_already.add(weight)
        if weight.is_meta:
            continue
        scale = std / shallow if is_projection(module, residual=True) else std
        draws.append((weight, scale * scaled.get(f"{name}.weight", Scaling()).std, f"{name}.weight"))

    @torch.no_grad()
    def draw(weight: nn.Parameter, scale: float, name: str) -> None:
        drawn = torch.empty(whole_shape(tuple(weight.shape), weight, tensor), dtype=torch.float32)
        drawn.normal_(0, scale, generator=parameter_generator(seed, name))
        weight.copy_(own_part(drawn, weight, tensor))

    # Numbers of one matrix are drawn one after the other: 24 s for 1.4 billion of them.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for done in [threads.submit(draw, *each) for each in draws]:
            done.result()
