"""What an evaluation found out about a run, kept in its directory for comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import MetricsLog
from glm_scale.tracking.breakdown import Breakdown

__all__ = ["keep_breakdown"]


def keep_breakdown(path: Path, step: int, breakdown: Breakdown) -> str:
    """Write the breakdown of a validation loss into the run directory `path`, if it is one and was measured at `step`.

    One of that step which is of as many sequences stays as it is. Returns what there is to tell the user, also of
    what kept it from being written; empty if nothing.
    """
    run = RunDirectory(path)
    if not run.exists():
        return ""
    try:
        summary = run.read_summary()
        known = Breakdown.read(run.breakdown, step)
        if known is not None and known.sequences >= breakdown.sequences:
            return ""
        if summary.step != step:
            return f"not kept for comparisons: the run is at step {summary.step}, and its checkpoint at step {step}"
        with run.lock(), MetricsLog(run.metrics) as log:
            flops = summary.tokens * summary.train_flops_per_token
            losses: dict[str, Any] = breakdown.losses()
            log.append("breakdown", step=step, tokens=summary.tokens, flops=flops, **losses)
            breakdown.write(run.breakdown, step)
    except (OSError, UserError) as error:
        return f"not kept for comparisons: {error}"
    delivery = f"; glm-scale track sync {path} brings it to MLflow" if run.tracking.exists() else ""
    return f"kept for comparisons in {run.breakdown}{delivery}"
