"""metrics.jsonl survives kills, keeps every number, and can be cut back for a resume."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_scale.tracking import MetricsLog, Record, read_metrics
from tests.tracking.synthetic_training import train

numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**63), 2**63) | st.booleans()


@given(
    kind=st.sampled_from(["train", "validation", "system", "event"]),
    step=st.integers(0, 10**12),
    tokens=st.integers(0, 10**15),
    flops=st.floats(0, 1e30),
    values=st.dictionaries(st.sampled_from(["loss", "lr", "grad_norm", "final", "x/y"]), numbers),
)
def test_every_record_reads_back_as_written_and_is_valid_json(kind, step, tokens, flops, values):
    line = Record(kind, step, tokens, flops, 1.5, values).to_json()

    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    back = Record.from_json(line)
    assert (back.kind, back.step, back.tokens, back.flops, back.time) == (kind, step, tokens, flops, 1.5)
    assert repr(dict(back.values)) == repr(values)


def test_scalars_of_other_libraries_become_numbers(tmp_path):
    with MetricsLog(tmp_path / "m.jsonl") as log:
        step: Any = numpy.int64(3)
        log.append("train", step=step, tokens=5, flops=7, loss=numpy.float32(0.5), bad=numpy.float64("nan"))

    (record,) = read_metrics(tmp_path / "m.jsonl")
    assert record.step == 3
    assert record.values["loss"] == 0.5
    bad = record.values["bad"]
    assert isinstance(bad, float)
    assert math.isnan(bad)


def test_what_is_no_number_is_refused(tmp_path):
    unknown: Any = "valid"
    with MetricsLog(tmp_path / "m.jsonl") as log:
        with pytest.raises(TypeError, match="list"):
            log.append("train", step=1, tokens=1, flops=1, loss=[1.0])
        with pytest.raises(ValueError, match="'valid'"):
            log.append(unknown, step=1, tokens=1, flops=1)
    assert (tmp_path / "m.jsonl").read_text() == ""


@given(cut=st.integers(0, 200))
def test_a_torn_last_line_is_ignored_and_cut_on_the_next_open(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("torn") / "m.jsonl"
    with MetricsLog(path) as log:
        train(log, 1, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    survivors = whole[: max(0, len(whole) - cut)].count(b"\n")

    assert [record.step for record in read_metrics(path)] == list(range(1, survivors + 1))
    with MetricsLog(path) as log:
        train(log, 9, 9)
    assert [record.step for record in read_metrics(path)] == [*range(1, survivors + 1), 9]


def test_a_torn_line_longer_than_a_block_is_cut(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(Record("train", 1, 1, 1.0, 1.0).to_json().encode() + b"\n" + b"\0" * 200_000)
    with MetricsLog(path) as log:
        assert log.append_here("system").step == 1
    assert len(list(read_metrics(path))) == 2


def test_a_damaged_line_in_the_middle_is_skipped_with_a_warning(tmp_path, caplog):
    path = tmp_path / "m.jsonl"
    with MetricsLog(path) as log:
        train(log, 1, 1)
    with path.open("ab") as file:
        file.write(b"\0\0\0\n{}\n[1]\n" + b'{"kind": "train", "step": null}\n')
    with MetricsLog(path) as log:
        train(log, 2, 2)
    assert [record.step for record in read_metrics(path)] == [1, 2]
    assert "line 2 is damaged" in caplog.text


def test_truncate_drops_later_steps_and_the_log_goes_on(tmp_path):
    path = tmp_path / "m.jsonl"
    with MetricsLog(path) as log:
        train(log, 1, 10)
        log.append("validation", step=10, tokens=100, flops=1.0, loss=2.0)
        assert log.truncate(after_step=6) == 5
        assert log.append_here("system", cpu_percent=1.0).step == 6
        train(log, 7, 8)
        assert log.truncate(after_step=8) == 0
    assert [(r.kind, r.step) for r in read_metrics(path)] == [
        *(("train", step) for step in range(1, 7)),
        ("system", 6),
        ("train", 7),
        ("train", 8),
    ]


def test_reading_by_kind_and_a_missing_file(tmp_path):
    with MetricsLog(tmp_path / "m.jsonl") as log:
        train(log, 1, 2)
        log.append("event", step=2, tokens=20, flops=0.0, message="resumed")
    assert [r.values for r in read_metrics(tmp_path / "m.jsonl", "event")] == [{"message": "resumed"}]
    assert list(read_metrics(tmp_path / "nothing.jsonl")) == []


def test_a_killed_writer_loses_no_record(tmp_path):
    path = tmp_path / "m.jsonl"
    program = (
        "import os, signal, sys; from glm_scale.tracking.metrics_log import MetricsLog\n"
        "log = MetricsLog(sys.argv[1])\n"
        "for step in range(100): log.append('train', step=step, tokens=0, flops=0.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [record.step for record in read_metrics(path)] == list(range(100))


def test_threads_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "m.jsonl") as log:
        threads = [threading.Thread(target=train, args=(log, 1, 100)) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            log.truncate(after_step=100)
            time.sleep(0.001)
    assert len(list(read_metrics(tmp_path / "m.jsonl"))) == 400
