"""A build: what it makes, that it always makes the same, and that it survives being killed."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from glm_data import BuildConfig, DataError, Tokenizer, build, load_index, load_tokenizer
from glm_data.index import SPLITS
from glm_data.verify import verify
from tests.data.corpora import build_corpus, contents, documents, read_with_webdataset, write_jsonl


def test_shards_are_webdataset_files_that_hold_the_corpus(dataset: Path, texts: list[str]) -> None:
    tokenizer = load_tokenizer(dataset)
    index = load_index(dataset)
    found: list[str] = []
    for split in SPLITS:
        samples = read_with_webdataset(dataset, split)
        assert len(samples) == index.splits[split].documents
        assert [sample["__key__"] for sample in samples] == [f"{split}-{n:010d}" for n in range(len(samples))]
        for sample in samples:
            tokens = sample["tokens.npy"]
            assert tokens.dtype == np.uint16
            assert (tokens[0], tokens[-1]) == (tokenizer.bos, tokenizer.eos)
            text = tokenizer.decode(tokens)
            assert text == texts[sample["json"]["line"] - 1]
            assert sample["json"]["bytes"] == len(text.encode())
            found.append(text)
    assert sorted(found) == sorted(texts)
    assert len(index.splits["train"].shards) > 3


def test_the_index_counts_what_the_shards_hold(dataset: Path) -> None:
    index = load_index(dataset)
    assert verify(dataset, index) == []
    for split in SPLITS:
        samples = read_with_webdataset(dataset, split)
        entry = index.splits[split]
        assert entry.tokens == sum(len(sample["tokens.npy"]) for sample in samples)
        assert entry.text_bytes == sum(sample["json"]["bytes"] for sample in samples)
        assert entry.documents == sum(shard.documents for shard in entry.shards)


def test_the_result_does_not_depend_on_workers_or_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glm_data.builder._TOKENISE_BYTES_PER_WORKER", 50_000)
    texts = documents(1500, longest=200)
    for workers, place, block_size in ((1, "a", 1 << 20), (2, "elsewhere/b", 20_000)):
        monkeypatch.setattr("glm_data.text.BLOCK_SIZE", block_size)
        build_corpus(tmp_path / place, texts, shard_bytes=50_000, workers=workers)
    first = contents(tmp_path / "a" / "set")
    assert first == contents(tmp_path / "elsewhere/b" / "set")
    assert len(first) > 7


def test_duplicates_empty_and_bad_records_are_left_out_and_counted(tmp_path: Path) -> None:
    texts = documents(40)
    source = write_jsonl(tmp_path / "a.jsonl", [*texts[:20], *texts, "", " \n", texts[3]])
    with source.open("a") as file:
        file.write("{oops\n")
    config = BuildConfig(inputs=[source], output=tmp_path / "set", vocabulary_size=400, on_bad_record="skip")
    index = build(config).index
    assert index.counts.model_dump() == {"records": 64, "bad": 1, "empty": 2, "duplicates": 21}
    assert sum(split.documents for split in index.splits.values()) == 40
    lines = [sample["json"]["line"] for split in SPLITS for sample in read_with_webdataset(tmp_path / "set", split)]
    # The first of equal documents stays.
    assert sorted(lines) == [*range(1, 21), *range(41, 61)]


@pytest.mark.parametrize(
    ("count", "fraction", "held_out"), [(2, None, 1), (2, 0.5, 1), (3, 0.0001, 1), (1, 0.5, 0), (60, 0.0, 0)]
)
def test_small_corpora_have_both_splits(tmp_path: Path, count: int, fraction: float | None, held_out: int) -> None:
    index = build_corpus(tmp_path, documents(count), validation_fraction=fraction)
    assert index.splits["validation"].documents == held_out
    assert index.splits["train"].documents == count - held_out


def test_documents_stay_in_their_split_when_the_corpus_grows(tmp_path: Path) -> None:
    texts = documents(300)
    held_out = []
    for name, part in (("small", texts[:150]), ("large", list(reversed(texts)))):
        index = build_corpus(tmp_path / name, part, validation_fraction=0.2)
        assert 0.1 < index.splits["validation"].documents / len(part) < 0.3
        tokenizer = load_tokenizer(tmp_path / name / "set")
        samples = read_with_webdataset(tmp_path / name / "set", "validation")
        held_out.append({tokenizer.decode(sample["tokens.npy"]) for sample in samples})
    assert held_out[0] == held_out[1] & set(texts[:150])


def test_a_tokenizer_can_be_taken_from_another_data_set(tmp_path: Path, dataset: Path) -> None:
    index = build_corpus(tmp_path, documents(20, seed=5), vocabulary_size=None, tokenizer=dataset)
    assert index.tokenizer_sha256 == load_index(dataset).tokenizer_sha256
    assert (tmp_path / "set/tokenizer.model").read_bytes() == (dataset / "tokenizer.model").read_bytes()


def test_a_vocabulary_beyond_two_bytes_is_stored_in_four(tmp_path: Path) -> None:
    # As many characters as it takes, each often enough to be learned.
    words = [chr(0x10000 + number) * 2 for number in range(66_000)]
    texts = [" ".join(words[at : at + 100]) for at in range(0, len(words), 100)]
    index = build_corpus(tmp_path, texts, vocabulary_size=140_000, shard_bytes=10**9, validation_fraction=0.0)
    assert index.vocabulary_size > 1 << 16
    samples = read_with_webdataset(tmp_path / "set", "train")
    assert samples[0]["tokens.npy"].dtype == np.uint32
    tokenizer = load_tokenizer(tmp_path / "set")
    assert tokenizer.decode(samples[659]["tokens.npy"]) == texts[659]


def test_a_finished_data_set_is_left_alone_or_defended(tmp_path: Path) -> None:
    texts = documents(30)
    build_corpus(tmp_path, texts)
    before = contents(tmp_path / "set")
    source = tmp_path / "corpus.jsonl"

    def again(**changes: object) -> bool:
        defaults = {"inputs": [source], "output": tmp_path / "set", "vocabulary_size": 512, "shard_bytes": 8000}
        return build(BuildConfig(**(defaults | changes))).up_to_date

    assert again()
    with pytest.raises(DataError, match=r"vocabulary_size was 512 and is now 600.*--overwrite"):
        again(vocabulary_size=600)
    os.utime(source, (0, 0))
    assert again()
    changed = source.read_text().replace(texts[3].split()[1], texts[3].split()[1][::-1], 1)
    source.write_text(changed)
    with pytest.raises(DataError, match="the text of the input has changed"):
        again()
    source.write_text(source.read_text() + '{"text": "more"}\n')
    with pytest.raises(DataError, match="the input files are others"):
        again()
    assert contents(tmp_path / "set") == before
    assert not again(overwrite=True)
    assert sum(split.documents for split in load_index(tmp_path / "set").splits.values()) == 31


def test_other_peoples_files_are_not_touched(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", documents(5))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("…")
    config = BuildConfig(inputs=[source], output=tmp_path / "home", vocabulary_size=400, overwrite=True)
    with pytest.raises(DataError, match="holds files that are no data set"):
        build(config)
    assert contents(tmp_path / "home") == {"thesis.tex": "…".encode()}


def test_an_incomplete_data_set_is_not_up_to_date(tmp_path: Path) -> None:
    build_corpus(tmp_path, documents(30))
    (tmp_path / "set" / "train-00000.tar").unlink()
    with pytest.raises(DataError, match=r"train-00000\.tar: missing"):
        build_corpus(tmp_path, documents(30))


def test_two_builds_do_not_write_to_one_place(tmp_path: Path) -> None:
    from glm_data.build_journal import locked

    (tmp_path / "set").mkdir()
    with locked(tmp_path / "set"), pytest.raises(DataError, match="another build"):
        build_corpus(tmp_path, documents(3))


def test_input_without_documents_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no documents: 1 files, 2 empty"):
        build_corpus(tmp_path, ["", "\n"])


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", documents(3))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file"):
        build(BuildConfig(inputs=[source], output=tmp_path / "file" / "set"))


def test_input_that_changes_during_the_build_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import glm_data.builder as module

    def train_and_meddle(*arguments: Any) -> Tokenizer:
        tokenizer = original(*arguments)
        text = (tmp_path / "corpus.jsonl").read_text()
        (tmp_path / "corpus.jsonl").write_text(text[:-6] + "x" + text[-5:])
        return tokenizer

    original = module.train_tokenizer
    monkeypatch.setattr(module, "train_tokenizer", train_and_meddle)
    with pytest.raises(DataError, match=r"corpus\.jsonl: changed while"):
        build_corpus(tmp_path, documents(10))


def test_a_build_that_dies_at_any_point_can_be_finished(tmp_path: Path) -> None:
    """Dies at every single rename and flush, in fresh and in resumed builds; ends with the same bytes."""
    source = write_jsonl(tmp_path / "a.jsonl", documents(25, longest=200))
    config = {"inputs": [source], "vocabulary_size": 400, "shard_bytes": 3000, "workers": 1}
    build(BuildConfig(output=tmp_path / "whole", **config))
    script = Path(__file__).with_name("crash_build.py")
    finished = subprocess.run(
        [sys.executable, str(script), str(source), str(tmp_path / "set")], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) > 15
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "set") == whole
    for abandoned in tmp_path.glob("set-*"):
        build(BuildConfig(output=abandoned, **config))
        assert contents(abandoned) == whole


def test_resuming_does_not_tokenise_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import glm_data.tokenization as module

    texts = documents(60)
    build_corpus(tmp_path / "whole", texts, shard_bytes=3000)
    added: list[int] = []
    original = module.SplitOutput.add

    def add(output: module.SplitOutput, document: int, *rest: Any) -> None:
        if len(added) == 40:
            raise KeyboardInterrupt
        added.append(document)
        original(output, document, *rest)

    monkeypatch.setattr(module.SplitOutput, "add", add)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(tmp_path / "again", texts, shard_bytes=3000)
    monkeypatch.undo()
    resumed: list[int] = []

    def add_again(output: module.SplitOutput, document: int, *rest: Any) -> None:
        resumed.append(document)
        original(output, document, *rest)

    monkeypatch.setattr(module.SplitOutput, "add", add_again)
    build_corpus(tmp_path / "again", texts, shard_bytes=3000)
    assert contents(tmp_path / "whole" / "set") == contents(tmp_path / "again" / "set")
    assert len(resumed) < 40


def test_stopped_at_any_moment_it_continues_and_leaves_no_process(tmp_path: Path) -> None:
    """SIGKILL to the parent, or Ctrl-C to all, at random moments of a build with two worker processes."""
    texts = documents(1500, longest=200)
    index = build_corpus(tmp_path / "whole", texts, shard_bytes=20_000)
    source = tmp_path / "whole" / "corpus.jsonl"
    program = (
        "from pathlib import Path; import sys; from glm_data import builder, text\n"
        "builder._TOKENISE_BYTES_PER_WORKER, text.BLOCK_SIZE = 50_000, 10_000\n"
        "if __name__ == '__main__':\n"
        "    source, output = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "    settings = dict(vocabulary_size=512, shard_bytes=20_000, workers=2)\n"
        "    builder.build(builder.BuildConfig(inputs=[source], output=output, **settings))\n"
    )
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, str(tmp_path / "program.py"), str(source), str(tmp_path / "set")]
    begun = time.monotonic()
    subprocess.run([*command[:-1], str(tmp_path / "timed")], check=True, stderr=subprocess.DEVNULL)
    whole_build = time.monotonic() - begun
    random_ = random.Random(0)
    stopped = 0
    for number in (signal.SIGKILL, signal.SIGINT) * 3:
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        # Starting the interpreter takes a good part of a build, and what is done already is not done again.
        time.sleep(whole_build * random_.uniform(0.3, 0.6))
        if process.poll() is None:
            stop = os.kill if number == signal.SIGKILL else os.killpg
            stop(process.pid, number)
            stopped += 1
        process.wait(timeout=60)
        _wait_until_gone(process.pid)
    assert stopped
    subprocess.run(command, check=True)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole" / "set")
    assert load_index(tmp_path / "set") == index


def _wait_until_gone(session: int, seconds: float = 60) -> None:
    """Wait for the end of every process of a session."""
    deadline = time.monotonic() + seconds
    while alive := _processes(session):
        assert time.monotonic() < deadline, f"worker processes outlive the build: {alive}"
        time.sleep(0.02)


def _processes(session: int) -> list[int]:
    """Processes of a session, but for those that nobody has buried yet."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_an_edited_index_is_noticed(tmp_path: Path) -> None:
    build_corpus(tmp_path, documents(5))
    path = tmp_path / "set" / "index.json"
    content = json.loads(path.read_bytes())
    content["splits"]["train"]["documents"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"index\.json: the checksum does not match"):
        load_index(tmp_path / "set")
    path.write_text("{")
    with pytest.raises(DataError, match=r"index\.json: damaged"):
        load_index(tmp_path / "set")


def test_what_is_no_data_set_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no such data set.*data build"):
        load_index(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a data set"):
        load_index(tmp_path)
    (tmp_path / ".build").mkdir()
    with pytest.raises(DataError, match="not finished"):
        load_index(tmp_path)
