"""Damaged data: never used, always named, and skipped without moving anything else if that is asked for."""

import random
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from glm_data import DataConfig, DataError, PackedSequences, batches, load_index
from glm_data.files import sha256_file, write_array, write_atomically
from glm_data.index import BLOCK_BYTES, DatasetIndex, Table
from glm_data.shards import SplitReader
from glm_data.verify import verify
from tests.data.corpora import build_corpus, documents


@pytest.fixture
def copy(tmp_path: Path, dataset: Path) -> Path:
    """A data set that may be damaged."""
    return shutil.copytree(dataset, tmp_path / "copy")


def config(path: Path, **settings: object) -> DataConfig:
    return DataConfig(**({"sources": [{"path": path}], "sequence_length": 64, "workers": 0} | settings))


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << (offset % 8)
    path.write_bytes(content)


def token_offsets(dataset: Path, document: int) -> tuple[Path, int, int]:
    """Shard, first byte and number of bytes of a training document's tokens, found by walking the tar file."""
    import tarfile

    for shard in load_index(dataset).splits["train"].shards:
        with tarfile.open(dataset / shard.name) as tar:
            for member in tar:
                if member.name == f"train-{document:010d}.tokens.npy":
                    return dataset / shard.name, member.offset_data + 128, member.size - 128
    raise AssertionError(document)


def read_all(dataset: Path) -> None:
    sequences = PackedSequences(config(dataset))
    for sample in range(sequences.sequences_per_epoch[0]):
        sequences[sample]


def test_every_flipped_byte_of_tokens_is_detected(copy: Path) -> None:
    index = load_index(copy)
    random_ = random.Random(0)
    for document in random_.sample(range(index.splits["train"].documents), 12):
        shard, begin, size = token_offsets(copy, document)
        for offset in {0, size - 1, random_.randrange(size)}:
            flip(shard, begin + offset)
            reader = SplitReader(copy, index, "train")
            with pytest.raises(DataError, match=rf"{shard.name}, sample train-{document:010d}: checksum mismatch"):
                reader.read(document, 0, reader.length(document))
            flip(shard, begin + offset)
    read_all(copy)


def test_a_piece_of_a_long_document_is_checked_without_reading_all_of_it(tmp_path: Path) -> None:
    """Only the block that holds the damage fails."""
    long = " ".join(documents(400, longest=900))
    build_corpus(tmp_path, [long, "short"], validation_fraction=0.0)
    path = tmp_path / "set"
    reader = SplitReader(path, load_index(path), "train")
    whole = reader.read(0, 0, reader.length(0)).copy()
    per_block = BLOCK_BYTES // 2
    assert len(whole) > 3 * per_block
    for start, stop in (
        (0, 5),
        (per_block - 3, per_block + 3),
        (per_block, 2 * per_block),
        (len(whole) - 2, len(whole) + 1),
    ):
        assert np.array_equal(reader.read(0, start, stop), whole[start:stop])
    shard, begin, _ = token_offsets(path, 0)
    flip(shard, begin + 2 * per_block + 7)
    damaged = SplitReader(path, load_index(path), "train")
    damaged.read(0, 0, per_block)
    damaged.read(0, 2 * per_block, 2 * per_block + 9)
    with pytest.raises(DataError, match="checksum mismatch in tokens 8192 and on"):
        damaged.read(0, per_block - 1, per_block + 1)


