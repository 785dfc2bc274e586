"""The brain: folded cortex, white matter, nuclei, ventricles, stem and cerebellum.

Coordinates are those of the atlas frame (see `anatomy`). Sulci are the zeros of a random field with
one wavelength, drawn inwards from the surface; cortex is what lies within its thickness of a
sulcus, a fissure or the surface.
"""

from __future__ import annotations

import numpy as np

from medi2i.simulate.person import Person
from medi2i.simulate.shapes import (
    Canvas,
    Field,
    Patch,
    Point,
    blend,
    carve,
    ellipsoid,
    overlap,
    sheet,
    tube,
)

__all__ = ["draw_brain"]


def _temporal_lobes(at: Patch) -> Field:
    half = at.folded()
    wave = 1.6 * np.sin(half.x / 4.5 + half.y / 7)
    rising = Patch(half.x, half.y, half.z + 0.24 * (half.y + 12) + wave, at.region)
    return ellipsoid(rising, (38.5, -14, -22), (25, 40, 23))


def _cerebrum(at: Patch) -> Field:
    """Distance to the smooth outline of the cerebrum, before sulci open it."""
    x, y, z = np.abs(at.x), at.y, at.z
    egg = Patch(x * (1 + 0.09 * ((y + 32) / 95) ** 2), y, z, at.region)
    main = ellipsoid(egg, (0, -16, 5), (70, 88, 73))
    back = 1 / (1 + np.exp((y + 42) / 7))
    roofs = np.exp(-(((x - 28) / 15) ** 2))  # of the orbits
    floor = -26 + 6 * roofs * (1 - back) + back * (10 + 14 * np.exp(-((x / 24) ** 2)))
    return blend(overlap(main, (floor - z) * 0.9, 7), _temporal_lobes(at), 4)


def _stem(canvas: Canvas) -> Field:
    """Distance to midbrain, pons, medulla and cord; far away only that it is far."""
    at = canvas.box((-45, -75, -300), (45, 15, 22))
    half = at.folded()
    midbrain = tube(half, ((0, -26, 0), 7.5), ((0, -31, -17), 9.5))
    peduncle = tube(half, ((16, -12, 3), 6.5), ((9, -20, -14), 5.5), ((6, -24, -28), 6.0))
    pons = ellipsoid(half, (0, -24, -33), (18, 12.5, 13))
    medulla = tube(
        half, ((0, -31, -42), 8), ((0, -40, -60), 6.2), ((0, -46, -78), 5.2), ((0, -50, -125), 5.2)
    )
    whole = np.full_like(canvas.everywhere.x, 30.0)
    whole[at.region] = blend(blend(blend(midbrain, peduncle, 4), pons, 2), medulla, 2.5)
    return whole


def _cerebellum(at: Patch) -> Field:
    """Distance to the smooth outline of the cerebellum."""
    half = at.folded()
    hemisphere = ellipsoid(half, (25, -65, -41), (29, 26, 20))
    return blend(hemisphere, ellipsoid(half, (0, -64, -33), (13, 20, 21)), 8)


def _midline_fissure(at: Patch) -> Field:
    """Distance to the sheet between the hemispheres, which ends at the corpus callosum."""
    arch = np.hypot((at.y + 3) / 38, (at.z - 7) / 21)
    below = np.maximum(np.abs(at.y + 12) - 26, at.z - 8)
    inner = np.minimum((arch - 1) * 26, below)
    aside = 1.3 * np.sin(at.y / 13) * np.cos(at.z / 17)
    distance: Field = np.hypot(at.x - aside, np.maximum(-inner, 0))
    return distance


def _sylvian_fissure(at: Patch) -> Field:
    """Distance to the sheets between temporal lobe, insula and the opercula."""
    x, y, z = np.abs(at.x), at.y, at.z
    beyond = (
        np.maximum(34 - x, 0) ** 2
        + np.maximum(-36 - y, 0) ** 2
        + np.maximum(-18 - 0.24 * (y + 12) - z, 0) ** 2
    )
    upper = np.sqrt(_temporal_lobes(at) ** 2 + beyond)
    surface = 37.5 - 0.009 * (y - 1) ** 2 + 0.8 * np.sin(y / 2.2 + z / 9)
    rim = np.maximum(np.hypot((y - 1) / 23, (z - 2) / 13) - 1, 0) * 14
    distance: Field = np.minimum(upper, np.hypot(x - surface, rim))
    return distance


def _drawn_in(at: Patch, centre: Point, reach: float, pull: float) -> Patch:
    """Points pushed out along rays from a centre: what is drawn at `reach` runs inwards."""
    dx, dy, dz = (a - c for a, c in zip((at.x, at.y, at.z), centre, strict=True))
    out = (reach / np.maximum(np.sqrt(dx * dx + dy * dy + dz * dz), 4)) ** pull
    return Patch(dx * out, dy * out, dz * out, at.region)


