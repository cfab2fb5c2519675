"""Log-likelihoods are those of each document by itself, however documents are laid into batches and over ranks."""

import math
import random

import pytest
import torch
from torch import distributed as dist

from glm_data import Batch
from glm_scale.evaluation.scoring import Request, Score, ScoringBatch, packed, padded, score
from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.model.head import IGNORED, token_scores
from glm_scale.parallel.mesh import Layout, Mesh
from glm_scale.training.micro_batch import DeviceBatch
from glm_scale.training.ranks import Ranks
from tests.parallel.processes import Pool
from tests.tolerances import rounding

VOCABULARY, LENGTH, MLP = 48, 32, 32
BOUND = 4 * rounding(torch.float32, LENGTH + 6 * MLP)
"""Relative to log-likelihoods of up to 20 tokens of some nats."""


def model(mixers: tuple[str, ...] = ("lattice:2^k", "attention"), **more: object) -> LanguageModel:
    sizes = {"vocab_size": VOCABULARY, "layers": 2, "width": 16, "heads": 4, "mlp_width": MLP, "mixers": mixers}
    return LanguageModel(ModelConfig.model_validate(sizes), **more).eval()  # type: ignore[arg-type]


def requests(of: LanguageModel | None = None) -> list[Request]:
    """Documents of all lengths; the continuations of every third are what greedy decoding by the model gives."""
    draw, greedy, made = random.Random(3), of or model(), []
    for number in range(21):
        context = [draw.randrange(VOCABULARY) for _ in range(draw.choice((1, 2, 5, 11, 20)))]
        continuation = [draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 12))]
        for place in range(len(continuation) if number % 3 == 0 else 0):
            logits = greedy(torch.tensor([context + continuation[:place]]))[0, -1]
            continuation[place] = int(logits.argmax())
        made.append(Request(tuple(context), tuple(continuation)))
    return made


def alone(of: LanguageModel, request: Request) -> Score:
    """One document, one forward pass, the definition."""
    logits = of(torch.tensor([[*request.context, *request.continuation]])).double()[0]
    predicted = logits[len(request.context) - 1 : -1].log_softmax(-1)
    labels = torch.tensor(request.continuation)
    total = math.fsum(predicted[torch.arange(len(labels)), labels].tolist())
    return Score(total, bool((predicted.argmax(-1) == labels).all()))


def in_one_process(of: LanguageModel, batch: Batch) -> torch.Tensor:
    return of(batch.tokens, document_starts=batch.document_starts, labels=batch.labels, reduction="scored")


def assert_same(found: list[Score], expected: list[Score]) -> None:
    assert [score.log_likelihood for score in found] == pytest.approx(
        [score.log_likelihood for score in expected], rel=BOUND
    )
    assert [score.greedy for score in found] == [score.greedy for score in expected]


@pytest.mark.numeric
@pytest.mark.parametrize("mixers", [("lattice:2^k", "attention"), ("ssm", "local:4"), ("offsets:2^k",)], ids=str)
@torch.no_grad()
def test_batches_change_nothing(mixers: tuple[str, ...]) -> None:
    of = model(mixers)
    asked = requests(of)
    expected = [alone(of, request) for request in asked]
    assert {score.greedy for score in expected} == {True, False}
    for tokens in (1, 64, 4096):
        batches = list(padded(asked, tokens))
        assert all(batch.tokens.numel() <= max(tokens, LENGTH) for batch, _ in batches)
        assert_same(score(len(asked), batches, lambda batch: in_one_process(of, batch)), expected)
    made = [make() for make in packed(asked, 3, LENGTH, 4)]
    assert len(made) % 4 == 0
    assert {batch.tokens.shape for batch, _ in made} == {(3, LENGTH)}
    assert_same(score(len(asked), made, lambda batch: in_one_process(of, batch)), expected)


def test_packing_leaves_little_room_and_no_token_out() -> None:
    asked = requests()
    made = [make() for make in packed(asked, 2, LENGTH)]
    counted = sum(int((batch.labels != IGNORED).sum()) for batch, _ in made)
    assert counted == sum(len(request.continuation) for request in asked)
    read = sum(request.read for request in asked)
    assert len(made) * 2 * LENGTH < 1.3 * read + 2 * LENGTH
    with pytest.raises(ValueError, match="33 tokens does not fit into a sequence of 32"):
        packed([Request((1,) * 33, (2,))], 2, LENGTH)


def test_a_context_that_is_too_long_loses_its_beginning() -> None:
    request = Request((1, 2, 3, 4), (5, 6))
    assert request.within(5) is request
    assert request.within(3) == Request((3, 4), (5, 6))
    with pytest.raises(ValueError, match="2 tokens does not fit into 1"):
        request.within(1)


def test_of_equal_logits_the_first_counts() -> None:
    x, weight = torch.ones(3, 1), torch.tensor([[1.0], [2.0], [2.0]])
    found = token_scores(x, weight, torch.tensor([1, 2, IGNORED]), chunk_rows=1)
    assert found[1].tolist() == [1, 0, 0]
    assert found[0].tolist() == pytest.approx([-math.log(2 + math.exp(-1)), -math.log(2 + math.exp(-1)), 0])


@torch.no_grad()
def over_ranks(tensor: int, sequence: int) -> list[Score]:
    mesh = Mesh(Layout.of(dist.get_world_size(), tensor=tensor, sequence=sequence))
    try:
        of, ranks = model(tensor=mesh.tensor), Ranks(mesh)
        of.sequence_axis = mesh.sequence
        asked = requests()
        passes = 0

        def scores(batch: Batch) -> torch.Tensor:
            nonlocal passes
            passes += 1
            there = DeviceBatch.of(batch, torch.device("cpu"), packed=False)
            return of(there.tokens, **there.keywords(), reduction="scored")

        batches = packed(asked, 3, LENGTH, ranks.data_ranks)
        own = (
            ScoringBatch(ranks.own_part(made.batch), ranks.own_columns(made.owners))
            for made in (make() for make in ranks.every_other(batches))
        )
        found = score(len(asked), own, scores, ranks.totals)
        assert passes == len(batches) // ranks.data_ranks
        return found
    finally:
        mesh.close()


@pytest.mark.numeric
@torch.no_grad()
def test_every_layout_finds_what_one_process_finds(processes: Pool) -> None:
    of = model()
    expected = [alone(of, request) for request in requests(of)]
    for tensor, sequence in ((1, 1), (4, 1), (2, 2)):
        for found in processes.run(4, over_ranks, tensor, sequence):
            assert_same(found, expected)
