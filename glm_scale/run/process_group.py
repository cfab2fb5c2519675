"""How a process joins the others of its run, and where it and its libraries write."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from glm_scale.config import RunConfig
from glm_scale.parallel.mesh import Layout, Mesh
from glm_scale.processes import collective_timeout, launched
from glm_scale.run.rendezvous import meet
from glm_scale.run_directory import RunDirectory
from glm_scale.training import distributed
from glm_scale.training.progress import Progress, open_progress
from glm_scale.training.ranks import Ranks

__all__ = ["joined", "libraries_logging_to", "logging_to", "tell_about_compiling"]


@contextlib.contextmanager
def joined(
    config: RunConfig,
    layout: Layout,
    device: torch.device,
    run: RunDirectory,
    earlier: list[int],
    heartbeat: Callable[[int | str], None],
) -> Iterator[Ranks]:
    """This process among the others of its run. `earlier`: see `meet`, as for what it raises. `heartbeat` is told what
    it comes to: what others take their time for is no hang of this one.
    """
    ours = not torch.distributed.is_initialized()
    parallel = config.parallel
    place, store = launched(), None
    first = place is None or place.rank == 0
    if first:
        with open_progress(config.name) as progress:
            tell_about_compiling(device, progress)
    if ours and place is not None and place.size > 1:
        with libraries_logging_to(run.log, first):
            distributed.load(device)
        heartbeat("waiting for the other ranks")
        # Before the watchdog takes it for a hang: it is known who is missing.
        store = meet(place, 0.9 * parallel.hang_seconds, earlier)
        heartbeat("the process group")
    with libraries_logging_to(run.log, first):
        distributed.start(device, place, store, collective_timeout(parallel.hang_seconds))
        mesh = Mesh(layout, shards_tokens=parallel.shard_activations, strategy=parallel.strategy)
    try:
        yield Ranks(mesh)
    finally:
        mesh.close()
        if ours:
            # Otherwise threads of gloo may end the process with an error when everything is done.
            torch.distributed.destroy_process_group()


def tell_about_compiling(device: torch.device, progress: Progress) -> None:
    """What the next `distributed.start` will take its time for, if it does."""
    if distributed.first_start_compiles(device):
        progress.say("first start on this machine: DeepSpeed compiles a small communication op, about half a minute")


class _RunLog(logging.FileHandler):
    """The log of a run. What a full disk does not take is lost: a log is never worth a run, nor words on the screen."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def libraries_logging_to(log: Path, first: bool) -> Iterator[None]:
    """What libraries print goes to the log of the run; on all ranks but the first to where these write anyway."""
    if not first:
        yield
        return
    with distributed.quiet(log):
        yield
    distributed.send_library_logs_to(_RunLog(log))


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send the log of this package to a file."""
    handler = _RunLog(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("glm_scale", "glm_data")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        # What a user has to see goes through Progress; the log must not leak onto the progress line.
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
        handler.close()