def _draw_nuclei(canvas: Canvas, v: float) -> None:
    """Corpus callosum, nuclei and ventricles (`v` times their usual width)."""
    at = canvas.box((-18, -50, -12), (18, 45, 38))
    flat = Patch(np.zeros_like(at.x), at.y, at.z - 0.12 * np.abs(at.x), at.region)
    callosum = tube(
        flat,
        ((0, 15, -5), 1.4),
        ((0, 24, -2), 2.4),
        ((0, 32, 7), 4.2),
        ((0, 26, 17), 3.8),
        ((0, 10, 24.5), 3.2),
        ((0, -8, 26.5), 2.8),
        ((0, -26, 23), 2.8),
        ((0, -37, 17), 4.0),
        ((0, -38, 11), 4.6),
    )
    canvas.fill((2, 41), overlap(callosum, np.abs(at.x) - 14, 4), at)

    at = canvas.box((-50, -80, -30), (50, 45, 40))
    half = at.folded()
    fornix = tube(
        half, ((2, 6, 4), 1.6), ((2, 2, 14), 1.8), ((3, -14, 19), 1.8), ((12, -33, 15), 2)
    )
    canvas.fill((2, 41), fornix, at)
    caudate = tube(
        half,
        ((13, 18, 3), 5.5),
        ((13, 10, 8), 5.8),
        ((15, -2, 16), 3.6),
        ((18, -16, 20), 2.4),
        ((22, -30, 17), 1.6),
    )
    canvas.fill((11, 50), caudate, at)
    tilted = Patch(half.x + 0.16 * (half.y + 2), half.y, half.z, at.region)
    pallidum = ellipsoid(tilted, (19.5, -4, -1), (4.6, 9, 7))
    canvas.fill((13, 52), pallidum, at)
    putamen = ellipsoid(tilted, (25.5, 2, 1), (6.2, 17, 11))
    canvas.fill((12, 51), carve(putamen, pallidum - 0.6, 1), at)
    thalamus = ellipsoid(half, (9.5, -15, 8), (7.5, 12, 8.5))
    canvas.fill((10, 49), blend(thalamus, ellipsoid(half, (14, -25, 7), (8.5, 8, 7.5)), 4), at)
    canvas.fill((18, 54), ellipsoid(half, (23, -4, -19), (8, 8, 7)), at)
    hippocampus = tube(half, ((24, -12, -18), 5.5), ((28, -22, -13), 4.5), ((27, -34, -4), 3.2))
    canvas.fill((17, 53), hippocampus, at)

    plexus = tube(half, ((14, -22, 17), 1.0), ((20, -36, 13), 2.8), ((23, -41, 8), 2.4))
    canvas.fill((136, 163), plexus, at)
    horns = tube(
        half,
        ((10, 33, 5), 2.4),
        ((9.5, 24, 9), 5 * v),
        ((8.5, 8, 15), 4.6 * v),
        ((9.5, -8, 19), 4.2 * v),
        ((13, -24, 20), 4.8 * v),
        ((22, -39, 12), 6.4 * v),
        ((22, -56, 5), 4 * v),
        ((20, -68, 3), 1.2),
    )
    canvas.fill((4, 43), overlap(horns, 0.9 - half.x, 1), at)
    temporal_horn = tube(
        half,
        ((22, -39, 12), 5 * v),
        ((31, -34, -2), 3.2 * v),
        ((35, -22, -12), 2.4 * v),
        ((32, -8, -18), 1.8),
    )
    canvas.fill((5, 44), temporal_horn, at)
    at = canvas.box((-12, -60, -60), (12, 15, 20))
    canvas.fill(14, ellipsoid(at, (0, -8, 2), (1.9 * v + 0.3, 15, 11)), at)
    aqueduct = tube(at, ((0, -27, -3), 1.1), ((0, -36, -16), 1.2), ((0, -43, -28), 3))
    canvas.fill(15, blend(ellipsoid(at, (0, -45, -33), (8 * v, 5, 9)), aqueduct, 3), at)


def _draw_cerebellum(canvas: Canvas, person: Person, hull: Field, stem: Field) -> None:
    """Narrow folia that run from side to side, around a little white matter."""
    at = canvas.box((-60, -100, -66), (60, -28, 0))
    outline = carve(hull[at.region], stem[at.region] - 1.0, 2)
    rays = _drawn_in(at.folded(), (0, -45, -36), 30, 0.75)
    folia = sheet(person.folia(rays.x, rays.y, rays.z), canvas.edge)
    folia = np.hypot(folia, np.maximum(-outline - 12, 0))
    inside = canvas.cover(outline)
    canvas.paint(24, canvas.cover(folia - 0.35 * person.sulci) * inside, at)
    canvas.paint((8, 47), canvas.cover(np.minimum(folia, -outline) - 1.7) * inside, at)
    canvas.paint((7, 46), inside, at)


