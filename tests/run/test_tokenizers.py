"""A run on a data set with a tokenizer of Hugging Face: trained, stopped, gone on with, asked, exported."""

import json

from glm_data import BuildConfig, build, load_tokenizer
from tests.data.hugging_face import gpt2, saved
from tests.tiny_run import tiny_config, tiny_source, write_config


def test_a_run_keeps_its_tokenizer(command, tmp_path):
    source = tiny_source(tmp_path / "documents.jsonl")
    texts = [json.loads(line)["text"] for line in source.read_text().splitlines()]
    given = saved(gpt2(texts), tmp_path / "model")
    build(BuildConfig(inputs=[source], output=tmp_path / "data", tokenizer=given, validation_fraction=0.1, workers=1))
    tree = tiny_config(tmp_path / "data", tmp_path)
    tree["model"]["vocab_size"] = load_tokenizer(given).size
    config, run = write_config(tmp_path / "run.yaml", tree), tmp_path / "runs" / "tiny"
    for options in (["training.time_limit_minutes=0.0001"], []):
        done = command("train", config, *options)
        assert done.code == (85 if options else 0), done.output
    written = command("generate", run, "--prompt", texts[0][:9], "--tokens", "5")
    assert written.code == 0, written.output
    assert written.stdout.startswith(texts[0][:9])
    exported = command("checkpoint", "export", run, "--output", tmp_path / "exported")
    assert exported.code == 0, exported.output
    assert load_tokenizer(tmp_path / "exported").fingerprint == load_tokenizer(given).fingerprint
    judged = command("evaluate", tmp_path / "exported", "--rows", "2")
    assert judged.code == 0, judged.output
    again = command("data", "build", "-i", source, "--tokenizer", run, "-o", tmp_path / "again")
    assert again.code == 0, again.output
    assert load_tokenizer(tmp_path / "again").fingerprint == load_tokenizer(given).fingerprint
