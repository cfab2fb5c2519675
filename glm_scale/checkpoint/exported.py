"""Reading what `glm-scale checkpoint export` has written: weights as safetensors files, in a folder with the rest.

The files may have been made by anybody: names, shapes and types are held to the model that the configuration describes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glm_data.tokenizers import tokenizer_files
from glm_scale.checkpoint.exported_names import INDEX_NAME, MODEL_TYPE, OWN_FOLDER, SIZES_NAME, own_name
from glm_scale.errors import UserError

__all__ = ["CONFIG_NAME", "WEIGHTS_NAME", "Exported", "exported_at"]

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.yaml"

_SHOWN = 3
"""Names of parameters that an error lists."""


@dataclass(frozen=True)
class Exported:
    """A folder that has weights, a configuration and a tokenizer. Every error is a UserError that names the file and
    the way out.

    `for_transformers`: whether it was exported for Hugging Face's transformers.
    """

    path: Path
    for_transformers: bool = False

    @property
    def described(self) -> Path:
        """The folder that has the configuration and the tokenizer."""
        return self.path / OWN_FOLDER if self.for_transformers else self.path

    @property
    def step(self) -> int:
        """Of the checkpoint it was made from; 0 if the files do not say."""
        with self._reading(self._files()[0]) as file:
            step = (file.metadata() or {}).get("step", "")
        return int(step) if step.isdecimal() else 0

    def weights(self, shapes: Mapping[str, torch.Size], device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
        """Each parameter in fp32, after it is known that they are those of `shapes`."""
        places: dict[str, tuple[str, str]] = {}
        for file_name in self._files():
            with self._reading(file_name) as file:
                keys = list(file.keys())
            places |= {own_name(key) if self.for_transformers else key: (file_name, key) for key in keys}
        self._must_be_none("lacks", shapes.keys() - places.keys())
        self._must_be_none("holds more than the model has", places.keys() - shapes.keys())
        for name, shape in shapes.items():
            file_name, key = places[name]
            with self._reading(file_name) as file:
                tensor = file.get_tensor(key)
            if tensor.shape != shape or not tensor.is_floating_point():
                raise self._error(
                    f"{key} is {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}, but the model "
                    f"has numbers {list(shape)} there",
                    file_name,
                )
            yield name, tensor.to(device, torch.float32)

    def _files(self) -> list[str]:
        if not self.for_transformers or (self.path / WEIGHTS_NAME).is_file():
            return [WEIGHTS_NAME]
        places = read_json(self.path / INDEX_NAME).get("weight_map")
        names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise self._error("it names no files of this folder", INDEX_NAME)
        return names

    def _must_be_none(self, what: str, names: Collection[str]) -> None:
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise self._error(f"it {what}: {', '.join(sorted(names)[:_SHOWN])}{more}", self._files()[0])

    @contextmanager
    def _reading(self, name: str) -> Iterator[safe_open]:
        try:
            with safe_open(self.path / name, "pt") as file:
                yield file
        except SafetensorError as error:
            raise self._error(f"it is damaged or no safetensors file ({error})", name) from error
        except OSError as error:
            raise self._error(f"it cannot be read: {error.strerror or error}", name) from error

    def _error(self, problem: str, name: str) -> UserError:
        beside = f"{OWN_FOLDER}/{CONFIG_NAME}" if self.for_transformers else CONFIG_NAME
        return UserError(
            f"{self.path / name} does not give the model that {beside} beside it describes: {problem}; "
            f"export it again: {_command(self.for_transformers)}"
        )


def exported_at(path: Path) -> Exported | None:
    """What was exported to the folder `path` (or to that of its weights, if `path` is those); None if nothing was.

    Raises UserError if files are missing.
    """
    if path.suffix == Path(WEIGHTS_NAME).suffix and path.is_file():
        path = path.parent
    for_transformers = is_for_transformers(path)
    described = path / OWN_FOLDER if for_transformers else path
    # A run directory has a configuration too, and no tokenizer.
    tokenizer = tokenizer_files(described)
    weights = (path / WEIGHTS_NAME).exists() or (for_transformers and (path / INDEX_NAME).exists())
    if not (weights or tokenizer or for_transformers):
        return None
    missing = [] if weights else [WEIGHTS_NAME]
    if not (described / CONFIG_NAME).is_file():
        missing.append(str((described / CONFIG_NAME).relative_to(path)))
    if not tokenizer:
        missing.append(f"a tokenizer in {OWN_FOLDER}" if for_transformers else "a tokenizer")
    if missing:
        raise UserError(
            f"{path} looks like an exported model but lacks {' and '.join(missing)}; export it again: "
            + _command(for_transformers)
        )
    return Exported(path, for_transformers)


def is_for_transformers(path: Path) -> bool:
    """Whether the folder says that it is one of our models for Hugging Face's transformers."""
    sizes = path / SIZES_NAME
    return sizes.is_file() and read_json(sizes).get("model_type") == MODEL_TYPE


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises UserError if there is none."""
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} is damaged: a {type(tree).__name__} where there should be an object")
    return tree


def _command(for_transformers: bool) -> str:
    return f"glm-scale checkpoint export RUN{' --format hf' * for_transformers} --output FOLDER"
