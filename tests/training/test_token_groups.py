"""A loss taken apart: nothing is lost, every token is where it belongs, and recall shows."""

import numpy as np
import pytest
import torch
from torch import Tensor

from glm_data import Batch
from glm_scale.tracking.breakdown import BIGRAM, FOURGRAM, NEW, POSITION, Breakdown
from glm_scale.training.evaluation import evaluate
from glm_scale.training.repeats import repeat_distances
from glm_scale.training.token_groups import TokenGroups

VOCABULARY, LENGTH, SEQUENCES = 64, 96, 24
TOKEN_BYTES = torch.ones(VOCABULARY, dtype=torch.int32)


def batches(size: int = 5) -> list[Batch]:
    """Documents of different lengths in which bigrams come again; the last batch is filled up with padding."""
    draw = torch.Generator().manual_seed(0)
    phrases = torch.randint(VOCABULARY, (40, 6), generator=draw)
    made = []
    for first in range(0, SEQUENCES, size):
        samples = torch.arange(first, first + size)
        samples[samples >= SEQUENCES] = -1
        chosen = torch.randint(40, (size, LENGTH // 6 + 1), generator=draw)
        text = phrases[chosen].flatten(1)
        starts = torch.zeros(size, LENGTH, dtype=torch.int32)
        starts[:, 17:], starts[:, 60:] = 17, 60
        labels = text[:, 1 : LENGTH + 1].clone()
        labels[:, [16, 59]] = -100
        labels[samples < 0] = -100
        made.append(Batch(text[:, :LENGTH].contiguous(), labels, starts, samples))
    return made


def measured(token_losses: object) -> Breakdown:
    assert callable(token_losses)
    result = evaluate(token_losses, batches(), TOKEN_BYTES, groups=TokenGroups(SEQUENCES, LENGTH))
    assert result.breakdown is not None
    assert result.breakdown.whole.loss == pytest.approx(result.loss, rel=1e-12)
    assert result.breakdown.whole.count == result.tokens == SEQUENCES * (LENGTH - 2)
    return result.breakdown


def any_losses(batch: Batch) -> Tensor:
    losses = torch.rand(batch.labels.shape, generator=torch.Generator().manual_seed(int(batch.samples[0])))
    return losses * (batch.labels >= 0)


def test_both_partitions_are_of_all_tokens() -> None:
    found = measured(any_losses)
    by_kind = found.group(NEW, BIGRAM, FOURGRAM)
    np.testing.assert_array_equal(by_kind.tokens, found.whole.tokens)
    np.testing.assert_allclose(by_kind.nats, found.whole.nats, rtol=1e-12)
    groups = found.groups()
    for part in ("tokens", "nats"):
        whole = getattr(groups["kind/new"], part) + getattr(groups["kind/repeated"], part)
        np.testing.assert_allclose(whole, getattr(found.whole, part), rtol=1e-12)
    assert {"kind/repeated-bigram", "kind/repeated-4gram", "position/0000032", "distance/4gram/0000016"} <= set(groups)


def test_every_token_is_where_its_position_and_its_repetitions_put_it() -> None:
    """A loss that says what a token is comes out of its group again."""
    found = measured(positions)
    for power in range(6):
        group = found.group(f"{POSITION}{1 << power:07d}")
        assert 1 << power <= group.loss < 2 << power
    for column, cells in enumerate((BIGRAM, FOURGRAM)):
        found = measured(lambda batch, column=column: distances(batch, column))
        for power in range(6):
            group = found.group(f"{cells}{1 << power:07d}")
            assert not group.count or 1 << power <= group.loss < 2 << power
        assert found.group(cells).count
        assert found.group(NEW).loss == 0


def positions(batch: Batch) -> Tensor:
    return (torch.arange(1, LENGTH + 1) - batch.document_starts) * (batch.labels >= 0)


def distances(batch: Batch, column: int) -> Tensor:
    whole = (batch.tokens.numpy(), batch.labels.numpy(), batch.document_starts.numpy())
    return torch.from_numpy(list(repeat_distances(*whole, 2))[column]).double()


def test_documents_that_are_not_told_apart_are_one() -> None:
    def without_borders(batch: Batch) -> Batch:
        return Batch(batch.tokens, batch.labels, torch.zeros_like(batch.document_starts), batch.samples)

    together = evaluate(
        any_losses, map(without_borders, batches()), TOKEN_BYTES, groups=TokenGroups(SEQUENCES, LENGTH)
    ).breakdown  # fmt: skip
    apart = measured(any_losses)
    assert together is not None
    assert together.group(f"{POSITION}0000064").count == SEQUENCES * (LENGTH - 63)
    assert apart.group(f"{POSITION}0000064").count == 0
    assert together.group(NEW).count < apart.group(NEW).count


def test_a_model_that_recalls_bigrams_is_good_at_repeated_ones_alone() -> None:
    """It gives half of the probability to what followed the last time, and the other half to all alike."""

    def recalling(batch: Batch) -> Tensor:
        probability = torch.full((*batch.tokens.shape, VOCABULARY), 0.5 / VOCABULARY)
        for row, column in np.ndindex(*batch.tokens.shape):
            start, token = int(batch.document_starts[row, column]), batch.tokens[row, column]
            before = (batch.tokens[row, start:column] == token).nonzero()
            if len(before):
                probability[row, column, batch.tokens[row, start + int(before[-1]) + 1]] += 0.5
            else:
                probability[row, column] *= 2
        losses = -probability.gather(-1, batch.labels.clamp(min=0)[..., None]).squeeze(-1).log()
        return losses * (batch.labels >= 0)

    uniform = torch.tensor(float(VOCABULARY)).log()
    model = measured(recalling)
    plain = measured(lambda batch: uniform * (batch.labels >= 0))
    repeated, new = (
        model.groups()[kind] - plain.groups()[kind] for kind in ("kind/repeated", "kind/new")
    )  # fmt: skip
    assert repeated.loss < -1.5
    assert repeated.loss + 4 * repeated.error < 0
    assert 0 <= new.loss < 0.7
    for cells in (BIGRAM, FOURGRAM):
        assert model.group(cells).loss < model.group(NEW).loss - 2


def test_data_sets_are_told_apart_by_their_sequences() -> None:
    """Every third sequence is of the first; tokens of one byte and of three."""
    sizes = torch.ones(VOCABULARY, dtype=torch.int32)
    sizes[::2] = 3
    groups = TokenGroups(SEQUENCES, LENGTH, sources=["books", "code"], source_of=lambda sample: int(sample % 3 > 0))
    result = evaluate(any_losses, batches(), sizes, groups=groups)
    found = result.breakdown
    assert found is not None
    values = found.values()
    nats, tokens, text = np.zeros(2), np.zeros(2), np.zeros(2)
    for batch in batches():
        losses = any_losses(batch).double()
        for row, sample in enumerate(batch.samples.tolist()):
            counted = batch.labels[row] >= 0
            tokens[int(sample % 3 > 0)] += int(counted.sum())
            nats[int(sample % 3 > 0)] += float(losses[row].sum())
            text[int(sample % 3 > 0)] += int(sizes[batch.labels[row][counted]].sum())
    assert found.source_bytes == tuple(text)
    assert sum(found.source_bytes) == result.bytes
    for number, name in enumerate(("books", "code")):
        assert values[f"source/{name}/loss"] == pytest.approx(nats[number] / tokens[number], rel=1e-12)
        assert values[f"source/{name}/bits_per_byte"] == pytest.approx(nats[number] / np.log(2) / text[number])
    whole = found.group("source/")
    np.testing.assert_array_equal(whole.tokens, found.whole.tokens)


def test_a_single_data_set_is_all_there_is() -> None:
    groups = TokenGroups(SEQUENCES, LENGTH, sources=["books"])
    found = evaluate(any_losses, batches(), TOKEN_BYTES, groups=groups).breakdown
    assert found is not None
    assert not any(name.startswith("source/") for name in found.values())


def test_errors_are_those_of_blocks_of_text() -> None:
    """All tokens of a block alike: as many independent numbers as there are blocks, however many tokens."""
    draw = np.random.default_rng(0)
    errors, means = [], []
    for _ in range(400):
        values = draw.standard_normal(SEQUENCES)
        groups = TokenGroups(SEQUENCES, LENGTH)
        groups.tokens[:, 0] = draw.integers(50, 100, SEQUENCES)
        groups.nats[:, 0] = groups.tokens[:, 0] * values
        whole = groups.breakdown(groups.sums()).whole
        errors.append(whole.error)
        means.append(whole.loss)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    assert np.std(means) == pytest.approx(SEQUENCES**-0.5, rel=0.15)


def test_long_splits_are_kept_in_few_blocks_of_neighbours() -> None:
    groups = TokenGroups(10_000, LENGTH)
    assert len(groups.tokens) == 256
    batch = batches(2)[0]
    for samples in ([0, 9_999], [38, 40]):
        numbered = Batch(batch.tokens, batch.labels, batch.document_starts, torch.tensor(samples))
        groups.add(groups.places(numbered), any_losses(batch).double(), torch.ones_like(batch.labels))
    assert np.flatnonzero(groups.tokens.sum(1)).tolist() == [0, 1, 255]
