"""The brain inside the cranial cavity: folded cortex, white matter, ventricles, deep nuclei, cerebellum, brain stem.

Sulci follow the zero level sets of a band-limited random field: a sheet of CSF that thins with depth, lined on both
sides by a few millimetres of grey matter. Folds differ between patients; thickness and spacing of the cortex do not.
"""

from __future__ import annotations

import numpy as np

from mrict_core.data.phantom.anatomy import SIDES, Dice, Person, mirrored
from mrict_core.data.phantom.fields import WaveField
from mrict_core.data.phantom.shapes import Canvas, capsule, chain, ellipsoid, step, union
from mrict_core.data.phantom.tissues import Tissue

ATROPHY_RANGE = (0.5, 1.6)  # young to old: widens sulci, ventricles and the space around the brain


def paint_brain(person: Person, canvas: Canvas, cavity: np.ndarray) -> None:
    """Paint the brain where `cavity` (signed distance to the inner table, mm) is negative."""
    dice = Dice(person.rng("brain"))
    atrophy = dice.rng.uniform(*ATROPHY_RANGE)
    box = canvas.box(np.array((-72, -90, -72)), np.array((72, 90, 78)))
    if box is None:
        return
    sag = 0.35 + 0.65 * step(canvas.z[box] + 4, 10)  # the brain rests on the skull base: little fluid below it
    depth = -cavity[box] - np.float32(1.0 + 1.6 * atrophy) * sag
    below = _cerebellum(canvas, box)
    _paint_cerebrum(person, canvas, box, depth, below, atrophy, dice)
    _paint_cerebellum(person, canvas, box, depth, below)
    _paint_deep(canvas, dice, atrophy)
    _paint_stem(canvas)
    _paint_sinuses(canvas, box, cavity[box])


def _cerebellum(canvas: Canvas, box: tuple[slice, slice, slice]) -> np.ndarray:
    """Return the depth (mm) of each voxel below the tentorium, negative above or in front of it."""
    x, y, z = canvas.at(box)
    tent = -12 - 0.25 * np.abs(x) + 0.28 * (y + 40)
    return np.minimum(tent - z, 0.85 * (2 - 0.55 * np.abs(x) - y))


def _paint_cerebrum(
    person: Person,
    canvas: Canvas,
    box: tuple[slice, slice, slice],
    depth: np.ndarray,
    below: np.ndarray,
    atrophy: float,
    dice: Dice,
) -> None:
    """Paint the two hemispheres; `depth` is the distance below the brain's surface (mm)."""
    x, y, z = canvas.at(box)
    rng = person.rng("folds")
    folds = WaveField(rng, (14, 22), 1.0, 72)
    distance = np.abs(folds.on(canvas.grid.part(box))) / np.float32(folds.rms_slope)  # to the middle of a sulcus, mm
    ripple = WaveField(rng, (18, 60), 1.0, 24).on(canvas.grid.part(box))
    cleft = np.abs(x + 1.2 * ripple)  # to the longitudinal fissure
    callosum = ((y - 2) / 44) ** 2 + ((z - 8) / 22) ** 2
    cleft = np.where(callosum < 1, 50, cleft)
    sylvian = np.abs(z + 12 - 0.35 * (y - 5) + 2 * ripple)
    sylvian += 6 * step(np.abs(y - 12) - 34, 4) + 30 * step(36 - np.abs(x), 4)
    surface = np.minimum(np.minimum(depth, cleft - 0.6 * atrophy), np.minimum(sylvian - 0.9 * atrophy, -below - 1))
    reach = dice.about(17, 0.15)
    fade = 1 - np.clip(surface / reach, 0, 1) ** 2
    cortex_mm = dice.about(3.0, 0.1)
    sulcus = (distance < (0.35 + 0.75 * atrophy) * fade) & (surface < reach)
    grey = (surface < cortex_mm) | ((distance < cortex_mm + 0.5 * atrophy) & (surface < reach + 2))
    brain = surface > 0
    labels = canvas.labels[box]
    labels[brain] = Tissue.WHITE_MATTER
    labels[brain & grey] = Tissue.GREY_MATTER
    labels[brain & sulcus] = Tissue.CSF
    labels[(np.abs(x + 1.2 * ripple) < 0.8) & (depth > -1) & (z > 22) & (below < -2)] = Tissue.MUCOSA  # falx


def _paint_cerebellum(
    person: Person, canvas: Canvas, box: tuple[slice, slice, slice], depth: np.ndarray, below: np.ndarray
) -> None:
    """Paint the cerebellum: fine folia around a branching white core."""
    x = canvas.x[box]
    surface = np.minimum(depth, below - 2.0)
    folia = WaveField(person.rng("folia"), (7, 11), 1.0, 48)
    distance = np.abs(folia.on(canvas.grid.part(box))) / np.float32(folia.rms_slope)
    labels = canvas.labels[box]
    inside = surface > 0
    labels[inside] = Tissue.GREY_MATTER
    core = (surface > 15 - 4 * step(np.abs(x) - 14, 5)) | ((surface > 5) & (distance > 1.7))
    labels[inside & core] = Tissue.WHITE_MATTER
    labels[inside & (distance < 0.45) & (surface < 7)] = Tissue.CSF
    labels[(below > 0) & (below < 1.0) & (depth > 0)] = Tissue.MUCOSA  # tentorium


