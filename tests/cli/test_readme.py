"""The commands in the README and the documentation are commands that there are."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from glm_launch.cli.app import app
from glm_scale.config import layout_of, load_config
from glm_scale.planning.fitting import check_memory
from glm_scale.planning.room import Room

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs" / "pages").glob("*.md"))


def commands(*pages: Path) -> list[str]:
    text = "".join(page.read_text() for page in pages)
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for line in "".join(blocks).splitlines() if line.startswith("glm-scale ")]


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words call, and what they give it."""
    command: Any = typer.main.get_command(app)
    while isinstance(command, typer.core.TyperGroup):
        if words[0] not in command.commands:
            words = [command.default, *words]  # type: ignore[attr-defined]
        name, *words = words
        command = command.commands[name]
    return command, words


@pytest.mark.parametrize("line", dict.fromkeys(commands(README, *PAGES)))
def test_a_command_takes_what_is_written_of_it(line: str) -> None:
    command, words = leaf(shlex.split(line, comments=True)[1:])
    command.make_context(command.name, words)


def runs_on_a_laptop() -> list[str]:
    """Those that start a run where they are typed, unless they say that they need a GPU."""
    starts = re.compile(r"glm-scale (train|ladder|submit .*--local) ")
    looks = re.compile(r"glm-scale ladder (plan|status|fit) ")
    lines = [line for line in commands(README) if starts.match(line) and not looks.match(line)]
    return [line for line in lines if "GPU" not in line]


def test_the_readme_has_runs_for_a_laptop() -> None:
    assert {line.split()[1] for line in runs_on_a_laptop()} == {"train", "ladder", "submit"}


@pytest.mark.parametrize("line", runs_on_a_laptop())
def test_a_run_of_the_readme_finds_room_on_a_laptop(line: str) -> None:
    words = shlex.split(line, comments=True)
    (path,) = [word for word in words if word.startswith("configs/")]
    run = load_config(ROOT / path, [word for word in words if "=" in word and not word.startswith("-")])
    layout = layout_of(run, int(words[words.index("--local") + 1]) if "--local" in words else None)
    assert check_memory(run, layout, layout.processes, Room(8 * 10**9, "of a laptop")) == ""
