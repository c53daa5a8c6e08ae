"""The head from the vertex to the upper neck: skin, fat, muscle, skull, face, airway, spine; the brain is in `brain`.

Atlas frame: millimetres, x to the patient's right, y anterior, z superior, origin near the brain's centre. The mean
head is 190 mm long and 155 mm wide.
"""

from __future__ import annotations

import numpy as np

from mrict_core.data.phantom.anatomy import SIDES, Dice, Person, mirrored, offset
from mrict_core.data.phantom.brain import paint_brain
from mrict_core.data.phantom.fields import WaveField
from mrict_core.data.phantom.shapes import Canvas, Shape, capsule, chain, ellipsoid, smooth_max, smooth_min, step, union
from mrict_core.data.phantom.tissues import Tissue

CAVITY_RADII_MM = (65.0, 80.0, 70.0)


def paint_head(person: Person, canvas: Canvas) -> None:
    """Paint the whole head on `canvas`."""
    dice = Dice(person.rng("head"))
    cavity = cranial_cavity(canvas)
    thickness = skull_thickness(person, canvas)
    _paint_soft_tissue(person, canvas, dice, cavity, thickness)
    _paint_skull(canvas, dice, cavity, thickness)
    _paint_face(canvas, dice)
    for side in SIDES:
        _paint_orbit(canvas, dice, side)
        _paint_temporal_bone(person, canvas, dice, side)
    _paint_airway(person, canvas, dice)
    _paint_jaws(canvas, dice)
    _paint_spine(canvas, dice)
    paint_brain(person, canvas, cavity)
    _paint_headrest(canvas)


def cranial_cavity(canvas: Canvas) -> np.ndarray:
    """Return the signed distance (mm) to the inner table: an egg, wider at the back, with a stepped skull base."""
    x, y, z = canvas.x, canvas.y, canvas.z
    rx, ry, rz = (np.float32(r) for r in CAVITY_RADII_MM)
    u, v, w = x / (rx * (1 - 0.10 * y / ry)), y / ry, (z - 2) / rz
    radial = np.sqrt(u * u + v * v + w * w)
    egg = (radial - 1) * np.sqrt(x * x + y * y + (z - 2) ** 2) / np.maximum(radial, 0.05)
    floor = -62 + 25 * step(y + 13, 5) + 20 * step(y - 27, 6)
    floor += 9 * np.exp(-((x / 15) ** 2) - ((y - 8) / 20) ** 2)  # sella
    return smooth_max(egg, 0.85 * (floor - z), 10)


def skull_thickness(person: Person, canvas: Canvas) -> np.ndarray:
    """Return the local thickness of the calvaria (mm): thin at the temples, thick at the back, varying by patient."""
    rng = person.rng("skull")
    mean = rng.uniform(5.2, 8.4)
    thickness = WaveField(rng, (35, 110), 0.13, 16).on(canvas.grid)
    thickness += 1 - 0.38 * np.minimum((canvas.x / 66) ** 2, 1) ** 2 + 0.22 * step(-canvas.y - 55, 15)
    thickness *= np.float32(mean)
    return np.maximum(thickness, 2.4)


def _paint_soft_tissue(person: Person, canvas: Canvas, dice: Dice, cavity: np.ndarray, thickness: np.ndarray) -> None:
    """Set the skin surface, then skin, subcutaneous fat and muscle with fat between."""
    x, y, z = canvas.x, canvas.y, canvas.z
    fatness = dice.rng.uniform(0.6, 1.6)
    temporal = 6 * np.exp(-(((y - 22) / 26) ** 2) - ((z + 18) / 26) ** 2) * step(np.abs(x) - 42, 8)
    scalp = np.float32(dice.about(5.0) + fatness) + temporal
    cranium = cavity - thickness - scalp
    face = union(
        [
            ellipsoid((0, 38, -58), (dice.about(63, 0.04), dice.about(50, 0.03), 62)),
            ellipsoid((0, 64, -108), (dice.about(27), 20, 20)),
        ],
        16,
    )
    neck = capsule((0, -18, -60), (0, -22, -260), dice.about(57, 0.06))
    body = smooth_min(smooth_min(cranium, face.distance(x, y, z), 16), neck.distance(x, y * np.float32(0.96), z), 26)
    nose = union([capsule((0, 84, -28), (0, 97, -57), 5, 7), ellipsoid((0, 90, -62), (16, 11, 8))], 8)
    body = smooth_min(body, nose.distance(x, y, z), 9)
    for side in SIDES:
        ear = dice.ellipsoid((side * 74, -16, -30), (7, 14, 25), 1.5)
        body = smooth_min(body, ear.distance(x, y, z), 6)
    canvas.depth = body
    fat_mm = 3.6 + fatness * (0.9 + 4.5 * step(-42 - z, 10))
    streaks = WaveField(person.rng("muscle"), (18, 40), 1.0, 40, along=2.5)
    between = np.abs(streaks.on(canvas.grid)) < streaks.rms_slope * dice.about(0.9, 0.3)
    labels = canvas.labels
    labels[body < 0] = Tissue.SKIN
    labels[body < -1.9] = Tissue.FAT
    labels[body < -fat_mm] = Tissue.MUSCLE
    labels[(body < -fat_mm) & between & (cavity > thickness)] = Tissue.FAT


