"""LanguageModel: decoding equals training, nothing leaks, checkpointing changes nothing, counts are honest."""

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from glm_scale.layers.activation_checkpointing import ActivationCheckpointing
from glm_scale.model import LanguageModel, ModelConfig, transformer
from tests.caches import bytes_that_count
from tests.tolerances import assert_close, error, norm, rounding, unit

pytestmark = pytest.mark.numeric

HYBRIDS = {
    "attention": ["attention"],
    "lattice": ["lattice:2^k"],
    "lattice + attention": ["lattice:k^2+1", "attention"],
    "ssm + local": ["ssm:4", "local:5"],
    "composed + offsets + dense": ["local:4 > lattice:2^k", "offsets:k^3+1", "dense"],
}


def build(mixers=("lattice:2^k",), seed=0, **changes):
    """A small model whose weights are large enough that mixers, convolutions and logits are far from flat."""
    sizes = {"vocab_size": 31, "layers": 3, "width": 16, "heads": 2, "mlp_width": 24} | changes
    model = LanguageModel(ModelConfig(mixers=tuple(mixers), **sizes))
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


POLICIES = get_args(ActivationCheckpointing)

OPERATIONS = 3 * (30 + 6 * 24)
"""Of a logit of 30 rows: sums over rows and products with six matrices of up to 24 rows, in three layers."""

STARTS = torch.tensor([[0] * 11 + [11] + [12] * 18, [0] * 30], dtype=torch.int32)


@pytest.mark.parametrize("conv_width", [0, 3])
@pytest.mark.parametrize("mixers", HYBRIDS.values(), ids=HYBRIDS.keys())
@torch.no_grad()
def test_packed_training_prefill_and_steps_agree(mixers, conv_width):
    model = build(mixers, conv_width=conv_width)
    tokens = torch.randint(0, 31, (2, 30))
    packed = model(tokens, STARTS)
    for row, begin, end in [(0, 0, 11), (0, 11, 12), (0, 12, 30), (1, 0, 30)]:
        document, caches, logits = tokens[row : row + 1, begin:end], model.empty_caches(1), []
        prompt = (end - begin) // 2
        if prompt:
            prefilled, caches = model.prefill(document[:, :prompt], caches)
            logits.append(prefilled)
        for t in range(prompt, end - begin):
            step, caches = model.step(document[:, t : t + 1], caches)
            logits.append(step)
        bound = rounding(torch.float32, OPERATIONS)
        assert_close(torch.cat(logits, 1)[0], packed[row, begin:end], bound, norm(packed))
    assert packed.std() > 0.3


@torch.no_grad()
def test_prefill_can_return_the_last_logits_alone():
    model, tokens = build(), torch.randint(0, 31, (2, 9))
    everything, _ = model.prefill(tokens, model.empty_caches(2))
    last, _ = model.prefill(tokens, model.empty_caches(2), last_only=True)
    assert_close(last, everything[:, -1:], rounding(torch.float32, OPERATIONS))


@pytest.mark.parametrize("mixers", HYBRIDS.values(), ids=HYBRIDS.keys())
@torch.no_grad()
def test_a_changed_token_changes_later_logits_of_its_document_only(mixers):
    model, tokens = build(mixers, conv_width=4).double(), torch.randint(0, 31, (2, 30))
    before = model(tokens, STARTS)
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 31
    changed[1, 20] = (changed[1, 20] + 1) % 31
    difference = (model(changed, STARTS) - before).abs().amax(-1)
    # Whatever differs by more than rounding differs by far more.
    nothing = rounding(torch.float64, OPERATIONS) * norm(before)
    differs = difference > nothing
    assert (difference[differs] > 1e6 * nothing).all()
    rows = torch.arange(30)
    assert differs[0].equal((rows >= 5) & (rows < 11))
    assert not differs[1, :20].any()
    assert differs[1, 20]


@pytest.mark.parametrize("mixers", HYBRIDS.values(), ids=HYBRIDS.keys())
def test_every_parameter_learns(mixers):
    model, tokens = build(mixers, conv_width=3), torch.randint(0, 31, (2, 30))
    model(tokens, STARTS, labels=tokens.roll(-1, 1)).backward()
    assert all(p.grad is not None for p in model.parameters())
    nothing = rounding(torch.float32, 2 * OPERATIONS) * norm(*(p.grad for p in model.parameters()))
    assert [n for n, p in model.named_parameters() if norm(p.grad) <= nothing] == []


