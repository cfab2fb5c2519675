"""Runs on a private SLURM, submitted and watched as a user does it, and disturbed as life does it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from glm_launch.cli.app import app
from glm_launch.records import LaunchFolder
from glm_launch.status import RunState, states_of
from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import read_metrics
from tests.slurm.cluster import Cluster
from tests.tiny_run import LENGTH, tiny_config

BATCH = 4
TOKEN = "a-token-that-nobody-may-see"
_PATIENCE = 480.0


class Lab:
    """A folder with data and a cluster. `pace`: seconds that every step of its runs takes at least."""

    def __init__(self, cluster: Cluster, folder: Path, data: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self._data = data
        self._reached: dict[str, int] = {}
        folder.mkdir()
        (folder / "paced").mkdir()
        (folder / "paced" / "sitecustomize.py").write_text(_PACED)

    def config(self, name: str, steps: int, **groups: Mapping[str, Any]) -> Path:
        """A configuration file of a tiny run that saves every 20 steps; `groups` replace values."""
        content = tiny_config(self._data, Path(), tokens=steps * BATCH * LENGTH, micro_batch=1)
        content |= {"name": name, "run_root": "runs", "tracking": {"enabled": False}}
        content["model"]["heads"] = 4
        content["evaluation"] = {"every": None, "sequences": 4}
        content["checkpoint"] = {"every": 20, "keep": 2}
        for group, values in groups.items():
            content[group] = {**content.get(group, {}), **values}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def glm(self, *arguments: object, pace: float = 0.0, spoiled: bool = False, code: int = 0) -> str:
        """What `glm-scale` prints if these arguments are typed in this folder; fails if it does not end with `code`.

        In this process, which has imported already what it takes seconds to import.
        """
        paths = [str(self.folder / "paced"), os.environ.get("PYTHONPATH", "")]
        environment = {
            **self.cluster.environment,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "TEST_PACE": str(pace),
            "TEST_RATE": "nan" if spoiled else "",
            "MLFLOW_TRACKING_TOKEN": TOKEN,
            "OMP_NUM_THREADS": "1",
        }
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            done = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
        finally:
            os.chdir(before)
        ended = 2 if isinstance(done.exception, UserError) else done.exit_code
        if ended != code:
            raise RuntimeError(f"{arguments}: {ended}\n{done.output}{done.exception!r}\n{self.cluster.errors()}")
        return str(done.exception) if isinstance(done.exception, UserError) else done.output

    def submit(self, config: Path, *options: object, tasks: int = 2, **manner: Any) -> LaunchFolder:
        """One run, on one node unless the options say otherwise; `manner` goes to `glm`."""
        own = ["--tasks-per-node", tasks, "--gpus-per-node", tasks, "--time", 30, "--retry-delay", 1]
        self.glm("submit", config.name, *own, *options, **manner)
        return self.launch(config.stem)

    def launch(self, name: str) -> LaunchFolder:
        return LaunchFolder(RunDirectory(self.folder / "runs" / name))

    def state(self, launch: LaunchFolder) -> RunState:
        """As `glm-scale status` tells it."""
        (state,), remark = states_of([launch.run])
        assert not remark, remark
        return state

    def wait_for_state(self, launch: LaunchFolder, *words: str) -> RunState:
        """Until the state of a run begins with one of the words; fails if it has come to another end."""
        found: list[RunState] = []

        def there() -> bool:
            found[:] = [self.state(launch)]
            if found[0].state.startswith(("finished", "failed", "cancelled", "killed")):
                assert found[0].state.startswith(words), (found[0], self.everything(launch))
            return found[0].state.startswith(words)

        self.wait_until(launch, f"state {' or '.join(words)}", there)
        return found[0]

    def wait_for_step(self, launch: LaunchFolder, step: int) -> None:
        self.wait_until(launch, f"step {step}", lambda: reached(launch) >= step)

    def wait_until(self, launch: LaunchFolder, what: str, true: Callable[[], object]) -> None:
        try:
            self.cluster.wait_until(f"{launch.run.name}: {what}", true, _PATIENCE)
        except RuntimeError as error:
            raise AssertionError(f"{error}\n{self.everything(launch)}") from None

    def job(self, launch: LaunchFolder) -> str:
        submission = launch.submission()
        assert submission is not None
        return submission.job

    def jobs(self) -> set[str]:
        """All that SLURM has ever heard of."""
        return set(self.cluster.run("squeue", "-h", "-t", "all", "-o", "%i").stdout.split())

    def note_reached(self, launch: LaunchFolder) -> None:
        """How far the attempt that was just interrupted has come; the next one forgets what it makes again."""
        self._reached[launch.run.name] = reached(launch)

    def reached_before(self, launch: LaunchFolder) -> int:
        """How far the first attempt came; one that had time to save came as far as it saved."""
        end = launch.attempts()[0].end
        return self._reached.get(launch.run.name, end.step if end else 0)

    def nodes(self, launch: LaunchFolder) -> list[str]:
        """Those of the present attempt."""
        return self.cluster.run("scontrol", "show", "hostnames", launch.attempts()[-1].beginning.nodes).stdout.split()

    def everything(self, launch: LaunchFolder) -> str:
        """What there is to read about a run."""
        files = [*launch.path.glob("*.jsonl"), *launch.path.glob("*.out"), *launch.path.glob("*.err"), launch.run.log]
        return "\n".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in files if file.exists())


def losses(run: RunDirectory) -> dict[int, float]:
    """By step, each of which there is once."""
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    pairs = [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def reached(launch: LaunchFolder) -> int:
    """The last step that was measured."""
    metrics = launch.run.metrics
    return max((record.step for record in read_metrics(metrics, "train")), default=0) if metrics.exists() else 0


# Imported by every process at its start: where it trains, a step takes TEST_PACE seconds longer, and has the learning
# rate TEST_RATE if there is one.
_PACED = """
import os, sys, threading, time

def slow_down():
    while "glm_scale.training.loop" not in sys.modules:
        time.sleep(0.02)
    while (trainer := getattr(sys.modules["glm_scale.training.loop"], "Trainer", None)) is None:
        time.sleep(0.02)
    rate = trainer.learning_rate

    def paced(self):
        time.sleep(float(os.environ["TEST_PACE"]))
        return float(os.environ["TEST_RATE"] or rate(self))

    trainer.learning_rate = paced

if "submitit.core._submit" in sys.orig_argv:
    threading.Thread(target=slow_down, daemon=True).start()
"""
