"""A mixer of one's own is one file that keeps the contract (`running_sum.py`), and one line of the registry.

With them it goes through everything that the others go through.
"""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from glm_launch.cli.app import app
from glm_scale.mixers import parse_mixer
from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.scaling.style import style_of
from tests.mixers.running_sum import registered
from tests.run import sessions
from tests.tiny_run import SAME_LOSSES, tiny_config, write_config
from tests.tolerances import assert_close, rounding

pytestmark = pytest.mark.numeric


@pytest.fixture(autouse=True)
def known():
    with registered():
        yield


@torch.no_grad()
def test_the_model_trains_and_decodes_with_it_beside_the_others():
    config = ModelConfig(vocab_size=31, layers=2, width=16, heads=2, mixers=["sum", "lattice:2^k"], conv_width=3)
    model, tokens = LanguageModel(config), torch.randint(0, 31, (1, 20))
    starts = torch.tensor([[0] * 8 + [8] * 12], dtype=torch.int32)
    packed, caches, logits = model(tokens, starts), model.empty_caches(), []
    for t in range(8, 20):
        step, caches = model.step(tokens[:, t : t + 1], caches)
        logits.append(step)
    # Two layers of sums over 20 tokens and of projections of 16.
    assert_close(torch.cat(logits, 1), packed[:, 8:], rounding(torch.float32, 2 * (20 + 6 * 16)))


def test_it_cannot_be_composed_with_a_recurrence_unless_it_mixes_heads():
    with pytest.raises(ValueError, match=r"'sum' cannot stand before '>'"):
        parse_mixer("sum > lattice:2^k")


def glm(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def tree(data, tmp_path_factory):
    made = tiny_config(data, tmp_path_factory.mktemp("own"))
    made["model"]["mixers"] = ["sum", "lattice:2^k"]
    return made


def losses_on_a_rank(tree):
    with registered():
        sessions.run(tree)


@pytest.mark.exact
def test_every_command_takes_it(tree, tmp_path, processes):
    config = write_config(tmp_path / "own.yaml", tree)
    run, root = f"{tree['run_root']}/tiny", tree["run_root"]
    assert "sum+lattice:2^k" in glm("train", config)
    assert "one state a layer of sum" in glm("generate", run, "--tokens", 4)
    assert "sum+lattice:2^k" in glm("compare", root, "--output", tmp_path / "report")
    assert style_of("sum").colour == "#117733"
    (measured,) = json.loads(glm("patterns", "sum", "--length", 64, "--json"))
    assert (measured["reads_max"], measured["path_max"]) == (63, 1)
    # On two ranks, as planned.
    plan = glm("plan", config, "--gpus", 2)
    assert "cannot be split over 2 tensor ranks" in " ".join(plan.split())
    spread = {**tree, "name": "spread", "parallel": {"sequence": 2}}
    processes.run(2, losses_on_a_rank, spread)
    alone, over_ranks = (sessions.losses(Path(root, name), "train") for name in ("tiny", "spread"))
    assert over_ranks == pytest.approx(alone, rel=SAME_LOSSES)
