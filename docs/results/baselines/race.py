"""Baselines of this project against the layers of flash-linear-attention, each in the same model, in turns.

    race.py [gated_deltanet mamba2 …] [--layers 4] [--rounds 5] [--output race.json]

A model of this project, of which one form has this project's mixers and the other fla's own layers of the same sizes:
heads, state, convolution, gate and norm. Its blocks are compiled, so that what surrounds a mixer is the same to the
kernel. A step is a forward and a backward pass in bf16 over whole sequences, and fused AdamW. fla's mamba2 is made of
the Triton kernels of mamba_ssm, of which no more has to be there than `mamba_ssm/ops/triton`; its convolution is fla's.
"""

import argparse
import json
import logging
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
import triton
from torch import Tensor, nn

from glm_kernels.bench.timing import row_seconds
from glm_scale.model import LanguageModel, ModelConfig

WIDTH, HEADS, HEAD, STATE, CONVOLUTION = 2048, 16, 128, 128, 4


def gated_deltanet() -> nn.Module:
    from fla.layers import GatedDeltaNet

    return GatedDeltaNet(WIDTH, expand_v=1, head_dim=HEAD, num_heads=HEADS, conv_size=CONVOLUTION)


def kda() -> nn.Module:
    from fla.layers import KimiDeltaAttention

    return KimiDeltaAttention(WIDTH, expand_v=1, head_dim=HEAD, num_heads=HEADS, conv_size=CONVOLUTION)


def mamba2() -> nn.Module:
    from fla.layers import Mamba2

    layer = Mamba2(
        head_dim=HEAD, hidden_size=WIDTH, state_size=STATE, expand=1, conv_kernel=CONVOLUTION, backend="triton"
    )
    # In training mode it asks for a convolution that is not made by Triton. The other way has gradients, too.
    layer.train = lambda mode=True: layer  # type: ignore[method-assign]
    layer.training = False
    return layer


THEIRS: dict[str, Callable[[], nn.Module]] = {"gated_deltanet": gated_deltanet, "mamba2": mamba2, "kda": kda}


class Theirs(nn.Module):
    """A layer of fla where blocks have a mixer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, sequence: object) -> Tensor:
        mixed: Tensor = self.layer(x)[0]
        return mixed


class Racer:
    """One form of the model, and its steps."""

    def __init__(self, name: str, theirs: bool, layers: int, batch: int, length: int) -> None:
        torch.manual_seed(0)
        config = ModelConfig(
            layers=layers, width=WIDTH, heads=HEADS, mixers=(f"{name}:{STATE}",), vocab_size=32768, mlp_width=5632,
        )  # fmt: skip
        self.model = LanguageModel(config)
        if theirs:
            for block in self.model.blocks:
                block.mixer = Theirs(THEIRS[name]())
        self.model.to("cuda", torch.bfloat16).train()
        self.mixer_weights = sum(p.numel() for p in self.model.blocks[0].mixer.parameters())
        self.model.compile_blocks()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.tokens = torch.randint(32768, (batch, length), device="cuda")

    def step(self) -> Tensor:
        loss: Tensor = self.model(self.tokens, labels=self.tokens) / self.tokens.numel()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def race(name: str, options: argparse.Namespace) -> dict[str, object]:
    racers = {
        who: Racer(name, who == "fla", options.layers, options.batch, options.length) for who in ("glm-scale", "fla")
    }
    for who, racer in racers.items():
        losses = [float(racer.step()) for _ in range(4)]
        if not losses[-1] < losses[0]:
            raise SystemExit(f"{name} of {who} does not learn: losses {losses}")
        print(f"{name} of {who}: {racer.mixer_weights:,} weights a mixer, losses {losses}", flush=True)
    rounds = [{who: row_seconds(racer.step, "cuda", 5) for who, racer in racers.items()} for _ in range(options.rounds)]
    ratio = statistics.median(one["fla"] / one["glm-scale"] for one in rounds)
    tokens = options.batch * options.length
    speeds = {who: tokens / statistics.median(one[who] for one in rounds) for who in racers}
    print(f"{name}: {speeds['glm-scale']:,.0f} tokens/s, {ratio:.3f} of fla's {speeds['fla']:,.0f}", flush=True)
    return {"tokens_per_second": speeds, "ratio": ratio, "step_seconds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("mixers", nargs="*", default=["gated_deltanet", "mamba2"], help=", ".join(THEIRS))
    for option, value in {"layers": 4, "batch": 4, "length": 8192, "rounds": 5}.items():
        parser.add_argument(f"--{option}", type=int, default=value)
    parser.add_argument("--output", type=Path, help="JSON is written here")
    options = parser.parse_args()
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
    machine["fla-core"] = version("fla-core")
    print(machine, flush=True)
    found: dict[str, object] = {"machine": machine, "command": sys.argv[1:]}
    logging.basicConfig(level=logging.INFO)  # which kernels ours run on
    for name in options.mixers:
        found[name] = race(name, options)
        torch.cuda.empty_cache()
    if options.output:
        options.output.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