def _paint_skull(canvas: Canvas, dice: Dice, cavity: np.ndarray, thickness: np.ndarray) -> None:
    """Paint the calvaria and skull base: two tables, with diploe between them where the bone is thick enough."""
    labels = canvas.labels
    inside = canvas.depth < -3
    labels[inside & (cavity < thickness)] = Tissue.CORTICAL_BONE
    inner, outer = dice.about(1.5, 0.2), dice.about(1.9, 0.2)
    labels[inside & (cavity > inner) & (cavity < thickness - outer)] = Tissue.SPONGY_BONE
    clivus = capsule((0, 6, -42), (0, -9, -64), 8, 6)
    canvas.bone(clivus, 1.5)
    labels[cavity < 0] = Tissue.CSF


def _paint_face(canvas: Canvas, dice: Dice) -> None:
    """Paint the bones of the face as blocks; the cavities are cut afterwards."""
    canvas.bone(dice.ellipsoid((0, 52, -72), (33, 27, 14)), 1.6, 6)  # maxilla
    canvas.bone(ellipsoid((0, 52, -44), (16, 30, 18)), 1.2, 5)  # ethmoid block
    canvas.bone(capsule((0, 84, -20), (0, 91, -42), 6, 3), 4.0, 2.5)  # nasal bones
    for side in SIDES:
        canvas.bone(dice.ellipsoid((side * 44, 52, -52), (13, 12, 11)), 2.0, 4)  # zygoma
        arch = chain([mirrored(p, side) for p in ((48, 50, -52), (62, 30, -48), (62, 6, -46))], [4, 3, 3.5])
        canvas.bone(arch, 1.8, 4)
        plate = chain([mirrored(p, side) for p in ((16, 24, -48), (17, 20, -62), (15, 20, -78))], [4, 3, 3])
        canvas.bone(plate, 1.2)  # pterygoid


def _paint_orbit(canvas: Canvas, dice: Dice, side: int) -> None:
    """Paint one orbit: bony wall, fat, globe with lens, optic nerve and the four straight muscles."""
    apex = dice.near((side * 13, 20, -30))
    eye = dice.near((side * 32, 62, -31))
    cone = union([capsule(eye + offset(0, 2, 0), apex, 16.5, 5)])
    brow = ellipsoid(eye + offset(0, -2, 6), (22, 18, 20))
    canvas.paint(Tissue.CORTICAL_BONE, union([cone.grown(2.0)]), 7)
    canvas.paint(Tissue.CORTICAL_BONE, brow, 8, only=(Tissue.MUSCLE,))
    canvas.paint(Tissue.FAT, cone, 2)
    for dx, dz in ((9, 0), (-9, 0), (0, 9), (0, -9)):
        canvas.paint(
            Tissue.MUSCLE,
            capsule(eye + offset(dx * 1.2, -4, dz * 1.2), apex + offset(dx * 0.3, 3, dz * 0.3), 1.4, 2.2),
            2,
        )
    canvas.paint(Tissue.CSF, capsule(eye, apex, 2.9), 2)
    canvas.paint(Tissue.WHITE_MATTER, capsule(eye, apex - offset(side * 3, 8, 0), 1.7), 2)
    radius = dice.about(12.2, 0.05)
    globe = ellipsoid(eye, (radius, radius, radius))
    canvas.paint_layers(globe, [(0.0, Tissue.MUCOSA), (1.1, Tissue.VITREOUS)])
    canvas.paint(Tissue.LENS, ellipsoid(eye + offset(0, radius - 4.5, 0), (4.5, 2.2, 4.5)))


