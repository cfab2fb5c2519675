"""Torch's compiler, which takes as long to import as torch itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from threading import Thread

__all__ = ["importing_compiler"]


@contextlib.contextmanager
def importing_compiler() -> Iterator[None]:
    """Import the compiler while other threads do what needs no Python, such as drawing weights. It is there in the
    end."""
    thread = Thread(target=_import, name="compiler", daemon=True)
    thread.start()
    yield
    thread.join()


def _import() -> None:
    import torch._dynamo
    import torch._inductor.compile_fx  # noqa: F401
