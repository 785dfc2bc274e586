"""What differs from one head to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medi2i.simulate.shapes import Ripples, Smooth

__all__ = ["Person"]


@dataclass(frozen=True, slots=True)
class Person:
    """One head's measures (factors, or mm in the atlas) and its random fields."""

    aside: float
    size: float
    proportions: tuple[float, float, float]
    ventricles: float
    sulci: float
    cortex: float
    skull: float
    fat: float
    sinuses: float
    bent: tuple[Smooth, Smooth, Smooth]
    folds: Ripples
    medial_folds: Ripples
    folia: Ripples
    askew: tuple[Smooth, Smooth]
    depth: Smooth
    bone: Smooth
    diploe: Smooth
    scalp: Smooth
    cells: Ripples
    mucosa: Ripples
    honeycomb: Ripples
    seams: Ripples

    @classmethod
    def draw(cls, seed: int) -> Person:
        """The person that a seed stands for."""
        rng = np.random.default_rng(seed)
        x, y, z = rng.uniform(0.975, 1.025, 3)
        return cls(
            aside=rng.choice((-1, 1)) * rng.uniform(2.5, 4.0),  # nobody lies quite in the middle
            size=rng.uniform(0.86, 0.9),
            proportions=(float(x), float(y), float(z)),
            ventricles=rng.uniform(0.7, 1.2),
            sulci=rng.uniform(0.75, 1.35),
            cortex=rng.uniform(2.8, 3.3),
            skull=rng.uniform(6.0, 8.5),
            fat=rng.uniform(2.8, 5.0),
            sinuses=rng.uniform(0.8, 1.2),
            bent=(Smooth(rng, 8), Smooth(rng, 8), Smooth(rng, 8)),
            folds=Ripples(rng, (18, 20, 20)),
            medial_folds=Ripples(rng, (50, 21, 21)),
            folia=Ripples(rng, (44, 8, 8)),
            askew=(Smooth(rng, 9), Smooth(rng, 9)),
            depth=Smooth(rng, 10),
            bone=Smooth(rng, 8),
            diploe=Smooth(rng, 9),
            scalp=Smooth(rng, 7),
            cells=Ripples(rng, (9, 12, 12)),
            mucosa=Ripples(rng, (7, 60, 13)),
            honeycomb=Ripples(rng, (9, 9, 9)),
            seams=Ripples(rng, (22, 22, 80)),
        )
