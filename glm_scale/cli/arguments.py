"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help=r"Replace values, such as training.seed=7 or 'model.mixers=\[ssm]'."),
]
TrainedModel = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|CHECKPOINT|EXPORTED",
        help="A run directory (its newest checkpoint), a checkpoint, or a folder of `glm-scale checkpoint export`, in "
        "either format.",
    ),
]
