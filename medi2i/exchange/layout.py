"""Where things lie in the forms that models are handed on in."""

from __future__ import annotations

import re

from medi2i.exchange.licences import LICENCE
from medi2i.model import CARD

__all__ = ["BUNDLED_CARD", "BUNDLED_RECORD", "CHECKPOINT", "OPTIONAL", "PREFIX", "body_of"]

OPTIONAL = (CARD, LICENCE, "pointwise.json")
"""What a model folder may hold beside its weights and record."""
BUNDLED_RECORD, BUNDLED_CARD = "configs/medi2i.json", "docs/model_card.md"
"""The record and the card of a model in a MONAI bundle."""
CHECKPOINT, PREFIX = "models/model.pt", "system."
"""The weights in a MONAI bundle, and how the names of its tensors begin."""
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n.*?^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)


def body_of(card: str) -> str:
    r"""A card without the header of a hub, if it has one.

    >>> body_of("---\nlicense: mit\n---\n\n# A model\n")
    '# A model\n'
    """
    return _FRONT.sub("", card, count=1).lstrip("\r\n")
