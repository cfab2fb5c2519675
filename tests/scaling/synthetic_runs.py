"""Run directories as trainers leave them, with losses that are known beforehand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from glm_scale.run_directory import RunDirectory, RunSummary
from glm_scale.tracking import MetricsLog


def write_run(
    root: Path,
    name: str,
    mixer: str,
    *,
    parameters: int = 1_500_000,
    tokens: int = 1_000_000,
    steps: int = 200,
    final_loss: float = 4.0,
    status: str = "finished",
    upto: float = 1.0,
    final: bool = True,
    noise: float = 0.0,
    seed: int = 0,
    **summary: object,
) -> RunDirectory:
    """A run of `steps` steps whose loss falls from 8.3 as a power of the tokens to `final_loss` exactly.

    `upto`: the share of training that has happened. Validation is measured at every tenth, at the loss of the curve.
    """
    run = RunDirectory(root / name).create()
    config = {
        "name": name,
        "data": {"sources": [{"path": "corpus", "weight": 1}]},
        "api_key": "hush",
        "training": {"seed": seed},
    }
    run.config.write_text(yaml.safe_dump(config))
    done = int(steps * upto)
    content = {
        "name": name,
        "mixer": mixer,
        "parameters": int(parameters * 1.4),
        "non_embedding_parameters": parameters,
        "train_flops_per_token": 6.0 * parameters,
        "sequence_length": 512,
        "status": status,
        "started": 1_000_000.0,
        "step": done,
        "tokens": tokens * done // steps,
        "data_fingerprint": "corpus",
        "tokenizer_fingerprint": "bpe",
    }
    run.write_summary(RunSummary.model_validate(content | summary))
    random = np.random.default_rng(len(name) + parameters)
    exponent = math.log(8.3 / final_loss) / math.log(steps)
    with MetricsLog(run.metrics) as log:
        for step in range(1, done + 1):
            loss = final_loss * (step / steps) ** -exponent
            seen = tokens * step // steps
            place: dict[str, Any] = {"step": step, "tokens": seen, "flops": 6.0 * parameters * seen}
            measured = loss * math.exp(noise * random.standard_normal())
            log.append("train", **place, loss=measured, tokens_per_second=1e4 + step % 3)
            if step % (steps // 10) == 0:
                last = {"final": True} if final and step == steps else {}
                log.append("validation", **place, loss=loss, bits_per_byte=loss / 2.2, **last)
    return run
