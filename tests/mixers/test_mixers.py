"""Every mixer keeps its contract: what a row may depend on, decoding equal to training, honest counts."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from glm_kernels import parse_pattern
from glm_scale.layers.rotary import Rotary
from glm_scale.layers.sequence import Sequence
from glm_scale.mixers import MixerDims, MixerError, parse_mixer
from glm_scale.mixers.attention.mixing import PAGE
from tests.caches import bytes_held, bytes_that_count
from tests.tolerances import assert_close, norm, rounding

pytestmark = pytest.mark.numeric

DIMS = MixerDims(width=12, heads=2, head_dim=8, rotary=Rotary(8, 50.0), norm_eps=1e-5)

SPELLINGS = [
    "attention",
    "local:1",
    "local:5",
    "ssm:4",
    "mamba2:4",
    "gla:4",
    "gated_deltanet:4",
    "kda:4",
    "log_linear:4",
    "window:1",
    "window:4",
    "dense",
    "lattice:2^k",
    "lattice:k^2+1",
    "lattice:3^k",
    "lattice:floor(k*log(k+1))+k+1",
    "offsets:2^k",
    "offsets:k^2+1",
    "offsets:k^3+1",
    "local:3 > lattice:2^k",
    "attention > offsets:2^k",
    "local:4 > ssm:4",
]

PACKED = [[0] * 9 + [9] * 1 + [10] * 30, [0] * 23 + [23] * 17]
"""Document starts of two rows of 40 tokens, with a document of one token among them."""


OPERATIONS = 40 + 4 * 16
"""Of an output of 40 rows: it is a sum over rows, of scores and projections of up to 16 products each."""


def build(spelling, seed=0, dims=DIMS):
    """A mixer with weights large enough that its softmax is far from flat, and no bias towards its own input."""
    torch.manual_seed(seed)
    mixer = parse_mixer(spelling).build(dims)
    for parameter in mixer.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
    for name, parameter in mixer.named_parameters():
        if name.endswith(".d.bias"):
            torch.nn.init.zeros_(parameter)
    return mixer


def sequence(length, starts=None):
    starts = None if starts is None else torch.tensor(starts, dtype=torch.int32)
    return Sequence.of(length, DIMS.rotary, torch.device("cpu"), starts)


def decode(mixer, x, cuts, length=None):
    """The outputs of prefilling or stepping through x in pieces, and the last cache."""
    cache, parts = mixer.empty_cache(x.shape[0], length), []
    for piece in x.split(cuts, dim=1):
        y, cache = (mixer.step if piece.shape[1] == 1 else mixer.prefill)(piece, cache)
        parts.append(y)
    return torch.cat(parts, 1), cache


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("cuts", [[1] * 40, [40], [17, 1, 1, 9, 12]], ids=["steps", "prefill", "mixed"])
@pytest.mark.parametrize("length", [None, 40, 300])
@torch.no_grad()
def test_decoding_equals_training(spelling, cuts, length):
    mixer, x = build(spelling), torch.randn(2, 40, 12)
    expected = mixer(x, sequence(40))
    assert_close(decode(mixer, x, cuts, length)[0], expected, rounding(torch.float32, OPERATIONS))
    assert expected.std() > 0.1


@pytest.mark.parametrize("spelling", SPELLINGS)
@torch.no_grad()
def test_a_packed_document_equals_its_own_decode(spelling):
    mixer, x = build(spelling), torch.randn(2, 40, 12)
    packed = mixer(x, sequence(40, PACKED))
    for row, starts in enumerate(PACKED):
        bounds = [*sorted(set(starts)), 40]
        for begin, end in itertools.pairwise(bounds):
            alone, _ = decode(mixer, x[row : row + 1, begin:end], 1)
            assert_close(packed[row : row + 1, begin:end], alone, rounding(torch.float32, OPERATIONS), norm(packed))


def reachable(spelling, starts):
    """bool `[T, T]`: whether row i may depend on row j. All mixers but pure windows reach a document's first row."""
    rows = torch.arange(len(starts))
    age = rows[:, None] - rows
    window = int(spelling.removeprefix("local:")) if spelling.startswith("local:") and ">" not in spelling else 10**9
    return (age >= 0) & (age < window) & (rows >= torch.tensor(starts)[:, None])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_rows_depend_on_all_rows_they_may_reach_and_no_others(spelling):
    starts = [0] * 5 + [5] + [6] * 10
    mixer = build(spelling, seed=1).double()
    x = torch.randn(1, 16, 12, dtype=torch.float64, requires_grad=True)
    y = mixer(x, sequence(16, [starts]))
    direction = torch.randn(12, dtype=torch.float64)
    gradients = [torch.autograd.grad(y[0, t] @ direction, x, retain_graph=True)[0] for t in range(16)]
    depends = torch.stack([gradient[0].abs().amax(-1) for gradient in gradients])
    expected = reachable(spelling, starts)
    # The gradients of decays are differences of cumulative sums, which leave some rounding.
    nothing = rounding(torch.float64, OPERATIONS) * norm(*gradients)
    sums_decays = any(word in spelling for word in ("ssm", "mamba2", "gla", "gated", "kda", "log"))
    assert (depends[~expected] <= (nothing if sums_decays else 1e-30)).all()
    assert (depends[expected] > 1e6 * nothing).all()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_parameter_learns(spelling):
    mixer, x = build(spelling).double(), torch.randn(2, 40, 12, dtype=torch.float64)
    mixer(x, sequence(40, PACKED)).square().sum().backward()
    assert all(p.grad is not None for p in mixer.parameters())
    # Where there is nothing to choose from, scores' gradients are differences of (nearly) equal numbers.
    nothing = rounding(torch.float64, 2 * OPERATIONS) * norm(*(p.grad for p in mixer.parameters()))
    silent = [name for name, p in mixer.named_parameters() if norm(p.grad) <= nothing]
    assert all(norm(p.grad) > 1e6 * nothing for name, p in mixer.named_parameters() if name not in silent)
    # A window of one row is v itself: there is nothing for its queries and keys to choose from.
    assert silent == (["stages.0.q.weight", "stages.0.k.weight"] if spelling == "local:1" else [])


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("length", [0, 1, 2, 7, 300])
@torch.no_grad()
def test_cache_bytes_are_the_bytes_of_the_rows_that_count(spelling, length):
    mixer = build(spelling)
    cache = mixer.empty_cache(3)
    if length:
        _, cache = mixer.prefill(torch.randn(3, length, 12), cache)
    assert bytes_that_count(cache) == 3 * mixer.cache_bytes(length)
    assert bytes_that_count(cache) <= bytes_held(cache)


