"""Networks that have shapes and no values: for counting what they would hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["without_values"]


class _Unfilled(TorchFunctionMode):
    """Leaves out the initialising, for which the meta device loads all of torch's compiler."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", "") == "torch.nn.init" and "tensor" in kwargs:
            return kwargs["tensor"]
        if function in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return function(*args, **kwargs)


@contextmanager
def without_values() -> Iterator[None]:
    """Within the block networks have shapes alone: parameters are counted, not made."""
    with torch.device("meta"), _Unfilled():
        yield
