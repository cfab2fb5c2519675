"""Real processes for tests: a pool that lives as long as the tests, with a process group of its own for every case."""

from __future__ import annotations

import gc
import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from glm_scale.processes.ports import reserved_port
from tests.forking import IMPORTS

_SECONDS, _MOMENT = 280, 2
"""How long a case may take (DeepSpeed compiles something on a new machine), and others after a failure."""
_MOST_THREADS = 32
"""Of a process. Groups live as long as what has used them, and each has a thread that wakes up a hundred times a
second: a pool that has kept many of them is made anew."""


class Pool:
    """Up to `size` processes over gloo. A rank that fails or hangs ends the case, and the pool starts anew."""

    def __init__(self, size: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        # The server that processes are forked from has done the imports.
        self._context.set_forkserver_preload([*IMPORTS, "tests.parallel.processes"])
        self._size = size
        self._workers: list[tuple[Any, Connection]] = []

    def run(self, size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `work(*arguments)`, a function of a module, returns on each rank of a group of `size`."""
        self._start()
        workers = self._workers[:size]
        with reserved_port() as reserved:
            for rank, (_, pipe) in enumerate(workers):
                pipe.send((rank, size, reserved.getsockname()[1], work, arguments))
            answers = self._answers([pipe for _, pipe in workers])
        failures = [f"rank {rank}:\n{text}" for rank, (right, text) in sorted(answers.items()) if not right]
        if failures or len(answers) < size:
            self.close()
            missing = sorted(set(range(size)) - answers.keys())
            raise AssertionError("\n".join([*failures, *([f"no answer from ranks {missing}"] if missing else [])]))
        if any(_threads(process.pid) > _MOST_THREADS for process, _ in workers):
            self.close()
        return [answers[rank][1] for rank in range(size)]

    def close(self) -> None:
        for process, _ in self._workers:
            process.kill()
            process.join()
        self._workers = []

    def _start(self) -> None:
        while len(self._workers) < self._size:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))

    def _answers(self, pipes: list[Connection]) -> dict[int, tuple[bool, Any]]:
        """By rank. After a failure others have a moment to fail too: the first to answer need not be the cause."""
        answers: dict[int, tuple[bool, Any]] = {}
        while len(answers) < len(pipes):
            seconds = _SECONDS if all(right for right, _ in answers.values()) else _MOMENT
            ready = wait([pipe for rank, pipe in enumerate(pipes) if rank not in answers], seconds)
            if not ready:
                break
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    answers[pipes.index(pipe)] = pipe.recv()
                except EOFError:
                    answers[pipes.index(pipe)] = False, "the process died"
        return answers


def _threads(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def _serve(pipe: Connection) -> None:
    # More, and processes would take turns at the cores of a small machine.
    torch.set_num_threads(1)
    # Newer torch renames collectives, which DeepSpeed, and torch of the oldest version that we take, know by old names.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    while True:
        try:
            rank, size, port, work, arguments = pipe.recv()
        except EOFError:
            return
        # What a launcher would say.
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in places.items()}
        try:
            dist.init_process_group("gloo", timeout=timedelta(seconds=_SECONDS))
            answer = True, work(*arguments)
        except BaseException:
            answer = False, traceback.format_exc()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        # What is left is looked through once.
        gc.collect()
        gc.freeze()
        pipe.send(answer)
