"""One training run from its configuration: the place where data, system and trainer meet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from medi2i.batch import Batch, Pairing
from medi2i.config import build, read_yaml
from medi2i.contrasts import Contrast
from medi2i.data.cohort import Cohort, Subject, find_cohort
from medi2i.data.registration import load_together
from medi2i.data.settings import Data
from medi2i.data.supply import batches
from medi2i.errors import ConfigError
from medi2i.evaluation.protocols import protocol
from medi2i.figures import three_planes
from medi2i.files import atomic_write, clear_temporary, write_whole
from medi2i.inference.translate import choose_device, run_model
from medi2i.model import Model, build_system, write_model
from medi2i.systems import Translator
from medi2i.systems.guidance import Guidance, Guide
from medi2i.task import Task, View
from medi2i.training.distributed import joined
from medi2i.training.trainer import Plan, Progress, Trainer
from medi2i.volume import Volume
from medi2i.zoo import load_model

__all__ = ["Config", "Data", "Validation", "begun_alike", "read_config", "run_experiment"]


@dataclass(frozen=True)
class Validation:
    """Whole volumes of the split "val", scored as a reader of the paper would.

    Attributes:
        protocol: by name.
        volumes: of each translation, at most.
        better: the score that decides which weights are best.
    """

    protocol: str = "brain-3d"
    volumes: int = 2
    better: Literal["ssim", "psnr"] = "ssim"


@dataclass(frozen=True)
class Config:
    """One run, as its YAML file says it.

    Attributes:
        start: a model, by name or folder, whose weights it begins with instead of noise.
        guidance: holds neighbouring slices together; without it, no system is guided that does
            not do so by itself.
    """

    system: str
    task: Task
    arguments: Mapping[str, Any] = field(default_factory=dict)
    view: View = field(default_factory=View)
    data: Data = field(default_factory=Data)
    training: Plan = field(default_factory=Plan)
    validation: Validation = field(default_factory=Validation)
    guidance: Guidance = field(default_factory=lambda: Guidance(weight=0.0))
    start: str = ""
    name: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)


def read_config(path: Path, *, start: str | None = None, **changes: Any) -> Config:
    """Read a run's YAML file.

    Args:
        path: of the file.
        start: replaces the file's.
        changes: values of `training` that replace those in the file, e.g. rounds=100.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), a wrong type.
    """
    content = read_yaml(path)
    where = f'"{path}"'
    task = content.get("task")
    if not isinstance(task, dict):
        raise ConfigError(f'{where} lacks the key "task" with its sources and targets')
    task = dict(task)
    for side in ("sources", "targets"):
        names = task.get(side)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{side} of task of {where} is {names!r}; a list of contrasts is due")
        task[side] = tuple(Contrast.parse(name) for name in names)
    training = content.get("training") or {}
    if not isinstance(training, dict):
        raise ConfigError(f"training of {where} is {training!r}; keys and values were expected")
    training = {**training, **{k: v for k, v in changes.items() if v is not None}}
    merged = {"name": path.stem, **content, "task": task, "training": training}
    if start is not None:
        merged["start"] = start
    return build(Config, merged, where=where)


def run_experiment(
    config: Config,
    roots: Sequence[Path],
    folder: Path,
    *,
    device: str = "auto",
    cache: Path | None = None,
    prepared: Callable[[int, int, str], None] | None = None,
    watch: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Train, from the checkpoint in `folder` where there is one.

    Args:
        config: the run.
        roots: BIDS folders or tables; the split "train" is trained on, "val" is scored.
        folder: receives best/ and last/ (model folders), checkpoint.pt, log.csv, samples/ and
            config.yaml.
        device: "auto", "cpu" or "cuda".
        cache: folder that keeps decoded scans between runs.
        prepared: called while scans are decoded: number done, number in all, name.
        watch: called after every round.
        notice: called before the first, with what a person should know then.

    Returns:
        The scores of the last validation; empty where nobody is held back who has both ends of a
        translation.
    """
    where = choose_device(device)
    protocol(config.validation.protocol)  # an unknown name shall not show after hours
    cohort = find_cohort(list(roots))
    plan = config.training
    view = config.view
    torch.manual_seed(plan.seed)
    system = build_system(config.system, config.arguments, config.task, view)
    if config.start and not (folder / "checkpoint.pt").is_file():
        begin_with(system, load_model(config.start), config)
    guide, motion = None, system.motion
    if config.guidance.weight:
        guide = Guide(system, config.guidance, plan.rounds)
        motion = config.guidance.method
    supply = config.data.windows(
        _training_split(cohort),
        config.task,
        view,
        system.pairing,
        seed=plan.seed,
        cache=cache,
        motion=motion,
        complete=not config.start,
    )
    facts: dict[str, Any] = {"subjects": [subject.name for subject in supply.subjects]}
    if config.start:
        facts["start"] = Path(config.start).name
    if config.task.domains:
        facts["labels"] = Path(config.data.labels).name
    elif system.pairing is Pairing.UNPAIRED:
        facts["unpaired"] = {"heights": config.data.heights, "implicit": config.data.implicit}
    with joined(where) as ranks:
        if ranks.leads:
            clear_temporary(folder)
            remember(config, folder)
        supply.prepare(prepared)
        if ranks.rank:
            torch.manual_seed(plan.seed + ranks.rank)  # each its own dropout; weights come from 0

        def draw(start: int) -> Iterator[Batch]:
            return batches(
                supply,
                plan.batch_size,
                start=start,
                rank=ranks.rank,
                ranks=ranks.ranks,
                workers=plan.workers,
            )

        def model_of(system: Translator) -> Model:
            return Model(
                name=config.name,
                system_name=config.system,
                arguments=config.arguments,
                task=config.task,
                view=view,
                system=system,
                card={**config.card, **facts, "rounds": int(system.rounds)},
            )

        def keep(system: Translator, what: str) -> None:
            write_model(model_of(system), folder / what)

        cases = validation_cases(cohort, config)
        if notice is not None and ranks.leads and not cases:
            notice(_unscored(cohort, config.task))
        trainer = Trainer(
            system,
            draw,
            plan,
            folder,
            device=where,
            ranks=ranks,
            validate=(
                (lambda s, played: validate(model_of(s), cases, config, folder, played, device))
                if cases
                else None
            ),
            keep=keep,
            better=config.validation.better,
            watch=watch if ranks.leads else None,
            play=guide.play if guide is not None else None,
        )
        return trainer.run()