def test_skipping_pads_the_damaged_piece_and_moves_nothing(copy: Path, dataset: Path) -> None:
    document = 7
    shard, begin, size = token_offsets(copy, document)
    flip(shard, begin + size // 2)
    with pytest.raises(DataError, match=r"sample train-0000000007.*on_bad_sample=skip"):
        read_all(copy)
    whole, damaged = PackedSequences(config(dataset)), PackedSequences(config(copy, on_bad_sample="skip"))
    hit = 0
    for sample in range(whole.sequences_per_epoch[0]):
        expected, found, end = whole[sample], damaged[sample], 0
        assert np.array_equal(expected.document_starts, found.document_starts)
        for piece, _, count in whole.pieces(sample):
            part, end = slice(end, end + count), end + count
            if piece == document:
                hit += 1
                assert (found.labels[part] == -100).all()
                assert (found.tokens[part] == damaged.tokenizer.eos).all()
            else:
                assert np.array_equal(expected.tokens[part], found.tokens[part])
                assert np.array_equal(expected.labels[part], found.labels[part])
        assert len(found.problems) == sum(piece == document for piece, _, _ in whole.pieces(sample))
    assert hit


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_stop_with_the_plain_error_or_count(copy: Path, workers: int) -> None:
    shard, begin, _ = token_offsets(copy, 7)
    flip(shard, begin)
    epoch = PackedSequences(config(copy, on_bad_sample="skip")).sequences_per_epoch[0]
    with pytest.raises(DataError) as caught:
        list(batches(PackedSequences(config(copy)), 0, 4, stop=epoch, workers=workers))
    assert str(caught.value).startswith(str(shard))  # no traceback of a worker process around it
    sequences = PackedSequences(config(copy, on_bad_sample="skip"))
    problems = [
        problem for batch in batches(sequences, 0, 4, stop=epoch, workers=workers) for problem in batch.problems
    ]
    assert problems
    assert all("train-0000000007" in problem for problem in problems)


def test_a_truncated_or_missing_shard_is_named_when_it_is_opened(copy: Path) -> None:
    shard = copy / load_index(copy).splits["train"].shards[1].name
    content = shard.read_bytes()
    shard.write_bytes(content[:-512])
    with pytest.raises(DataError, match=rf"{shard.name}: the shard has {len(content) - 512} bytes"):
        PackedSequences(config(copy))
    shard.unlink()
    with pytest.raises(DataError, match=rf"{shard.name}: the shard cannot be read"):
        PackedSequences(config(copy))


def test_a_shard_that_shrinks_or_vanishes_while_it_is_read_is_named(copy: Path) -> None:
    reader = SplitReader(copy, load_index(copy), "train")
    shard, begin, size = token_offsets(copy, 3)
    with shard.open("r+b") as file:
        file.truncate(begin + size - 1)
    with pytest.raises(DataError, match="sample train-0000000003: the shard ends within the sample"):
        reader.read(3, 0, reader.length(3))
    reader.close()
    shard.unlink()
    with pytest.raises(DataError, match=r"sample train-0000000003: cannot be read: No such file"):
        reader.read(3, 0, 2)


@pytest.mark.parametrize("name", ["train.documents.npy", "validation.checksums.npy", "tokenizer.model"])
def test_a_flipped_byte_beside_the_shards_is_detected(copy: Path, name: str) -> None:
    flip(copy / name, (copy / name).stat().st_size - 1)
    split: Literal["train", "validation"] = "validation" if name.startswith("validation") else "train"
    with pytest.raises(DataError, match=name):
        PackedSequences(config(copy), split)


def test_verify_finds_what_no_sequence_reads(copy: Path) -> None:
    """A byte of the tar's own headers: of no use to the loader, but not what was built."""
    index = load_index(copy)
    shard = index.splits["train"].shards[0].name
    flip(copy / shard, 3)
    read_all(copy)
    assert verify(copy, index) == [f"{copy / shard}: checksum mismatch"]


def test_a_tokenizer_of_another_data_set_is_noticed(copy: Path, tmp_path: Path) -> None:
    build_corpus(tmp_path / "other", documents(20, seed=3))
    shutil.copy(tmp_path / "other" / "set" / "tokenizer.model", copy)
    with pytest.raises(DataError, match=r"tokenizer\.model: not the tokenizer that this data set was built with"):
        PackedSequences(config(copy))


def rewrite(dataset: Path, **changes: object) -> DatasetIndex:
    """Write an index that says something else, with a checksum that fits."""
    index = load_index(dataset).model_copy(update=changes)
    write_atomically(dataset / "index.json", index.dumps())
    return index


def test_token_ids_outside_the_vocabulary_are_named(copy: Path) -> None:
    index = load_index(copy)
    changed = index.model_copy(update={"vocabulary_size": 300})
    reader = SplitReader(copy, changed, "train")
    with pytest.raises(DataError, match=r"sample train-0000000000: token id \d+ is outside the vocabulary of 300"):
        reader.read(0, 0, reader.length(0))


def test_empty_documents_are_named_or_skipped(copy: Path) -> None:
    index = load_index(copy)
    table = np.load(copy / "train.documents.npy")
    table["tokens"][5] = 2
    write_array(copy / "train.documents.npy", table)
    entry = index.splits["train"]
    described = Table(name=entry.document_table.name, sha256=sha256_file(copy / "train.documents.npy"))
    splits = index.splits | {"train": entry.model_copy(update={"document_table": described})}
    rewrite(copy, splits=splits)
    with pytest.raises(DataError, match="sample train-0000000005: the document is empty"):
        PackedSequences(config(copy))
    sequences = PackedSequences(config(copy, on_bad_sample="skip"))
    problems = [problem for sample in range(sequences.sequences_per_epoch[0]) for problem in sequences[sample].problems]
    assert len(problems) == 1
    assert "train-0000000005: the document is empty" in problems[0]
