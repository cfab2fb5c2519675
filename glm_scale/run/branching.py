"""Where a run begins that is a branch of another one."""

from __future__ import annotations

from collections.abc import Callable

from glm_scale.checkpoint import Checkpoint
from glm_scale.checkpoint.layout import places
from glm_scale.config import RunConfig, validate
from glm_scale.config.changes import changes, is_free
from glm_scale.errors import UserError
from glm_scale.run.preflight import open_sequences
from glm_scale.run.recorded import recorded_config
from glm_scale.run_directory import RunDirectory
from glm_scale.training.schedule import learning_rate

__all__ = ["branch_point"]

_OWN = ("name", "training.tokens", "training.schedule.decay_tokens")
"""Keys by which a branch may differ from its trunk, besides those that touch no number."""


def branch_point(config: RunConfig, tell: Callable[[str], None]) -> Checkpoint:
    """The checkpoint of another run that `config.branch` names; `tell` is told what its configuration says of itself.

    Raises UserError if it is not there, or if a run of this configuration would have been another one by then: with
    other settings, other data, or another learning rate.
    """
    branch = config.branch
    assert branch is not None
    trunk = RunDirectory(config.run_root / branch.run)
    if not trunk.exists():
        raise UserError(f"branch.run = {branch.run}: there is no run {trunk.path}; train it first")
    recorded = recorded_config(trunk)
    for remark in recorded.remarks:
        tell(remark)
    _check_same(recorded.values, config, str(trunk.path))
    open_sequences(config, "train", trunk).close()
    checkpoint = _checkpoint(trunk, branch.step, config)
    _check_rate(validate(RunConfig, recorded.values, str(trunk.config)), config, checkpoint)
    return checkpoint


def _check_same(trunk: dict[str, object], config: RunConfig, where: str) -> None:
    own = config.model_dump(mode="json")
    different = [
        change
        for change in changes(trunk, own)
        if not is_free(change.key) and change.key not in _OWN and not change.key.startswith("branch")
    ]
    if different:
        listing = "\n".join(f"  {change}" for change in different)
        raise UserError(
            f"{config.name} cannot be a branch of {where}, which was trained otherwise:\n{listing}\n"
            f"A branch may differ in {', '.join(_OWN[1:])}."
        )


def _checkpoint(trunk: RunDirectory, step: int, config: RunConfig) -> Checkpoint:
    found = [place for place in places(trunk.checkpoints) if place.step == step]
    if not found:
        there = ", ".join(str(place.step) for place in places(trunk.checkpoints)) or "none"
        raise UserError(
            f"branch.step = {step}: {trunk.path} has no checkpoint of that step (of steps: {there}); have it kept with "
            f"checkpoint.at=[{step}] before that step is trained"
        )
    # If it came to this step again after going back, the later one is what it went on from.
    return found[-1].checkpoint(config.checkpoint.verify)


def _check_rate(trunk: RunConfig, config: RunConfig, checkpoint: Checkpoint) -> None:
    tokens = checkpoint.state.counters.tokens
    if tokens >= config.training.tokens:
        raise UserError(
            f"branch.step = {checkpoint.step} is after {tokens:,} tokens, and training.tokens = "
            f"{config.training.tokens:,} leave nothing to train; branch off earlier"
        )
    theirs, ours = (
        learning_rate(run.training.schedule, run.training.optimizer.learning_rate, tokens, run.training.tokens)
        for run in (trunk, config)
    )
    if theirs != ours:
        raise UserError(
            f"branch.step = {checkpoint.step}: {trunk.name} had a learning rate of {theirs:.3g} there, where a run of "
            f"training.tokens = {config.training.tokens:,} has {ours:.3g}; branch off where both are constant "
            "(training.schedule.kind: wsd, before the last phase of either)"
        )
