"""Skull, eyes, nose, sinuses, muscle, fat and skin: the head around the brain.

Coordinates are those of the atlas frame (see `anatomy`).
"""

from __future__ import annotations

import numpy as np

from medi2i.simulate.person import Person
from medi2i.simulate.shapes import Canvas, Field, blend, carve, ellipsoid, overlap, tube

__all__ = ["draw_face", "draw_skull_and_scalp"]

_FAR = 60.0


def _draw_eyes(canvas: Canvas) -> None:
    at = canvas.box((-62, -10, -66), (62, 100, 0))
    half = at.folded()
    globe = ellipsoid(half, (32, 58, -36), (13, 13.2, 13))
    canvas.fill(601, ellipsoid(half, (32.5, 67.5, -36), (5, 2.6, 5)), at)
    canvas.fill(506, globe + 0.8, at)
    canvas.fill(511, globe, at)
    nerve = tube(half, ((31, 45, -36), 2.2), ((22, 22, -30), 2.2), ((9, 6, -19), 2.0))
    canvas.fill(530, nerve, at)
    muscles = [
        tube(half, ((32 + x, 54, -36 + z), 1.6), ((27 + x, 36, -35 + z), 2.6), ((17, 17, -30), 1.2))
        for x, z in ((11, 0), (-11, 0), (0, 11), (0, -11))
    ]
    canvas.fill(508, np.minimum.reduce(muscles), at)
    apex = tube(half, ((28, 40, -36), 14), ((15, 14, -30), 4))
    orbit = np.minimum(ellipsoid(half, (31, 50, -36), (18, 22, 18)), apex)
    canvas.fill(600, np.maximum(orbit, at.y - 63), at)
    canvas.fill(515, np.maximum(orbit - 1.8, at.y - 60), at)


def _draw_airways(canvas: Canvas, person: Person) -> None:
    s = person.sinuses
    at = canvas.box((-62, -30, -110), (62, 100, 5))
    half = at.folded()
    frontal = ellipsoid(half, (9, 71.5, -10), (7 * s, 2.6, 6 * s))
    sphenoid = ellipsoid(half, (7, 10, -37), (7 * s, 10, 8))
    ethmoid = ellipsoid(half, (8, 40, -33), (6.5, 22, 9))
    cells = np.maximum(ethmoid, person.cells(half.x, half.y, half.z) * 2.5 - 0.8)
    maxillary = ellipsoid(half, (31, 44, -64), (13 * s, 16 * s, 14 * s))
    canvas.fill(0, np.minimum.reduce([frontal, sphenoid, cells, maxillary]), at)
    sinuses = np.minimum.reduce([frontal, sphenoid, ethmoid, maxillary])
    canvas.fill(509, sinuses - 1.0, at)
    canvas.fill(515, sinuses - 2.4, at)

    passage = np.maximum(ellipsoid(half, (0, 46, -58), (15, 37, 16)), 1.4 - half.x)  # and septum
    throat = ellipsoid(half, (0, 6, -78), (11, 6, 22))
    turbinates = person.mucosa(half.x, half.y, half.z) * 2.5 - 0.3
    canvas.fill(0, np.minimum(np.maximum(passage, turbinates), throat), at)
    canvas.fill(509, np.minimum(passage, throat) - 2.0, at)

    at = canvas.box((-100, -65, -66), (100, -10, -16))
    half = at.folded()
    canvas.fill(
        0, tube(half, ((84, -26, -34), 3.2), ((64, -27, -34), 2.8), ((46, -27, -35), 3.4)), at
    )
    mastoid = ellipsoid(half, (56, -40, -44), (9 * s, 13, 16))
    air = np.maximum(mastoid, person.honeycomb(half.x, half.y, half.z) * 2.0)
    canvas.fill(0, air, at)
    canvas.fill(515, ellipsoid(half, (54, -36, -43), (13, 18, 19)), at)


