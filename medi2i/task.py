"""What a model turns into what, and how it looks at a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, UsageError
from medi2i.windows import Grid

__all__ = ["Task", "View"]


@dataclass(frozen=True)
class Task:
    """Which contrasts go in and which come out.

    Attributes:
        sources: stacked as input channels, in this order; or, on demand, any one of them.
        targets: stacked as output channels; or, on demand, whichever is asked for.
        on_demand: one network serves every pair of a source and another target.
        domains: kinds of images of the very same contrasts, of which each can be asked to look
            like any, such as ("healthy", "diseased"); the targets are then the sources. A single
            one, ("healthy",): what is learned is that kind alone, and to give its images back.

    >>> Task((Contrast.T1W, Contrast.FLAIR), (Contrast.T2W,)).pairs()
    [((<Contrast.T1W: 'T1w'>, <Contrast.FLAIR: 'FLAIR'>), (<Contrast.T2W: 'T2w'>,))]
    """

    sources: tuple[Contrast, ...]
    targets: tuple[Contrast, ...]
    on_demand: bool = False
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.sources or not self.targets:
            raise UsageError("a task needs at least one source and one target contrast")
        for side, contrasts in (("sources", self.sources), ("targets", self.targets)):
            if len(set(contrasts)) != len(contrasts):
                raise UsageError(f"{side} {_names(contrasts)} name a contrast twice")
        if self.domains:
            self._check_domains()
            return
        both = set(self.sources) & set(self.targets)
        if both and not self.on_demand:
            raise ContrastError(f"{_names(sorted(both))} is both source and target of one task")
        if not self.pairs():
            raise ContrastError(f"{_names(self.sources)} leaves nothing to translate into")

    @property
    def inputs(self) -> int:
        """Contrasts that enter the network together."""
        return 1 if self.on_demand else len(self.sources)

    @property
    def outputs(self) -> int:
        """Contrasts that leave the network together."""
        return 1 if self.on_demand else len(self.targets)

    @property
    def conditions(self) -> int:
        """Targets, or domains, that can be asked for; 0 where there is no choice."""
        return len(self.targets) if self.on_demand else len(self.domains)

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Every contrast of the task, sources first, none twice."""
        return tuple(dict.fromkeys((*self.sources, *self.targets)))

    def pairs(self) -> list[tuple[tuple[Contrast, ...], tuple[Contrast, ...]]]:
        """Each (inputs, outputs) that the network is trained on."""
        if not self.on_demand:
            return [(self.sources, self.targets)]
        return [((s,), (t,)) for s in self.sources for t in self.targets if s != t]

    def _check_domains(self) -> None:
        names = ", ".join(self.domains)
        if len(set(self.domains)) != len(self.domains):
            raise UsageError(f"domains are {names}; none twice was expected")
        if self.on_demand or self.sources != self.targets:
            raise UsageError(
                f"the domains {names} are kinds of images of the same contrasts: give the sources "
                "as targets too, in the same order, and leave on_demand out"
            )

    def __str__(self) -> str:
        if self.on_demand:
            return f"any of {_names(self.sources)} -> any of {_names(self.targets)}"
        if self.domains:
            return f"{_names(self.sources, '+')} as any of {', '.join(self.domains)}"
        return f"{_names(self.sources, '+')} -> {_names(self.targets, '+')}"


@dataclass(frozen=True)
class View:
    """How a network sees a canonical volume.

    Attributes:
        dims: 2 for axial slices, 3 for patches.
        slices: neighbouring slices seen together (dims 2).
        patch: voxels along each side of a 3-D patch.
        overlap: share of a 3-D patch that its neighbour covers again.
        spacing: mm per voxel that the network was trained at, in the slice plane (dims 2) or
            along every axis (dims 3); None takes scans as they come.
    """

    dims: int = 2
    slices: int = 1
    patch: int = 96
    overlap: float = 0.5
    spacing: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no volume could be looked at with.

        Raises:
            UsageError: dims is neither 2 nor 3, an even or misplaced number of slices, an empty
                patch, an overlap that leaves no step, a spacing that is not positive.
        """
        if self.dims not in (2, 3):
            raise UsageError(
                f"dims is {self.dims}; 2 (slices and slabs) or 3 (patches) was expected"
            )
        if self.slices < 1 or self.slices % 2 != 1 or (self.dims == 3 and self.slices != 1):
            raise UsageError(
                f"slices is {self.slices} with dims {self.dims}; an odd number was expected "
                "in 2-D, 1 in 3-D"
            )
        if self.patch < 1 or not 0 <= self.overlap < 1:
            raise UsageError(
                f"patch is {self.patch} and overlap {self.overlap:g}; at least one voxel and "
                "0 <= overlap < 1 were expected"
            )
        if self.spacing is not None and not self.spacing > 0:
            raise UsageError(f"spacing is {self.spacing:g} mm; more than 0 was expected")

    def grid(self, shape: Sequence[int]) -> Grid:
        """The windows that cover a volume of this shape (X, Y, Z)."""
        x, y, z = shape
        if self.dims == 2:
            return Grid.slices((x, y, z), axis=2, neighbours=self.slices // 2)
        return Grid.patches((x, y, z), (self.patch,) * 3, overlap=self.overlap)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which `spacing` holds."""
        return (0, 1) if self.dims == 2 else (0, 1, 2)


def _names(contrasts: Sequence[Contrast], joint: str = ", ") -> str:
    return joint.join(str(contrast) for contrast in contrasts)
