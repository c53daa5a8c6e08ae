"""The pelvis from L5 to the upper thighs: fat, muscles, bones, bladder, prostate or uterus, bowel.

Atlas frame: millimetres, x to the patient's right, y anterior, z superior; the femoral heads lie at z = -40. The mean
body is 360 mm wide and 220 mm thick.
"""

from __future__ import annotations

import numpy as np

from mrict_core.data.phantom.anatomy import SIDES, Dice, Person, mirrored, offset
from mrict_core.data.phantom.fields import WaveField
from mrict_core.data.phantom.shapes import Canvas, Shape, capsule, chain, ellipsoid, smooth_max, smooth_min, step, union
from mrict_core.data.phantom.tissues import Tissue

COUCH_TOP_MM = -118.0
BONES = (Tissue.CORTICAL_BONE, Tissue.SPONGY_BONE)


def paint_pelvis(person: Person, canvas: Canvas) -> None:
    """Paint the whole pelvis on `canvas`."""
    dice = Dice(person.rng("pelvis"))
    fatness = dice.rng.uniform(0.6, 1.5)
    _paint_soft_tissue(person, canvas, dice, fatness)
    _paint_bowel(person, canvas, dice)
    for side in SIDES:
        _paint_muscles_and_vessels(canvas, dice, side)
        _paint_hip(person, canvas, dice, side)
        _paint_femur(canvas, dice, side)
    _paint_sacrum(canvas, dice)
    _paint_organs(person, canvas, dice)
    _paint_couch(canvas)


def _body_surface(canvas: Canvas, dice: Dice, fatness: float) -> np.ndarray:
    """Return the signed distance (mm) to the skin: trunk, buttocks and thighs, flattened by the couch."""
    x, y, z = canvas.x, canvas.y, canvas.z
    width, thick = dice.about(158, 0.03) + 12 * fatness, dice.about(92, 0.05) + 11 * fatness
    widen = 1 + 0.06 * np.exp(-(((z + 45) / 45) ** 2)) - 0.05 * step(z - 40, 25)
    u, v = np.abs(x) / (np.float32(width) * widen), np.abs(y) / np.float32(thick)
    power = np.float32(2.5)
    radial = (u**power + v**power) ** (1 / power)
    trunk = (radial - 1) * np.sqrt(x * x + y * y) / np.maximum(radial, 0.05)
    trunk = smooth_max(trunk, (-66 - z) * np.float32(0.8), 30)
    legs: list[Shape] = []
    for side in SIDES:
        legs.append(capsule((side * 88, -6, -50), (side * 84, 2, -320), dice.about(80, 0.03) + 4 * fatness))
        legs.append(ellipsoid((side * 66, -58, -42), (72, 52, 66)))
    body = smooth_min(trunk, legs[0].distance(x, y, z), 14)
    for leg in legs[1:]:
        body = smooth_min(body, leg.distance(x, y, z), 14)
    return smooth_max(body, np.float32(COUCH_TOP_MM + 14) - y, 18)


def _paint_soft_tissue(person: Person, canvas: Canvas, dice: Dice, fatness: float) -> None:
    """Set the skin surface; paint skin, subcutaneous fat, muscle with fat between, visceral cavity."""
    y, z = canvas.y, canvas.z
    body = _body_surface(canvas, dice, fatness)
    canvas.depth = body
    fat_mm = (
        np.float32(9 * fatness)
        + 5 * fatness * step(-y - 10, 30)
        + 6 * WaveField(person.rng("fat"), (90, 200), 0.35).on(canvas.grid)
    )
    fat_mm = np.maximum(fat_mm, 4)
    streaks = WaveField(person.rng("muscle"), (38, 80), 1.0, 40, along=3.0)
    between = np.abs(streaks.on(canvas.grid)) < streaks.rms_slope * dice.about(1.1, 0.3)
    labels = canvas.labels
    labels[body < 0] = Tissue.SKIN
    labels[body < -2.2] = Tissue.FAT
    labels[body < -fat_mm] = Tissue.MUSCLE
    labels[(body < -fat_mm - 3) & between] = Tissue.FAT
    cavity = union([ellipsoid((0, 14, 40), (118, 72, 75)), ellipsoid((0, 2, -14), (57, 56, 47))], 30)
    distance = smooth_max(cavity.distance(canvas.x, y, z), body + fat_mm + np.float32(dice.about(10)), 6)
    labels[distance < 0] = Tissue.FAT
    cleft = (np.abs(canvas.x) < 2.2) & (z < -45) & (y < -30)
    labels[cleft & (body < 0)] = Tissue.FAT


