"""A trained model from a run or a checkpoint, for generation and evaluation."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn

from glm_data import Tokenizer
from glm_scale.config import RunConfig, validate
from glm_scale.model import LanguageModel
from glm_scale.training.checkpoint.layout import find_checkpoint
from glm_scale.training.checkpoint.shards import read_tensors

__all__ = ["CONFIG_NAME", "TOKENIZER_NAME", "LoadedModel", "load_model", "read_config"]

CONFIG_NAME = "config.yaml"
TOKENIZER_NAME = "tokenizer.model"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model with fp32 weights in evaluation mode, the tokenizer it was trained with, and where it comes from."""

    model: LanguageModel
    tokenizer: Tokenizer
    config: RunConfig
    step: int


def load_model(path: Path, device: torch.device | str = "cpu") -> LoadedModel:
    """The model in `path`: a run directory, of which the newest checkpoint is taken, or a checkpoint.

    Raises:
        UserError: there is no whole checkpoint.
    """
    checkpoint = find_checkpoint(path, _logger.warning)
    config = read_config(checkpoint.path / CONFIG_NAME)
    # Built without storage, so that no weights are drawn which the checkpoint replaces anyway.
    with torch.device("meta"):
        model = LanguageModel(config.model)
    weights = {name: nn.Parameter(tensors["weight"].to(device)) for name, tensors in read_tensors(checkpoint)}
    # Tied weights are saved under their first name; every other name has to get the very same parameter.
    first_names = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {name: first_names[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    model.load_state_dict({name: weights[first] for name, first in names.items()}, assign=True)
    tokenizer = Tokenizer.load(checkpoint.path / TOKENIZER_NAME)
    return LoadedModel(model.eval(), tokenizer, config, checkpoint.step)


def read_config(path: Path) -> RunConfig:
    """The resolved configuration that a run or a checkpoint carries."""
    return validate(RunConfig, yaml.safe_load(path.read_text()), str(path))
