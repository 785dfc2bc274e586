"""What every system of the catalogue promises, in 2-D and 3-D. A new system adds one line here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from medi2i.batch import Batch, Neighbour
from medi2i.contrasts import Contrast
from medi2i.model import Model, build_system, read_model, write_model
from medi2i.systems import SYSTEMS, Translator
from medi2i.task import Task, View
from medi2i.training.plan import Optimiser, Plan
from medi2i.training.trainer import Trainer

T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR
SETUPS = {
    "2-D": (Task((T1W,), (T2W,)), View(dims=2)),
    "2-D on demand": (Task((T1W, T2W, FLAIR), (T1W, T2W, FLAIR), True), View(dims=2, slices=3)),
    "2-D many to many": (Task((T1W, FLAIR), (T2W, Contrast.PDW)), View(dims=2, slices=3)),
    "3-D": (Task((T1W,), (T2W,)), View(dims=3, patch=16)),
}
ALONE = {
    "2-D, one domain": (Task((FLAIR,), (FLAIR,), domains=("healthy",)), View(dims=2)),
    "2-D, several contrasts": (
        Task((T1W, FLAIR), (T1W, FLAIR), domains=("healthy",)),
        View(dims=2, slices=3),
    ),
    "3-D, one domain": (Task((FLAIR,), (FLAIR,), domains=("healthy",)), View(dims=3, patch=16)),
}
"""For systems that translate nothing."""


class Small(NamedTuple):
    """A system with constructor arguments that make it quick, and the setups worth a test."""

    system: str
    arguments: dict[str, Any]
    setups: Sequence[str] = tuple(SETUPS)


HD = {
    "features": 4,
    "halvings": 2,
    "blocks": 1,
    "local_blocks": 1,
    "patch": 1,
    "patch_features": 4,
    "encoder_features": 4,
}
SMALL = {
    "alignflow": Small(
        "alignflow",
        {"levels": 2, "steps": 1, "width": 4, "patch": 1, "patch_features": 4, "pool": 3},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "alignflow, likelihood alone": Small(
        "alignflow",
        {"levels": 1, "steps": 2, "width": 4, "adversarial": 0.0, "coupling": "sigmoid"}
        | {"squeeze": "fold", "recompute": True},
        ["2-D many to many", "3-D"],
    ),
    "alignflow, the game alone": Small(
        "alignflow",
        {"levels": 2, "steps": 1, "width": 4, "adversarial": 1.0, "recompute": True}
        | {"patch": 1, "patch_features": 4, "pool": 3},
        ["2-D"],
    ),
    "bicyclegan": Small("bicyclegan", {"depth": 3, "features": 4, "blocks": 2, "patch": 1}),
    "pix2pix": Small("pix2pix", {"depth": 3, "features": 4, "patch": 1}),
    "stargan": Small(
        "stargan",
        {
            "features": 2,
            "blocks": 1,
            "discriminator_features": 2,
            "discriminator_layers": 2,
            "window": 8,
            "n_critic": 1,
        },
    ),
    "starganv2": Small(
        "starganv2",
        {"size": 16, "features": 4, "widest": 8, "hidden": 8, "code_size": 4, "style_size": 4},
    ),
    "pix2pix_flow": Small(
        "pix2pix_flow",
        {"levels": 2, "steps": 1, "width": 4, "features": 4},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "pix2pix_flow, additive, recomputed": Small(
        "pix2pix_flow",
        {"levels": 2, "steps": 1, "width": 4, "features": 4, "coupling": "additive"}
        | {"recompute": True, "codes": "last"},
        ["2-D many to many"],
    ),
    "pix2pixhd": Small("pix2pixhd", HD | {"enhancers": 1, "l1": 1.0}),
    "pix2pixhd with features": Small("pix2pixhd", HD | {"encoded": 2, "encoder_halvings": 2}),
    "revgan": Small(
        "revgan",
        {"depth": 2, "features": 4, "patch": 1, "patch_features": 4},
        ["2-D", "2-D many to many", "3-D"],  # two domains, each with networks of its own
    ),
    "reggan": Small(
        "reggan",
        {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4, "levels": 2}
        | {"registration_features": 4},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "reggan, velocity": Small(
        "reggan",
        {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4, "registration": "velocity"},
        ["2-D many to many"],
    ),
    "bayesian_cgan": Small("bayesian_cgan", {"depth": 3, "features": 4, "patch": 1}),
    "bayesian_cgan with concrete dropout": Small(
        "bayesian_cgan",
        {"depth": 3, "features": 4, "patch": 1}
        | {"dropout": "concrete", "examples": 10, "aleatoric": 1.0},
        ["2-D on demand", "3-D"],
    ),
    "cgan_hu2018": Small("cgan_hu2018", {"depth": 3, "features": 4, "patch": 1}),
    "cgan_hu2018, residual, Wasserstein": Small(
        "cgan_hu2018",
        {"network": "resnet", "blocks": 1, "features": 4, "patch": 1, "condition": "centre"}
        | {"game": "wasserstein", "critic": 2},
        ["2-D on demand", "3-D"],
    ),
    "cgan_hu2018, L1 alone": Small(
        "cgan_hu2018", {"depth": 3, "features": 4, "gan": 0.0}, ["2-D many to many"]
    ),
    "cegan": Small("cegan", {"depth": 3, "features": 4, "blocks": 2, "patch": 1, "warmup": 0}),
    "cegan, conditional critic, no image discriminator": Small(
        "cegan",
        {"depth": 3, "features": 4, "blocks": 2, "warmup": 0, "critic": "both", "gan": 0.0}
        | {"moments": True},
        ["2-D on demand", "3-D"],
    ),
    "cut": Small(
        "cut",
        {"features": 4, "blocks": 2, "patch": 1, "patch_features": 4, "code": 4, "patches": 8},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "fastcut": Small(
        "cut",
        {"variant": "fastcut", "features": 4, "blocks": 1, "patch": 1, "patch_features": 4}
        | {"code": 4, "patches": 8, "antialiased": False},
        ["2-D", "3-D"],
    ),
    "sincut": Small(
        "cut",
        {"variant": "sincut", "features": 4, "blocks": 1, "size": 8, "patch_features": 2}
        | {"code": 4},
        ["2-D many to many", "3-D"],
    ),
    "cyclegan": Small(
        "cyclegan",
        {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4, "pool": 3},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "cyclegan, U-Net": Small(
        "cyclegan",
        {"generator": "unet", "depth": 3, "features": 4, "patch": 1, "patch_features": 4},
        ["2-D many to many", "3-D"],
    ),
    "cyclegan, two slices judged": Small(
        "cyclegan",
        {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4, "pool": 3, "judged": 2},
        ["2-D", "2-D many to many"],
    ),
    "denoising_autoencoder": Small(
        "denoising_autoencoder", {"features": (4, 8), "grain": 4}, tuple(ALONE)
    ),
    "discogan": Small(
        "discogan",
        {"depth": 2, "features": 4, "generator_rounds": 0},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "dualgan": Small(
        "dualgan",
        {"depth": 3, "features": 4, "critic_layers": 2},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "dualgan, clipped, with dropout": Small(
        "dualgan",
        # a bound that nothing reaches: clipping comes after the turn, when the test has looked
        {"depth": 3, "features": 4, "critic_layers": 2, "game": "wgan", "clip": 2.0}
        | {"dropout": 0.5},
        ["2-D many to many", "3-D"],
    ),
    "dualgan, cross entropy": Small(
        "dualgan",
        {"depth": 3, "features": 4, "critic_layers": 2, "game": "classic"},
        ["2-D"],
    ),
    "fixed_point_gan": Small(
        "fixed_point_gan",
        {"features": 2, "blocks": 1, "discriminator_features": 2, "discriminator_layers": 2}
        | {"window": 8, "n_critic": 1},
    ),
    "fixed_point_gan, tanh, without staying": Small(
        "fixed_point_gan",
        {"features": 2, "blocks": 1, "discriminator_features": 2, "discriminator_layers": 2}
        | {"window": 8, "n_critic": 1, "head": "tanh", "staying": False, "identity": 0.0},
        ["2-D on demand"],
    ),
    "tunit": Small(
        "tunit",
        {"size": 16, "features": 4, "widest": 8, "guide_features": 2, "clusters": 3}
        | {"style_size": 4, "hidden": 8, "queue": 6, "warmup": 0},
        ["2-D on demand", "2-D many to many", "3-D"],
    ),
    "implicit_pairs": Small(
        "implicit_pairs",
        {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4, "pool": 3}
        | {"pseudo": 0.5, "easy": "blurred", "earlier": 3},
        ["2-D many to many", "3-D"],
    ),
    "flow_deformation": Small(
        "flow_deformation",
        {"levels": 2, "steps": 1, "width": 4, "patch": 1, "patch_features": 4, "pool": 3}
        | {"ramp": 1, "registration": "learned"},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "flow_deformation, pairs": Small(
        "flow_deformation",
        {"levels": 2, "steps": 1, "width": 4, "patch": 1, "patch_features": 4, "pool": 3}
        | {"ramp": 0, "pairs": True},
        ["2-D many to many", "3-D"],
    ),
    "flow_disentangle": Small(
        "flow_disentangle", {"levels": 2, "steps": 1, "width": 4, "features": 4}
    ),
    "flow_disentangle, couplings, squeezed": Small(
        "flow_disentangle",
        {"told": "couplings", "levels": 2, "steps": 1, "width": 4, "features": 4, "squeezed": 1}
        | {"code": 3, "recompute": True},
        ["2-D on demand", "3-D"],
    ),
    "unet": Small("unet", {"features": (4, 8), "ssim": 0.5}),
    "unet with heads": Small(
        "unet", {"features": (4, 8), "conditioning": "heads"}, ["2-D on demand"]
    ),
    "branchgan": Small(
        "branchgan",
        {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "branchgan, batch norm": Small(
        "branchgan",
        {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4, "block_norm": "batch"}
        | {"generator_rounds": 1, "pool": 3, "game": "sigmoid"},
        ["2-D"],
    ),
    "qgan": Small(
        "qgan",
        {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4, "pool": 3},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "qgan, deep": Small(
        "qgan",
        {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4, "measure": "deep"},
        ["2-D many to many"],
    ),
    "dosgan": Small(
        "dosgan",
        {"features": 2, "blocks": 1, "layers": 2, "window": 8, "feature_size": 3}
        | {"pretraining": 1, "n_critic": 1},
    ),
    "vae": Small("vae", {"features": 4, "halvings": 2, "code": 3}, tuple(ALONE)),
    "xgan": Small(
        "xgan",
        {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "xgan with vectors": Small(
        "xgan",
        {"code": "vector", "window": 16, "features": 2, "critics": "b"},
        ["2-D many to many"],
    ),
    "unit": Small(
        "unit",
        {"features": 4, "blocks": 1, "layers": 2, "scales": 2},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "unit, shared": Small(
        "unit",
        {"shared": True, "features": 4, "blocks": 1, "layers": 2, "dropout": 0.5},
        ["2-D many to many", "3-D"],
    ),
    "munit": Small(
        "munit",
        {"features": 4, "blocks": 1, "layers": 2, "scales": 2, "hidden": 8, "code": 4}
        | {"guided": True},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "drit": Small(
        "drit",
        {"features": 4, "blocks": 1, "layers": 2, "scales": 2, "code": 4, "every": 1}
        | {"content_layers": 0},
        ["2-D", "2-D many to many", "3-D"],
    ),
    "drit, transform, spectral norm": Small(
        "drit",
        {"features": 4, "blocks": 1, "layers": 2, "scales": 2, "code": 3, "every": 1}
        | {"content_layers": 0, "attribute": "transform", "spectral": True, "seeking": 0.0},
        ["2-D many to many", "3-D"],
    ),
}
"""The only place here that knows a system."""


class Setup(NamedTuple):
    """A system with a task and a view."""

    name: str
    arguments: dict[str, Any]
    task: Task
    view: View

    @property
    def shape(self) -> tuple[int, ...]:
        return (16, 24) if self.view.dims == 2 else (16, 16, 16)


ALL = {
    f"{label}, {name}": Setup(small.system, small.arguments, *(SETUPS | ALONE)[name])
    for label, small in SMALL.items()
    for name in small.setups
}


@pytest.fixture(params=ALL)
def setup(request: pytest.FixtureRequest) -> Setup:
    return ALL[request.param]


def build(setup: Setup, device: torch.device, seed: int = 0) -> Translator:
    torch.manual_seed(seed)
    return build_system(setup.name, setup.arguments, setup.task, setup.view).to(device)


def batch_for(setup: Setup, number: int = 0, size: int = 2) -> Batch:
    random = torch.Generator().manual_seed(number)
    channels = setup.task.inputs * setup.view.slices

    def image(count: int) -> Tensor:
        return 2 * torch.rand(size, count, *setup.shape, generator=random) - 1

    def neighbour() -> Neighbour:
        if setup.view.dims == 2:
            return Neighbour(image(channels), 2 * image(2), (image(1) > -0.5).float())
        # a patch has a field for all its slices but the last
        return Neighbour(None, 2 * image(2)[..., 1:], (image(1)[..., 1:] > -0.5).float())

    demand = setup.task.conditions
    subjects = tuple(f"sub-{index}" for index in range(size))
    weight = (image(1) + 1) / 2
    if not demand:
        slab = image(setup.task.outputs * setup.view.slices)
        return Batch(
            image(channels),
            slab[:, setup.view.slices // 2 :: setup.view.slices],
            weight,
            target_weight=weight.flip(0),
            target_slab=slab,
            neighbour=neighbour(),
            target_neighbour=neighbour() if setup.task.inputs == setup.task.outputs else None,
            subjects=subjects,
        )
    asked = (torch.arange(size) + number) % demand
    if setup.task.domains:  # as labelled windows have them: nothing else of anybody
        return Batch(
            image(channels),
            image(setup.task.outputs),
            weight,
            source_contrast=asked,
            target_contrast=asked,
            subjects=subjects,
        )
    every = image(demand)
    return Batch(
        image(channels),
        every[torch.arange(size), asked, None],
        weight,
        source_contrast=(asked + 1) % demand,
        target_contrast=asked,
        every=every,
        known=torch.nn.functional.one_hot((asked + 1) % demand, demand) == 0,
        subjects=subjects,
    )


def drive(system: Translator, batch: Batch, optimisers: dict[str, Any]) -> Iterator[str]:
    """One round as any driver would play it; tells whose turn it was after each step."""
    for turn in system.play(batch):
        assert turn.player in system.players, turn.player
        assert torch.isfinite(turn.objective), turn.losses
        assert turn.objective.dim() == 0
        optimiser = optimisers[turn.player]
        optimiser.zero_grad(set_to_none=True)
        turn.objective.backward(inputs=system.parameters_of(turn.player))
        optimiser.step()
        yield turn.player


def plain_optimisers(system: Translator) -> dict[str, Any]:
    return {
        player: torch.optim.Adam(system.parameters_of(player), 1e-3) for player in system.players
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_every_system_is_under_contract() -> None:
    named = {small.system for small in SMALL.values()}
    assert named == set(SYSTEMS), "give each system its quick arguments in SMALL"


def test_all_parameters_belong_to_exactly_one_player(setup: Setup, device: torch.device) -> None:
    system = build(setup, device)
    owned = [id(p) for player in system.players for p in system.parameters_of(player)]
    assert sorted(owned) == sorted(id(p) for p in system.parameters())


def test_each_turn_moves_its_player_and_nobody_else(setup: Setup, device: torch.device) -> None:
    system = build(setup, device).train()
    optimisers = plain_optimisers(system)
    names = {id(parameter): name for name, parameter in system.named_parameters()}
    largest = dict.fromkeys(names.values(), 0.0)
    played = set()
    for number in range(3):
        before = {name: p.detach().clone() for name, p in system.named_parameters()}
        for player in drive(system, batch_for(setup, number).to(device), optimisers):
            played.add(player)
            own = {names[id(parameter)] for parameter in system.parameters_of(player)}
            for name, parameter in system.named_parameters():
                if name in own:
                    assert parameter.grad is not None, f"{name} had no gradient in its turn"
                    assert torch.isfinite(parameter).all(), name
                    largest[name] = max(largest[name], float(parameter.grad.abs().max()))
                else:
                    assert torch.equal(parameter, before[name]), f"{name} moved out of turn"
                before[name] = parameter.detach().clone()
    assert played == set(system.players)
    # a bias before a normalisation has no effect; every weight has one
    idle = [
        name
        for name, parameter in system.named_parameters()
        if parameter.dim() > 1 and largest[name] == 0
    ]
    assert not idle, f"never learned: {idle}"


def test_translate_keeps_odd_shapes(setup: Setup, device: torch.device) -> None:
    system = build(setup, device).eval()
    shape = (13, 31) if setup.view.dims == 2 else (9, 17, 11)
    source = torch.randn(2, system.channels, *shape, device=device)
    asked = torch.tensor([0, 1], device=device) if setup.task.conditions else None
    with torch.inference_mode():
        first, second = (system.translate(source, target=asked) for _ in range(2))
    assert first.shape == (2, setup.task.outputs, *shape)
    assert torch.isfinite(first).all()
    assert torch.equal(first, second), "the same scan must translate to the same bytes"


def test_a_model_folder_gives_the_same_network_back(
    setup: Setup, device: torch.device, tmp_path: Path
) -> None:
    system = build(setup, device)
    for _ in drive(system, batch_for(setup).to(device), plain_optimisers(system)):
        pass  # so that statistics, if it keeps any, are not those of a fresh network
    model = Model("contract", setup.name, setup.arguments, setup.task, setup.view, system.eval())
    again = read_model(write_model(model, tmp_path))
    assert (again.task, again.view, again.system_name) == (setup.task, setup.view, setup.name)
    assert same(
        {name: value.cpu() for name, value in system.lasting_state().items()},
        again.system.lasting_state(),
    )
    batch = batch_for(setup)
    with torch.inference_mode():
        ours = system.cpu().translate(batch.source, target=batch.target_contrast)
        theirs = again.system.translate(batch.source, target=batch.target_contrast)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "setup",
    [name for name in ALL if not name.endswith("many to many")],  # more channels, the same run
    indirect=True,
)
def test_a_resumed_run_is_the_same_run(setup: Setup, device: torch.device, tmp_path: Path) -> None:
    plan = Plan(
        rounds=4,
        optimiser=Optimiser(lr=1e-3),
        average=0.9,
        log_every=0,
        checkpoint_every=2,
        schedule="cosine",
    )

    def train(folder: Path, stop: int | None = None, seed: int = 0) -> Trainer:
        def supply(start: int) -> Iterator[Batch]:
            number = start
            while number != stop:
                yield batch_for(setup, number)
                number += 1
            raise KeyboardInterrupt

        trainer = Trainer(build(setup, device, seed), supply, plan, folder, device=device)
        trainer.run()
        return trainer

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", stop=3)
    resumed = train(tmp_path / "parts", seed=1)  # another start; the checkpoint knows better
    assert same(resumed.system.state_dict(), whole.system.state_dict())
    assert same(resumed.average, whole.average)
    assert resumed.played == 4


def test_the_same_seed_gives_the_same_weights(setup: Setup, device: torch.device) -> None:
    states = []
    for seed in (0, 0, 1):
        system = build(setup, device, seed)
        optimisers = plain_optimisers(system)
        for number in range(2):
            for _ in drive(system, batch_for(setup, number).to(device), optimisers):
                pass
        states.append(system.state_dict())
    assert same(states[0], states[1])
    assert not same(states[0], states[2])
