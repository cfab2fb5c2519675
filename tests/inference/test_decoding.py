"""Decoding: steps say what the whole model says, leave their state where it is, and replayed from a graph the same."""

import copy
from collections import Counter

import pytest
import torch
from torch.utils._pytree import tree_leaves

from glm_kernels import dispatch
from glm_kernels.triton_backend.decode import launch, projections
from glm_scale.errors import UserError
from glm_scale.inference import decoding
from glm_scale.inference.decoding import Decoder, GraphedStep
from glm_scale.inference.sampling import Sampling
from glm_scale.model import LanguageModel, ModelConfig
from tests.mixers.test_mixers import SPELLINGS
from tests.parallel.training import norm_epsilon
from tests.tolerances import assert_close, norm, rounding

PROMPTS = [[3, 4, 5, 6, 7, 8, 9, 1, 2], [1, 2]]
OPERATIONS = 2 * (40 + 4 * 16 + 2 * 64)
"""Of a logit: two layers, each a sum over up to 40 rows of products of up to 16 terms, and an MLP of up to 64."""

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def model(mixers, conv_width=0, heads=2, width=16):
    config = ModelConfig(
        vocab_size=50, layers=2, width=width, heads=heads, mixers=mixers, conv_width=conv_width, mlp_width=64,
        norm_eps=norm_epsilon(mixers),
    )  # fmt: skip
    built = LanguageModel(config, seed=1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(3)
    return built.eval()


@torch.no_grad()
def allowed(whole, text):
    """Error of logits after a text that is rounding: of what goes in, times how much a model makes of small changes."""
    exact = copy.deepcopy(whole).double()
    logits, small, draw = exact(text), 1e-7, torch.Generator().manual_seed(1)
    for parameter in exact.parameters():
        parameter.mul_(1 + small * torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    makes_of_it = norm(exact(text) - logits) / norm(logits) / small
    return rounding(torch.float32, OPERATIONS) * max(1.0, float(makes_of_it))


def decoded(decoder, step, steps, prompts=PROMPTS):
    """Tokens `[steps + 1, B]` and logits after prompts, of the prompts themselves first."""
    decoder.reset()
    for document, prompt in enumerate(prompts):
        decoder.read(prompt, document)
    tokens, logits = [decoder.tokens.clone()], [decoder.logits.clone()]
    for _ in range(steps):
        step()
        tokens.append(decoder.tokens.clone())
        logits.append(decoder.logits.clone())
    return torch.stack(tokens), torch.stack(logits)


@pytest.mark.numeric
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("conv_width", [0, 3])
@torch.no_grad()
def test_steps_say_what_the_whole_model_says_of_documents_of_different_lengths(spelling, conv_width):
    whole = model((spelling,), conv_width)
    decoder = Decoder(whole, batch=2, length=30)
    tokens, logits = decoded(decoder, decoder.step, 20)
    for document, prompt in enumerate(PROMPTS):
        text = torch.tensor([*prompt, *tokens[:-1, document].tolist()])
        expected = whole(text[None])[0, len(prompt) - 1 :]
        assert_close(logits[:, document], expected, allowed(whole, text[None]))
        assert torch.equal(tokens[:, document], logits[:, document].argmax(-1))
    assert decoder.position.tolist() == [len(prompt) + 20 for prompt in PROMPTS]


@pytest.mark.numeric
@pytest.mark.parametrize("spelling", SPELLINGS)
@torch.no_grad()
def test_a_prompt_read_in_pieces_is_the_prompt_read_at_once_and_token_by_token(spelling, monkeypatch):
    whole = model((spelling,), conv_width=2)
    prompt = torch.randint(50, (17,), generator=torch.Generator().manual_seed(0))
    decoder = Decoder(whole, length=30)
    found = []
    for chunk in (32, 7, 1):
        monkeypatch.setattr(decoding, "_CHUNK", chunk)
        found.append(decoded(decoder, decoder.step, 5, [prompt])[1])
    for logits in found[1:]:
        assert_close(logits, found[0], allowed(whole, prompt[None]))


@pytest.mark.parametrize("spelling", ["attention", "local:5", "ssm:4", "lattice:2^k", "offsets:2^k", "local:3 > dense"])
@pytest.mark.parametrize("documents", [1, 2])
def test_steps_by_triton_say_what_steps_by_torch_say(spelling, documents, monkeypatch):
    """As on a GPU: one document takes Triton's products of a token, too."""
    whole = model((spelling,))
    decoder = Decoder(whole, batch=documents, length=30)
    prompts = PROMPTS[:documents]
    tokens, logits = decoded(decoder, decoder.step, 3, prompts)

    again, found = decoded(decoder, lambda: by_triton(decoder, monkeypatch), 3, prompts)
    assert torch.equal(again, tokens)
    assert_close(found, logits, allowed(whole, torch.tensor(PROMPTS[:1])))


def by_triton(decoder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "_asks_triton", lambda x, backend: backend in ("auto", "triton"))
        decoder.step()


@pytest.mark.skipif(not dispatch.interpreted(), reason="counts what the interpreter runs")
@pytest.mark.parametrize("spelling", ["attention", "lattice:2^k"])
def test_a_layer_takes_one_document_in_five_launches(spelling, monkeypatch):
    decoder = Decoder(model((spelling,)), length=20)
    launched: Counter[str] = Counter()

    for module, name in ((projections, "matvec_pass"), (launch, "step_pass"), (launch, "combine_pass")):
        monkeypatch.setattr(module, name, _Counting(getattr(module, name), launched))
    by_triton(decoder, monkeypatch)
    assert launched == {"matvec_pass": 2 * 4 + 1, "step_pass": 2}  # two layers, and the head


class _Counting:
    def __init__(self, kernel, launched):
        self.kernel, self.launched = kernel, launched

    def __getitem__(self, grid):
        self.launched[self.kernel.fn.__name__] += 1
        return self.kernel[grid]


@torch.no_grad()
def test_a_document_goes_on_with_a_second_prompt():
    whole = model(("lattice:2^k", "attention", "local:3", "ssm:4"))
    decoder = Decoder(whole, length=30)
    decoder.read([1, 2, 3, 4, 5])
    decoder.read([6, 7, 8])
    expected = whole(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]]))[0, -1]
    assert_close(decoder.logits[0], expected, rounding(torch.float32, OPERATIONS))
    assert decoder.position.tolist() == [8]


