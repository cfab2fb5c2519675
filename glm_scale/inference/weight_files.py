"""Weights as safetensors files, one parameter in memory at a time.

The library's own writer wants all tensors at once. The format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from glm_scale.checkpoint.weight_folder import WEIGHTS_NAME
from glm_scale.errors import UserError

__all__ = ["Shapes", "Tensors", "shapes_by_file", "write_weights"]

_CODES = {torch.float32: "F32", torch.bfloat16: "BF16"}
# Headers are padded so that tensors begin at a multiple of this, as readers that map the file like it.
_ALIGNMENT = 8

Tensors = Iterable[tuple[str, Mapping[str, Tensor]]]
"""Each parameter's name with its "weight", in any order."""

Shapes = Mapping[str, tuple[int, ...]]


def shapes_by_file(shapes: Shapes, itemsize: int, most: int) -> dict[str, Shapes]:
    """Which parameters stand in which file, none larger than `most` bytes unless a parameter is: file names and their
    parameters, in the order given, called as `transformers` calls them."""
    parts: list[dict[str, tuple[int, ...]]] = [{}]
    held = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * itemsize
        if parts[-1] and held + size > most:
            parts.append({})
            held = 0
        parts[-1][name] = shape
        held += size
    if len(parts) == 1:
        return {WEIGHTS_NAME: parts[0]}
    return {f"model-{number:05}-of-{len(parts):05}.safetensors": part for number, part in enumerate(parts, 1)}


def write_weights(
    folder: Path,
    files: Mapping[str, Shapes],
    tensors: Tensors,
    dtype: torch.dtype,
    about: Mapping[str, str],
    progress: Callable[[int], None],
) -> None:
    """Write `files` into `folder`; `about` is what each of them says of itself, `progress` is told bytes written.

    Raises:
        UserError: the tensors are not those of the files.
    """
    places: dict[str, tuple[BinaryIO, int, tuple[int, ...]]] = {}
    with contextlib.ExitStack() as stack:
        for file_name, shapes in files.items():
            file = stack.enter_context((folder / file_name).open("wb"))
            begins = _write_header(file, shapes, dtype, about)
            places |= {name: (file, begins[name], shape) for name, shape in shapes.items()}
        for name, kinds in tensors:
            weight = kinds["weight"]
            if name not in places or tuple(weight.shape) != places[name][2]:
                raise UserError(f"{name} {list(weight.shape)} is no parameter of the model that config.yaml describes")
            into, begin, _ = places.pop(name)
            into.seek(begin)
            content = weight.to(dtype).contiguous().flatten().view(torch.uint8).numpy()
            into.write(content.data)
            progress(content.nbytes)
    if places:
        raise UserError(f"the checkpoint lacks {', '.join(list(places)[:3])} of the model that config.yaml describes")


def _write_header(file: BinaryIO, shapes: Shapes, dtype: torch.dtype, about: Mapping[str, str]) -> dict[str, int]:
    """Where in the file each tensor begins."""
    header: dict[str, object] = {"__metadata__": about}
    begins, end = {}, 0
    for name, shape in shapes.items():
        begins[name], end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [begins[name], end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    start = file.tell()
    return {name: start + begin for name, begin in begins.items()}
