"""Tasks by their names: those of lm-eval, YAML files of one's own, and recall at growing context."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_data import Tokenizer
from glm_scale.errors import UserError
from glm_scale.evaluation.recall import QUESTIONS, RECALL_TASKS, questions, recall_name

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

__all__ = ["Chosen", "LoadedTasks", "load_tasks", "require_lm_eval"]

_FEW_SHOT_SEED = 1234
_SHORTEST = 256
"""Tokens of the shortest context that recall is asked at by itself."""
_GENERATES = "generate_until"

_logger = logging.getLogger(__name__)


def require_lm_eval() -> None:
    """Raises UserError where lm-eval is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"tasks are measured with lm-eval, which is not installed ({error}): pip install 'glm-scale[eval]'"
        ) from error


@dataclass(frozen=True)
class Chosen:
    """Which tasks, how many questions of each (None: all), and how many examples in front (None: as the task says).

    `names`: names of lm-eval, paths of YAML files, `recall_needle` and `recall_pairs`. `include`: a folder of further
    YAML files. `context_lengths`: of the recall tasks; none: powers of two from 256 up to the length of training.
    """

    names: tuple[str, ...]
    limit: int | None = None
    few_shot: int | None = None
    include: Path | None = None
    context_lengths: tuple[int, ...] = ()

    def lengths(self, trained: int) -> tuple[int, ...]:
        """The context lengths for a model that was trained on sequences of `trained` tokens."""
        usual = tuple(1 << power for power in range(_SHORTEST.bit_length() - 1, trained.bit_length()))
        return tuple(sorted(set(self.context_lengths))) or usual or (trained,)

    @property
    def recalls(self) -> tuple[str, ...]:
        """Those of ours."""
        return tuple(name for name in self.names if name in RECALL_TASKS)


@dataclass(frozen=True)
class LoadedTasks:
    """What lm-eval's `evaluate` takes, with settings and data; `lengths` of the recall tasks by their names."""

    tasks: dict[str, Any]
    lengths: dict[str, int]

    @property
    def generating(self) -> list[str]:
        """Names of tasks for which texts are to be generated."""
        return [name for name, task in self.tasks["tasks"].items() if task.OUTPUT_TYPE == _GENERATES]

    def begin_anew(self) -> None:
        """Have the same examples in front of the same questions as the last time."""
        for task in self.tasks["tasks"].values():
            task.set_fewshot_seed(seed=_FEW_SHOT_SEED)


def load_tasks(chosen: Chosen, tokenizer: Tokenizer, trained: int) -> LoadedTasks:
    """The tasks with their data.

    Raises:
        UserError: lm-eval is not installed, there is no such task, or its data are not to be had.
    """
    require_lm_eval()
    lengths = chosen.lengths(trained) if chosen.recalls else ()
    if lengths and lengths[-1] > trained:
        _logger.warning("the model was trained on %d tokens at a time, and is asked at %d", trained, lengths[-1])
    recalled: dict[str, int] = {}
    found: list[Any] = []
    others = [name for name in chosen.names if name not in RECALL_TASKS]
    manager = _manager(others, chosen.include)
    for name in dict.fromkeys(chosen.names):
        if name not in RECALL_TASKS:
            found.append(_loaded(manager, name))
            continue
        for length in lengths:
            found.append(_recall_task(name, length, tokenizer, chosen.limit))
            recalled[recall_name(name, length)] = length
    try:
        loaded = LoadedTasks(dict(manager.load(list(_flat(found)))), recalled)
    except ValueError as error:
        raise UserError(f"--tasks {','.join(chosen.names)}: {error}") from error
    for task in loaded.tasks["tasks"].values():
        _set_few_shot(task, chosen.few_shot)
    loaded.begin_anew()
    return loaded


def _flat(found: Sequence[Any]) -> Iterator[Any]:
    """A tag of lm-eval's is a list of tasks."""
    for one in found:
        yield from one if isinstance(one, list) else [one]


def _manager(names: Sequence[str], include: Path | None) -> TaskManager:
    """One that knows the names; lm-eval's own tasks are looked through (15 s) only where they are needed."""
    from lm_eval.tasks import TaskManager

    if include is not None and not include.is_dir():
        raise UserError(f"--include-path {include}: there is no such folder")
    folder = str(include) if include else None
    own = TaskManager(include_path=folder, include_defaults=False)
    if all(name in own.all_tasks or _is_file(name) for name in names):
        return own
    return TaskManager(include_path=folder)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _loaded(manager: TaskManager, name: str) -> Any:
    if _is_file(name) and not Path(name).is_file():
        raise UserError(f"task {name}: there is no such file")
    if not _is_file(name) and name not in manager.all_tasks:
        raise UserError(f"there is no task {name!r}; {_nearest(name, manager.all_tasks)}")
    try:
        return manager._load_spec(name)
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"task {name}: {_line(error)}; it needs what lm-eval does not find") from error
    except Exception as error:
        # Tasks are anybody's code and data: whatever fails, it is this task that cannot be had.
        raise UserError(
            f"task {name}: its data cannot be loaded ({type(error).__name__}: {_line(error)}). lm-eval fetches what is "
            "not there from the Hugging Face Hub; without a network copy HF_HOME (~/.cache/huggingface) from a machine "
            "that has fetched it, or write a YAML file with data of your own: --tasks my-task.yaml"
        ) from error


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, [*RECALL_TASKS, *known], n=3)
    listed = "python -m glm_scale.evaluation ls tasks lists all, and a path ending in .yaml is a task of your own"
    return f"did you mean {', '.join(near)}? {listed}" if near else listed


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _set_few_shot(task: Task, number: int | None) -> None:
    """As lm-eval does it: a task that says 0 means it."""
    usual = task.get_config("num_fewshot")
    if number is not None and usual != 0:
        task.set_config(key="num_fewshot", value=number)
    elif usual is None:
        task.set_config(key="num_fewshot", value=0)


def _recall_task(name: str, length: int, tokenizer: Tokenizer, limit: int | None) -> Task:
    from glm_scale.evaluation.recall_task import RecallTask

    # The beginning token is one of them.
    asked = questions(name, length - 1, lambda text: len(tokenizer.encode(text)), min(limit or QUESTIONS, QUESTIONS))
    return RecallTask(recall_name(name, length), asked)
