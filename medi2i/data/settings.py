"""How a run's windows are drawn, as its YAML file says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

from medi2i.batch import Pairing
from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import Cohort
from medi2i.data.labelled import MASKS, LabelledWindows
from medi2i.data.motion import checked_method
from medi2i.data.neighbours import GAP
from medi2i.data.pairs import PairedWindows
from medi2i.data.supply import Windows
from medi2i.data.twins import TWINS, TwinWindows
from medi2i.data.unpaired import Heights, UnpairedWindows
from medi2i.errors import ConfigError
from medi2i.task import Task, View

__all__ = ["Data"]


@dataclass(frozen=True)
class Data:
    """Windows for training: paired or unpaired as the system learns, or labelled by the task.

    Attributes:
        size, augmentation, background, emphasis: see :class:`Windows`.
        heights, implicit, allowed: of unpaired windows; see :class:`UnpairedWindows`.
        misalignment: of paired windows; see :class:`Misalignment`.
        gap: the largest distance between neighbouring slices, in mm, over which guidance follows
            motion; scans with thicker slices are then refused, for patches also where they would be
            resampled to thinner ones.
        labels: of labelled windows, for a task with domains; see :class:`LabelledWindows`; or
            "twins", see :class:`TwinWindows`.
    """

    size: int = 192
    augmentation: Augmentation = field(default_factory=Augmentation)
    background: float = 0.1
    emphasis: Mapping[str, float] = field(default_factory=dict)
    heights: Heights = "matching"
    implicit: float = 0.0
    allowed: tuple[str, ...] = ()
    labels: str = MASKS
    misalignment: float = 0.0
    gap: float = GAP

    def windows(
        self,
        cohort: Cohort,
        task: Task,
        view: View,
        pairing: Pairing,
        *,
        seed: int = 0,
        cache: Path | None = None,
        motion: str = "",
        complete: bool = True,
    ) -> Windows:
        """The supply that a system with this pairing learns from.

        Args:
            motion: the method by which motion is followed from slice to slice; empty for none.
            complete: of paired windows; see :class:`PairedWindows`.

        Raises:
            UsageError: labelled windows, whose motion nobody follows.
            ConfigError: settings of unpaired windows for a system that learns from pairs, or of
                labelled windows for a task without domains.
            CohortError: the cohort has not what is needed.
        """
        if motion and self.misalignment:
            raise ConfigError(
                f"data has misalignment {self.misalignment:g}, which moves a slice away from its "
                "neighbours, so guidance by motion between slices cannot be had: leave out either"
            )
        supply = self._windows(
            cohort, task, view, pairing, seed=seed, cache=cache, complete=complete
        )
        if motion:
            supply.follow(checked_method(motion), self.gap)
        return supply

    def _windows(
        self,
        cohort: Cohort,
        task: Task,
        view: View,
        pairing: Pairing,
        *,
        seed: int,
        cache: Path | None,
        complete: bool,
    ) -> Windows:
        usual = {item.name: item.default for item in fields(self)}
        if self.misalignment and (task.domains or pairing is Pairing.UNPAIRED):
            raise ConfigError(
                f"data has misalignment {self.misalignment:g}, which throws pairs off each other, "
                "but no pairs are drawn here: leave it out, or take a system that learns from pairs"
            )
        if task.domains:
            if self.emphasis:
                raise ConfigError(
                    f"data has emphasis, but {task} has one translation: leave it out"
                )
            kind = (
                TwinWindows
                if self.labels == TWINS
                else partial(LabelledWindows, labels=self.labels)
            )
            return kind(
                cohort,
                task,
                view,
                size=self.size,
                augmentation=self.augmentation,
                seed=seed,
                background=self.background,
                cache=cache,
            )
        if self.labels != usual["labels"]:
            raise ConfigError(
                f"data has labels, but {task} has no domains that they could tell apart: leave "
                "them out, or give the task domains"
            )
        emphasis = {Contrast.parse(name): often for name, often in self.emphasis.items()}
        if pairing is Pairing.UNPAIRED:
            return UnpairedWindows(
                cohort,
                task,
                view,
                size=self.size,
                augmentation=self.augmentation,
                seed=seed,
                background=self.background,
                emphasis=emphasis,
                heights=self.heights,
                implicit=self.implicit,
                allowed=self.allowed,
                cache=cache,
            )
        given = [n for n in ("heights", "implicit", "allowed") if getattr(self, n) != usual[n]]
        if given:
            raise ConfigError(
                f"data has {', '.join(given)}, which say how unpaired windows are drawn, but this "
                "system learns from pairs: leave them out"
            )
        return PairedWindows(
            cohort,
            task,
            view,
            size=self.size,
            augmentation=self.augmentation,
            seed=seed,
            background=self.background,
            emphasis=emphasis,
            misalignment=self.misalignment,
            complete=complete,
            cache=cache,
        )
