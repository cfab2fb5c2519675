"""Exported models compute in transformers what ours do."""

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.inference.hugging_face.exported import Export, export

pytest.importorskip("transformers")

MIXERS = [
    "attention", "local:1", "local:8", "ssm", "ssm:16", "dense", "window:1", "window:7", "offsets:2^k",
    "offsets:k^2+1", "lattice:2^k", "lattice:k^2+1", "lattice:floor(k*log(k+1))+k+1", "local:8 > lattice:2^k",
    "attention > window:4",
]  # fmt: skip
LENGTHS = [150, 1, 97]
PLAIN = [False, True]


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.fixture(scope="module", params=MIXERS)
def made(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Export, Any]:
    """A model of two layers of each mixer, the convolution in front of some, exported and loaded again."""
    width = 4 if request.param in ("ssm", "lattice:2^k", "attention") else 0
    shared = {"kv_heads": 1, "qk_norm": True} if ">" in request.param else {}
    exported = export(data, tmp_path_factory.mktemp("hf"), {"mixers": [request.param], "conv_width": width, **shared})
    return exported, exported.load()


@pytest.fixture(params=PLAIN, ids=["kernels", "plain"])
def plain(request: pytest.FixtureRequest, made: tuple[Export, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With glm_kernels, and as if they were not installed."""
    if request.param:
        mixing = sys.modules[type(made[1].model.layers[0].mixer).__module__]
        monkeypatch.setattr(mixing, "kernels", None)


@pytest.mark.numeric
@pytest.mark.usefixtures("plain")
@torch.no_grad()
def test_logits_and_loss_are_ours(made: tuple[Export, Any]) -> None:
    exported, model = made
    tokens, _ = exported.batch([150, 150])
    found = model(tokens, labels=tokens)
    close(found.logits, exported.model(tokens))
    summed = exported.model(tokens[:, :-1], labels=tokens[:, 1:])
    close(found.loss, summed / tokens[:, 1:].numel())


@pytest.mark.numeric
@pytest.mark.usefixtures("plain")
@torch.no_grad()
def test_padded_sequences_are_as_alone_in_any_pieces(made: tuple[Export, Any]) -> None:
    """Read at once, and in pieces of a cache; padding in front."""
    exported, model = made
    tokens, mask = exported.batch(LENGTHS)
    whole = model(tokens, attention_mask=mask).logits
    cache, pieces = None, []
    for begin, end in ((0, 60), (60, 61), (61, 140), *((at, at + 1) for at in range(140, 150))):
        output = model(tokens[:, begin:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        pieces.append(output.logits)
    for row, length in enumerate(LENGTHS):
        alone = exported.model(tokens[row : row + 1, -length:])[0]
        close(whole[row, -length:], alone)
        close(torch.cat(pieces, 1)[row, -length:], alone)


@pytest.mark.usefixtures("plain")
@torch.no_grad()
def test_the_cache_has_the_rows_that_are_left_to_read(made: tuple[Export, Any]) -> None:
    exported, model = made
    tokens, mask = exported.batch(LENGTHS)
    cache = model(tokens, attention_mask=mask, use_cache=True).past_key_values
    for count in range(150, 155):
        (bound,) = exported.model.cache_rows(count).values()
        assert cache.get_seq_length() == count
        assert all(rows <= (bound or 0) for rows in cache.rows)
        more = torch.ones(3, 1, dtype=torch.int64)
        mask = torch.cat([mask, more], 1)
        cache = model(more, attention_mask=mask, past_key_values=cache).past_key_values


def test_gradients_reach_every_parameter(made: tuple[Export, Any]) -> None:
    exported, model = made
    tokens, _ = exported.batch([20, 20])
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it gets another name
        model.gradient_checkpointing_enable()
    model(tokens, labels=tokens).loss.backward()
    model.eval()
    ours = exported.model
    (ours(tokens[:, :-1], labels=tokens[:, 1:]) / tokens[:, 1:].numel()).backward()
    found, wanted = model.model.embed_tokens.weight.grad, ours.embedding.weight.grad
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad()
    ours.zero_grad()
