"""What commands say of the memory of this machine before they start a run on it."""

import typer

from glm_scale.config import RunConfig
from glm_scale.parallel.mesh import Layout
from glm_scale.processes import launched

__all__ = ["must_find_room"]


def must_find_room(run: RunConfig, layout: Layout, runs: int = 1) -> None:
    """Raise a UserError if a run cannot find the memory that it needs here; warn on stderr if it comes close.

    runs: how many like it are to be here at the same time.

    Not asked by ranks that a launcher has started: what is free then is less by what the others have already.
    """
    if launched() is not None:
        return
    from glm_scale.planning.fitting import check_memory_here

    if remark := check_memory_here(run, layout, layout.processes, runs):
        typer.echo(f"warning: {remark}", err=True)
