"""`glm-scale generate`: text on stdout, the report on stderr, the same seed the same text."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import glm_scale.inference
from glm_launch.cli.app import app
from glm_scale.model import LanguageModel, ModelConfig


class Letters:
    """Tokens 0–25 are letters."""

    size, bos, eos = 28, 26, 27

    def encode(self, text):
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, ids):
        return "".join(chr(ord("a") + token) for token in ids if token < 26)


@pytest.fixture
def command(monkeypatch, tmp_path):
    config = ModelConfig(vocab_size=28, layers=1, width=16, heads=2)
    loaded = SimpleNamespace(model=LanguageModel(config).eval(), tokenizer=Letters())
    monkeypatch.setattr(glm_scale.inference, "load_model", lambda path, device: loaded)
    return lambda *options: CliRunner().invoke(app, ["generate", str(tmp_path), "--device", "cpu", *options])


def test_text_goes_to_stdout_and_the_report_to_stderr(command):
    result = command("--prompt", "abc", "--tokens", "5", "--seed", "3")
    assert result.exit_code == 0
    assert result.stdout.startswith("abc")
    assert result.stdout.removesuffix("\n").isalpha()
    assert "4 prompt tokens" in result.stderr
    assert "cache" in result.stderr


def test_the_seed_decides_the_text(command):
    texts = [command("--tokens", "20", "--seed", seed).stdout for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("option", [("--top-p", "0"), ("--temperature", "-1"), ("--tokens", "0"), ("--device", "tpu")])
def test_impossible_options_are_refused(command, option):
    assert command(*option).exit_code == 2
