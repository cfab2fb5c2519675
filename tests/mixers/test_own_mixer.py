"""A mixer of one's own is a class that keeps the contract and one line of the registry."""

from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch

from glm_scale.mixers import Mixer, registry
from glm_scale.model import LanguageModel, ModelConfig
from tests.tolerances import assert_close, rounding

pytestmark = pytest.mark.numeric


class RunningSum(Mixer):
    """y_i = W Σ_{j ≤ i} x_j within a document."""

    name = "sum"
    sequence_strategies = ("scan",)

    def __init__(self, dims):
        super().__init__()
        self.heads = dims.heads
        self.weight = torch.nn.Parameter(torch.eye(dims.width) / 10)

    def forward(self, x, sequence):
        sums = x.cumsum(1)
        if sequence.document_starts is None:
            return sums @ self.weight
        before = (sums - x).gather(1, sequence.document_starts.long()[..., None].expand_as(x))
        return (sums - before) @ self.weight

    def prefill(self, x, cache):
        sums = cache + x.cumsum(1)
        return sums @ self.weight, sums[:, -1:]

    step = prefill

    def empty_cache(self, batch, length=None):
        return self.weight.new_zeros(batch, 1, len(self.weight))

    def flops_per_token(self, length):
        return 2 * self.weight.numel()

    def cache_bytes(self, length):
        return self.weight[0].nbytes


@dataclass(frozen=True)
class RunningSumSpec:
    name: str = "sum"

    def build(self, dims):
        return RunningSum(dims)


@pytest.fixture
def registered(monkeypatch):
    line = {"sum": registry.Registered("sum", lambda spelling, argument: RunningSumSpec())}
    monkeypatch.setattr(registry, "MIXERS", MappingProxyType(registry.MIXERS | line))
    registry.parse_mixer.cache_clear()
    yield
    registry.parse_mixer.cache_clear()


@pytest.mark.usefixtures("registered")
@torch.no_grad()
def test_the_model_trains_and_decodes_with_it_beside_the_others():
    config = ModelConfig(vocab_size=31, layers=2, width=16, heads=2, mixers=["sum", "lattice:2^k"], conv_width=3)
    model, tokens = LanguageModel(config), torch.randint(0, 31, (1, 20))
    starts = torch.tensor([[0] * 8 + [8] * 12], dtype=torch.int32)
    packed, caches, logits = model(tokens, starts), model.empty_caches(), []
    for t in range(8, 20):
        step, caches = model.step(tokens[:, t : t + 1], caches)
        logits.append(step)
    # Two layers of sums over 20 rows and of projections of 16.
    assert_close(torch.cat(logits, 1), packed[:, 8:], rounding(torch.float32, 2 * (20 + 6 * 16)))


@pytest.mark.usefixtures("registered")
def test_it_cannot_be_composed_with_a_recurrence_unless_it_mixes_heads():
    with pytest.raises(ValueError, match=r"'sum' cannot stand before '>'"):
        registry.parse_mixer("sum > lattice:2^k")
