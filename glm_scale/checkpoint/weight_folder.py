"""The safetensors files of a folder, one or several with their index, as Hugging Face's libraries lay them out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from glm_scale.errors import UserError

__all__ = ["INDEX_NAME", "WEIGHTS_NAME", "WeightFolder", "read_json"]

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
"""Which file has which parameter, if there are several."""


@dataclass(frozen=True)
class WeightFolder:
    """Tensors by name. Every error is a UserError that begins with the file; `instead` is the way out."""

    path: Path
    instead: str

    def files(self) -> list[str]:
        """The files of weights."""
        if not (self.path / INDEX_NAME).is_file() or (self.path / WEIGHTS_NAME).is_file():
            return [WEIGHTS_NAME]
        places = read_json(self.path / INDEX_NAME).get("weight_map")
        names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise self.error("it names no files of this folder", INDEX_NAME)
        return names

    def places(self) -> dict[str, str]:
        """The file of every tensor."""
        found: dict[str, str] = {}
        for name in self.files():
            with self.reading(name) as file:
                found |= dict.fromkeys(file.keys(), name)
        return found

    def about(self) -> dict[str, str]:
        """What the first file says of itself."""
        with self.reading(self.files()[0]) as file:
            return file.metadata() or {}

    def tensor(self, file_name: str, key: str) -> Tensor:
        """One tensor as it is stored."""
        with self.reading(file_name) as file:
            return file.get_tensor(key)

    @contextmanager
    def reading(self, name: str) -> Iterator[safe_open]:
        """One of the files."""
        try:
            with safe_open(self.path / name, "pt") as file:
                yield file
        except SafetensorError as error:
            raise self.error(f"it is damaged or no safetensors file ({error})", name) from error
        except OSError as error:
            raise self.error(f"it cannot be read: {error.strerror or error}", name) from error

    def error(self, problem: str, name: str) -> UserError:
        """That a file has a problem."""
        return UserError(f"{self.path / name} {self.instead.format(problem=problem)}")


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
