"""What is peculiar to a cluster: one YAML file, written once, named by `--cluster`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, field_validator

from glm_data.settings import Settings
from glm_launch.slurm import minutes_of
from glm_scale.config import ConfigError, Problem, validate
from glm_scale.tracking.uris import is_secret

__all__ = ["Cluster", "Container", "load_cluster"]

PROFILES = Path("configs/cluster")


Duration = Annotated[int, BeforeValidator(minutes_of), Field(gt=0)]


class Container(Settings):
    """The image in which the processes run. `mounts`: host:container paths, or paths that are the same in both.
    `python`: the interpreter in the image.
    """

    engine: Literal["apptainer", "pyxis"]
    image: str
    mounts: list[str] = Field([])
    python: str = "python3"

    def command(self, directory: Path) -> str:
        """The shell command that is this interpreter, at work in `directory`."""
        if self.engine == "pyxis":
            return shlex.quote(self.python)
        binds = [word for mount in self.mounts for word in ("--bind", mount)]
        return shlex.join(["apptainer", "exec", "--nv", *binds, "--pwd", str(directory), self.image, self.python])

    def srun_arguments(self, directory: Path) -> list[str]:
        if self.engine == "apptainer":
            return []
        mounts = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in self.mounts)
        return [
            f"--container-image={self.image}",
            f"--container-workdir={directory}",
            *([f"--container-mounts={mounts}"] if mounts else []),
        ]


class Cluster(Settings):
    """Settings of a site. Options of `glm-scale submit` of the same name replace them.

    `time` is a SLURM duration and becomes minutes. `sbatch`: further options of sbatch, such as {reservation: spring};
    true for those without a value, false to leave out one that is set otherwise.
    `modules` are loaded, `environment` is exported and `setup` run, in this order, before the processes start.
    `network_interface`: what NCCL and gloo use to find one another. `python`: the interpreter on the nodes, outside of
    a container.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus_per_node: int = Field(8, ge=0)
    cpus_per_task: int | None = Field(None, gt=0)
    memory: str | None = None
    time: Duration = 24 * 60
    sbatch: dict[str, str | int | bool] = Field({})
    container: Container | None = None
    modules: list[str] = Field([])
    environment: dict[str, str] = Field({})
    network_interface: str | None = None
    setup: list[str] = Field([])
    python: str | None = None

    @field_validator("environment")
    @classmethod
    def _holds_no_secret(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if is_secret(name):
                raise ValueError(
                    f"{name} looks like a secret, and this file is written into the job's script; export it in your "
                    "shell before you submit, SLURM passes your environment on"
                )
        return environment

    @property
    def interpreter(self) -> str:
        """As a shell command, for the batch script itself."""
        return shlex.quote(self.python or sys.executable)

    @property
    def exports(self) -> dict[str, str]:
        if self.network_interface is None:
            return self.environment
        names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
        return {**dict.fromkeys(names, self.network_interface), **self.environment}


def load_cluster(name: str | None, **options: Any) -> Cluster:
    """The profile of a cluster, a path or the name of a file in configs/cluster, with what `options` replace that are
    not None.

    None: nothing but the options. Raises ConfigError.
    """
    options = {key: value for key, value in options.items() if value is not None}
    if name is None:
        return validate(Cluster, options, "the options")
    path = Path(name) if name.endswith((".yaml", ".yml")) or "/" in name else PROFILES / f"{name}.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        there = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml"))) or "none"
        raise ConfigError(str(path), [Problem("", f"no such file; in {PROFILES} there are: {there}")]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(str(path), [Problem("", f"cannot be read: {' '.join(str(error).split())}")]) from None
    if not isinstance(values, dict):
        raise ConfigError(str(path), [Problem("", "must hold keys, such as partition: gpu")])
    return validate(Cluster, values | options, str(path))
