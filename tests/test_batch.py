from __future__ import annotations

import pytest
import torch

from medi2i.batch import Batch, Pairing


def test_to_moves_every_tensor_and_leaves_the_rest() -> None:
    image = torch.zeros(2, 1, 4, 4)
    batch = Batch(image, image, target_contrast=torch.tensor([0, 1]), subjects=("a", "b"))
    moved = batch.to("meta")
    assert moved.source.is_meta
    assert moved.target_contrast is not None
    assert moved.target_contrast.is_meta
    assert moved.weight is None
    assert moved.subjects == ("a", "b")
    assert not batch.source.is_meta
    assert len(batch) == 2


def test_pairings_are_named() -> None:
    assert Pairing("paired") is Pairing.PAIRED
    with pytest.raises(ValueError, match="unaligned"):
        Pairing("unaligned")