@pytest.mark.parametrize(
    ("spelling", "rows"),
    [
        ("attention", 47),
        ("local:16", 15),
        ("window:16", 16),
        ("offsets:2^k", 47),
        ("lattice:2^k", 6),
        ("ssm:4", None),
        ("local:16 > lattice:2^k", 15 + 6),
    ],
)
def test_a_cache_says_how_many_rows_it_remembers(spelling, rows):
    assert build(spelling).cache_rows(47) == rows


@pytest.mark.parametrize("spelling", SPELLINGS)
@torch.no_grad()
def test_a_cache_made_for_a_length_keeps_its_size(spelling):
    mixer = build(spelling)
    made = mixer.empty_cache(1, 60)
    _, cache = mixer.prefill(torch.randn(1, 20, 12), made)
    for _ in range(40):
        _, cache = mixer.step(torch.randn(1, 1, 12), cache)
    sizes = [[leaf.nbytes for leaf in tree_leaves(c) if isinstance(leaf, torch.Tensor)] for c in (made, cache)]
    assert sizes[0] == sizes[1]
    assert bytes_that_count(cache) == mixer.cache_bytes(60)


@pytest.mark.parametrize("spelling", SPELLINGS)
@torch.no_grad()
def test_a_cache_grown_by_steps_has_an_eighth_or_a_page_to_spare_at_most(spelling):
    mixer = build(spelling)
    _, cache = decode(mixer, torch.randn(1, 70, 12), 1)
    page = build("attention").cache_bytes(PAGE) if "attention" in spelling else 0
    assert mixer.cache_bytes(70) <= bytes_held(cache) <= 1.125 * mixer.cache_bytes(70) + page


