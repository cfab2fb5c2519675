"""What single operators, copies and exchanges took on a kind of GPU: the file of `glm-scale bench calibrate`.

Files of the package are in the folder `calibrations`, named as `--gpu` names the GPU. Times are seconds. Nothing in a
file comes from a run, so that what the planner says of a run is a prediction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from glm_data.settings import Settings
from glm_scale.errors import UserError
from glm_scale.parallel.sequence.costs import Collective

__all__ = [
    "Calibration", "EmbeddingTime", "ExchangeTime", "HeadTime", "MatmulTime", "OperatorTime", "PassTime", "UpdateTime",
    "packaged_calibration", "read_calibration",
]  # fmt: skip

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]

_FOLDER = Path(__file__).parent / "calibrations"
_WAY_OUT = "write one with `glm-scale bench calibrate --output FILE` on such a GPU, or leave --calibration out"


class MatmulTime(Settings):
    """The three products of a projection of `tokens` × `inputs` by a weight `outputs` × `inputs`, in bf16."""

    tokens: Count
    inputs: Count
    outputs: Count
    forward: Seconds
    input_gradient: Seconds
    weight_gradient: Seconds


class OperatorTime(Settings):
    """A token mixing by its spelling, as `attention`, `lattice:2^k` or `ssm`, of `batch` sequences of `length` tokens.

    key, value: numbers of a head; of an SSM `key` is the state expansion.
    """

    operator: str
    batch: Count
    length: Count
    heads: Count
    key: Count
    value: Count
    forward: Seconds
    backward: Seconds


class HeadTime(Settings):
    """The loss and its gradients by the output head, forward and backward."""

    tokens: Count
    width: Count
    vocabulary: Count
    seconds: Seconds


class EmbeddingTime(Settings):
    """A look-up of tokens and its gradient."""

    tokens: Count
    width: Count
    vocabulary: Count
    seconds: Seconds


class PassTime(Settings):
    """Work that memory alone limits: `size` is the bytes that it has to read and write."""

    size: Count
    seconds: Seconds


class UpdateTime(Settings):
    """AdamW over so many fp32 numbers, and the norm of as many gradients."""

    numbers: Count
    update: Seconds
    norm: Seconds


class ExchangeTime(Settings):
    """A collective of so many ranks of one machine; `sent`: bytes that each sends, as `planning.exchanges` counts."""

    collective: Collective
    ranks: Annotated[int, Field(ge=2)]
    sent: Count
    seconds: Seconds


class Calibration(Settings):
    """All that was measured on one GPU, or on several of a kind.

    gpu: its name in CUDA. `copies` move bytes as copying does, `fused` as kernels that torch compiles. `host`: that
    the GPU waits for the host in a step. `failed`: what could not be measured, and why.
    """

    gpu: str
    versions: dict[str, str]
    command: str
    matmuls: tuple[MatmulTime, ...] = ()
    operators: tuple[OperatorTime, ...] = ()
    heads: tuple[HeadTime, ...] = ()
    embeddings: tuple[EmbeddingTime, ...] = ()
    copies: tuple[PassTime, ...] = ()
    fused: tuple[PassTime, ...] = ()
    updates: tuple[UpdateTime, ...] = ()
    exchanges: tuple[ExchangeTime, ...] = ()
    host: Seconds | None = None
    failed: Mapping[str, str] = {}

    def to_json(self) -> str:
        """As a file holds it: one measurement a line."""
        lines = []
        for key, value in self.model_dump(mode="json").items():
            if isinstance(value, list):
                rows = ",\n".join(f"  {json.dumps(row)}" for row in value)
                value = f"[\n{rows}\n ]" if rows else "[]"
            else:
                value = json.dumps(value)
            lines.append(f' "{key}": {value}')
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @property
    def described(self) -> str:
        """The GPU and the versions that decide its speed."""
        return ", ".join([self.gpu, *(f"{name} {version}" for name, version in self.versions.items())])


def read_calibration(path: Path) -> Calibration:
    """Raises UserError naming the file, the key and the way out if it is none."""
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {_WAY_OUT}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        place, value = (f" at {key}", f" (found {first['input']!r:.60})") if key else ("", "")
        raise UserError(f"{path} is no calibration{place}: {first['msg']}{value}; {_WAY_OUT}") from error


def packaged_calibration(gpu: str) -> Calibration | None:
    """Of a kind of GPU by the name that `--gpu` takes; None if nobody has measured it yet."""
    path = _FOLDER / f"{gpu}.json"
    return read_calibration(path) if path.exists() else None
