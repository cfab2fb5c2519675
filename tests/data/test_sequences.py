"""Packed sequences: a pure function of configuration and sample number that loses nothing."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from pydantic import ValidationError

from glm_data import DataConfig, DataError, PackedSequence, PackedSequences, load_index, load_tokenizer
from tests.data.corpora import build_corpus, documents


def config(*paths: Path, **settings: object) -> DataConfig:
    sources = [{"path": path} for path in paths]
    return DataConfig(**({"sources": sources, "sequence_length": 64, "workers": 0} | settings))


def equal(first: PackedSequence, second: PackedSequence) -> bool:
    return first.sample == second.sample and all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in ("tokens", "labels", "document_starts")
    )


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A second data set with the same tokenizer."""
    folder = tmp_path_factory.mktemp("other")
    build_corpus(folder, documents(25, seed=9), vocabulary_size=None, tokenizer=dataset, validation_fraction=0.2)
    return folder / "set"


def split_tokens(dataset: Path, split: Literal["train", "validation"]) -> list[list[int]]:
    """The documents of a split, from the index on: not through sequences."""
    from glm_data.shards import SplitReader

    reader = SplitReader(dataset, load_index(dataset), split)
    return [reader.read(number, 0, reader.length(number)).tolist() for number in range(len(reader))]


@pytest.mark.parametrize("length", [16, 64, 1024])
@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_holds_every_token_of_every_document_once(dataset: Path, length: int, epoch: int) -> None:
    sequences = PackedSequences(config(dataset, sequence_length=length))
    count = sequences.sequences_per_epoch[0]
    pieces: dict[int, dict[int, list[int]]] = {}
    for sample in range(epoch * count, (epoch + 1) * count):
        sequence, end = sequences[sample], 0
        for document, start, size in sequences.pieces(sample):
            assert start not in pieces.setdefault(document, {})
            pieces[document][start] = sequence.tokens[end : end + size].tolist()
            end += size
        assert (sequence.labels[end:] == -100).all()
    joined = [[token for start in sorted(parts) for token in parts[start]] for _, parts in sorted(pieces.items())]
    assert joined == split_tokens(dataset, "train")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_are_the_next_tokens_and_spell_the_whole_text(
    dataset: Path, split: Literal["train", "validation"]
) -> None:
    sequences = PackedSequences(config(dataset, sequence_length=32), split)
    count = sequences.sequences_per_epoch[0]
    whole = split_tokens(dataset, split)
    seen: Counter[int] = Counter()
    for sample in range(count):
        sequence, at = sequences[sample], 0
        for document, start, size in sequences.pieces(sample):
            following = [*whole[document][start + 1 : start + size + 1], -100][:size]
            assert sequence.labels[at : at + size].tolist() == following
            seen.update(following)
            at += size
    text_bytes = load_index(dataset).splits[split].text_bytes
    token_bytes = sequences.tokenizer.token_bytes
    assert sum(int(token_bytes[token]) * times for token, times in seen.items() if token >= 0) == text_bytes
    assert seen[-100] == seen[sequences.tokenizer.eos] == len(whole)


def test_document_starts_mark_pieces_and_padding(dataset: Path) -> None:
    sequences = PackedSequences(config(dataset, sequence_length=50))
    padded = 0
    for sample in range(sequences.sequences_per_epoch[0]):
        sequence, at = sequences[sample], 0
        expected = np.empty(50, dtype=np.int64)
        for _, _, size in sequences.pieces(sample):
            expected[at : at + size] = at
            at += size
        expected[at:] = at
        padded += at < 50
        assert np.array_equal(sequence.document_starts, expected)
        assert sequence.tokens.dtype == sequence.labels.dtype == np.int64
        assert sequence.document_starts.dtype == np.int32
    assert padded


def test_without_masks_tokens_see_all_before_them_and_nothing_else_changes(dataset: Path) -> None:
    masked, plain = (PackedSequences(config(dataset, sequence_length=50, mask_documents=m)) for m in (True, False))
    assert any(masked[sample].document_starts.any() for sample in range(5))
    for sample in range(5):
        assert not plain[sample].document_starts.any()
        assert np.array_equal(masked[sample].tokens, plain[sample].tokens)
        assert np.array_equal(masked[sample].labels, plain[sample].labels)


def test_sequences_are_a_pure_function_of_their_number(dataset: Path) -> None:
    sequences, again = PackedSequences(config(dataset, seed=5)), PackedSequences(config(dataset, seed=5))
    epoch = sequences.sequences_per_epoch[0]
    numbers = [0, 3 * epoch + 1, 1, epoch - 1, 2 * epoch, 10**9, epoch, 0]
    for number in numbers:
        assert equal(sequences[number], again[number])
    assert equal(pickle.loads(pickle.dumps(sequences))[10**9], sequences[10**9])
    other_seed = PackedSequences(config(dataset, seed=6))
    assert not all(equal(sequences[number], other_seed[number]) for number in range(10))
    assert sequences.fingerprint == again.fingerprint != other_seed.fingerprint