def _paint_temporal_bone(person: Person, canvas: Canvas, dice: Dice, side: int) -> None:
    """Paint one petrous pyramid, the mastoid with its air cells and the ear canal."""
    canvas.bone(union([capsule((side * 56, -18, -44), (side * 13, 2, -41), 10, 5)], 4), 3.5)
    mastoid = dice.ellipsoid((side * 55, -24, -54), (12, 15, 21), 1.5)
    canvas.bone(mastoid, 1.8)
    box = canvas.box(mastoid.low, mastoid.high)
    if box is not None:
        cells = WaveField(person.rng(f"mastoid{side}"), (6, 11), 1.0, 32).on(canvas.grid.part(box))
        hollow = (mastoid.distance(*canvas.at(box)) < -2) & (cells > dice.rng.uniform(-0.5, 0.6))
        canvas.labels[box][hollow & (canvas.depth[box] < -6)] = Tissue.CAVITY_AIR
    canal = chain([mirrored(p, side) for p in ((84, -14, -38), (62, -11, -40), (46, -8, -40))], [3.5, 3.2, 4.0])
    canvas.paint(Tissue.CAVITY_AIR, canal, -1)


def _paint_airway(person: Person, canvas: Canvas, dice: Dice) -> None:
    """Paint nasal cavity with septum and turbinates, the paranasal sinuses, pharynx and larynx inlet."""
    air = Tissue.CAVITY_AIR
    wall = [(0.0, Tissue.CORTICAL_BONE), (1.3, Tissue.MUCOSA), (dice.rng.uniform(1.9, 3.2), air)]
    canvas.paint(air, ellipsoid((0, 54, -57), (13, 33, 18)), 3)
    canvas.paint(Tissue.CARTILAGE, ellipsoid(dice.near((0, 56, -52), 0.8), (1.5, 34, 22)), 3)
    for side in SIDES:
        canvas.paint(Tissue.MUCOSA, dice.ellipsoid((side * 8, 52, -64), (3.8, 24, 5)), 3)
        canvas.paint(Tissue.MUCOSA, dice.ellipsoid((side * 8, 50, -52), (3.0, 18, 4)), 3)
        canvas.paint(air, capsule((side * 7, 90, -70), (side * 6, 80, -62), 3.2, 5), 1)
        canvas.paint_layers(dice.ellipsoid((side * 29, 46, -60), (13, 17, 16), 1.5, 0.18), wall, 8)
        if dice.chance(0.85):  # the frontal sinus is often small or absent on one side
            frontal = dice.ellipsoid((side * 13, 78, -12), (13, 6, 13), 2.0, 0.35)
            canvas.paint_layers(frontal, [(0.0, Tissue.CORTICAL_BONE), (1.4, air)], 7)
        sphenoid = dice.ellipsoid((side * 8, 12, -38), (8, 12, 9), 1.0, 0.2)
        canvas.paint_layers(sphenoid, [(0.0, Tissue.CORTICAL_BONE), (1.0, air)])
    ethmoid = ellipsoid((0, 50, -36), (13, 26, 12))
    box = canvas.box(ethmoid.low, ethmoid.high)
    if box is not None:
        septa = WaveField(person.rng("ethmoid"), (9, 16), 1.0, 32)
        inside = (ethmoid.distance(*canvas.at(box)) < -1) & (canvas.depth[box] < -8)
        thin = np.abs(septa.on(canvas.grid.part(box))) < 0.7 * septa.rms_slope
        canvas.labels[box][inside] = np.where(thin, Tissue.SPONGY_BONE, air)[inside]
    pharynx = chain(
        [(0, 20, -58), (0, 9, -76), (0, 4, -96), (0, 6, -150)], [9, dice.about(7, 0.3), dice.about(6, 0.3), 8]
    )
    canvas.paint_layers(pharynx.grown(3), [(0.0, Tissue.MUCOSA), (3.0, air)], 4)


