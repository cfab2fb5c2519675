"""What a compiler makes of layers on a GPU, where operators are others than on a CPU: one graph each."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from glm_kernels import Packing, fla
from glm_scale.model import LanguageModel, ModelConfig
from tests.gpus.test_training import EVERY_MIXER

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("packed", [True, False], ids=["documents", "one document"])
@pytest.mark.parametrize("mixer", EVERY_MIXER)
def test_a_layer_is_one_graph(mixer: str, packed: bool) -> None:
    if (operator := mixer.replace("deltanet", "delta_rule")) in fla.OPERATORS and fla.why_not(operator) is None:
        pytest.skip("fla's kernels are a break in a compiler's graph")
    torch._dynamo.reset()
    config = ModelConfig(layers=3, width=128, heads=2, mixers=(mixer,), vocab_size=32, conv_width=3)
    model, counter = LanguageModel(config).to("cuda", torch.bfloat16), CompileCounter()
    model.compile_blocks(counter)
    tokens = torch.arange(256, device="cuda")[None] % 32
    starts = (torch.arange(256, dtype=torch.int32)[None] // 100) * 100
    documents = {"document_starts": starts.cuda(), "packing": Packing.of(starts, tokens.device)} if packed else {}
    for _ in range(2):
        model(tokens, labels=tokens, **documents).backward()
    assert counter.frame_count == 1
