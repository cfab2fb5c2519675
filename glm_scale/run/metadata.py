"""What a run's directory says of it from its start on: config.yaml, version.json and summary.json."""

import time

import torch

from glm_data import PackedSequences
from glm_data.files import write_atomically
from glm_scale.config import RunConfig, resolved_yaml
from glm_scale.model import LanguageModel
from glm_scale.processes import neighbours
from glm_scale.run_directory import RunDirectory, RunSummary

__all__ = ["write_metadata"]


def write_metadata(run: RunDirectory, config: RunConfig, sequences: PackedSequences, step: int) -> RunSummary:
    """Write what the tracker and other commands read of a run that trains on `sequences`, and goes on from `step`."""
    before = run.read_summary() if run.exists() else None
    write_atomically(run.config, resolved_yaml(config.model_copy(update={"ladder": None})))
    run.write_version()
    length = config.data.sequence_length
    with torch.device("meta"):
        model = LanguageModel(config.model)
    summary = RunSummary(
        name=config.name,
        mixer=config.model.mixer_name,
        parameters=model.parameter_count(),
        non_embedding_parameters=model.parameter_count(embedding=False),
        train_flops_per_token=3 * model.flops_per_token(length),
        sequence_length=length,
        cache_bytes=model.cache_bytes(length),
        started=before.started if before else time.time(),
        step=step,
        tokenizer_fingerprint=sequences.tokenizer_fingerprint,
        data_fingerprint=sequences.fingerprint,
        documents_fingerprint=sequences.documents_fingerprint,
        neighbours=max(neighbours(), before.neighbours if before else 0),
    )
    run.write_summary(summary)
    return summary
