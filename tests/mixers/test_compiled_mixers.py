"""A compiler sees a whole model as one graph: no mixer breaks it."""

import pytest
import torch

from glm_scale.model.config import ModelConfig
from glm_scale.model.transformer import LanguageModel
from tests.tolerances import assert_close, norm, rounding

pytestmark = pytest.mark.numeric

MIXERS = ("lattice:2^k", "offsets:k^2+1", "ssm", "attention", "local:3 > dense", "kda:4", "log_linear:4")


@pytest.mark.exact
@pytest.mark.parametrize("packed", [False, True])
def test_a_model_is_one_graph(packed):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=32, width=16, layers=len(MIXERS), heads=2, mixers=MIXERS))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    tokens = torch.randint(0, 32, (2, 20))
    starts = torch.tensor([0] * 11 + [11] * 9, dtype=torch.int32).expand(2, 20) if packed else None
    results = []
    for run in (model, compiled):
        model.zero_grad()
        loss = run(tokens, starts, tokens)
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    (loss, *gradients), (compiled_loss, *compiled_gradients) = results
    operations = len(MIXERS) * (20 + 6 * 16)
    assert_close(compiled_loss, loss, rounding(torch.float32, operations))
    assert_close(compiled_gradients, gradients, rounding(torch.float32, 2 * operations), norm(*gradients))
