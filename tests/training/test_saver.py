"""When a run saves."""

import pytest

from glm_scale.run.train import train
from glm_scale.training.saver import Saver
from tests.whole_runs import STEPS, Tree, config


def test_saving_the_same_step_twice_writes_once(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    save = Saver.save
    monkeypatch.setattr(Saver, "save", lambda self, *given: (written.append(given[0].step), save(self, *given))[1])
    train(config(tree, checkpoint__every=6, evaluation__every=None))
    assert written == [STEPS]