def test_one_prompt_begins_all_documents():
    decoder = Decoder(model(("lattice:2^k", "attention")), batch=3, length=20)
    decoder.read(PROMPTS[0])
    decoder.step()
    assert decoder.position.tolist() == [10, 10, 10]
    assert torch.equal(decoder.logits, decoder.logits[:1].expand(3, -1))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_steps_leave_their_state_where_it_is(spelling):
    decoder = Decoder(model((spelling,), conv_width=2), batch=2, length=30)
    kept = [*tree_leaves(decoder.caches), decoder.tokens, decoder.position, decoder.logits]
    before = [leaf.data_ptr() for leaf in kept if isinstance(leaf, torch.Tensor)]
    decoded(decoder, decoder.step, 3)
    kept = [*tree_leaves(decoder.caches), decoder.tokens, decoder.position, decoder.logits]
    assert [leaf.data_ptr() for leaf in kept if isinstance(leaf, torch.Tensor)] == before


@pytest.mark.parametrize("spelling", ["lattice:2^k", "ssm:4", "local:3 > lattice:2^k", "mamba2:4", "attention"])
def test_a_layout_for_steps_changes_no_weight_and_makes_one_product_of_several(spelling):
    whole = model((spelling,))
    before = {name: parameter.clone() for name, parameter in whole.named_parameters()}
    whole.lay_out_for_steps()
    assert all(torch.equal(parameter, before[name]) for name, parameter in whole.named_parameters())
    for block in whole.blocks:
        for group in block.read_together():
            group = sorted(group, key=lambda projection: projection.bias is not None)
            ends = [projection.weight.data_ptr() + projection.weight.nbytes for projection in group]
            assert [projection.weight.data_ptr() for projection in group[1:]] == ends[:-1]


def test_sampling_follows_from_the_seed_and_each_document_has_its_own():
    def tokens(seed):
        decoder = Decoder(model(("lattice:2^k",)), batch=2, length=30, sampling=Sampling(seed=seed, temperature=2.0))
        return decoded(decoder, decoder.step, 15, [PROMPTS[0], PROMPTS[0]])[0]

    assert torch.equal(tokens(1), tokens(1))
    assert not torch.equal(tokens(1), tokens(2))
    assert not torch.equal(tokens(1)[:, 0], tokens(1)[:, 1])


def test_tokens_are_fetched_as_they_were_when_it_began():
    decoder = Decoder(model(("lattice:2^k",)).to(DEVICE), length=20)
    decoder.read(PROMPTS[0])
    expected, fetched = decoder.tokens.tolist(), decoder.fetch()
    for _ in range(3):
        decoder.step()
    assert fetched() == expected


class TestGraphs:
    pytestmark = gpu

    @pytest.mark.parametrize("spelling", SPELLINGS)
    @pytest.mark.parametrize(("prompts", "temperature"), [(PROMPTS, 1.0), (PROMPTS[:1], 0.0)], ids=["two", "one"])
    def test_replayed_steps_equal_eager_ones(self, spelling, prompts, temperature):
        whole = model((spelling,), conv_width=3, width=32).to(DEVICE, torch.bfloat16)
        sampling = Sampling(temperature=temperature, top_k=20, top_p=0.9)
        decoder = Decoder(whole, batch=len(prompts), length=60, sampling=sampling)
        tokens, logits = decoded(decoder, decoder.step, 40, prompts)
        again, graphed = decoded(decoder, GraphedStep(decoder), 40, prompts)
        assert torch.equal(again, tokens)
        assert torch.equal(graphed, logits)

    @pytest.mark.parametrize("spelling", SPELLINGS)
    @torch.no_grad()
    def test_steps_of_one_document_say_what_the_whole_model_says(self, spelling):
        """One document takes Triton's products of a token."""
        whole = model((spelling,), conv_width=3, width=32).to(DEVICE)
        decoder = Decoder(whole, length=40)
        tokens, logits = decoded(decoder, GraphedStep(decoder), 20, PROMPTS[:1])
        text = torch.tensor([*PROMPTS[0], *tokens[:-1, 0].tolist()], device=DEVICE)
        expected = whole(text[None])[0, len(PROMPTS[0]) - 1 :]
        assert_close(logits[:, 0], expected, 1e-2)

    def test_a_step_that_waits_for_the_device_cannot_be_recorded(self):
        whole = model(("lattice:2^k",)).to(DEVICE)

        def ask(module, arguments):
            assert arguments[0].sum().item() < 1e9

        whole.embedding.register_forward_pre_hook(ask)
        with pytest.raises(UserError, match="cannot be recorded as a CUDA graph"):
            GraphedStep(Decoder(whole, batch=2, length=20))
        assert torch.rand(2, device=DEVICE).isfinite().all()