def begin_with(system: Translator, model: Model, config: Config) -> None:
    """Give a system the weights of a model; its rounds are counted from 0 again.

    Raises:
        ConfigError: the model is of another system, or its contrasts or networks are others.
    """
    where = f'model "{config.start}", with which the run shall start,'
    if model.system_name != config.system:
        raise ConfigError(
            f'{where} is of system "{model.system_name}", and the run of "{config.system}": '
            f"say system: {model.system_name}, or start from noise"
        )
    if model.task != config.task:
        raise ConfigError(
            f"{where} does {model.task}, and the run {config.task}: name the same sources and "
            "targets in the same order (people may lack some of them), or start from noise"
        )
    try:
        system.load_lasting_state({**model.system.lasting_state(), "rounds": system.rounds})
    except RuntimeError as error:
        unlike = [
            f"{name} {value!r}"
            for name, value in model.arguments.items()
            if config.arguments.get(name) != value
        ]
        raise ConfigError(
            f"{where} has other networks than the run: its arguments are {dict(model.arguments)}"
            + (f"; of these the run lacks {', '.join(unlike)}" if unlike else "")
            + f"; its view has {model.view.slices} slices and dims {model.view.dims}. {error}"
        ) from error


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


def remember(config: Config, folder: Path) -> None:
    """Write the configuration beside the run; refuse to go on under another one.

    Raises:
        ConfigError: the folder holds a run with another configuration.
    """
    text = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)
    path = folder / "config.yaml"
    begun = (folder / "checkpoint.pt").is_file() and path.is_file()
    if (
        begun
        and path.read_text(encoding="utf-8") != text
        and _plain(read_config(path)) != yaml.safe_load(text)  # keys that came later have defaults
    ):
        raise ConfigError(
            f'"{folder}" holds a run with another configuration (see "{path}"); '
            "resume it with its own, or choose another folder"
        )
    write_whole(path, text)


def begun_alike(
    path: Path, settings: Mapping[str, Any], *, later: Mapping[str, Any] | None = None
) -> None:
    """Write down what makes runs comparable; refuse to go on with anything else.

    Args:
        path: of the JSON file; made the first time.
        settings: by name, compared as text.
        later: what files from before mean that do not say it.

    Raises:
        ConfigError: the file is there and says otherwise.
    """
    mine = {name: str(value) for name, value in settings.items()}
    there = {name: str(value) for name, value in (later or {}).items()}
    there = there | json.loads(path.read_text(encoding="utf-8")) if path.is_file() else mine
    if there != mine:
        unlike = ", ".join(f"{k} was {there.get(k)}" for k in mine if there.get(k) != mine[k])
        raise ConfigError(f'"{path.parent}" was begun otherwise ({unlike}); choose another folder')
    write_whole(path, json.dumps(mine, indent=2) + "\n")


def _training_split(cohort: Cohort) -> Cohort:
    """Everybody where nobody is in a split."""
    return cohort if all(subject.split is None for subject in cohort) else cohort.split("train")


def _unscored(cohort: Cohort, task: Task) -> str:
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


def _plain(value: Any) -> Any:
    """Dataclasses and enumerations as plain YAML."""
    if isinstance(value, Contrast):
        return str(value)
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