def test_epochs_are_shuffled_anew(dataset: Path) -> None:
    sequences = PackedSequences(config(dataset))
    epoch = sequences.sequences_per_epoch[0]
    orders = [[tuple(sequences.pieces(epoch * number + at)) for at in range(epoch)] for number in range(2)]
    assert orders[0] != orders[1]
    moved = sum(first != second for first, second in zip(*orders, strict=True))
    assert moved > 0.8 * epoch


def test_sources_are_mixed_by_weight(dataset: Path, other: Path) -> None:
    sources = [{"path": dataset, "weight": 3}, {"path": other, "weight": 1}]
    sequences = PackedSequences(config(sources=sources))
    located = [sequences.locate(sample) for sample in range(400)]
    assert abs(sum(location.source == 0 for location in located) - 300) <= 1
    # The small source begins its later epochs while the large one is still in an earlier one.
    assert max(location.epoch for location in located if location.source == 1) > 0
    for source in (0, 1):
        mine = [location for location in located if location.source == source]
        count = sequences.sequences_per_epoch[source]
        assert [location.epoch * count + location.sequence for location in mine] == list(range(len(mine)))


def test_validation_is_one_pass_over_every_source_and_begins_with_all(dataset: Path, other: Path) -> None:
    sequences = PackedSequences(config(dataset, other), "validation")
    located = [sequences.locate(sample) for sample in range(len(sequences))]
    counts = sequences.sequences_per_epoch
    assert len(sequences) == sum(counts)
    for source in (0, 1):
        mine = [location for location in located if location.source == source]
        assert [(location.epoch, location.sequence) for location in mine] == [(0, n) for n in range(counts[source])]
    for length in range(1, len(sequences) + 1):
        share = sum(location.source == 0 for location in located[:length]) / length
        assert abs(share - counts[0] / len(sequences)) <= 1 / length
    firsts = [sequences.pieces(sample)[0][:2] for sample, at in enumerate(located) if at.source == 0]
    assert firsts == sorted(firsts)
    with pytest.raises(IndexError, match="validation sequences"):
        sequences[len(sequences)]
    reseeded = PackedSequences(config(dataset, other, seed=3), "validation")
    assert all(equal(sequences[sample], reseeded[sample]) for sample in range(len(sequences)))


def test_training_has_no_end(dataset: Path) -> None:
    sequences = PackedSequences(config(dataset))
    with pytest.raises(TypeError, match="sequences_per_epoch"):
        len(sequences)
    with pytest.raises(IndexError):
        sequences[-1]


def test_packing_is_efficient(dataset: Path) -> None:
    assert PackedSequences(config(dataset)).packing_efficiency > 0.99


def test_sources_must_share_a_tokenizer(tmp_path: Path, dataset: Path) -> None:
    build_corpus(tmp_path, documents(20, seed=3))
    with pytest.raises(DataError, match=r"different tokenizers.*--tokenizer"):
        PackedSequences(config(dataset, tmp_path / "set"))
    recorded = load_index(dataset).tokenizer_sha256
    assert PackedSequences(config(dataset), tokenizer=recorded).tokenizer_fingerprint == recorded
    with pytest.raises(DataError, match="not the one that the run was started with"):
        PackedSequences(config(tmp_path / "set"), tokenizer=recorded)


def test_nothing_to_validate_on_is_no_error_but_nothing_to_train_on_is(tmp_path: Path) -> None:
    build_corpus(tmp_path, documents(20), validation_fraction=0.0)
    PackedSequences(config(tmp_path / "set"))
    held_out = PackedSequences(config(tmp_path / "set"), "validation")
    assert len(held_out) == 0
    assert "no validation split" in held_out.remark
    index = load_index(tmp_path / "set")
    swapped = {"train": index.splits["validation"], "validation": index.splits["train"]}
    (tmp_path / "set" / "index.json").write_bytes(index.model_copy(update={"splits": swapped}).dumps())
    with pytest.raises(DataError, match=r"train split holds no documents.*--document-separator"):
        PackedSequences(config(tmp_path / "set"))


@pytest.mark.parametrize(
    "changes",
    [{"sequence_length": 1}, {"sources": []}, {"workers": -1}, {"on_bad_sample": "ignore"}, {"shuffle": True}],
)
def test_configurations_are_checked(dataset: Path, changes: dict) -> None:
    with pytest.raises(ValidationError):
        config(dataset, **changes)
    with pytest.raises(ValidationError):
        config(sources=[{"path": dataset, "weight": 0}])


def test_the_tokenizer_comes_with_the_data(dataset: Path) -> None:
    sequences = PackedSequences(config(dataset))
    assert sequences.tokenizer.fingerprint == load_tokenizer(dataset).fingerprint
    assert sequences.vocabulary_size == sequences.tokenizer.size
