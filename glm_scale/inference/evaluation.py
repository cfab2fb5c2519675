"""Loss of a trained model on held-out text."""

import shlex
from pathlib import Path

import torch
from torch import Tensor

from glm_data import Batch, PackedSequences, SourceConfig, batches, load_index
from glm_data.sequences import SplitName
from glm_scale.errors import UserError
from glm_scale.inference.loading import LoadedModel
from glm_scale.training.evaluation import Evaluation, evaluate
from glm_scale.training.token_groups import TokenGroups

__all__ = ["BATCH_TOKENS", "evaluate_model"]

# Tokens of one forward pass: enough to keep a device busy, little enough for any.
BATCH_TOKENS = 8192


def evaluate_model(
    loaded: LoadedModel,
    data: Path | None,
    split: SplitName,
    sequence_length: int | None,
    sequences: int | None,
    model: Path | str = "RUN",
) -> Evaluation:
    """Loss of a trained model on so many `sequences` (None: one pass) of a split of the data set in `data`, with its
    breakdown.

    None for `data` and `sequence_length` means those of its training. `model` is where the model comes from, for
    messages.

    Raises:
        DataError: the data set cannot be read.
        UserError: it was built with another tokenizer, or the split is empty.
    """
    config = loaded.config.data
    changes: dict[str, object] = {}
    if data is not None:
        _check_tokenizer(loaded, data, model)
        changes["sources"] = [SourceConfig(path=data)]
    if sequence_length is not None:
        changes["sequence_length"] = sequence_length
    source = PackedSequences(config.model_copy(update=changes), split, tokenizer=loaded.tokenizer.fingerprint)
    available = len(source) if split == "validation" else sum(source.sequences_per_epoch)
    if not available:
        raise UserError(
            f"{data or config.sources[0].path}: there is no validation split to evaluate on. Take --split train, or "
            "build a data set with --validation-fraction above 0"
        )
    count = available if sequences is None else min(sequences, available)
    device = next(loaded.model.parameters()).device

    def token_losses(batch: Batch) -> Tensor:
        there = batch.to(device)
        return loaded.model(
            there.tokens, document_starts=there.document_starts, labels=there.labels, reduction="none"
        )  # fmt: skip

    length = source.config.sequence_length
    token_bytes = torch.from_numpy(loaded.tokenizer.token_bytes)
    return evaluate(
        token_losses,
        batches(source, 0, max(1, BATCH_TOKENS // length), stop=count),
        token_bytes,
        groups=TokenGroups.of(source, count),
    )


def _check_tokenizer(loaded: LoadedModel, data: Path, model: Path | str) -> None:
    """Raises UserError if the data set was built with another tokenizer than the model's."""
    found, wanted = load_index(data).tokenizer_sha256, loaded.tokenizer.fingerprint
    if found == wanted:
        return
    raise UserError(
        f"{data} was built with another tokenizer (SHA-256 {found[:12]}…) than the model was trained with "
        f"({wanted[:12]}…). Build its text again with that one: glm-scale data build --input TEXT --output DIR "
        f"--tokenizer {shlex.quote(str(model))}"
    )
