"""Names that are made for runs, keys and files: readable, told apart, and the same wherever they are read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_launch.checks import runs_of_sweep
from glm_scale.ladder import read_ladder
from glm_scale.naming import setting, slug
from tests.scaling.synthetic_runs import write_run
from tests.tiny_run import tiny_config, write_config

MIXERS = [
    "lattice:2^k", "lattice:2*k", "lattice:2+k", "lattice:k^2+1", "lattice:k2+1", "lattice:(k+1)*k", "lattice:k+1*k",
    "lattice:k/2", "lattice:k-2", "lattice:k^-2", "local:128 > lattice:2^k", "local:128+lattice:2^k",
    "lattice:floor(k*log(k+1))+k+1", "lattice:floor(k*log(k)+1)+k+1", "window:64", "attention", "-1", "1", "ü", "u",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("lattice:2^k", "lattice-2-pow-k"),
        ("offsets:k^2+1", "offsets-k-pow-2-plus-1"),
        ("local:128 > lattice:2^k", "local-128-then-lattice-2-pow-k"),
        ("ssm+attention", "ssm-plus-attention"),
        ("['ssm', 'attention']", "ssm-attention"),
        ("3e-4", "3e-4"),
        ("-0.5", "minus-0.5"),
        ("quickstart.v2_b", "quickstart.v2_b"),
    ],
)
def test_names_are_what_a_researcher_would_write(text, name):
    assert slug(text) == name


def test_spellings_that_differ_have_names_that_differ():
    assert len({slug(mixer) for mixer in MIXERS}) == len(MIXERS)


@settings(max_examples=30)
@given(st.text(min_size=1))
def test_every_name_stands_in_shells_and_urls_as_it_is(text):
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*|[A-Za-z0-9._-]*[A-Za-z0-9_]", slug(text))


def test_a_shell_reads_names_as_they_are():
    names = [slug(mixer) for mixer in MIXERS]
    told = subprocess.run(["sh", "-c", f"printf '%s\\n' {' '.join(names)}"], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == names


def test_settings_are_short():
    assert [setting("training.seed", 3), setting("training.device", "cpu")] == ["seed3", "device-cpu"]


def test_runs_of_ladders_and_sweeps_are_named_alike(tmp_path: Path) -> None:
    ladder = {"mixers": ["lattice:2^k"], "sizes": [{"model.layers": 1}, {"model.layers": 2}]}
    path = write_config(tmp_path / "c.yaml", {**tiny_config(tmp_path / "data", tmp_path), "ladder": ladder})
    assert [rung.config.name for rung in read_ladder(path).members] == [
        f"tiny-lattice-2-pow-k-layers{n}" for n in (1, 2)
    ]
    varied = runs_of_sweep([path], [], ["model.mixers=[[lattice:2^k], [ssm]]", "model.layers=[1, 2]"])
    assert [run.name for run in varied] == [
        "tiny-mixers-lattice-2-pow-k-layers1", "tiny-mixers-lattice-2-pow-k-layers2",
        "tiny-mixers-ssm-layers1", "tiny-mixers-ssm-layers2",
    ]  # fmt: skip


def test_runs_of_earlier_versions_keep_their_names(tmp_path: Path) -> None:
    ladder = {"mixers": ["lattice:2^k", "local:8 > window:4"]}
    path = write_config(tmp_path / "c.yaml", {**tiny_config(tmp_path / "data", tmp_path), "ladder": ladder})
    for name in ("tiny-lattice-2^k", "tiny-seed=1"):
        write_run(tmp_path / "runs", name, "lattice:2^k", steps=10)
    assert [rung.config.name for rung in read_ladder(path).members] == [
        "tiny-lattice-2^k",
        "tiny-local-8-then-window-4",
    ]
    assert [run.name for run in runs_of_sweep([path], [], ["training.seed=[1, 2]"])] == ["tiny-seed=1", "tiny-seed2"]
