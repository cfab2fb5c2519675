"""`glm-scale plan`: which layouts there are, which fit, and how they are shown."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glm_scale.config import load_config
from glm_scale.parallel.mesh import Layout
from glm_scale.planning import GPUS, plan_layouts
from glm_scale.planning.plan import USABLE, layouts_over

CONFIGS = Path(__file__).parents[2] / "configs"


def planning(name, gpus, *overrides, gpu="h100"):
    return plan_layouts(load_config(CONFIGS / f"{name}.yaml", overrides), gpus, GPUS[gpu])


def test_every_way_to_write_a_number_as_a_product_is_a_layout():
    found = list(layouts_over(12))
    assert len(found) == len(set(found)) == 18
    assert all(layout.processes == 12 for layout in found)


def test_best_come_first_and_all_layouts_are_accounted_for():
    found = planning("1.3b", 16)
    fitting = [plan for plan in found.plans if plan.fits]
    times = [plan.seconds.total for plan in fitting]
    assert times == sorted(times)
    assert list(found.plans[: len(fitting)]) == fitting
    layouts = {plan.layout for plan in [*found.plans, *found.impossible]}
    assert layouts == set(layouts_over(16))


def test_what_cannot_be_says_why():
    (reason,) = [x.reasons for x in planning("160m", 9).impossible if x.layout == Layout(tensor=9)]
    assert any("12 heads" in line for line in reason)
    assert any("model.vocab_size does not divide into 9 tensor ranks" in line for line in reason)
    batch = [x.reasons for x in planning("160m", 9).impossible if x.layout == Layout(data=9)]
    assert "no multiple of training.micro_batch" in batch[0][0]


def test_a_layout_that_does_not_fit_is_tried_with_settings_that_need_less():
    (alone,) = planning("7b", 1, "training.activation_checkpointing=false").plans
    assert not alone.fits
    assert not alone.changed
    spread = next(x for x in planning("7b", 8).plans if x.layout == Layout(data=8))
    assert spread.fits
    assert spread.changed == ("training.zero_stage=2",)
    assert spread.memory.total <= USABLE * GPUS["h100"].memory


def test_more_ranks_hold_less_and_better_gpus_take_less_time():
    few, many = (planning("1.3b", gpus) for gpus in (2, 8))
    for axis in ("tensor", "data"):
        of = {gpus: next(x for x in found.plans if getattr(x.layout, axis) == gpus) for gpus, found in
              ((2, few), (8, many))}  # fmt: skip
        assert of[8].memory.total < of[2].memory.total
    assert planning("1.3b", 8, gpu="b200").plans[0].seconds.total < many.plans[0].seconds.total


def test_ten_thousand_gpus_take_seconds():
    started = time.perf_counter()
    found = planning("7b", 8192, "model.mixers=[lattice:2^k,attention]", "training.batch_tokens=67108864")
    assert found.plans
    assert found.plans[0].fits
    assert planning("7b", 10_000, "training.batch_tokens=40960000", "data.sequence_length=4000").plans
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_command(options):
    command = [sys.executable, "-m", "glm_scale.cli.app", "plan", str(CONFIGS / "1.3b.yaml"), "--gpus", "8", *options]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if not options:
        assert "data×seq×tensor" in shown
        assert "all-reduce" in shown
        return
    best = json.loads(shown)["plans"][0]
    assert best["data"] * best["sequence"] * best["tensor"] == 8
    assert best["memory"]["total"] == sum(v for name, v in best["memory"].items() if name != "total")
    assert {"axis", "collective", "sent", "calls"} == best["sent"][0].keys()


def test_an_unknown_gpu_is_refused():
    command = [sys.executable, "-m", "glm_scale.cli.app", "plan", str(CONFIGS / "1.3b.yaml"), "--gpu", "h1000"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "known are" in found.stderr
    assert "h100" in found.stderr
