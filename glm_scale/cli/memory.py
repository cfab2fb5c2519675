"""What commands say of the memory of this machine before they start a run on it."""

import os

import typer

from glm_scale.config import RunConfig
from glm_scale.parallel.mesh import Layout

__all__ = ["must_find_room"]


def must_find_room(run: RunConfig, layout: Layout) -> None:
    """Raise a UserError if a run cannot find the memory that it needs here; warn on stderr if it comes close.

    Of the ranks that a launcher has started the first of each machine looks, for all that are there.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    from glm_scale.planning.fitting import check_memory_here

    here = os.environ.get("LOCAL_WORLD_SIZE", "")
    remark = check_memory_here(run, layout, int(here) if here.isdecimal() else layout.processes)
    if remark:
        typer.echo(f"warning: {remark}", err=True)
