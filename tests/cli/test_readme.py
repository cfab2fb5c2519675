"""The commands in the README are commands that there are."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from glm_launch.cli.app import app

README = Path(__file__).parents[2] / "README.md"


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    return [line for line in "".join(blocks).splitlines() if line.startswith("glm-scale ")]


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words call, and what they give it."""
    command: Any = typer.main.get_command(app)
    while isinstance(command, typer.core.TyperGroup):
        name, *words = words
        command = command.commands[name]
    return command, words


@pytest.mark.parametrize("line", commands())
def test_a_command_takes_what_the_readme_gives_it(line: str) -> None:
    command, words = leaf(shlex.split(line, comments=True)[1:])
    command.make_context(command.name, words)
