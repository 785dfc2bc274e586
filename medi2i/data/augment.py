"""Random changes of a window (torchio): of place for both sides, of looks for the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Probabilities of each change, 0 for never.

    `flip`, `affine` and `elastic` move source and target alike. `bias`, `gamma`, `noise` and
    `anisotropy` change the source alone: they are what a translator must see through.

    Attributes:
        flip: mirror left and right.
        affine: zoom by up to `zoom`, turn by up to `degrees` (about the axial axis for slices).
        elastic: smooth displacement of up to `displacement` voxels, less in small windows.
        bias: smooth multiplicative field.
        gamma: brighter or darker middle tones.
        noise: Gaussian, up to `noise_level` of the range.
        anisotropy: coarser along one axis.
    """

    flip: float = 0.5
    affine: float = 0.5
    elastic: float = 0.05
    bias: float = 0.3
    gamma: float = 0.5
    noise: float = 0.3
    anisotropy: float = 0.2
    zoom: float = 0.15
    degrees: float = 15.0
    displacement: float = 5.0
    noise_level: float = 0.05

    @classmethod
    def none(cls) -> Augmentation:
        """No change at all."""
        off = ("flip", "affine", "elastic", "bias", "gamma", "noise", "anisotropy")
        return cls(**dict.fromkeys(off, 0.0))

    @property
    def active(self) -> bool:
        """Whether anything can change."""
        return any(getattr(self, item.name) > 0 for item in fields(self)[:7])

    def __call__(
        self, source: Tensor, target: Tensor, weight: Tensor, *, seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Change one window; the same seed gives the same change.

        Args:
            source, target, weight: (C, X, Y, Z), intensities in [-1, 1]; a slab is thin in Z.
            seed: of every random number used.
        """
        if not self.active:
            return source, target, weight
        import torchio as tio  # two seconds to import

        subject = tio.Subject(
            source=tio.ScalarImage(tensor=(source + 1) / 2),  # air is 0, as torchio's models want
            target=tio.ScalarImage(tensor=(target + 1) / 2),
            weight=tio.ScalarImage(tensor=weight),
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPU too
            subject = self._transform(tio, source.shape[1:])(subject)
        source, target, weight = (subject[name].data for name in ("source", "target", "weight"))
        return source * 2 - 1, target * 2 - 1, weight.clamp(0, 1)

    def _transform(self, tio: Any, shape: Sequence[int]) -> Any:
        """The torchio pipeline; flat windows keep to their plane."""
        flat = shape[2] < 8
        turn = (0, 0, 0, 0, -self.degrees, self.degrees) if flat else self.degrees
        low, high = 1 - self.zoom, 1 + self.zoom
        zoom = (low, high, low, high, 1, 1) if flat else (low, high)
        axes = (0, 1) if flat else (0, 1, 2)
        source = {"include": ["source"]}
        steps: list[tuple[float, Callable[[], Any]]] = [
            (self.flip, lambda: tio.RandomFlip(axes=(0,), flip_probability=1.0)),
            (self.affine, lambda: tio.RandomAffine(zoom, turn, default_pad_value=0.0)),
            (self.elastic, lambda: self._bend(tio, shape, flat=flat)),
            (self.anisotropy, lambda: tio.RandomAnisotropy(axes, (1.5, 3.0), **source)),
            (self.gamma, lambda: tio.RandomGamma((-0.4, 0.4), **source)),
            (self.bias, lambda: tio.RandomBiasField(0.3, **source)),
            (self.noise, lambda: tio.RandomNoise(0, (0, self.noise_level), **source)),
        ]
        return tio.Compose([make() for chance, make in steps if torch.rand(()) < chance])

    def _bend(self, tio: Any, shape: Sequence[int], *, flat: bool) -> Any:
        """An elastic deformation by seven random knots along each axis."""
        # four cells lie between them; pushed by more than half of one, space would fold
        push = [min(self.displacement, (size - 1) / 8) for size in shape]
        if flat:
            push[2] = 0.0
        knots = tio.RandomElasticDeformation.get_params((7, 7, 7), push, 0)
        if flat:
            knots[:] = knots[:, :, :1]  # neighbouring slices must still lie on each other
        return tio.ElasticDeformation(knots, push)
