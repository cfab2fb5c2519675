"""Losses of short runs of every mixer, by whatever version of glm-scale Python finds: `python curves.py DATA`.

It asks for nothing but the command line, so that it can be run against any commit (`two_commits.py`), and prints JSON:
the losses of each mixer, as float.hex() writes them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STEPS = 20
BATCH, LENGTH = 4, 32
MIXERS = (
    "attention", "local:5", "ssm", "mamba2", "window:1", "window:20", "dense", "lattice:2^k", "lattice:k^2+1",
    "offsets:2^k", "offsets:k^2+1", "local:5 > lattice:2^k", "lattice:2^k + attention",
)  # fmt: skip
"""Spellings of mixers; those of a hybrid are joined by " + "."""


def configuration(mixer: str, data: Path, folder: Path) -> dict[str, Any]:
    """Of a run of `STEPS` steps on a CPU in fp32."""
    return {
        "name": "curve",
        "run_root": str(folder),
        "model": {
            "vocab_size": 320, "layers": 2, "width": 16, "heads": 2, "mixers": mixer.split(" + "), "mlp_width": 32,
            "conv_width": 3,
        },
        "data": {"sources": [{"path": str(data)}], "sequence_length": LENGTH, "workers": 0},
        "training": {
            "tokens": STEPS * BATCH * LENGTH,
            "batch_tokens": BATCH * LENGTH,
            "micro_batch": 2,
            "optimizer": {"learning_rate": 0.01},
            "device": "cpu",
        },
        "evaluation": {"every": None},
        "checkpoint": {"every": None},
        "tracking": {"enabled": False},
    }  # fmt: skip


def losses_of(run: Path) -> list[float]:
    """Of every training step, from metrics.jsonl."""
    records = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [record["loss"] for record in records if record["kind"] == "train"]


def curve(mixer: str, data: Path) -> list[float]:
    """Trained by `glm-scale train` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        # JSON is YAML.
        config.write_text(json.dumps(configuration(mixer, data, Path(folder))), encoding="utf-8")
        command = [sys.executable, "-m", "glm_scale.cli.app", "train", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{mixer}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return losses_of(Path(folder, "curve"))


def main() -> None:
    data, found = Path(sys.argv[1]).resolve(), {}
    for mixer in MIXERS:
        found[mixer] = [loss.hex() for loss in curve(mixer, data)]
        print(f"{mixer}: {float.fromhex(found[mixer][-1]):.6f} after {STEPS} steps", file=sys.stderr)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
