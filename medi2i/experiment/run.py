"""A run from scans to a model folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medi2i.batch import Batch, Pairing
from medi2i.data.cohort import Cohort, find_cohort
from medi2i.data.supply import batches
from medi2i.errors import ConfigError
from medi2i.evaluation.protocols import protocol
from medi2i.experiment.configuration import Config, remember
from medi2i.experiment.validation import unscored, validate, validation_cases
from medi2i.files import clear_temporary
from medi2i.inference.guards.scope import CARD as SCOPE
from medi2i.inference.guards.scope import scope_of
from medi2i.inference.translate import choose_device
from medi2i.model import Model, build_system, write_model
from medi2i.systems import Translator
from medi2i.systems.guidance import Guide
from medi2i.training.checkpoint import begin_random
from medi2i.training.distributed import joined
from medi2i.training.log import Progress
from medi2i.training.trainer import Trainer
from medi2i.zoo import load_model

__all__ = ["run_experiment"]


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
    begin_random(plan.seed)
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
            scans = [one.scans[contrasts[0]] for one, contrasts in supply.readings]
            facts[SCOPE] = scope_of(scans)
        supply.prepare(prepared)
        if ranks.rank:
            begin_random(plan.seed + ranks.rank)  # each its own dropout; weights come from 0

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
            notice(unscored(cohort, config.task))
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


def _training_split(cohort: Cohort) -> Cohort:
    """Everybody where nobody is in a split."""
    return cohort if all(subject.split is None for subject in cohort) else cohort.split("train")
