"""From anatomy to image: signals of a sequence, an uneven coil, noise."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from medi2i.contrasts import Contrast
from medi2i.errors import UsageError
from medi2i.simulate.anatomy import Head, procedural_head
from medi2i.simulate.physics import Sequence, protocol, relaxation, with_contrast_agent
from medi2i.simulate.shapes import Smooth
from medi2i.volume import Volume

__all__ = ["acquire", "phantom"]

_BRIGHT = 1000.0  # the 99.9th percentile of an image, as scanners fill their range


def acquire(
    head: Head,
    contrast: Contrast | str | Sequence,
    *,
    seed: int = 0,
    noise: float = 0.015,
    bias: float = 0.1,
    field: float = 3.0,
) -> NDArray[np.float32]:
    """One scan of a head: (X, Y, Z) float32, not negative, 99.9th percentile 1000 before noise.

    Args:
        contrast: by name, with its usual protocol; or a sequence with exact parameters.
        seed: of noise and coil. Scans of one head made with different seeds differ in those only.
        noise: standard deviation of each of the two receiver channels, relative to 1000. The
            magnitude of both is Rician (Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618).
        bias: standard deviation of the logarithm of the coil's sensitivity; 0 is an even coil.
        field: 1.5 or 3.0 T.

    Raises:
        ContrastError: a name that is not known.
        UsageError: a negative noise or bias, another field.
    """
    if noise < 0 or bias < 0:
        raise UsageError(f"noise is {noise} and bias is {bias}; neither can be negative.")
    sequence = protocol(contrast, field=field) if isinstance(contrast, str) else contrast
    enhanced = isinstance(contrast, str) and Contrast.parse(contrast) is Contrast.T1CE
    tissue_of = with_contrast_agent if enhanced else relaxation

    image = head.render({t: sequence.signal(tissue_of(t, field=field)) for t in head.tissues})
    np.abs(image, out=image)
    top = float(np.percentile(image, 99.9))
    if top > 0:
        image *= np.float32(_BRIGHT / top)

    rng = np.random.default_rng(seed)
    if bias:
        axes = [
            (np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2)) * np.float32(step)
            for n, step in zip(head.shape, head.spacing, strict=True)
        ]
        image *= np.exp(np.float32(bias) * Smooth(rng, 3)(*axes))
    if noise:
        sigma = np.float32(noise * _BRIGHT)
        real = image + sigma * rng.standard_normal(head.shape, np.float32)
        image = np.hypot(real, sigma * rng.standard_normal(head.shape, np.float32))
    return image


def phantom(
    seed: int = 0,
    *,
    contrasts: Iterable[Contrast | str] = (Contrast.T1W, Contrast.T2W, Contrast.FLAIR),
    shape: tuple[int, int, int] = (160, 192, 160),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    skull: bool = True,
    noise: float = 0.015,
    bias: float = 0.1,
    field: float = 3.0,
) -> dict[Contrast, Volume]:
    """Scans of one procedural head in several contrasts, all on one RAS grid.

    Arguments as for `procedural_head` and `acquire`. A contrast looks the same whichever others are
    asked for.

    >>> scans = phantom(contrasts=["t1", "t2"], shape=(16, 20, 16), spacing=(10, 10, 10))
    >>> [str(contrast) for contrast in scans]
    ['T1w', 'T2w']
    """
    wanted = [Contrast.parse(c) for c in contrasts]
    head = procedural_head(seed, shape=shape, spacing=spacing, skull=skull)
    order = list(Contrast)
    scans: dict[Contrast, Volume] = {}
    for contrast in wanted:
        own = int(np.random.SeedSequence([seed, order.index(contrast)]).generate_state(1)[0])
        voxels = acquire(head, contrast, seed=own, noise=noise, bias=bias, field=field)
        scans[contrast] = Volume.of(voxels, head.affine, name=f"phantom-{seed}_{contrast}.nii.gz")
    return scans
