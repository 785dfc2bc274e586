"""The network that tells whether a head lies upright, from label maps alone.

    python pipelines/train_posture.py DATA RUN [--outlines 9000] [--install]

DATA holds anatomy/ (label maps at 1 mm). The story: take a brain's outline, stretch it, tip it as
people lie in scanners, spoil its surface as a network draws it, cut off what a scan does not show;
in six of ten cases turn it by right angles (as a wrong header does) or tip it far; learn which
outlines are upright. With --install the network replaces the shipped one, which
`pipelines/guards.py` scores on real scans.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn import functional

import medi2i
from medi2i.files import atomic_write
from medi2i.inference.aids import write_aid
from medi2i.inference.guards.posture import TURNS, outlined, turned
from medi2i.networks.posture import PostureNet
from medi2i.resolution import resize
from medi2i.simulate.body import brain_of

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Matrix = NDArray[np.floating[Any] | np.integer[Any]]

STEP, SIZE = 4.0, 60  # mm per voxel and voxels along each side of the box that is drawn in
KEPT_OUT = 2  # label maps, the last ones
UPRIGHT, SQUARE = 0.4, 0.35  # shares of outlines: upright; turned by right angles
BATCH, ROUNDS, RATE = 64, 40, 2e-3


def main() -> None:
    """Run the story."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--outlines", type=int, default=9000)
    parser.add_argument("--install", action="store_true")
    chosen = parser.parse_args()
    net = learn(*outlines(chosen.data, chosen.run / "outlines.npz", chosen.outlines))
    trained = write_aid(net, chosen.run / "posture", {"hidden": 32}, {})
    if chosen.install:
        home = Path(medi2i.__file__).parent / "zoo" / "posture"
        shutil.copytree(trained, home, dirs_exist_ok=True)


def outlines(data: Path, kept: Path, count: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What `count` brains look like, and which are upright; drawn once."""
    if not kept.is_file():
        brains = [brain(path) for path in sorted((data / "anatomy").glob("*.nii.gz"))[:-KEPT_OUT]]
        rng = np.random.default_rng(1)
        drawn = []
        for number in range(count):
            drawn.append(outline(brains[int(rng.integers(len(brains)))], rng))
            if number % 500 == 499:
                print(f"{number + 1} outlines", flush=True)
        seen = np.stack([outlined(mask, STEP).numpy() for mask, _ in drawn])
        upright = np.array([is_upright for _, is_upright in drawn])
        atomic_write(kept, lambda stream: np.savez_compressed(stream, seen=seen, upright=upright))
    with np.load(kept) as there:
        return there["seen"], there["upright"]


def brain(path: Path) -> Field:
    """(X, Y, Z) at 4 mm, 0 to 1: the brain of a label map."""
    volume = medi2i.load_volume(path).canonical()
    inside = brain_of(volume.voxels.astype(np.int16)).astype(np.float32)
    shape = [round(n * step / STEP) for n, step in zip(inside.shape, volume.spacing, strict=True)]
    small: Field = resize(torch.from_numpy(inside)[None], shape)[0].numpy()
    return small


def outline(one: Field, rng: np.random.Generator) -> tuple[Mask, bool]:
    """A brain as a network may mark it in some scan, and whether it is upright."""
    if rng.random() < 0.5:
        one = one[::-1]
    scale = np.exp(rng.normal(0, 0.07, 3) + rng.normal() * np.array([0, 0, 0.2]))
    tipped = Rotation.from_rotvec(np.deg2rad(7 * rng.normal(size=3))).as_matrix()
    kind = rng.random()
    upright, square = bool(kind < UPRIGHT), bool(UPRIGHT <= kind < UPRIGHT + SQUARE)
    turn = TURNS[int(rng.integers(1, len(TURNS)))] if square else TURNS[0]
    pose = turn @ tipped
    if not (upright or square):
        axis = np.eye(3)[rng.integers(3)] if rng.random() < 0.6 else rng.normal(size=3)
        angle = rng.uniform(35, 180) * rng.choice([-1, 1])
        far = Rotation.from_rotvec(np.deg2rad(angle) * axis / np.linalg.norm(axis))
        pose = far.as_matrix() @ tipped
    misread = square and rng.random() < 0.7  # cut as usual, then turned by a wrong header
    mask = cropped(roughened(placed(one, tipped if misread else pose, scale), rng), rng)
    if misread:
        mask = turned(mask, turn)
    pieces, count = ndimage.label(mask)
    if count > 1:
        mask = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return mask, upright


def placed(one: Field, pose: Matrix, scale: NDArray[np.float64]) -> Field:
    """In the middle of the box, in another pose, stretched."""
    matrix = np.diag(1 / scale) @ pose.T
    middle = np.full(3, (SIZE - 1) / 2)
    offset = np.array(ndimage.center_of_mass(one)) - matrix @ middle
    moved: Field = ndimage.affine_transform(one, matrix, offset, (SIZE,) * 3, order=1)
    return moved


def roughened(image: Field, rng: np.random.Generator) -> Mask:
    """Bumps and dents of 4 to 10 mm."""
    bumps = ndimage.gaussian_filter(rng.standard_normal(image.shape), rng.uniform(1, 2.5))
    bumps *= rng.uniform(0, 0.22) / bumps.std()
    rough: Mask = ndimage.gaussian_filter(image, 1.0) + bumps > rng.uniform(0.35, 0.65)
    return rough


def cropped(mask: Mask, rng: np.random.Generator) -> Mask:
    """What a scan may leave out: often below, sometimes above, seldom at a side."""
    mask = mask.copy()
    if rng.random() < 0.6:
        there = np.flatnonzero(mask.any((0, 1)))
        low = int(len(there) * rng.uniform(0, 0.45)) if rng.random() < 0.7 else 0
        high = int(len(there) * rng.uniform(0, 0.35)) if rng.random() < 0.5 else 0
        mask[:, :, : there[0] + low] = False
        mask[:, :, there[-1] + 1 - high :] = False
    if rng.random() < 0.12:
        along = np.moveaxis(mask, int(rng.integers(2)), 0)
        there = np.flatnonzero(along.any((1, 2)))
        size = int(len(there) * rng.uniform(0, 0.25))
        if rng.random() < 0.5:
            along[: there[0] + size] = False
        else:
            along[there[-1] + 1 - size :] = False
    return mask


def learn(seen: NDArray[np.float32], upright: NDArray[np.bool_]) -> PostureNet:
    """From nine tenths; what it makes of the rest is printed."""
    torch.manual_seed(0)
    net = PostureNet()
    inputs, wanted = torch.from_numpy(seen), torch.from_numpy(upright).float()
    first = len(inputs) * 9 // 10
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.05)
    for turn in range(ROUNDS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - turn / ROUNDS)
        for rows in torch.randperm(first).split(BATCH):
            noisy = inputs[rows] + 0.1 * torch.randn_like(inputs[rows])
            loss = functional.binary_cross_entropy_with_logits(net(noisy), wanted[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.inference_mode():
        right = (net.eval()(inputs[first:]) > 0) == (wanted[first:] > 0.5)
    print(f"right about {right.float().mean():.3f} of the outlines that were kept out", flush=True)
    return net


if __name__ == "__main__":
    main()
