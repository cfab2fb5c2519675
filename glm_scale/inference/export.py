"""The weights of a checkpoint as one safetensors file, with the configuration and the tokenizer beside it.

model.safetensors     every parameter by name; tied weights once, under their first name
config.yaml           the run's configuration           tokenizer.model     or tokenizer.json, tokenizer_config.json
"""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from glm_data.tokenizers import tokenizer_files
from glm_scale.checkpoint.exported import WEIGHTS_NAME
from glm_scale.checkpoint.reading import Checkpoint
from glm_scale.errors import UserError
from glm_scale.inference.loading import CONFIG_NAME, read_config
from glm_scale.model import LanguageModel

__all__ = ["WEIGHTS_NAME", "export_weights"]

_CODES = {torch.float32: "F32", torch.bfloat16: "BF16"}
# Headers are padded so that tensors begin at a multiple of this, as readers that map the file like it.
_ALIGNMENT = 8

Tensors = Iterable[tuple[str, Mapping[str, Tensor]]]


def export_weights(
    checkpoint: Checkpoint, tensors: Tensors, output: Path, dtype: torch.dtype, progress: Callable[[int], None]
) -> None:
    """Write the folder `output`, which appears when it is whole.

    `tensors` yields each parameter's name with its "weight" and is consumed one by one, in any order; `progress` is
    told the bytes written for each.

    Raises:
        UserError: there is something at `output`, it cannot be written, or the tensors are not those of the model.
    """
    if output.exists():
        raise UserError(f"{output} is there already; give another --output, or remove it first")
    shapes = _shapes(checkpoint)
    staging = output.absolute().with_name(f".{output.name}.writing")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for name in (CONFIG_NAME, *tokenizer_files(checkpoint.path)):
            shutil.copyfile(checkpoint.path / name, staging / name)
        about = {"format": "pt", "step": str(checkpoint.step)}
        _write_safetensors(staging / WEIGHTS_NAME, tensors, shapes, dtype, about, progress)
        staging.rename(output)
    except OSError as error:
        raise UserError(f"cannot export to {output}: {error.strerror or error}; give another --output") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    config = read_config(checkpoint.path / CONFIG_NAME)
    with torch.device("meta"):
        model = LanguageModel(config.model)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _write_safetensors(
    path: Path,
    tensors: Tensors,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    about: Mapping[str, str],
    progress: Callable[[int], None],
) -> None:
    """The library's own writer wants all tensors at once. The format: https://github.com/huggingface/safetensors"""
    header: dict[str, object] = {"__metadata__": about}
    places, end = {}, 0
    for name, shape in shapes.items():
        places[name], end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [places[name], end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        start = file.tell()
        for name, kinds in tensors:
            weight = kinds["weight"]
            if name not in places or tuple(weight.shape) != shapes[name]:
                raise UserError(
                    f"{name} {list(weight.shape)} is no parameter of the model that {CONFIG_NAME} describes"
                )
            file.seek(start + places.pop(name))
            content = weight.to(dtype).contiguous().flatten().view(torch.uint8).numpy()
            file.write(content.data)
            progress(content.nbytes)
    if places:
        raise UserError(f"the checkpoint lacks {', '.join(list(places)[:3])} of the model that {CONFIG_NAME} describes")
