"""`glm-scale train` on GPUs: one device's losses in every layout of two, over NCCL, and exact resume."""

import json
import re
import statistics
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.earlier.curves import losses_of
from tests.tiny_run import glm_scale, tiny_config, tiny_data, write_config
from tests.tolerances import loss_curve, unit

LENGTH, STEPS = 256, 6
# Over the tokens of a batch, and in the products of two layers of up to 512 terms, forward and backward. In bf16 the
# roundings of a thousand tokens average out.
SAME = {"fp32": loss_curve(2 * (4 * LENGTH + 2 * 6 * 512), STEPS), "bf16": unit(torch.bfloat16) / 2}
GPUS = torch.cuda.device_count()

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not GPUS, reason="needs a CUDA device"), pytest.mark.timeout(600)]
two = pytest.mark.skipif(GPUS < 2, reason="needs two CUDA devices")

LAYOUTS = [
    ("lattice:2^k", "parallel.sequence=2", "training.zero_stage=1"),
    ("lattice:2^k", "parallel.tensor=2", "training.zero_stage=2"),
    ("lattice:k^2+1", "parallel.sequence=2", "training.zero_stage=3"),
    ("window:64", "parallel.sequence=2", "parallel.strategy=a2a"),
    ("offsets:2^k", "parallel.sequence=2", "training.zero_stage=0"),
    ("dense", "parallel.tensor=2", "parallel.shard_activations=true"),
    ("local:16 > lattice:2^k", "parallel.sequence=2", "training.activation_checkpointing=full"),
    ("lattice:2^k", "parallel.tensor=2", "training.activation_checkpointing=selective", "training.compile=true"),
    ("ssm", "parallel.sequence=2", "training.zero_stage=2"),
    ("ssm", "parallel.tensor=2", "parallel.shard_activations=true"),
    ("mamba2", "parallel.sequence=2", "training.zero_stage=1"),
    ("mamba2", "parallel.tensor=2", "training.zero_stage=2"),
    ("kda", "parallel.sequence=2", "parallel.strategy=scan"),
    ("gla", "parallel.tensor=2", "parallel.shard_activations=true"),
    ("attention", "parallel.sequence=2", "training.zero_stage=0"),
    ("attention", "parallel.data=2", "training.zero_stage=3"),
    ("lattice:2^k", "parallel.data=2", "training.compile=true"),
    ("lattice:2^k", "parallel.sequence=2", "training.compile=true"),
    ("lattice:k^2+1", "parallel.tensor=2", "parallel.shard_activations=true", "training.compile=true"),
    ("attention", "parallel.data=2", "training.zero_stage=3", "training.compile=true"),
]
BF16 = [
    ("lattice:2^k", "parallel.sequence=2", "training.zero_stage=1"),
    ("lattice:k^2+1", "parallel.tensor=2", "parallel.shard_activations=true"),
    ("ssm", "parallel.data=2", "training.compile=true"),
    ("attention", "parallel.data=2", "training.zero_stage=3"),
    ("attention", "parallel.sequence=2", "parallel.strategy=a2a"),
]
# One model of layers of every kind.
EVERY_MIXER = [
    "attention", "local:16", "ssm", "mamba2", "gla", "gated_deltanet", "kda", "log_linear", "window:64", "dense",
    "lattice:2^k", "lattice:k^2+1", "offsets:2^k", "offsets:k^2+1", "local:16 > lattice:2^k",
]  # fmt: skip