def _paint_deep(canvas: Canvas, dice: Dice, atrophy: float) -> None:
    """Paint basal ganglia, thalami, ventricles, pineal and choroid plexus calcifications."""
    size = dice.rng.uniform(0.75, 1.15) * (0.7 + 0.4 * atrophy)
    cortex = (Tissue.WHITE_MATTER, Tissue.GREY_MATTER, Tissue.CSF)
    horns: list[list[tuple[float, float, float]]] = [
        [(9, 34, 2), (10, 22, 12), (10, 2, 19), (14, -20, 18), (24, -36, 10), (31, -22, -10), (33, -2, -19)],
        [(24, -36, 10), (22, -50, 6), (19, -60, 3)],
    ]
    radii = [[5.0, 6.0, 5.2, 5.4, 7.0, 4.0, 2.4], [6.0, 3.6, 1.6]]
    for side in SIDES:
        lateral = dice.about(1.0, 0.12) * size
        core = union([ellipsoid((side * 24, 2, 6), (17, 34, 22)), ellipsoid((side * 30, -28, 6), (10, 20, 16))], 6)
        canvas.paint(Tissue.WHITE_MATTER, core, only=cortex)
        canvas.paint(Tissue.DEEP_GREY, dice.ellipsoid((side * 25, 6, 2), (6.5, 18, 10)), only=cortex)  # lentiform
        canvas.paint(Tissue.DEEP_GREY, dice.ellipsoid((side * 10, -10, 4), (8, 14, 9)), only=cortex)  # thalamus
        head = chain([mirrored(p, side) for p in ((14, 24, 6), (16, 8, 17), (19, -12, 18))], [6.5, 4.5, 2.5])
        canvas.paint(Tissue.DEEP_GREY, head, only=cortex)
        canvas.paint(Tissue.GREY_MATTER, dice.ellipsoid((side * 42, 6, -4), (3, 18, 15)), only=cortex)  # insula
        for points, radius in zip(horns, radii, strict=True):
            moved = [mirrored(dice.near(p, 1.2), side) for p in points]
            canvas.paint(Tissue.CSF, chain(moved, [r * lateral for r in radius], 3))
        plexus = dice.ellipsoid((side * 24, -34, 9), (2.2, 3.5, 2.2), 1.0, 0.3)
        canvas.paint(Tissue.CALCIFICATION if dice.chance(0.5) else Tissue.MUCOSA, plexus)
    canvas.paint(Tissue.CSF, ellipsoid((0, -2, -3), (1.6 + 1.4 * size, 15, 11)))  # third ventricle
    if dice.chance(0.6):
        canvas.paint(Tissue.CALCIFICATION, dice.ellipsoid((0, -24, 2), (2.4, 2.8, 2.4), 0.5, 0.3))  # pineal


def _paint_stem(canvas: Canvas) -> None:
    """Paint mesencephalon, pons, medulla and cord, the cisterns around them and the fourth ventricle."""
    cistern = chain([(0, -6, -12), (0, -8, -36), (0, -22, -62)], [17, 16, 13], 4)
    canvas.paint(Tissue.CSF, cistern, only=(Tissue.GREY_MATTER, Tissue.MUCOSA))
    stem = union(
        [
            chain([(0, -10, -8), (0, -14, -24), (0, -18, -44), (0, -27, -66), (0, -29, -150)], [14, 12, 10, 6, 5], 4),
            ellipsoid((0, -8, -34), (16, 12, 13)),
        ],
        6,
    )
    canvas.paint(Tissue.WHITE_MATTER, stem, only=(Tissue.CSF, Tissue.GREY_MATTER, Tissue.WHITE_MATTER, Tissue.MUCOSA))
    canvas.paint(Tissue.CSF, chain([(0, -20, -10), (0, -27, -32)], [1.2, 1.8]))  # aqueduct
    canvas.paint(Tissue.CSF, ellipsoid((0, -31, -38), (8, 5, 9)))
    canvas.paint(Tissue.GREY_MATTER, ellipsoid((0, 11, -27), (5, 5, 3.5)), only=(Tissue.CSF,))  # pituitary


def _paint_sinuses(canvas: Canvas, box: tuple[slice, slice, slice], cavity: np.ndarray) -> None:
    """Paint the sagittal sinus along the inner table and the two transverse sinuses."""
    x, y, z = canvas.at(box)
    triangle = (cavity < -0.3) & (cavity > -7.5) & (np.abs(x) < np.minimum(0.8 - 0.5 * cavity, 5))
    canvas.labels[box][triangle & ((z > 15) | (y < -50)) & (z > -18)] = Tissue.BLOOD
    for side in SIDES:
        path = [mirrored(p, side) for p in ((3, -74, -18), (30, -62, -22), (50, -40, -28), (48, -26, -44))]
        transverse = chain(path, [3.4, 3.4, 3.6, 3.4])
        canvas.paint(Tissue.BLOOD, transverse, only=(Tissue.CSF, Tissue.GREY_MATTER, Tissue.MUCOSA))
        canvas.paint(Tissue.BLOOD, capsule((side * 11, 12, -26), (side * 10, 0, -24), 2.2))  # carotid siphon
