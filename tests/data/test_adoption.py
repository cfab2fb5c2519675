"""Token files of other programs: read in place, cut into their documents, held to what they were."""

import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from glm_data import DataConfig, DataError, PackedSequences, SourceConfig, load_index, load_tokenizer
from glm_data.adoption import AdoptConfig, adopt
from glm_data.index import DatasetIndex
from glm_data.shards import SplitReader
from glm_data.tokenizers.hugging_face import HuggingFaceTokenizer
from glm_data.tokenizers.special_tokens import SpecialTokens
from glm_data.verify import verify
from tests.data.corpora import documents
from tests.data.hugging_face import gpt2, llama3

TEXTS = documents(60)


@cache
def tokenizer(family: str) -> HuggingFaceTokenizer:
    if family == "gpt2":
        return HuggingFaceTokenizer(gpt2(TEXTS).to_str().encode(), SpecialTokens("<|endoftext|>", "<|endoftext|>", {}))
    ends = SpecialTokens("<|begin_of_text|>", "<|end_of_text|>", {})
    return HuggingFaceTokenizer(llama3(TEXTS).to_str().encode(), ends)


def folder_of(family: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in tokenizer(family).files.items():
        (folder / name).write_bytes(content)
    return folder


def nanogpt(path: Path, behind: bool = True, dtype: str = "<u2") -> None:
    """Documents with the end token behind them, as nanoGPT has it, or in front, as llm.c."""
    ours = tokenizer("gpt2")
    parts = [[*ours.encode(text), ours.eos] if behind else [ours.eos, *ours.encode(text)] for text in TEXTS]
    np.array([index for part in parts for index in part], dtype).tofile(path)


def llmc(path: Path) -> None:
    nanogpt(path, behind=False)
    ids = path.read_bytes()
    path.write_bytes(struct.pack("<256i", 20240520, 1, len(ids) // 2, *[0] * 253) + ids)


def megatron(path: Path, kind: type = np.int32, family: str = "gpt2") -> None:
    builder, ours = IndexedDatasetBuilder(str(path), dtype=kind), tokenizer(family)
    for text in TEXTS:
        ids = ours.encode(text)
        # As two sentences, which are one document.
        builder.add_item(torch.tensor(ids[: len(ids) // 2]))
        builder.add_item(torch.tensor([*ids[len(ids) // 2 :], ours.eos]))
        builder.end_document()
    builder.finalize(str(path.with_suffix(".idx")))


def adopted(path: Path, family: str = "gpt2", **settings: object) -> tuple[DatasetIndex, Path]:
    output = path.parent / "set"
    given = folder_of(family, path.parent / "tokenizer")
    return adopt(AdoptConfig(inputs=[path], output=output, tokenizer=given, **settings)), output


def texts_of(output: Path, split: str) -> list[str]:
    index, known = load_index(output), load_tokenizer(output)
    reader = SplitReader(output, index, split)
    return [known.decode(reader.read(n, 0, reader.length(n)).tolist()) for n in range(len(reader))]


WRITERS = {
    "nanogpt": nanogpt,
    "in front": lambda path: nanogpt(path, behind=False),
    "llm.c": llmc,
    "megatron": megatron,
    "megatron uint16": lambda path: megatron(path, np.uint16),
    "megatron, other ends": lambda path: megatron(path, family="llama3"),
}


@pytest.mark.parametrize("form", WRITERS)
def test_documents_come_back_and_nothing_is_copied(tmp_path: Path, form: str) -> None:
    path, family = tmp_path / "tokens.bin", "llama3" if "other" in form else "gpt2"
    WRITERS[form](path)
    before = path.read_bytes()
    index, output = adopted(path, family, validation_fraction=0.2)
    held_out = texts_of(output, "validation")
    assert sorted([*texts_of(output, "train"), *held_out]) == sorted(TEXTS)
    assert 0 < len(held_out) < 30
    assert index.splits["train"].text_bytes == sum(len(text.encode()) for text in texts_of(output, "train"))
    assert path.read_bytes() == before
    assert sum(file.stat().st_size for file in output.iterdir()) < len(before) + 40_000
    assert verify(output, index) == []
    assert adopted(path, family, validation_fraction=0.2)[0] == index


def test_one_token_ends_a_document_and_begins_the_next(tmp_path: Path) -> None:
    """So that a model learns both: the first document of nanoGPT's has nothing in front."""
    nanogpt(tmp_path / "a.bin")
    _, output = adopted(tmp_path / "a.bin", validation_fraction=0.0)
    reader = SplitReader(output, load_index(output), "train")
    read = [reader.read(n, 0, reader.length(n)).tolist() for n in range(len(reader))]
    eos, encode = tokenizer("gpt2").eos, tokenizer("gpt2").encode
    assert read == [[*[eos] * (n > 0), *encode(text), eos] for n, text in enumerate(TEXTS)]


def test_a_run_reads_what_was_adopted(tmp_path: Path) -> None:
    megatron(tmp_path / "a.bin")
    _, output = adopted(tmp_path / "a.bin", validation_fraction=0.1)
    sequences = PackedSequences(DataConfig(sources=[SourceConfig(path=output)], sequence_length=64))
    seen = sequences[0]
    assert ((seen.labels[:-1] == seen.tokens[1:]) | (seen.labels[:-1] == -100)).all()
    (tmp_path / "a.bin").write_bytes((tmp_path / "a.bin").read_bytes()[:-4])
    with pytest.raises(DataError, match=r"a\.bin: the shard has .* bytes, the index says"):
        PackedSequences(DataConfig(sources=[SourceConfig(path=output)], sequence_length=64))


def test_changed_files_are_noticed_where_they_are_read(tmp_path: Path) -> None:
    nanogpt(tmp_path / "a.bin")
    _, output = adopted(tmp_path / "a.bin", validation_fraction=0.0)
    changed = bytearray((tmp_path / "a.bin").read_bytes())
    changed[40] ^= 1
    (tmp_path / "a.bin").write_bytes(changed)
    assert "a.bin: checksum mismatch" in verify(output, load_index(output))[0]
    with pytest.raises(DataError, match="checksum mismatch in tokens"):
        texts_of(output, "train")


def cut_off(write: Callable[[Path], None]) -> Callable[[Path], None]:
    def write_less(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[:-5])

    return write_less


def with_a_large_id(path: Path) -> None:
    nanogpt(path)
    ids = np.fromfile(path, "<u2")
    ids[1000] = 40_000
    ids.tofile(path)


def with_a_damaged_index(path: Path) -> None:
    megatron(path)
    index = path.with_suffix(".idx")
    index.write_bytes(index.read_bytes()[:60])


def with_a_gap(path: Path) -> None:
    megatron(path)
    index = bytearray(path.with_suffix(".idx").read_bytes())
    index[34] ^= 1  # the first length
    path.with_suffix(".idx").write_bytes(index)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (cut_off(nanogpt), "are no whole number of uint16 ids"),
        (cut_off(llmc), "but by its header"),
        (cut_off(megatron), "but by its index"),
        (with_a_large_id, r"token 1,000 has the id 40,000, but the tokenizer has 400 tokens"),
        (with_a_damaged_index, r"a\.idx: damaged, or no index of Megatron"),
        (with_a_gap, r"a\.idx: damaged: its documents do not lie one behind the other"),
        (lambda path: megatron(path, np.int64), "its ids are int64; those that can be read are uint16 and int32"),
        (lambda path: path.write_bytes(b""), "0 bytes are no whole number"),
        (lambda path: np.array([0, 5], "<u2").tofile(path), "holds no documents"),
    ],
)
def test_damage_is_told_by_its_place(tmp_path: Path, write: Callable[[Path], object], told: str) -> None:
    write(tmp_path / "a.bin")
    with pytest.raises(DataError, match=told):
        adopted(tmp_path / "a.bin")
    assert not (tmp_path / "set" / "index.json").exists()


def test_another_request_is_refused(tmp_path: Path) -> None:
    nanogpt(tmp_path / "a.bin")
    adopted(tmp_path / "a.bin", validation_fraction=0.1)
    with pytest.raises(DataError, match="holds another data set"):
        adopted(tmp_path / "a.bin", validation_fraction=0.2)
    adopted(tmp_path / "a.bin", validation_fraction=0.2, overwrite=True)


def test_ids_of_other_types(tmp_path: Path) -> None:
    nanogpt(tmp_path / "a.bin", dtype="<u4")
    with pytest.raises(DataError, match=r"every second id is 0.*--id-type uint32"):
        adopted(tmp_path / "a.bin")
    _, output = adopted(tmp_path / "a.bin", id_type="uint32", validation_fraction=0.0)
    assert texts_of(output, "train") == TEXTS
    nanogpt(tmp_path / "b.bin")
    megatron(tmp_path / "c.bin")
    both = [tmp_path / "b.bin", tmp_path / "c.bin"]
    with pytest.raises(DataError, match=r"of different types \(uint16, uint32\)"):
        adopt(AdoptConfig(inputs=both, output=tmp_path / "both", tokenizer=tmp_path / "tokenizer"))
