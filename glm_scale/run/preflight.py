"""What has to be known of a run and its data before it starts or goes on."""

from glm_data import PackedSequences
from glm_data.sequences import SplitName
from glm_scale.checkpoint import Checkpoint
from glm_scale.config import RunConfig
from glm_scale.config.changes import check_resumable, names_other_data
from glm_scale.errors import UserError
from glm_scale.run.recorded import recorded_config
from glm_scale.run_directory import RunDirectory
from glm_scale.training.progress import Progress

__all__ = ["check_goes_on", "is_complete", "open_sequences", "tell_changes"]


def open_sequences(config: RunConfig, split: SplitName, run: RunDirectory) -> PackedSequences:
    """The sequences of a split. Raises UserError where they are not those that the run was started on."""
    recorded = run.read_summary() if run.exists() else None
    sequences = PackedSequences(config.data, split, tokenizer=recorded.tokenizer_fingerprint if recorded else None)
    if sequences.vocabulary_size > config.model.vocab_size:
        raise UserError(
            f"model.vocab_size = {config.model.vocab_size} is too small for the {sequences.vocabulary_size} tokens of "
            f"{config.data.sources[0].path}; set model.vocab_size={sequences.vocabulary_size}"
        )
    if split == "train" and recorded and recorded.data_fingerprint not in (None, sequences.fingerprint):
        raise UserError(
            f"{run.path} was started on other data: what data.sources hold now is not what it held then. "
            "Restore the data, or give this run a new name (name=…)."
        )
    return sequences


def tell_changes(run: RunDirectory, config: RunConfig, checkpoint: Checkpoint | None, progress: Progress) -> None:
    """What is different from when the run was started. Raises UserError if that makes it another run."""
    tokens = checkpoint.state.counters.tokens if checkpoint else 0
    for remark in check_goes_on(run, config, tokens):
        progress.say(remark)


def check_goes_on(run: RunDirectory, config: RunConfig, tokens: int, *, data_are_here: bool = True) -> list[str]:
    """What is different from when a run was started that has consumed so many tokens, each in a sentence.

    data_are_here: that data under another path are the same is looked at, too.
    Raises UserError if anything makes it another run.
    """
    recorded = recorded_config(run)
    after = config.model_copy(update={"ladder": None}).model_dump(mode="json")
    remarks = check_resumable(recorded.values, after, tokens, str(run.path))
    if data_are_here and names_other_data(recorded.values, after):
        if not run.exists() or run.read_summary().data_fingerprint is None:
            raise UserError(
                f"{run.path} does not say which data it was started on, so these cannot be told from others: "
                "go on with data.sources as before, or give this run a new name (name=…)."
            )
        open_sequences(config, "train", run).close()
    return [*recorded.remarks, *(f"changed since the run was started: {remark}" for remark in remarks)]


def is_complete(run: RunDirectory, config: RunConfig, checkpoint: Checkpoint | None) -> bool:
    """Whether the run has spent its budget already."""
    done = checkpoint.state.counters.tokens if checkpoint else 0
    return run.exists() and run.read_summary().status == "finished" and done >= config.training.tokens
