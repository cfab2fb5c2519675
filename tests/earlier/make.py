"""Makes `runs.tar.xz` by the present version: `python -m tests.earlier.make`. Later versions have to go on from it.

To be run again only when a format is given up for good, by the last version that writes the old one.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from glm_data import BuildConfig, build
from tests.earlier.archive import ARCHIVE
from tests.earlier.curves import losses_of
from tests.tiny_run import glm_scale, tiny_source

STEPS, BATCH, LENGTH = 8, 4, 32
STOPPED_AT = 3

RUNS: dict[str, dict[str, Any]] = {
    "zero-0": {"mixers": ["lattice:2^k", "attention"], "zero_stage": 0},
    "zero-1": {"mixers": ["ssm", "window:3"], "zero_stage": 1, "data": 2},
    "zero-2": {"mixers": ["offsets:k^2+1", "local:5"], "zero_stage": 2, "data": 2},
    "zero-3": {"mixers": ["dense", "mamba2"], "zero_stage": 3, "data": 2},
    "tensor-2": {"mixers": ["lattice:k^2+1", "ssm"], "tensor": 2, "shard_activations": True},
    "sequence-2": {"mixers": ["local:5 > lattice:2^k", "offsets:2^k"], "sequence": 2},
    "tracked": {"mixers": ["attention"], "tracked": True},
}
"""By name: mixers, and what is not as usual."""


def configuration(name: str, folder: Path) -> dict[str, Any]:
    """Of the run of a name in `folder`, whose data are in `folder`/data."""
    asked = RUNS[name]
    return {
        "name": name,
        "run_root": str(folder / "runs"),
        "model": {
            "vocab_size": 320, "layers": 2, "width": 8, "heads": 2, "mixers": asked["mixers"], "mlp_width": 16,
            "conv_width": 3, "tie_embeddings": name != "zero-0",
        },
        "data": {"sources": [{"path": str(folder / "data")}], "sequence_length": LENGTH, "workers": 0},
        "training": {
            "tokens": STEPS * BATCH * LENGTH,
            "batch_tokens": BATCH * LENGTH,
            "micro_batch": 2,
            "optimizer": {"learning_rate": 0.01},
            "zero_stage": asked.get("zero_stage", 1),
            "device": "cpu",
        },
        "parallel": {key: asked[key] for key in ("data", "tensor", "sequence", "shard_activations") if key in asked},
        "evaluation": {"every": None, "rows": 4},
        "checkpoint": {"every": None, "keep": 1},
        "tracking": {
            "enabled": asked.get("tracked", False), "uri": f"sqlite:///{folder}/mlflow.db", "system_metrics": None,
        },
    }  # fmt: skip


def _train(config: Path, *overrides: str, code: int) -> None:
    done = glm_scale("train", str(config), *overrides)
    assert done.returncode == code, done.stdout + done.stderr


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder, elsewhere = Path(place, "content"), Path(place, "elsewhere")
        folder.mkdir()
        source = tiny_source(Path(place, "documents.jsonl"))
        build(BuildConfig(inputs=[source], output=folder / "data", vocabulary_size=300, workers=1))
        rest = {}
        for name in RUNS:
            config = Path(place, f"{name}.yaml")
            config.write_text(json.dumps(configuration(name, folder)), encoding="utf-8")
            for _ in range(STOPPED_AT):
                # However short the time, a start makes a step.
                _train(config, "training.time_limit_minutes=1e-9", code=85)
            shutil.copytree(folder / "runs" / name, elsewhere / name)
            _train(config, f"run_root={elsewhere}", "tracking.enabled=false", code=0)
            rest[name] = losses_of(elsewhere / name)[STOPPED_AT:]
            print(f"{name}: {rest[name]}")
        (folder / "losses.json").write_text(json.dumps(rest, indent=1) + "\n", encoding="utf-8")
        with tarfile.open(ARCHIVE, "w:xz") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name, filter=lambda file: None if file.name.endswith(".png") else file)


if __name__ == "__main__":
    main()
