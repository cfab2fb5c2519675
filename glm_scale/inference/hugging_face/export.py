"""A checkpoint as a folder that `transformers` loads without glm-scale.

config.json, generation_config.json     sizes, and where the classes are
model.safetensors                       every parameter; if it were large, several files and their index
tokenizer.json, tokenizer_config.json   the tokens of training
*_glm_scale.py                          the model in torch
README.md                               what it is
glm_scale/                              the run's configuration and its tokenizer, which glm-scale reads again
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from glm_data import Tokenizer, load_tokenizer
from glm_data.tokenizers import tokenizer_files
from glm_scale.checkpoint.exported_names import MODEL_TYPE, OWN_FOLDER, SIZES_NAME, exported_name
from glm_scale.checkpoint.reading import Checkpoint
from glm_scale.checkpoint.weight_folder import INDEX_NAME
from glm_scale.config import RunConfig
from glm_scale.inference.export import folder_in_one_piece, parameter_shapes
from glm_scale.inference.hugging_face.card import model_card
from glm_scale.inference.hugging_face.sizes import exported_config
from glm_scale.inference.hugging_face.tokenizer import exported_tokenizer
from glm_scale.inference.loading import CONFIG_NAME, read_config
from glm_scale.inference.weight_files import Tensors, shapes_by_file, write_weights

__all__ = ["SHARD_BYTES", "export_hugging_face"]

SHARD_BYTES = 5 * 10**9
"""The largest file of weights, as model hubs like it."""

_CODE = "*_glm_scale.py"


def export_hugging_face(
    checkpoint: Checkpoint,
    tensors: Tensors,
    output: Path,
    dtype: torch.dtype,
    progress: Callable[[int], None],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the folder `output`, which appears when it is whole; arguments as in `export_weights`.

    Raises:
        UserError: as `export_weights`, or a mixer is none that the exported model could have.
        DataError: the tokenizer has no form with the same tokens that `transformers` reads.
    """
    with folder_in_one_piece(output) as staging:
        config = read_config(checkpoint.path / CONFIG_NAME)
        tokenizer = load_tokenizer(checkpoint.path)
        _write_json(staging / SIZES_NAME, _config(config, tokenizer, dtype))
        _write_json(staging / "generation_config.json", _generation_config(config, tokenizer))
        for name, content in exported_tokenizer(tokenizer).items():
            (staging / name).write_bytes(content)
        for path in Path(__file__).parent.glob(_CODE):
            shutil.copyfile(path, staging / path.name)
        (staging / "README.md").write_text(model_card(config, checkpoint), encoding="utf-8")
        (staging / OWN_FOLDER).mkdir()
        for name in (CONFIG_NAME, *tokenizer_files(checkpoint.path)):
            shutil.copyfile(checkpoint.path / name, staging / OWN_FOLDER / name)
        _write_weights(staging, checkpoint, config, tensors, dtype, progress, shard_bytes)


def _write_weights(
    staging: Path,
    checkpoint: Checkpoint,
    config: RunConfig,
    tensors: Tensors,
    dtype: torch.dtype,
    progress: Callable[[int], None],
    shard_bytes: int,
) -> None:
    shapes = {exported_name(name): shape for name, shape in parameter_shapes(config.model).items()}
    files = shapes_by_file(shapes, dtype.itemsize, shard_bytes)
    renamed = ((exported_name(name), kinds) for name, kinds in tensors)
    write_weights(staging, files, renamed, dtype, {"format": "pt", "step": str(checkpoint.step)}, progress)
    if len(files) > 1:
        total = sum(math.prod(shape) for shape in shapes.values())
        _write_json(
            staging / INDEX_NAME,
            {
                "metadata": {"total_size": total * dtype.itemsize},
                "weight_map": {name: file for file, part in files.items() for name in part},
            },
        )


def _config(config: RunConfig, tokenizer: Tokenizer, dtype: torch.dtype) -> dict[str, Any]:
    model = "modeling_glm_scale.GlmScale"
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["GlmScaleForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_glm_scale.GlmScaleConfig",
            "AutoModel": f"{model}Model",
            "AutoModelForCausalLM": f"{model}ForCausalLM",
        },
        **exported_config(config.model),
        "max_position_embeddings": config.data.sequence_length,
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eos,
        "dtype": str(dtype).removeprefix("torch."),
        "use_cache": True,
    }


def _generation_config(config: RunConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    told: dict[str, Any] = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.eos}
    # A vocabulary may have been rounded up: what stands for nothing is not drawn.
    if tokenizer.size < config.model.vocab_size:
        told["suppress_tokens"] = list(range(tokenizer.size, config.model.vocab_size))
    return told


def _write_json(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
