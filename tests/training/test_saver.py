"""When a run saves."""

from typing import Any

import pytest

from glm_scale.run.train import train
from glm_scale.training.saver import Saver
from tests.whole_runs import STEPS, Tree, config


def test_saving_the_same_step_twice_writes_once(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    save = Saver.save

    def noted(self: Saver, *given: Any) -> Any:
        written.append(given[0].step)
        return save(self, *given)

    monkeypatch.setattr(Saver, "save", noted)
    train(config(tree, checkpoint__every=6, evaluation__every=None))
    assert written == [STEPS]
