"""Every option and argument of every command, given values that nobody means: a message, never a traceback.

Commands are asked of the application, so that a new one is tried as well. What takes long or reaches beyond this
machine is replaced: what comes before has let the value pass.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from glm_data import DataError
from glm_kernels import PatternError
from glm_launch.cli.app import app
from glm_scale.config import load_config
from glm_scale.errors import UserError
from glm_scale.inference.sampling import Sampling
from tests.scaling.synthetic_runs import write_run
from tests.tiny_run import tiny_config, tiny_data, write_config

NUMBERS = ("inf", "-inf", "nan", "-1", "0", str(10**20), "1e999", "")
TEXTS = ("", "a" * 5000, "\x01\x1b[31m\n", "{folder}", "{file}", "{file}/below", "nowhere", "ünï=[1,\u202e", "\udcff")
# Of the values that are no numbers a number's parser takes none, and a text's takes numbers like any other.
FOR_NUMBERS, FOR_TEXTS = (*NUMBERS, "nowhere", "\udcff"), (*TEXTS, "nan", "-1")

# Where the command's work begins that is not to be done here.
WORK = (
    "glm_data.builder.build",
    "glm_data.demo.speeches",
    "glm_launch.command.submit",
    "glm_launch.doctor.examine",
    "glm_launch.local.start",
    "glm_launch.submit.submit",
    "glm_scale.bench.calibration.run.calibrate",
    "glm_scale.bench.decode.run.run_table",
    "glm_scale.bench.parallel.run.run_table",
    "glm_scale.inference.generation.Generation",
    "glm_scale.processes.launch",
    "glm_scale.planning.plan_layouts",
    "glm_scale.ladder.climb",
    "glm_scale.scaling.report.write_report",
    "glm_scale.tasks.running.run_tasks",
    "glm_scale.theory.measure",
    "glm_scale.theory.plots.plot_structures",
    "glm_scale.tracking.sync.sync",
    "glm_scale.inference.load_model",
    "glm_scale.run.train.train",
)


class ReachedError(UserError):
    """The work would begin now."""


def _commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, command in group.commands.items():
        found += _commands(command, (*path, name)) if hasattr(command, "commands") else [((*path, name), command)]
    return found


COMMANDS = dict(_commands(typer.main.get_command(app)))


@pytest.fixture(scope="module")
def around(tmp_path_factory):
    """What there is: a configuration, data, a run, a file, a folder."""
    folder = tmp_path_factory.mktemp("around")
    (folder / "file").write_text("a text\n")
    (folder / "folder").mkdir()
    config = write_config(folder / "tiny.yaml", tiny_config(tiny_data(tmp_path_factory), folder))
    run = write_run(folder / "runs", "made", "ssm", steps=20)
    return SimpleNamespace(folder=folder, config=str(config), run=str(run.path))


def _usual(name: str, around: SimpleNamespace) -> str:
    """A value that makes sense for an argument or option that is required."""
    values = {
        "config": around.config, "configs": around.config, "overrides": "training.seed=1", "structures": "ssm",
        "runs": around.run, "run": around.run, "checkpoint": around.run, "path": around.run, "first": around.run,
        "second": around.run, "command": "config", "data": str(around.folder), "inputs": str(around.folder / "file"),
        "output": str(around.folder / "new"), "files": str(around.folder / "file"), "folder": str(around.folder),
        "tokenizer": str(around.folder / "tokenizer.json"),
    }  # fmt: skip
    assert name in values, f"say which value of {name} makes sense, for the sake of the other options of its command"
    return values[name]


def _lines(command: Any, around: SimpleNamespace, share: int) -> Iterator[list[str]]:
    """Command lines in which one value at a time is one that nobody means; of `share` values each option has one."""
    takes_value = [p for p in command.params if not getattr(p, "is_flag", False) and "completion" not in str(p.name)]
    for number, odd in enumerate(takes_value):
        values = FOR_NUMBERS if odd.type_descriptor.annotation in (int, float) else FOR_TEXTS
        for value in values[number % share :: share]:
            text = value.format(folder=around.folder / "folder", file=around.folder / "file") if "{" in value else value
            options, arguments = [], []
            for parameter in takes_value:
                if parameter is not odd and not parameter.required:
                    continue
                given = text if parameter is odd else _usual(str(parameter.name), around)
                if parameter.param_type_name == "option":
                    options.append(f"{parameter.opts[0]}={given}")
                else:
                    arguments.append(given)
            yield [*options, "--", *arguments]


@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_value_of_any_option_ends_in_a_traceback(path, share, around, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for work in WORK:
        monkeypatch.setattr(work, _reached)
    runner, tried = CliRunner(), 0
    for line in _lines(COMMANDS[path], around, share):
        done = runner.invoke(app, [*path, *line])
        tried += 1
        what = (path, [word[:60] for word in line], done.exception)
        assert done.exception is None or isinstance(
            done.exception, SystemExit | UserError | DataError | PatternError
        ), what
        if isinstance(done.exception, SystemExit):
            assert done.exit_code in (1, 2), what
        message = str(done.exception)
        assert "validation error for" not in message, what
        assert "pydantic" not in message, what
    assert tried
    # Nothing was made that was not asked for.
    assert not [*tmp_path.iterdir()]


def _reached(*arguments: Any, **keywords: Any) -> Any:
    raise ReachedError("the work begins")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("generate {run} --temperature=inf", "--temperature 'inf' is no finite number"),
        ("generate {run} --temperature=nan", "temperature"),
        (f"generate {{run}} --seed={10**20}", "--seed"),
        (f"generate {{run}} --tokens={10**20}", "--tokens '100000000000000000000' does not fit into 64 bits"),
        (f"logs {{run}} --lines={10**20}", "--lines"),
        ("track sync {run} --timeout=inf", "--timeout 'inf' is no finite number"),
        ("compare {run} --output=", "--output is empty"),
        (f"compare {{run}} --output={'a' * 300}", "is too long for a file system"),
        (f"status {'a' * 5000}", "is too long for a file system"),
        ("config {config} training.optimizer.eps=inf", "training.optimizer.eps = 'inf'"),
    ],
)
def test_the_option_and_its_value_are_named(line, named, around, monkeypatch):
    for work in WORK:
        monkeypatch.setattr(work, _reached)
    done = CliRunner().invoke(app, line.format(run=around.run, config=around.config).split())
    assert done.exit_code != 0
    assert not isinstance(done.exception, ReachedError)
    assert named in (done.output if isinstance(done.exception, SystemExit) else str(done.exception))


FLOATS = (
    "training.optimizer.eps", "training.optimizer.learning_rate", "training.optimizer.weight_decay",
    "training.optimizer.clip", "training.schedule.final_fraction", "training.time_limit_minutes",
    "parallel.hang_seconds", "tracking.system_metrics", "model.rotary_base", "model.norm_eps",
)  # fmt: skip
INTEGERS = (
    "training.seed", "data.seed", "training.tokens", "training.micro_batch", "model.width", "model.layers",
    "model.vocab_size", "data.sequence_length", "data.workers", "evaluation.sequences", "checkpoint.keep",
    "parallel.tensor",
)  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *itertools.product(FLOATS, (".inf", "-.inf", ".nan")),
        *itertools.product(INTEGERS, (str(10**20), str(-(10**20)))),
    ],
)
def test_a_number_no_machine_can_work_with_is_refused_by_its_key(around, key, value):
    with pytest.raises(UserError) as caught:
        load_config(Path(around.config), [f"{key}={value}"])
    assert f"{key} = " in str(caught.value)


@pytest.mark.parametrize("name", ["a" * 300, "a/b", "..", "", "a b", "ü", "a\0b", "~", "-x"])
def test_a_name_that_is_no_directory_name_is_refused(around, name):
    with pytest.raises(UserError, match="name"):
        load_config(Path(around.config), [f'name="{name}"'])


def test_a_place_for_runs_that_is_a_file_or_cannot_be_is_refused(around, tmp_path):
    for place in (around.folder / "file", tmp_path / ("a" * 300), tmp_path / "/".join(["b" * 200] * 30)):
        refused = CliRunner().invoke(app, ["train", around.config, f"run_root={place}"])
        assert isinstance(refused.exception, UserError)
        assert "run_root" in str(refused.exception)


@pytest.mark.parametrize("values", [{"temperature": float("inf")}, {"seed": 10**20}, {"top_p": float("nan")}])
def test_sampling_itself_refuses_them_too(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Sampling(**values)