def test_the_loss_is_the_sum_of_token_losses():
    model, tokens = build(), torch.randint(0, 31, (2, 30))
    labels = tokens.roll(-1, 1)
    labels[0, 10] = labels[1, 29] = -100
    expected = F.cross_entropy(model(tokens, STARTS).flatten(0, 1), labels.flatten(), reduction="sum")
    assert_close(model(tokens, STARTS, labels), expected, rounding(torch.float32, OPERATIONS))
    assert expected > 58 * 2


@pytest.mark.parametrize("mixers", HYBRIDS.values(), ids=HYBRIDS.keys())
def test_activation_checkpointing_changes_no_bit(mixers):
    tokens = torch.randint(0, 31, (2, 30))
    found = []
    for policy in POLICIES:
        model = build(mixers)
        model.activation_checkpointing = policy
        loss = model(tokens, STARTS, labels=tokens.roll(-1, 1))
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters())])
    plain, *others = found
    for again in others:
        assert all(ours.equal(theirs) for ours, theirs in zip(again, plain, strict=True))


@pytest.mark.exact
@pytest.mark.parametrize("backend", ["", "aot_eager"])
@pytest.mark.parametrize("breaks_mlp", [False, True])
def test_activation_checkpointing_holds_less(backend, breaks_mlp):
    """Compiled blocks too, whether or not the compiler sees all of what is computed again."""

    def held(policy):
        model = build(layers=6, mlp_width=48)
        model.activation_checkpointing = policy
        for block in model.blocks:
            block.breaks_mlp = breaks_mlp
        if backend:
            torch._dynamo.reset()
            model.compile_blocks(backend)
        known = {p.untyped_storage()._cdata for p in model.parameters()}
        kept = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                kept[storage._cdata] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = model(torch.randint(0, 31, (2, 64)))
        del logits
        return sum(storage.nbytes() for storage in kept.values())

    none, selective, full = map(held, POLICIES)
    tokens, of_mlp, number = 2 * 64, 3 * 48, 4
    # Of the MLP the product, what it is made of, and what its norm gives; eagerly a few more.
    assert none - selective >= 6 * tokens * (of_mlp + 16) * number
    assert full < 0.3 * none
    assert full < 0.7 * selective


def test_weights_follow_from_the_seed_alone():
    config = ModelConfig(vocab_size=31, layers=2, width=16, heads=2, mixers=["attention"])
    first = LanguageModel(config, seed=3).state_dict()
    torch.manual_seed(99)
    again = LanguageModel(config, seed=3).state_dict()
    other = LanguageModel(config, seed=4).state_dict()
    assert all(first[name].equal(again[name]) for name in first)
    assert not first["blocks.1.mlp.up.weight"].equal(other["blocks.1.mlp.up.weight"])


def test_models_of_different_mixers_start_from_the_same_shared_weights():
    sizes = {"vocab_size": 31, "layers": 2, "width": 16, "heads": 2}
    one = LanguageModel(ModelConfig(mixers=["attention"], **sizes)).state_dict()
    other = LanguageModel(ModelConfig(mixers=["lattice:2^k"], **sizes)).state_dict()
    shared = one.keys() & other.keys()
    assert {"embedding.weight", "blocks.1.mlp.down.weight", "blocks.0.mixer.v.weight"} <= shared
    assert all(one[name].equal(other[name]) for name in shared)


def test_initial_weights_have_the_documented_spread():
    width, layers = 160, 8
    model = LanguageModel(ModelConfig(vocab_size=500, layers=layers, width=width, heads=4, mixers=["attention"]))
    std = (2 / (5 * width)) ** 0.5
    block: Any = model.blocks[3]
    for weight in (model.embedding.weight, model.head.weight, block.mixer.v.weight, block.mlp.gate.weight):
        assert float(weight.detach().std()) == pytest.approx(std, rel=0.03)
    for weight in (block.mixer.o.weight, block.mlp.down.weight):
        assert float(weight.detach().std()) == pytest.approx(std / (2 * layers) ** 0.5, rel=0.03)