def _paint_jaws(canvas: Canvas, dice: Dice) -> None:
    """Paint mouth, tongue, mandible and the two rows of teeth, and the parotid glands."""
    bottom = -108.0
    if dice.chance(0.6):
        canvas.paint(Tissue.CAVITY_AIR, dice.ellipsoid((0, 46, -84), (21, 24, 4.5)), 6)
    canvas.paint(Tissue.MUSCLE, dice.ellipsoid((0, 42, -97), (22, 30, 14)), 6)
    body = [(0, 74, bottom - 3), (22, 66, bottom), (38, 44, bottom + 4), (48, 14, bottom + 10)]
    ramus = [(48, 14, bottom + 10), (49, 12, -78), (50, 8, -52)]
    for side in SIDES:
        canvas.paint(Tissue.GLAND, dice.ellipsoid((side * 52, -4, -74), (11, 15, 20), 1.5), 4)
        parts = [chain([mirrored(p, side) for p in body], [8, 8, 7.5, 7], 3)]
        parts += [chain([mirrored(p, side) for p in ramus], [7, 6, 5], 3)]
        parts += [chain([mirrored((p[0], p[1] + 10, p[2]), side) for p in ramus], [7, 5.5, 3], 3)]
        canvas.bone(union(parts, 3), 2.4, 4)
    arch = ellipsoid((0, 40, -88), (45, 48, 14))
    box = canvas.box(arch.low, arch.high)
    if box is None:
        return
    x, y, z = canvas.at(box)
    row = np.abs(np.sqrt((x / 26) ** 2 + ((y - 40) / 32) ** 2) - 1) * 27
    tooth = (row < 4.6) & (y > 34) & (np.abs(z + 88) < dice.about(9.5)) & (canvas.depth[box] < -5)
    gap = np.cos(18 * np.arctan2(x, (y - 30) * 0.8)) < -0.86
    canvas.labels[box][tooth & ~gap] = Tissue.TOOTH


def _paint_spine(canvas: Canvas, dice: Dice) -> None:
    """Paint atlas, axis and C3 with the spinal canal and cord, and the great vessels of the neck."""
    vertebrae: list[Shape] = []
    for level in (-76.0, -94.0, -112.0, -130.0):
        lateral = [capsule((s * 13, -16, level), (s * 22, -22, level), 6.5, 4.5) for s in SIDES]
        arch = [
            chain([(s * 17, -24, level), (s * 12, -38, level - 2), (0, -43, level - 3)], [4.5, 3.5, 4]) for s in SIDES
        ]
        spine = capsule((0, -44, level - 3), (0, dice.about(-58, 0.1), level - 7), 4)
        centre = (
            ellipsoid((0, -10, level), (10.5, 9, 8.2)) if level < -80 else capsule((-8, -4, level), (8, -4, level), 4)
        )
        vertebrae.append(union([*lateral, *arch, spine, centre], 2))
    canvas.paint(Tissue.CARTILAGE, capsule((0, -10, -92), (0, -11, -140), 8))
    for vertebra in vertebrae:
        canvas.bone(vertebra, 1.6)
    canvas.bone(capsule((0, -10, -72), (0, -10, -92), 5), 1.5)  # dens
    canvas.paint(Tissue.CSF, capsule((0, -25, -54), (0, -28, -150), 10.5, 9.5))  # canal
    for side in SIDES:
        canvas.paint(Tissue.BLOOD, capsule(dice.near((side * 24, 0, -60), 2), (side * 27, 2, -140), 2.8, 3.6))
        canvas.paint(Tissue.BLOOD, capsule(dice.near((side * 30, -6, -60), 2), (side * 33, -4, -140), 4.2, 5.5))


def _paint_headrest(canvas: Canvas) -> None:
    """Paint the headrest: a moulded foam cup clear of the skin, with a plastic shell inside."""
    x, y, z = canvas.world()
    cup = np.sqrt((x / 92) ** 2 + ((y + 6) / 108) ** 2)
    wall = (canvas.depth > 4.0) & (y < -38) & (z < 75) & (cup > 0.84) & (cup < 1.02)
    canvas.labels[wall] = Tissue.COUCH_FOAM
    canvas.labels[wall & (np.abs(cup - 0.90) < 0.018)] = Tissue.COUCH_SHELL