class Runs:
    """Runs of one small configuration."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder / "runs"
        config = tiny_config(
            data, folder, tokens=STEPS * 4 * LENGTH, batch_tokens=4 * LENGTH, device="cuda", deterministic=True
        )
        # At the rate of the tiny model rounding grows tenfold in every step of this one.
        config["training"]["optimizer"]["learning_rate"] = 1e-3
        config["training"]["compile"] = False
        config["model"] |= {"width": 256, "heads": 4, "mlp_width": 512}
        config["data"]["sequence_length"] = LENGTH
        self.config = str(write_config(folder / "small.yaml", config))
        self.alone = cache(self._alone)

    def glm(self, *arguments: str, code: int = 0) -> str:
        done = glm_scale(*arguments)
        assert done.returncode == code, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def train(self, name: str, mixers: list[str], *options: str, code: int = 0) -> list[float]:
        """The losses of all steps so far."""
        self.glm("train", self.config, f"name={name}", f"model.mixers={json.dumps(mixers)}", *options, code=code)
        return losses_of(self.folder / name)

    def _alone(self, mixer: str, precision: str) -> list[float]:
        name = re.sub(r"\W+", "-", f"alone {precision} {mixer}")
        return self.train(name, [mixer], f"training.precision={precision}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("gpus"), tiny_data(tmp_path_factory))


@two
@pytest.mark.parametrize(
    "setup", [("fp32", *setup) for setup in LAYOUTS] + [("bf16", *setup) for setup in BF16], ids=" ".join
)
def test_two_gpus_have_the_loss_curve_of_one(runs: Runs, setup: tuple[str, ...]) -> None:
    precision, mixer, *options = setup
    name = re.sub(r"\W+", "-", " ".join(setup))
    found = runs.train(name, [mixer], f"training.precision={precision}", *options)
    assert found == pytest.approx(runs.alone(mixer, precision), rel=SAME[precision])


def test_compiled_layers_have_the_losses_of_eager_ones(runs: Runs) -> None:
    """Vectors of three heads would put the weights of other layers at odd addresses."""
    options = ["training.precision=bf16", "model.width=192", "model.heads=3", "model.layers=4"]
    eager, compiled = (
        runs.train(f"compile-{value}", ["lattice:2^k", "ssm"], f"training.compile={value}", *options)
        for value in ("false", "true")
    )
    assert compiled == pytest.approx(eager, rel=SAME["bf16"])


def test_compiled_layers_get_their_weights_from_zero_3(runs: Runs) -> None:
    options = ["training.precision=bf16", "training.zero_stage=3", "model.layers=4"]
    eager, compiled = (
        runs.train(f"zero-{value}", ["lattice:2^k", "ssm"], f"training.compile={value}", *options)
        for value in ("false", "true")
    )
    assert compiled == pytest.approx(eager, rel=SAME["bf16"])


def test_in_bf16_models_learn_as_they_do_in_fp32(runs: Runs) -> None:
    """The mean loss of the last 50 of 200 steps lies within 2 σ of those of three seeds in fp32."""
    mixers, seeds = ("attention", "lattice:2^k", "lattice:k^2+1", "dense", "ssm"), (0, 1, 2)

    def learned(mixer: str, precision: str, seed: int) -> float:
        name = re.sub(r"\W+", "-", f"learned {precision} {mixer} {seed}")
        options = [f"training.precision={precision}", f"training.seed={seed}", f"training.tokens={200 * 4 * LENGTH}"]
        losses = runs.train(name, [mixer], *options, "evaluation.every=null", "checkpoint.every=null")
        assert len(losses) == 200
        return statistics.mean(losses[-50:])

    with ThreadPoolExecutor(4) as pool:
        wanted = [(mixer, "fp32", seed) for mixer in mixers for seed in seeds]
        wanted += [(mixer, "bf16", 0) for mixer in mixers]
        found = {run: pool.submit(learned, *run) for run in wanted}
    for mixer in mixers:
        exact = [found[mixer, "fp32", seed].result() for seed in seeds]
        off = found[mixer, "bf16", 0].result() - statistics.mean(exact)
        print(f"{mixer}: bf16 {off:+.4f} from the mean of {exact}, σ {statistics.stdev(exact):.4f}")
        assert abs(off) <= 2 * statistics.stdev(exact), mixer


@pytest.mark.parametrize(
    "layout",
    [
        ("training.precision=fp32",),
        ("training.precision=bf16",),
        pytest.param(("parallel.sequence=2", "training.precision=bf16"), marks=two),
        pytest.param(("parallel.data=2", "training.zero_stage=3"), marks=two),
    ],
    ids=" ".join,
)
def test_a_run_that_was_stopped_has_the_bits_of_one_that_was_not(runs: Runs, layout: tuple[str, ...]) -> None:
    name = re.sub(r"\W+", "-", "-".join(layout))
    whole = runs.train(f"whole-{name}", EVERY_MIXER, f"model.layers={len(EVERY_MIXER)}", *layout)
    for code, options in ((85, ["training.time_limit_minutes=0.0001"]), (0, [])):
        found = runs.train(
            f"stopped-{name}", EVERY_MIXER, f"model.layers={len(EVERY_MIXER)}", *layout, *options, code=code
        )
        assert len(found) == (STEPS if code == 0 else 1)
    assert found == whole
    told = runs.glm("checkpoint", "diff", str(runs.folder / f"whole-{name}"), str(runs.folder / f"stopped-{name}"))
    assert "tensors: the same, bit for bit" in told


@two
def test_a_run_goes_on_in_another_layout(runs: Runs) -> None:
    layouts = ("parallel.sequence=2", "parallel.tensor=2", "training.zero_stage=0")
    for index, layout in enumerate(layouts):
        last = layout == layouts[-1]
        limit = [] if last else ["training.time_limit_minutes=0.0001"]
        found = runs.train("moving", ["lattice:2^k"], layout, *limit, code=0 if last else 85)
        assert len(found) == (STEPS if last else index + 1)
    assert found == pytest.approx(runs.alone("lattice:2^k", "fp32"), rel=SAME["fp32"])
    assert "nats per token" in runs.glm("evaluate", str(runs.folder / "moving"))
    assert runs.glm("generate", str(runs.folder / "moving"), "--prompt", "abc", "--tokens", "8")
