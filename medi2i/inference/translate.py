"""From a volume to a volume: normalise, cut, translate, stitch, un-normalise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medi2i.choices import called
from medi2i.contrasts import Contrast, contrast_of
from medi2i.errors import InputError, UsageError
from medi2i.inference.engines import EngineName
from medi2i.inference.passes import Quality
from medi2i.inference.prepared import Prepared, Watch, choose_device
from medi2i.inference.recognise import recognise
from medi2i.model import Model
from medi2i.normalise import Scaling
from medi2i.volume import Volume, load_volume
from medi2i.zoo import find_model, load_model

__all__ = [
    "UNCERTAINTY",
    "Scan",
    "Scans",
    "Translation",
    "by_contrast",
    "check_uncertainty",
    "choose_device",
    "load_scans",
    "run_model",
    "translate",
]

Scan = Volume | str | Path
UNCERTAINTY = "uncertainty"
"""The name of the map of expected absolute errors."""

Scans = Scan | Sequence[Scan] | Mapping[str, Scan] | Mapping[Contrast, Scan]


@dataclass(frozen=True)
class Translation:
    """A synthetic volume and how it came about.

    Attributes:
        volume: on the source's grid and axes.
        scaling: the fitted numbers of each source contrast, by name.
        working_shape: at which the network saw the scan.
        passes: the looks at the scan whose mean this is.
        warnings: sentences for the side-car.
        seconds: by stage: normalise, network, stitch.
        engine: what ran the network, and how far it was from torch, for the side-car.
        maps: what else is known of each voxel, by name ("std": standard deviation of samples), on
            the grid and intensity scale of `volume`.
    """

    volume: Volume
    scaling: Mapping[str, Scaling]
    working_shape: tuple[int, int, int]
    passes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    maps: Mapping[str, Volume] = field(default_factory=dict)


def translate(
    scan: Scans,
    *,
    to: str | Contrast,
    source: str | Contrast | None = None,
    model: str | Path | Model | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    quality: str | Quality = Quality.FAST,
    engine: str | EngineName = EngineName.AUTO,
) -> Volume:
    """Turn one contrast of a head into another.

    Args:
        scan: a volume or a path; several, for a model that needs several contrasts; or a mapping
            from contrast to scan.
        to: the contrast wanted: "t2", "T2w", "flair", ...
        source: the contrast of `scan`, where its name or side-car does not say. It is recognised
            from the image where nobody says it and the image leaves no doubt.
        model: a shipped model's name, a model folder, or a loaded model; by default the shipped
            model that does it.
        device: "auto", "cpu" or "cuda".
        batch_size: windows that go through the network at once.
        quality: "fast", one look at the scan; "planes", three, one in each plane, averaged;
            "best", mirrored as well: nearer to the truth, for up to four times the time.
        engine: what runs the network: "torch", "compile" or "openvino"; "auto" takes the one that
            is faster, which differs from torch by at most 1e-4 of the range of intensities.

    Returns:
        The synthetic scan, on the grid of the (first) source and on its intensity scale.

    Raises:
        ContrastError: a contrast is unknown or not served. InputError: a scan cannot be used.
        ModelError: the model cannot.

    In a notebook::

        import medi2i

        t2 = medi2i.translate("sub-01_T1w.nii.gz", to="t2")
        medi2i.save_volume(t2, "sub-01_desc-synth_T2w.nii.gz")
    """
    target = Contrast.parse(to)
    scans = by_contrast(scan, source)
    if model is None:
        model = find_model(tuple(scans), target)
    loaded = model if isinstance(model, Model) else load_model(model)
    return run_model(
        loaded,
        load_scans(scans),
        target,
        device=device,
        batch_size=batch_size,
        quality=called("quality", quality, Quality),
        engine=called("engine", engine, EngineName),
    ).volume


def run_model(
    model: Model,
    scans: Mapping[Contrast, Volume],
    target: Contrast,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    quality: Quality = Quality.FAST,
    engine: EngineName = EngineName.TORCH,
    uncertainty: bool = False,
    watch: Watch | None = None,
) -> Translation:
    """Translate loaded volumes with a loaded model.

    Args:
        model: moved to the device.
        scans: by contrast; brought onto the grid of the first by their world coordinates.
        target: the contrast wanted.
        device, batch_size, quality, engine: as in :func:`translate`.
        uncertainty: also the map "uncertainty": the absolute error to be expected in each voxel.
        watch: called with (windows done, windows in all).

    Raises:
        ContrastError: the model does not turn these contrasts into that one.
        UsageError: `uncertainty` is asked of a model that does not know; there is no such engine.
    """
    if uncertainty:
        check_uncertainty(model)
    ready = Prepared(model, scans, target, device=device, quality=quality, engine=engine)
    system = ready.system

    def forward(source: Tensor, asked: Tensor | None) -> Tensor:
        if uncertainty:
            return torch.cat(system.with_spread(source, target=asked), 1)
        return system.translate(source, target=asked)

    values, *spread = ready.through(
        forward,
        kinds=2 if uncertainty else 1,
        what="image and spread" if uncertainty else "image",
        batch_size=batch_size,
        watch=watch,
    )
    return Translation(
        ready.scan(values),
        ready.scaling,
        ready.working_shape,
        passes=tuple(map(str, ready.passes)),
        warnings=ready.engine.warnings,
        engine=ready.engine.record(),
        seconds=ready.seconds,
        maps={UNCERTAINTY: ready.spread(spread[0])} if uncertainty else {},
    )


def check_uncertainty(model: Model) -> None:
    """Raise UsageError unless the model knows how far off it may be."""
    if not model.system.uncertain:
        raise UsageError(
            f'model "{model.name}", system "{model.system_name}" as it was built, does not know '
            "how sure it is: leave --uncertainty out, or take one that was trained with `spread`"
        )


def by_contrast(scan: Scans, source: str | Contrast | None) -> dict[Contrast, Scan]:
    """Each scan under its contrast: as given, as its name or side-car says, as it looks."""
    if isinstance(scan, Mapping):
        given = {Contrast.parse(c): s for c, s in scan.items()}
        if len(given) < len(scan):
            raise InputError(
                f"the scans {', '.join(map(str, scan))} name a contrast twice; one of each "
                "contrast was expected"
            )
        return given
    scans = [scan] if isinstance(scan, Volume | str | Path) else list(scan)
    if not scans:
        raise UsageError("no scan was given to translate")
    if source is not None:
        if len(scans) != 1:
            raise UsageError("`source` names one contrast; give several scans as a mapping")
        return {Contrast.parse(source): scans[0]}
    named: dict[Contrast, Scan] = {}
    for one in scans:
        contrast = contrast_of(Path(one.name if isinstance(one, Volume) else one))
        if contrast is None:
            label = (one.name or "this volume") if isinstance(one, Volume) else str(one)
            one = one if isinstance(one, Volume) else load_volume(one)
            contrast, _ = recognise(one, label)
        if contrast in named:
            raise InputError(f"two scans are {contrast}; one of each contrast was expected")
        named[contrast] = one
    return named


def load_scans(scans: Mapping[Contrast, Scan]) -> dict[Contrast, Volume]:
    """The volumes behind paths; volumes as they are."""
    return {
        contrast: one if isinstance(one, Volume) else load_volume(one)
        for contrast, one in scans.items()
    }
