"""Kinds of GPUs as options of commands that plan."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated

import typer

from glm_scale.errors import UserError

if typing.TYPE_CHECKING:
    from glm_scale.planning.calibration import Calibration
    from glm_scale.planning.gpus import GPU

__all__ = ["Calibrated", "Kind", "calibration_of", "known_gpu"]

Kind = Annotated[str, typer.Option(help="The kind of GPU: h100, h200, b200, a100, l40s.")]

Calibrated = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json",
        help="What `glm-scale bench calibrate` wrote on such a GPU; default: the file that comes with this package for "
        "--gpu, if there is one.",
    ),
]


def known_gpu(name: str) -> GPU:
    """Raises UserError for a kind that is not known."""
    from glm_scale.planning import GPUS

    if name not in GPUS:
        raise UserError(f"--gpu {name} is not known; known are {', '.join(GPUS)}")
    return GPUS[name]


def calibration_of(gpu: str, path: Path | None) -> Calibration | None:
    """What was measured on a kind of GPU: in the file, or in that of this package. Raises UserError for another
    kind's."""
    from glm_scale.planning.calibration import packaged_calibration, read_calibration

    if path is None:
        return packaged_calibration(gpu)
    found = read_calibration(path)
    if known_gpu(gpu).product not in found.gpu:
        raise UserError(
            f"--calibration {path} is of {found.gpu!r}, but --gpu is {gpu}; name a GPU's own file, or --gpu as it is"
        )
    return found
