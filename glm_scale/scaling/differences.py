"""What keeps runs from being compared fairly, in remarks that name each difference once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from glm_scale.scaling.curves import TrainedRun

SAME_TOKENS = 0.01
"""Relative difference up to which budgets count as one: they are rounded to whole batches."""

SAME_PARAMETERS = 0.01
"""Relative difference up to which two models count as of one size."""

_NAMES = 4

# Keys of the configuration that decide what is read in which order, or what the losses are measured on.
_SETTINGS = (
    ("mixture weights", "data.sources[].weight"),
    ("order seeds", "data.seed"),
    ("treatments of damaged samples", "data.on_bad_sample"),
    ("masks of documents", "data.mask_documents"),
    ("validation sequences", "evaluation.sequences"),
    ("optimizers", "training.optimizer.kind"),
    ("parametrizations", "model.parametrization"),
)

_SEEDS = ("data.seed", "training.seed")

# Of runs of one size. On a ladder they change with it.
_SETTINGS_OF_A_SIZE = (
    ("seeds of the weights", "training.seed"),
    ("learning rates", "training.optimizer.learning_rate"),
    ("batches", "training.batch_tokens"),
    ("schedules", "training.schedule.kind"),
    ("warm-ups", "training.schedule.warmup_tokens"),
    ("precisions", "training.precision"),
)


def alike(values: Iterable[float], tolerance: float) -> bool:
    """Whether the largest is no more than this share above the smallest."""
    known = list(values)
    return max(known) <= min(known) * (1 + tolerance)


def remarks_on(runs: Sequence[TrainedRun], scaling: bool) -> Iterator[str]:
    """What a reader of the comparison has to know. `scaling`: sizes, and tokens with them, are meant to differ."""
    yield from _unfinished(runs)
    if difference := _difference(runs, lambda run: run.summary.tokenizer_fingerprint):
        yield f"tokenizers differ, so losses per token cannot be compared, only bits per byte: {difference}"
    if len(groups := _by_data(runs)) > 1:
        yield f"training data differ: {' | '.join(map(_names, groups))}"
    for what, key in (*_SETTINGS, *(() if scaling else _SETTINGS_OF_A_SIZE)):
        if key in _SEEDS and _alike_for_mixers(runs, key):
            continue
        if difference := _difference(runs, lambda run, key=key: _setting(run, key), show=True):  # type: ignore[misc]
            yield f"{what} differ ({key.replace('[]', '')}): {difference}"
    if difference := _difference(runs, lambda run: run.summary.sequence_length, show=True):
        yield f"sequence lengths differ: {difference}"
    if shared := [run for run in runs if run.summary.neighbours]:
        yield f"measured times cannot be compared: others trained on the same GPUs or CPUs beside {_names(shared)}"
    budgets = [run.tokens for run in runs]
    yield from _parameters(runs, scaling)
    if scaling:
        yield from _uneven_ladder(runs)
    elif budgets and not alike(budgets, SAME_TOKENS):
        yield f"trained tokens differ, from {min(budgets):,} to {max(budgets):,}: compare at equal tokens in the figure"


def _parameters(runs: Sequence[TrainedRun], scaling: bool) -> Iterator[str]:
    """Of runs that should have as many; of a ladder, those of different mixers that stand at the same place by size."""
    for group in _of_one_size(runs) if scaling else [list(runs)]:
        ordered = sorted(group, key=_outside)
        if not ordered or alike(map(_outside, ordered), SAME_PARAMETERS):
            continue
        least, most = ordered[0], ordered[-1]
        yield (
            f"parameters outside the embeddings differ: {most.name} has {_outside(most):,}, "
            f"{_outside(most) / _outside(least) - 1:.0%} more than {least.name} with {_outside(least):,}"
        )


def _of_one_size(runs: Sequence[TrainedRun]) -> list[list[TrainedRun]]:
    """Groups of the runs that stand at the same place among those of their mixer, by size; none if mixers have not as
    many sizes."""
    mixers = {run.mixer: sorted({_outside(other) for other in runs if other.mixer == run.mixer}) for run in runs}
    if len({len(sizes) for sizes in mixers.values()}) > 1:
        return []
    places = range(len(next(iter(mixers.values()), [])))
    return [[run for run in runs if _outside(run) == mixers[run.mixer][place]] for place in places]


def _outside(run: TrainedRun) -> int:
    return run.summary.non_embedding_parameters


def _unfinished(runs: Sequence[TrainedRun]) -> Iterator[str]:
    for status in dict.fromkeys(run.status for run in runs if run.status != "finished"):
        group = [run for run in runs if run.status == status]
        least, most = min(run.tokens for run in group), max(run.tokens for run in group)
        at = f"at {least:,} tokens" if least == most else f"at {least:,} to {most:,} tokens"
        if len(group) > 1:
            yield f"{len(group)} runs {_ended(status, many=True)} {at}: {_names(group)}"
        else:
            yield f"{group[0].name} {_ended(status)} {at}"
    without = [run for run in runs if run.status == "finished" and run.provisional]
    if len(without) > 1:
        yield f"{len(without)} runs have no final validation loss: {_names(without)}"
    elif without:
        yield f"{without[0].name} has no final validation loss"


def _ended(status: str, many: bool = False) -> str:
    """How a run that has not finished stands, behind its name."""
    if status == "failed":
        return status
    if status == "running":
        return f"{'are' if many else 'is'} still running,"
    return f"{'were' if many else 'was'} {status}"


def _names(runs: Iterable[TrainedRun]) -> str:
    names = [run.name for run in runs]
    return ", ".join(names[:_NAMES]) + (f" … ({len(names)})" if len(names) > _NAMES else "")


def _difference(runs: Sequence[TrainedRun], key: Callable[[TrainedRun], Any], show: bool = False) -> str:
    """Which runs have which value, where there is more than one; runs that do not tell are left out."""
    groups: dict[Any, list[TrainedRun]] = {}
    for run in runs:
        if (value := key(run)) is not None:
            groups.setdefault(value, []).append(run)
    if len(groups) < 2:
        return ""
    return " | ".join((f"{value}: " if show else "") + _names(group) for value, group in groups.items())


def _setting(run: TrainedRun, key: str) -> str | None:
    """The value of a key of the configuration as a text; of a list of groups ("[]") that of each. None: not said."""
    value: Any = run.config
    for part in key.split("."):
        name = part.removesuffix("[]")
        if isinstance(value, list):
            value = [item.get(name) if isinstance(item, dict) else None for item in value]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return None
    if isinstance(value, list):
        # Weights are shares: of a single source, or in the same proportion, they say the same.
        total = sum(value) if all(isinstance(item, int | float) for item in value) else None
        return ":".join(f"{item / total:.4g}" for item in value) if total else None
    return value if isinstance(value, str) else json.dumps(value)


def _alike_for_mixers(runs: Sequence[TrainedRun], key: str) -> bool:
    """Whether all mixers have the same values as often: seeds are repeated on purpose."""
    values: dict[str, Counter[str | None]] = {run.mixer: Counter() for run in runs}
    for run in runs:
        values[run.mixer][_setting(run, key)] += 1
    return len(values) > 1 and all(counts == next(iter(values.values())) for counts in values.values())


def _by_data(runs: Sequence[TrainedRun]) -> list[list[TrainedRun]]:
    """The runs by their training data; each group is of those that are not known to differ from its first one."""
    groups: list[list[TrainedRun]] = []
    for run in runs:
        for group in groups:
            if not _data_differ(group[0], run):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _data_differ(a: TrainedRun, b: TrainedRun) -> bool:
    """Whether two runs are known to have read other texts, whatever the length and the order of their sequences.

    Early runs recorded one fingerprint of texts, sequence length, order and weights together. Where that differs and
    one of the others does too, the paths of the data decide.
    """
    first, second = a.summary, b.summary
    if first.documents_fingerprint and second.documents_fingerprint:
        return first.documents_fingerprint != second.documents_fingerprint
    if first.data_fingerprint and second.data_fingerprint:
        if first.data_fingerprint == second.data_fingerprint:
            return False
        if _layout(a) == _layout(b):
            return True
    return bool(a.sources and b.sources) and a.sources != b.sources


def _layout(run: TrainedRun) -> tuple[Any, ...]:
    return run.summary.sequence_length, _setting(run, "data.seed"), _setting(run, "data.sources[].weight")


def _uneven_ladder(runs: Sequence[TrainedRun]) -> Iterator[str]:
    budgets = {
        mixer: Counter(float(f"{run.tokens:.2g}") for run in runs if run.mixer == mixer)
        for mixer in {run.mixer for run in runs}
    }
    if len({tuple(sorted(budget.items())) for budget in budgets.values()}) > 1:
        yield "the mixers were not trained at the same sizes or for the same tokens"
