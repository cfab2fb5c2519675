"""A run that begins with the weights of another model: a checkpoint of step 0 that `train` goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from glm_scale.checkpoint import CheckpointStore, Counters, Retention
from glm_scale.checkpoint.files import hash_file, write_synced
from glm_scale.checkpoint.pieces import Box, Piece
from glm_scale.checkpoint.points import unwatched
from glm_scale.checkpoint.shards import KINDS, save_pieces
from glm_scale.checkpoint.state import TrainingState
from glm_scale.config import RunConfig, resolved_yaml
from glm_scale.errors import UserError
from glm_scale.inference.hugging_face.importing import initial_model, model_in
from glm_scale.inference.loading import CONFIG_NAME
from glm_scale.model import LanguageModel
from glm_scale.run.preflight import open_sequences
from glm_scale.run_directory import RunDirectory
from glm_scale.training.saver import random_state

__all__ = ["ImportedRun", "import_run"]


@dataclass(frozen=True)
class ImportedRun:
    """Where the run is, how many parameters came from the model, and which were drawn. `shared`: how many heads had a
    key and a value together there, for each one here."""

    path: Path
    taken: int
    drawn: list[str]
    shared: int


def import_run(folder: Path, config: RunConfig) -> ImportedRun:
    """Make the directory of the run that `config` describes, with the weights of the model in `folder`.

    Raises:
        UserError: there is a run already, the model is none that can be imported, or sizes or tokenizer are others.
    """
    found = model_in(folder)
    run = RunDirectory(config.run_root / config.name)
    if run.exists() or any(run.checkpoints.glob("step-*")):
        raise UserError(f"{run.path} is there already; give the run another name (name=…)")
    sequences = open_sequences(config, "train", run)
    try:
        tokenizer = sequences.tokenizer
    finally:
        sequences.close()
    found.check_tokenizer(tokenizer, config.data.sources[0].path)
    model, drawn = initial_model(found, config.model, config.training.seed)
    run.create()
    with run.lock():
        _save(CheckpointStore(run.checkpoints, Retention(1)), config, model, tokenizer.files)
    shared = found.config.heads_together // config.model.heads_together
    return ImportedRun(run.path, sum(1 for _ in model.parameters()) - len(drawn), drawn, shared)


def _save(store: CheckpointStore, config: RunConfig, model: LanguageModel, tokenizer: Mapping[str, bytes]) -> None:
    """As a trainer saves what it has before its first step."""
    staging = store.begin(0)
    pieces = []
    for name, parameter in model.named_parameters():
        shape, flat = tuple(parameter.shape), parameter.detach().flatten()
        kinds = {kind: flat if kind == "weight" else torch.zeros_like(flat) for kind in KINDS}
        pieces.append(Piece(name, shape, Box((0,) * len(shape), shape), 0, kinds))
    files = dict(save_pieces(staging, pieces, None, unwatched))
    for name, content in {CONFIG_NAME: resolved_yaml(config).encode(), **tokenizer}.items():
        write_synced(staging / name, content)
        files[name] = hash_file(staging / name)
    torch.manual_seed(config.training.seed)
    store.commit(staging, 0, TrainingState(Counters(), 0, random_state()), files)
