"""Where compiled blocks end and begin anew: at the exchanges between sequence ranks.

A compiler cannot look into such an exchange, which may be another one on every rank, and what it starts and awaits must
stay in the order in which it is written. So a block over sequence ranks compiles to several graphs, the same ones for
all layers of a kind. Exchanges of tensor ranks are parts of the graphs, see `parallel.tensor.exchange`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def between_graphs(exchange: _Function) -> _Function:
    """The same function, which runs as it is written also when compiled code calls it."""
    uncompiled: list[Callable[..., Any]] = []  # a variable would stay as it is: the compiler looks into `call`

    @functools.wraps(exchange)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if "torch._dynamo" not in sys.modules:  # which takes more than a second to import, and nobody compiles
            return exchange(*arguments, **keywords)
        if not uncompiled:
            uncompiled.append(torch.compiler.disable(exchange))
        return uncompiled[0](*arguments, **keywords)

    # A compiler counts by code how often it has looked at something new, and gives up after a few times.
    call.__code__ = call.__code__.replace(co_name=exchange.__name__)  # type: ignore[attr-defined]
    call._torchdynamo_disable = True  # type: ignore[attr-defined]  # as `torch.compiler.disable` marks what it gives
    return call  # type: ignore[return-value]
