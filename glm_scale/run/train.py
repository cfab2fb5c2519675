"""From a configuration to a trained run, in every process of it; and how it ended, said truthfully."""

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

from glm_scale.checkpoint import Checkpoint
from glm_scale.config import RunConfig, check_layout, layout_of
from glm_scale.processes import Watchdog
from glm_scale.run.branching import branch_point
from glm_scale.run.fresh_start import start_anew
from glm_scale.run.preflight import is_complete, tell_changes
from glm_scale.run.process_group import joined, logging_to
from glm_scale.run.rendezvous import StoppedWaiting
from glm_scale.run.session import Session, checkpoint_store
from glm_scale.run_directory import FinalStatus, RunDirectory
from glm_scale.training import distributed
from glm_scale.training.clock import Clock
from glm_scale.training.determinism import deterministic
from glm_scale.training.oversight import Oversight
from glm_scale.training.progress import open_progress
from glm_scale.training.ranks import Ranks
from glm_scale.training.signals import StopRequest

__all__ = ["Outcome", "train"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: what stopped it if anything did, and the exit code that says so."""

    status: FinalStatus
    stopped_by: str = ""
    exit_code: int = 0


def train(
    config: RunConfig,
    *,
    fresh: bool = False,
    profile: bool = False,
    earlier: list[int] | None = None,
    started: float | None = None,
) -> Outcome:
    """Train the run that `config` describes, from its newest checkpoint if there is one.

    Every process of a run calls this, with the variables of a launcher (RANK, WORLD_SIZE, …) set if they are several.
    `fresh`: it is a new run; one that is there is moved aside. `profile`: a few of its steps are looked at closely.
    `earlier`: see StopRequest. `started`: see Clock.

    Raises:
        UserError: it cannot be started, or stopped because it diverged (it is marked as failed then).
    """
    clock = Clock(started)
    earlier = [] if earlier is None else earlier
    layout = layout_of(config)
    check_layout(config, layout, config.name)
    device = distributed.resolve_device(config.training.device)
    run = RunDirectory(config.run_root / config.name)
    if fresh:
        start_anew(run, config)
    run.create()
    if layout.processes == 1:
        return _train(config, run, Ranks(), device, _nobody_waits, earlier, clock, profile)
    try:
        with Watchdog(config.parallel.hang_seconds, run.ranks) as watchdog, contextlib.ExitStack() as stack:
            with clock.phase("joining"):
                ranks = stack.enter_context(joined(config, layout, device, run, earlier, watchdog.step))
            return _train(config, run, ranks, device, watchdog.step, earlier, clock, profile)
    except StoppedWaiting as stopped:
        return Outcome("stopped", stopped.reason, stopped.exit_code)


def _train(
    config: RunConfig,
    run: RunDirectory,
    ranks: Ranks,
    device: torch.device,
    heartbeat: Callable[[int | str], None],
    earlier: list[int],
    clock: Clock,
    profile: bool,
) -> Outcome:
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(open_progress(config.name, shown=ranks.first))
        minutes = config.training.time_limit_minutes
        stop = stack.enter_context(StopRequest(ranks.largest, minutes, earlier=earlier))

        def open_run() -> tuple[Checkpoint | None, bool]:
            stack.enter_context(run.lock())
            stack.enter_context(logging_to(run.log))
            checkpoint = checkpoint_store(config, run, progress).newest(config.checkpoint.verify)
            start = checkpoint or (branch_point(config, progress.say) if config.branch else None)
            if not run.exists() and checkpoint is None:
                return start, False
            tell_changes(run, config, checkpoint, progress)
            return start, is_complete(run, config, checkpoint)

        with clock.phase("opening"):
            checkpoint, complete = ranks.from_first(open_run)
        if complete:
            progress.say(f"{config.name} is finished already ({run.path}); raise training.tokens to go on")
            return Outcome("finished")
        stack.enter_context(deterministic(config.training.deterministic or device.type == "cpu"))
        # DeepSpeed has Python look through all objects five times: 1 s beside a compiler.
        gc.freeze()
        stack.callback(gc.unfreeze)
        oversight = Oversight(progress, stop, heartbeat, clock)
        status = Session(config, run, ranks, device, oversight, checkpoint).run_to_end(profile)
        if status != "finished":
            return Outcome(status, stop.reason, stop.exit_code)
        progress.say(f"{config.name} is finished ({run.path})")
        return Outcome(status)


def _nobody_waits(what: int | str) -> None:
    """A process alone makes no other one wait."""
