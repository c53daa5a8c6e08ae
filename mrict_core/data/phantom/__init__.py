"""Digital patients: paired MR and CT volumes of heads and pelves, written as NIfTI in the layout of SynthRAD2023.

    spec = PhantomSpec("brain", in_plane_mm=3.6, slice_mm=5.0, supersample=2)
    patient = make_patient("1BA001", seed=0, spec=spec)      # mr, ct, mask, labels, affine
    folders = write_cohort(root, "brain", per_centre=5, seed=0, spec=spec)

`tissues`: physical properties; `fields`, `shapes`: tools; `anatomy`: a patient's random numbers; `head`, `brain`,
`pelvis`: the anatomy; `scanner`: MR and CT physics of the centres; `patients`: patients and files.
"""

from mrict_core.data.phantom.patients import PhantomPatient, PhantomSpec, make_patient, phantom_ids, write_cohort
from mrict_core.data.phantom.scanner import CENTRES, Centre
from mrict_core.data.phantom.tissues import OUTSIDE, PROPERTIES, Tissue

__all__ = [
    "CENTRES",
    "OUTSIDE",
    "PROPERTIES",
    "Centre",
    "PhantomPatient",
    "PhantomSpec",
    "Tissue",
    "make_patient",
    "phantom_ids",
    "write_cohort",
]
