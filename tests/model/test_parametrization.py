"""The parametrization `mup`: what it scales, and that activations change alike at any width and depth."""

import pytest
import torch
from pydantic import ValidationError

from glm_scale.mixers.registry import MIXERS
from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.training.config import OptimizerConfig
from glm_scale.training.groups import group_keys, parameter_groups

HEAD, BASE, STEPS = 16, 128, 5
SPELLINGS = [
    "attention", "local:8", "ssm:8", "window:4", "dense", "lattice:2^k", "offsets:2^k", "mamba2:8", "gla:8",
    "gated_deltanet:8", "kda:8", "log_linear:8", "local:8 > lattice:2^k",
]  # fmt: skip


def config(width: int, mixer: str = "attention", layers: int = 2, **other: object) -> ModelConfig:
    sizes = {"vocab_size": 64, "layers": layers, "width": width, "heads": width // HEAD, "mlp_width": 2 * width}
    mup = {"parametrization": "mup", "base_width": BASE, "base_layers": 2}
    return ModelConfig.model_validate({**sizes, "mixers": (mixer,), "conv_width": 3, **mup, **other})


def standard(width: int) -> ModelConfig:
    return config(width, parametrization="standard", base_width=None, base_layers=None)


def test_every_mixer_is_checked() -> None:
    heads = {part.partition(":")[0] for spelling in SPELLINGS for part in spelling.split(" > ")}
    assert heads == MIXERS.keys()


def coordinates(model: LanguageModel, optimizer: OptimizerConfig) -> dict[str, float]:
    """The mean size of a coordinate of what each part gives, after a few steps, and of how far it has come."""
    found: dict[str, torch.Tensor] = {}

    def note(name: str) -> object:
        return lambda module, inputs, output: found.__setitem__(name, output.detach())

    for name, module in model.named_modules():
        if name.endswith((".mixer", ".mlp", ".stages.0.d", ".stages.0.dt", ".stages.0.q")) or name == "head":
            module.register_forward_hook(note(name))
    tokens = torch.randint(64, (2, 33), generator=torch.Generator().manual_seed(0))
    adamw = torch.optim.AdamW(parameter_groups(model, optimizer), lr=1.0, betas=(0.9, 0.95))
    first: dict[str, torch.Tensor] = {}
    for step in range(STEPS + 1):
        model(tokens[:, :-1])
        first = first or dict(found)
        if step == STEPS:
            break
        adamw.zero_grad()
        (model(tokens[:, :-1], labels=tokens[:, 1:]) / 64).backward()
        for group in adamw.param_groups:
            group["lr"] = optimizer.learning_rate * group["rate"]
        adamw.step()
    sizes = {f"{name} after": float(x.abs().mean()) for name, x in found.items()}
    return sizes | {f"{name} moved": float((x - first[name]).abs().mean()) for name, x in found.items()}


def mean_coordinates(made: ModelConfig) -> dict[str, float]:
    """Over a few draws of the weights."""
    optimizer = OptimizerConfig(learning_rate=2e-3)
    every = [coordinates(LanguageModel(made, seed=seed), optimizer) for seed in range(2)]
    return {name: sum(one[name] for one in every) / len(every) for name in every[0]}


@pytest.mark.numeric
@pytest.mark.parametrize("mixer", SPELLINGS)
def test_activations_are_as_large_and_move_as_far_at_any_width(mixer: str) -> None:
    """In layers 4 times as wide: as large to 20 %. What few numbers have, such as steps of Δ, moves less surely."""
    narrow, wide = (mean_coordinates(config(width, mixer)) for width in (BASE, 4 * BASE))
    off = {name: wide[name] / narrow[name] - 1 for name in narrow}
    assert not {name: by for name, by in off.items() if abs(by) > (0.2 if name.endswith("after") else 0.3)}


@pytest.mark.numeric
def test_without_it_they_are_not() -> None:
    """The check can fail: with one rate for all the wider model moves further."""
    narrow, wide = (mean_coordinates(standard(width)) for width in (BASE, 4 * BASE))
    assert max(wide[name] / narrow[name] for name in narrow if name.endswith("moved")) > 1.5


@pytest.mark.numeric
def test_the_stream_moves_as_far_at_any_depth() -> None:
    shallow, deep = (mean_coordinates(config(BASE, layers=layers)) for layers in (2, 8))
    assert deep["head moved"] == pytest.approx(shallow["head moved"], rel=0.25)


def test_the_base_is_as_without_it() -> None:
    base, plain = LanguageModel(config(BASE)), LanguageModel(standard(BASE))
    for (name, parameter), other in zip(base.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(parameter, torch.zeros_like(other) if name == "head.weight" else other), name
    assert set(group_keys(base, OptimizerConfig()).values()) == set(group_keys(plain, OptimizerConfig()).values())


def test_what_it_scales() -> None:
    model = LanguageModel(config(4 * BASE, "lattice:2^k", layers=6, base_layers=3))
    keys = group_keys(model, OptimizerConfig(weight_decay=0.1))
    rates = {name: key.rate for name, key in keys.items()}
    assert rates["embedding.weight"] == rates["head.weight"] == rates["blocks.0.mixer_norm.weight"] == 1
    assert rates["blocks.3.mixer.stages.0.q.weight"] == rates["blocks.3.mixer.stages.0.d.weight"] == 1 / 4
    assert rates["blocks.3.mixer.stages.0.d.bias"] == rates["blocks.3.conv.weight"] == 1
    assert rates["blocks.3.mixer.o.weight"] == 1 / 8
    assert rates["norm.weight"] == 1 / 4
    assert torch.equal(model.norm.weight, torch.full((4 * BASE,), 1 / 4))
    decays = {name: key.rate * key.weight_decay for name, key in keys.items() if key.weight_decay}
    assert set(decays.values()) == {0.1}
    assert not model.head.weight.any()
    std = (2 / (5 * BASE)) ** 0.5
    assert model.embedding.weight.std().item() == pytest.approx(std, rel=0.05)
    assert model.blocks[0].mixer.stages[0].q.weight.std().item() == pytest.approx(std / 2, rel=0.05)  # type: ignore
    assert model.blocks[0].mixer.o.weight.std().item() == pytest.approx(std / 2 / 6**0.5 / 2, rel=0.05)  # type: ignore
    muon = group_keys(model, OptimizerConfig(kind="muon"))
    assert muon["blocks.3.mixer.stages.0.q.weight"].rate == pytest.approx(1 / 2)
    assert muon["blocks.3.mixer.o.weight"].rate == pytest.approx(1 / 4)


def test_a_base_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="mup needs base_width"):
        config(128, base_width=None)
    with pytest.raises(ValidationError, match="base_width 128 of width 96 would have 640/96 of 5 heads; take one"):
        config(96, heads=5, head_dim=16)
    with pytest.raises(ValidationError, match="belong to parametrization: mup"):
        config(128, parametrization="standard")
