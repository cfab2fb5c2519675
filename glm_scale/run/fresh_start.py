"""Makes room for a new run where there is one already. Imports nothing heavy."""

import os

from glm_scale.config import RunConfig
from glm_scale.processes import launched
from glm_scale.run_directory import RunDirectory
from glm_scale.training.progress import open_progress

__all__ = ["start_anew"]


def start_anew(run: RunDirectory, config: RunConfig) -> None:
    """Move a run that is there aside, and say where to. Of several processes the first does it.

    What a scheduler starts again is no new run. Raises UserError if somebody trains there.
    """
    here = launched()
    if here is not None and here.rank != 0:
        return
    restarts = (os.environ.get(name, "0") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))
    again = any(count not in ("", "0") for count in restarts)
    place = None if again else run.set_aside()
    with open_progress(config.name) as progress:
        if place is not None:
            progress.say(f"the run that was in {run.path} is now in {place}; a new one begins")
        elif again and run.exists():
            progress.say(f"started again by the scheduler: the run in {run.path} goes on in spite of --fresh")
