from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medi2i.losses.contrastive import mutual_information, patch_contrast, queue_contrast


def unit(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=random), dim=-1)


# ---- patches


def test_the_values_of_the_sheet() -> None:
    vectors = unit(1, 256, 256)
    assert float(patch_contrast(vectors, vectors)) == pytest.approx(2.4e-4, rel=0.2)
    alike = vectors[:, :1].expand(-1, 256, -1)
    assert float(patch_contrast(alike, alike)) == pytest.approx(math.log(256), abs=1e-5)
    unrelated = float(patch_contrast(vectors, unit(1, 256, 256, seed=1)))
    assert 5.7 < unrelated < 6.5


def test_numbers_by_hand() -> None:
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    key = torch.tensor([[[0.6, 0.8], [0.0, 1.0]]])
    # at temperature 1: the first has 0.6 for its own and 0 for the other, the second 1 and 0.8;
    # the masked entry adds exp(-10)
    masked = math.exp(-10)
    first = math.log(math.exp(0.6) + 1 + masked) - 0.6
    second = math.log(math.exp(1) + math.exp(0.8) + masked) - 1
    loss = patch_contrast(query, key, temperature=1.0)
    assert float(loss) == pytest.approx((first + second) / 2)


def test_negatives_are_those_of_the_image_or_of_the_whole_batch() -> None:
    alike = unit(1, 1, 8).expand(4, 16, 8)
    assert float(patch_contrast(alike, alike)) == pytest.approx(math.log(16), abs=1e-5)
    across = patch_contrast(alike, alike, across=True)
    assert float(across) == pytest.approx(math.log(64), abs=1e-5)  # 63 negatives
    one = unit(3, 1, 8)
    assert float(patch_contrast(one, unit(3, 1, 8, seed=1))) == pytest.approx(0, abs=1e-5)
    assert float(patch_contrast(one, one, across=True)) > 0


def test_keys_get_no_gradient() -> None:
    query, key = unit(1, 5, 8).requires_grad_(), unit(1, 5, 8, seed=1).requires_grad_()
    patch_contrast(query, key).backward()
    assert query.grad is not None
    assert query.grad.abs().sum() > 0
    assert key.grad is None


def test_images_of_a_batch_do_not_know_each_other() -> None:
    query, key = unit(3, 6, 8), unit(3, 6, 8, seed=1)
    alone = [patch_contrast(q[None], k[None]) for q, k in zip(query, key, strict=True)]
    torch.testing.assert_close(patch_contrast(query, key), torch.stack(alone).mean())


# ---- a queue


def test_a_query_against_its_key_and_the_queue() -> None:
    query, key = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 5.0]])
    queue = torch.tensor([[0.5, 0.0], [-1.0, 3.0]])
    # products 2, 1 and -2: the vectors are not normalised
    expected = math.log(math.exp(2) + math.exp(1) + math.exp(-2)) - 2
    assert float(queue_contrast(query, key, queue, temperature=1.0)) == pytest.approx(expected)


def test_what_stands_in_the_queue_and_the_key_get_no_gradient() -> None:
    query, key, queue = (torch.randn(n, 4, requires_grad=True) for n in (2, 2, 5))
    queue_contrast(query, key, queue).backward()
    assert query.grad is not None
    assert key.grad is None
    assert queue.grad is None


# ---- shared information


@pytest.mark.parametrize("clusters", [2, 10])
def test_sure_balanced_clusters_tell_all_there_is(clusters: int) -> None:
    sure = torch.eye(clusters).repeat(3, 1)
    assert float(mutual_information(sure, sure)) == pytest.approx(math.log(clusters), abs=1e-5)


def test_nothing_is_known_where_nobody_can_tell_or_all_are_alike() -> None:
    even = torch.full((20, 10), 0.1)
    assert float(mutual_information(even, even)) == pytest.approx(0, abs=1e-6)
    one = torch.eye(10)[torch.zeros(20, dtype=torch.long)]
    assert float(mutual_information(one, one)) == pytest.approx(0, abs=1e-6)


def test_both_views_learn_and_the_order_of_clusters_means_nothing() -> None:
    logits = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = mutual_information(*logits.softmax(-1))
    value.backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum((1, 2)) > 0).all()
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(mutual_information(*logits[..., order].softmax(-1)), value)
    assert 0 <= float(value.detach()) <= math.log(5)