def _paint_bowel(person: Person, canvas: Canvas, dice: Dice) -> None:
    """Fill the upper cavity with bowel loops, some with gas rising to the front."""
    loops_of = ellipsoid((0, 22, 62), (88, 52, 62))
    box = canvas.box(loops_of.low, loops_of.high)
    if box is None:
        return
    rng = person.rng("bowel")
    field = WaveField(rng, (38, 70), 1.0, 32)
    value = field.on(canvas.grid.part(box)) / np.float32(field.rms_slope)
    gas = WaveField(rng, (50, 120), 1.0, 16).on(canvas.grid.part(box)) + canvas.y[box] / 45
    inside = (loops_of.distance(*canvas.at(box)) < 0) & (canvas.depth[box] < -22)
    labels = canvas.labels[box]
    labels[inside & (np.abs(value) > 1.6)] = Tissue.MUCOSA
    labels[inside & (np.abs(value) > 4.0)] = Tissue.BOWEL
    labels[inside & (np.abs(value) > 4.2) & (gas > dice.rng.uniform(1.0, 2.2))] = Tissue.CAVITY_AIR


def _paint_muscles_and_vessels(canvas: Canvas, dice: Dice, side: int) -> None:
    """Paint psoas, iliacus, obturator and pectineus muscles, iliac and femoral vessels of one side."""

    def rod(points: list[tuple[float, float, float]], radii: list[float], tissue: Tissue, spread: float = 0.1) -> None:
        size = dice.about(1.0, spread)
        canvas.paint(tissue, chain([mirrored(p, side) for p in points], [r * size for r in radii], 4), 5)

    rod([(38, -14, 130), (52, 4, 60), (74, 34, 0), (86, 36, -40), (92, 12, -85)], [19, 19, 15, 14, 10], Tissue.MUSCLE)
    rod([(92, -6, 60), (86, 14, 20), (84, 28, -10)], [15, 15, 10], Tissue.MUSCLE)
    rod([(50, -12, -25), (56, 6, -48), (48, 0, -70)], [8, 9, 7], Tissue.MUSCLE)
    rod([(40, 40, -62), (80, 22, -100)], [11, 15], Tissue.MUSCLE)
    rod(
        [(18, -2, 130), (42, 8, 70), (58, 34, 20), (70, 62, -30), (72, 56, -130)], [5.5, 5, 4.6, 4.6, 4.2], Tissue.BLOOD
    )
    rod([(22, -8, 130), (46, -2, 70), (54, 28, 20), (58, 58, -30), (62, 48, -130)], [6.5, 6, 5.6, 5.6, 5], Tissue.BLOOD)
    rod([(44, -2, 62), (56, -28, 20), (58, -40, -10)], [4.5, 4, 3], Tissue.BLOOD)