def _sulci(
    canvas: Canvas, person: Person, at: Patch, hull: Field, midline: Field
) -> tuple[Field, Field]:
    """Distances to the nearest sulcus: at any depth, and where sulci reach down to."""
    half = at.folded()
    # Left and right share a pattern, loosely: the grid is bent differently on either side.
    aside, along = (5 * canvas.smooth(field, at) for field in person.askew)
    reach = 17 + 4.5 * canvas.smooth(person.depth, at)
    core = np.maximum(2 - ellipsoid(half, (0, -10, 2), (33, 38, 24)), 0)

    rays = _drawn_in(half, (24, -15, 8), 62, 0.65)
    lateral = sheet(person.folds(rays.x, rays.y + aside, rays.z + along), canvas.edge)
    ending = np.sqrt(lateral**2 + np.maximum(-hull - reach, 0) ** 2 + core**2)

    # On the medial wall they run outwards from the midline.
    wall = canvas.box((-26, -112, -56), (26, 80, 86))
    start = (wall.region[0].start or 0) - (at.region[0].start or 0)
    inner = slice(start, start + wall.x.shape[0])
    side, up = at.y + along, at.z + aside
    folds = person.medial_folds(half.x[inner], side[inner], up[inner])
    medial = sheet(folds, canvas.edge)
    beyond = np.maximum(midline - 0.42 * reach, 0) + np.maximum(5 + hull, 0)
    beyond = np.sqrt(beyond**2 + core**2)[inner]
    ending[inner] = np.minimum(ending[inner], np.hypot(medial, beyond))
    return lateral, ending


def _draw_cerebrum(canvas: Canvas, person: Person, hull: Field, others: Field) -> None:
    """Cortex around white matter, inside `hull` and clear of `others`."""
    at = canvas.box((-76, -112, -56), (76, 80, 86))
    cistern = ellipsoid(at, (0, -4, -24), (13, 12, 10))  # before the stem
    hull = carve(hull[at.region], blend(others[at.region], cistern, 1), 3)
    midline = _midline_fissure(at)

    everywhere, sulci = _sulci(canvas, person, at, hull, midline)
    crowns = np.exp(-((everywhere / 3.2) ** 2))  # 1 over a sulcus, 0 on top of a gyrus
    hull = hull + 2.2 * crowns
    opening = person.sulci * np.exp(np.minimum(hull, 0) / 5)  # sulci are wider at the surface
    fluid = np.minimum.reduce(
        [
            sulci - 0.25 - 0.9 * opening,
            midline - 0.6 * crowns - 0.3 - 0.9 * opening,
            _sylvian_fissure(at) - 0.6 - 1.6 * opening,
        ]
    )
    inside = canvas.cover(hull)
    canvas.paint(24, canvas.cover(fluid) * inside, at)
    canvas.paint((3, 42), canvas.cover(np.minimum(fluid, -hull) - person.cortex) * inside, at)
    canvas.paint((2, 41), inside, at)


def draw_brain(canvas: Canvas, person: Person) -> Field:
    """Paint the brain and the fluid around it.

    Returns:
        (X, Y, Z), distance to the inside of the skull and of the spinal canal.
    """
    _draw_nuclei(canvas, person.ventricles)
    at = canvas.everywhere
    stem = _stem(canvas)
    low = canvas.box((-45, -75, -300), (45, 15, 22))
    arms = tube(low.folded(), ((11, -29, -34), 8.0), ((21, -48, -38), 6.0))  # to the cerebellum
    canvas.fill(16, np.maximum(blend(stem[low.region], arms, 3), -62 - low.z), low)
    canvas.fill(512, stem[low.region], low)
    cerebrum, cerebellum = _cerebrum(at), _cerebellum(at)
    _draw_cerebellum(canvas, person, cerebellum, stem)
    others = np.minimum(cerebellum - 2.0, np.maximum(stem - 2.5, at.z + 8))
    _draw_cerebrum(canvas, person, cerebrum, others)

    cavity: Field = blend(blend(cerebrum, cerebellum, 10), stem - 2.5, 6) - (
        0.9 + 0.8 * person.sulci
    )
    base = canvas.box((-75, -60, -80), (75, 30, -15))
    half = base.folded()
    clivus = tube(half, ((0, 14, -31), 9), ((0, 4, -35), 13), ((0, 0, -52), 11), ((0, -15, -66), 6))
    petrous = tube(
        half, ((13, 4, -34), 9), ((15, -9, -39), 10), ((30, -24, -41), 10), ((56, -38, -38), 10)
    )
    cavity[base.region] = carve(cavity[base.region], np.minimum(clivus, petrous), 3)
    tight = np.minimum(np.minimum(cerebrum, cerebellum), stem) - 1.0
    cavity = np.minimum(cavity, tight)

    at = canvas.box((-40, -115, -60), (40, 80, 95))
    half, rim = at.folded(), cavity[at.region]
    sinus = np.maximum(np.hypot(at.x, rim + 2.5) - 3.2, 8 - at.z)
    canvas.fill(514, sinus, at)
    basilar = tube(at, ((0, -14, -46), 1.8), ((0, -10, -32), 1.8), ((0, -10, -20), 1.6))
    carotid = tube(
        half, ((12, 2, -34), 2.4), ((9, 4, -20), 2.2), ((24, 4, -17), 1.6), ((36, 4, -10), 1.3)
    )
    canvas.fill(502, np.minimum(basilar, carotid), at)
    at = canvas.everywhere
    canvas.fill(24, cavity, at)
    return cavity