def test_an_untrained_model_is_nearly_uniform():
    model = LanguageModel(ModelConfig(vocab_size=500, layers=4, width=64, heads=4))
    tokens = torch.randint(0, 500, (2, 64))
    loss = model(tokens, labels=tokens.roll(-1, 1)).item() / 128
    assert loss == pytest.approx(torch.log(torch.tensor(500.0)).item(), abs=0.3)


def test_tied_embeddings_are_one_parameter():
    tied = LanguageModel(ModelConfig(vocab_size=31, layers=1, width=16, heads=2, tie_embeddings=True))
    free = LanguageModel(ModelConfig(vocab_size=31, layers=1, width=16, heads=2))
    assert tied.head.weight is tied.embedding.weight
    assert tied.embedding.weight.equal(free.embedding.weight)
    assert free.parameter_count() - tied.parameter_count() == 31 * 16
    assert free.parameter_count(embedding=False) == tied.parameter_count(embedding=False)
    tied(torch.tensor([[1, 2]]), labels=torch.tensor([[2, 3]])).backward()
    gradient = tied.embedding.weight.grad
    assert gradient is not None
    assert gradient[3].any()


def test_parameters_of_a_known_model_are_counted_by_hand():
    model = build(["attention"], layers=2)
    block = 4 * 16 * 16 + 3 * 16 * 24 + 2 * 16
    assert model.parameter_count(embedding=False) == 2 * block + 16
    assert model.parameter_count() == 2 * block + 16 + 2 * 31 * 16


@pytest.mark.parametrize("mixers", HYBRIDS.values(), ids=HYBRIDS.keys())
@torch.no_grad()
def test_flops_match_the_multiplications_of_one_token(mixers):
    """Outside the mixing itself, which implementations pad and mask; its counts are tested with the mixers."""
    model = build(mixers)
    with FlopCounterMode(display=False) as counter:
        model.step(torch.tensor([[3]]), model.empty_caches(1))
    measured = sum(
        flops for operator, flops in counter.get_flop_counts()["Global"].items() if operator.__name__ in ("mm", "addmm")
    )
    mixing = sum(
        block.mixer.flops_per_token(1) - 2 * sum(p.numel() for p in block.mixer.parameters() if p.dim() == 2)
        for block in model.blocks
    )
    assert model.flops_per_token(1) - mixing == measured


@pytest.mark.parametrize("mixers", HYBRIDS.values(), ids=HYBRIDS.keys())
@torch.no_grad()
def test_cache_bytes_are_the_bytes_that_count(mixers):
    model = build(mixers, conv_width=4).bfloat16()
    _, caches = model.prefill(torch.randint(0, 31, (2, 45)), model.empty_caches(2))
    assert bytes_that_count(caches) == 2 * model.cache_bytes(45)


@pytest.mark.parametrize("mixers", HYBRIDS.values(), ids=HYBRIDS.keys())
@torch.no_grad()
def test_a_bf16_model_is_close_to_its_fp32_twin(mixers):
    model, tokens = build(mixers, conv_width=3).bfloat16(), torch.randint(0, 31, (2, 30))
    rounded = model(tokens, STARTS).float()
    exact = model.float()(tokens, STARTS)
    # What passes between some ten operations in each of three layers is rounded to nearest.
    assert error(rounded, exact) < 3 * 10 * unit(torch.bfloat16) / 2


def test_weights_of_ones_own_that_are_drawn_as_torch_draws_are_drawn(monkeypatch):
    class Own(transformer.Block):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.own = torch.nn.Parameter(torch.full((50, 40), torch.nan))
            torch.nn.init.normal_(self.own, std=2.0)

    monkeypatch.setattr(transformer, "Block", Own)
    config = ModelConfig(mixers=("attention",), vocab_size=31, layers=2, width=16, heads=2, mlp_width=24)
    blocks: Any = LanguageModel(config).blocks
    for block in blocks:
        assert block.own.std().item() == pytest.approx(2.0, rel=0.1)
        assert block.mlp.up.weight.std().item() < 1
