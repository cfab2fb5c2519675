"""A run's weights, loaded and evaluated again."""

from pathlib import Path

import pytest

from glm_scale.errors import UserError
from glm_scale.inference import load_model
from glm_scale.inference.evaluation import evaluate_model
from glm_scale.run.train import train
from glm_scale.tracking import read_metrics
from tests.tiny_run import SAME_LOSSES
from tests.whole_runs import Tree, config, run_of


def test_evaluating_a_checkpoint_gives_the_logged_validation_loss(tree: Tree) -> None:
    train(config(tree, evaluation__sequences=None))
    run = run_of(tree)
    (final,) = [record for record in read_metrics(run.metrics, "validation") if record.values.get("final")]
    result = evaluate_model(load_model(run.path), None, "validation", None, None)
    assert result.loss == pytest.approx(final.number("loss"), rel=SAME_LOSSES)
    assert result.bits_per_byte == pytest.approx(final.number("bits_per_byte"), rel=SAME_LOSSES)
    shorter = evaluate_model(load_model(run.checkpoint(4)), Path(tree["data"]["sources"][0]["path"]), "train", 16, 3)
    assert 0 < shorter.tokens <= 3 * 16


def test_tied_weights_stay_tied_when_loaded(tree: Tree) -> None:
    train(config(tree, model__tie_embeddings=True, training__zero_stage=3))
    model = load_model(run_of(tree).path).model
    assert model.head.weight is model.embedding.weight


def test_loading_needs_a_checkpoint(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run directory nor a checkpoint"):
        load_model(tmp_path)
    run_of(tree).create()
    with pytest.raises(UserError, match="no whole checkpoint"):
        load_model(run_of(tree).path)
