"""Reading what `glm-scale checkpoint export` has written: weights as safetensors files, in a folder with the rest.

The files may have been made by anybody: names, shapes and types are held to the model that the configuration describes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from glm_data.tokenizers import tokenizer_files
from glm_scale.checkpoint.exported_names import MODEL_TYPE, OWN_FOLDER, SIZES_NAME, own_name
from glm_scale.checkpoint.weight_folder import INDEX_NAME, WEIGHTS_NAME, WeightFolder, read_json
from glm_scale.errors import UserError

__all__ = ["CONFIG_NAME", "WEIGHTS_NAME", "Exported", "exported_at"]

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
        step = self.files.about().get("step", "")
        return int(step) if step.isdecimal() else 0

    @property
    def files(self) -> WeightFolder:
        """Its weights, under the names that they have there."""
        beside = f"{OWN_FOLDER}/{CONFIG_NAME}" if self.for_transformers else CONFIG_NAME
        return WeightFolder(
            self.path,
            f"does not give the model that {beside} beside it describes: {{problem}}; export it again: "
            + _command(self.for_transformers),
        )

    def weights(
        self, shapes: Mapping[str, torch.Size | tuple[int, ...]], device: torch.device | str
    ) -> Iterator[tuple[str, Tensor]]:
        """Each parameter in fp32, after it is known that they are those of `shapes`."""
        files = self.files
        places = {own_name(key) if self.for_transformers else key: (name, key) for key, name in files.places().items()}
        self._must_be_none("lacks", shapes.keys() - places.keys())
        self._must_be_none("holds more than the model has", places.keys() - shapes.keys())
        for name, shape in shapes.items():
            tensor = files.tensor(*places[name])
            if tensor.shape != torch.Size(shape) or not tensor.is_floating_point():
                raise files.error(
                    f"{places[name][1]} is {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}, but the "
                    f"model has numbers {list(shape)} there",
                    places[name][0],
                )
            yield name, tensor.to(device, torch.float32)

    def _must_be_none(self, what: str, names: Collection[str]) -> None:
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            listed = f"{', '.join(sorted(names)[:_SHOWN])}{more}"
            raise self.files.error(f"it {what}: {listed}", self.files.files()[0])


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
    if missing and (path / SIZES_NAME).is_file() and not for_transformers:
        raise UserError(
            f"{path} is a model of Hugging Face, of type {read_json(path / SIZES_NAME).get('model_type')!r}; a run can "
            "begin with one shaped as Llama: glm-scale checkpoint import FOLDER CONFIG"
        )
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


def _command(for_transformers: bool) -> str:
    return f"glm-scale checkpoint export RUN{' --format hf' * for_transformers} --output FOLDER"
