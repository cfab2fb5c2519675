"""What launchers tell a process, and how processes wait for one another."""

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from glm_scale.errors import PassingError, UserError
from glm_scale.processes.environment import Place, launched
from glm_scale.processes.ports import reserved_port
from glm_scale.run.rendezvous import StoppedWaiting, meet
from glm_scale.training.distributed import resolve_device
from tests.commands import Commands
from tests.signals import handled
from tests.tiny_run import tiny_config, tiny_data, write_config

FOUR = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}


def test_the_variables_of_a_launcher_are_a_place() -> None:
    assert launched({}) is None
    assert launched({"LOCAL_RANK": "0", "MASTER_ADDR": "left over"}) is None
    assert launched(FOUR) == Place(1, 4, 1, "node1", 29500)
    assert launched({"RANK": "0", "WORLD_SIZE": "1"}) == Place(0, 1, 0), "who is alone meets nobody"
    assert launched({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}) is None


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is empty"),
        ({"RANK": "1"}, "WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        (FOUR | {"RANK": "4"}, "RANK is '4', but has to be a number from 0 to 3"),
        (FOUR | {"RANK": "-1"}, "RANK is '-1'"),
        (FOUR | {"WORLD_SIZE": "four"}, "WORLD_SIZE is 'four'"),
        (FOUR | {"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', but has to be a number of at least 1"),
        (FOUR | {"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
        (FOUR | {"MASTER_PORT": "70000"}, "MASTER_PORT is '70000', but has to be a number from 1 to 65535"),
        ({name: value for name, value in FOUR.items() if name != "MASTER_PORT"}, "MASTER_PORT is not set"),
        (FOUR | {"MASTER_ADDR": " "}, "MASTER_ADDR is ' '"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_NUM_TASKS=4"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2"),
    ],
)
def test_variables_that_make_no_sense_are_named_with_the_way_out(variables: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told) as raised:
        launched(variables)
    way_out = "unset RANK WORLD_SIZE" if {"RANK", "WORLD_SIZE"} & set(variables) else "srun --ntasks=1"
    assert way_out in str(raised.value)


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": ""}, {"RANK": "0"}])
def test_nothing_is_made_before_the_variables_are_right(
    command: Commands, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]
) -> None:
    config = write_config(tmp_path / "tiny.yaml", tiny_config(tiny_data(tmp_path_factory), tmp_path))
    refused = command("train", config, environment=variables)
    assert refused.code == 2, refused.output
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def port():
    """A port that nobody listens to, and nobody else is given."""
    with reserved_port() as reserved:
        yield reserved.getsockname()[1]


def test_who_waits_says_for_whom(port: int) -> None:
    told: list[str] = []
    with pytest.raises(PassingError, match="in vain for ranks 1, 2 of 3"):
        meet(Place(0, 3, 0, "127.0.0.1", port), 0.4, [], told.append, first_word=0.1)
    assert told[0].startswith(f"rank 0 is waiting for ranks 1, 2 of 3 at 127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT), ")
    with pytest.raises(PassingError, match=rf"rank 0 of 2 at 127\.0\.0\.1:{port} .*MASTER_ADDR.*Connection refused"):
        meet(Place(1, 2, 1, "127.0.0.1", port), 0.2, [], told.append)


def test_a_name_that_nobody_knows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*address: object, **settings: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("socket.create_connection", unknown)
    with pytest.raises(UserError, match=r"MASTER_ADDR is 'no-such-machine\.invalid'"):
        meet(Place(1, 2, 1, "no-such-machine.invalid", 29500), 9.0, [], unknown_name=0.0)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 85), (signal.SIGHUP, 85)])
def test_waiting_can_be_interrupted(port: int, rank: int, number: signal.Signals, code: int) -> None:
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if len(told) == 1:
            os.kill(os.getpid(), number)

    with handled(number), pytest.raises(StoppedWaiting) as raised:
        meet(Place(rank, 2, rank, "127.0.0.1", port), 60.0, [], tell, first_word=0.0)
    assert (raised.value.reason, raised.value.exit_code) == (number.name, code)
    assert f"stopped by {number.name}" in told[-1]


def test_all_meet_and_share_a_store(port: int) -> None:
    places = [Place(rank, 3, rank, "127.0.0.1", port) for rank in range(3)]
    stores: dict[int, object] = {}

    def come(place: Place) -> None:
        stores[place.rank] = meet(place, 60.0, [])

    threads = [threading.Thread(target=come, args=(place,)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stores[0].set("a", "b")  # type: ignore[attr-defined]
    assert stores[2].get("a") == b"b"  # type: ignore[attr-defined]


def test_a_signal_that_came_before_stops_the_waiting_at_once(port: int) -> None:
    with pytest.raises(StoppedWaiting, match="SIGUSR2"):
        meet(Place(1, 2, 1, "127.0.0.1", port), 60.0, [signal.SIGUSR2], lambda line: None)


def test_ranks_that_wait_for_one_that_never_comes_end_when_told(
    command: Commands, port: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tree = tiny_config(tiny_data(tmp_path_factory), tmp_path)
    config = write_config(tmp_path / "tiny.yaml", tree | {"parallel": {"data": 2}})
    variables = FOUR | {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with command.start("train", config, environment=variables) as waiting:
        waiting.wait_for(lambda: "waiting for rank 0 of 2" in waiting.stderr)
        waiting.send(signal.SIGTERM)
        assert waiting.wait() == 85, waiting.output
    assert "Traceback" not in waiting.output


def test_a_local_rank_beyond_the_gpus_that_are_seen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for name, value in (FOUR | {"WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"LOCAL_RANK is 1, but this process sees 1 GPU: .*CUDA_VISIBLE_DEVICES"):
        resolve_device("auto")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert resolve_device("auto").index == 1