def _draw_bones(canvas: Canvas) -> None:
    """Upper jaw, lower jaw, zygomatic arch, the first vertebrae; and the tongue."""
    at = canvas.box((-80, -75, -140), (80, 85, -30))
    half = at.folded()
    upper = overlap(ellipsoid(half, (0, 46, -84), (32, 36, 12)), 30 - half.y, 8)
    lower = tube(half, ((50, -8, -48), 4), ((54, 0, -75), 6), ((50, 12, -110), 7))
    arch = tube(
        half, ((44, 56, -52), 6), ((64, 36, -50), 4), ((70, 4, -44), 3), ((66, -14, -42), 3)
    )
    atlas = np.hypot(np.hypot(half.x / 1.6, half.y + 44) - 18, (half.z + 80) / 1.3) - 4.5
    axis = tube(half, ((0, -23, -68), 5), ((0, -25, -84), 6), ((0, -28, -130), 9))
    bones = np.minimum.reduce([upper, lower, arch, atlas, axis])
    canvas.fill(516, bones + 1.6, at)
    canvas.fill(515, bones, at)
    canvas.fill(507, ellipsoid(half, (0, 36, -112), (26, 38, 20)), at)


def draw_face(canvas: Canvas, person: Person) -> None:
    """Paint what lies in front of and below the skull, nearest things first."""
    _draw_eyes(canvas)
    _draw_airways(canvas, person)
    _draw_bones(canvas)


def _skin(canvas: Canvas, outer: Field) -> Field:
    """Distance to the surface of the head; `outer` is that to the outside of the skull."""
    whole = canvas.everywhere
    head = ellipsoid(whole, (0, -15, 3), (83.5, 101, 86.5))
    at = canvas.box((-110, -110, -300), (110, 130, 40))
    half = at.folded()
    face = ellipsoid(half, (0, 36, -58), (60, 45, 66))
    nose = tube(half, ((0, 70, -6), 7), ((0, 86, -34), 8.5), ((0, 93, -49), 9.5), ((0, 82, -60), 9))
    face = blend(face, nose, 9)
    face = carve(face, ellipsoid(half, (31, 84, -34), (15, 13, 11)), 9)
    lids = ellipsoid(half, (32, 59, -36), (16, 16.5, 15))
    cheeks = ellipsoid(half, (44, 40, -62), (27, 36, 30))
    neck = ellipsoid(half, (0, -34, -110), (58, 58, 90))
    below = blend(blend(blend(face, lids, 5), cheeks, 10), neck, 14)
    head[at.region] = blend(head[at.region], below, 14)
    head = blend(head, outer - 4.5, 6)
    head[at.region] = blend(
        head[at.region], ellipsoid(half, (82, -30, -28), (8, 13, 24)), 3
    )  # ears
    return head


def draw_skull_and_scalp(canvas: Canvas, person: Person, cavity: Field) -> None:
    """Paint bone with its marrow around the brain, then muscle, fat and skin; air stays unpainted.

    Args:
        cavity: (X, Y, Z), distance to the inside of the skull.
    """
    at = canvas.everywhere
    y, z = at.y, at.z
    vault = 1 / (1 + np.exp(-(z + 22 + 0.18 * (y + 20)) / 4))  # 0 at the base of the skull
    uneven = canvas.smooth(person.bone, at)
    bone = (2.6 + (person.skull - 2.6) * vault) * (1 + 0.1 * uneven)
    around = np.maximum(cavity, -58 - z)  # no skull around the cord
    outer = around - bone
    table = 1.4 + 0.2 * uneven + np.maximum(canvas.smooth(person.diploe, at) - 1.0, 0)
    marrow = np.maximum(np.maximum(table - around, outer + table), (0.5 - vault) * 20)

    skin = _skin(canvas, outer)
    inside = canvas.cover(skin)
    canvas.paint(516, canvas.cover(marrow) * inside, at)
    canvas.paint(515, canvas.cover(outer) * inside, at)
    depth = np.maximum(-skin, 0)
    fat = person.fat * (1 + 0.3 * canvas.smooth(person.scalp, at)) + np.clip(-(z + 30) / 12, 0, 3)
    canvas.paint(511, canvas.cover(depth - 1.9) * inside, at)
    canvas.paint(600, canvas.cover(depth - 1.9 - fat) * inside, at)
    low = canvas.box((-110, -130, -300), (110, 130, -12))
    seams = np.abs(person.seams(low.x, low.y, low.z)) * 6.0  # fat between muscles
    seams = np.maximum(seams - 0.8, (low.z + 24) * 0.3)
    canvas.paint(600, canvas.cover(seams) * inside[low.region], low)
    canvas.paint(507, inside, at)
