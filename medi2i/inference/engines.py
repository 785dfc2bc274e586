"""What runs a network: torch as it stands, torch compiled, or OpenVINO.

Torch as it stands is the truth. Another engine may take its place where it gives the same: the
middle window of every look at a scan goes through both, the largest difference stands in the
side-car, and beyond `BOUND` the whole scan is done again by torch. So is what another engine
cannot do: a pass that draws random numbers, or a network that cannot be converted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from medi2i.errors import UsageError, out_of_memory

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["BOUND", "WORTH", "Engine", "EngineName", "check_engine", "there"]

Run = Callable[["Tensor"], "Tensor"]
"""From a batch of windows to a batch of images."""

BOUND = 1e-4
"""By how much another engine may differ from torch anywhere, as a share of the range [-1, 1]."""
WORTH = 2**21
"""Voxels in all windows of a scan from which "auto" takes OpenVINO: with fewer, converting a
network that is not in the cache takes longer than the network itself."""
COMPILERS = ("g++", "clang++", "cl")
"""What torch compiles for a processor with."""


class EngineName(StrEnum):
    """What --engine takes."""

    AUTO = "auto"
    """OpenVINO on the CPU where it is installed and a scan is worth it, else torch."""
    TORCH = "torch"
    COMPILE = "compile"
    OPENVINO = "openvino"


def check_engine(name: EngineName, device: str) -> None:
    """Raise UsageError where an engine that is asked for by name is not there.

    Args:
        device: "cpu" or "cuda".
    """
    if name is EngineName.OPENVINO and device != "cpu":
        raise UsageError(f"engine openvino runs on the CPU, not on {device}; give device cpu")
    if name not in (EngineName.AUTO, *there(device)):
        raise UsageError(
            "engine openvino was asked for, but it is not installed: pip install medi2i[openvino]"
            if name is EngineName.OPENVINO
            else f"engine compile was asked for, but {_compiler_of(device)} is not installed, with "
            "which torch compiles; install it or take another engine"
        )


def there(device: str) -> list[EngineName]:
    """The engines that can be asked for by name on a device."""
    import importlib.util
    import shutil

    found = [EngineName.TORCH]
    if device != "cpu":
        compiler = importlib.util.find_spec("triton") is not None
    else:
        compiler = any(map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS)))
    if compiler:
        found.append(EngineName.COMPILE)
    if device == "cpu" and importlib.util.find_spec("openvino") is not None:
        found.append(EngineName.OPENVINO)
    return found


def _compiler_of(device: str) -> str:
    return "a C++ compiler (g++, clang++ or cl)" if device == "cpu" else "triton"


class Engine:
    """What one scan's windows go through, and how it went.

    Args:
        asked: by whoever translates.
        device: "cpu" or "cuda".
        network: the modules that run.

    Attributes:
        name: which one runs: never "auto".
        difference: the largest from torch so far, as a share of the range; None where none was
            looked at.
        reason: why torch runs in the place of another.
        failed: whether that is because it went wrong: what it did so far must be done again.

    Raises:
        UsageError: it is not there.
    """

    def __init__(self, asked: EngineName, device: str, network: nn.Module) -> None:
        check_engine(asked, device)
        self.network = network
        self.asked = asked
        self.name = EngineName.TORCH if asked is EngineName.AUTO else asked
        self.difference: float | None = None
        self.reason = ""
        self.failed = False
        self._device = device

    def choose(self, voxels: int) -> None:
        """Where the choice is free, choose for so many voxels in windows.

        The choice depends on nothing else, so that the same scan takes the same way every time.
        """
        if self.asked is EngineName.AUTO and not self.reason:
            fast = voxels >= WORTH and EngineName.OPENVINO in there(self._device)
            self.name = EngineName.OPENVINO if fast else EngineName.TORCH

    def ready(self, eager: Run, window: Tensor, batch: int, middle: int, what: str) -> Run:
        """What batches go through instead of `eager`, which is torch as it stands.

        Args:
            window: (1, ...), the one in the middle.
            batch: windows in a whole batch; others go through torch.
            middle: the number of `window` among those that will come, in their order.
            what: tells `eager` from others of the same network.

        Returns:
            `eager` itself where the engine cannot.
        """
        import torch

        from medi2i.inference.faster import compiled, converted

        if self.name is EngineName.TORCH:
            return eager
        gpus = [window.device] if window.is_cuda else []
        before = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, gpus)]
        with torch.random.fork_rng(gpus):
            expected = eager(window)
            after = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, gpus)]
        if not all(map(torch.equal, before, after)):
            self.decline("the network draws random numbers")
            return eager
        try:
            build = converted if self.name is EngineName.OPENVINO else compiled
            fast = build(self.network, eager, window.expand(batch, *window.shape[1:]), what)
        except Exception as error:  # nobody knows all that a compiler may raise
            if out_of_memory(error):
                raise
            self.decline(f"it cannot run this network ({_brief(error)})")
            return eager
        count = 0

        def run(windows: Tensor) -> Tensor:
            nonlocal count
            place, count = middle - count, count + len(windows)
            if len(windows) != batch:
                return eager(windows)
            images = fast(windows)
            if 0 <= place < batch:
                self._compare(images[place], expected[0])
            return images

        return run

    def _compare(self, image: Tensor, expected: Tensor) -> None:
        """Note the difference; NaN is one beyond all bounds."""
        difference = float((image - expected).abs().max()) / 2
        if not difference <= BOUND:
            self.failed = True
            self.decline(f"it differs from torch by {difference:.1e} of the range")
        else:
            self.difference = max(self.difference or 0.0, difference)

    def decline(self, reason: str) -> None:
        """Let torch do it from here on."""
        self.reason = f"{self.name}: {reason}"
        self.name = EngineName.TORCH

    def record(self) -> dict[str, Any]:
        """For the side-car."""
        told: dict[str, Any] = {"Name": str(self.name)}
        if self.name is EngineName.OPENVINO:
            from importlib.metadata import version

            told["Version"] = version("openvino")
        if self.name is not EngineName.TORCH:
            told |= {"LargestDifference": self.difference, "Bound": BOUND}
        return {**told, "InsteadOf": self.reason} if self.reason else told

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence where another engine was asked for, or went wrong."""
        if self.reason and (self.failed or self.asked is not EngineName.AUTO):
            return (f"torch ran the network instead of {self.reason}",)
        return ()


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    told = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]  # OpenVINO's sum
    return f"{type(error).__name__}: {(told or lines)[0][:200]}"
