"""Runs on a cluster on which things go wrong: each comes to its end without a person, and says what happened.

They run side by side, each on nodes of its own, because they mostly wait: for time limits, dead nodes, the queue. They
do not all start side by side: dozens of processes that import at a time would keep one another from being in time.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient

from glm_launch.records import LaunchFolder
from glm_scale.tracking.state import TrackingState
from glm_scale.training import distributed
from tests.mlflow_server import Server
from tests.slurm.cluster import Cluster, cluster
from tests.slurm.lab import BATCH, TOKEN, Lab, losses
from tests.tiny_run import LENGTH, tiny_data

pytestmark = pytest.mark.timeout(1500)

Runs = Mapping[str, LaunchFolder]

STEPS, INTERVAL = 120, 20
OUTAGE = 10.0
SEEDS = [1, 2, 3, 4]
NODES = {
    "plain": {1, 2},
    "preempted": {3},
    "limited": {4},
    "orphaned": {5, 6},
    "killed": {7},
    "requeued": {8},
    "steady": {9},
    "diverging": {10},
    "unwanted": {11},
    "taken": {12},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch, cluster(nodes=12) as private:
        for name in list(os.environ):
            if name.startswith(("SLURM_", "SBATCH_")):
                patch.delenv(name)
        for name, value in private.environment.items():
            patch.setenv(name, value)
        # Compiled once, and not by every process of every job.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield Lab(private, tmp_path_factory.mktemp("slurm") / 'a lab\'s "runs"', tiny_data(tmp_path_factory))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    serving = Server(tmp_path_factory.mktemp("mlflow"))
    serving.start()
    yield serving
    serving.stop()


@pytest.fixture(scope="module")
def runs(lab: Lab, server: Server) -> Runs:
    """All runs, after what happens to them has happened."""

    def submit(
        name: str, *options: object, steps: int = STEPS, tasks: int = 2, pace: float = 0.1, spoiled: bool = False,
        **groups: Any,
    ) -> None:  # fmt: skip
        site = lab.folder / f"site-{name}.yaml"
        elsewhere = ",".join(f"127.0.0.{n}" for n in range(1, 13) if n not in NODES[name])
        site.write_text(f"partition: low\nsbatch: {{exclude: '{elsewhere}'}}\n")
        config = lab.config(name, steps, **groups)
        lab.submit(config, "--cluster", site, *options, tasks=tasks, pace=pace, spoiled=spoiled)

    # Not in the lab: MLflow cannot make an sqlite store in a folder with an apostrophe.
    # Once, and not in all of them at a time.
    distributed.load(torch.device("cpu"))
    to_file: dict[str, Any] = {"enabled": True, "uri": f"sqlite:///{lab.folder.parent}/mlflow.db"}
    # Made before, since a process that is killed while it makes one leaves a half of it.
    MlflowClient(to_file["uri"]).search_experiments()
    to_server = {"enabled": True, "uri": server.uri}
    # SLURM looks at the limits of time every 30 s, so it warns this one after 60 to 90 s.
    submit("limited", "--time", 3, "--lead", 90, tasks=1, steps=100, pace=0.8, tracking=to_server)
    lab.wait_for_step(lab.launch("limited"), 1)
    submit("orphaned", tasks=1, pace=0.2)
    submit("preempted", tracking=to_file)
    submit("killed", tracking=to_file)
    submit("requeued", tasks=1, pace=0.2)
    submit("unwanted", tasks=1, pace=0.2)
    submit("taken", tasks=1, pace=0.2)
    launches = {name: lab.launch(name) for name in NODES}
    with ThreadPoolExecutor() as pool:
        for happening in [pool.submit(happens, lab, launches, server) for happens in HAPPENINGS]:
            happening.result()
    for name in ("orphaned", "preempted", "killed", "requeued"):
        lab.wait_for_state(launches[name], "finished")
    submit("steady", tasks=1, pace=0.4)
    submit("diverging", tasks=1, spoiled=True, training={"bad_step_limit": 3})
    submit("plain", "--nodes", 2, parallel={"sequence": 2})
    local = lab.config("local", STEPS, parallel={"sequence": 2})
    lab.glm("submit", local.name, "--local", 4)
    # Not beside the others, which need the controller.
    _controller_restarted(lab, launches)
    submit_sweep(lab)
    submit_ladder(lab)
    submit_chain(lab)
    return launches


def submit_sweep(lab: Lab) -> None:
    config = lab.config("swept", 20)
    lab.glm(
        "submit", config.name, "--vary", f"training.seed={SEEDS}", "--concurrency", 2, "--tasks-per-node", 1,
        "--gpus-per-node", 1, "--partition", "low", "--time", 30,
    )  # fmt: skip


def submit_ladder(lab: Lab) -> None:
    """Two runs, and with each one that begins from it."""
    path = lab.config("climbed", 20)
    tree = yaml.safe_load(path.read_text())
    tree["model"] = {"vocab_size": tree["model"]["vocab_size"]}
    tree["training"] = {"device": "cpu", "batch_tokens": BATCH * LENGTH, "micro_batch": 1}
    tree["ladder"] = {"mixers": ["attention"], "sizes": [6e3], "tokens_per_parameter": [1, 2], "seeds": [0, 1]}
    path.write_text(yaml.safe_dump(tree))
    lab.glm(
        "ladder", "submit", path.name, "--tasks-per-node", 2, "--gpus-per-node", 2, "--partition", "low", "--time", 30,
    )  # fmt: skip


def submit_chain(lab: Lab) -> None:
    """Data, a run on it, and its evaluation."""
    (lab.folder / "text").mkdir()
    lines = (json.dumps({"text": f"The structure of {number} is not that of {number + 1}."}) for number in range(400))
    (lab.folder / "text" / "a.jsonl").write_text("\n".join(lines))
    options = ("--partition", "low", "--time", 30)
    build = ("data", "build", "--input", "text", "--output", "built", "--vocab-size", 300, "--workers", 1)
    said = lab.glm("submit-command", *options, "--", *build)
    config = lab.config("chained", 20, data={"sources": [{"path": "built"}]})
    lab.submit(config, *options, "--after", said.split()[1].rstrip(":"), tasks=1)
    evaluate = ("evaluate", "runs/chained", "--data", "built")
    lab.glm("submit-command", *options, "--after", "runs/chained", "--", *evaluate)


# What happens ---------------------------------------------------------------------------------------------------------


def _preempted(lab: Lab, runs: Runs, server: Server) -> None:
    lab.wait_for_step(runs["preempted"], 30)
    lab.cluster.run(
        "sbatch", "--partition=high", "--exclusive", "--nodelist=127.0.0.3", "--output=/dev/null", "--wrap", "sleep 1"
    )


def _node_dies(lab: Lab, runs: Runs, server: Server) -> None:
    lab.wait_for_step(runs["orphaned"], 30)
    (node,) = lab.nodes(runs["orphaned"])
    lab.cluster.stop_node(node)
    lab.note_reached(runs["orphaned"])


def _task_killed(lab: Lab, runs: Runs, server: Server) -> None:
    lab.wait_for_step(runs["killed"], 30)
    lab.cluster.signal_task(lab.job(runs["killed"]), 1, signal.SIGKILL)
    time.sleep(1)
    lab.note_reached(runs["killed"])


def _requeued_from_outside(lab: Lab, runs: Runs, server: Server) -> None:
    lab.wait_for_step(runs["requeued"], 30)
    lab.cluster.run("scontrol", "requeue", lab.job(runs["requeued"]))
    time.sleep(1)
    lab.note_reached(runs["requeued"])


def _controller_restarted(lab: Lab, runs: Runs) -> None:
    lab.wait_for_step(runs["steady"], 10)
    lab.cluster.drain("127.0.0.9")
    lab.cluster.stop_controller()
    time.sleep(2)
    lab.cluster.start_controller()
    # Until nodes have answered it, which takes seconds, it says of every new job that there are none for it.
    lab.cluster.wait_until("a controller that takes jobs", lambda: takes_jobs(lab.cluster))


def takes_jobs(slurm: Cluster) -> bool:
    return slurm.run("sbatch", "--test-only", "--partition=low", "--wrap", "true", check=False).returncode == 0


def _server_away(lab: Lab, runs: Runs, server: Server) -> None:
    lab.wait_for_step(runs["limited"], 10)
    server.stop()
    time.sleep(OUTAGE)
    server.start()


def _cancelled(lab: Lab, runs: Runs, server: Server) -> None:
    lab.wait_for_step(runs["unwanted"], 30)
    ended = lab.glm("cancel", runs["unwanted"].run.path, "--wait").splitlines()[-1]
    assert ended.startswith(f"{runs['unwanted'].run.path}: cancelled"), ended


def _cancelled_by_slurms_own_command(lab: Lab, runs: Runs, server: Server) -> None:
    lab.wait_for_step(runs["taken"], 30)
    lab.cluster.run("scancel", lab.job(runs["taken"]))


HAPPENINGS: tuple[Callable[[Lab, Runs, Server], None], ...] = (
    _preempted,
    _node_dies,
    _task_killed,
    _requeued_from_outside,
    _server_away,
    _cancelled,
    _cancelled_by_slurms_own_command,
)


# What becomes of the runs ---------------------------------------------------------------------------------------------


def test_a_run_on_two_nodes_has_the_losses_of_a_local_one(lab: Lab, runs: Runs) -> None:
    finished = lab.wait_for_state(runs["plain"], "finished")
    assert (finished.step, finished.steps, finished.restarts) == (STEPS, STEPS, ())
    local = lab.launch("local")
    lab.wait_for_state(local, "finished")
    assert losses(runs["plain"].run) == losses(local.run)


@pytest.mark.parametrize(
    ("name", "cause", "least"),
    [
        ("preempted", "preempted; saved in time", 30),
        ("limited", "time limit", 1),
        ("requeued", "requeued from outside", 20),
        ("killed", ("rank 1 killed by SIGKILL", "one of 2 ranks killed by SIGKILL"), 20),
        ("orphaned", "ended by SLURM or with its node", 20),
    ],
)
def test_a_run_that_was_interrupted_goes_on_from_its_newest_checkpoint(
    lab: Lab, runs: Runs, name: str, cause: str | tuple[str, ...], least: int
) -> None:
    launch = runs[name]
    state = lab.wait_for_state(launch, "finished")
    assert state.restarts[0].startswith(cause), state.restarts
    # SLURM may still be ending what it has interrupted when the next attempt, which is the same job, begins: it asks
    # that one's processes to stop, too, and kills a rank that is not yet ready to listen.
    of_the_end = re.compile(r"saved in time$|^(rank \d+|one of \d+ ranks) killed by SIG(TERM|KILL)")
    assert all(why.startswith(cause) or of_the_end.search(why) for why in state.restarts[1:]), state.restarts
    assert state.steps is not None
    assert sorted(losses(launch.run)) == list(range(1, state.steps + 1))
    second = launch.attempts()[1].beginning
    assert second.step >= least
    assert lab.reached_before(launch) - second.step <= INTERVAL
    assert {attempt.beginning.job for attempt in launch.attempts()} == {lab.job(launch).partition("_")[0]}


def test_a_controller_that_restarts_and_a_node_that_drains_disturb_nobody(lab: Lab, runs: Runs) -> None:
    state = lab.wait_for_state(runs["steady"], "finished")
    assert state.restarts == ()


def test_a_cancelled_run_has_saved_and_is_not_started_again(lab: Lab, runs: Runs) -> None:
    for name in ("unwanted", "taken"):
        state = lab.wait_for_state(runs[name], "cancelled")
        assert state.checkpoint is not None
        assert 30 <= state.checkpoint < STEPS
        assert len(runs[name].attempts()) == 1


def test_a_run_that_diverges_is_not_tried_again(lab: Lab, runs: Runs) -> None:
    state = lab.wait_for_state(runs["diverging"], "failed")
    assert "failed (deterministic): rank 0" in state.state
    assert "consecutive steps with a non-finite loss" in state.state
    assert len(runs["diverging"].attempts()) == 1
    assert lab.cluster.state(lab.job(runs["diverging"])) == "FAILED"


def test_each_run_is_one_run_in_mlflow(lab: Lab, runs: Runs, server: Server) -> None:
    stores = {
        f"sqlite:///{lab.folder.parent}/mlflow.db": ["preempted", "killed"],
        server.uri: ["limited"],
    }
    for name in itertools.chain.from_iterable(stores.values()):
        lab.wait_for_state(runs[name], "finished")
        deliver(lab, runs[name])
    for uri, names in stores.items():
        client = MlflowClient(uri)
        (experiment,) = [e for e in client.search_experiments() if e.name == "glm-scale"]
        copies = client.search_runs([experiment.experiment_id])
        for name in names:
            (copy,) = [copy for copy in copies if copy.info.run_name == name]
            assert copy.info.status == "FINISHED"
            history = client.get_metric_history(copy.info.run_id, "train/loss")
            assert {point.step: point.value for point in history} == losses(runs[name].run)


def deliver(lab: Lab, launch: LaunchFolder) -> None:
    """What a user is told to do if MLflow, on a machine as busy as this one, took longer than a run waits for it."""
    state = TrackingState.read_own(launch.run)
    if state is None or not state.complete:
        assert "deliver it with: glm-scale track sync" in lab.everything(launch)
        lab.glm("track", "sync", launch.run.path)


def test_a_sweep_runs_as_many_at_a_time_as_it_may(lab: Lab, runs: Runs) -> None:
    sweep = [lab.launch(f"swept-seed{seed}") for seed in SEEDS]
    for launch in sweep:
        lab.wait_for_state(launch, "finished")
    spans = [(a.beginning.time, a.end.time) for launch in sweep for a in launch.attempts() if a.end]
    assert max(sum(begin <= other[0] < end for begin, end in spans) for other in spans) <= 2
    assert len({tuple(losses(launch.run).values()) for launch in sweep}) == len(SEEDS)
    table = lab.glm("status", "runs")
    assert all(f"swept-seed{seed}" in table for seed in SEEDS)


def test_a_run_and_those_that_begin_from_it_are_one_job(lab: Lab, runs: Runs) -> None:
    trunks = [lab.launch(f"climbed-0000.01M-attention-002.0t-s{seed}") for seed in (0, 1)]
    for trunk in trunks:
        lab.wait_for_state(trunk, "finished")
        (attempt,) = trunk.attempts()
        assert attempt.end is not None
        branch = lab.launch(trunk.run.name.replace("002.0t", "001.0t")).run
        assert branch.read_summary().status == "finished"
        assert min(losses(branch)) > 1, "it has not trained again what it begins with"
    assert len({lab.job(trunk).partition("_")[0] for trunk in trunks}) == 1, "one array"
    assert "4 finished" in lab.glm("ladder", "status", "climbed.yaml")
    assert "have finished" in lab.glm("ladder", "submit", "climbed.yaml", "--tasks-per-node", 2, code=2)


def test_data_training_and_evaluation_wait_for_one_another(lab: Lab, runs: Runs) -> None:
    lab.wait_for_state(lab.launch("chained"), "finished")
    found: list[Path] = []

    def evaluated() -> bool:
        found[:] = [path for path in (lab.folder / "runs/commands").rglob("*_log.out") if "bits" in path.read_text()]
        return bool(found)

    lab.wait_until(lab.launch("chained"), "the evaluation", evaluated)


def test_a_wrong_configuration_never_reaches_the_queue(lab: Lab) -> None:
    before = lab.jobs()
    good = lab.config("good", 20)
    for wrong in (
        ["training.tokns=5"],
        ["data.sources=[{path: nowhere}]"],
        ["--tasks-per-node", 3],
        ["--gpus-per-node", 9, "--tasks-per-node", 1],
        ["--partition", "nonesuch"],
        ["--time", 3, "--lead", 120],
    ):
        options = [] if "--tasks-per-node" in wrong else ["--tasks-per-node", 1]
        lab.glm("submit", good.name, *options, *wrong, code=2)
    assert lab.jobs() <= before


def test_no_secret_is_written_anywhere(lab: Lab, runs: Runs) -> None:
    for launch in runs.values():
        for path in launch.run.path.rglob("*"):
            if path.is_file():
                assert TOKEN.encode() not in path.read_bytes(), path
    assert TOKEN.encode() not in (lab.folder.parent / "mlflow.db").read_bytes()
