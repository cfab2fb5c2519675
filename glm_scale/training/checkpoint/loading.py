"""A trained model from a run or a checkpoint, for generation and evaluation."""

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn

from glm_data import Tokenizer
from glm_scale.config import RunConfig, validate
from glm_scale.errors import UserError
from glm_scale.model import LanguageModel
from glm_scale.training.checkpoint.store import MANIFEST, Checkpoint, CheckpointStore

__all__ = ["CONFIG_NAME", "TOKENIZER_NAME", "LoadedModel", "load_model", "read_config"]

CONFIG_NAME = "config.yaml"
TOKENIZER_NAME = "tokenizer.model"


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
    checkpoint = find_checkpoint(path)
    config = read_config(checkpoint.path / CONFIG_NAME)
    # Built without storage, so that no weights are drawn which the checkpoint replaces anyway.
    with torch.device("meta"):
        model = LanguageModel(config.model)
    weights = {name: nn.Parameter(tensors["weight"].to(device)) for name, tensors in checkpoint.tensors()}
    # Tied weights are saved under their first name; every other name has to get the very same parameter.
    first_names = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {name: first_names[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    model.load_state_dict({name: weights[first] for name, first in names.items()}, assign=True)
    tokenizer = Tokenizer.load(checkpoint.path / TOKENIZER_NAME)
    return LoadedModel(model.eval(), tokenizer, config, checkpoint.step)


def find_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`, or the newest one of the run there."""
    if (path / MANIFEST).is_file():
        return Checkpoint.at(path)
    folder = path / "checkpoints"
    newest = CheckpointStore(folder, keep=1).newest() if folder.is_dir() else None
    if newest is None:
        reason = "has no whole checkpoint yet" if folder.is_dir() else "is neither a run directory nor a checkpoint"
        raise UserError(f"{path} {reason}; give a run directory (runs/NAME) or a folder runs/NAME/checkpoints/step-…")
    return newest


def read_config(path: Path) -> RunConfig:
    """The resolved configuration that a run or a checkpoint carries."""
    return validate(RunConfig, yaml.safe_load(path.read_text()), str(path))
