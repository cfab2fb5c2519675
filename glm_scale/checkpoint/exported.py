"""Reading what `glm-scale checkpoint export` has written: weights as one safetensors file, in a folder with the rest.

The file may have been made by anybody: names, shapes and types are held to the model that the configuration describes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glm_data.tokenizers import tokenizer_files
from glm_scale.errors import UserError

__all__ = ["CONFIG_NAME", "WEIGHTS_NAME", "Exported", "exported_at"]

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.yaml"

_SHOWN = 3
"""Names of parameters that an error lists."""


@dataclass(frozen=True)
class Exported:
    """A folder that has all three files. Every error is a UserError that names the file and the way out."""

    path: Path

    @property
    def step(self) -> int:
        """Of the checkpoint it was made from; 0 if the file does not say."""
        with self._reading() as file:
            step = (file.metadata() or {}).get("step", "")
        return int(step) if step.isdecimal() else 0

    def weights(self, shapes: Mapping[str, torch.Size], device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
        """Each parameter in fp32, after it is known that they are those of `shapes`."""
        with self._reading() as file:
            names = set(file.keys())
            self._must_be_none("lacks", shapes.keys() - names)
            self._must_be_none("holds more than the model has", names - shapes.keys())
            for name, shape in shapes.items():
                tensor = file.get_tensor(name)
                if tensor.shape != shape or not tensor.is_floating_point():
                    raise self._error(
                        f"{name} is {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}, but the model "
                        f"has numbers {list(shape)} there"
                    )
                yield name, tensor.to(device, torch.float32)

    def _must_be_none(self, what: str, names: Collection[str]) -> None:
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise self._error(f"it {what}: {', '.join(sorted(names)[:_SHOWN])}{more}")

    @contextmanager
    def _reading(self) -> Iterator[safe_open]:
        try:
            with safe_open(self.path / WEIGHTS_NAME, "pt") as file:
                yield file
        except SafetensorError as error:
            raise self._error(f"it is damaged or no safetensors file ({error})") from error
        except OSError as error:
            raise self._error(f"it cannot be read: {error.strerror or error}") from error

    def _error(self, problem: str) -> UserError:
        return UserError(
            f"{self.path / WEIGHTS_NAME} does not give the model that {CONFIG_NAME} beside it describes: {problem}; "
            "export it again: glm-scale checkpoint export RUN --output FOLDER"
        )


def exported_at(path: Path) -> Exported | None:
    """What was exported to the folder `path` (or to that of its weights, if `path` is those); None if nothing was.

    Raises UserError if files are missing.
    """
    if path.name == WEIGHTS_NAME and path.is_file():
        path = path.parent
    # A run directory has a configuration too, and no tokenizer.
    tokenizer = tokenizer_files(path)
    if not ((path / WEIGHTS_NAME).exists() or tokenizer):
        return None
    missing = [name for name in (WEIGHTS_NAME, CONFIG_NAME) if not (path / name).is_file()]
    if missing := missing + ([] if tokenizer else ["a tokenizer"]):
        raise UserError(
            f"{path} looks like an exported model but lacks {' and '.join(missing)}; export it again: "
            "glm-scale checkpoint export RUN --output FOLDER"
        )
    return Exported(path)
