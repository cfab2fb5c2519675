"""The chunked loss is plain cross entropy, and its gradients are autograd's."""

import pytest
import torch
import torch.nn.functional as F

from glm_scale.model.head import LanguageModelHead, summed_cross_entropy, token_cross_entropy
from tests.tolerances import assert_close, rounding

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("chunk_rows", [1, 4, 7, 13, 100])
def test_chunked_loss_and_gradients_equal_cross_entropy(chunk_rows):
    torch.manual_seed(0)
    x = (3 * torch.randn(13, 8, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 11, (13,))
    labels[[0, 5, 12]] = -100
    expected = F.cross_entropy(x @ weight.T, labels, reduction="sum")
    expected_grads = torch.autograd.grad(0.37 * expected, (x, weight))
    loss = summed_cross_entropy(x, weight, labels, chunk_rows)
    grads = torch.autograd.grad(0.37 * loss, (x, weight))
    assert loss.dtype is torch.float32
    # A sum of positive numbers, and gradients of 8 to 13 terms, in float32.
    assert_close(loss, expected, rounding(torch.float32, 13))
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert_close(grad, expected_grad, rounding(torch.float32, 13 + 11))


def test_a_row_without_labels_has_no_loss_and_no_gradient():
    x, weight = torch.randn(4, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    loss = summed_cross_entropy(x, weight, torch.full((4,), -100))
    loss.backward()
    assert loss == 0
    for leaf in (x, weight):
        assert leaf.grad is not None
        assert not leaf.grad.any()


def test_no_gradient_is_made_where_none_is_asked_for():
    x, weight = torch.randn(4, 8), torch.randn(11, 8)
    assert not summed_cross_entropy(x, weight, torch.tensor([1, 2, 3, 4])).requires_grad
    frozen = torch.randn(11, 8)
    moving = torch.randn(4, 8, requires_grad=True)
    summed_cross_entropy(moving, frozen, torch.tensor([1, 2, 3, 4])).backward()
    assert moving.grad is not None
    assert frozen.grad is None


def test_bf16_logits_are_summed_in_fp32():
    """256 losses near 2.4 lose their last bits in bf16, where 600 + 2.4 is 604 or 600."""
    torch.manual_seed(0)
    x, weight = torch.randn(256, 8).bfloat16(), (0.1 * torch.randn(11, 8)).bfloat16()
    labels = torch.randint(0, 11, (256,))
    expected = F.cross_entropy((x @ weight.T).double(), labels, reduction="sum")
    assert_close(summed_cross_entropy(x, weight, labels), expected, rounding(torch.float32, 2))


@pytest.mark.parametrize("chunk_rows", [1, 4, 13, 100])
def test_losses_of_tokens_are_the_terms_of_the_sum(chunk_rows):
    x, weight, labels = torch.randn(13, 8), torch.randn(11, 8), torch.randint(0, 11, (13,))
    labels[[0, 5, 12]] = -100
    losses = token_cross_entropy(x.requires_grad_(), weight, labels, chunk_rows)
    expected = F.cross_entropy((x @ weight.T).double(), labels, reduction="none")
    assert losses.dtype is torch.float32
    assert not losses.requires_grad
    assert not losses[[0, 5, 12]].any()
    assert_close(losses, expected, rounding(torch.float32, 8 + 11))
    assert_close(losses.sum(), summed_cross_entropy(x, weight, labels, chunk_rows), rounding(torch.float32, 13))


def test_the_head_gives_losses_in_the_shape_of_the_labels():
    head, x, labels = LanguageModelHead(8, 11), torch.randn(2, 6, 8), torch.randint(0, 11, (2, 6))
    labels[1, 2:] = -100
    losses = head(x, labels, reduction="none")
    expected = F.cross_entropy(head(x).flatten(0, 1), labels.flatten(), reduction="none").view(2, 6)
    assert_close(losses, expected, rounding(torch.float32, 8 + 11))
