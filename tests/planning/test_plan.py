"""`glm-scale plan`: which layouts there are, which fit, and how they are shown."""

import json
import re
import sys
from pathlib import Path

import pytest

from glm_launch.cli.app import main
from glm_scale.config import load_config
from glm_scale.parallel.mesh import Layout
from glm_scale.planning import GPUS, activations, plan_layouts
from glm_scale.planning.plan import USABLE, layouts_over
from glm_scale.planning.report import DETAILS, LEGEND

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
    (alone,) = planning("7b", 1, "training.activation_checkpointing=none").plans
    assert not alone.fits
    assert not alone.changed
    spread = next(x for x in planning("7b", 4).plans if x.layout == Layout(data=4))
    assert spread.fits
    assert spread.changed == ("training.zero_stage=2",)
    assert spread.memory.total <= USABLE * GPUS["h100"].memory


def test_what_is_computed_again_is_as_little_as_fits():
    """What 1.3b needs without activation checkpointing by its micro-batch: at once, in part, or as a whole."""
    changed = {}
    for sequences in (1, 8, 32):
        (found,) = planning("1.3b", 1, "training.activation_checkpointing=none", f"training.micro_batch={sequences}",
                            "training.compile=false").plans  # fmt: skip
        assert found.fits
        changed[sequences] = found.changed
    again = "training.activation_checkpointing={}".format
    assert changed == {1: (), 8: (again("selective"),), 32: (again("full"),)}


def test_more_ranks_hold_less_and_better_gpus_take_less_time():
    few, many = (planning("1.3b", gpus) for gpus in (2, 8))
    for axis in ("tensor", "data"):
        of = {gpus: next(x for x in found.plans if getattr(x.layout, axis) == gpus) for gpus, found in
              ((2, few), (8, many))}  # fmt: skip
        assert of[8].memory.total < of[2].memory.total
    assert planning("1.3b", 8, gpu="b200").plans[0].seconds.total < many.plans[0].seconds.total


def test_of_ten_thousand_gpus_each_part_of_a_model_is_looked_at_once(monkeypatch):
    """Whatever else differs between layouts, and however many there are."""
    looked_at: list[tuple[str, int]] = []

    def looking(block, *others, trace=activations.trace_block):
        looked_at.append((block.mixer.name, block.mlp.up.out_features))
        return trace(block, *others)

    monkeypatch.setattr(activations, "trace_block", looking)
    found = planning("7b", 8192, "model.mixers=[lattice:2^k,attention]", "training.batch_tokens=67108864")
    assert found.plans
    assert found.plans[0].fits
    tensors = {plan.layout.tensor for plan in found.plans}
    assert len(looked_at) == len(set(looked_at)) == 2 * len(tensors)
    assert planning("7b", 10_000, "training.batch_tokens=40960000", "data.sequence_length=4000").plans


def shown(capsys, monkeypatch, *options, columns=None):
    """What the command prints into a pipe."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "argv", ["glm-scale", "plan", str(CONFIGS / "1.3b.yaml"), "--gpus", "8", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    return capsys.readouterr().out


def test_what_programs_read(capsys, monkeypatch):
    best = json.loads(shown(capsys, monkeypatch, "--json"))["plans"][0]
    assert best["data"] * best["sequence"] * best["tensor"] == 8
    assert best["memory"]["total"] == sum(v for name, v in best["memory"].items() if name != "total")
    assert {"axis", "collective", "sent", "calls"} == best["sent"][0].keys()
    assert 0 < best["mfu"] <= 1


@pytest.mark.parametrize("columns", [None, 60, 300])
def test_tables_are_narrow_and_fold_where_the_terminal_is_narrower(capsys, monkeypatch, columns):
    lines = shown(capsys, monkeypatch, "--details", "--all", columns=columns).splitlines()
    assert max(map(len, lines)) <= min(columns or 100, 100)


def test_times_are_said_to_be_upper_bounds_with_what_to_expect(capsys, monkeypatch):
    text = " ".join(shown(capsys, monkeypatch).split())
    assert "upper bounds of speed, by data sheets; real training takes longer. At an MFU of 15% to 40%" in text
    assert "tokens/s ≤" in text


@pytest.mark.parametrize("options", [[], ["--details"]])
def test_every_column_is_explained(capsys, monkeypatch, options):
    text = shown(capsys, monkeypatch, *options)
    tables = [line for line in text.splitlines() if "data×seq×tensor   " in line]
    explained = " ".join((LEGEND | (DETAILS if options else {})).keys()) + " ".join((LEGEND | DETAILS).values())
    columns = {column for line in tables for column in re.split(r"\s{2,}", line.strip())}
    assert len(tables) == (4 if options else 2)
    # From the first to the last of a row of columns.
    implied = {"all-gather", "reduce-scatter", "all-to-all", "total", "send", "all-reduce"}
    assert {column for column in columns if column not in explained} <= implied
    assert all(term.split(" … ")[0] in text for term in LEGEND)


def test_an_expectation_is_never_better_than_the_bound():
    plan = planning("1.3b", 8).plans[0]
    bound = plan.mfu(plan.seconds.total)
    assert 0.4 < bound < 1
    assert plan.seconds_at(bound / 2) == pytest.approx(2 * plan.seconds.total)
    assert plan.seconds_at(0.99) == plan.seconds.total
    # 6 FLOPs a parameter and token, and some more for the mixers.
    model = 6 * 1.3e9 * plan.tokens_per_step / (8 * 989e12) / plan.seconds.total
    assert bound == pytest.approx(model, rel=0.15)


def test_an_unknown_gpu_is_refused(command):
    found = command("plan", CONFIGS / "1.3b.yaml", "--gpu", "h1000")
    assert found.code == 2
    assert "known are" in found.stderr
    assert "h100" in found.stderr