def _paint_hip(person: Person, canvas: Canvas, dice: Dice, side: int) -> None:
    """Paint one hip bone: iliac wing, column, acetabulum, pubis and ischium with a cortical shell."""
    bowl_radii = (dice.about(124, 0.03), dice.about(98, 0.04), dice.about(116, 0.04))
    bowl = ellipsoid((0, 14, 62), bowl_radii)
    crest = dice.about(70, 0.06)

    def wing(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        thick = 4.0 + 4.5 * step(z - crest + 8, 8) + 3.5 * step(-z + 10, 12)
        plate = np.abs(bowl.distance(x, y, z)) - thick
        rim = ((y + 4) / 62) ** 2 + ((z - 24) / (crest - 20)) ** 2
        edge = (np.sqrt(rim) - 1) * 50
        return smooth_max(smooth_max(plate, edge, 5), 30 - side * x, 4)

    low, high = np.array((20.0, -80, -40)), np.array((150.0, 75, 100))
    if side < 0:
        low, high = np.array((-150.0, -80, -40)), np.array((-20.0, 75, 100))
    column = chain([mirrored(p, side) for p in ((58, -42, 34), (70, -22, 8), (80, -6, -22))], [12, 13, 17], 4)
    socket = ellipsoid((side * 82, 2, -38), (31, 31, 31))
    pubis = chain([mirrored(p, side) for p in ((72, 26, -38), (40, 50, -48), (11, 56, -56))], [12, 8, 10.5], 4)
    ramus = chain([mirrored(p, side) for p in ((10, 53, -64), (28, 32, -84), (48, -10, -98))], [7.5, 6.5, 10], 4)
    ischium = chain([mirrored(p, side) for p in ((74, -18, -46), (64, -30, -72), (54, -26, -98))], [16, 13, 15], 4)
    bone = union([Shape(low, high, wing), column, socket, pubis, ramus, ischium], 5)
    canvas.bone(bone, dice.about(2.4, 0.2), 5)


def _paint_femur(canvas: Canvas, dice: Dice, side: int) -> None:
    """Paint the hip joint and the upper femur with marrow in its shaft."""
    head = np.array((side * 87, 2, -40.0))
    radius = dice.about(23.5, 0.06)
    canvas.paint(Tissue.CARTILAGE, ellipsoid(head, [radius + 3.5] * 3))
    cut = capsule(head + offset(side * 6, 0, -2), head + offset(side * 60, -4, -30), radius + 3, radius + 12)
    canvas.paint(Tissue.MUSCLE, cut, 22, only=(*BONES, Tissue.CARTILAGE))
    neck = capsule(head + offset(side * 5, 0, -4), head + offset(side * 40, -6, -30), 15, 16)
    trochanter = dice.ellipsoid(head + offset(side * 45, -12, -22), (14, 17, 20))
    lesser = capsule(head + offset(side * 30, -16, -62), head + offset(side * 36, -6, -62), 9)
    shaft = capsule(head + offset(side * 40, -6, -34), head + offset(side * 32, 2, -230), 16, 14)
    ball = ellipsoid(head, [radius] * 3)
    canvas.bone(union([ball, neck, trochanter, shaft, lesser], 5), dice.about(2.2, 0.15), 5)
    thick = capsule(head + offset(side * 36, -4, -64), head + offset(side * 32, 2, -230), 15.2, 14)
    canvas.paint_layers(thick, [(0.0, Tissue.CORTICAL_BONE), (5.5, Tissue.FAT)], 5)


def _paint_sacrum(canvas: Canvas, dice: Dice) -> None:
    """Paint sacrum, coccyx, L5 and disc; the sacroiliac joints are thin gaps of cartilage."""
    spine = [(0, -44, 68), (0, -66, 40), (0, -80, 8), (0, -74, -24), (0, -62, -44)]
    middle = chain(spine, [22, 19, 14, 9, 5], 6)
    wing = ((14, -46, 64), (36, -54, 48), (28, -66, 18), (12, -78, -10))
    wings = [chain([mirrored(p, side) for p in wing], [17, 19, 15, 9], 8) for side in SIDES]
    sacrum = union([middle, *wings], 16)
    canvas.paint(Tissue.CARTILAGE, sacrum.grown(2.6), only=BONES)
    canvas.bone(sacrum, dice.about(2.0, 0.2))
    disc = ellipsoid((0, -32, 86), (26, 20, 9))
    vertebra = union([dice.ellipsoid((0, -24, 108), (27, 20, 19)), capsule((-38, -48, 106), (38, -48, 106), 8)], 6)
    canvas.bone(vertebra, 1.8)
    canvas.bone(capsule((0, -62, 104), (0, -84, 96), 6), 1.8)
    canvas.paint(Tissue.CARTILAGE, disc)
    canal = chain([(0, -58, 140), (0, -66, 84), (0, -84, 44), (0, -92, 8)], [9, 8, 6, 3], 4)
    canvas.paint_layers(canal, [(0.0, Tissue.FAT), (2.5, Tissue.CSF)])
    for side in SIDES:
        for x, y, z in ((18, -70, 44), (16, -80, 18), (13, -82, -6)):
            canvas.paint(Tissue.FAT, capsule((side * x, y + 24, z), (side * x, y - 22, z), 4.2), only=BONES)


def _paint_organs(person: Person, canvas: Canvas, dice: Dice) -> None:
    """Paint bladder, prostate with seminal vesicles or uterus, rectum with stool and gas."""
    canvas.paint(Tissue.CARTILAGE, ellipsoid((0, 56, -56), (4, 12, 18)))  # symphysis
    full = dice.rng.uniform(0.7, 1.35)
    bladder = dice.ellipsoid((0, 28, -12 + 8 * (full - 1)), (36 * full, 27 * full**0.6, 25 * full), 3.0)
    organ, wall = Tissue.PELVIC_ORGAN, dice.about(3.2, 0.3)
    if dice.chance(0.5):
        canvas.paint(organ, dice.ellipsoid((0, 14, -52), (24, 18, 19), 2.0, 0.2))
        for side in SIDES:
            canvas.paint(organ, dice.ellipsoid((side * 17, -8, -28), (16, 6, 8), 2.0))
    else:
        womb = dice.ellipsoid((0, -2, 14), (26, 22, 32), 4.0, 0.2)
        canvas.paint_layers(womb, [(0.0, organ), (18.0, Tissue.MUCOSA)])
        canvas.paint(organ, capsule((0, -6, -8), (0, 2, -50), 14, 10))
    canvas.paint_layers(bladder, [(0.0, Tissue.MUCOSA), (wall, Tissue.URINE)])
    path = ((0, -34, -78), (0, -36, -48), (0, -50, -16), (4, -48, 20), (-26, -24, 44), (-62, -4, 56))
    rectum = chain([dice.near(p, 3) for p in path], [dice.about(r, 0.2) for r in (10, 15, 18, 15, 13, 14)], 6)
    canvas.paint_layers(rectum, [(0.0, Tissue.MUCOSA), (3.4, Tissue.BOWEL)], 4)
    box = canvas.box(rectum.low, rectum.high)
    if box is None:
        return
    x, y, z = canvas.at(box)
    gas = WaveField(person.rng("gas"), (40, 90), 7.0).on(canvas.grid.part(box)) + (y + 46) + 0.25 * np.abs(z)
    lumen = rectum.distance(x, y, z) < -3.6
    canvas.labels[box][lumen & (gas > dice.rng.uniform(-8, 6))] = Tissue.CAVITY_AIR


def _paint_couch(canvas: Canvas) -> None:
    """Paint the flat couch top: carbon fibre around foam, clear of the skin."""
    x, y, _ = canvas.world()
    top = COUCH_TOP_MM + 2
    board = (canvas.depth > 4.0) & (y < top) & (np.abs(x) < 250)
    canvas.labels[board] = Tissue.COUCH_FOAM
    canvas.labels[board & (y > top - 3.5)] = Tissue.COUCH_SHELL
