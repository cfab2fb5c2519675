"""What has to be known of a run and its data before it starts or goes on."""

import yaml

from glm_data import PackedRows
from glm_data.rows import SplitName
from glm_scale.config import RunConfig
from glm_scale.errors import UserError
from glm_scale.runs import RunDirectory
from glm_scale.training.checkpoint import Checkpoint
from glm_scale.training.progress import Progress
from glm_scale.training.resume import check_resumable

__all__ = ["is_complete", "open_rows", "tell_changes"]


def open_rows(config: RunConfig, split: SplitName, run: RunDirectory) -> PackedRows:
    """The rows of a split. Raises UserError where they are not those that the run was started on."""
    recorded = run.read_summary() if run.exists() else None
    rows = PackedRows(config.data, split, tokenizer=recorded.tokenizer_fingerprint if recorded else None)
    if rows.vocabulary_size > config.model.vocab_size:
        raise UserError(
            f"model.vocab_size = {config.model.vocab_size} is too small for the {rows.vocabulary_size} tokens of "
            f"{config.data.sources[0].path}; set model.vocab_size={rows.vocabulary_size}"
        )
    if split == "train" and recorded and recorded.data_fingerprint not in (None, rows.fingerprint):
        raise UserError(
            f"{run.path} was started on other data: what data.sources hold now is not what it held then. "
            "Restore the data, or give this run a new name (name=…)."
        )
    return rows


def tell_changes(run: RunDirectory, config: RunConfig, checkpoint: Checkpoint | None, progress: Progress) -> None:
    """What is different from when the run was started. Raises UserError if that makes it another run."""
    before = yaml.safe_load(run.config.read_text())
    tokens = int(checkpoint.state["counters"]["tokens"]) if checkpoint else 0
    after = config.model_copy(update={"ladder": None}).model_dump(mode="json")
    for remark in check_resumable(before, after, tokens, str(run.path)):
        progress.say(f"changed since the run was started: {remark}")


def is_complete(run: RunDirectory, config: RunConfig, checkpoint: Checkpoint | None) -> bool:
    """Whether the run has spent its budget already."""
    done = int(checkpoint.state["counters"]["tokens"]) if checkpoint else 0
    return run.read_summary().status == "finished" and done >= config.training.tokens