@pytest.mark.parametrize(
    ("spelling", "least", "most"),
    [
        ("attention", 15.9, 16),
        ("dense", 15.9, 16),
        ("offsets:2^k", 15.9, 16),
        ("local:64", 1, 1),
        ("window:64", 1, 1),
        ("ssm:4", 1, 1),
        ("lattice:2^k", 1.2, 1.5),  # 16 / 12
        ("lattice:k^2+1", 3.5, 4.5),  # √16
        ("lattice:k^3+1", 2.0, 3.5),  # ∛16
    ],
)
def test_a_cache_grows_with_the_length_as_its_structure_says(spelling, least, most):
    mixer = build(spelling)
    assert least <= mixer.cache_bytes(2**16) / mixer.cache_bytes(2**12) <= most


@pytest.mark.parametrize(
    ("spelling", "reads"),
    [
        ("attention", 50.5),
        ("local:10", 9.55),
        ("window:1", 0.99),
        ("dense", 49.5),
        ("lattice:2^k", None),
        ("ssm:4", None),
    ],
)
def test_flops_count_the_projections_and_the_rows_read(spelling, reads):
    """Over 100 tokens, two multiplications (score and value) of heads · head_dim for every row read."""
    mixer = build(spelling)
    matrices = sum(p.numel() for p in mixer.parameters() if p.dim() == 2)
    if spelling == "ssm:4":
        mixing = 4.0 * 2 * 4 * 8
    elif reads is None:
        pattern = parse_pattern(spelling)
        mixing = 4 * 2 * 8 * sum(len(pattern.reads(i)) for i in range(100)) / 100
    else:
        mixing = 4 * 2 * 8 * reads
    assert mixer.flops_per_token(100) == pytest.approx(2 * matrices + mixing, rel=1e-12)


def test_an_impossible_sequence_strategy_is_refused_with_what_works():
    mixer = build("offsets:2^k")
    mixer.require_sequence_strategy("a2a", 2)
    with pytest.raises(MixerError, match=r"'offsets:2\^k' cannot .* 'scan'; it can by 'a2a' or 'ring'"):
        mixer.require_sequence_strategy("scan", 2)


def test_heads_that_do_not_divide_over_sequence_ranks_are_refused_unless_another_strategy_serves():
    with torch.device("meta"):
        mixer = parse_mixer("attention").build(replace(DIMS, heads=8))
    mixer.require_sequence_strategy("a2a", 4)
    mixer.require_sequence_strategy("a2a", 4, tensor_ranks=2)
    mixer.require_sequence_strategy(None, 3)
    message = r"'attention' cannot .*'a2a'.* 3 sequence ranks .*, .* 8 heads; .* is 2, and over 3 it can by 'ring'"
    with pytest.raises(MixerError, match=message):
        mixer.require_sequence_strategy("a2a", 3)
    with pytest.raises(MixerError, match=r"its 2 heads of each tensor rank; .* is 2,"):
        mixer.require_sequence_strategy("a2a", 8, tensor_ranks=4)
    mixer.sequence_strategies = ("a2a",)
    with pytest.raises(MixerError, match=r"3 sequence ranks \(context parallelism\), .* is 2$"):
        mixer.require_sequence_strategy(None, 3)


def test_a_composition_splits_sequences_only_as_both_its_parts_can():
    assert build("local:3 > lattice:2^k").sequence_strategies == ("ring", "a2a")
    assert build("lattice:2^k").sequence_strategies == ("scan", "ring", "a2a")


def test_heads_that_do_not_divide_over_ranks_are_refused_with_the_nearest_size():
    build("dense").require_tensor_parallel(2)
    with pytest.raises(MixerError, match=r"its 2 heads over 3 tensor-parallel ranks; .* 2"):
        build("dense").require_tensor_parallel(3)


def stage_of(spelling: str) -> Any:
    mixer: Any = parse_mixer(spelling).build(DIMS)
    return mixer.stages[0]


@pytest.mark.parametrize("spelling", ["window:1", "dense", "lattice:2^k", "lattice:k^2+1", "offsets:k^2+1"])
def test_flat_scores_leave_a_new_recurrence_about_half_of_its_input(spelling):
    bias = stage_of(spelling).d.bias
    reads = parse_pattern(spelling).read_counts(1024).double().mean()
    kept = bias.exp() / (bias.exp() + reads)
    assert kept.tolist() == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_pattern_that_reads_almost_nothing_starts_without_a_bias():
    assert stage_of("offsets:k+5000").d.bias.tolist() == [0, 0]
