"""Models that were never trained, exported for transformers and loaded by it."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from glm_data import Tokenizer, load_tokenizer
from glm_scale.checkpoint.state import Counters
from glm_scale.config import RunConfig, resolved_yaml
from glm_scale.inference.hugging_face.export import SHARD_BYTES, export_hugging_face
from glm_scale.model import LanguageModel
from tests.tiny_run import tiny_config

# transformers copies the code of models there, and must not look for them elsewhere.
_HOME = tempfile.TemporaryDirectory(prefix="hf-home-")
os.environ["HF_HOME"] = _HOME.name
os.environ["HF_HUB_OFFLINE"] = "1"

STEP = 7


@dataclass(frozen=True)
class Export:
    """A folder, and what is in it."""

    folder: Path
    model: LanguageModel
    tokenizer: Tokenizer
    config: RunConfig

    def load(self, **options: Any) -> Any:
        """The folder's model, by transformers."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.folder, trust_remote_code=True, **options).eval()

    def batch(self, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Sequences of tokens of these lengths, padded in front, and their mask."""
        longest = max(lengths)
        tokens, mask = torch.zeros(2, len(lengths), longest, dtype=torch.int64)
        for row, length in enumerate(lengths):
            tokens[row, longest - length :] = torch.randint(3, self.tokenizer.size, (length,))
            mask[row, longest - length :] = 1
        return tokens, mask


def export(
    data: Path,
    folder: Path,
    model: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
) -> Export:
    """Export a model of these values of `model`, of which every parameter has been drawn."""
    tree = tiny_config(data, folder)
    tree["model"] |= model
    config = RunConfig.model_validate(tree)
    made_from, output = folder / "made-from", folder / "exported"
    made_from.mkdir(parents=True)
    (made_from / "config.yaml").write_text(resolved_yaml(config))
    tokenizer = load_tokenizer(data)
    for name, content in tokenizer.files.items():
        (made_from / name).write_bytes(content)
    drawn = LanguageModel(config.model, seed=5).eval()
    with torch.no_grad():
        for parameter in drawn.parameters():
            if parameter.dim() < 2 or not parameter.any():
                parameter.add_(0.1 * torch.randn_like(parameter))
    state = SimpleNamespace(counters=Counters(step=STEP, tokens=12_345), validation_loss=3.5)
    checkpoint = SimpleNamespace(path=made_from, step=STEP, state=state)
    tensors = ((name, {"weight": p.detach()}) for name, p in drawn.named_parameters())
    export_hugging_face(checkpoint, tensors, output, dtype, lambda size: None, shard_bytes)  # type: ignore[arg-type]
    return Export(output, drawn, tokenizer, config)
