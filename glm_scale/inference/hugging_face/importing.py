"""Models in folders of Hugging Face: those that were exported from here, and those shaped as Llama."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glm_data import DataError, Tokenizer, load_tokenizer
from glm_data.tokenizers.names import JSON_NAME
from glm_scale.checkpoint.exported_names import MODEL_TYPE, OWN_FOLDER, SIZES_NAME, exported_name
from glm_scale.checkpoint.weight_folder import WeightFolder, read_json
from glm_scale.errors import UserError
from glm_scale.inference.hugging_face import llama
from glm_scale.inference.hugging_face.sizes import own_config
from glm_scale.model import LanguageModel, ModelConfig

__all__ = ["FoundModel", "initial_model", "model_in"]

_SHOWN = 3
_OF_KEY_HEADS = (".mixer.v.weight", ".mixer.stages.0.k.weight", ".mixer.stages.0.k_norm.weight")


@dataclass(frozen=True)
class FoundModel:
    """A model in a folder.

    `config`: its sizes. `stored`: what it calls a parameter of ours, None for one that it has not.
    """

    path: Path
    config: ModelConfig
    stored: Callable[[str], str | None]

    @property
    def files(self) -> WeightFolder:
        """Its weights, under the names that they have there."""
        return WeightFolder(self.path, f"does not give the model that {SIZES_NAME} beside it describes: {{problem}}")

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter that our model of these sizes has, in fp32."""
        with torch.device("meta"):
            names = [name for name, _ in LanguageModel(self.config).named_parameters()]
        places = self.files.places()
        keys = {name: self.stored(name) or "" for name in names}
        if missing := [key for key in keys.values() if key not in places]:
            raise self.files.error(f"it lacks: {', '.join(missing[:_SHOWN])}", self.files.files()[0])
        for name, key in keys.items():
            yield name, self.files.tensor(places[key], key).to(torch.float32)

    def check_tokenizer(self, tokenizer: Tokenizer, data: Path) -> None:
        """Raises UserError if the model has another tokenizer than the data set `data`."""
        own = self.path / OWN_FOLDER
        try:
            theirs = load_tokenizer(own if own.is_dir() else self.path)
        except DataError:  # it has none, or one of another format
            return
        same = theirs.fingerprint == tokenizer.fingerprint or (
            JSON_NAME in theirs.files and theirs.files[JSON_NAME] == tokenizer.files.get(JSON_NAME)
        )
        if not same:
            raise UserError(
                f"{data} was built with another tokenizer than {self.path} has; build its text with that one: "
                f"glm-scale data build --input TEXT --output DIR --tokenizer {self.path}"
            )


def model_in(path: Path) -> FoundModel:
    """The model in a folder. Raises UserError if there is none that our models could be."""
    if not (path / SIZES_NAME).is_file():
        raise UserError(f"{path} has no {SIZES_NAME}; give a folder as transformers saves models")
    tree = read_json(path / SIZES_NAME)
    kind, where = tree.get("model_type"), str(path / SIZES_NAME)
    try:
        if kind == MODEL_TYPE:
            return FoundModel(path, ModelConfig.model_validate(own_config(tree)), exported_name)
        if kind == llama.MODEL_TYPE:
            return FoundModel(path, ModelConfig.model_validate(llama.llama_sizes(tree, where)), llama.llama_name)
    except KeyError as error:
        raise UserError(f"{where} does not say {error.args[0]}") from error
    except ValueError as error:
        raise UserError(f"{where} describes no model of ours: {error}") from error
    raise UserError(
        f"{where}: a model of type {kind!r} cannot be imported; those that can are {MODEL_TYPE} (glm-scale checkpoint "
        f"export --format hf) and {llama.MODEL_TYPE}"
    )


def initial_model(found: FoundModel, config: ModelConfig, seed: int) -> tuple[LanguageModel, list[str]]:
    """A model of `config` with the weights of `found`, and the names of those that it does not have, which are drawn.

    The mixers may be others: what parameters they have under the same name and in the same shape is taken; of keys and
    values that several heads have together there each head gets a copy, if it has one of its own here.
    Raises UserError if anything else differs.
    """
    _check_sizes(found, config)
    model = LanguageModel(config, seed=seed)
    ours, drawn = dict(model.named_parameters()), {name for name, _ in model.named_parameters()}
    with torch.no_grad():
        for name, weight in found.weights():
            if name not in ours:
                continue
            if ours[name].shape != weight.shape and name.endswith(_OF_KEY_HEADS):
                weight = _of_every_head(weight, len(ours[name]), config.head_size)
            if ours[name].shape == weight.shape:
                ours[name].copy_(weight)
                drawn.discard(name)
    if outside := sorted(name for name in drawn if ".mixer." not in name and ".conv." not in name):
        raise UserError(f"{found.path} has no {', '.join(outside[:_SHOWN])} of the shape that model.* asks for")
    return model, [name for name in ours if name in drawn]


def _of_every_head(weight: Tensor, rows: int, head_dim: int) -> Tensor:
    """A weight that lies head by head, with each head so often that it has `rows` rows, if that comes out even."""
    if rows % len(weight) or len(weight) % head_dim:
        return weight
    heads = weight.unflatten(0, (-1, head_dim))
    return heads.repeat_interleave(rows // len(weight), 0).flatten(0, 1)


def _check_sizes(found: FoundModel, config: ModelConfig) -> None:
    theirs, ours = _sizes(found.config), _sizes(config)
    if different := [name for name in ours if ours[name] != theirs[name]]:
        raise UserError(
            f"the model in {found.path} has other sizes than the configuration; set "
            + " ".join(f"model.{name}={theirs[name]}" for name in different)
        )


def _sizes(config: ModelConfig) -> Mapping[str, Any]:
    """What has to be the same, whatever the mixers."""
    return {
        "vocab_size": config.vocab_size,
        "layers": config.layers,
        "width": config.width,
        "heads": config.heads,
        "head_dim": config.head_size,
        "mlp_width": config.mlp_size,
        "tie_embeddings": str(config.tie_embeddings).lower(),
        "rotary_base": config.rotary_base,
        "norm_eps": config.norm_eps,
    }
