"""MR and CT properties of every tissue of the digital patients, in one table.

T1, T2* (ms) and proton density (PD, relative to water) are values at 1.5 T, rounded:

* brain, CSF, fat, muscle: the BrainWeb table (Collins et al., IEEE TMI 17:463, 1998; Kwan et al., IEEE TMI 18:1085,
  1999);
* pelvic organs, marrow: after de Bazelaire et al., Radiology 230:652, 2004 (T1, T2; T2* lowered where fat, iron or
  bone trabeculae dephase the signal);
* blood, cartilage: Stanisz et al., Magn Reson Med 54:507, 2005;
* cortical bone and teeth: T2* below 1 ms (Robson and Bydder, NMR Biomed 19:765, 2006), hence dark at every echo time
  used here;
* urine, vitreous body: close to free water; skin, mucosa, gland, bowel, lens: assumed, between muscle and fluid.

HU are typical values at 120 kVp (Schneider et al., Phys Med Biol 45:459, 2000, and common radiology textbooks).
`hu_texture` is the standard deviation (HU) of the tissue's structure, before scanner noise; `hu_patient` the relative
spread of the tissue's mean between patients: bone density varies widely and the MR does not show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Tissue(IntEnum):
    """Tissue labels."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    CORTICAL_BONE = 4
    SPONGY_BONE = 5
    GREY_MATTER = 6
    WHITE_MATTER = 7
    CSF = 8
    CAVITY_AIR = 9
    MUCOSA = 10
    VITREOUS = 11
    LENS = 12
    BLOOD = 13
    URINE = 14
    PELVIC_ORGAN = 15
    BOWEL = 16
    CARTILAGE = 17
    DEEP_GREY = 18
    TOOTH = 19
    CALCIFICATION = 20
    GLAND = 21
    COUCH_SHELL = 22
    COUCH_FOAM = 23


@dataclass(frozen=True)
class TissueProperties:
    """MR and CT properties of one tissue; units and sources in the module docstring."""

    t1_ms: float
    t2s_ms: float
    pd: float
    hu: float
    hu_texture: float
    hu_patient: float = 0.0


PROPERTIES: dict[Tissue, TissueProperties] = {
    Tissue.AIR: TissueProperties(1000, 1.0, 0.00, -1000, 0),
    Tissue.SKIN: TissueProperties(900, 25.0, 0.70, 40, 12),
    Tissue.FAT: TissueProperties(350, 58.0, 0.90, -100, 9, 0.06),
    Tissue.MUSCLE: TissueProperties(900, 30.0, 0.80, 55, 9, 0.08),
    Tissue.CORTICAL_BONE: TissueProperties(200, 0.4, 0.20, 1250, 130, 0.13),
    Tissue.SPONGY_BONE: TissueProperties(420, 14.0, 0.72, 420, 90, 0.25),
    Tissue.GREY_MATTER: TissueProperties(833, 69.0, 0.86, 38, 3),
    Tissue.WHITE_MATTER: TissueProperties(500, 61.0, 0.77, 29, 3),
    Tissue.CSF: TissueProperties(2569, 250.0, 1.00, 8, 3),
    Tissue.CAVITY_AIR: TissueProperties(1000, 1.0, 0.00, -1000, 0),
    Tissue.MUCOSA: TissueProperties(1100, 40.0, 0.88, 40, 10),
    Tissue.VITREOUS: TissueProperties(3500, 250.0, 1.00, 9, 2),
    Tissue.LENS: TissueProperties(950, 30.0, 0.75, 85, 5),
    Tissue.BLOOD: TissueProperties(1441, 80.0, 0.90, 50, 4, 0.08),
    Tissue.URINE: TissueProperties(2700, 250.0, 1.00, 6, 3),
    Tissue.PELVIC_ORGAN: TissueProperties(1317, 55.0, 0.88, 42, 7),
    Tissue.BOWEL: TissueProperties(1000, 40.0, 0.80, 30, 18),
    Tissue.CARTILAGE: TissueProperties(1024, 28.0, 0.75, 95, 12),
    Tissue.DEEP_GREY: TissueProperties(750, 55.0, 0.84, 37, 3),
    Tissue.TOOTH: TissueProperties(200, 0.4, 0.10, 2100, 220, 0.08),
    Tissue.CALCIFICATION: TissueProperties(500, 6.0, 0.40, 320, 60, 0.30),
    Tissue.GLAND: TissueProperties(700, 45.0, 0.85, 15, 16, 0.3),
    Tissue.COUCH_SHELL: TissueProperties(1000, 0.1, 0.00, -120, 10),
    Tissue.COUCH_FOAM: TissueProperties(1000, 0.1, 0.00, -930, 6),
}

OUTSIDE = (Tissue.AIR, Tissue.COUCH_SHELL, Tissue.COUCH_FOAM)  # everything else belongs to the body
SPONGY_HU_PELVIS = 230.0  # the skull's diploe is denser than the trabecular bone of the pelvis
CORTICAL_HU_PELVIS = 1050.0


def column(name: str) -> np.ndarray:
    """Return one property for every label, float64, shape (number of labels,)."""
    return np.array([getattr(PROPERTIES[tissue], name) for tissue in Tissue], dtype=np.float64)


def patient_hu(region: str, rng: np.random.Generator) -> np.ndarray:
    """Return the mean HU of every label for one patient, shape (number of labels,)."""
    hu = column("hu")
    if region == "pelvis":
        hu[Tissue.SPONGY_BONE] = SPONGY_HU_PELVIS
        hu[Tissue.CORTICAL_BONE] = CORTICAL_HU_PELVIS
    spread = np.clip(rng.standard_normal(len(hu)), -1.7, 1.7) * column("hu_patient")
    return hu * (1 + spread)
