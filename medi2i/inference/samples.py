"""Several images of one scan, from systems that can give them, and what they agree on.

A sample is known by its seed and its number, counted from 1: sample 3 of seed 1 is the same
whether three samples are drawn or thirty. It is one image of the whole head: every window gets
the same code, and meets torch's random state, from which dropout takes its mask, in the same
place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medi2i.contrasts import Contrast
from medi2i.errors import UsageError
from medi2i.inference.prepared import Forward, Prepared, Watch
from medi2i.inference.translate import Scans, Translation, by_contrast, load_scans
from medi2i.model import Model
from medi2i.systems import SYSTEMS, Translator
from medi2i.volume import Volume
from medi2i.zoo import load_model

__all__ = ["STD", "Moments", "Samples", "check_samples", "run_samples", "sample"]

STD = "std"
"""The name of the map of standard deviations."""

Take = Callable[[int, Volume], None]


@dataclass(frozen=True)
class Samples:
    """Images that fit one scan.

    Attributes:
        mean, std: of the samples, voxel by voxel, on their grid and intensity scale; the standard
            deviation is that of these samples (divided by their number, not by one less).
        volumes: the samples; sample 1 comes first.
    """

    mean: Volume
    std: Volume
    volumes: tuple[Volume, ...]


class Moments:
    """Mean and standard deviation of arrays that come one at a time, in float64.

    Welford 1962, doi:10.1080/00401706.1962.10490022. Two arrays are kept, however many come.

    >>> moments = Moments()
    >>> for value in (1.0, 3.0):
    ...     moments.add(np.array([value, 5.0]))
    >>> moments.mean, moments.std
    (array([2., 5.]), array([1., 0.]))
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: NDArray[np.float64] = np.zeros(())
        self._squares: NDArray[np.float64] = np.zeros(())

    def add(self, values: NDArray[np.floating]) -> None:
        """Take in the next array, of the same shape as the others."""
        if not self.count:
            self._mean = np.zeros_like(values, np.float64)
            self._squares = np.zeros_like(values, np.float64)
        self.count = n = self.count + 1
        step = np.subtract(values, self._mean)
        step /= n
        self._mean += step
        # Welford's (value - old mean) * (value - new mean) is step**2 * n * (n - 1)
        step *= step
        step *= n * (n - 1)
        self._squares += step

    @property
    def mean(self) -> NDArray[np.float64]:
        """Of what was added so far."""
        return self._mean

    @property
    def std(self) -> NDArray[np.float64]:
        """Of what was added so far, divided by its number."""
        return np.sqrt(self._squares / max(self.count, 1))


def sample(
    scan: Scans,
    *,
    to: str | Contrast,
    model: str | Path | Model,
    samples: int = 8,
    seed: int = 0,
    source: str | Contrast | None = None,
    device: str = "auto",
    batch_size: int | None = None,
) -> Samples:
    """Draw several of the images that fit a scan.

    All are kept in memory; :func:`run_samples` hands over one after the other.

    Args:
        scan, to, source, device, batch_size: as for :func:`medi2i.translate`.
        model: of a one-to-many system: a shipped model's name, a model folder, or a loaded model.
        samples: how many, at least 2.
        seed: other samples for another seed.

    Raises:
        UsageError: fewer than 2 samples, or the system gives one image per scan.
        ContrastError, InputError, ModelError: as :func:`medi2i.translate`.

    In a notebook::

        drawn = medi2i.sample("sub-01_T1w.nii.gz", to="t2", model="runs/pix2pix/best", samples=8)
        medi2i.save_volume(drawn.std, "std.nii.gz")
    """
    target = Contrast.parse(to)
    scans = by_contrast(scan, source)
    loaded = model if isinstance(model, Model) else load_model(model)
    check_samples(loaded, samples)
    kept: list[Volume] = []
    result = run_samples(
        loaded,
        load_scans(scans),
        target,
        samples=samples,
        seed=seed,
        device=device,
        batch_size=batch_size,
        take=lambda _, volume: kept.append(volume),
    )
    return Samples(result.volume, result.maps[STD], tuple(kept))


def run_samples(
    model: Model,
    scans: Mapping[Contrast, Volume],
    target: Contrast,
    *,
    samples: int,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    watch: Watch | None = None,
    take: Take | None = None,
) -> Translation:
    """Draw samples with a loaded model; memory does not grow with their number.

    Args:
        model, scans, target, device: as for :func:`medi2i.inference.translate.run_model`.
        samples: how many, at least 2.
        seed: other samples for another seed.
        batch_size: windows that go through the network at once; one where chance does not enter
            by a code, since a random mask that spans a batch would depend on its size.
        watch: called with (windows done, windows in all), over all samples.
        take: called with the number and the volume of each sample as soon as it is done.

    Returns:
        The mean, with a map "std".

    Raises:
        UsageError: fewer than 2 samples, or the system gives one image per scan.
        ContrastError: the model does not turn these contrasts into that one.
    """
    check_samples(model, samples)
    ready = Prepared(model, scans, target, device=device)
    moments = Moments()
    for number in range(1, samples + 1):

        def told(done: int, windows: int, before: int = number - 1) -> None:
            if watch is not None:
                watch(before * windows + done, samples * windows)

        with torch.random.fork_rng(devices=ready.gpus):  # the caller's random state stays
            (values,) = ready.through(
                _drawing(ready.system, seed, number),
                batch_size=batch_size if ready.system.code_size else 1,
                watch=told,
            )
        volume = ready.scan(values)
        with ready.timed("stitch"):
            moments.add(volume.voxels)
        if take is not None:
            take(number, volume)
    mean, std = volume.like(moments.mean), volume.like(moments.std)
    return Translation(
        mean,
        ready.scaling,
        ready.working_shape,
        passes=tuple(map(str, ready.passes)),
        engine=ready.engine.record(),
        seconds=ready.seconds,
        maps={STD: std},
    )


def check_samples(model: Model, samples: int) -> None:
    """Raise UsageError unless the model can give that many samples."""
    if samples < 2:
        raise UsageError(
            f"{samples} samples were asked for; at least 2 were expected: fewer have no spread"
        )
    if not model.system.one_to_many:
        able = [name for name, kind in SYSTEMS.items() if kind.one_to_many]
        raise UsageError(
            f'model "{model.name}", system "{model.system_name}" as it was built, gives one image '
            "per scan: leave --samples out (in Python: use translate), or name with --model one "
            f"of a one-to-many system ({', '.join(able) or 'this version has none'})"
        )


def _drawing(system: Translator, seed: int, number: int) -> Forward:
    """The network that draws one sample."""
    # The code and torch's state get seeds of their own, else their first numbers would be equal.
    sequence = np.random.SeedSequence([seed % 2**64, number])
    for_code, for_chance = map(int, sequence.generate_state(2, np.uint64))
    random = torch.Generator().manual_seed(for_code)
    code = torch.randn(system.code_size, generator=random)

    def draw(source: Tensor, target: Tensor | None) -> Tensor:
        torch.default_generator.manual_seed(for_chance)
        if source.is_cuda:
            torch.cuda.manual_seed(for_chance)
        return system.sample(source, code.to(source).repeat(len(source), 1), target=target)

    return draw
