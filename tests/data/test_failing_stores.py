"""Stores that fail midway, refuse, or change beneath a build: nothing is lost, and it goes on where it stopped."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from glm_data import BuildConfig, DataError, build
from glm_data.builder import _Build
from glm_data.inputs import find_files
from tests.data.corpora import contents, read_documents
from tests.data.failing_server import Way
from tests.data.hugging_face import gpt2, saved

s3fs = pytest.importorskip("s3fs")

OBJECTS = 4
SIZE = 300_000
TEXTS = [f"{number}. " + "some words of a text " * 500 for number in range(OBJECTS * SIZE // 10_500)]


@pytest.fixture
def bucket(store: Any, tmp_path: Path) -> str:
    """Objects 0.jsonl and on, of as many texts each."""
    name = f"b{abs(hash(tmp_path))}"
    store.mkdir(name)
    for number in range(OBJECTS):
        store.pipe(f"{name}/{number}.jsonl", lines(TEXTS[number::OBJECTS]))
    return name


@pytest.fixture
def way(store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """To the store, for whoever opens it from now on."""
    there = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    found = Way((there.hostname or "", there.port or 0))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found.port}")
    s3fs.S3FileSystem.clear_instance_cache()
    yield found
    found.close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(gpt2(TEXTS[:2]), tmp_path_factory.mktemp("gpt2"), tokenizer_config={"eos_token": "<|endoftext|>"})


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def config(bucket: str, output: Path, tokenizer: Path) -> BuildConfig:
    return BuildConfig(
        inputs=[Path(f"s3://{bucket}/*.jsonl")], output=output, tokenizer=tokenizer, workers=1, shard_bytes=150_000
    )


def test_an_answer_that_ends_early_is_not_the_end_of_a_file(way: Way, bucket: str) -> None:
    found = find_files([Path(f"s3://{bucket}/0.jsonl")])
    way.cut_after(SIZE // 2)
    with pytest.raises(DataError, match=r"0\.jsonl: cannot be read: .*continues where it stopped"):
        read_documents(Path(found.files[0].place))


def test_a_store_that_comes_back_soon_is_waited_for(way: Way, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As they come: botocore asks again when it cannot connect, s3fs when an answer ends early.
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 5)
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    way.cut_after(SIZE // 2, refusals=2)
    assert read_documents(Path(f"s3://{bucket}/0.jsonl")).texts == TEXTS[::OBJECTS]


def test_a_build_goes_on_behind_its_finished_shards(way: Way, bucket: str, tmp_path: Path, tokenizer: Path) -> None:
    whole = build(config(bucket, tmp_path / "whole", tokenizer)).index
    assert len(whole.splits["train"].shards) > 5
    way.cut_after(int(OBJECTS * SIZE * 1.7))  # within the second pass
    with pytest.raises(DataError, match=r"jsonl: cannot be read: .*continues where it stopped"):
        build(config(bucket, tmp_path / "set", tokenizer))
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("train-*.tar")}
    assert 0 < len(finished) < len(whole.splits["train"].shards)
    way.mend()
    assert build(config(bucket, tmp_path / "set", tokenizer)).index == whole
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


@pytest.mark.parametrize("size", ["same", "other"])
def test_an_object_that_is_replaced_between_the_passes_is_noticed(
    store: Any, bucket: str, tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    others = [text.replace("words", "terms") for text in TEXTS[2::OBJECTS]][: None if size == "same" else -1]
    take = _Build._tokenizer

    def replaced(*given: Any) -> Any:
        store.pipe(f"{bucket}/2.jsonl", lines(others))
        return take(*given)

    with monkeypatch.context() as patch:
        patch.setattr(_Build, "_tokenizer", replaced)
        with pytest.raises(DataError, match=r"2\.jsonl: changed while the data set was being built.*again"):
            build(config(bucket, tmp_path / "set", tokenizer))
    if size == "other":
        with pytest.raises(DataError, match=r"unfinished data set made otherwise: the input files are .* --overwrite"):
            build(config(bucket, tmp_path / "set", tokenizer))
        return
    again = build(config(bucket, tmp_path / "set", tokenizer)).index
    assert again == build(config(bucket, tmp_path / "fresh", tokenizer)).index
    assert contents(tmp_path / "set") == contents(tmp_path / "fresh")


def test_an_object_that_goes_is_named(store: Any, bucket: str, tmp_path: Path, tokenizer: Path) -> None:
    (found,) = find_files([Path(f"s3://{bucket}/3.jsonl")]).files
    store.rm(f"{bucket}/3.jsonl")
    with pytest.raises(DataError, match=r"3\.jsonl: is not there any more\. Put it back"):
        found.opened()


def test_an_object_that_two_patterns_match_is_told(bucket: str) -> None:
    with pytest.raises(DataError, match=rf"s3://{bucket}/1\.jsonl: given more than once"):
        find_files([Path(f"s3://{bucket}/*.jsonl"), Path(f"s3://{bucket}/1.jsonl")])


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str], None]]:
    """A server that answers everything with one status and code."""
    answer: list[Any] = [403, "AccessDenied"]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, code = answer
            body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("MAX_ATTEMPTS", "1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    yield lambda status, code: answer.__setitem__(slice(None), (status, code))
    server.shutdown()
    server.server_close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("url", ["s3://closed/web", "s3://closed/web/a.jsonl", "s3://closed/web/*.jsonl"])
@pytest.mark.parametrize(
    ("status", "code", "way_out"),
    [
        (403, "AccessDenied", r"cannot be read: PermissionError.*Give credentials that may list and read it"),
        (404, "NoSuchBucket", r"there is no such object"),
        (503, "SlowDown", r"cannot be read: .*Run the same command again when it can be reached"),
    ],
)
def test_refusals_are_told_with_the_way_out(
    answering: Callable[[int, str], None], url: str, status: int, code: str, way_out: str
) -> None:
    answering(status, code)
    with pytest.raises(DataError, match=rf"closed.*{way_out}"):
        find_files([Path(url)])
