"""The weights of a checkpoint as one safetensors file, with the configuration and the tokenizer beside it.

model.safetensors     every parameter by name; tied weights once, under their first name
config.yaml           the run's configuration           tokenizer.model     or tokenizer.json, tokenizer_config.json
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from glm_data.tokenizers import tokenizer_files
from glm_scale.checkpoint.exported import WEIGHTS_NAME, Exported
from glm_scale.checkpoint.reading import Checkpoint
from glm_scale.errors import UserError
from glm_scale.inference.loading import CONFIG_NAME, read_config
from glm_scale.inference.weight_files import Shapes, Tensors, write_weights
from glm_scale.model import LanguageModel, ModelConfig

__all__ = ["WEIGHTS_NAME", "export_again", "export_weights", "folder_in_one_piece", "parameter_shapes"]


def export_weights(
    checkpoint: Checkpoint, tensors: Tensors, output: Path, dtype: torch.dtype, progress: Callable[[int], None]
) -> None:
    """Write the folder `output`, which appears when it is whole.

    `tensors` yields each parameter's name with its "weight" and is consumed one by one, in any order; `progress` is
    told the bytes written for each.

    Raises:
        UserError: there is something at `output`, it cannot be written, or the tensors are not those of the model.
    """
    with folder_in_one_piece(output) as staging:
        shapes = parameter_shapes(read_config(checkpoint.path / CONFIG_NAME).model)
        for name in (CONFIG_NAME, *tokenizer_files(checkpoint.path)):
            shutil.copyfile(checkpoint.path / name, staging / name)
        about = {"format": "pt", "step": str(checkpoint.step)}
        write_weights(staging, {WEIGHTS_NAME: shapes}, tensors, dtype, about, progress)


def export_again(exported: Exported, output: Path, progress: Callable[[int], None]) -> None:
    """Write what was exported for transformers as `export_weights` does, with the weights as they are stored.

    Raises:
        UserError: as there.
    """
    with folder_in_one_piece(output) as staging:
        described = exported.described
        shapes = parameter_shapes(read_config(described / CONFIG_NAME).model)
        for name in (CONFIG_NAME, *tokenizer_files(described)):
            shutil.copyfile(described / name, staging / name)
        key, file = next(iter(exported.files.places().items()))
        dtype = torch.bfloat16 if exported.files.tensor(file, key).dtype == torch.bfloat16 else torch.float32
        tensors = ((name, {"weight": weight}) for name, weight in exported.weights(shapes, "cpu"))
        about = {"format": "pt", "step": str(exported.step)}
        write_weights(staging, {WEIGHTS_NAME: shapes}, tensors, dtype, about, progress)


@contextlib.contextmanager
def folder_in_one_piece(output: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `output` if that ends well and is gone if it does not.

    Raises:
        UserError: there is something at `output`, or it cannot be written.
    """
    if output.exists():
        raise UserError(f"{output} is there already; give another --output, or remove it first")
    staging = output.absolute().with_name(f".{output.name}.writing")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        staging.rename(output)
    except OSError as error:
        raise UserError(f"cannot export to {output}: {error.strerror or error}; give another --output") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def parameter_shapes(config: ModelConfig) -> Shapes:
    """Of every parameter of a model by its name; tied weights once, under their first name."""
    with torch.device("meta"):
        model = LanguageModel(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
