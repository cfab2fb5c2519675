"""Data sets from objects of a store on this machine: read in ranges, resumed, never made of two versions."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glm_data import BuildConfig, DataError, build
from glm_data.inputs import find_files
from glm_data.remote import _RANGE, url_of
from glm_data.text import Reading, read_blocks
from tests.data.corpora import build_inputs, documents, read_documents

s3fs = pytest.importorskip("s3fs")

TEXTS = documents(300)


@pytest.fixture
def bucket(store: Any, tmp_path: Path) -> str:
    name = f"b{abs(hash(tmp_path))}"
    store.mkdir(name)
    return name


def put_lines(store: Any, key: str, texts: list[str]) -> None:
    store.pipe(key, "".join(json.dumps({"text": text}) + "\n" for text in texts).encode())


def put_parquet(store: Any, key: str, texts: list[str]) -> None:
    written = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), written, row_group_size=50)
    store.pipe(key, written.getvalue())


def test_urls_are_told_from_files() -> None:
    assert url_of(Path("s3://bucket/a/b.jsonl")) == "s3://bucket/a/b.jsonl"
    assert url_of("gs://b/x") == "gs://b/x"
    assert url_of(Path("data/s3")) is None
    assert url_of(Path("/data/a:b")) is None


def test_objects_are_read_like_files(store: Any, bucket: str) -> None:
    put_lines(store, f"{bucket}/web/b.jsonl", TEXTS[:100])
    put_parquet(store, f"{bucket}/web/deep/c.parquet", TEXTS[100:])
    for name in ("web/.hidden.jsonl", "web/notes.md", "web/state.json"):
        store.pipe(f"{bucket}/{name}", b"{}")
    whole = find_files([Path(f"s3://{bucket}/web")])
    assert [file.name for file in whole.files] == ["b.jsonl", "deep/c.parquet"]
    assert whole.remarks.keys() == {"hidden", "format"}
    assert read_documents(Path(f"s3://{bucket}/web")).texts == TEXTS
    assert read_documents(Path(f"s3://{bucket}/web/b.jsonl")).texts == TEXTS[:100]
    assert read_documents(Path(f"s3://{bucket}/web/**/*.parquet")).texts == TEXTS[100:]


def test_a_data_set_of_objects_is_that_of_the_files(store: Any, bucket: str, tmp_path: Path) -> None:
    put_lines(store, f"{bucket}/a.jsonl", TEXTS)
    store.get(f"{bucket}/a.jsonl", str(tmp_path / "a.jsonl"))
    remote = build_inputs(tmp_path / "remote", Path(f"s3://{bucket}/a.jsonl"))
    local = build_inputs(tmp_path / "local", tmp_path / "a.jsonl")
    assert remote.documents_sha256 == local.documents_sha256
    assert remote.splits == local.splits


def test_what_is_not_there_is_told(store: Any, bucket: str) -> None:
    with pytest.raises(DataError, match=rf"s3://{bucket}/none: there is no such object"):
        find_files([Path(f"s3://{bucket}/none")])
    store.pipe(f"{bucket}/only.md", b"text")
    with pytest.raises(DataError, match=r"no text there\. Known are \.txt"):
        find_files([Path(f"s3://{bucket}/only.md")])


def test_a_replaced_object_is_not_read_as_two_halves(store: Any, bucket: str) -> None:
    put_lines(store, f"{bucket}/a.jsonl", ["x" * 1000] * (3 * _RANGE // 1000))
    blocks = read_blocks(find_files([Path(f"s3://{bucket}/a.jsonl")]).files[0], Reading())
    next(blocks)
    put_lines(store, f"{bucket}/a.jsonl", ["y" * 1000] * (3 * _RANGE // 1000))
    with pytest.raises(DataError, match=r"a\.jsonl: changed while the data set was being built"):
        list(blocks)


def test_a_store_that_dies_is_an_error_after_which_a_build_goes_on(
    store: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_lines(store, f"{bucket}/a.jsonl", ["z" * 1000] * (2 * _RANGE // 1000) + TEXTS)
    config = BuildConfig(
        inputs=[Path(f"s3://{bucket}/a.jsonl")], output=tmp_path / "set", vocabulary_size=300, workers=1
    )

    def dead(*_: object, **__: object) -> bytes:
        raise ConnectionError("Connection refused")

    with monkeypatch.context() as patch:
        fetch = s3fs.core.S3File._fetch_range
        patch.setattr(s3fs.core.S3File, "_fetch_range", lambda file, a, b: fetch(file, a, b) if a == 0 else dead())
        told = r"a\.jsonl: cannot be read: ConnectionError: Connection refused\. Run .*continues where it stopped\.$"
        with pytest.raises(DataError, match=told):
            build(config)
    assert build(config).index.counts.records == 2 * _RANGE // 1000 + len(TEXTS)


def test_so_it_is_while_a_table_is_read(store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_parquet(store, f"{bucket}/a.parquet", TEXTS)
    file = find_files([Path(f"s3://{bucket}/a.parquet")]).files[0]

    def dead(*_: object) -> bytes:
        raise ConnectionError("Connection refused")

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", dead)
    with pytest.raises(DataError, match=r"^s3://.*a\.parquet: cannot be read: ConnectionError"):
        list(read_blocks(file, Reading()))
