"""Validation splits that are missing or small, and data sets of other tokenizers."""

import json
from pathlib import Path

import pytest

from glm_data import BuildConfig, DataConfig, PackedSequences, build
from tests.commands import Commands
from tests.data.corpora import build_corpus, documents
from tests.earlier.curves import losses_of
from tests.tiny_run import LENGTH, tiny_config, write_config


@pytest.fixture
def nothing_held_out(tmp_path: Path, data: Path) -> Path:
    texts = documents(40, longest=80)
    build_corpus(tmp_path / "whole", texts, vocabulary_size=None, tokenizer=data, validation_fraction=0.0)
    return tmp_path / "whole" / "set"


def test_a_run_without_a_validation_split_trains_and_says_so(
    command: Commands, tmp_path: Path, nothing_held_out: Path
) -> None:
    config = tiny_config(nothing_held_out, tmp_path)
    config["checkpoint"] |= {"keep_best": 1}
    path = write_config(tmp_path / "config.yaml", config)
    run = tmp_path / "runs" / "tiny"
    trained = command("train", path)
    assert trained.code == 0, trained.output
    log = (run / "train.log").read_text()
    for text in (trained.stdout, log):
        assert "there is no validation split, so training goes without a validation loss" in text, trained.output
    assert len(losses_of(run)) == 6
    kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "validation" not in kinds
    assert (run / "plots" / "loss.png").stat().st_size
    assert "Traceback" not in log
    again = command("train", path, "training.tokens=1024")
    assert again.code == 0, again.output
    assert len(losses_of(run)) == 8
    for arguments, word in (
        (("compare", tmp_path / "runs"), "finished"),
        (("status", tmp_path / "runs"), "finished"),
        (("checkpoint", "ls", run), "step"),
    ):
        shown = command(*arguments, directory=tmp_path)
        assert shown.code == 0, shown.output
        assert word in shown.stdout, shown.output
    refused = command("evaluate", run)
    assert refused.code == 2, refused.output
    assert "no validation split to evaluate on. Take --split train" in refused.stderr
    assert command("evaluate", run, "--split", "train", "--sequences", "2").code == 0


def test_a_small_validation_split_is_remarked_at_build_and_at_the_start(
    command: Commands, tmp_path: Path, data: Path
) -> None:
    sequences = PackedSequences(DataConfig(sources=[{"path": data}], sequence_length=LENGTH), "validation")
    source = tmp_path / "corpus.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(30, longest=60)))
    shown = command("data", "build", "-i", source, "-o", tmp_path / "set", "--vocab-size", "300")
    assert shown.code == 0, shown.output
    entry = json.loads((tmp_path / "set" / "index.json").read_text())["splits"]["validation"]
    small = f"the validation split is small: {entry['documents']} documents, {entry['tokens']:,} tokens"
    for text in (shown.stdout, command("data", "show", tmp_path / "set").stdout):
        assert f"{small}, {entry['text_bytes']:,} bytes of text. Its loss will be noisy" in text, shown.output
        assert "--validation-fraction" in text
    # More sequences to evaluate on than there are.
    config = tiny_config(data, tmp_path) | {"evaluation": {"every": None, "sequences": 10**6}}
    trained = command("train", write_config(tmp_path / "config.yaml", config))
    assert trained.code == 0, trained.output
    assert f"in {len(sequences)} sequences" in trained.stdout, trained.output
    assert "Its loss will be noisy" in (tmp_path / "runs" / "tiny" / "train.log").read_text()
    assert "validation loss" in trained.stdout


@pytest.mark.parametrize("remarks", ["none", "small", "enough"])
def test_what_is_said_of_a_validation_split(tmp_path: Path, remarks: str) -> None:
    count, fraction = {"none": (1, None), "small": (30, 0.1), "enough": (400, 0.5)}[remarks]
    index = build_corpus(tmp_path, documents(count, longest=900), validation_fraction=fraction)
    sequences = PackedSequences(DataConfig(sources=[{"path": tmp_path / "set"}], sequence_length=32), "validation")
    said = {"none": "no validation split", "small": "noisy", "enough": ""}[remarks]
    assert said in sequences.remark
    assert bool(sequences.remark) == bool(said)
    assert (index.splits["validation"].tokens > 20_000) == (remarks == "enough")


def test_one_of_several_sources_may_have_no_validation_split(data: Path, nothing_held_out: Path) -> None:
    alone, both = (
        PackedSequences(DataConfig(sources=[{"path": path} for path in paths], sequence_length=LENGTH), "validation")
        for paths in ([data], [nothing_held_out, data])
    )
    assert len(both) == len(alone) > 0
    assert [both[number].tokens.tolist() for number in range(len(both))] == [
        alone[number].tokens.tolist() for number in range(len(alone))
    ]


def test_a_split_shorter_than_a_sequence_makes_one(tmp_path: Path) -> None:
    build_corpus(tmp_path, ["one", "two"], vocabulary_size=300)
    config = DataConfig(sources=[{"path": tmp_path / "set"}], sequence_length=512)
    sequences = PackedSequences(config, "validation")
    assert len(sequences) == 1
    assert "in 1 sequence," in sequences.remark


def test_evaluation_on_foreign_data_says_how_to_build_them(command: Commands, tmp_path: Path, data: Path) -> None:
    trained = command("train", write_config(tmp_path / "config.yaml", tiny_config(data, tmp_path)))
    assert trained.code == 0, trained.output
    run = tmp_path / "runs" / "tiny"
    texts = documents(20, seed=7, longest=50)
    build_corpus(tmp_path / "foreign", texts, vocabulary_size=400)
    refused = command("evaluate", run, "--data", tmp_path / "foreign" / "set")
    assert refused.code == 2, refused.output
    assert f"glm-scale data build --input TEXT --output DIR --tokenizer {run}" in refused.stderr, refused.output
    checkpoint = max((run / "checkpoints").glob("step-*"))
    exported = tmp_path / "exported"
    assert command("checkpoint", "export", run, "--output", exported).code == 0
    for number, source in enumerate((run, checkpoint, exported, data)):
        output = tmp_path / f"again-{number}"
        source_text = tmp_path / "foreign" / "corpus.jsonl"
        built = command("data", "build", "-i", source_text, "-o", output, "--tokenizer", source)
        assert built.code == 0, built.output
    assert command("evaluate", run, "--data", tmp_path / "again-0").code == 0
    nowhere = command("data", "build", "-i", source_text, "-o", tmp_path / "no", "--tokenizer", tmp_path / "runs")
    assert (nowhere.code, "Traceback" in nowhere.stderr) == (2, False), nowhere.output


def test_a_build_says_that_nothing_is_held_out(tmp_path: Path) -> None:
    from glm_data.held_out import remark_on

    (tmp_path / "a.txt").write_text("the only document")
    index = build(BuildConfig(inputs=[tmp_path / "a.txt"], output=tmp_path / "set", vocabulary_size=300)).index
    assert "two documents or more" in remark_on([index.splits["validation"]])
