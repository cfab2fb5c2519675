"""A trained model from a run, a checkpoint or what was exported from one, for generation and evaluation."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from glm_data import Tokenizer, load_tokenizer
from glm_scale.checkpoint.exported import CONFIG_NAME, Exported, exported_at
from glm_scale.checkpoint.layout import find_checkpoint, is_checkpoint
from glm_scale.checkpoint.reading import Checkpoint
from glm_scale.checkpoint.shards import read_tensors
from glm_scale.config import RunConfig
from glm_scale.config.other_versions import understood
from glm_scale.errors import UserError
from glm_scale.model import LanguageModel

__all__ = ["CONFIG_NAME", "LoadedModel", "load_model", "read_config"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model with fp32 weights in evaluation mode, the tokenizer it was trained with, and where it comes from."""

    model: LanguageModel
    tokenizer: Tokenizer
    config: RunConfig
    step: int


def load_model(path: Path, device: torch.device | str = "cpu") -> LoadedModel:
    """The model in `path`: a run directory, of which the newest checkpoint is taken, a checkpoint, or an exported
    folder.

    Raises:
        UserError: there is no whole one.
        DataError: its tokenizer cannot be read.
    """
    source = _source(path)
    described = source.described if isinstance(source, Exported) else source.path
    config = read_config(described / CONFIG_NAME)
    # Built without storage, so that no weights are drawn which those that are read replace anyway.
    with torch.device("meta"):
        model = LanguageModel(config.model)
    tokenizer = load_tokenizer(described)
    # Tied weights are saved under their first name; every other name has to get the very same parameter.
    first_names = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {name: first_names[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    weights = {name: nn.Parameter(tensor) for name, tensor in _weights(source, model, device)}
    model.load_state_dict({name: weights[first] for name, first in names.items()}, assign=True)
    return LoadedModel(model.eval(), tokenizer, config, source.step)


def read_config(path: Path) -> RunConfig:
    """The resolved configuration that a run or a checkpoint carries. Raises UserError if there is none in the file, or
    one that this version of the package does not understand."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no configuration")
    config, remarks = understood(values, path, "Use that version.")
    for remark in remarks:
        _logger.warning(remark)
    return config


def _source(path: Path) -> Checkpoint | Exported:
    exported = None if is_checkpoint(path) else exported_at(path)
    return exported or find_checkpoint(path, _logger.warning)


def _weights(
    source: Checkpoint | Exported, model: LanguageModel, device: torch.device | str
) -> Iterable[tuple[str, Tensor]]:
    if isinstance(source, Exported):
        return source.weights({name: parameter.shape for name, parameter in model.named_parameters()}, device)
    return ((name, tensors["weight"].to(device)) for name, tensors in read_tensors(source))
