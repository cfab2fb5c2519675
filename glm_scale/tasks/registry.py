"""The tasks by the head word of their spelling. A new task is one new file and one line here."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from glm_scale.tasks.copying import read_copy, read_selective_copy
from glm_scale.tasks.multihop import read_multihop
from glm_scale.tasks.recall import read_recall, read_recall_gaps
from glm_scale.tasks.task import Task, TaskError

__all__ = ["TASKS", "USUAL_TASKS", "parse_task"]


class Registered(NamedTuple):
    """A task by its form, as error messages show it, and its reader, which takes (spelling, what stands behind its ':'
    or None)."""

    form: str
    read: Callable[[str, str | None], Task]


TASKS: Mapping[str, Registered] = MappingProxyType(
    {
        "copy": Registered("copy:n", read_copy),
        "recall": Registered("recall:p", read_recall),
        "recall_gaps": Registered("recall_gaps:p", read_recall_gaps),
        "multihop": Registered("multihop:h", read_multihop),
        "selective_copy": Registered("selective_copy", read_selective_copy),
    }
)

USUAL_TASKS = ("copy", "recall", "recall_gaps", "multihop:1", "multihop:2", "multihop:4", "selective_copy")


def parse_task(spelling: str) -> Task:
    """The task of a spelling. Raises TaskError for one that is none."""
    head, colon, argument = (piece.strip() for piece in spelling.partition(":"))
    if head not in TASKS:
        nearest = difflib.get_close_matches(head, TASKS, n=1)
        meant = f" (did you mean {TASKS[nearest[0]].form!r}?)" if nearest else ""
        raise TaskError(
            f"unknown task {head!r} in {spelling!r}{meant}; known are {', '.join(t.form for t in TASKS.values())}"
        )
    return TASKS[head].read(spelling, argument if colon else None)
