"""Tasks in files of one's own, and the texts that they ask about."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

__all__ = ["choice_task", "task_file", "text_task"]


def choice_task(folder: Path, name: str = "choose", **more: Any) -> Path:
    """Ten questions with three answers each, of words in the tiny data set's alphabet."""
    draw = random.Random(4)

    def word() -> str:
        return "".join(draw.choices("abcdefgh", k=draw.randint(2, 6)))

    rows = [
        {
            "text": " ".join(word() for _ in range(draw.randint(2, 9))),
            "choices": [word(), word(), word()],
            "answer": i % 3,
        }
        for i in range(10)
    ]
    settings = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    }
    return task_file(folder, name, rows, **settings | more)


def text_task(folder: Path, text: str, name: str = "prose") -> Path:
    """Bits per byte of a text."""
    settings = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    return task_file(folder, name, [{"text": text}], **settings)


def task_file(folder: Path, name: str, rows: list[dict[str, Any]], **settings: Any) -> Path:
    """A task of lm-eval with data beside it; its path."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "tables")},
        "test_split": "test",
        **settings,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(task))
    return path
