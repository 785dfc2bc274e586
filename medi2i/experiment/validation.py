"""Whole volumes of people who are held back: translated, scored and drawn while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medi2i.contrasts import Contrast
from medi2i.data.cohort import Cohort, Subject
from medi2i.data.registration import load_together
from medi2i.evaluation.protocols import protocol
from medi2i.experiment.configuration import Config
from medi2i.figures import three_planes
from medi2i.files import atomic_write
from medi2i.inference.translate import run_model
from medi2i.model import Model
from medi2i.task import Task
from medi2i.volume import Volume

__all__ = ["unscored", "validate", "validation_cases"]


def validation_cases(
    cohort: Cohort, config: Config
) -> list[tuple[Subject, tuple[Contrast, ...], Contrast]]:
    """(subject, sources, target) of every translation that is scored."""
    if config.task.domains or not any(subject.split == "val" for subject in cohort):
        return []  # nobody has an acquired image of both domains
    held_back = cohort.split("val")
    cases = []
    for sources, targets in config.task.pairs():
        able = [s for s in held_back if all(c in s.scans for c in (*sources, *targets))]
        for subject in able[: config.validation.volumes]:
            cases += [(subject, sources, target) for target in targets]
    return cases


def validate(
    model: Model,
    cases: Sequence[tuple[Subject, tuple[Contrast, ...], Contrast]],
    config: Config,
    folder: Path,
    played: int,
    device: str,
) -> dict[str, float]:
    """Translate whole volumes, score them, and draw the first of each translation."""
    judge = protocol(config.validation.protocol)
    gathered: dict[str, list[float]] = {}
    drawn: set[str] = set()
    for subject, sources, target in cases:
        scans = load_together(subject, (*sources, target))
        reference = scans.pop(target)
        result = run_model(model, scans, target, device=device)
        first = scans[sources[0]]
        scores = judge.score(
            result.volume.voxels,
            reference.voxels,
            mask=None,
            spacing=reference.spacing,
            source=first.voxels,
        )
        route = f"{'+'.join(map(str, sources))}-{target}"
        for name in ("psnr", "ssim", "mae"):
            value = float(getattr(scores, name))
            gathered.setdefault(name, []).append(value)
            gathered.setdefault(f"{route}/{name}", []).append(value)
        if route not in drawn:
            drawn.add(route)
            draw_sample(
                folder / "samples" / f"round-{played:07d}_{route}.png",
                [
                    (f"source {sources[0]}", first),
                    (f"synthetic {target}", result.volume),
                    (f"acquired {target}", reference),
                ],
            )
    return {name: sum(values) / len(values) for name, values in gathered.items()}


def draw_sample(path: Path, rows: Sequence[tuple[str, Volume]]) -> None:
    """A PNG of three planes, one row a volume."""
    picture = three_planes([(title, volume.voxels, volume.spacing) for title, volume in rows])
    atomic_write(path, lambda stream: picture.save(stream, format="PNG"), overwrite=True)


def unscored(cohort: Cohort, task: Task) -> str:
    """Why nothing can be scored."""
    if len(task.domains) == 1:
        return (
            f"{task}: images come back as they are; nothing is scored, and best/ will be the last"
        )
    if task.domains:
        return (
            f"nobody has an acquired image of two of {', '.join(task.domains)}: nothing is scored "
            "in training, and best/ will be the last"
        )
    held_back = sum(subject.split == "val" for subject in cohort)
    who = (
        f'none of {held_back} subjects in split "val" has both ends of a translation ({task})'
        if held_back
        else 'no subject is in split "val"'
    )
    return f"{who}: nothing is scored, and best/ will be the last"
